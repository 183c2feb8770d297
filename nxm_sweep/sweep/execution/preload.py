"""What a worker needs before its first trial. Importing this imports it: the fork server does so once for all workers.

Collecting garbage while importing costs a fifth of the time, and nothing that is imported here becomes garbage.
"""

from __future__ import annotations

import gc
import importlib

gc.disable()


for _name in (
    "training.trial",
    "sweep.worker",
    "config",
):  # the last for the command's own module, which workers execute
    importlib.import_module(f"nxm_sweep.{_name}")


gc.freeze()


gc.enable()
