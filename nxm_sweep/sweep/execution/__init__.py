"""Execution of a sweep: coordinator, claims, workers and launchers."""
