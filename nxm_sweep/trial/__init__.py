"""Train a trial exactly once, in one process or several, and write its record."""
