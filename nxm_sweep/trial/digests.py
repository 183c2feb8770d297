"""Digests of data, models and teachers, cached between runs so that planning a finished sweep reads no data."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from nxm_sweep.data import demo, demo_vocabulary
from nxm_sweep.errors import ModelError
from nxm_sweep.settings import ModelSettings, TrialSettings
from nxm_sweep.store.files import read_json, write_json
from nxm_sweep.store.records import teacher_model
from nxm_sweep.trial.identity import canonical_json

_COMMIT = re.compile(r"[0-9a-f]{40}")
_LIMIT = 4096
"""A folder with more files is not cached."""


class DigestMemo:
    """Cache digests by the source of data and model, valid while its files' sizes and times do not change.

    Hub content is cached beyond this object only at a pinned commit: a branch may move.

    Args:
        file: The cache file; a damaged one is rebuilt.
        find: Computes unknown digests; by default :func:`find_digests` in this process.
    """

    def __init__(self, file: Path, find: Callable[[TrialSettings], Digests] | None = None) -> None:
        self._file, self._find_digests = file, find or find_digests
        self._known = _read(file)
        self._seen: dict[str, Digests] = {}

    def of(self, settings: TrialSettings) -> Digests:
        """Return the digests of a trial's data, model and teacher, reading them if necessary.

        Raises:
            DataError: The data set is missing or not what the task expects.
            ModelError: The model or the teacher is missing, or they do not fit together.
        """
        source = _hash(_describe_source(settings))
        if source not in self._seen:
            self._seen[source] = self._find(settings)
        return self._seen[source]

    def _find(self, settings: TrialSettings) -> Digests:
        key = input_key(settings)
        if key is not None and key in self._known:
            return self._known[key]
        digests = self._find_digests(settings)
        if key is not None:
            self._known = {**_read(self._file), **self._known, key: digests}  # others may have written it since
            write_json(self._file, {key: asdict(digests) for key, digests in self._known.items()})
        return digests


def find_digests(settings: TrialSettings) -> Digests:
    """Read a trial's data, model and teacher and return their digests.

    Raises:
        DataError: The data set is missing or not what the task expects.
        ModelError: The model or the teacher is missing, or they do not fit together.
    """
    from nxm_sweep.trial.train import prepare  # noqa: PLC0415 - seconds of imports, needed only here

    prepared = prepare(settings)
    return Digests(
        data=prepared.rows.digest,
        model=prepared.model_digest,
        train_rows=len(prepared.rows.train),
        teacher=prepared.teacher_digest,
        carries_head=prepared.carries_head,
    )


def model_bytes(model: ModelSettings) -> int | None:
    """Return the size of a model's weights on disk in bytes; None if they are not on this machine or unknown."""
    stamps = _stamp_model(model)
    if stamps is None or model.revision in stamps:
        file = try_to_load_from_cache(model.path, "model.safetensors", revision=model.revision)
        return Path(file).stat().st_size if isinstance(file, str) else None
    return sum(size for path, size, *_ in stamps if path.endswith(".safetensors")) or None


def _read(file: Path) -> dict[str, Digests]:
    entries = read_json(file)
    known = {}
    for key, entry in entries.items() if isinstance(entries, dict) else ():
        match entry:
            case {"data": str(data), "model": str(model), "train_rows": int(rows), "carries_head": bool(head)}:
                known[key] = Digests(data, model, rows, str(entry.get("teacher", "")), head)
    return known


def input_key(settings: TrialSettings) -> str | None:
    """Return a hash of what determines the digests; None if it cannot be known without reading."""
    data, model, teacher = _stamp_data(settings), _stamp_model(settings.model), _stamp_teacher(settings)
    if data is None or model is None or teacher is None:
        return None
    return _hash([*_describe_source(settings), data, model, *teacher])


def _describe_source(settings: TrialSettings) -> list[Any]:
    source: list[Any] = [asdict(settings.task), asdict(settings.data), asdict(settings.model)]
    if settings.distillation.enabled:
        source += [asdict(settings.distillation.teacher), str(Path(settings.output_dir).resolve())]
    return source


def _hash(value: Any) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def _stamp_data(settings: TrialSettings) -> list[Any] | None:
    match settings.task.kind:
        case "demo":
            return [_stamp_file(Path(str(module.__file__))) for module in (demo, demo_vocabulary)]
        case "files":
            return _stamp_files(map(Path, filter(None, settings.task.files.values())))
    folder = Path(settings.data.path).expanduser()
    if folder.is_dir():
        return _stamp_folder(str(folder.resolve()))
    return _stamp_revision(settings.data.revision)


def _stamp_teacher(settings: TrialSettings) -> list[Any] | None:
    """List the teacher's stamps; empty without one, None if unknown."""
    if not settings.distillation.enabled:
        return []
    try:
        stamps = _stamp_model(teacher_model(settings))
    except ModelError:  # reported when the teacher is read
        return None
    return None if stamps is None else [stamps]


def _stamp_model(model: ModelSettings) -> list[Any] | None:
    if model.source == "package":
        spec = importlib.util.find_spec(model.path) if model.path.isidentifier() else None
        folders = list(spec.submodule_search_locations or []) if spec is not None else []
        return _stamp_folder(folders[0]) if folders else None
    folder = Path(model.path).expanduser()
    if folder.is_dir():
        return _stamp_folder(str(folder.resolve()))
    return _stamp_revision(model.revision)


def _stamp_revision(revision: str | None) -> list[Any] | None:
    return [revision] if revision and _COMMIT.fullmatch(revision) else None


def _stamp_folder(folder: str) -> list[Any] | None:
    paths = (path for path in Path(folder).rglob("*") if "__pycache__" not in path.parts and path.is_file())
    return _stamp_files(paths)


def _stamp_files(paths: Iterator[Path]) -> list[Any] | None:
    stamps: list[Any] = []
    for path in paths:
        if not path.is_file() or len(stamps) == _LIMIT:
            return None
        stamps.append(_stamp_file(path))
    return sorted(stamps)


def _stamp_file(path: Path) -> list[Any]:
    status = path.stat()
    return [str(path.absolute()), status.st_size, str(status.st_mtime_ns), str(status.st_ctime_ns)]


@dataclass(frozen=True)
class Digests:
    """Content hashes of a cell's data, model and teacher.

    Attributes:
        data: Hash over the rows.
        model: Hash over the model's files.
        train_rows: Number of training rows.
        teacher: Hash over the teacher's files; empty without one.
        carries_head: Whether the model's files contain a classifier head.
    """

    data: str = ""
    model: str = ""
    train_rows: int = 0
    teacher: str = ""
    carries_head: bool = False
