"""Optuna's part of a sweep: studies, their storage and the search."""
