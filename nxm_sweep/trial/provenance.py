"""A trial's versions, hardware and commit: recorded, never hashed."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

import torch

_PACKAGES = (
    "nxm_sweep",
    "torch",
    "transformers",
    "datasets",
    "accelerate",
    "tokenizers",
    "safetensors",
    "numpy",
    "scikit-learn",
    "scipy",
)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result may depend on."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in _PACKAGES}}


def hardware(device: torch.device) -> dict[str, str | int]:
    """Return the device, the CPU threads and the machine type."""
    return {
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else "",
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "system": platform.system(),
    }


@cache
def git_commit() -> str | None:
    """Return the commit of this package's checkout, with ``+`` if modified; None when installed.

    Cached from the process' first trial, since its loaded code does not change.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
        status = subprocess.run(
            ["git", "-C", str(root), "status", "--porcelain", "--", "nxm_sweep", "conf"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+" if status.stdout.strip() else "")
