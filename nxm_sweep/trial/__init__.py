"""One trial, trained exactly once, in one process or several; writes the record."""
