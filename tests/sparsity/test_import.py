"""The library stands on its own: PyTorch and safetensors, none of the sweep's dependencies."""

from __future__ import annotations

import subprocess
import sys

import nxm_sweep.sparsity

HEAVY = ("accelerate", "datasets", "hydra", "omegaconf", "optuna", "pandas", "rich", "scipy", "sklearn", "transformers")


def test_importing_the_library_imports_none_of_the_sweeps_dependencies() -> None:
    code = "import sys, nxm_sweep.sparsity; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "torch" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_every_public_name_exists_once_and_in_order() -> None:
    public = nxm_sweep.sparsity.__all__
    assert public == sorted(set(public))
    assert all(hasattr(nxm_sweep.sparsity, name) for name in public)
