"""Turn the records of ``nxm_sweep.store`` into a report; imports no torch."""
