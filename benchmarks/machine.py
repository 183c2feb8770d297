"""Description of the machine of a run, without anything that identifies it or its owner."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "transformers", "accelerate", "datasets", "optuna", "hydra-core")
_BF16 = ("avx512_bf16", "amx_bf16", "bf16")  # x86, x86, ARM


def cpu_flags() -> set[str]:
    """Return the CPU's feature flags, as Linux names them; empty elsewhere."""
    return set(_read_cpuinfo("flags", "Features").split())


def has_native_bf16() -> bool:
    """Return whether the CPU multiplies in bf16 natively."""
    return any(flag in cpu_flags() for flag in _BF16)


def describe() -> dict[str, Any]:
    """Return the CPU, its cores, the versions and the commit."""
    return {
        "cpu": _read_cpuinfo("model name", "Model") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "flags": sorted(flag for flag in cpu_flags() if flag in {*_BF16, "avx2", "avx512f", "amx_tile"}),
        "system": platform.system(),
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}},
        **commit(),
    }


def commit() -> dict[str, Any]:
    """Return the checkout's commit, and whether files differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S607

    try:
        changed = git("status", "--porcelain", "--", "nxm_sweep", "conf", "benchmarks/*.py")
        return {"commit": git("rev-parse", "HEAD"), "modified": bool(changed)}
    except (OSError, subprocess.CalledProcessError):  # no git, or no checkout
        return {"commit": "unknown", "modified": False}


def _read_cpuinfo(*names: str) -> str:
    """Return the first value of /proc/cpuinfo under one of these names, or an empty text."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    fields = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in fields if name.strip() in names), "")
