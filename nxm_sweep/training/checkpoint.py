"""Optimizer, scheduler, random state and method of a trainer on disk: safetensors and JSON, no pickle.

A checkpoint is complete once its manifest is written: size and checksum of each of its files, and of the best model so
far, all of which are on the disk by then. A resumed run uses the newest checkpoint whose files agree with its manifest.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from nxm_sweep.errors import RecordError
from nxm_sweep.store.files import open_regular_file, sync, write_json
from nxm_sweep.store.small_files import read_checked, set_aside, warn

OPTIMIZER = "optimizer.safetensors"
METHOD = "method.safetensors"
RANDOM = "random.safetensors"
STATE = "nxm_sweep.json"
MANIFEST = "manifest.json"
BEST = "best-"
"""Begin of the name of the folder of a best model; its epoch follows."""
_CHECKPOINT = re.compile(r"checkpoint-\d{1,18}")
_FILE = re.compile(rf"({_CHECKPOINT.pattern}|{BEST}\d+)/[\w.-]+")


class FileEntry(TypedDict):
    """One file of a manifest."""

    bytes: int
    sha256: str


class Manifest(TypedDict):
    """``manifest.json`` of a checkpoint: its files by their path below the work folder, and the best model's folder."""

    files: dict[str, FileEntry]
    best: str | None


def save_optimizer(folder: Path, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Write the optimizer's tensors; return the rest of its state as values for JSON."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    plain: dict[str, dict[str, Any]] = {}
    for index, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value.contiguous()
            else:
                plain.setdefault(str(index), {})[name] = value
    save_file(tensors, folder / OPTIMIZER)
    return {"state": plain, "param_groups": state["param_groups"]}


def load_optimizer(folder: Path, optimizer: torch.optim.Optimizer, plain: Mapping[str, Any]) -> None:
    """Restore what :func:`save_optimizer` wrote and returned."""
    state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in plain["state"].items()}
    for key, value in load_file(folder / OPTIMIZER).items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    groups = [
        {name: tuple(value) if name == "betas" else value for name, value in group.items()}
        for group in plain["param_groups"]
    ]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def save_random_state(folder: Path, rank: int = 0) -> None:
    """Write the state of Python's, NumPy's and PyTorch's generators, including that of the GPU in use.

    Args:
        folder: Destination.
        rank: Rank of this process; each rank has its own file.
    """
    version, internal, gauss = random.getstate()
    engine, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002 - the Trainer seeds it
    tensors = {
        "python": torch.tensor(internal, dtype=torch.int64),
        "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        tensors["cuda.0"] = torch.cuda.get_rng_state()
    plain = {"python": [version, gauss], "numpy": [engine, position, has_gauss, cached]}
    save_file(tensors, _random_file(folder, rank), metadata={"state": json.dumps(plain)})


def load_random_state(folder: Path, rank: int = 0) -> None:
    """Restore what :func:`save_random_state` wrote."""
    with safe_open(_random_file(folder, rank), framework="pt") as file:
        plain = json.loads(file.metadata()["state"])
        tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    version, gauss = plain["python"]
    random.setstate((version, tuple(tensors["python"].tolist()), gauss))
    engine, position, has_gauss, cached = plain["numpy"]
    keys = tensors["numpy"].numpy().astype(np.uint32)
    np.random.set_state((engine, keys, position, has_gauss, cached))  # noqa: NPY002 - the Trainer seeds it
    torch.set_rng_state(tensors["torch"])
    if "cuda.0" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda.0"])


def complete_checkpoints(work: Path) -> list[Path]:
    """Return the checkpoints in a work folder that have a manifest, oldest first; their files are not read."""
    return [path for path in _list_checkpoints(work) if (path / MANIFEST).is_file()]


def make_room(work: Path, best: Path | None = None) -> None:
    """Delete all checkpoints but the newest complete one, and the models that it does not name, before another is written.

    Args:
        work: The work folder of a trial.
        best: The best model so far, if the next checkpoint will name it.
    """
    kept = complete_checkpoints(work)[-1:]
    for path in _list_checkpoints(work):
        if path not in kept:
            (path / MANIFEST).unlink(missing_ok=True)  # first: without it, what is left is no checkpoint
            shutil.rmtree(path)
    needed = {name.partition("/")[0] for path in kept for name in _read_manifest(path)["files"]}
    for path in work.glob(f"{BEST}*"):
        if path.name not in needed and path != best:
            shutil.rmtree(path)


def seal(checkpoint: Path, best: Path | None) -> None:
    """Complete a checkpoint: write its files through to the disk, then its manifest.

    Args:
        checkpoint: Folder of the checkpoint, whose files are all written.
        best: Folder of the best model so far, beside it; None within the first epoch.
    """
    folders = [checkpoint] if best is None else [checkpoint, best]
    files = [path for folder in folders for path in sorted(folder.iterdir())]
    entries = {f"{path.parent.name}/{path.name}": _describe_file(path) for path in files}
    for path in (*files, *folders):
        sync(path)
    manifest: Manifest = {"files": entries, "best": None if best is None else best.name}
    write_json(checkpoint / MANIFEST, manifest, durable=True)
    sync(checkpoint)
    sync(checkpoint.parent)


def newest_usable(work: Path) -> Path | None:
    """Return the newest checkpoint whose files agree with its manifest, or None; damaged ones are named and set aside."""
    complete = complete_checkpoints(work)
    for path in reversed(complete):
        reason = find_damage(path)
        if not reason:
            return path
        set_aside(path, f"the checkpoint {path} is damaged: {reason}")
    if complete:
        warn("no usable checkpoint is left: the trial is trained from its beginning")
    return None


def find_damage(checkpoint: Path) -> str:
    """Return how a checkpoint differs from its manifest, in one line; empty if it does not."""
    try:
        manifest = _read_manifest(checkpoint)
        files = manifest["files"]
        for name, entry in files.items():
            if not _FILE.fullmatch(name):
                return f"{MANIFEST} names {name[:80]!r}, which is no file of it"
            if _describe_file(checkpoint.parent / name) != entry:
                return f"{name} is not what was written"
    except RecordError as error:
        return error.message
    except OSError as error:
        return f"{error.filename} cannot be read: {error.strerror}"
    folders = [name.partition("/")[0] for name in files]
    complete = {checkpoint.name, manifest["best"]} - {None} <= set(folders)
    return "" if complete else f"{MANIFEST} is not complete"


def _list_checkpoints(work: Path) -> list[Path]:
    checkpoints = [path for path in work.glob("checkpoint-*") if _CHECKPOINT.fullmatch(path.name) and path.is_dir()]
    return sorted(checkpoints, key=lambda path: int(path.name.rpartition("-")[2]))


def _read_manifest(checkpoint: Path) -> Manifest:
    """Read a manifest.

    Raises:
        RecordError: It is damaged.
    """
    manifest: Manifest = read_checked(checkpoint / MANIFEST, Manifest)
    return manifest


def _describe_file(path: Path) -> FileEntry:
    with open_regular_file(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": digest}


def _random_file(folder: Path, rank: int) -> Path:
    return folder / (f"{rank}.{RANDOM}" if rank else RANDOM)
