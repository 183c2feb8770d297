"""Rows of a task, from the hub, from files or from a grammar, as tokens."""
