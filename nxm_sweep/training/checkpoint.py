"""Optimizer, scheduler, random state and method of a trainer on disk: safetensors and JSON, no pickle."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

OPTIMIZER = "optimizer.safetensors"
METHOD = "method.safetensors"
RANDOM = "random.safetensors"
STATE = "nxm_sweep.json"


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


def complete_checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints in ``folder``, oldest first."""
    checkpoints = [path for path in folder.glob("checkpoint-*[0-9]") if (path / "trainer_state.json").is_file()]
    complete = [path for path in checkpoints if _is_readable(path / "trainer_state.json") and (path / STATE).is_file()]
    return sorted(complete, key=lambda path: int(path.name.rpartition("-")[2]))


def _random_file(folder: Path, rank: int) -> Path:
    return folder / (f"{rank}.{RANDOM}" if rank else RANDOM)


def _is_readable(path: Path) -> bool:
    try:
        json.loads(path.read_text())
    except ValueError:
        return False
    return True
