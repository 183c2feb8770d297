"""Settings of one trial, as plain values. ``conf/`` documents every key; ``config`` fills and validates them.

A field marked ``OUTSIDE_IDENTITY`` cannot change a trial's outcome: runs that differ only there are one trial. A field
marked ``NO_AXIS`` can, but its values make cells of a sweep, not points.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

S = TypeVar("S", bound="DataclassInstance")
PRECISION = "training.precision"
EPOCHS = "training.epochs"
"""At 0 a trial prunes once and trains nothing."""
AUTO = "auto"
OUTSIDE_IDENTITY: dict[str, Any] = {"identity": False}
NO_AXIS: dict[str, Any] = {"axis": False}
LEFT_OUT_AT: dict[str, Any] = {
    "training.devices": 1,
    "training.batching": "by_length",
    "training.subset": "first",
    "task.positive_class": None,
    "training.arguments": {},
}
"""Values at which a setting stays out of the identity: the behaviour before the setting existed."""


SLICE_NOTE = "is a fixed, stratified tenth of the training rows, which are not trained on"


def _one_of(*choices: str) -> dict[str, Any]:
    """Return the metadata of a field restricted to ``choices``."""
    return {"choices": choices}


@dataclass
class TaskSettings:
    """The task: its rows, labels and metrics."""

    name: str = field(metadata=OUTSIDE_IDENTITY)
    kind: str = field(metadata=OUTSIDE_IDENTITY | _one_of("glue", "hub", "demo", "files"))
    problem: str = field(metadata=_one_of("classification", "regression"))
    text_columns: list[str] = field(metadata=OUTSIDE_IDENTITY)
    label_column: str = field(metadata=OUTSIDE_IDENTITY)
    labels: list[str] = field(metadata=OUTSIDE_IDENTITY)
    metrics: list[str]
    selection_metric: str
    train_split: str = field(metadata=OUTSIDE_IDENTITY)
    validation_splits: dict[str, str | None] = field(metadata=OUTSIDE_IDENTITY)
    learning_rates: list[float] = field(metadata=OUTSIDE_IDENTITY)
    positive_class: str | None = None
    config: str | None = field(default=None, metadata=OUTSIDE_IDENTITY)
    rows: dict[str, int] = field(default_factory=dict, metadata=OUTSIDE_IDENTITY)
    files: dict[str, str | None] = field(default_factory=dict, metadata=OUTSIDE_IDENTITY)

    @property
    def split_off(self) -> list[str]:
        """Validation sets that are a slice of the training rows: those of no split, or of a file that is not given."""
        absent = {split for split, path in self.files.items() if path is None} if self.kind == "files" else set()
        return [name for name, split in self.validation_splits.items() if split is None or split in absent]


@dataclass
class ModelSettings:
    """The pretrained encoder. The content of its files, not its name, decides the identity."""

    name: str = field(metadata=OUTSIDE_IDENTITY)
    source: str = field(metadata=OUTSIDE_IDENTITY | _one_of("hub", "package", "folder"))
    path: str = field(metadata=OUTSIDE_IDENTITY)
    revision: str | None = field(default=None, metadata=OUTSIDE_IDENTITY)
    head: str = field(default="new", metadata=NO_AXIS | _one_of("new", "keep"))


@dataclass
class StrengthSettings:
    """A constant or ramped strength."""

    value: float
    schedule: str = field(default="constant", metadata=_one_of("constant", "linear", "cosine", "exponential"))
    start: float = 0.0


@dataclass
class RhoSettings(StrengthSettings):
    """Strength of the ADMM penalty."""

    unit: str = field(default="absolute", metadata=_one_of("absolute", "relative"))
    grid: list[float] = field(default_factory=list, metadata=OUTSIDE_IDENTITY)


@dataclass
class AdmmSettings:
    """The points that the paper leaves open; the defaults are the paper's, or its authors' later code.

    Attributes:
        first_iteration: ``project`` (Z and dual step first), ``zero_dual`` (U0 = 0) or ``no_dual`` (U = 0 always).
        clip: ``total`` adds the penalty gradient before clipping, ``task`` clips only the task's gradient.
        interval: Epochs or steps between Z and dual steps, or their number per epoch.
        interval_unit: ``epoch``, ``step`` or ``per_epoch``.
        penalty: ``gradient`` (through the optimizer) or ``decoupled`` (``W <- W - s (W - Z + U)`` after its step,
            without rho).
        efolds: Total contraction by the decoupled penalty: the product of all ``1 - s`` is ``exp(-efolds)``.
        pace: Its distribution over the ADMM steps: ``learning_rate`` (proportional to it, as AdamW's decay),
            ``constant``, or ``linear`` from zero upwards.
        finish: ``prune`` trains by ADMM to the end; ``refit`` freezes the support and trains masked for the rest.
        admm_fraction: Share of the step budget before the support is frozen, in [0, 1]; for ``refit``.
        frozen_support: Support that is frozen: of P(W) (``weights``) or of the last Z = P(W + U) (``z``).
        dense_fraction: Share of the step budget before ADMM begins, in [0, 1]: dense fine-tuning, without Z and U.
    """

    first_iteration: str = field(default="project", metadata=_one_of("project", "zero_dual", "no_dual"))
    clip: str = field(default="total", metadata=_one_of("total", "task"))
    interval: int = 1
    interval_unit: str = field(default="epoch", metadata=_one_of("epoch", "step", "per_epoch"))
    penalty: str = field(default="gradient", metadata=_one_of("gradient", "decoupled"))
    efolds: float = 5.0
    pace: str = field(default="learning_rate", metadata=_one_of("learning_rate", "constant", "linear"))
    finish: str = field(default="prune", metadata=_one_of("prune", "refit"))
    admm_fraction: float = 0.5
    frozen_support: str = field(default="weights", metadata=_one_of("weights", "z"))
    dense_fraction: float = field(default=0.0, metadata=NO_AXIS)


@dataclass
class ImportanceSettings:
    """The metric that ranks the weights of a matrix."""

    metric: str = field(default="magnitude", metadata=_one_of("magnitude", "input_norm", "second_moment"))
    rows: int = 128


@dataclass
class SrSteSettings:
    """The sparse-refined term of SR-STE."""

    decay: float = 2e-4


@dataclass
class GradualSettings:
    """The share of the optimizer steps before the final pattern."""

    end_fraction: float = 0.5


@dataclass
class WarmupAspSettings:
    """The share of the optimizer steps before the mask is computed."""

    fraction: float = 0.5


@dataclass
class MethodSettings:
    """The sparse method. Its ``read_settings`` declares which of these it uses."""

    name: str
    learning_rates: list[float] = field(metadata=OUTSIDE_IDENTITY)
    trained: str = field(default="all", metadata=_one_of("all", "targets"))
    importance: ImportanceSettings = field(default_factory=ImportanceSettings)
    admm: AdmmSettings = field(default_factory=AdmmSettings)
    sr_ste: SrSteSettings = field(default_factory=SrSteSettings)
    gradual: GradualSettings = field(default_factory=GradualSettings)
    warmup_asp: WarmupAspSettings = field(default_factory=WarmupAspSettings)
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class RuleSettings:
    """One rule: matched linear modules keep ``keep`` of every ``group`` inputs, or a ``density``, or stay dense."""

    match: str
    keep: int | None = None
    group: int | None = None
    density: float | None = None
    dense: bool = False


@dataclass
class SparsitySettings:
    """What is pruned: ordered rules, the last match wins. The other fields are sources of the rules."""

    name: str = field(metadata=OUTSIDE_IDENTITY)
    rules: list[RuleSettings] = field(default_factory=list)
    keep: int | None = field(default=None, metadata=OUTSIDE_IDENTITY)
    group: int | None = field(default=None, metadata=OUTSIDE_IDENTITY)
    also: list[str] = field(default_factory=list, metadata=OUTSIDE_IDENTITY)
    scan: str | None = field(default=None, metadata=OUTSIDE_IDENTITY)


@dataclass
class LearningRateSettings:
    """Peak learning rate of a single run, and the axis of a sweep."""

    value: float
    grid: list[float] = field(default_factory=list, metadata=OUTSIDE_IDENTITY)


@dataclass
class TrainingSettings:
    """Budget and optimizer of one trial."""

    epochs: int
    batch_size: int
    gradient_accumulation: int
    max_length: int
    max_train_samples: int | None
    max_eval_samples: int | None
    schedule: str = field(metadata=_one_of("linear", "cosine", "constant"))
    warmup_ratio: float
    weight_decay: float
    max_grad_norm: float
    precision: str = field(metadata=_one_of("auto", "fp32", "bf16", "fp16"))
    device: str = field(metadata=OUTSIDE_IDENTITY | _one_of("auto", "cpu", "cuda"))
    threads: int | None = field(metadata=OUTSIDE_IDENTITY)
    devices: int = field(default=1, metadata=NO_AXIS)
    batching: str = field(default="by_length", metadata=_one_of("random", "by_length"))
    subset: str = field(default="first", metadata=_one_of("shuffled", "first"))
    report_to: list[str] = field(default_factory=list, metadata=OUTSIDE_IDENTITY)
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass
class DataSettings:
    """The source of the rows. Their content, not their location, decides the identity."""

    path: str = field(metadata=OUTSIDE_IDENTITY)
    revision: str | None = field(metadata=OUTSIDE_IDENTITY)


@dataclass
class SelectionSettings:
    """The rows that select the best epoch and, in a report, the best hyperparameters."""

    name: str = field(default="dev", metadata=_one_of("dev", "heldout"))
    fraction: float = 0.1


@dataclass
class TeacherSettings:
    """The teacher model. The content of its files, not its name or location, enters the identity."""

    source: str = field(default="trial", metadata=OUTSIDE_IDENTITY | _one_of("trial", "hub", "package", "folder"))
    path: str | None = field(default=None, metadata=OUTSIDE_IDENTITY)
    revision: str | None = field(default=None, metadata=OUTSIDE_IDENTITY)


@dataclass
class DistillationSettings:
    """Distillation from a teacher beside the labels; off if its name is ``none``."""

    name: str = field(default="none", metadata=OUTSIDE_IDENTITY)
    teacher: TeacherSettings = field(default_factory=TeacherSettings, metadata=OUTSIDE_IDENTITY)
    weight: float = 0.5
    temperature: float = 2.0
    logits: float = 1.0
    hidden: float = 0.0
    attention: float = 0.0

    @property
    def enabled(self) -> bool:
        """Whether there is a teacher."""
        return self.name != "none"


@dataclass
class SweepSettings:
    """The points of a sweep and how they run; none of it changes a trial."""

    cells: dict[str, list[str]] = field(default_factory=dict)
    axes: dict[str, Any] = field(default_factory=dict)
    exclude: list[dict[str, Any]] = field(default_factory=list)
    tie: list[list[str]] = field(default_factory=list)
    workers: int | None = None
    workers_per_device: int = 1
    threads: int | None = None
    dry_run: bool = False
    probe: bool = False
    yes: bool = False
    retry_failed: bool = False
    max_attempts: int = 3
    time_limit: float | None = None
    lease: float = 60.0
    storage: str = field(default="sqlite", metadata=_one_of("sqlite", "journal", "postgresql"))
    storage_patience: float = 300.0
    sampler: str = field(default="grid", metadata=_one_of("grid", "random", "tpe", "qmc"))
    n_trials: int | None = None
    pruner: str = field(default="none", metadata=_one_of("none", "median", "halving", "hyperband"))
    detach: bool = False
    jobs: int | None = None
    point: str | None = None
    cwd: str | None = None


@dataclass
class TrialSettings:
    """All settings of one trial."""

    task: TaskSettings
    model: ModelSettings
    method: MethodSettings
    sparsity: SparsitySettings
    rho: RhoSettings
    learning_rate: LearningRateSettings
    training: TrainingSettings
    seed: int
    data: DataSettings = field(metadata=OUTSIDE_IDENTITY)
    sweep: SweepSettings = field(metadata=OUTSIDE_IDENTITY)
    output_dir: str = field(metadata=OUTSIDE_IDENTITY)
    force: bool = field(metadata=OUTSIDE_IDENTITY)
    save_model: bool = field(metadata=OUTSIDE_IDENTITY)
    selection: SelectionSettings = field(default_factory=SelectionSettings)
    distillation: DistillationSettings = field(default_factory=DistillationSettings)


def choices_of(kind: type[Any], prefix: str = "") -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield every dotted key of a settings class that is restricted to choices, and the choices."""
    types = get_type_hints(kind)
    for entry in dataclasses.fields(kind):
        if "choices" in entry.metadata:
            yield f"{prefix}{entry.name}", entry.metadata["choices"]
        elif dataclasses.is_dataclass(types[entry.name]):
            yield from choices_of(types[entry.name], f"{prefix}{entry.name}.")


def from_dict(kind: type[S], values: Mapping[str, Any]) -> S:
    """Return settings from a record's values; keys of an older or newer version are ignored.

    Raises:
        TypeError: A key without a default is missing.
    """
    names = {entry.name for entry in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in values.items() if name in names})
