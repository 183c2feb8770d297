"""What a record holds: the contents of ``result.json``, key by key. docs/records.md is made from this module.

Scores are in their metric's own unit (accuracy, F1 and correlations in [0, 1]), durations in seconds; relative distances have
no unit. A key that records of every version have is required.
"""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

Scores = dict[str, dict[str, float]]
"""Per set of rows, such as ``validation``, the value of every metric of the task."""


class Best(TypedDict):
    """The selected epoch."""

    epoch: int
    """Number of the epoch, from 1; 0 where nothing was trained."""
    value: float
    """Score that is reported: the selection metric of the pruned model on the first validation set."""
    unpruned_value: float | None
    """The same of the unpruned model; None where it was not scored."""
    selection_value: NotRequired[float]
    """Score that selected the epoch; it differs from ``value`` where held-out rows select."""


class Selection(TypedDict):
    """How the epoch was selected."""

    metric: str
    """Metric that selects."""
    name: NotRequired[str]
    """Choice of the config group ``selection``: ``dev`` or ``heldout``."""
    set: str
    """Rows that select: a validation set, or ``heldout``."""
    reported_set: NotRequired[str]
    """Rows that are reported."""
    protocol: str
    """The same in one sentence."""


class Epoch(TypedDict):
    """One epoch."""

    epoch: int
    """Number, from 1; 0 where nothing was trained."""
    step: int
    """Optimizer steps done."""
    selection: float
    """Score of the pruned model on the rows that select; of the model itself where the method prunes nothing."""
    unpruned_selection: float | None
    """The same of the unpruned model; None where it is never unpruned."""
    pruned: Scores | None
    """Scores of the pruned model per set of rows; None without targets."""
    unpruned: Scores | None
    """Scores of the unpruned model per set of rows; None where it is never unpruned."""
    training_loss: float | None
    """Mean training loss of the last logged steps."""
    distillation_loss: NotRequired[float]
    """Mean of the distillation terms; only with a teacher."""
    relative_distance: float | None
    """``||W - P(W)|| / ||W||`` over all targets; None without targets."""


class IterationGroup(TypedDict):
    """One ADMM iteration over the matrices of one role."""

    group: str
    """Role of the matrices: their name with ``*`` for the layer."""
    primal: float
    """Relative primal residual, ``||W - Z|| / ||W||``."""
    dual: float
    """Relative change of Z."""
    distance: float
    """``||W - P(W)|| / ||W||``."""
    support_flips: float
    """Share of the support that the Z-step changed, in [0, 1]."""


class IterationEntry(TypedDict):
    """One ADMM iteration over all targets."""

    step: int
    """Optimizer steps done."""
    primal: float
    """Relative primal residual, ``||W - Z|| / ||W||``."""
    dual: float
    """Relative change of Z."""
    distance: float
    """``||W - P(W)|| / ||W||``."""
    support_flips: float
    """Share of the support that the Z-step changed, in [0, 1]."""
    rho: float
    """Penalty strength at this iteration."""
    penalty_share: NotRequired[float | None]
    """Share of the penalty in the gradient of one step; schema 1 only."""
    mean_penalty_share: NotRequired[float | None]
    """Mean share of the penalty in the gradient since the last iteration, in [0, 1]; None without a gradient penalty."""
    kappa: NotRequired[float | None]
    """Unit-free strength of a gradient penalty; at 1 it is as large as the task's gradient."""
    efolds: NotRequired[float | None]
    """E-folds by which a decoupled penalty has contracted the weights to be cut so far."""
    mean_clip_factor: NotRequired[float | None]
    """Mean factor by which clipping scaled the gradients since the last iteration, in (0, 1]."""
    groups: NotRequired[list[IterationGroup]]
    """The same per role of the matrices."""


class LastPrune(TypedDict):
    """The hard prune after the last step."""

    relative_residual: float
    """``||W - P(W)|| / ||W||`` before it."""
    residuals: NotRequired[list[float]]
    """The same of each matrix, in the order of ``sparsity.targets``."""
    cost: float
    """Unpruned less pruned score of the last epoch."""
    advice: str
    """What would bring the weights closer; empty up to a residual of 0.05."""


class Distance(TypedDict):
    """How far the weights are from their pattern."""

    relative_distance: float
    """``||W - P(W)|| / ||W||``."""
    mean_magnitude_to_cut: float
    """Mean magnitude of the weights that a prune would cut."""
    share_out_of_reach: NotRequired[float]
    """Share of them that is larger than the sum of the learning rates, which Adam cannot bring to zero."""
    residual_floor: NotRequired[float]
    """Relative distance that Adam's steps leave at best."""


class Travel(TypedDict):
    """How far Adam's steps can move the weights, against how far they have to go."""

    learning_rate_sum: float
    """Sum of the learning rates of all optimizer steps."""
    start: Distance | None
    """Before the first step; None without targets."""
    end: Distance | None
    """After the last step, before the last prune; None without targets."""


class SparsityFacts(TypedDict):
    """What was pruned, and what the saved file holds."""

    targets: list[dict[str, Any]]
    """Per pruned matrix its name, shape, constraint and number of weights."""
    checked: list[dict[str, Any]]
    """Per pruned matrix what was counted in the saved file: shape, zeros, groups by kept weights, the first violation."""
    exact: bool
    """Whether every group keeps exactly as many weights as its pattern allows."""


class DataFacts(TypedDict):
    """The rows."""

    layout: str
    """Where they came from: ``hub``, ``hub folder``, ``glue download``, ``files`` or ``demo``."""
    digest: str
    """SHA-256 of their content."""
    labels: list[str]
    """Class names in the order of the model's outputs; empty for a regression."""
    train_rows: int
    """Rows trained on."""
    heldout_rows: NotRequired[int]
    """Training rows that select instead; 0 where the validation set selects."""
    validation_rows: dict[str, int]
    """Rows per validation set."""
    constant: NotRequired[Scores]
    """Scores of the constant answer: the most frequent class, or the mean label, of the training rows."""
    duplicates: NotRequired[dict[str, dict[str, int]]]
    """Per validation set the rows that repeat a training row, and how many of them have its label."""
    split_off: NotRequired[dict[str, int]]
    """Rows of the validation sets that are a fixed slice of the source's training rows, which are not trained on."""
    left_out: NotRequired[dict[str, int]]
    """Broken lines of the source that were left out, per split."""


ModelFacts = dict[str, Any]
"""``digest`` (SHA-256 of the pretrained files), ``class`` (of Transformers), ``parameters`` and ``target_parameters``."""


class Teacher(TypedDict):
    """The teacher."""

    name: str
    """Choice of the config group ``distillation``."""
    teacher_digest: str
    """SHA-256 of the teacher's files."""


class RecordBody(TypedDict):
    """What training one trial returns."""

    best: Best
    """The selected epoch."""
    selection: Selection
    """How it was selected."""
    reported: NotRequired[Scores]
    """Scores of the selected model on the validation sets."""
    epochs: list[Epoch]
    """All epochs in order."""
    iterations: list[IterationEntry]
    """ADMM iterations in order; empty for other methods."""
    last_prune: NotRequired[LastPrune | None]
    """The hard prune at the end; None for a method whose weights hold the pattern by then."""
    travel: NotRequired[Travel]
    """How far Adam's steps can move the weights."""
    sparsity: SparsityFacts
    """What was pruned, and what the saved file holds."""
    data: DataFacts
    """The rows."""
    model: ModelFacts
    """``digest`` (SHA-256 of the pretrained files), ``class`` (of Transformers), ``parameters`` and ``target_parameters``."""
    distillation: NotRequired[Teacher]
    """The teacher; only with one."""
    steps: int
    """Optimizer steps of the whole run."""
    tokens: NotRequired[int]
    """Tokens of the training rows times epochs, without padding."""
    resumed_from_step: int | None
    """Optimizer step of the checkpoint that the run that wrote the record continued from; None if it began at the start."""
    seconds: dict[str, float]
    """Wall time per phase, their ``total``, and ``train_cpu``, the CPU time of training."""
    hardware: dict[str, str | int]
    """Device, GPU, CPU threads, machine and system; never part of the identity."""
    versions: dict[str, str]
    """Versions of Python and of the packages that a result may depend on; never part of the identity."""


class Record(RecordBody):
    """One finished trial."""

    schema: int
    """Version of this format."""
    identity: str
    """Hash of ``hashed``: the name of the trial's folder."""
    task: str
    """Name of the task."""
    method: str
    """Name of the method."""
    sparsity_name: str
    """Choice of the config group ``sparsity``; ``dense`` for a method that prunes nothing."""
    model_name: str
    """Name of the model."""
    started: str
    """Start of the run that wrote the record, ISO 8601 with time zone."""
    finished: str
    """End of that run, ISO 8601 with time zone."""
    git_commit: str | None
    """Commit of a checkout, with ``+`` where it had changes; None for an installed package."""
    config: dict[str, Any]
    """Every setting, as ``nxm_sweep.settings.TrialSettings`` holds them."""
    hashed: dict[str, Any]
    """The settings and digests that can change the outcome."""
