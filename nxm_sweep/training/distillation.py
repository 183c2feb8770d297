"""Learning from a teacher: the terms of the loss, and their mixture with the task's."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from nxm_sweep.errors import ModelError
from nxm_sweep.sparsity import distributed

_SEGMENTS = "token_type_ids"


@dataclass(frozen=True, slots=True)
class Mixture:
    """``(1 - weight) * task loss + weight * (logits * L + hidden * H + attention * A)``.

    Attributes:
        weight: Share of the teacher, in [0, 1].
        temperature: Of the softmax on both sides of L; L is multiplied by its square.
        logits: Factor of L: :func:`class_term`, or :func:`number_term` for a regression.
        hidden: Factor of H: :func:`hidden_term`.
        attention: Factor of A: :func:`attention_term`.

    Raises:
        ModelError: A value is out of its range.
    """

    weight: float = 0.5
    temperature: float = 2.0
    logits: float = 1.0
    hidden: float = 0.0
    attention: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.weight <= 1.0:
            raise ModelError(f"the weight of distillation must lie in [0, 1] but got {self.weight}")
        if not 0.0 < self.temperature < math.inf:
            raise ModelError(f"the temperature of distillation must be above 0 but got {self.temperature}")
        for name in ("logits", "hidden", "attention"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ModelError(
                    f"the factor {name} of distillation must not be negative but got {getattr(self, name)}"
                )


def class_term(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return ``T^2 * KL(teacher || student)`` of the softened class probabilities, as a mean over rows.

    Args:
        student: Logits, shape ``(rows, classes)``.
        teacher: Logits of the same shape.
        temperature: T. The factor keeps the gradient's size when T changes.

    Source: Hinton, Vinyals, Dean (2015), "Distilling the knowledge in a neural network", section 2.
    """
    log_student = (_full(student) / temperature).log_softmax(-1)
    log_teacher = (_full(teacher) / temperature).log_softmax(-1)
    rows = (log_teacher.exp() * (log_teacher - log_student)).sum(-1)
    return temperature**2 * rows.mean()


def number_term(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference of a regression's outputs, shape ``(rows, 1)``."""
    return (_full(student) - _full(teacher)).square().mean()


def hidden_term(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Return the mean squared difference of hidden states, over layers, rows, and each row's tokens and features.

    Each row counts the same whatever its length, so that the mean over micro-batches is that over the batch.

    Args:
        student: Per layer, shape ``(rows, tokens, width)``; the embeddings' output first.
        teacher: The teacher's, at the places that match, of the same shapes.
        mask: Shape ``(rows, tokens)``, 1 for a token and 0 for padding.

    Source: Jiao et al. (2020), "TinyBERT", equations 8 and 9, without their projection: the widths are equal.
    """
    kept = mask.float()
    terms = []
    for ours, theirs in zip(student, teacher, strict=True):
        tokens = (_full(ours) - _full(theirs)).square().mean(-1)
        terms.append(((tokens * kept).sum(1) / kept.sum(1)).mean())
    return torch.stack(terms).mean()


def attention_term(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Return the mean squared difference of attention probabilities, over layers, rows, heads and pairs of tokens.

    Args:
        student: Per layer, shape ``(rows, heads, tokens, tokens)``.
        teacher: The teacher's, at the places that match, of the same shapes.
        mask: Shape ``(rows, tokens)``, 1 for a token and 0 for padding.

    Source: Jiao et al. (2020), "TinyBERT", equation 7; they compare scores before the softmax, which models do not return.
    """
    kept = mask.float()
    pairs = kept[:, None, :, None] * kept[:, None, None, :]
    terms = []
    for ours, theirs in zip(student, teacher, strict=True):
        squares = (_full(ours) - _full(theirs)).square() * pairs
        terms.append((squares.sum((1, 2, 3)) / (pairs.sum((1, 2, 3)) * ours.shape[1])).mean())
    return torch.stack(terms).mean()


def matching_layers(student: int, teacher: int) -> list[int]:
    """Return for each layer of the student the teacher's layer that it learns from, both counted from 1: every k-th.

    Raises:
        ModelError: The teacher's layers are no multiple of the student's.
    """
    if student < 1 or teacher % student:
        raise ModelError(
            f"layers are compared where the teacher's number of them is a multiple of the student's but got {teacher} and "
            f"{student}",
            hint="distillation=logits compares outputs alone",
        )
    return [(layer + 1) * (teacher // student) for layer in range(student)]


class Distillation:
    """A teacher, and how a student's loss is mixed with what it says.

    Args:
        teacher: A sequence classifier with a trained head, of the student's task, labels and vocabulary. It is put into
            evaluation mode and gets no gradient.
        mixture: Weights and temperature.
        separator: Token that ends each text of a row. Given where the teacher reads ``token_type_ids`` that the student's
            rows lack: they are made as BERT's tokenizer makes them.
    """

    def __init__(self, teacher: PreTrainedModel, mixture: Mixture, *, separator: int | None = None) -> None:
        self.teacher: PreTrainedModel = teacher.eval().requires_grad_(requires_grad=False)  # type: ignore[no-untyped-call]
        self.mixture = mixture
        self._separator = separator
        self._reads = set(inspect.signature(teacher.forward).parameters) - {"labels"}
        self._sum, self._count = torch.zeros(()), 0

    @property
    def extras(self) -> dict[str, bool]:
        """What a model is asked to return beside its logits."""
        wanted = {"output_hidden_states": self.mixture.hidden, "output_attentions": self.mixture.attention}
        return {name: True for name, factor in wanted.items() if factor}

    def attach_(self, student: PreTrainedModel, device: torch.device) -> None:
        """Prepare for a student: where attention is compared, both compute it in the way that returns it.

        Raises:
            ModelError: The layers cannot be compared, or a model does not return its attention.
        """
        self.teacher.to(device)  # type: ignore[arg-type]  # a decorator hides the signature
        self._sum = torch.zeros((), device=device)
        if self.extras:
            matching_layers(student.config.num_hidden_layers, self.teacher.config.num_hidden_layers)
        if self.mixture.attention:
            for model in (student, self.teacher):
                model.set_attn_implementation("eager")
                if model.config._attn_implementation != "eager":  # noqa: SLF001 - there is no public word for it
                    raise ModelError(
                        f"a {type(model).__name__} does not return its attention", hint="distillation.attention=0"
                    )

    def restart_(self) -> None:
        """Forget the mean of the term so far."""
        self._sum, self._count = torch.zeros_like(self._sum), 0

    def mix(self, task_loss: Tensor, outputs: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the mixture for one micro-batch.

        Args:
            task_loss: The mean over its rows.
            outputs: What the student returned, :attr:`extras` included.
            inputs: What it was given.
        """
        term = self.term(outputs, inputs)
        self._sum += term.detach()
        self._count += 1
        weight = self.mixture.weight
        return (1.0 - weight) * task_loss + weight * term

    def term(self, outputs: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return ``logits * L + hidden * H + attention * A`` for one micro-batch; arguments as for :meth:`mix`."""
        with torch.no_grad():
            taught = self.teacher(**self._inputs(inputs), **self.extras)
        mixture, parts = self.mixture, []
        if mixture.logits and outputs.logits.shape[-1] == 1:
            parts.append(mixture.logits * number_term(outputs.logits, taught.logits))
        elif mixture.logits:
            parts.append(mixture.logits * class_term(outputs.logits, taught.logits, mixture.temperature))
        mask = inputs.get("attention_mask")
        mask = torch.ones_like(inputs["input_ids"]) if mask is None else mask
        if mixture.hidden:
            ours, theirs = outputs.hidden_states, taught.hidden_states
            places = [0, *matching_layers(len(ours) - 1, len(theirs) - 1)]  # 0: the embeddings' output
            parts.append(mixture.hidden * hidden_term(ours, [theirs[place] for place in places], mask))
        if mixture.attention:
            ours, theirs = outputs.attentions, taught.attentions
            places = [layer - 1 for layer in matching_layers(len(ours), len(theirs))]
            parts.append(mixture.attention * attention_term(ours, [theirs[place] for place in places], mask))
        return torch.stack(parts).sum() if parts else outputs.logits.new_zeros(())

    def take_mean(self) -> float | None:
        """Return the term's mean over the micro-batches, of all ranks, since it was last asked for; None without any."""
        if not self._count:
            return None
        mean = float(distributed.mean(self._sum / self._count))
        self.restart_()
        return mean

    def _inputs(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        known = {name: value for name, value in inputs.items() if name in self._reads}
        if self._separator is not None and _SEGMENTS not in known:
            known[_SEGMENTS] = segments(inputs["input_ids"], inputs.get("attention_mask"), self._separator)
        return known


def _full(value: Tensor) -> Tensor:
    """At least fp32, as under autocast outputs are not."""
    return value if value.dtype == torch.float64 else value.float()


def segments(ids: Tensor, mask: Tensor | None, separator: int) -> Tensor:
    """Return BERT's ``token_type_ids``: 0 up to the first separator, 1 after it, 0 for padding; shape ``(rows, tokens)``."""
    ends = (ids == separator).long()
    second = (ends.cumsum(1) - ends > 0).long()
    return second if mask is None else second * mask.long()
