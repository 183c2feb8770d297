"""Measure which matrices tolerate which pattern: ``python -m nxm_sweep.sensitivity``."""
