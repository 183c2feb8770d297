"""Records on disk: ``<output_dir>/trials/<identity>/result.json``, written once, atomically; the source of truth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict, TypeVar, cast

from nxm_sweep.errors import ModelError, RecordError
from nxm_sweep.formatting import pattern_label
from nxm_sweep.settings import ModelSettings, TrialSettings
from nxm_sweep.store.files import write_json
from nxm_sweep.store.paths import MODEL, RESULT, TRIALS, trial_folder
from nxm_sweep.store.record import Epoch, Record, Scores
from nxm_sweep.store.small_files import check_type, read_checked

SCHEMA = 2
"""2: the identity omits exactly what a method does not read, and ``mean_penalty_share`` replaces ``penalty_share``."""


_AGAIN = "move it away to train the trial again"


P = TypeVar("P")


_ROUNDING = 1e-9  # two computations of one score differ by less


SAVE_AGAIN = "run the trial's command again with save_model=true force=true"


_LONGEST_NAME = 40  # characters that an error shows of a name from a file


_LISTED = 5  # most identities that the error of an ambiguous prefix lists


def write_record(folder: Path, record: Mapping[str, Any]) -> Path:
    """Write ``result.json`` atomically: readers see nothing or all of it, even after a power cut.

    Raises:
        ValueError: A number in the record is not finite.
    """
    write_json(folder / RESULT, record, durable=True)
    return folder / RESULT


class _Best(TypedDict):
    epoch: int
    value: float
    selection_value: NotRequired[float]


class _Epoch(TypedDict):
    epoch: int
    selection: float
    unpruned_selection: float | None
    relative_distance: float | None


class _Target(TypedDict):
    constraint: str


class _Sparsity(TypedDict):
    targets: list[_Target]
    exact: bool


class _Seconds(TypedDict):
    total: float


class Core(TypedDict):
    """What every reader of a record needs; checking thousands of records in full would take a sweep seconds to start."""

    identity: str
    sparsity_name: str
    best: _Best
    epochs: list[_Epoch]
    sparsity: _Sparsity
    seconds: _Seconds


class _Schema(TypedDict):
    schema: int


def read_record(folder: Path, *, kind: Any = Core) -> Record | None:
    """Return a trial's record, or None if it has none.

    Args:
        folder: The trial's folder.
        kind: Type that the record is checked against: what a sweep reads, or more, such as :class:`Record`.

    Raises:
        RecordError: The file is damaged or no record, is that of another trial, has a later schema, or has an earlier
            one under which its identity also stood for trials with other outcomes.
    """
    path = folder / RESULT
    try:
        record = read_checked(path, _Schema)
    except FileNotFoundError:
        return None
    except RecordError as error:
        raise RecordError(error.message, hint=_AGAIN) from error
    if record["schema"] > SCHEMA:
        raise RecordError(f"{path} has schema {record['schema']} but this version reads up to {SCHEMA}", hint="upgrade")
    check_complete(record, path, kind)
    if record["best"]["epoch"] not in {epoch["epoch"] for epoch in record["epochs"]}:
        raise RecordError(f"{path} is not a record: its best epoch is not among its epochs", hint=_AGAIN)
    folder = folder.absolute()
    if folder.parent.name == TRIALS and record["identity"] != folder.name:
        other = record["identity"][:_LONGEST_NAME]
        raise RecordError(f"{path} is the record of another trial, {other!r}", hint=_AGAIN)
    reason = _explain_ambiguity(record)
    if reason:
        raise RecordError(f"{path} does not answer for its identity: {reason}", hint=_AGAIN)
    return cast("Record", record)


def check_complete(record: Any, path: Path, kind: Any = Record) -> None:
    """Check a record against the type of a whole one, or another.

    Raises:
        RecordError: A key is missing or holds something else; the message names file and key.
    """
    try:
        check_type(record, kind)
    except ValueError as error:
        raise RecordError(f"{path} is not a record: {error}", hint=_AGAIN) from error


@dataclass(frozen=True, slots=True)
class Summary:
    """What a sweep shows of a record.

    Attributes:
        score: Selection score.
        epoch: Epoch of that score.
        seconds: Total seconds of the trial.
        pattern: Label of the pattern of its matrices.
    """

    score: float
    epoch: float
    seconds: float
    pattern: str


def read_summary(folder: Path) -> Summary | None:
    """Return what a sweep shows of a trial's record, or None if it has none; a file that has not changed is read once.

    Raises:
        RecordError: As :func:`read_record`.
    """
    try:
        status = (folder / RESULT).stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RecordError(f"{folder / RESULT} cannot be read: {error.strerror}", hint=_AGAIN) from error
    stamp = status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    known = _summaries.get(folder)
    if known is None or known[0] != stamp:
        record = read_record(folder)
        if record is None:
            return None
        summary = Summary(
            selected_value(record), best_epoch(record), float(record["seconds"]["total"]), pattern_of(record)
        )
        _summaries[folder] = known = stamp, summary
    return known[1]


_summaries: dict[Path, tuple[tuple[int, ...], Summary]] = {}


def _explain_ambiguity(record: Mapping[str, Any]) -> str:
    """Explain why a schema-1 identity also stood for trials with other outcomes; empty if it did not."""
    if record["schema"] > 1:
        return ""
    schedule = _get_nested(record, "config", "rho", "schedule")
    if _get_nested(record, "hashed", "method", "admm", "penalty") == "decoupled" and schedule not in {None, "constant"}:
        return f"rho.schedule={schedule} has rescaled the dual of a decoupled penalty, which is now independent of rho"
    finish = _get_nested(record, "hashed", "method", "admm", "finish")
    if _get_nested(record, "hashed", "method", "name") == "nxm_refit" and finish == "prune":
        return "method=nxm_refit with method.admm.finish=prune left method.admm.admm_fraction out of it"
    return ""


def _get_nested(values: Any, *keys: str) -> Any:
    for key in keys:
        values = values.get(key) if isinstance(values, dict) else None
    return values


def selected_value(record: Record) -> float:
    """Return the selection score of a trial: the reported one unless other rows select."""
    best = record["best"]
    return float(best.get("selection_value", best["value"]))


def rank_key(score: float, epoch: float, place: float) -> tuple[float, float, float]:
    """Return the sort key that puts the best trial or mean first: higher score, lower epoch, earlier in the grid.

    Args:
        score: Selection score; larger is better in every metric.
        epoch: Epoch of that score.
        place: Index in the grid.
    """
    return -score, epoch, place


def best_of(scored: Iterable[tuple[float, P]], epoch_of: Callable[[P], float]) -> tuple[float, P] | None:
    """Return the best score and its point by :func:`rank_key`.

    Args:
        scored: ``(score, point)`` in the order of the grid.
        epoch_of: Returns the epoch of a point's score; called only for points with equal scores.
    """
    entries = list(scored)
    top = max((score for score, _ in entries), default=None)
    tied = [entry for entry in entries if entry[0] == top]
    if len(tied) < 2:
        return tied[0] if tied else None
    keys = [rank_key(score, epoch_of(point), index) for index, (score, point) in enumerate(tied)]
    return tied[keys.index(min(keys))]


def best_epoch(record: Record) -> float:
    """Return the epoch of a trial's score; infinity if the record lacks it."""
    return float(record["best"].get("epoch", math.inf))


def constant_value(record: Record) -> float | None:
    """Return the reported score of the constant answer: the selection metric on the first validation set, for MNLI over both.

    None if the record lacks it.
    """
    constant = record["data"].get("constant")
    if not constant:
        return None
    first = float(next(iter(constant.values()))[record["selection"]["metric"]])
    return float(_average_mnli(record, constant, first))


def beats(score: float, constant: float | None) -> bool | None:
    """Return whether a score is above that of the constant answer; None if the latter is unknown."""
    return None if constant is None else score > constant + _ROUNDING


def pattern_of(record: Record) -> str:
    """Return the label of a trial's pattern, from the constraints of its matrices."""
    return pattern_label((target["constraint"] for target in record["sparsity"]["targets"]), record["sparsity_name"])


def reported_scores(record: Record) -> Scores:
    """Return the selected model's scores by validation set and metric."""
    epoch = selected_epoch(record)
    return dict(record.get("reported") or epoch["pruned"] or epoch["unpruned"] or {})


def reported_value(record: Record) -> Any:
    """Return the reported score of a trial: the selection metric on the first validation set.

    For MNLI, the mean over m and mm (GLUE's rule).
    """
    return _average_mnli(record, reported_scores(record), record["best"]["value"])


def unpruned_value(record: Record) -> Any:
    """Return the reported score of the unpruned model; None if only the pruned one was scored."""
    first = record["best"]["unpruned_value"]
    return None if first is None else _average_mnli(record, selected_epoch(record)["unpruned"] or {}, first)


def _average_mnli(record: Record, scores: Mapping[str, Mapping[str, Any]], first: Any) -> Any:
    if record["task"] != "glue/mnli":
        return first
    metric = record["selection"]["metric"]
    values = [float(score[metric]) for score in scores.values() if score.get(metric) is not None]
    return sum(values) / len(values) if values else first


def at_last_epoch(record: Record) -> Record:
    """Return a trial as if no epoch had been selected: scored at its last one.

    A trial whose epoch was selected on held-out rows has no other score and stays as it is.
    """
    last = record["epochs"][-1]
    if record["selection"].get("name", "dev") != "dev" or last["epoch"] == record["best"]["epoch"]:
        return record
    best = {"epoch": last["epoch"], "value": last["selection"], "unpruned_value": last["unpruned_selection"]}
    scored = {**record, "best": best}
    scored.pop("reported", None)  # of the selected epoch
    return cast("Record", scored)


def selected_epoch(record: Record) -> Epoch:
    """Return the entry of the selected epoch.

    Raises:
        StopIteration: There is none.
    """
    return next(epoch for epoch in record["epochs"] if epoch["epoch"] == record["best"]["epoch"])


def read_records(output_dir: Path) -> Iterator[Record]:
    """Yield every record under ``output_dir``, ordered by identity.

    Raises:
        RecordError: As :func:`read_record`.
    """
    for path in sorted((output_dir / TRIALS).glob(f"*/{RESULT}")):
        record = read_record(path.parent)
        if record is not None:
            yield record


def find_trial(output_dir: Path, trial: str) -> Path:
    """Return the folder of a finished trial.

    Args:
        output_dir: Root of the trials.
        trial: Identity, a prefix of it that is unique among finished trials, or a trial's folder.

    Raises:
        RecordError: No trial or several match, or the only match has no record yet.
    """
    folder = Path(trial).expanduser()
    if trial and (folder / RESULT).is_file():
        return folder
    if not trial or "/" in trial:
        raise RecordError(
            f"{trial!r} is no trial's folder: it holds no {RESULT}",
            hint="a trial's folder is OUTPUT_DIR/trials/IDENTITY",
        )
    trials = trial_folder(output_dir, "")
    matching = sorted(path for path in trials.glob("*") if path.name.startswith(trial) and path.is_dir())
    finished = [path for path in matching if (path / RESULT).is_file()]
    if len(finished) == 1:
        return finished[0]
    if finished:
        more = f" and {len(finished) - _LISTED} more" if len(finished) > _LISTED else ""
        names = ", ".join(path.name for path in finished[:_LISTED])
        raise RecordError(
            f"{len(finished)} trials under {trials} begin with {trial!r}", hint=f"give more of it: {names}{more}"
        )
    if matching:
        raise RecordError(f"the trial {matching[0].name} has no record", hint="it runs, or its training has failed")
    raise RecordError(
        f"no finished trial under {trials} begins with {trial!r}, and it is no trial's folder",
        hint="a trial is a folder of OUTPUT_DIR/trials; --output-dir says where",
    )


def saved_model(folder: Path) -> Path:
    """Return the folder of a trial's saved model.

    Raises:
        RecordError: The trial was run without ``save_model=true``.
    """
    model = folder / MODEL
    if not (model / "config.json").is_file():
        raise RecordError(
            f"the model of the trial {folder.resolve().name} was not saved",
            hint=SAVE_AGAIN,
        )
    return model


def teacher_model(settings: TrialSettings) -> ModelSettings:
    """Return the teacher of a trial as a model; one saved by a trial is a folder.

    Raises:
        ModelError: The teacher is a trial that does not exist or whose model was not saved.
    """
    teacher = settings.distillation.teacher
    source, path = teacher.source, teacher.path or ""
    if source == "trial":
        source, path = "folder", str(_find_saved_model(path, Path(settings.output_dir)))
    return ModelSettings("teacher", source, path, teacher.revision)


def _find_saved_model(trial: str, output_dir: Path) -> Path:
    """Return the saved model of a trial, which is an identity under ``output_dir`` or a folder."""
    for folder in (trial_folder(output_dir, trial), Path(trial).expanduser()):
        if (folder / MODEL).is_dir():
            return folder / MODEL
        if (folder / RESULT).is_file():
            raise ModelError(
                f"the trial {folder.name} cannot teach: its model was not saved",
                hint="run its command again with save_model=true force=true",
            )
    raise ModelError(
        f"there is no finished trial {trial!r} under {output_dir} to teach",
        hint="distillation.teacher.path takes a trial's identity or folder; distillation.teacher.source=folder, any model's",
    )
