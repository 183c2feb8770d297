"""The commands of docs/situations run in their order: on a tiny model, or dry where they need the hub, GPUs or a cluster."""

from __future__ import annotations

import csv
import itertools
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer, BertForSequenceClassification

import nxm_sweep
import nxm_sweep.trial.train
from nxm_sweep.__main__ import main
from nxm_sweep.data.demo import generate
from nxm_sweep.settings import TrialSettings

DOCS = Path(__file__).resolve().parents[1] / "docs"
SITUATIONS = DOCS / "situations"
SMALL = ("sweep.workers=1", "sweep.threads=1", "training.max_train_samples=64", "training.max_eval_samples=32")
DRY = "sweep.dry_run=true"
Run = Callable[..., str]


def blocks(page: str, mark: str, language: str = "bash") -> list[str]:
    found = re.findall(rf"<!-- {mark} -->\n```{language}\n(.*?)```", (SITUATIONS / page).read_text(), flags=re.DOTALL)
    assert found
    return found


def commands(script: str) -> Iterator[list[str]]:
    for line in script.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            assert words[0] == "nxm-sweep"
            yield words[1:]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in an empty folder; returns its output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def command(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["nxm_sweep", *words])
        capsys.readouterr()
        code = main()
        said = capsys.readouterr()
        assert code == 0, said.err
        return said.out

    return command


@pytest.fixture
def without_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands for data and model, which a dry run only counts."""

    def prepare(settings: TrialSettings) -> Any:
        rows = SimpleNamespace(digest=settings.task.name, train=range(100))
        return SimpleNamespace(rows=rows, model_digest="model", teacher_digest="", carries_head=False)

    monkeypatch.setattr(nxm_sweep.trial.train, "prepare", prepare)


def saved(method: str) -> str:
    """The beginning of the identity of a trial that kept its model."""
    trials = nxm_sweep.load("outputs")
    kept = [
        name
        for name in trials.loc[trials["method"] == method, "identity"]
        if Path(f"outputs/trials/{name}/model").is_dir()
    ]
    return str(kept[0])[:8]


def run_page(page: str, run: Run, replace: dict[str, str]) -> list[str]:
    """Run the blocks of a page; the example identity becomes that of a trial."""
    said = []
    for script in blocks(page, "run"):
        for words in commands(script):
            arguments = [replace.get(word, word) for word in words]
            arguments += SMALL if words[0] == "-m" else ()
            said.append(run(*(saved("nxm_refit") if word == "9d30" else word for word in arguments)))
    return said


def test_support_tickets_become_a_verified_onnx_model_and_answers(run: Run, tiny_model: Path) -> None:
    texts = [str(row["sentence1"]) for row in generate("paraphrase", "train", 60)]
    queues = itertools.cycle(("billing", "technical", "delivery"))
    with Path("tickets.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "queue"), *zip(texts[:50], queues, strict=False)])
    with Path("new.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id", "text"), *enumerate(texts[50:])])
    said = run_page("support-tickets.md", run, {"model=minilm_l6": f"model={tiny_model}"})
    assert "holds: 12 of 12 targets hold exactly 2 of 4" in said[3]
    with Path("answers.tsv").open() as file:
        answers = list(csv.DictReader(file, delimiter="\t"))
    assert [answer["index"] for answer in answers] == [str(number) for number in range(10)]
    names = ("billing", "delivery", "technical")
    for answer in answers:
        chances = {name: float(answer[f"p({name})"]) for name in names}
        assert answer["prediction"] == max(names, key=lambda name: chances[name])
        assert sum(chances.values()) == pytest.approx(1, abs=1e-5)
    assert Path("model/model.onnx").is_file()


def test_a_fine_tuned_model_is_pruned_with_itself_as_teacher(
    run: Run, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = {0: "not_equivalent", 1: "equivalent"}
    model = BertForSequenceClassification.from_pretrained(tiny_model, id2label=words)
    model.save_pretrained("finetuned")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained("finetuned")
    Path("glue/MRPC").mkdir(parents=True)
    for part, name in (("train", "train"), ("validation", "dev")):
        rows = generate("paraphrase", part, 40)
        lines = [f"{row['label']}\t{n}\t{n}\t{row['sentence1']}\t{row['sentence2']}" for n, row in enumerate(rows)]
        Path(f"glue/MRPC/{name}.tsv").write_text("\n".join(["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", *lines, ""]))
    monkeypatch.setenv("NXM_GLUE", "glue")
    said = run_page("fine-tuned-model.md", run, {"seed=0,1,2": "seed=0"})
    assert "8 of 8 points have a record" in said[2]
    assert "holds: 12 of 12 targets hold exactly 2 of 4" in said[-1]
    shipped = BertForSequenceClassification.from_pretrained("sparse")
    assert shipped.config.id2label == words


def test_the_cells_of_the_notebook_run(run: Run, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    for cell in blocks("notebook.md", "run", "python"):
        small = cell.replace("model=minilm_l6", f"model={tiny_model}")
        exec(small.replace('"save_model=true"', ", ".join(f'"{word}"' for word in ("save_model=true", *SMALL))), names)
        if "verify_model" in cell:
            assert capsys.readouterr().out.endswith("12 matrices checked, 0 violations\n")
    assert names["best"]["method"].tolist() == ["asp", "dense", "nxm_refit"]
    (script,) = blocks("notebook.md", "report", "python")
    command, _, picture = script.splitlines()
    run(*shlex.split(command)[1:])
    shown = re.search(r'SVG\("(.*)"\)', picture)
    assert shown is not None
    assert Path(shown[1]).read_text().lstrip().startswith("<svg")


@pytest.mark.usefixtures("without_data")
def test_the_papers_table_is_planned_as_its_page_says(run: Run) -> None:
    (script,) = blocks("four-gpus.md", "dry run")
    said = [run(*(word for word in words if word != "sweep.probe=true"), DRY) for words in commands(script)]
    assert "476 points in 28 cells" in said[0]
    assert "476 points in 28 cells" in said[3]


@pytest.mark.usefixtures("without_data")
def test_the_sweeps_of_the_slurm_page_are_planned(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NXM_STORAGE", "postgresql+psycopg://user:password@host:5432/optuna")
    page = (DOCS / "slurm.md").read_text().replace("\\\n", " ")
    lines = re.findall(r"^ {4}(nxm-sweep -m task=.*)$", page, flags=re.MULTILINE)
    assert len(lines) == 2
    for line in lines:
        (words,) = commands(line)
        assert "points in 6 cells" in run(*(word.replace("/shared/me/", "") for word in words), DRY)
