"""From settings to a method over a model's targets."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from nxm_sweep.settings import RuleSettings, StrengthSettings, TrialSettings
from nxm_sweep.sparsity import Rule, Schedule, Target, select_targets
from nxm_sweep.sparsity.pattern import constraint
from nxm_sweep.training.methods import METHODS, AdmmSwitches, Gradual, Nxm, SparseMethod, SrSte


def build_method(settings: TrialSettings, model: nn.Module) -> SparseMethod:
    """Return the settings' method over the model's targets.

    Raises:
        SparsityError: A rule matches nothing, or a matrix does not divide into groups.
    """
    kind = METHODS[settings.method.name]
    if "sparsity" not in kind.reads:
        return kind()
    targets = select_targets(model, [_rule(rule) for rule in settings.sparsity.rules])
    if settings.method.trained == "targets":
        _freeze_the_rest(model, targets)
    if issubclass(kind, Nxm):
        return kind(targets, _schedule(settings.rho), _switches(settings))
    if issubclass(kind, SrSte):
        return kind(targets, settings.method.sr_ste.decay)
    if issubclass(kind, Gradual):
        return kind(targets, settings.method.gradual.end_fraction)
    return kind(targets)


def _switches(settings: TrialSettings) -> AdmmSwitches:
    admm = settings.method.admm
    return AdmmSwitches(
        first_iteration=admm.first_iteration,
        clip=admm.clip,
        interval=admm.interval,
        interval_unit=admm.interval_unit,
        penalty=admm.penalty,
        strength=_schedule(admm.strength),
        balanced=settings.rho.schedule == "balanced",
        finish=admm.finish,
        admm_fraction=admm.admm_fraction,
        frozen_support=admm.frozen_support,
    )


def _rule(rule: RuleSettings) -> Rule:
    return Rule(rule.match, constraint(keep=rule.keep, group=rule.group, density=rule.density, dense=rule.dense))


def _schedule(strength: StrengthSettings) -> Schedule:
    kind = "constant" if strength.schedule == "balanced" else strength.schedule
    return Schedule(strength.value, kind, strength.start)


def _freeze_the_rest(model: nn.Module, targets: list[Target]) -> None:
    """Train the targets, the task's head and the pooler, which may start from random numbers, and nothing else."""
    encoder = model.base_model if isinstance(model, PreTrainedModel) else model
    trained = {id(target.weight) for target in targets}
    for name, weight in encoder.named_parameters():
        weight.requires_grad_(id(weight) in trained or name.startswith("pooler."))
