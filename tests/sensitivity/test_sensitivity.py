"""``python -m nxm_sweep.sensitivity`` from a dense trial to a mixed one, on a tiny model."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from nxm_sweep.config.compose import compose_settings
from nxm_sweep.data.demo import generate
from nxm_sweep.data.loading import heldout_rows
from nxm_sweep.export.__main__ import main as export
from nxm_sweep.sensitivity.__main__ import main
from nxm_sweep.sensitivity.scanner import Measured, Meter, Unfinished
from nxm_sweep.store.record import Record
from nxm_sweep.trial.run import run_point
from nxm_sweep.verify import main as verify

TRAIN, DEV = 80, 16
SLICE = 24
Run = Callable[..., tuple[int, str, str]]


@dataclass(frozen=True)
class Place:
    """A folder with a data set of its own, and a finished dense trial on it."""

    folder: Path
    overrides: list[str]
    trial: str

    @property
    def outputs(self) -> Path:
        return self.folder / "outputs"

    @property
    def trial_folder(self) -> Path:
        return self.outputs / "trials" / self.trial

    def train(self, *overrides: str) -> Record:
        return train(self.overrides, *overrides)


def train(*overrides: Any) -> Record:
    given = [*overrides[0], *overrides[1:]]
    return run_point(compose_settings(given), Console(file=io.StringIO()))[0]


def write_rows(path: Path, split: str, count: int) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["sentence1", "sentence2", "label"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(generate("paraphrase", split, count))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Place:
    folder = tmp_path_factory.mktemp("scan")
    write_rows(folder / "train.csv", "train", TRAIN)
    write_rows(folder / "dev.csv", "validation", DEV)
    overrides = [
        *("task=files", "task.text_columns=[sentence1,sentence2]", "task.metrics=[accuracy]"),
        *(f"task.files.train={folder}/train.csv", f"task.files.validation={folder}/dev.csv"),
        *("model=local", f"model.path={tiny_model}", f"output_dir={folder}/outputs", "save_model=true"),
        *("training.epochs=1", "training.batch_size=16", "training.max_length=32", "learning_rate.value=1e-3"),
    ]
    record = train(overrides, "method=dense", "training.max_train_samples=50")
    return Place(folder, overrides, record["identity"])


@pytest.fixture
def run(place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("COLUMNS", "200")

    def command(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([*arguments, "--output-dir", str(place.outputs)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return command


@pytest.fixture
def scan(run: Run, place: Place, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Scans the dense trial, or what it is told to; returns what the file holds."""

    def make(*arguments: str, source: str = place.trial, to: str = "scan.json") -> dict[str, Any]:
        (tmp_path / to).unlink(missing_ok=True)
        code, _, stderr = run(source, *arguments, "--to", str(tmp_path / to), "--rows", str(SLICE))
        assert code == 0, stderr
        found: dict[str, Any] = json.loads((tmp_path / to).read_text())
        return found

    return make


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may load a model."""
    monkeypatch.setattr("nxm_sweep.sensitivity.scanner.load_classifier", None)


MATRICES = [
    f"bert.encoder.layer.{layer}.{matrix}.weight"
    for layer in range(2)
    for matrix in (
        *("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"),
        *("intermediate.dense", "output.dense"),
    )
]


def test_every_matrix_is_measured_with_every_candidate_and_the_budget_is_met(
    scan: Callable[..., dict[str, Any]], place: Place
) -> None:
    before = {path: path.read_bytes() for path in place.trial_folder.rglob("*") if path.is_file()}
    found = scan("--density", "0.6")
    assert [(reading["matrix"], reading["constraint"]) for reading in found["readings"]] == [
        (matrix, held) for matrix in MATRICES for held in ("2 of 4", "1 of 4")
    ]
    for reading in found["readings"]:
        assert reading["loss_rise"] == pytest.approx(reading["loss"] - found["dense"]["loss"])
        assert reading["score_drop"] == pytest.approx(found["dense"]["score"] - reading["score"])
    shares = {"2 of 4": 0.5, "1 of 4": 0.25, "dense": 1.0}
    sizes = {reading["matrix"]: reading["rows"] * reading["columns"] for reading in found["readings"]}
    kept = sum(size * shares[found["chosen"]["matrices"][name]] for name, size in sizes.items())
    assert found["chosen"]["density"] == pytest.approx(kept / sum(sizes.values()))
    assert 0.4 < found["chosen"]["density"] <= 0.6
    assert found["rows"]["seen"] == 0  # 30 of 80 rows were left out of the training
    assert (found["rows"]["count"], found["rows"]["of"], found["metric"]) == (SLICE, TRAIN, "accuracy")
    assert {path: path.read_bytes() for path in before} == before


def test_the_most_sensitive_matrix_is_shown_first(run: Run, place: Place, tmp_path: Path) -> None:
    code, stdout, _ = run(place.trial, "--to", str(tmp_path / "scan.json"), "--rows", str(SLICE))
    found = json.loads((tmp_path / "scan.json").read_text())
    worst: dict[str, float] = {}
    for reading in found["readings"]:
        worst[reading["matrix"]] = max(reading["loss_rise"], worst.get(reading["matrix"], -1.0))
    shown = [line.split()[0] for line in stdout.splitlines() if line.startswith("bert.")]
    assert code == 0
    assert [f"{name}.weight" for name in shown] == sorted(worst, key=lambda name: -worst[name])
    assert f"scored on {SLICE} of {TRAIN} training rows; the model was not trained on them" in stdout
    assert f"sparsity=mixed sparsity.scan={tmp_path}/scan.json" in stdout


def test_validation_rows_have_no_part_in_it(scan: Callable[..., dict[str, Any]], place: Place) -> None:
    dev = place.folder / "dev.csv"
    before, whole = scan(), dev.read_text()
    header, *lines = whole.splitlines()
    try:
        dev.write_text("\n".join([header, *(line[:-1] + str(1 - int(line[-1])) for line in lines)]) + "\n")
        assert scan() == before
    finally:
        dev.write_text(whole)


def test_rows_that_a_trial_held_out_are_scored(
    scan: Callable[..., dict[str, Any]], place: Place, tmp_path: Path
) -> None:
    copy = tmp_path / "0123456789abcdef"
    shutil.copytree(place.trial_folder, copy)
    record = json.loads((copy / "result.json").read_text())
    record["config"]["selection"] = {"name": "heldout", "fraction": 0.1}
    (copy / "result.json").write_text(json.dumps(record))
    found = scan(source=str(copy))["rows"]
    assert (found["count"], found["seen"]) == (8, 0)
    with (place.folder / "train.csv").open() as file:
        rows = list(csv.DictReader(file))
    held = [rows[number] for number in heldout_rows(TRAIN, 0.1)[1]]
    columns = [
        [row["sentence1"] for row in held],
        [row["sentence2"] for row in held],
        [int(row["label"]) for row in held],
    ]
    assert found["digest"] == hashlib.sha256(json.dumps(columns).encode()).hexdigest()


@pytest.mark.parametrize("method", ["asp", "nxm"])
def test_mixed_patterns_are_trained_saved_and_recorded(
    method: str,
    scan: Callable[..., dict[str, Any]],
    place: Place,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    chosen = scan("--density", "0.6")["chosen"]["matrices"]
    assert len(set(chosen.values())) > 1
    mixed = ["sparsity=mixed", f"sparsity.scan={tmp_path}/scan.json"]
    record = place.train(f"method={method}", "rho.value=1e-2", *mixed)
    assert record["sparsity_name"] == "mixed"
    assert record["sparsity"]["exact"]
    assert {target["matrix"]: target["constraint"] for target in record["sparsity"]["targets"]} == {
        name: held for name, held in chosen.items() if held != "dense"
    }
    assert len(record["config"]["sparsity"]["rules"]) == len(chosen)
    weights = load_file(place.outputs / "trials" / record["identity"] / "model" / "model.safetensors")
    most = {"2 of 4": 2, "1 of 4": 1, "dense": 4}
    for name, held in chosen.items():
        kept = torch.count_nonzero(weights[name].reshape(-1, 4), dim=1)
        assert int(kept.max()) == most[held]

    shipped = str(tmp_path / "shipped")
    assert export([record["identity"], "--output-dir", str(place.outputs), "--to", shipped]) == 0
    assert verify([shipped]) == 0
    assert "held against sparsity.json (mixed)" in capsys.readouterr().out

    (tmp_path / "scan.json").rename(tmp_path / "moved.json")
    moved = place.train(f"method={method}", "rho.value=1e-2", "sparsity=mixed", f"sparsity.scan={tmp_path}/moved.json")
    assert moved["finished"] == record["finished"]  # the same trial, not trained again


def test_a_pruned_trial_is_refused(run: Run, place: Place, tmp_path: Path) -> None:
    identity = place.train("method=asp")["identity"]
    code, _, stderr = run(identity, "--to", str(tmp_path / "scan.json"))
    assert code == 2
    assert f"the trial {identity} is pruned already" in stderr
    assert "method=dense save_model=true" in stderr


def test_another_budget_is_met_from_the_file_without_a_model(
    scan: Callable[..., dict[str, Any]], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh, loose = scan("--density", "0.4"), scan("--density", "0.9", to="loose.json")
    monkeypatch.setattr("nxm_sweep.sensitivity.scanner.load_classifier", None)
    code, _, _ = run(str(tmp_path / "loose.json"), "--density", "0.4", "--to", str(tmp_path / "again.json"))
    again = json.loads((tmp_path / "again.json").read_text())
    assert code == 0
    assert again["rules"] == fresh["rules"] != loose["rules"]
    assert again["chosen"] == fresh["chosen"] | {"loss": None, "score": None}
    assert again["readings"] == loose["readings"]


def test_hardware_takes_2_of_4_or_dense(scan: Callable[..., dict[str, Any]]) -> None:
    found = scan("--hardware", "--density", "0.7")
    assert found["candidates"] == ["2 of 4"]
    assert set(found["chosen"]["matrices"].values()) == {"2 of 4", "dense"}


def test_hardware_leaves_1_of_4_out_of_a_scan_that_has_it(
    scan: Callable[..., dict[str, Any]], run: Run, tmp_path: Path
) -> None:
    assert "1 of 4" in scan("--density", "0.5")["chosen"]["matrices"].values()
    code, _, _ = run(str(tmp_path / "scan.json"), "--hardware", "--to", str(tmp_path / "hardware.json"))
    assert code == 0
    assert set(json.loads((tmp_path / "hardware.json").read_text())["chosen"]["matrices"].values()) == {"2 of 4"}


def test_a_strangers_model_is_scanned_on_the_task_it_is_given(
    run: Run, scan: Callable[..., dict[str, Any]], place: Place, tmp_path: Path
) -> None:
    task = [override for override in place.overrides if override.startswith(("task", "training.max_length"))]
    own = scan()
    code, stdout, _ = run(
        str(place.trial_folder / "model"), *task, "--rows", str(TRAIN), "--to", str(tmp_path / "other.json")
    )
    found = json.loads((tmp_path / "other.json").read_text())
    assert code == 0
    assert "whether the model was trained on them is not known" in stdout
    assert found["made_from"] == own["made_from"] | {"trial": None}
    assert found["rows"]["seen"] is None


def test_a_trial_is_scanned_in_its_own_precision(
    run: Run, scan: Callable[..., dict[str, Any]], place: Place, tmp_path: Path
) -> None:
    in_fp32 = scan()
    record = json.loads((place.trial_folder / "result.json").read_text())
    record["config"]["training"]["precision"] = "bf16"
    shutil.copytree(place.trial_folder, tmp_path / "bf16")
    (tmp_path / "bf16/result.json").write_text(json.dumps(record))
    code, stdout, _ = run(str(tmp_path / "bf16"), "--rows", str(SLICE), "--to", str(tmp_path / "bf16.json"))
    found = json.loads((tmp_path / "bf16.json").read_text())
    assert code == 0
    assert (in_fp32["precision"], found["precision"]) == ("fp32", "bf16")
    assert "the model was not trained on them; in bf16" in stdout
    assert found["dense"]["loss"] == pytest.approx(in_fp32["dense"]["loss"], rel=0.02)
    assert found["dense"]["loss"] != pytest.approx(in_fp32["dense"]["loss"], rel=1e-6)


BAD = [
    ("TRIAL --density 0", "--density must lie above 0 and be at most 1 but got 0"),
    ("TRIAL --density 0.2", "--density 0.2 cannot be reached: the sparsest candidate keeps 0.25"),
    ("TRIAL --hardware --density 0.4", "--density 0.4 cannot be reached: the sparsest candidate keeps 0.5"),
    ("TRIAL --hardware --candidates 1of4", "--hardware chooses 2 of 4, which is none of the candidates"),
    ("TRIAL --candidates 4of4", "--candidates holds a pattern that keeps everything"),
    ("TRIAL --candidates half", "'half' names no pattern"),
    ("TRIAL --rows 1", "--rows must be at least 2 but got 1"),
    ("TRIAL task=glue/rte", "a trial says itself what it was trained on"),
    ("no_such_trial", "no finished trial under"),
    ("MODEL", "does not say what it was trained on"),
    ("MODEL task=glue/rte task.metrics=[f2]", "task.metrics must be among accuracy"),
    ("no.json", "there is no scan no.json"),
    ("no.json --candidates 2of4", "a scan's file says itself what was measured"),
]


@pytest.mark.parametrize(("arguments", "error"), BAD, ids=[case[0] for case in BAD])
@pytest.mark.usefixtures("no_model")
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: str, error: str, run: Run, place: Place, tmp_path: Path
) -> None:
    words = arguments.replace("TRIAL", place.trial).replace("MODEL", str(place.trial_folder / "model")).split()
    code, _, stderr = run(*words, "--to", str(tmp_path / "scan.json"))
    assert code == 2
    assert stderr.startswith(f"error: {error}") or error in stderr.splitlines()[0]
    assert all(line.startswith(("error: ", "hint: ")) for line in stderr.splitlines())
    assert not (tmp_path / "scan.json").exists()


def test_nothing_is_overwritten(run: Run, place: Place, tmp_path: Path) -> None:
    (tmp_path / "scan.json").write_text("mine")
    code, _, stderr = run(place.trial, "--to", str(tmp_path / "scan.json"))
    assert (code, (tmp_path / "scan.json").read_text()) == (2, "mine")
    assert "nothing is overwritten" in stderr
    code, _, stderr = run(place.trial, "--to", str(tmp_path / "no" / "scan.json"))
    assert code == 2
    assert "is in no folder that exists" in stderr


def test_an_interrupted_scan_continues_and_measures_nothing_twice(
    scan: Callable[..., dict[str, Any]], run: Run, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = scan(to="whole.json")
    measured: list[int] = []
    measure = Meter.measure

    def counted(meter: Meter) -> Measured:
        if len(measured) == 9:
            raise KeyboardInterrupt
        measured.append(1)
        return measure(meter)

    monkeypatch.setattr(Meter, "measure", counted)
    command = (place.trial, "--to", str(tmp_path / "scan.json"), "--rows", str(SLICE))
    code, _, stderr = run(*command)
    assert (code, stderr.strip()) == (130, "stopped; the same command continues")
    assert not (tmp_path / "scan.json").exists()
    measured[:] = [0] * 10  # no further interruption
    code, stdout, _ = run(*command)
    assert code == 0
    assert "continuing after 9 measurements" in stdout
    total = 1 + 2 + 2 * len(MATRICES) + 1  # dense, both candidates everywhere, each matrix alone, the choice
    assert sum(measured) == total - 9
    assert json.loads((tmp_path / "scan.json").read_text()) == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scan.json", "whole.json"]


def test_what_was_measured_of_another_scan_is_not_taken(tmp_path: Path) -> None:
    first = Unfinished(tmp_path / "scan.json", {"rows": 24})
    first.add("dense", {"loss": 0.5, "score": None})
    assert Unfinished(tmp_path / "scan.json", {"rows": 24}).measured == {"dense": {"loss": 0.5, "score": None}}
    assert Unfinished(tmp_path / "scan.json", {"rows": 25}).measured == {}
    (tmp_path / "scan.json.unfinished").write_text("{")
    assert Unfinished(tmp_path / "scan.json", {"rows": 24}).measured == {}
