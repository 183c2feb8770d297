"""Which matrices bear which pattern: ``python -m nxm_sweep.sensitivity``."""
