"""Export of a finished trial's model to a folder: ``python -m nxm_sweep.export``."""
