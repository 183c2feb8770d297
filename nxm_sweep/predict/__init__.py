"""Predict a test set with a finished trial's model: ``python -m nxm_sweep.predict``."""
