"""An epoch that a checkpoint interrupts: the order of its rows and its running means, for a run that finishes it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

from nxm_sweep.sparsity import distributed

if TYPE_CHECKING:
    from nxm_sweep.training.trainer import SparseTrainer


@dataclass
class Draw:
    """State of PyTorch's generator before it drew the order of an epoch's rows.

    Attributes:
        latest: At the latest draw.
        next: To be used for the next draw, once.
    """

    latest: Tensor | None = None
    next: Tensor | None = None


class RepeatableOrder(Sampler[int]):
    """The rows of an epoch in an order drawn from PyTorch's generator, which a run resumed within the epoch repeats.

    Args:
        sampler: Draws the order anew for each epoch.
        draw: Shared by the trainer's loaders, of which one trains.
    """

    def __init__(self, sampler: Sampler[int], draw: Draw) -> None:
        self._sampler, self._draw = sampler, draw

    def __len__(self) -> int:
        return len(self._sampler)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[int]:
        if self._draw.next is not None:
            torch.set_rng_state(self._draw.next)  # the Trainer restores that of the step to continue from afterwards
        self._draw.next, self._draw.latest = None, torch.get_rng_state()
        return iter(self._sampler)


def describe_unfinished_epoch(trainer: SparseTrainer, draw: Draw) -> dict[str, Any] | None:
    """Return values for JSON with which a run finishes the epoch that this one is in; None at an epoch's end.

    Every rank takes part.
    """
    loss = float(distributed.mean(trainer._tr_loss))  # noqa: SLF001 - the Trainer's sum since it logged last
    if float(trainer.state.epoch or 0.0).is_integer():
        return None
    return {
        "loss": loss,
        "logged_step": trainer._globalstep_last_logged,  # noqa: SLF001
        "order": None if draw.latest is None else draw.latest.numpy().tobytes().hex(),
        "distillation": None if trainer.distillation is None else trainer.distillation.running_sum,
    }


def continue_epoch_(trainer: SparseTrainer, draw: Draw, unfinished: dict[str, Any] | None) -> None:
    """Restore what :func:`describe_unfinished_epoch` returned; the Trainer has reset its sums before."""
    if unfinished is None:
        return
    trainer._tr_loss += unfinished["loss"]  # noqa: SLF001
    trainer._globalstep_last_logged = unfinished["logged_step"]  # noqa: SLF001
    if trainer.distillation is not None:
        trainer.distillation.restart_(unfinished["distillation"])
    if unfinished["order"] is not None:
        draw.next = torch.frombuffer(bytearray.fromhex(unfinished["order"]), dtype=torch.uint8)
