"""Which weight matrices a pattern applies to: ordered glob rules, the later wins."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from torch import Tensor, nn

from nxm_sweep.errors import SparsityError
from nxm_sweep.sparsity.pattern import Constraint, Unstructured
from nxm_sweep.sparsity.projection import check_projectable, support

ENCODER_LAYERS = "layer*.[0-9]*.*"
"""Glob for the linear modules of every encoder layer of the common Transformers: query, key, value, attention output
and the feed-forward matrices. Embeddings, pooler and classifier lie outside the layers and are not matched."""

_CONV1D = "transformers.pytorch_utils"  # the module that defines it


@dataclass(frozen=True, slots=True)
class Rule:
    """Assign a constraint, or none (dense), to the linear modules that ``match`` names.

    Args:
        match: Globs over module names joined by ``|``. A glob matches a whole name, or its end after a dot:
            ``encoder.layer.0.*`` matches ``bert.encoder.layer.0.attention.self.query``.
        constraint: The constraint; None leaves the matched modules dense.
    """

    match: str
    constraint: Constraint | None

    def matches(self, name: str) -> bool:
        """Return whether a module's dotted name is matched."""
        return any(fnmatchcase(name, glob) or fnmatchcase(name, f"*.{glob}") for glob in self.match.split("|"))


@dataclass(slots=True, eq=False)
class Factors:
    """Factors that multiply a matrix's magnitudes before ranking: positive, of its shape or of one row of it.

    None ranks by magnitude only.
    """

    values: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """A weight matrix with its constraint.

    Args:
        name: The parameter's name in ``model.state_dict()``.
        parameter: The parameter as its module stores it, a matrix.
        constraint: The constraint to satisfy.
        factors: Factors that multiply its magnitudes before ranking; set by an importance metric.
        inputs_first: Whether the parameter has shape ``(in_features, out_features)``, as in GPT-2's ``Conv1D``.
    """

    name: str
    parameter: nn.Parameter
    constraint: Constraint
    factors: Factors = field(default_factory=Factors)
    inputs_first: bool = False

    @property
    def weight(self) -> Tensor:
        """The parameter, or a view of it, with shape ``(out_features, in_features)``; writing to it in place counts."""
        return self.orient(self.parameter)

    @property
    def gradient(self) -> Tensor | None:
        """The parameter's gradient in the shape of :attr:`weight`, or None."""
        return None if self.parameter.grad is None else self.orient(self.parameter.grad)

    def orient(self, stored: Tensor) -> Tensor:
        """Return a tensor of the parameter's shape in that of :attr:`weight`, and the other way round."""
        return stored.T if self.inputs_first else stored

    @property
    def group(self) -> str:
        """Its role in every layer: the module's name with ``*`` for numbers, ``encoder.layer.*.output.dense``."""
        return re.sub(r"(?<=\.)\d+(?=\.)", "*", self.name.removesuffix(".weight"))

    def support(self, matrix: Tensor | None = None) -> Tensor:
        """Return which entries of ``matrix`` (default: the weight) a projection on the constraint keeps.

        With factors ``f`` it is the projection in the norm ``||f * .||_F``: the largest ``f * |matrix|`` stay.
        """
        matrix = self.weight if matrix is None else matrix
        if self.factors.values is not None:
            matrix = matrix.detach() * self.factors.values.to(matrix.dtype)
        return support(matrix, self.constraint)


def encoder_rules(constraint: Constraint) -> list[Rule]:
    """Return the paper's rules: ``constraint`` on every linear matrix of every encoder layer."""
    return [Rule(ENCODER_LAYERS, constraint)]


def select_targets(model: nn.Module, rules: Sequence[Rule] | Constraint) -> list[Target]:
    """Return the weight matrices of ``model`` that the rules constrain, in the model's order.

    Only weights of ``nn.Linear`` and of Transformers' ``Conv1D`` (GPT-2), which is a linear layer stored transposed, are
    candidates; a weight shared by several modules is taken once, under its first name.
    A module that no rule matches, or whose last matching rule says dense (no constraint, or one that keeps everything),
    is not a target.

    Args:
        model: Any module.
        rules: Ordered rules, the later wins; or one constraint for every linear module.

    Raises:
        SparsityError: A rule matches nothing, or a matrix does not divide into its groups.
    """
    if not isinstance(rules, Sequence):
        rules = [Rule("*", rules)]
    linears = {name: module for name, module in model.named_modules() if is_linear(module)}
    for rule in rules:
        if not any(rule.matches(name) for name in linears):
            raise SparsityError(
                f"the rule {rule.match!r} matches none of the model's {len(linears)} linear modules",
                hint=f"their names look like {', '.join(list(linears)[:2]) or '(none)'}",
            )
    targets: list[Target] = []
    for name, module in linears.items():
        matching = [rule for rule in rules if rule.matches(name)]
        constraint = matching[-1].constraint if matching else None
        if constraint is None or constraint.is_dense or any(target.parameter is module.weight for target in targets):
            continue
        if not isinstance(module.weight, nn.Parameter):
            raise SparsityError(f"{name}: the weight is computed by a parametrization, not a parameter")
        target = Target(f"{name}.weight", module.weight, constraint, inputs_first=is_conv1d(module))
        try:
            check_projectable(target.weight, constraint)
        except SparsityError as error:
            raise SparsityError(f"{name}: {error.message}", error.hint) from error
        targets.append(target)
    return targets


def is_linear(module: nn.Module) -> bool:
    """Return whether a module is a linear layer, whatever the layout of its weight."""
    return isinstance(module, nn.Linear) or is_conv1d(module)


def is_conv1d(module: nn.Module) -> bool:
    """Return whether a module is Transformers' ``Conv1D``, by name: patterns need no Transformers."""
    return any(base.__qualname__ == "Conv1D" and base.__module__ == _CONV1D for base in type(module).__mro__)


def describe_targets(targets: Sequence[Target]) -> list[dict[str, str | int]]:
    """Return one row per target: ``matrix``, ``rows``, ``columns``, ``constraint``, ``kept`` (weights that stay)."""
    return [
        {
            "matrix": target.name,
            "rows": target.weight.shape[0],
            "columns": target.weight.shape[1],
            "constraint": str(target.constraint),
            "kept": kept_weights(target.constraint, target.weight.numel()),
        }
        for target in targets
    ]


def kept_weights(constraint: Constraint, size: int) -> int:
    """Return how many of a matrix's ``size`` weights a constraint keeps."""
    return (
        constraint.count(size) if isinstance(constraint, Unstructured) else size // constraint.group * constraint.keep
    )
