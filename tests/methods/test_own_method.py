"""The worked example of docs/methods.md: a method of one's own, in a package of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parents[2]


def _install(blocks: dict[str, str], folder: Path) -> dict[str, str]:
    """Lay out the example as an installed package; return the environment that finds it."""
    (folder / "random_mask.py").write_text(blocks["method"])
    (folder / "conf" / "method").mkdir(parents=True)
    (folder / "conf" / "method" / "random_mask.yaml").write_text(blocks["config"])
    info = folder / "random_mask-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: random_mask\nVersion: 1\n")
    groups = tomllib.loads(blocks["registration"])["project"]["entry-points"]
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in groups.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}


@pytest.fixture
def blocks() -> dict[str, str]:
    page = (ROOT / "docs" / "methods.md").read_text()
    return dict(re.findall(r"<!-- example: (\w+) -->\n```\w+\n(.*?)```", page, flags=re.DOTALL))


def test_a_method_is_a_class_a_config_and_an_entry_point(
    blocks: dict[str, str], tmp_path: Path, tiny_model: Path
) -> None:
    environment = _install(blocks, tmp_path)
    command = [
        *(sys.executable, "-m", "nxm_sweep", "--config-dir", "conf"),
        *("task=demo/paraphrase", "task.rows={train:16,validation:8}"),
        *("method=random_mask", "method.options.draw=1", "model=local", f"model.path={tiny_model}"),
        *("training.epochs=1", "training.batch_size=8", "save_model=true", f"output_dir={tmp_path}"),
    ]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("trials/*/result.json")
    assert json.loads(path.read_text())["hashed"]["method"]["options"] == {"draw": 1}
    kept = load_file(path.parent / "model" / "model.safetensors")["bert.encoder.layer.0.output.dense.weight"] != 0
    assert (kept.reshape(-1, 4).sum(axis=1) == 2).all()
    before = np.abs(load_file(tiny_model / "model.safetensors")["encoder.layer.0.output.dense.weight"]).reshape(-1, 4)
    largest = before.argsort(axis=1).argsort(axis=1) >= 2
    assert (kept.reshape(-1, 4) != largest).any()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("missing:Method", "cannot be loaded: No module named 'missing'"),
        ("random_mask:Asp.name", "cannot be loaded"),
        ("random_mask:torch", "is no subclass of nxm_sweep.SparseMethod"),
    ],
)
def test_a_broken_entry_point_is_one_line(blocks: dict[str, str], tmp_path: Path, value: str, said: str) -> None:
    broken = blocks["registration"].replace("random_mask:RandomMask", value)
    environment = _install({**blocks, "registration": broken}, tmp_path)
    command = [sys.executable, "-m", "nxm_sweep", "method=asp", f"output_dir={tmp_path}"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    first, *rest = done.stderr.splitlines()
    assert first.startswith(f"error: the entry point random_mask = {value} of the group nxm_sweep.methods {said}")
    assert not any(line.startswith("Traceback") for line in rest)


def test_no_entry_point_replaces_a_method(blocks: dict[str, str], tmp_path: Path) -> None:
    taken = blocks["registration"].replace('random_mask = "', 'asp = "')
    environment = _install({**blocks, "registration": taken}, tmp_path)
    command = [sys.executable, "-m", "nxm_sweep", "method=asp", f"output_dir={tmp_path}"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "has the name of another method" in done.stderr
