"""A trial in two processes is the trial in one: the same rows in every step, the same supports, the same scores."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import psutil
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from transformers import BertModel

from nxm_sweep.config.compose import compose_settings
from nxm_sweep.errors import NonFiniteError
from nxm_sweep.store.paths import trial_folder
from nxm_sweep.training.checkpoint import complete_checkpoints
from nxm_sweep.trial.run import run_point

SECONDS = 900.0  # no wait of these tests is longer
TOLERANCE = 1e-5  # of weights, losses and scores


@dataclass(frozen=True)
class Trained:
    """A finished trial."""

    folder: Path
    said: str

    @property
    def record(self) -> dict[str, Any]:
        record: dict[str, Any] = json.loads((self.folder / "result.json").read_text())
        return record

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return load_file(self.folder / "model" / "model.safetensors")

    @property
    def predictions(self) -> dict[str, Any]:
        predictions: dict[str, Any] = json.loads((self.folder / "predictions.json").read_text())
        return predictions

    @property
    def targets(self) -> list[str]:
        return [row["matrix"] for row in self.record["sparsity"]["targets"]]


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Token ids are cached here and not at home, by the processes of a trial too."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
        patch.setenv("HF_DATASETS_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def overrides(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A trial without dropout, whose answers depend on what is pruned; its last batches and micro-batches are not whole."""
    folder = tmp_path_factory.mktemp("still") / "model"
    shutil.copytree(tiny_model, folder)
    model = BertModel.from_pretrained(folder)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
                module.weight.mul_(8.0)
    model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = 0.0
    model.config.initializer_range = 0.3  # the new head's
    model.save_pretrained(folder)
    return [
        *("task=demo/paraphrase", "task.rows={train:91,validation:67}", "model=local", f"model.path={folder}"),
        *("training.epochs=3", "training.max_length=32", "training.batch_size=8", "training.gradient_accumulation=2"),
        *("learning_rate.value=2e-3", "rho.value=1e-2", "training.threads=1", "save_model=true"),
        *("method=nxm_paper", "method.admm.interval=4", "method.admm.interval_unit=step"),
    ]


def _train(overrides: list[str], folder: Path, *more: str) -> Trained:
    console = Console(file=io.StringIO(), width=200)
    record, trained = run_point(compose_settings([*overrides, f"output_dir={folder}", *more]), console)
    assert trained
    assert isinstance(console.file, io.StringIO)
    return Trained(trial_folder(folder, record["identity"]), console.file.getvalue())


@pytest.fixture(scope="module")
def one(overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return _train(overrides, tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def two(overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return _train(overrides, tmp_path_factory.mktemp("two"), "training.devices=2")


def test_two_processes_find_the_supports_of_one(one: Trained, two: Trained) -> None:
    assert len(one.targets) == 12
    assert one.targets == two.targets
    for name in one.targets:
        assert torch.equal(one.weights[name] != 0, two.weights[name] != 0), name


def test_two_processes_reach_the_weights_of_one(one: Trained, two: Trained) -> None:
    for name, weight in one.weights.items():
        if "key.bias" not in name:  # its gradient is zero but for rounding, which Adam turns into whole steps
            torch.testing.assert_close(two.weights[name], weight, rtol=0.0, atol=TOLERANCE)


def test_two_processes_score_every_row_once_and_as_one_does(one: Trained, two: Trained) -> None:
    assert two.predictions == one.predictions
    assert len(two.predictions["sets"]["validation"]["labels"]) == 67
    assert len(set(two.predictions["sets"]["validation"]["predictions"])) > 1
    for mine, theirs in zip(two.record["epochs"], one.record["epochs"], strict=True):
        for kind in ("pruned", "unpruned"):
            assert mine[kind]["validation"] == pytest.approx(theirs[kind]["validation"], abs=TOLERANCE)
        assert mine["training_loss"] == pytest.approx(theirs["training_loss"], abs=TOLERANCE)


def test_two_processes_record_the_rows_as_one_does(one: Trained, two: Trained) -> None:
    assert two.record["data"] == one.record["data"]
    assert {"constant", "duplicates"} <= set(two.record["data"])


def test_two_processes_iterate_as_one_does(one: Trained, two: Trained) -> None:
    assert len(one.record["iterations"]) == 4
    for mine, theirs in zip(two.record["iterations"], one.record["iterations"], strict=True):
        assert mine["step"] == theirs["step"]
        for figure in ("primal", "dual", "distance", "support_flips", "mean_penalty_share"):
            assert mine[figure] == pytest.approx(theirs[figure], rel=1e-4), figure


def test_number_of_processes_is_part_of_the_identity(one: Trained, two: Trained) -> None:
    assert "devices" not in one.record["hashed"]["training"]
    assert two.record["hashed"]["training"]["devices"] == 2
    assert one.record["steps"] == two.record["steps"] == 18


def _command(overrides: list[str], folder: Path, *more: str, launcher: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "nxm_sweep", *overrides, "training.devices=2", f"output_dir={folder}", *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200", "HF_HUB_OFFLINE": "1"},
    )


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.mark.slow
def test_killed_command_ends_its_processes_and_torchrun_continues_to_the_same_bits(
    overrides: list[str], two: Trained, tmp_path: Path
) -> None:
    killed = _command(overrides, tmp_path)
    family: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + SECONDS
        while not any(map(complete_checkpoints, tmp_path.glob("trials/*/work"))):
            assert killed.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        family = psutil.Process(killed.pid).children(recursive=True)
        assert len(family) == 2
    finally:
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
    assert not psutil.wait_procs(family, timeout=SECONDS)[1]
    (folder,) = tmp_path.glob("trials/*")
    assert not (folder / "result.json").exists()

    continued = _command(overrides, tmp_path, launcher=TORCHRUN)
    try:
        out, err = continued.communicate(timeout=SECONDS)
    finally:
        continued.kill()
    assert continued.returncode == 0, err
    assert out.count("continuing after step") == 1  # rank 0 alone speaks
    assert out.count("best accuracy") == 1
    again = Trained(folder, out)
    assert again.record["resumed_from_step"] in (6, 12)
    assert all(torch.equal(again.weights[name], weight) for name, weight in two.weights.items())
    assert again.record["iterations"] == two.record["iterations"]
    assert again.predictions == two.predictions


def test_auto_precision_is_that_of_rank_0_on_nodes_that_differ(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os\nimport nxm_sweep.config.device as device\n"
        "device.has_native_bf16 = lambda _: os.environ.get('RANK') == '0'\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    ranks = _command(overrides, tmp_path, "training.precision=auto", "training.epochs=1", launcher=TORCHRUN)
    out, err = ranks.communicate(timeout=SECONDS)
    assert ranks.returncode == 0, err
    assert out.count(", in bf16\n") == 1
    (folder,) = tmp_path.glob("trials/*")
    assert Trained(folder, out).record["hashed"]["training"]["precision"] == "bf16"


def test_loss_that_one_process_finds_to_be_nan_ends_both(overrides: list[str], one: Trained, tmp_path: Path) -> None:
    (source,) = (Path(override.removeprefix("model.path=")) for override in overrides if "model.path" in override)
    shutil.copytree(source, tmp_path / "model")
    model = BertModel.from_pretrained(source)
    words = (source / "vocab.txt").read_text().split()
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[words.index("assisted")] = float("nan")  # a word of some rows
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(NonFiniteError, match=r"the training loss became nan") as caught:
        _train(overrides, tmp_path, "training.devices=2", f"model.path={tmp_path}/model")
    assert "learning_rate.value" in caught.value.hint
