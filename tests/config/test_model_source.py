"""A hub id or a folder as ``model=...``: composed wherever a choice is, and never under another model's name."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.types import RunMode

import nxm_sweep
import nxm_sweep.training.models
from nxm_sweep.__main__ import main
from nxm_sweep.config.compose import compose_settings, make_hydra
from nxm_sweep.errors import ConfigError, ModelError
from nxm_sweep.training.models import locate_model

HUB = "google-bert/bert-base-cased"
SMALL = ("task=demo/paraphrase", "task.rows={train: 24, validation: 8}", "method=asp", "training.device=cpu")
BRIEF = ("training.epochs=1", "training.batch_size=8", "training.threads=1")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A hub on which every id is the tiny model with the id in its configuration; the ids that were asked for."""
    asked: list[str] = []

    def download(model: Any) -> Path:
        folder = tmp_path_factory.mktemp("hub") / str(model.path)
        shutil.copytree(tiny_model, folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "id_on_the_hub": model.path}))
        asked.append(model.path)
        return folder

    monkeypatch.setattr(nxm_sweep.training.models, "_download_from_hub", download)
    return asked


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in an empty folder; returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        monkeypatch.setattr(sys, "argv", ["nxm_sweep", *arguments])
        capsys.readouterr()
        code = main()
        said = capsys.readouterr()
        return code, said.out, said.err

    return command


def model_of(*overrides: str) -> tuple[str, str, str]:
    model = compose_settings(overrides).model
    return model.name, model.source, model.path


# --- one model --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hub_id", [HUB, "a.b-c_d/0.1"])
def test_a_hub_id_is_a_model_named_so(hub_id: str) -> None:
    assert model_of(f"model={hub_id}") == (hub_id, "hub", hub_id)


@pytest.mark.parametrize("folder", ["./tiny.yaml", "/models/tiny", "models/of/mine"])
def test_a_path_is_a_folder_named_so(folder: str) -> None:
    assert model_of(f"model={folder}") == (folder, "folder", folder)


def test_a_folder_that_is_there_comes_before_a_hub_id_and_after_a_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("models/tiny", "tiny", "bert_base"):
        Path(name).mkdir(parents=True)
    assert model_of("model=models/tiny") == ("models/tiny", "folder", "models/tiny")
    assert model_of("model=tiny/") == ("tiny", "folder", "tiny")
    assert model_of("model=bert_base") == ("bert_base", "hub", "google-bert/bert-base-uncased")
    assert model_of("model=./bert_base") == ("./bert_base", "folder", "./bert_base")


def test_a_folder_of_the_users_home_keeps_the_name_that_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert model_of("model='~/tiny'") == ("~/tiny", "folder", "/home/someone/tiny")


def test_a_folder_with_blanks_and_commas_is_quoted(tmp_path: Path) -> None:
    folder = tmp_path / "my models, old"
    assert model_of(f"model='{folder}'")[1:] == ("folder", str(folder))


def test_other_settings_of_the_model_are_given_beside_it() -> None:
    model = compose_settings([f"model={HUB}", "model.revision=abc", "model.head=keep", "model.name=cased"]).model
    assert (model.name, model.path, model.revision, model.head) == ("cased", HUB, "abc", "keep")


def test_an_overlay_names_a_hub_id_too(tmp_path: Path, run: Run) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        f"# @package _global_\ndefaults:\n  - override /model: {HUB}\nseed: 3\n"
    )
    code, out, _ = run(f"--config-dir={tmp_path}", "experiment=mine", "--cfg", "job", "--package", "model")
    assert code == 0
    assert f"name: {HUB}\n" in out


@pytest.mark.parametrize(
    ("choice", "hint"),
    [
        ("bert_bas", "did you mean bert_base? model=OWNER/NAME takes a hub id and model=./DIR a folder"),
        ("whatever", "valid: bert_base, bert_large, distilbert"),
        ("3", "model=OWNER/NAME takes a hub id and model=./DIR a folder"),
        ("'two words/model'", "model=OWNER/NAME takes a hub id"),
        ("'a/b:c'", "model=OWNER/NAME takes a hub id"),
    ],
)
def test_what_is_no_location_is_refused_with_the_forms(choice: str, hint: str) -> None:
    with pytest.raises(ConfigError, match="is not one of its choices") as caught:
        compose_settings([f"model={choice}"])
    assert hint in caught.value.hint


def test_a_folder_that_is_not_there_is_refused_before_anything_loads(run: Run) -> None:
    code, _, err = run("task=demo/paraphrase", "model=./nowhere")
    assert (code, err.splitlines()[0]) == (2, "error: there is no folder nowhere")


def test_another_wrong_choice_is_not_blamed_on_the_model() -> None:
    with pytest.raises(ConfigError, match="sparsity=2:4 is not one of its choices"):
        compose_settings([f"model={HUB}", "sparsity=2:4"])


# --- a path without a name --------------------------------------------------------------------------------------------


def test_a_path_alone_does_not_keep_the_name_of_another_model() -> None:
    assert model_of(f"model.path={HUB}") == (HUB, "hub", HUB)
    assert model_of("model=minilm_l6", "model.path=other_package") == ("other_package", "package", "other_package")
    assert model_of(f"++model.path={HUB}")[0] == HUB


def test_a_path_beside_a_name_keeps_the_name() -> None:
    assert model_of("model=local", "model.path=here")[0] == "local"
    assert model_of("model.path=somewhere/else", "model.name=bert_base")[0] == "bert_base"
    assert model_of("model.revision=main")[0] == "bert_base"


def test_a_folder_given_as_the_path_of_a_hub_model_is_refused_with_the_way_out(tiny_model: Path) -> None:
    with pytest.raises(ModelError, match="is no hub id") as caught:
        locate_model(compose_settings([f"model.path={tiny_model}"]).model)
    assert caught.value.hint == "model=./DIR takes a folder"


# --- learning rates ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flip", [False, True])
def test_a_small_model_brings_its_learning_rates_into_the_papers_experiment(flip: bool) -> None:
    overrides = ["experiment=paper_table1", "model=minilm_l6"]
    settings = compose_settings(overrides[::-1] if flip else overrides)
    assert (settings.model.name, settings.learning_rate.grid) == ("minilm_l6", [1e-4, 2e-4, 4e-4])
    papers = compose_settings([*overrides, "learning_rate=paper"]).learning_rate.grid
    assert papers == compose_settings(["experiment=paper_table1"]).learning_rate.grid == [1e-5, 3e-5, 5e-5, 7e-5, 9e-5]


# --- in a sweep -------------------------------------------------------------------------------------------------------


def test_a_list_of_locations_and_choices_makes_a_cell_each(run: Run, hub: list[str], tiny_model: Path) -> None:
    shutil.copytree(tiny_model, "models/tiny")
    code, out, err = run(
        *("-m", "sweep.dry_run=true", *SMALL, f"model={HUB},models/tiny,distilbert", "seed=0,1"),
        "learning_rate.value=1e-4",
    )
    assert (code, err) == (0, "")
    assert hub == [HUB, "distilbert/distilbert-base-uncased"]
    for name in (HUB, "models/tiny", "distilbert"):
        assert f"demo/paraphrase asp 2of4 {name}: " in out


def test_cells_of_a_config_hold_hub_ids(run: Run, hub: list[str]) -> None:
    code, out, _ = run("-m", "sweep.dry_run=true", *SMALL, f"sweep.cells={{model: [{HUB}, owner/other]}}")
    assert code == 0
    assert hub == [HUB, "owner/other"]
    assert f" {HUB}: " in out
    assert " owner/other: " in out


def test_paths_of_a_sweep_name_their_cells(run: Run, hub: list[str]) -> None:
    code, out, _ = run("-m", "sweep.dry_run=true", *SMALL, "model.path=owner/one,owner/two")
    assert code == 0
    assert hub == ["owner/one", "owner/two"]
    assert " owner/one: " in out
    assert " owner/two: " in out


def test_a_rule_excludes_points_of_a_hub_id(run: Run, hub: list[str]) -> None:
    rule = f"sweep.exclude=[{{model: {HUB}, training.batch_size: 16}}]"
    code, out, _ = run("-m", "sweep.dry_run=true", *SMALL, f"model={HUB},owner/other", "learning_rate.value=1e-4", rule)
    assert code == 0
    assert "3 points in 2 cells" in out


def test_a_job_elsewhere_composes_the_folder_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    loader = pickle.dumps(make_hydra().config_loader)  # as a launcher sends it to its jobs
    monkeypatch.chdir("/")
    config = pickle.loads(loader).load_configuration("config", ["model=models/tiny"], RunMode.RUN)  # noqa: S301
    assert (config.model.source, config.model.name) == ("folder", "models/tiny")


# --- in records and tables --------------------------------------------------------------------------------------------


def test_records_and_tables_name_the_location_and_identities_its_content(
    tmp_path: Path, hub: list[str], tiny_model: Path
) -> None:
    small = [*SMALL, *BRIEF, f"output_dir={tmp_path}"]
    record = nxm_sweep.run([*small, f"model={HUB}"])
    assert (record["model_name"], record["config"]["model"]["path"]) == (HUB, HUB)
    assert nxm_sweep.load(tmp_path)["model"].tolist() == [HUB]
    found = nxm_sweep.run([*small, f"model={tiny_model}"])
    assert found["model_name"] == str(tiny_model)
    same = nxm_sweep.run([*small, "model=local", f"model.path={tiny_model}"])
    assert same["model_name"] == str(tiny_model), "a trial of the same files is the same, whatever its name"
    assert same["identity"] == found["identity"] != record["identity"]
