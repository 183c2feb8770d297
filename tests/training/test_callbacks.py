"""Progress with a clock of the tests' own, and the bar that an error must not leave behind."""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from rich.console import Console
from torch import Tensor
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from nxm_sweep.config.compose import compose_settings
from nxm_sweep.training.callbacks import ProgressBar
from nxm_sweep.training.monitor import NullMonitor
from nxm_sweep.trial.trainer import TrialTrainer

HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
CONTROL = TrainerControl()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def trainer_like(loss: float | None = 0.5, gap: float | None = None, epochs: float = 3.0) -> Any:
    return SimpleNamespace(
        args=SimpleNamespace(num_train_epochs=epochs), last_loss=loss, sparse_method=SimpleNamespace(gap=gap)
    )


def at_step(step: int, of: int = 12, epochs: int = 3) -> TrainerState:
    return TrainerState(global_step=step, max_steps=of, epoch=step * epochs / of)


def console(*, terminal: bool) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, force_terminal=terminal, width=120, _environ={"TERM": "xterm"}), file


def assert_ended(threads: set[threading.Thread]) -> None:
    """A thread that redraws the bar may take a moment to notice that it is over."""
    for thread in threads:
        thread.join(5.0)
        assert not thread.is_alive()


ARGS = cast("TrainingArguments", None)  # the callback asks the trainer, not the arguments


@pytest.mark.parametrize(
    ("step", "seconds", "loss", "gap", "expected"),
    [
        (4, 8.0, 0.51234, 0.25, "epoch 1/3  step 4/12  loss 0.5123  residual 0.250  0.50 steps/s  16 s left"),
        (5, 2.5, 1.0, None, "epoch 2/3  step 5/12  loss 1.0000  2.00 steps/s  4 s left"),
        (12, 6.0, None, 0.0, "epoch 3/3  step 12/12  residual 0.000  2.00 steps/s  0 s left"),
        (1, 600.0, None, None, "epoch 1/3  step 1/12  0.00 steps/s  1 h 50 min left"),
        (0, 5.0, None, None, "epoch 1/3  step 0/12  0.00 steps/s"),
    ],
)
def test_the_line_tells_where_the_run_is(
    step: int, seconds: float, loss: float | None, gap: float | None, expected: str
) -> None:
    clock = Clock()
    shown = ProgressBar(trainer_like(loss, gap), console(terminal=False)[0], clock)
    shown.on_train_begin(ARGS, at_step(0), CONTROL)
    clock.now += seconds
    assert shown.line(at_step(step)) == expected


def test_the_rate_of_a_resumed_run_counts_its_own_steps() -> None:
    clock = Clock()
    shown = ProgressBar(trainer_like(None), console(terminal=False)[0], clock)
    shown.on_train_begin(ARGS, at_step(8), CONTROL)
    clock.now += 4.0
    assert shown.line(at_step(10)) == "epoch 3/3  step 10/12  0.50 steps/s  4 s left"


def test_a_clock_that_stands_still_does_not_divide_by_zero() -> None:
    shown = ProgressBar(trainer_like(), console(terminal=False)[0], Clock())
    shown.on_train_begin(ARGS, at_step(0), CONTROL)
    assert shown.line(at_step(1)).endswith("0 s left")


def test_without_a_terminal_lines_come_at_least_twenty_seconds_apart() -> None:
    clock = Clock()
    where, file = console(terminal=False)
    shown = ProgressBar(trainer_like(), where, clock)
    shown.on_train_begin(ARGS, at_step(0), CONTROL)
    for step in range(1, 13):
        clock.now += 7.0  # steps end after 7, 14, 21, ... seconds: lines at 21, 42, 63 and 84
        shown.on_step_end(ARGS, at_step(step), CONTROL)
    shown.on_train_end(ARGS, at_step(12), CONTROL)
    lines = file.getvalue().splitlines()
    assert [line.split("  ")[1] for line in lines] == [f"step {step}/12" for step in (3, 6, 9, 12)]
    assert "\x1b" not in file.getvalue()


def test_on_a_terminal_a_bar_follows_the_steps_and_is_gone_at_the_end() -> None:
    where, file = console(terminal=True)
    threads = set(threading.enumerate())
    shown = ProgressBar(trainer_like(), where, Clock())
    shown.on_train_begin(ARGS, at_step(0), CONTROL)
    shown.on_step_end(ARGS, at_step(7), CONTROL)
    assert file.getvalue().count(HIDE_CURSOR) == 1
    assert SHOW_CURSOR not in file.getvalue()
    shown.on_train_end(ARGS, at_step(12), CONTROL)
    assert "step 7/12" in file.getvalue()
    assert file.getvalue().count(SHOW_CURSOR) == 1
    assert_ended(set(threading.enumerate()) - threads)
    shown.close()  # once more does no harm
    assert file.getvalue().count(SHOW_CURSOR) == 1


class BrokenError(Exception):
    pass


class BreakAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step == self._step:
            raise BrokenError


def _collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    ids = torch.tensor([row["input_ids"] for row in rows])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": torch.tensor([row["labels"] for row in rows]),
    }


def test_an_error_in_training_takes_the_bar_off_the_terminal(tmp_path: Path) -> None:
    where, file = console(terminal=True)
    threads = set(threading.enumerate())
    shape: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    rows = [{"input_ids": [1 + index, 2, 3], "labels": index % 2} for index in range(8)]
    trainer = TrialTrainer(
        settings=compose_settings(
            ["task=demo/paraphrase", "method=dense", "training.batch_size=2", "training.device=cpu"]
        ),
        work=tmp_path,
        console=where,
        monitor=NullMonitor(),
        model=BertForSequenceClassification(BertConfig(vocab_size=20, **shape)),
        train_dataset=rows,
        eval_dataset={"validation": rows},
        data_collator=_collate,
        callbacks=[BreakAt(2)],
    )
    with pytest.raises(BrokenError):
        trainer.run(None)
    assert file.getvalue().count(HIDE_CURSOR) == 1
    assert file.getvalue().count(SHOW_CURSOR) == 1
    assert_ended(set(threading.enumerate()) - threads)
