"""The settings of one trial, as plain values. ``conf/`` documents every key; ``config`` fills and checks them.

A field marked ``outside identity`` cannot change a trial's outcome: two runs that differ in nothing else are one trial. One
marked ``no axis`` can, but its values make cells of a sweep and not points.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

OUTSIDE_IDENTITY: dict[str, Any] = {"identity": False}
NO_AXIS: dict[str, Any] = {"axis": False}
LEFT_OUT_AT: dict[str, Any] = {"training.devices": 1, "training.batching": "by_length"}
"""Values at which a setting is left out of the identity: what every trial did before there was a choice."""


@dataclass
class TaskSettings:
    """What is learned and how it is scored."""

    name: str = field(metadata=OUTSIDE_IDENTITY)
    kind: str = field(metadata=OUTSIDE_IDENTITY)
    problem: str
    text_columns: list[str] = field(metadata=OUTSIDE_IDENTITY)
    label_column: str = field(metadata=OUTSIDE_IDENTITY)
    labels: list[str] = field(metadata=OUTSIDE_IDENTITY)
    metrics: list[str]
    selection_metric: str
    train_split: str = field(metadata=OUTSIDE_IDENTITY)
    validation_splits: dict[str, str] = field(metadata=OUTSIDE_IDENTITY)
    learning_rates: list[float] = field(metadata=OUTSIDE_IDENTITY)
    config: str | None = field(default=None, metadata=OUTSIDE_IDENTITY)
    rows: dict[str, int] = field(default_factory=dict, metadata=OUTSIDE_IDENTITY)
    files: dict[str, str] = field(default_factory=dict, metadata=OUTSIDE_IDENTITY)


@dataclass
class ModelSettings:
    """The pretrained encoder. Its files' content, not its name, decides the identity."""

    name: str = field(metadata=OUTSIDE_IDENTITY)
    source: str = field(metadata=OUTSIDE_IDENTITY)
    path: str = field(metadata=OUTSIDE_IDENTITY)
    revision: str | None = field(default=None, metadata=OUTSIDE_IDENTITY)
    head: str = field(default="new", metadata=NO_AXIS)


@dataclass
class StrengthSettings:
    """A strength that is constant or ramps."""

    value: float
    schedule: str = "constant"
    start: float = 0.0


@dataclass
class RhoSettings(StrengthSettings):
    """Strength of the ADMM penalty."""

    unit: str = "absolute"
    grid: list[float] = field(default_factory=list, metadata=OUTSIDE_IDENTITY)


@dataclass
class AdmmSettings:
    """The open points of the paper's ADMM; see ``conf/method/nxm.yaml``."""

    first_iteration: str = "project"
    clip: str = "total"
    interval: int = 1
    interval_unit: str = "epoch"
    penalty: str = "gradient"
    efolds: float = 5.0
    pace: str = "learning_rate"
    finish: str = "prune"
    admm_fraction: float = 0.5
    frozen_support: str = "weights"


@dataclass
class ImportanceSettings:
    """What ranks the weights of a matrix."""

    metric: str = "magnitude"
    rows: int = 128


@dataclass
class SrSteSettings:
    """The sparse-refined term of SR-STE."""

    decay: float = 2e-4


@dataclass
class GradualSettings:
    """When gradual pruning reaches the pattern."""

    end_fraction: float = 0.5


@dataclass
class WarmupAspSettings:
    """When dense training ends and the mask is drawn."""

    fraction: float = 0.5


@dataclass
class MethodSettings:
    """How the pattern is reached. Which of these are in use, a method's ``read_settings`` says."""

    name: str
    learning_rates: list[float] = field(metadata=OUTSIDE_IDENTITY)
    trained: str = "all"
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
    """What is pruned: ordered rules, the later wins. The other fields are what the rules are made from."""

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
    """One trial's budget and optimizer."""

    epochs: int
    batch_size: int
    gradient_accumulation: int
    max_length: int
    max_train_samples: int | None
    max_eval_samples: int | None
    schedule: str
    warmup_ratio: float
    weight_decay: float
    max_grad_norm: float
    precision: str
    device: str = field(metadata=OUTSIDE_IDENTITY)
    threads: int | None = field(metadata=OUTSIDE_IDENTITY)
    devices: int = field(default=1, metadata=NO_AXIS)
    batching: str = "by_length"
    report_to: list[str] = field(default_factory=list, metadata=OUTSIDE_IDENTITY)


@dataclass
class DataSettings:
    """Where the rows come from. Their content, not their place, decides the identity."""

    path: str = field(metadata=OUTSIDE_IDENTITY)
    revision: str | None = field(metadata=OUTSIDE_IDENTITY)


@dataclass
class SelectionSettings:
    """Which rows choose the best epoch and, in a report, the best hyperparameters."""

    name: str = "dev"
    fraction: float = 0.1


@dataclass
class TeacherSettings:
    """The model that a student learns from. Its files' content, not its name or place, enters the identity."""

    source: str = field(default="trial", metadata=OUTSIDE_IDENTITY)
    path: str | None = field(default=None, metadata=OUTSIDE_IDENTITY)
    revision: str | None = field(default=None, metadata=OUTSIDE_IDENTITY)


@dataclass
class DistillationSettings:
    """What is learned from a teacher beside the labels; off when it is called ``none``."""

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
    """Which points a sweep has and how they are run; nothing of it changes a trial."""

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
    storage: str = "sqlite"
    sampler: str = "grid"
    n_trials: int | None = None
    pruner: str = "none"
    point: str | None = None
    cwd: str | None = None


@dataclass
class TrialSettings:
    """Everything that one trial depends on."""

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


PRECISION = "training.precision"
AUTO = "auto"
