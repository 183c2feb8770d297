"""From settings to a method over a model's targets."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from nxm_sweep.settings import RuleSettings, TrialSettings
from nxm_sweep.sparsity import Rule, Target, select_targets
from nxm_sweep.sparsity.pattern import constraint
from nxm_sweep.training.methods import METHODS, SparseMethod


def build_method(settings: TrialSettings, model: nn.Module) -> SparseMethod:
    """Return the settings' method over the model's targets.

    Raises:
        SparsityError: A rule matches nothing, or a matrix does not divide into groups.
    """
    kind = METHODS[settings.method.name]
    values = kind.read_settings(settings)
    if not kind.sparse:
        return kind.from_settings((), values)
    targets = select_targets(model, [_rule(rule) for rule in settings.sparsity.rules])
    if settings.method.trained == "targets":
        _freeze_the_rest(model, targets)
    return kind.from_settings(targets, values)


def _rule(rule: RuleSettings) -> Rule:
    return Rule(rule.match, constraint(keep=rule.keep, group=rule.group, density=rule.density, dense=rule.dense))


def _freeze_the_rest(model: nn.Module, targets: list[Target]) -> None:
    """Train the targets, the task's head and the pooler, which may start from random numbers, and nothing else."""
    encoder = model.base_model if isinstance(model, PreTrainedModel) else model
    trained = {id(target.weight) for target in targets}
    for name, weight in encoder.named_parameters():
        weight.requires_grad_(id(weight) in trained or name.startswith("pooler."))
