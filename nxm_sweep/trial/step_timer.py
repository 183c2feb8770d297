"""Time a training row with a few optimizer steps of a trial, whose results are discarded."""

from __future__ import annotations

import copy
import io
import math
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from rich.console import Console
from transformers.trainer_pt_utils import LengthGroupedSampler

from nxm_sweep.errors import TrialStoppedError
from nxm_sweep.settings import TrialSettings
from nxm_sweep.training.monitor import NullMonitor
from nxm_sweep.training.quiet import silence_known_noise
from nxm_sweep.trial.train import build_trainer, prepare, tokenise_rows

_TIMED_STEPS = 3


def seconds_per_row(settings: TrialSettings, threads: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds per training row: forward, backward, the method's part and the optimizer.

    One step warms up and three are timed, on batches drawn from those of the trial's own sampler. Loading, evaluation
    and saving are excluded. Tokenised rows stay in the cache for the trial; nothing else stays.

    Args:
        settings: A trial's settings.
        threads: CPU threads to time with.
        clock: Monotonic seconds; replaced in tests.

    Raises:
        NxmSweepError: As the trial itself.
    """
    silence_known_noise()
    settings = copy.deepcopy(settings)
    settings.training.epochs, settings.training.report_to = 1, []
    prepared = prepare(settings)
    data, tokenizer = tokenise_rows(settings, prepared)
    monitor = _Stopwatch(clock)
    with tempfile.TemporaryDirectory() as folder, _set_threads(settings.training.threads or threads):
        trainer = build_trainer(
            settings, prepared, data, tokenizer, work=Path(folder), console=Console(file=io.StringIO()), monitor=monitor
        )
        rows_per_step = settings.training.batch_size * settings.training.gradient_accumulation
        steps = _draw_steps(data.train["length"][:], rows_per_step)
        trainer.train_dataset = data.train.select([row for step in steps for row in step])
        trainer.args.train_sampling_strategy = "sequential"
        with suppress(TrialStoppedError):
            trainer.run(None)
    return (monitor.times[-1] - monitor.times[0]) / sum(map(len, steps[1:]))


class _Stopwatch(NullMonitor):
    """Record when each step ends, and stop the trial after the last timed one."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.times: list[float] = []
        self._clock = clock

    def on_step(self, step: int, steps: int) -> None:
        self.times.append(self._clock())

    def stop_now(self) -> str | None:
        return "timed" if len(self.times) > _TIMED_STEPS else None


def _draw_steps(lengths: Sequence[int], rows_per_step: int) -> list[list[int]]:
    """Return the rows of one warm-up step and of the timed ones; few rows are repeated until they fill a step."""
    sampler = LengthGroupedSampler(rows_per_step, lengths=list(lengths), generator=torch.Generator().manual_seed(0))
    order = list(sampler)
    order *= math.ceil(rows_per_step / len(order))
    steps = [order[start : start + rows_per_step] for start in range(0, len(order), rows_per_step)]
    full = [step for step in steps if len(step) == rows_per_step]
    return random.Random(0).choices(full, k=1 + _TIMED_STEPS)  # noqa: S311 - no secret


@contextmanager
def _set_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
