"""A worker's cache of data and model: trials over the same files read and tokenise them once."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING

from nxm_sweep.settings import TrialSettings
from nxm_sweep.trial.digests import input_key

if TYPE_CHECKING:
    from nxm_sweep.trial.train import Prepared

_KEPT = 2
"""A sweep schedules the trials of a task consecutively; more would only fill memory."""


class Inputs:
    """Cache the latest inputs of trials, valid while their source files do not change.

    Hub content is read anew for every trial unless it is pinned to a commit.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[str, Prepared] = OrderedDict()

    def prepare(self, settings: TrialSettings) -> Prepared:
        """Return a trial's inputs, as :func:`nxm_sweep.trial.train.prepare` does.

        Raises:
            DataError: The data set is missing or not what the task expects.
            ModelError: The model or the teacher is missing, or they do not fit together.
        """
        from nxm_sweep.trial.train import prepare  # noqa: PLC0415 - seconds of imports

        started = time.perf_counter()
        key = input_key(settings)  # before reading: files that change meanwhile get an outdated key, never a new one
        if key is None:
            return prepare(settings)
        known = self._known.pop(key, None) or prepare(settings)
        self._known[key] = known
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return replace(known, seconds=time.perf_counter() - started)
