"""Progress of a training run: a live bar on a terminal, an occasional plain line elsewhere."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import MLflowCallback, TensorBoardCallback

from nxm_sweep.formatting import format_duration
from nxm_sweep.training.monitor import Monitor, raise_if_stopped
from nxm_sweep.training.trainer import SparseTrainer

_SECONDS_BETWEEN_LINES = 20.0
TENSORBOARD = "tensorboard"
"""Folder of the TensorBoard files in a trial's folder."""


class MonitorCallback(TrainerCallback):
    """Report each step to a monitor and stop the training on its request."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._monitor.on_step(state.global_step, state.max_steps)
        raise_if_stopped(self._monitor.stop_now())


class ProgressBar(TrainerCallback):
    """Show epoch, step, loss, distance from the pattern, rate and time left.

    Args:
        trainer: Trainer of the run.
        console: Output; a console that is not a terminal gets plain lines.
        clock: Monotonic seconds; replaced in tests.
    """

    def __init__(self, trainer: SparseTrainer, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._trainer, self._console, self._clock = trainer, console, clock
        self._started = self._printed = 0.0
        self._first_step = 0
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._started = self._printed = self._clock()
        self._first_step = state.global_step
        if self._console.is_terminal:
            self._bar = Progress(
                BarColumn(bar_width=24),
                TextColumn("{task.description}", markup=False),
                console=self._console,
                transient=True,
            )
            self._task = self._bar.add_task("", total=state.max_steps, completed=state.global_step)
            self._bar.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=state.global_step, description=self.line(state))
        elif self._clock() - self._printed >= _SECONDS_BETWEEN_LINES:
            self._printed = self._clock()
            self._console.print(self.line(state), highlight=False)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Remove the bar from the terminal, at the end or after an error."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def line(self, state: TrainerState) -> str:
        """Return the state of the run as text."""
        seconds = max(self._clock() - self._started, 1e-9)
        rate = (state.global_step - self._first_step) / seconds
        epochs = round(self._trainer.args.num_train_epochs)
        epoch = min(epochs, int((state.epoch or 0.0) - 1e-9) + 1)
        parts = [f"epoch {epoch}/{epochs}", f"step {state.global_step}/{state.max_steps}"]
        if self._trainer.last_loss is not None:
            parts.append(f"loss {self._trainer.last_loss:.4f}")
        if self._trainer.sparse_method.gap is not None:
            parts.append(f"residual {self._trainer.sparse_method.gap:.3f}")
        parts.append(f"{rate:.2f} steps/s")
        if rate > 0:
            parts.append(f"{format_duration((state.max_steps - state.global_step) / rate)} left")
        return "  ".join(parts)


def report_into(trainer: Trainer, folder: Path) -> None:
    """Write TensorBoard files below a trial's folder. MLflow's location is set by its own environment variables."""
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback):
            callback.logging_dir = str(folder / TENSORBOARD)


def forget_reports(folder: Path) -> None:
    """Remove the TensorBoard files of a trial's earlier training; a resumed training keeps them."""
    shutil.rmtree(folder / TENSORBOARD, ignore_errors=True)


def end_reports(trainer: Trainer) -> None:
    """Close the reports of a failed training; otherwise the next one in this process appends to them."""
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback | MLflowCallback):
            callback.on_train_end(trainer.args, trainer.state, trainer.control)  # type: ignore[no-untyped-call]
