"""The worked example of docs/methods.md: a method of one's own, in a copy of the package."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parents[2]


def test_a_method_is_one_file_one_config_and_one_line(tmp_path: Path, tiny_model: Path) -> None:
    page = (ROOT / "docs" / "methods.md").read_text()
    blocks = dict(re.findall(r"<!-- example: (\w+) -->\n```\w+\n(.*?)```", page, flags=re.DOTALL))
    for folder in ("nxm_sweep", "conf", "hydra_plugins"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    methods = tmp_path / "nxm_sweep" / "training" / "methods"
    (methods / "random_mask.py").write_text(blocks["method"])
    (tmp_path / "conf" / "method" / "random_mask.yaml").write_text(blocks["config"])
    with (methods / "__init__.py").open("a") as file:
        file.write(blocks["registration"])
    command = [
        *(sys.executable, "-m", "nxm_sweep", "task=demo/paraphrase", "task.rows={train:16,validation:8}"),
        *("method=random_mask", "method.options.draw=1", "model=local", f"model.path={tiny_model}"),
        *("training.epochs=1", "training.batch_size=8", "save_model=true", f"output_dir={tmp_path}"),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("trials/*/result.json")
    assert json.loads(path.read_text())["hashed"]["method"]["options"] == {"draw": 1}
    kept = load_file(path.parent / "model" / "model.safetensors")["bert.encoder.layer.0.output.dense.weight"] != 0
    assert (kept.reshape(-1, 4).sum(axis=1) == 2).all()
    before = np.abs(load_file(tiny_model / "model.safetensors")["encoder.layer.0.output.dense.weight"]).reshape(-1, 4)
    largest = before.argsort(axis=1).argsort(axis=1) >= 2
    assert (kept.reshape(-1, 4) != largest).any()
