"""What a trial tells TensorBoard and MLflow, through the Trainer's own callbacks: where it goes, and how it ends."""

from __future__ import annotations

import shutil
from pathlib import Path

from transformers import Trainer
from transformers.integrations.integration_utils import MLflowCallback, TensorBoardCallback

TENSORBOARD = "tensorboard"
"""Folder of TensorBoard's files, in a trial's folder."""


def report_into(trainer: Trainer, folder: Path) -> None:
    """Let TensorBoard's files go below a trial's folder. MLflow goes where its own environment variables say."""
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback):
            callback.logging_dir = str(folder / TENSORBOARD)


def forget_reports(folder: Path) -> None:
    """Remove what an earlier training of the same trial has told TensorBoard; one that is continued keeps it."""
    shutil.rmtree(folder / TENSORBOARD, ignore_errors=True)


def end_reports(trainer: Trainer) -> None:
    """Close the reports of a training that an error has ended, or else the next one in this process would add to them."""
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback | MLflowCallback):
            callback.on_train_end(trainer.args, trainer.state, trainer.control)  # type: ignore[no-untyped-call]
