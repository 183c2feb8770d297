"""Knowledge distillation: the loss terms, and their mixture with the task loss."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from nxm_sweep.errors import ModelError
from nxm_sweep.sparsity import distributed
from nxm_sweep.training.heads import predicts_the_next, reads_rows_of_tokens

_SEGMENTS = "token_type_ids"
_ANSWERS = {"labels", "start_positions", "end_positions"}
_IGNORED = -100  # label of a position that no loss of Transformers counts


@dataclass(frozen=True, slots=True)
class Mixture:
    """``(1 - weight) * task loss + weight * (logits * L + hidden * H + attention * A)``.

    Attributes:
        weight: Weight of the teacher's terms, in [0, 1].
        temperature: Softmax temperature of both models in L; L is multiplied by its square.
        logits: Factor of L: :func:`class_term`, or :func:`number_term` for a regression.
        hidden: Factor of H: :func:`hidden_term`.
        attention: Factor of A: :func:`attention_term`.

    Raises:
        ModelError: A value is out of range.
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
    """Return ``T^2 * KL(teacher || student)`` of the softened class probabilities, averaged over rows.

    Args:
        student: Logits, shape ``(rows, classes)``; a position of a text counts as a row.
        teacher: Logits of the same shape.
        temperature: T. The factor keeps the gradient's scale when T changes.

    Source: Hinton, Vinyals, Dean (2015), "Distilling the knowledge in a neural network", section 2.
    """
    log_student = (_upcast(student) / temperature).log_softmax(-1)
    log_teacher = (_upcast(teacher) / temperature).log_softmax(-1)
    rows = (log_teacher.exp() * (log_teacher - log_student)).sum(-1)
    return temperature**2 * rows.mean()


def counted_positions(logits: Tensor, labels: Tensor | None, *, shifted: bool) -> Tensor | None:
    """Return which positions of a text the task's loss counts, shape ``(rows, positions)``; None for all.

    Args:
        logits: Shape ``(rows, positions, classes)``.
        labels: A label per position, -100 where the loss counts none; None, or of another shape, if there are none.
        shifted: Whether a position's label stands at the next position, as for a causal language model.
    """
    if labels is None or labels.shape != logits.shape[:-1]:
        return None
    if shifted:
        labels = nn.functional.pad(labels[..., 1:], (0, 1), value=_IGNORED)
    return labels.ne(_IGNORED)


def number_term(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference of regression outputs, shape ``(rows, 1)``."""
    return (_upcast(student) - _upcast(teacher)).square().mean()


def hidden_term(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Return the mean squared difference of hidden states over layers, rows, and each row's tokens and features.

    Rows have equal weight whatever their length, so the mean over micro-batches is that over the batch.

    Args:
        student: Per layer, shape ``(rows, tokens, width)``; the embeddings' output first.
        teacher: The same shapes, from the matching layers of the teacher.
        mask: Shape ``(rows, tokens)``, 1 for a token and 0 for padding.

    Source: Jiao et al. (2020), "TinyBERT", equations 8 and 9, without their projection: the widths are equal.
    """
    kept = mask.float()
    terms = []
    for ours, theirs in zip(student, teacher, strict=True):
        tokens = (_upcast(ours) - _upcast(theirs)).square().mean(-1)
        terms.append(((tokens * kept).sum(1) / kept.sum(1)).mean())
    return torch.stack(terms).mean()


def attention_term(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Return the mean squared difference of attention probabilities over layers, rows, heads and pairs of tokens.

    Args:
        student: Per layer, shape ``(rows, heads, tokens, tokens)``.
        teacher: The same shapes, from the matching layers of the teacher.
        mask: Shape ``(rows, tokens)``, 1 for a token and 0 for padding.

    Source: Jiao et al. (2020), "TinyBERT", equation 7, on scores before the softmax, which models do not return.
    """
    kept = mask.float()
    pairs = kept[:, None, :, None] * kept[:, None, None, :]
    terms = []
    for ours, theirs in zip(student, teacher, strict=True):
        squares = (_upcast(ours) - _upcast(theirs)).square() * pairs
        terms.append((squares.sum((1, 2, 3)) / (pairs.sum((1, 2, 3)) * ours.shape[1])).mean())
    return torch.stack(terms).mean()


def matching_layers(student: int, teacher: int) -> list[int]:
    """Return the teacher layer that each student layer learns from, both counted from 1: every k-th.

    Raises:
        ModelError: The teacher's layer count is not a multiple of the student's.
    """
    if student < 1 or teacher % student:
        raise ModelError(
            f"layers are compared where the teacher's number of them is a multiple of the student's but got {teacher} and "
            f"{student}",
            hint="distillation=logits compares outputs alone",
        )
    return [(layer + 1) * (teacher // student) for layer in range(student)]


class Distillation:
    """A teacher, and the mixture of its terms with a student's loss.

    Args:
        teacher: A model with a trained head of the student's kind, and of its task, labels and vocabulary: any that
            returns ``logits`` of classes per row or per position, or ``start_logits`` and ``end_logits``. Set to
            evaluation mode, without gradients.
        mixture: Weights and temperature.
        separator: Token that ends each text of a row. Needed where the teacher reads ``token_type_ids`` that the
            student's rows lack; these follow BERT's tokenizer.
    """

    def __init__(self, teacher: PreTrainedModel, mixture: Mixture, *, separator: int | None = None) -> None:
        self.teacher: PreTrainedModel = teacher.eval().requires_grad_(requires_grad=False)  # type: ignore[no-untyped-call]
        self.mixture = mixture
        self._separator = separator
        self._reads = set(inspect.signature(teacher.forward).parameters)
        if not teacher.config.is_encoder_decoder:  # a decoder reads the labels, shifted
            self._reads -= _ANSWERS
        self._student: PreTrainedModel | None = None
        self._sum, self._count = torch.zeros(()), 0

    @property
    def extras(self) -> dict[str, bool]:
        """Keyword arguments for the outputs besides logits."""
        wanted = {"output_hidden_states": self.mixture.hidden, "output_attentions": self.mixture.attention}
        return {name: True for name, factor in wanted.items() if factor}

    def attach_(self, student: PreTrainedModel, device: torch.device) -> None:
        """Prepare for a student; to compare attention, both models use the eager implementation.

        Raises:
            ModelError: The layers cannot be compared, or a model does not return its attention.
        """
        self._student = student
        if self.extras and not reads_rows_of_tokens(student):
            raise ModelError(
                f"hidden states and attention are compared of models that read one row of tokens and a "
                f"{type(student).__name__} reads other inputs",
                hint="distillation.hidden=0 and distillation.attention=0 compare outputs alone",
            )
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

    @property
    def running_sum(self) -> tuple[float, int]:
        """Sum of the term over the micro-batches since :meth:`take_mean`, and their number."""
        return float(self._sum), self._count

    def restart_(self, running_sum: tuple[float, int] = (0.0, 0)) -> None:
        """Reset the running mean of the term, or continue with the sum and the number of an interrupted run."""
        self._sum, self._count = torch.full_like(self._sum, running_sum[0]), running_sum[1]

    def mix(
        self, task_loss: Tensor, outputs: Any, inputs: Mapping[str, Tensor], *, items: Tensor | float | None = None
    ) -> Tensor:
        """Return the mixture for one micro-batch.

        Args:
            task_loss: Mean over its rows, or positions; with ``items``, their sum divided by that.
            outputs: The student's outputs, including :attr:`extras`.
            inputs: The student's inputs.
            items: Positions that the loss counts in all micro-batches of the optimizer step.
        """
        term = self.term(outputs, inputs)
        self._sum += term.detach()
        self._count += 1
        if items is not None:
            logits = _read_logits(outputs, self._student)[0]
            counted = self._count_positions(logits, inputs)
            term = term * ((logits[..., 0].numel() if counted is None else counted.sum()) / items)
        weight = self.mixture.weight
        return (1.0 - weight) * task_loss + weight * term

    def term(self, outputs: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return ``logits * L + hidden * H + attention * A`` for one micro-batch; arguments as for :meth:`mix`."""
        with torch.no_grad():
            teacher_outputs = self.teacher(**self._select_inputs(inputs), **self.extras)
        mixture, parts = self.mixture, []
        if mixture.logits:
            ours, theirs = (
                _read_logits(each, model) for each, model in ((outputs, self._student), (teacher_outputs, self.teacher))
            )
            terms = [self._logits_term(*pair, inputs) for pair in zip(ours, theirs, strict=True)]
            parts.append(mixture.logits * (terms[0] if len(terms) == 1 else torch.stack(terms).mean()))
        if self.extras:
            given = inputs.get("attention_mask")
            mask = torch.ones_like(inputs["input_ids"]) if given is None else given
        if mixture.hidden:
            ours, theirs = outputs.hidden_states, teacher_outputs.hidden_states
            layers = [0, *matching_layers(len(ours) - 1, len(theirs) - 1)]  # 0: the embeddings' output
            parts.append(mixture.hidden * hidden_term(ours, [theirs[layer] for layer in layers], mask))
        if mixture.attention:
            ours, theirs = outputs.attentions, teacher_outputs.attentions
            layers = [layer - 1 for layer in matching_layers(len(ours), len(theirs))]
            parts.append(mixture.attention * attention_term(ours, [theirs[layer] for layer in layers], mask))
        return torch.stack(parts).sum() if parts else _read_logits(outputs, self._student)[0].new_zeros(())

    def _logits_term(self, ours: Tensor, theirs: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return L of one kind of logits: over rows, or over the positions that the task's loss counts.

        Raises:
            ModelError: The logits are not those of classes, or of another shape than the teacher's.
        """
        problem = None if self._student is None else getattr(self._student.config, "problem_type", None)
        if ours.shape != theirs.shape or ours.ndim not in (2, 3) or problem == "multi_label_classification":
            raise ModelError(
                f"distillation compares logits of one class of several per row or position, but the student's have shape "
                f"{tuple(ours.shape)}, the teacher's {tuple(theirs.shape)}, and problem_type is {problem}",
                hint="take a teacher of the student's task, with its labels and vocabulary",
            )
        if ours.shape[-1] == 1 or problem == "regression":
            return number_term(ours, theirs)
        if ours.ndim == 3:
            counted = self._count_positions(ours, inputs)
            ours, theirs = (each.flatten(0, 1) if counted is None else each[counted] for each in (ours, theirs))
        return class_term(ours, theirs, self.mixture.temperature)

    def _count_positions(self, logits: Tensor, inputs: Mapping[str, Tensor]) -> Tensor | None:
        shifted = self._student is not None and predicts_the_next(self._student)
        return counted_positions(logits, inputs.get("labels"), shifted=shifted)

    def take_mean(self) -> float | None:
        """Return the term's mean over all ranks' micro-batches since the last call; None without any."""
        if not self._count:
            return None
        mean = float(distributed.mean(self._sum / self._count))
        self.restart_()
        return mean

    def _select_inputs(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        known = {name: value for name, value in inputs.items() if name in self._reads}
        if self._separator is not None and _SEGMENTS not in known:
            known[_SEGMENTS] = segments(inputs["input_ids"], inputs.get("attention_mask"), self._separator)
        return known


def _read_logits(outputs: Any, model: PreTrainedModel | None) -> tuple[Tensor, ...]:
    """Return a head's logits, or those of the start and the end of an answer.

    Raises:
        ModelError: It has none.
    """
    for names in (("logits",), ("start_logits", "end_logits")):
        if all(isinstance(getattr(outputs, name, None), Tensor) for name in names):
            return tuple(getattr(outputs, name) for name in names)
    raise ModelError(f"distillation compares logits, and a {type(model).__name__} returns none")


def _upcast(value: Tensor) -> Tensor:
    """Cast to at least fp32; autocast outputs are narrower."""
    return value if value.dtype == torch.float64 else value.float()


def segments(ids: Tensor, mask: Tensor | None, separator: int) -> Tensor:
    """Return BERT's ``token_type_ids``, shape ``(rows, tokens)``: 1 after the first separator, 0 elsewhere."""
    ends = (ids == separator).long()
    second = (ends.cumsum(1) - ends > 0).long()
    return second if mask is None else second * mask.long()
