"""What each small JSON file of an output directory holds, and the one reader that checks it.

A file that cannot be used is named once on standard error and counts as missing, so that it stops neither a sweep nor a
report. The process that owns a folder sets it aside under another name (:func:`set_aside_damaged`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, NotRequired, TypedDict, get_args, get_origin, get_type_hints, is_typeddict

from nxm_sweep.console import error_console
from nxm_sweep.errors import RecordError
from nxm_sweep.store.files import read_regular_file
from nxm_sweep.store.paths import CLAIM, DAMAGED, FAILURES, JOB, PROGRESS, PRUNED_FILE, STOP

_NAME = re.compile(r"[\w-]{1,64}")  # of a folder; no path
_LARGEST = 2**63  # no counter of ours is larger


class Process(TypedDict):
    """A process on some machine, see :func:`~nxm_sweep.store.liveness.this_process`."""

    machine: str
    host: str
    pid: int
    started: float | None


class Coordinator(Process):
    """``sweeps/coordinators/OWNER.json``; ``job_of`` is the plan of a detached job."""

    since: float
    job_of: NotRequired[str]


class Claim(Coordinator):
    """``claim.json``."""

    owner: str


class EpochScore(TypedDict):
    """An epoch of a trial, as far as its progress is followed."""

    epoch: int
    selection: float


class Progress(TypedDict):
    """``progress.json``."""

    process: Process
    since: float
    step: int
    steps: int | None
    epochs: list[EpochScore]


class Pruned(TypedDict):
    """``pruned.json``."""

    epochs: list[EpochScore]


class Stop(TypedDict):
    """``stop.json``."""

    reason: str


class FailureEntry(TypedDict):
    """An entry of ``failures.json``."""

    kind: str
    message: str
    when: str
    traceback: NotRequired[str]


class Job(TypedDict):
    """``job.json``: its process while it runs, then the answer if it left no record."""

    process: NotRequired[Process]
    answer: NotRequired[dict[str, str]]


class PlanCell(TypedDict):
    """A cell of a plan; ``points`` are pairs of an identity and its values on ``axes``."""

    name: str
    axes: list[str]
    points: list[list[Any]]
    names: NotRequired[dict[str, str]]
    pattern: NotRequired[str | None]
    study: NotRequired[str]
    search: NotRequired[str]
    seeds: NotRequired[list[int]]
    wanted: NotRequired[int]


class PlanFile(TypedDict):
    """``sweeps/KEY.json``."""

    command: list[str]
    written: float
    n_trials: int | None
    cells: list[PlanCell]
    lease: NotRequired[float]
    max_attempts: NotRequired[int]
    pruning: NotRequired[bool]


TRIAL_FILES: Mapping[str, Any] = {
    CLAIM: Claim,
    FAILURES: list[FailureEntry],
    JOB: Job,
    PROGRESS: Progress,
    PRUNED_FILE: Pruned,
    STOP: Stop,
}
"""Type of the content of each small file in a trial's folder."""
_warned: set[Path] = set()


def read_checked(path: Path, kind: Any) -> Any:
    """Return the content of a JSON file after checking it against a type.

    Args:
        path: The file.
        kind: Type of its content: a TypedDict, a list or a plain type; keys that it does not list are ignored.

    Raises:
        FileNotFoundError: There is no file.
        RecordError: It cannot be read, is not JSON, or holds something else; the message names file and place.
    """
    try:
        data = read_regular_file(path)
        value = json.loads(data, parse_constant=_refuse_constant)
        if b"\\ud" in data.lower():  # half of a surrogate pair, of a path that is no UTF-8, cannot be printed
            text = json.dumps(value, ensure_ascii=False).encode("utf-16-le", "surrogatepass")
            value = json.loads(text.decode("utf-16-le", "replace"))
        check_type(value, kind)
        if kind is PlanFile:
            _check_points(value)
        if kind is Claim:
            _check_owner(value)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror or error}") from error
    except RecursionError as error:
        raise RecordError(f"{path} cannot be read: it is nested too deeply") from error
    except ValueError as error:
        raise RecordError(f"{path} cannot be read: {error}") from error
    return value


def read_small_file(path: Path, kind: Any) -> Any:
    """Return the checked content of a file that a sweep can do without, or None if it is missing or damaged.

    A damaged file is named on standard error, once per process.
    """
    try:
        return read_checked(path, kind)
    except FileNotFoundError:
        return None
    except RecordError as error:
        if path not in _warned:
            _warned.add(path)
            warn(f"{error.message}; it is ignored")
        return None


def set_aside(path: Path, reason: str) -> Path:
    """Rename a damaged file or folder beside itself, and name it on standard error; return its new path.

    Raises:
        OSError: It cannot be renamed.
    """
    number, place = 1, path.with_name(path.name + DAMAGED)
    while place.is_symlink() or place.exists():
        number += 1
        place = path.with_name(f"{path.name}{DAMAGED}-{number}")
    path.rename(place)
    warn(f"{reason}; it was set aside as {place.name}")
    return place


def set_aside_damaged(folder: Path, kinds: Mapping[str, Any] = TRIAL_FILES) -> None:
    """Set aside the damaged small files of a folder; the caller owns it.

    Args:
        folder: A trial's folder.
        kinds: Type of the content by file name.
    """
    for name, kind in kinds.items():
        try:
            read_checked(folder / name, kind)
        except FileNotFoundError:
            continue
        except RecordError as error:
            try:
                set_aside(folder / name, error.message)
            except OSError as refused:  # a folder that cannot be written; its file counts as missing
                warn(f"{error.message}; it cannot be set aside: {refused.strerror}")


def warn(message: str) -> None:
    """Print a warning on standard error."""
    error_console().print(f"warning: {message}", markup=False)


def check_type(value: Any, kind: Any, place: str = "") -> None:
    """Check a value from JSON against a type; numbers must be finite, and keys that a TypedDict lacks are ignored.

    Args:
        value: The value.
        kind: A TypedDict, ``list[...]``, ``dict[str, ...]``, a type or None, a plain type or ``Any``.
        place: Keys and indices that lead to the value, for the message.

    Raises:
        ValueError: It is something else; the message is one line.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any or (value is None and NoneType in arguments):
        return
    if origin is UnionType:
        *others, last = (part for part in arguments if part is not NoneType)
        check_type(value, next((part for part in others if type(value) is part), last), place)
    elif is_typeddict(kind):
        _check_keys(value, kind, place)
    elif origin is list:
        _require(isinstance(value, list), value, list, place)
        for index, item in enumerate(value):
            check_type(item, arguments[0], f"{place}[{index}]")
    elif origin is dict:
        _require(isinstance(value, dict), value, dict, place)
        for key, item in value.items():
            check_type(item, arguments[1], _join(place, key[:40]))
    elif kind is float or kind is int:
        _check_number(value, kind, place)
    else:
        _require(isinstance(value, kind), value, kind, place)


def _check_keys(value: Any, kind: Any, place: str) -> None:
    _require(isinstance(value, dict), value, dict, place)
    for name, (hint, required) in _keys_of(kind).items():
        if name in value:
            check_type(value[name], hint, _join(place, name))
        elif required:
            raise ValueError(f"{_join(place, name)} is missing")


def _join(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key


def _check_number(value: Any, kind: type[float | int], place: str) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    _require(is_number and (kind is float or isinstance(value, int)), value, kind, place)
    if not (math.isfinite(value) if isinstance(value, float) else abs(value) < _LARGEST):
        raise ValueError(f"{place or 'its content'} is out of range")


def _require(condition: object, value: Any, kind: Any, place: str) -> None:
    if not condition:
        wanted, got = _NAMES.get(kind, str(kind)), _NAMES.get(type(value), str(type(value)))
        raise ValueError(f"{place or 'its content'} must be {wanted} but is {got}")


_NAMES: Mapping[Any, str] = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    dict: "an object",
    list: "a list",
    NoneType: "null",
}


def _check_owner(claim: Claim) -> None:
    if not _NAME.fullmatch(claim["owner"]):  # a part of a file's name
        raise ValueError("its owner is no name of a coordinator")


def _check_points(plan: PlanFile) -> None:
    for cell in plan["cells"]:
        for point in cell["points"]:
            match point:
                case [str(identity), list(values)] if _NAME.fullmatch(identity) and len(values) == len(cell["axes"]):
                    continue
            raise ValueError(f"a point of the cell {cell['name'][:80]!r} is not an identity with a value for each axis")


@cache
def _keys_of(kind: Any) -> dict[str, tuple[Any, bool]]:
    """Return type and necessity of each key of a TypedDict."""
    return {
        name: (get_args(hint)[0], False) if get_origin(hint) is NotRequired else (hint, True)
        for name, hint in get_type_hints(kind, include_extras=True).items()
    }


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
