"""The compared trainers, on the same rows and updates: Transformers' example, an expert's configuration and ours."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from rich.console import Console
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerState

from benchmarks import plain
from benchmarks.measure import Sample
from benchmarks.plain import Job
from nxm_sweep.config.compose import compose_settings
from nxm_sweep.errors import NxmSweepError
from nxm_sweep.settings import TrialSettings
from nxm_sweep.training.monitor import NullMonitor
from nxm_sweep.training.quiet import silence_known_noise
from nxm_sweep.trial.train import Prepared, build_trainer, prepare, tokenise_rows

TASKS = ("glue/rte", "glue/mrpc", "glue/stsb", "glue/cola")
GLUE = Path(os.environ.get("NXM_GLUE") or Path(__file__).resolve().parents[2] / "shared" / "glue")


class MissingError(Exception):
    """A figure cannot be measured here; the message says why."""


@dataclass
class Epoch:
    """Seconds of one epoch of a trainer.

    Attributes:
        train: From the first batch's collation to the last update.
        late: The second half of the updates only, after one-off costs such as compiling.
        evaluate: Scoring the validation rows.
        steps: Number of updates.
    """

    train: Sample = field(default_factory=Sample)
    late: Sample = field(default_factory=Sample)
    evaluate: Sample = field(default_factory=Sample)
    steps: int = 0

    @property
    def late_steps(self) -> int:
        """Updates of the second half."""
        return self.steps - self.steps // 2

    @property
    def whole(self) -> Sample:
        """Training and evaluation."""
        return self.train + self.evaluate


@dataclass(frozen=True)
class Bench:
    """The first rows of a GLUE task, and a trainer of either side for it.

    Attributes:
        settings: Settings of ours, for dense fine-tuning, with current defaults.
        prepared: Rows of the task, cut; evaluation keeps the same share of the validation set.
        device: ``cpu`` or ``cuda``.
    """

    settings: TrialSettings
    prepared: Prepared
    device: str

    @classmethod
    def of(cls, task: str, rows: int | None, *overrides: str, device: str = "cpu") -> Bench:
        """Load a task.

        Raises:
            MissingError: The rows or the model are not on this machine.
        """
        silence_known_noise()
        disable_progress_bars()
        common = ["model=minilm_l6", f"data.path={GLUE}", f"training.device={device}", "training.epochs=1"]
        settings = compose_settings([f"task={task}", "method=dense", *common, *overrides])
        if task.startswith("glue/") and not GLUE.is_dir():
            raise MissingError("no GLUE rows: set NXM_GLUE to the official download")
        try:
            prepared = prepare(settings)
        except NxmSweepError as error:
            raise MissingError(str(error)) from error
        return cls(settings, _cut(prepared, rows), device)

    def peer(self, recipe: str, precision: str = "fp32", **changes: Any) -> Callable[[], Epoch]:
        """Return a function that runs one epoch of Transformers' Trainer."""
        job = replace(self.job(recipe), precision=precision, **changes)

        def build(work: Path) -> Trainer:
            rows = self.prepared.rows
            return plain.build(job, rows.train, next(iter(rows.validation.values())), work)

        return lambda: run_epoch(build)

    def job(self, recipe: str) -> Job:
        """Return the peer's job of the same model, batch, learning rate and seed."""
        training = self.settings.training
        return Job(
            model=str(self.prepared.model_folder),
            labels=len(self.prepared.rows.labels),
            recipe=recipe,
            epochs=training.epochs,
            batch_size=training.batch_size,
            learning_rate=self.settings.learning_rate.value,
            seed=self.settings.seed,
            device=self.device,
        )

    def ours(self, precision: str = "fp32", *, compiler: str = "") -> Callable[[], Epoch]:
        """Return a function that runs one epoch of ours."""
        training = replace(self.settings.training, precision=precision)
        settings = replace(self.settings, training=training)

        def build(work: Path) -> Trainer:
            data, tokenizer = tokenise_rows(settings, self.prepared)
            trainer = build_trainer(
                settings, self.prepared, data, tokenizer, work=work, console=Console(quiet=True), monitor=NullMonitor()
            )
            if compiler and isinstance(trainer.model, torch.nn.Module):
                trainer.model.compile(backend=compiler, dynamic=True)
            return trainer

        return lambda: run_epoch(build)

    def write_rows(self, folder: Path) -> None:
        """Write the rows to the files that a peer's process reads."""
        rows = self.prepared.rows
        for split, part in (("train", rows.train), ("validation", next(iter(rows.validation.values())))):
            lines = (json.dumps(row) for row in part)
            (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")

    def real_tokens(self) -> list[int]:
        """Return the length of every training row in tokens, without padding."""
        data, _ = tokenise_rows(self.settings, self.prepared)
        return [int(length) for length in data.train["length"][:]]


def command(job: Job, rows: Path) -> str:
    """Return the argument of ``benchmarks/plain.py`` for a job."""
    return json.dumps(asdict(replace(job, rows=str(rows))))


def run_epoch(build: Callable[[Path], Trainer]) -> Epoch:
    """Build a trainer, train it for its epoch and return the seconds of training and evaluation, without loading."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = build(Path(folder) / "work")
        epoch = Epoch()
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(_Clock(epoch))
        _time_evaluation_(trainer, epoch)
        trainer.train()
        epoch.steps = trainer.state.global_step
        return epoch


class _Clock(TrainerCallback):
    """Time the updates of an epoch with the loading of their batches, and nothing before or after them.

    A GPU is synchronised at the start, halfway and at the end; in between it runs ahead, as in any training.
    """

    def __init__(self, epoch: Epoch) -> None:
        self._epoch = epoch
        self._running: list[Any] = []

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self._start(self._epoch.train)

    def on_step_end(self, args: Any, state: TrainerState, *_: Any, **__: Any) -> None:
        if state.global_step == state.max_steps // 2:
            self._start(self._epoch.late)

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        _synchronise()
        for timed in self._running:
            timed.__exit__(None, None, None)

    def _start(self, sample: Sample) -> None:
        _synchronise()
        self._running.append(sample.timed())
        self._running[-1].__enter__()


def _time_evaluation_(trainer: Trainer, epoch: Epoch) -> None:
    """Time the calls of ``evaluate``; a nested call is part of the outer one."""
    evaluate: Callable[..., Mapping[str, float]] = trainer.evaluate
    depth = 0

    def timed(*args: Any, **kwargs: Any) -> Mapping[str, float]:
        nonlocal depth
        depth += 1
        try:
            if depth > 1:
                return evaluate(*args, **kwargs)
            with epoch.evaluate.timed():
                return evaluate(*args, **kwargs)
        finally:
            depth -= 1

    trainer.evaluate = timed  # type: ignore[assignment, method-assign]


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _cut(prepared: Prepared, rows: int | None) -> Prepared:
    """Keep the first rows for training, and the same share of the rows of the first validation set."""
    name, validation = next(iter(prepared.rows.validation.items()))
    total = len(prepared.rows.train)
    count = min(rows or total, total)
    kept = max(1, round(len(validation) * count / total))
    cut = replace(
        prepared.rows,
        train=_take_first(prepared.rows.train, count),
        validation={name: _take_first(validation, kept)},
        digest=f"{prepared.rows.digest} {count} {kept}",  # separates them in the token cache
    )
    return replace(prepared, rows=cut)


def _take_first(rows: Dataset, count: int) -> Dataset:
    return Dataset.from_dict(rows[:count], features=rows.features)
