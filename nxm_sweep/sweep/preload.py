"""What a worker needs before its first trial. Importing this imports it: the fork server does so once for all workers.

Collecting garbage while importing costs a fifth of the time, and nothing that is imported here becomes garbage.
"""

from __future__ import annotations

import gc
import importlib

gc.disable()
importlib.import_module("nxm_sweep.training.trial")
gc.freeze()
gc.enable()
