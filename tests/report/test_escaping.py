"""Names and values of records that mean something to a format are shown as they are, in every format."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import unicodedata
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from nxm_sweep.export.model_card import escape
from nxm_sweep.report.formats.markdown import markdown_list
from tests.report.corpus import CORPUS, shown, write_hostile_reports

BLOCKS = {"heading", "paragraph", "inline", "bullet_list", "list_item", "code_block"}
BLOCKS |= {"table", "thead", "tbody", "tr", "th", "td"}
FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hostile_reports(tmp_path_factory.mktemp("hostile"))


@pytest.mark.fault(
    "security",
    "names and values in records that are Markdown, HTML or links",
    "a parser of the Markdown report finds them as text, each in its cell, and no markup",
)
@pytest.mark.parametrize("name", ["table", "comparison"])
def test_markdown_shows_the_corpus_as_text(hostile: Path, name: str) -> None:
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse((hostile / f"{name}.md").read_text())
    children = [child for token in tokens for child in token.children or []]
    assert {token.type for token in children} <= {"text", "text_special", "softbreak"}
    blocks = {token.type.removesuffix("_open").removesuffix("_close") for token in tokens}
    assert blocks <= BLOCKS
    assert {token.tag for token in tokens if token.type == "heading_open"} <= {"h1", "h2"}
    lists = [token.level for token in tokens if token.type == "bullet_list_open"]
    assert set(lists) == {0}
    cells = {"".join(child.content for child in token.children or []) for token in tokens if token.type == "inline"}
    for text in CORPUS:
        assert shown(text) in cells, text


def test_markdown_leaves_no_bare_link(hostile: Path) -> None:
    prose = "\n".join(line for line in (hostile / "table.md").read_text().splitlines() if not line.startswith("    "))
    assert not re.search(r"(?<!\\)://|www\.", prose)  # GitHub makes links of these two
    assert "https\\://" in prose


@pytest.mark.parametrize("text", CORPUS)
def test_a_list_shows_the_corpus_as_text(text: str) -> None:
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown_list([text, "next"]))
    assert [token.type for token in tokens if token.type.endswith("_open")] == [
        *("bullet_list_open", "list_item_open", "paragraph_open", "list_item_open", "paragraph_open")
    ]
    (first, _) = (token for token in tokens if token.type == "inline")
    assert read(first) == one_line(text)


@pytest.mark.parametrize("text", CORPUS)
def test_a_model_card_shows_the_corpus_as_text(text: str) -> None:
    card = f"| what | value |\n| --- | --- |\n| {escape(text)} | next |\n\n# {escape(f'on {text}')}\n"
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(card)
    texts = [read(token) for token in tokens if token.type == "inline"]
    assert texts == ["what", "value", one_line(text), "next", f"on {one_line(text)}"]


def read(inline: Token) -> str:
    """The text of a block, which holds nothing but text."""
    assert {child.type for child in inline.children or []} <= {"text", "text_special"}
    return "".join(child.content for child in inline.children or [])


def one_line(text: str) -> str:
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in " ".join(text.split()))


@pytest.mark.fault(
    "security",
    "names and values in records that are TeX",
    "the LaTeX report compiles, reads no other file and runs nothing",
)
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed (Debian: texlive-latex-base)")
@pytest.mark.parametrize("name", ["table", "comparison", "document", "comparison-document"])
def test_latex_of_the_corpus_compiles(hostile: Path, tmp_path: Path, name: str) -> None:
    text = (hostile / f"{name}.tex").read_text()
    (tmp_path / "table.tex").write_text(text if "document" in name else wrap_table(text))
    done = subprocess.run(
        ["pdflatex", "-shell-escape", "-recorder", "-interaction=nonstopmode", "-halt-on-error", "table.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Missing character" not in done.stdout
    assert not (tmp_path / "broken").exists()
    inputs = [line.split(" ", 1)[1] for line in (tmp_path / "table.fls").read_text().splitlines() if "INPUT" in line]
    assert not [path for path in inputs if path.startswith("/etc/passwd")]


@pytest.mark.fault(
    "security",
    "names and values in records that a spreadsheet would run",
    "no cell of the CSV files begins with a formula, and every file reads back cell by cell",
)
def test_csv_of_the_corpus_holds_no_formula(hostile: Path) -> None:
    for path in sorted(hostile.glob("*.csv")):
        text = path.read_text(encoding="utf-8", errors="surrogatepass")
        rows = list(csv.reader(io.StringIO(text, newline="")))
        assert len({len(row) for row in rows}) == 1, path
        for cell in (cell for row in rows for cell in row):
            begun = "".join(letter for letter in cell if unicodedata.category(letter) not in {"Cc", "Cf"}).strip()
            assert not begun.startswith(FORMULA) or is_number(cell), (path, cell)
        assert "\0" not in text
    trials = pd.read_csv(hostile / "trials.csv")
    assert len(trials) == len(CORPUS)
    assert len({*trials["model"]}) > len(CORPUS) - 5  # some differ in control characters only


def wrap_table(text: str) -> str:
    """A document of an author's own, in LaTeX's default encoding, with a table; booktabs may not be installed."""
    rules = r"\let\toprule\hline\let\midrule\hline\let\bottomrule\hline"
    return "\n".join([r"\documentclass{article}", rules, r"\begin{document}", text, r"\end{document}", ""])


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def test_json_of_the_corpus_is_strict(hostile: Path) -> None:
    found: dict[str, Any] = json.loads((hostile / "report.json").read_text(), parse_constant=pytest.fail)
    assert {shown(trial["model"]) for trial in found["trials"]} == {shown(text) for text in CORPUS}
