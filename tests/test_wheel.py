"""The built wheel carries all that a run needs, from any working directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content in a folder of its own."""
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(out / "site")
    return out / "site"


def run(installed: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_wheel_holds_every_config_and_no_test(installed: Path) -> None:
    wanted = {str(path.relative_to(ROOT / "conf")) for path in (ROOT / "conf").rglob("*.yaml")}
    packed = {str(path.relative_to(installed / "nxm_sweep/conf")) for path in (installed / "nxm_sweep/conf").rglob("*")}
    assert wanted <= packed
    assert (installed / "nxm_sweep/py.typed").is_file()
    assert not list(installed.rglob("test_*.py"))


def test_wheel_trains_a_trial_and_compares_it_from_another_directory(
    installed: Path, tiny_model: Path, tmp_path: Path
) -> None:
    trial = run(
        installed,
        tmp_path,
        "nxm_sweep",
        "task=demo/paraphrase",
        "task.rows={train:32,validation:16}",
        "model=local",
        f"model.path={tiny_model}",
        "training.epochs=1",
        "training.max_length=32",
    )
    assert trial.returncode == 0, trial.stderr
    assert "12 of 12 matrices hold exactly 2 of 4" in trial.stdout
    (path,) = (tmp_path / "outputs/trials").glob("*/result.json")
    record = json.loads(path.read_text())
    assert record["git_commit"] is None  # it did not run from the checkout
    report = run(installed, tmp_path, "nxm_sweep.report")
    assert report.returncode == 0, report.stderr
    assert "Paraphrase" in report.stdout
    assert trial.stderr == ""
