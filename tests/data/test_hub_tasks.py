"""Any data set in the hub's layout as a task: SuperGLUE's by name, the others by their place."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from sklearn.metrics import f1_score, precision_score

import nxm_sweep
import nxm_sweep.data.loading
import nxm_sweep.trial.train
from nxm_sweep.config.compose import compose_settings
from nxm_sweep.data.loading import TaskRows, load_rows
from nxm_sweep.errors import ConfigError, DataError
from nxm_sweep.predict.__main__ import main as predict
from nxm_sweep.settings import DataSettings

Column = Sequence[Any]

SUPERGLUE: dict[str, tuple[dict[str, Column], list[str]]] = {  # columns and classes as on the hub
    "boolq": (
        {
            "question": ["is the sky blue", "do cats bark"],
            "passage": ["The sky is blue.", "Cats meow."],
            "label": [1, 0],
        },
        ["False", "True"],
    ),
    "cb": (
        {
            "premise": ["It rains.", "It rains.", "It rains."],
            "hypothesis": ["It is wet.", "It is dry.", "It is late."],
            "label": [0, 1, 2],
        },
        ["entailment", "contradiction", "neutral"],
    ),
    "wic": (
        {
            "word": ["bank", "place"],
            "sentence1": ["He sat on the bank.", "Come to my place."],
            "sentence2": ["She robbed a bank.", "A place to stay."],
            "start1": [14, 11],
            "label": [0, 1],
        },
        ["False", "True"],
    ),
}
READ: dict[str, list[tuple[str, str]]] = {
    "boolq": [("is the sky blue", "The sky is blue."), ("do cats bark", "Cats meow.")],
    "cb": [("It rains.", "It is wet."), ("It rains.", "It is dry."), ("It rains.", "It is late.")],
    "wic": [("bank: He sat on the bank.", "She robbed a bank."), ("place: Come to my place.", "A place to stay.")],
}
REVIEWS = {"title": ["Good", "Bad", "Fine", "Poor"], "text": ["I like it", "I do not", "It works", "It broke"]}


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
        yield


def write(folder: Path, splits: dict[str, Any], *, classes: list[str] | None = None, name: str = "") -> Path:
    """Write a data set as Parquet files in the hub's layout, with a configuration if it has a name."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    card = ["---", "configs:", f"- config_name: {name or 'default'}", "  data_files:"]
    for split, columns in splits.items():
        dataset = Dataset.from_dict(dict(columns))
        if classes:
            dataset = dataset.cast_column("label", ClassLabel(names=classes))
        dataset.to_parquet(folder / name / f"{split}-00000-of-00001.parquet")
        card += [f"  - split: {split}", f"    path: {name or '.'}/{split}-*"]
    readme = folder / "README.md"
    known = readme.read_text().removesuffix("---\n") if readme.exists() else ""
    readme.write_text("\n".join([*([known.rstrip(), *card[2:]] if known else card), "---", ""]))
    return folder


@pytest.fixture
def superglue(tmp_path: Path) -> Path:
    folder = tmp_path / "super_glue"
    for name, (columns, classes) in SUPERGLUE.items():
        hidden = {**columns, "label": [-1] * len(columns["label"])}  # as its test sets are published
        write(folder, {"train": columns, "validation": columns, "test": hidden}, classes=classes, name=name)
    return folder


def load(*overrides: str) -> TaskRows:
    settings = compose_settings(overrides)
    return load_rows(settings.task, settings.data)


def texts(part: Dataset) -> list[tuple[str, ...]]:
    names = [name for name in ("text", "pair") if name in part.column_names]
    return list(zip(*(part[name] for name in names), strict=True))


def refusal(action: Callable[[], object]) -> DataError:
    with pytest.raises(DataError) as caught:
        action()
    assert "\n" not in caught.value.message + caught.value.hint
    return caught.value


# --- SuperGLUE --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SUPERGLUE)
def test_superglue_task_is_read_by_its_name(name: str, superglue: Path) -> None:
    rows = load(f"task=superglue/{name}", f"data.path={superglue}")
    columns, classes = SUPERGLUE[name]
    assert (rows.layout, rows.labels) == ("hub folder", tuple(classes))
    for part in (rows.train, rows.validation["validation"]):
        assert texts(part) == READ[name]
        assert list(part["label"]) == columns["label"]


@pytest.mark.parametrize("name", SUPERGLUE)
def test_superglue_comes_from_the_hub_or_where_the_environment_says(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NXM_GLUE", str(tmp_path))
    settings = compose_settings([f"task=superglue/{name}"])
    assert (settings.task.name, settings.data.path) == (f"superglue/{name}", "aps/super_glue")
    monkeypatch.setenv("NXM_SUPERGLUE", "/data/super_glue")
    assert compose_settings([f"task=superglue/{name}"]).data.path == "/data/super_glue"


def test_integers_without_names_are_the_tasks_classes_in_order(superglue: Path, tmp_path: Path) -> None:
    columns, _ = SUPERGLUE["cb"]
    plain = write(tmp_path / "plain", {"train": columns, "validation": columns}, name="cb")
    one, other = (load("task=superglue/cb", f"data.path={folder}") for folder in (superglue, plain))
    assert (one.digest, one.labels) == (other.digest, other.labels)


def test_a_test_set_without_labels_cannot_validate(superglue: Path) -> None:
    line = ("task=superglue/boolq", f"data.path={superglue}", "task.validation_splits.validation=test")
    error = refusal(lambda: load(*line))
    assert "the split 'test' of superglue/boolq has a row without a label: row 0 (from 0) and 1 more" in error.message


# --- any data set -----------------------------------------------------------------------------------------------------


def test_a_folder_is_a_task_named_after_it(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "reviews",
        {"train": {**REVIEWS, "label": [1, 0, 1, 0]}, "validation": {**REVIEWS, "label": [1, 0, 0, 0]}},
        classes=["neg", "pos"],
    )
    line = ["task=hub", f"data.path={folder}", "task.text_columns=text"]
    settings = compose_settings(line)
    assert settings.task.name == str(folder)
    rows = load_rows(settings.task, settings.data)
    assert (rows.labels, rows.layout) == (("neg", "pos"), "hub folder")
    assert texts(rows.train) == [(text,) for text in REVIEWS["text"]]
    assert list(rows.validation["validation"]["label"]) == [1, 0, 0, 0]
    assert compose_settings([*line, "task.config=books"]).task.name == f"{folder}/books"
    assert compose_settings([*line, "task.config=books", "task.name=mine"]).task.name == "mine"


def test_classes_can_be_texts_numbers_or_truth_values(tmp_path: Path) -> None:
    cases: list[tuple[list[Any], tuple[str, ...]]] = [
        (["b", "a", "b", "a"], ("a", "b")),
        ([10, 9, 10, 9], ("9", "10")),
        ([True, False, True, False], ("False", "True")),
    ]
    for number, (labels, classes) in enumerate(cases):
        columns = {**REVIEWS, "label": labels}
        folder = write(tmp_path / str(number), {"train": columns, "validation": columns})
        rows = load("task=hub", f"data.path={folder}", "task.text_columns=text")
        assert rows.labels == classes
        assert [rows.labels[label] for label in rows.train["label"]] == [str(label) for label in labels]


def test_classes_that_are_named_take_the_order_given(tmp_path: Path) -> None:
    columns = {**REVIEWS, "label": [1, 0, 1, 0]}
    folder = write(tmp_path / "set", {"train": columns, "validation": columns}, classes=["neg", "pos"])
    rows = load("task=hub", f"data.path={folder}", "task.text_columns=text", "task.labels=[pos,neg]")
    assert (rows.labels, list(rows.train["label"])) == (("pos", "neg"), [0, 1, 0, 1])
    error = refusal(lambda: load("task=hub", f"data.path={folder}", "task.text_columns=text", "task.labels=[yes,no]"))
    assert "holds the class 'pos', which is not among yes, no" in error.message


def test_scores_are_a_regression(tmp_path: Path) -> None:
    columns = {**REVIEWS, "stars": [4.5, 1.0, 3.0, 1.5]}
    folder = write(tmp_path / "set", {"train": columns, "validation": columns})
    rows = load(
        *("task=hub", f"data.path={folder}", "task.text_columns=[title,text]", "task.label_column=stars"),
        *("task.problem=regression", "task.metrics=[pearson,spearman]", "task.selection_metric=mean"),
    )
    assert (rows.labels, list(rows.train["label"])) == ((), [4.5, 1.0, 3.0, 1.5])
    assert texts(rows.train)[0] == ("Good", "I like it")


def test_columns_are_joined_unless_one_has_that_name(tmp_path: Path) -> None:
    columns: dict[str, Column] = {**REVIEWS, "label": [1, 0, 1, 0]}
    folder = write(tmp_path / "set", {"train": columns, "validation": columns})
    line = ["task=hub", f"data.path={folder}", "task.text_columns=title+text"]
    assert texts(load(*line).train)[0] == ("Good: I like it",)
    other = {**columns, "title+text": list("abcd")}
    odd = write(tmp_path / "odd", {"train": other, "validation": other})
    assert texts(load(*line, f"data.path={odd}").train)[0] == ("a",)
    error = refusal(lambda: load(*line, "task.text_columns=title+body"))
    assert "has no column 'body' but title, text, label" in error.message


@pytest.mark.parametrize("config", ["", "books"])
def test_rows_are_those_of_the_files_now_and_of_no_other_folder_of_the_name(config: str, tmp_path: Path) -> None:
    def read(place: str, first: str) -> str:
        columns = {"text": [first, "b"], "label": [0, 1]}
        folder = write(tmp_path / place / "set", {"train": columns, "validation": columns}, name=config)
        rows = load("task=hub", f"data.path={folder}", "task.text_columns=text", f"task.config={config or 'null'}")
        return str(rows.train["text"][0])

    assert [read("one", "a"), read("other", "c"), read("one", "d")] == ["a", "c", "d"]
    assert not list(Path(datasets.config.HF_DATASETS_CACHE).glob("nxm_sweep_*")), "nothing is left behind"


def test_a_folder_of_save_to_disk_is_read(tmp_path: Path) -> None:
    columns = {**REVIEWS, "label": [1, 0, 1, 0]}
    features = Features({"title": Value("string"), "text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})
    part = Dataset.from_dict(columns, features=features)
    DatasetDict({"train": part, "validation": part}).save_to_disk(tmp_path / "saved")
    saved = load("task=hub", f"data.path={tmp_path / 'saved'}", "task.text_columns=text")
    folder = write(tmp_path / "set", {"train": columns, "validation": columns}, classes=["neg", "pos"])
    assert saved.digest == load("task=hub", f"data.path={folder}", "task.text_columns=text").digest
    assert saved.labels == ("neg", "pos")


def test_a_hub_id_is_asked_for_with_its_configuration_and_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    part = Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})

    def answer(path: str, config: str | None, revision: str | None) -> dict[str, Any]:
        asked.append((path, config, revision))
        return {"train": part, "validation": part}

    monkeypatch.setattr(nxm_sweep.data.loading, "load_hub", answer)
    rows = load("task=hub", "data.path=owner/set", "task.config=small", "data.revision=v2", "task.text_columns=text")
    assert (asked, rows.layout) == ([("owner/set", "small", "v2")], "hub")


def test_wrong_places_and_splits_are_refused_with_the_way_out(superglue: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data.path must be given"):
        compose_settings(["task=hub", "task.text_columns=text"])
    line = ("task=hub", "task.text_columns=question")
    error = refusal(lambda: load(*line, "data.path=./nowhere"))
    assert (error.message, error.hint) == (
        "there is no folder ./nowhere",
        "data.path takes a folder or a hub id, OWNER/NAME",
    )
    error = refusal(lambda: load(*line, f"data.path={superglue}"))
    assert "task.config names one of its configurations" in error.hint
    error = refusal(lambda: load(*line, f"data.path={superglue}", "task.config=boolq", "task.train_split=dev"))
    assert "has no split 'dev' but train, validation, test" in error.message
    validate = "task.validation_splits.validation=dev"
    error = refusal(lambda: load(*line, f"data.path={superglue}", "task.config=boolq", validate))
    assert "null splits off a tenth of the training rows" in error.hint
    (tmp_path / "empty").mkdir()
    assert "cannot be loaded" in refusal(lambda: load(*line, f"data.path={tmp_path / 'empty'}")).message
    error = refusal(lambda: load(*line, "data.path=owner/set"))  # tests have no network
    assert "--local-dir set" in error.hint


def test_glue_is_still_read_as_glue(superglue: Path) -> None:
    settings = compose_settings(["task=glue/rte", f"data.path={superglue}"])
    assert "holds neither rte/" in refusal(lambda: load_rows(settings.task, DataSettings(str(superglue), None))).message


# --- a trial ----------------------------------------------------------------------------------------------------------


def test_a_trial_of_a_folder_trains_and_predicts(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    labels = [1, 0] * 8
    columns = {"title": ["good", "bad"] * 8, "text": [f"row {number}" for number in range(16)], "label": labels}
    write(tmp_path / "set", {"train": columns, "validation": columns}, classes=["neg", "pos"])
    record = nxm_sweep.run(
        [
            *("task=hub", "data.path=./set", "task.text_columns=title+text", f"model={tiny_model}", "method=asp"),
            *("training.epochs=1", "training.batch_size=8", "training.device=cpu", "save_model=true", "output_dir=out"),
        ]
    )
    assert (record["task"], record["data"]["layout"], record["data"]["labels"]) == (
        "./set",
        "hub folder",
        ["neg", "pos"],
    )
    Path("rows.csv").write_text("text,title\nrow 3,good\nrow 4,bad\n")
    assert predict([record["identity"], "--output-dir", "out", "--rows", "rows.csv", "--to", "answers.tsv"]) == 0
    lines = Path("answers.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["index", "0", "1"]
    assert {line.split("\t")[1] for line in lines[1:]} <= {"neg", "pos"}
    frame = cast("Any", nxm_sweep.load("out"))
    assert frame["task"].tolist() == ["./set"]


# --- without validation rows ------------------------------------------------------------------------------------------


def write_csv(folder: Path, labels: Sequence[Any]) -> Path:
    rows = [f"text {number},{label}" for number, label in enumerate(labels)]
    (folder / "train.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    return folder / "train.csv"


def split_off(file: Path, *overrides: str) -> TaskRows:
    return load("task=files", f"task.files.train={file}", "task.text_columns=text", *overrides)


def test_a_tenth_of_every_class_validates_where_there_is_no_file(tmp_path: Path) -> None:
    labels = ["a"] * 100 + ["b"] * 30 + ["c"] * 10
    rows = split_off(write_csv(tmp_path, labels))
    assert (rows.split_off, rows.labels) == (("validation",), ("a", "b", "c"))
    taken, kept = rows.validation["validation"], rows.train
    assert [list(taken["label"]).count(number) for number in range(3)] == [10, 3, 1]
    assert sorted(texts(taken) + texts(kept)) == sorted((f"text {number}",) for number in range(len(labels)))
    for part in (taken, kept):
        numbers = [int(text.split()[1]) for (text,) in texts(part)]
        assert numbers == sorted(numbers), "rows keep their order"
        assert [rows.labels[label] for label in part["label"]] == [labels[number] for number in numbers]
    assert split_off(tmp_path / "train.csv", "seed=3").digest == rows.digest, "the slice is fixed"


def test_a_slice_of_files_is_what_two_files_of_the_same_rows_are(tmp_path: Path) -> None:
    sliced = split_off(write_csv(tmp_path, list("ab") * 20))
    for part, rows in (("kept", sliced.train), ("taken", sliced.validation["validation"])):
        lines = [f"{text},{sliced.labels[label]}" for (text,), label in zip(texts(rows), rows["label"], strict=True)]
        (tmp_path / f"{part}.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    given = split_off(tmp_path / "kept.csv", f"task.files.validation={tmp_path / 'taken.csv'}")
    assert (given.digest, given.split_off) == (sliced.digest, ())


def test_a_class_of_one_row_is_trained_on(tmp_path: Path) -> None:
    rows = split_off(write_csv(tmp_path, ["a", "a", "b", "c", "c"]))
    assert set(rows.train["label"]) == {0, 1, 2}
    assert len(rows.validation["validation"]) == 1


def test_a_regression_is_sliced_along_its_range(tmp_path: Path) -> None:
    scores = [(7 * number) % 200 / 10 for number in range(200)]
    rows = split_off(
        write_csv(tmp_path, scores), "task.problem=regression", "task.metrics=pearson", "task.selection_metric=pearson"
    )
    taken = sorted(rows.validation["validation"]["label"])
    assert len(taken) == 20
    for number, score in enumerate(taken):
        assert number <= score < number + 1, "one of every ten neighbours"


def test_a_split_of_the_hub_can_be_null(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", {"train": {"text": list("abcdefghij") * 2, "label": [0, 1] * 10}})
    line = ("task=hub", f"data.path={folder}", "task.text_columns=text")
    assert "has no split 'validation' but train" in refusal(lambda: load(*line)).message
    rows = load(*line, "task.validation_splits.validation=null")
    assert (len(rows.train), len(rows.validation["validation"])) == (18, 2)


def test_rows_that_are_too_few_to_split_are_refused(tmp_path: Path) -> None:
    error = refusal(lambda: split_off(write_csv(tmp_path, ["a", "b"])))
    assert "the 2 training rows of files are too few to split off validation rows" in error.message
    assert "task.files.validation takes a file" in error.hint


def test_a_trial_and_a_sweep_say_what_was_split_off(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path, list("ab") * 20)
    line = [
        *("task=files", "task.files.train=train.csv", "task.text_columns=text", f"model={tiny_model}", "method=asp"),
        *("training.epochs=1", "training.batch_size=8", "training.device=cpu", "learning_rate.value=1e-4"),
    ]
    record = nxm_sweep.run(line, quiet=False)
    said = " ".join(capsys.readouterr().out.split())
    note = "is a fixed, stratified tenth of the training rows, which are not trained on"
    assert f"note: validation {note}: 4 of 40" in said
    assert record["data"]["split_off"] == {"validation": 4}
    assert (record["data"]["train_rows"], record["data"]["validation_rows"]) == (36, {"validation": 4})
    nxm_sweep.run_sweep([*line, "sweep.dry_run=true", "training.batch_size=8,16"])
    assert f"note: files: validation {note}" in " ".join(capsys.readouterr().out.split())


# --- the positive class and own metrics -------------------------------------------------------------------------------


@pytest.mark.parametrize(("named", "number"), [("null", 1), ("a", 0), ("b", 1)])
def test_a_positive_class_can_be_named(named: str, number: int, tmp_path: Path) -> None:
    file = write_csv(tmp_path, list("ab") * 10)
    assert split_off(file, f"task.positive_class={named}").positive == number


def test_a_positive_class_that_is_none_is_refused(tmp_path: Path) -> None:
    error = refusal(lambda: split_off(write_csv(tmp_path, list("ab") * 10), "task.positive_class=c"))
    assert error.message == "task.positive_class=c is no class of files: a, b"
    error = refusal(lambda: split_off(write_csv(tmp_path, list("abc") * 10), "task.positive_class=c"))
    assert error.message == "task.positive_class is for two classes but files has 3"


def test_a_trial_scores_the_named_class_and_scorers_of_scikit_learn(tmp_path: Path, tiny_model: Path) -> None:
    line = [
        *("task=demo/paraphrase", "task.rows={train: 48, validation: 40}", f"model={tiny_model}", "method=asp"),
        *("training.epochs=1", "training.batch_size=8", "training.device=cpu", "learning_rate.value=3e-3"),
        *(f"output_dir={tmp_path}", "task.metrics=[f1,precision,roc_auc]", "task.selection_metric=f1"),
    ]
    records = [nxm_sweep.run([*line, f"task.positive_class={name}"]) for name in ("not_equivalent", "null")]
    assert records[0]["identity"] != records[1]["identity"]
    for record, positive in zip(records, (0, 1), strict=True):
        answers = json.loads((tmp_path / "trials" / record["identity"] / "predictions.json").read_text())["sets"][
            "validation"
        ]
        expected = [
            metric(answers["labels"], answers["predictions"], pos_label=positive, zero_division=0.0)
            for metric in (f1_score, precision_score)
        ]
        scores = record["reported"]["validation"]
        assert [scores["f1"], scores["precision"]] == pytest.approx(expected)
        assert record["data"]["constant"]["validation"]["roc_auc"] == 0.5
    areas = [record["reported"]["validation"]["roc_auc"] for record in records]
    assert areas[0] == pytest.approx(areas[1]), "the area is the same for either class"


def test_a_metric_that_cannot_score_the_rows_is_refused_before_a_model_loads(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nxm_sweep.trial.train, "load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    line = ["task=files", f"task.files.train={write_csv(tmp_path, list('abc') * 20)}", "task.text_columns=text"]
    with pytest.raises(DataError, match="the metric roc_auc cannot score the split validation of files"):
        nxm_sweep.run([*line, f"model={tiny_model}", "method=asp", "task.metrics=roc_auc", "training.device=cpu"])
