"""A finished trial's answers to a test set: ``python -m nxm_sweep.predict``."""
