"""The examples of the documentation run as they stand, its links resolve, and the README stays short."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, TrainingArguments

import nxm_sweep
from nxm_sweep.sparsity import Pattern, check_matrix

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
EXAMPLES = ROOT / "docs" / "getting-started.md"
INDEX = ROOT / "docs" / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
CODE = re.compile(r"```.*?```|`[^`\n]*`", flags=re.DOTALL)


def example(name: str) -> str:
    found = re.search(rf"<!-- example: {name} -->\n```python\n(.*?)```", EXAMPLES.read_text(), flags=re.DOTALL)
    assert found is not None
    return found[1]


def links(page: Path) -> list[str]:
    """The relative links of a page."""
    targets = re.findall(r"\]\(([^)\s]+)\)", CODE.sub("", page.read_text()))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub derives from the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_resolves(page: Path) -> None:
    broken = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def test_the_page_of_faults_is_made_from_the_tests() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_reliability.py"))["page"]()
    assert (ROOT / "docs" / "reliability.md").read_text() == made, "python docs/make_reliability.py"


def test_the_page_of_results_is_made_from_the_records() -> None:
    page = ROOT / "docs" / "results.md"
    made = runpy.run_path(str(ROOT / "docs" / "make_results.py"))["page"]
    assert made(page.read_text()) == page.read_text(), "python docs/make_results.py"


def test_the_index_lists_every_page() -> None:
    pages = {str(page.relative_to(INDEX.parent)) for page in INDEX.parent.rglob("*.md")}
    assert pages - {INDEX.name} <= set(links(INDEX))


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 150


def test_the_plain_pytorch_example_ends_with_exactly_sparse_weights(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    exec(example("pytorch"), names)
    assert capsys.readouterr().out == "True\n"
    for module in (names["model"][0], names["model"][2]):
        nonzeros = (module.weight != 0).reshape(-1, 4).sum(dim=1)
        assert nonzeros.eq(2).all()


def test_the_transformers_example_trains_and_yields_a_pruned_model(tiny_model: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model)
    rows = [{"input_ids": torch.randint(5, 60, (12,)), "labels": torch.tensor(i % 2)} for i in range(16)]
    args = TrainingArguments(
        output_dir=str(tmp_path),
        num_train_epochs=1,
        use_cpu=True,
        eval_strategy="epoch",
        save_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    names: dict[str, Any] = {"model": model, "args": args, "train_dataset": rows, "eval_dataset": rows}
    exec(example("transformers"), names)
    with names["trainer"].sparse_method.pruned():
        weight = model.get_parameter("bert.encoder.layer.1.output.dense.weight")
        assert check_matrix("output", weight, Pattern(2, 4)).exact
    evaluated = [entry for entry in names["trainer"].state.log_history if "eval_loss" in entry]
    assert len(evaluated) == 1


def test_the_citation_has_the_version_of_the_package() -> None:
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.findall(r"(?m)^version: (.*)$", citation) == [nxm_sweep.__version__]


def test_the_example_compares_methods_and_verifies_a_model(tiny_model: Path, tmp_path: Path) -> None:
    script = (ROOT / "examples" / "compare.py").read_text()
    smaller = script.replace('"model=minilm_l6"', f'"model=local", "model.path={tiny_model}", "sweep.threads=1"')
    smaller = smaller.replace("{train:512,validation:256}", "{train:32,validation:16}").replace("1e-4,2e-4", "1e-4")
    assert smaller.count("tiny") >= 1
    (tmp_path / "compare.py").write_text(smaller)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "compare.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    table, verdict = done.stdout.split("value  learning_rate.value")[-1], done.stdout.splitlines()[-1]
    assert [line.split()[0] for line in table.splitlines()[2:5]] == ["dense", "asp", "nxm_refit"]
    assert verdict == "12 matrices, 50% zeros, 0 violations"
