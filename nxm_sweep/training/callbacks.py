"""Progress of a training run: a live bar on a terminal, an occasional plain line elsewhere."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import (
    MLflowCallback,
    TensorBoardCallback,
    TrackioCallback,
    WandbCallback,
)

from nxm_sweep.errors import first_line
from nxm_sweep.formatting import format_duration
from nxm_sweep.store.stop_signals import TERMINATED
from nxm_sweep.training.monitor import Monitor, raise_if_stopped
from nxm_sweep.training.trainer import SparseTrainer

_SECONDS_BETWEEN_LINES = 20.0
_MLFLOW_PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
"""Seconds per request, and how often one is repeated; MLflow's own are 120 and 7."""
_WANDB_PATIENCE = {"WANDB_INIT_TIMEOUT": "20", "WANDB_FINISH_TIMEOUT": "20"}
"""Seconds to begin a run, and to send the rest of one; W&B's own are 90 and no limit."""
PROJECT = "nxm_sweep"
"""Project of the runs in W&B and Trackio, unless their environment variables name another."""
TENSORBOARD = "tensorboard"
"""Folder of the TensorBoard files in a trial's folder."""


class MonitorCallback(TrainerCallback):
    """Report each step to a monitor and stop the training on its request."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._monitor.on_step(state.global_step, state.max_steps)
        reason = self._monitor.stop_now()
        if reason != TERMINATED:
            raise_if_stopped(reason)
        elif not float(state.epoch or 0.0).is_integer():  # an epoch's end has a checkpoint of its own, with its scores
            control.should_save = True  # upon which the trial stops


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


class GuardedReporter(TrainerCallback):
    """Forward a training's events to a tracker; after its first error, warn and forward nothing more.

    Args:
        reporter: The tracker's callback.
        console: Where to warn.
    """

    def __init__(self, reporter: TrainerCallback, console: Console) -> None:
        self._reporter, self._console, self._failed = reporter, console, False

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        self._forward("on_train_begin", args, state, control, kw)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        self._forward("on_log", args, state, control, kw)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        self._forward("on_save", args, state, control, kw)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        self._forward("on_train_end", args, state, control, kw)

    def _forward(
        self, event: str, args: TrainingArguments, state: TrainerState, control: TrainerControl, kw: dict[str, Any]
    ) -> None:
        if self._failed:
            return
        try:
            getattr(self._reporter, event)(args, state, control, **kw)
        except Exception as error:  # noqa: BLE001 - whatever a tracker's network or disk raises, the trial goes on
            self._failed = True
            name = type(self._reporter).__name__.removesuffix("Callback").removeprefix("Trial")
            self._console.print(
                f"warning: {name} failed and gets nothing more of this trial: {type(error).__name__}: {first_line(error)}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
            self._disarm(args, state, control)

    def _disarm(self, args: TrainingArguments, state: TrainerState, control: TrainerControl) -> None:
        """Close a tracker that has failed; otherwise the next training in this process appends to its run."""
        with suppress(Exception):  # it has failed already
            self._reporter.on_train_end(args, state, control)
        if isinstance(self._reporter, MLflowCallback):
            self._reporter._auto_end_run = False  # noqa: SLF001 - else its __del__ asks the server once more


class TrialWandbCallback(WandbCallback):
    """W&B with a run for each trial, in the trial's folder; a process trains one trial after another.

    A run that the caller has begun is used, and left open.

    Args:
        folder: The trial's folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._folder, self._owns_run = folder, False

    def setup(self, args: TrainingArguments, state: TrainerState, model: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero and self._wandb.run is None:
            for name, value in _WANDB_PATIENCE.items():
                os.environ.setdefault(name, value)
            project, folder = os.environ.get("WANDB_PROJECT", PROJECT), os.environ.get("WANDB_DIR", str(self._folder))
            self._owns_run = True
            self._wandb.init(project=project, name=args.run_name, dir=folder)
        super().setup(args, state, model, **kwargs)  # type: ignore[no-untyped-call]

    def on_train_end(self, args: TrainingArguments, state: Any, control: Any, *rest: Any, **kw: Any) -> None:
        super().on_train_end(args, state, control, *rest, **kw)
        if self._owns_run:
            self._owns_run = False
            self._wandb.finish()


def report_into(trainer: Trainer, folder: Path, console: Console) -> None:
    """Write the files of TensorBoard and W&B below a trial's folder, and keep a tracker that fails from ending the training.

    MLflow's location is set by its own environment variables, and so are its time-outs; those that are not set are made
    seconds instead of minutes.
    """
    callbacks = trainer.callback_handler.callbacks
    for index, callback in enumerate(callbacks):
        if isinstance(callback, TensorBoardCallback):
            callback.logging_dir = str(folder / TENSORBOARD)
        elif isinstance(callback, WandbCallback):
            callback = TrialWandbCallback(folder)  # noqa: PLW2901 - in its place
        elif isinstance(callback, TrackioCallback):
            pass  # its location is set by its own environment variables
        elif isinstance(callback, MLflowCallback):
            for name, value in _MLFLOW_PATIENCE.items():
                os.environ.setdefault(name, value)
        else:
            continue
        callbacks[index] = GuardedReporter(callback, console)


def forget_reports(folder: Path) -> None:
    """Remove the TensorBoard files of a trial's earlier training; a resumed training keeps them."""
    shutil.rmtree(folder / TENSORBOARD, ignore_errors=True)


def end_reports(trainer: Trainer) -> None:
    """Close the reports of a failed training; otherwise the next one in this process appends to them."""
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, GuardedReporter):
            callback.on_train_end(trainer.args, trainer.state, trainer.control)
