"""What a trial ran on: recorded, never hashed."""

from __future__ import annotations

import platform
from importlib import metadata

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
    """Return the device, the CPU threads and the kind of machine."""
    return {
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else "",
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "system": platform.system(),
    }
