"""A finished trial's model as a folder to ship: ``python -m nxm_sweep.export``."""
