"""Our trainer in place of ``transformers.Trainer``, for scripts that make their trainer themselves."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from torch import nn

from nxm_sweep.errors import ModelError
from nxm_sweep.training.methods import SparseMethod
from nxm_sweep.training.trainer import SparseTrainer


def swap_trainer(make_method: Callable[[nn.Module], SparseMethod]) -> None:
    """Let ``from transformers import Trainer`` give :func:`sparse_trainer`'s class from now on.

    To set ``transformers.Trainer`` by hand is not enough everywhere: importing parts of Transformers makes the module
    ``transformers`` anew, and a script would find the new one.

    Args:
        make_method: As for :func:`sparse_trainer`.
    """
    sys.modules["transformers"].Trainer = sparse_trainer(make_method)  # type: ignore[attr-defined]


def sparse_trainer(make_method: Callable[[nn.Module], SparseMethod]) -> type[SparseTrainer]:
    """Return a trainer class that is called as ``transformers.Trainer`` is and trains under a method.

    What it evaluates, predicts with and saves by ``save_model()`` is the pruned model.

    Args:
        make_method: Returns the method over the targets of the model that the trainer is given.
    """

    class Swapped(SparseTrainer):
        """A :class:`SparseTrainer` that makes its method from its model."""

        def __init__(self, model: nn.Module | None = None, *args: Any, **kwargs: Any) -> None:
            if model is None:
                raise ModelError(
                    "a sparse method needs the model when the trainer is made", hint="pass model, not model_init"
                )
            super().__init__(model, *args, sparse_method=make_method(model), **kwargs)

    return Swapped
