"""Import what a worker needs before its first trial; the fork server imports this module once for all workers.

Garbage collection would take a fifth of the import time, and nothing imported here becomes garbage.
"""

from __future__ import annotations

import gc
import importlib

gc.disable()
for _name in (
    "trial.train",
    "sweep.execution.worker",
    "config.compose",  # for the command's own module, which workers execute
):
    importlib.import_module(f"nxm_sweep.{_name}")
gc.freeze()
gc.enable()
