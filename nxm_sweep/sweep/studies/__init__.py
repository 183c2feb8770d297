"""Optuna in a sweep: studies, their storage and searches."""
