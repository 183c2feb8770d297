"""The report as text, and what hostile or damaged records do to it."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from nxm_sweep.report import __main__ as command
from nxm_sweep.report.content import Content, entry_frame
from nxm_sweep.report.formats.latex import latex, latex_document, latex_text
from nxm_sweep.report.formats.markdown import markdown, markdown_text
from nxm_sweep.report.formats.plain import to_csv
from nxm_sweep.report.formats.write import DEFAULT_FORMATS
from nxm_sweep.report.frames import read_report
from nxm_sweep.report.statistics import compare
from nxm_sweep.report.table import make_table
from tests.report.records import plan, record, write

HOSTILE = (
    "[2cm]",
    "*",
    "<script>alert(1)</script>",
    "=cmd|' /C calc'!A0",
    "50%_&#$~^{}\\",
    "a|b",
    "x" * 1_000_000,
    "naïve ü",
)


def content(folder: Path) -> Content:
    report = read_report([folder])
    return Content(report, make_table(report), compare(report))


def run(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["report", *arguments])
    return command.main()


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    return write(
        tmp_path,
        *(record(f"a{number}", 0.5 + number / 100, model=name, method=name) for number, name in enumerate(HOSTILE)),
    )


def test_the_terminal_names_the_trial_to_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a mean over seeds there is none."""
    monkeypatch.setenv("COLUMNS", "120")
    write(tmp_path, *(record(f"{seed}123456789abcdef", 0.7 + seed / 100, seed=seed) for seed in (0, 1)))
    assert run(str(tmp_path), monkeypatch=monkeypatch) == 0
    head, row = capsys.readouterr().out.split("\n\n")[2].splitlines()[:2]
    assert head.split() == ["task", "method", "pattern", "score", "trials", "hyperparameters", "trial"]
    assert row.split()[-1] == "11234567"
    assert run(str(tmp_path), "--by", "seed", monkeypatch=monkeypatch) == 0
    head = capsys.readouterr().out.split("\n\n")[2].splitlines()[0]
    assert head.split() == ["task", "method", "pattern", "score", "trials", "seeds", "hyperparameters"]


def test_a_formula_reaches_no_spreadsheet(hostile: Path) -> None:
    rows = list(csv.reader(io.StringIO(to_csv(content(hostile).report.trials))))
    cells = [cell for row in rows for cell in row]
    assert not [cell for cell in cells if cell[:1] in {"=", "+", "@"}]
    assert "'=cmd|' /C calc'!A0" in cells


def test_markdown_escapes_html_and_its_own_signs(hostile: Path) -> None:
    text = markdown(content(hostile))
    assert "<script" not in text
    assert "a\\|b" in text
    assert len(text) < 100_000


def test_a_million_characters_are_cut_and_that_is_said(hostile: Path) -> None:
    assert "(1,000,000 characters)" in markdown(content(hostile))


def test_latex_escapes_every_sign_that_it_would_read() -> None:
    assert latex_text("50%_&#$~^{}\\") == (r"50\%\_\&\#\$\textasciitilde{}\textasciicircum{}\{\}\textbackslash{}")
    assert latex_text("a\nb") == "a b"
    assert latex_text("[2cm]*") == "{[}2cm]{*}"  # after a row's end they would be its options
    assert latex_text("ü") == "{[}U+00FC]"
    assert latex_text("a-b --- c") == "a-b -{}-{}- c"
    assert latex_text("-1.5") == "$-1.5$"
    assert latex_text("-1.5 to +2") == "$-1.5$ to $+2$"


def test_markdown_text_stays_on_one_line() -> None:
    assert markdown_text("a\n| *b* | [c](d)") == r"a \| \*b\* \| \[c\](d)"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed (Debian: texlive-latex-base)")
def test_latex_compiles(hostile: Path, tmp_path: Path) -> None:
    plan(hostile, ["z"])
    (tmp_path / "table.tex").write_text(latex_document(content(hostile)))
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "table.pdf").stat().st_size > 10_000


def test_the_latex_table_is_made_to_input_with_the_best_in_bold(tmp_path: Path) -> None:
    scores = {"dense": 0.8, "asp": 0.7, "nxm": 0.75, "gradual": 0.7501}
    write(tmp_path, *(record(name, value, method=name, constant=0.5) for name, value in scores.items()))
    text = latex(content(tmp_path))
    assert "documentclass" not in text
    assert text.splitlines()[0] == r"% \input this file; the preamble needs \usepackage{booktabs}"
    assert r"\label{tab:nxm-sweep}" in text
    (caption,) = re.findall(r"\\caption\{(.*)\}", text)
    assert "tiny, 2:4" in caption
    assert "Bold: the best sparse score" in caption
    assert [line.count("&") for line in text.splitlines() if line.endswith(r"\\")] == [2] * 6
    bold = re.findall(r"\\textbf\{([^}]*)\}", text)
    assert bold == ["75.0"] * 4  # NxM and Gradual are shown as equal, in the task and in the average
    assert r"\textbf{80.0}" not in text
    assert all(rule in text for rule in (r"\toprule", r"\midrule", r"\bottomrule"))


def test_a_whole_document_is_written_on_request_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, record("a", 0.6))
    assert run(str(tmp_path), "--formats", "latex", monkeypatch=monkeypatch) == 0
    assert [path.name for path in (tmp_path / "reports").iterdir()] == ["table.tex"]
    assert run(str(tmp_path), "--formats", "latex-document", monkeypatch=monkeypatch) == 0
    assert (tmp_path / "reports" / "document.tex").read_text().rstrip().endswith(r"\end{document}")
    assert "latex-document" not in DEFAULT_FORMATS


def test_json_is_whole_and_strict(hostile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(str(hostile), "--formats", "json", monkeypatch=monkeypatch) == 0
    found = json.loads((hostile / "reports" / "report.json").read_text(), parse_constant=pytest.fail)
    assert len(found["trials"]) == len(HOSTILE)
    assert {trial["value"] for trial in found["trials"]} == {0.5 + number / 100 for number in range(len(HOSTILE))}
    assert found["paper"]["figures"]["dense BERT-base, average of the dev scores"] == 81.8


def test_damaged_and_partial_records_are_listed_and_stop_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    partial, nan = record("p", 0.5), record("q", float("nan"))
    del partial["epochs"]
    write(tmp_path, record("a", 0.6), partial, nan)
    for identity, text in (("b", '{"schema": 1, "iden'), ("c", "[]"), ("d", "")):
        (tmp_path / "trials" / identity).mkdir()
        (tmp_path / "trials" / identity / "result.json").write_text(text)
    assert run(str(tmp_path), monkeypatch=monkeypatch) == 0
    out = capsys.readouterr().out
    assert "60.0" in out
    problems = read_report([tmp_path]).problems.set_index("identity")["kind"].to_dict()
    assert problems == dict.fromkeys("bcdpq", "unreadable")
    assert "Points without a usable record: 5" in out
    assert out.count("no record:") == 5


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda _: None, "holds no records"),
        (lambda folder: plan(folder, ["x"]), "holds no usable record (1 to do)"),
    ],
    ids=["none", "none yet"],
)
def test_without_a_record_it_is_one_line_and_exit_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    prepare: object,
    message: str,
) -> None:
    assert callable(prepare)
    prepare(tmp_path)
    assert run(str(tmp_path), monkeypatch=monkeypatch) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "reports").exists()


def test_bad_input_is_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, record("a", 0.6))
    assert run(str(tmp_path), "--formats", "word", monkeypatch=monkeypatch) == 2
    assert run(str(tmp_path / "nowhere"), monkeypatch=monkeypatch) == 2
    assert run(*[str(tmp_path)] * 3, monkeypatch=monkeypatch) == 2
    assert run(str(tmp_path), "--to", str(tmp_path / "trials" / "a" / "result.json"), monkeypatch=monkeypatch) == 2
    assert capsys.readouterr().err.count("error: ") == 4


def test_csv_keeps_numbers_and_quotes_every_text(tmp_path: Path) -> None:
    negative = record("a", -0.034, task="glue/cola", metrics=("matthews",))
    write(tmp_path, negative, record("b", 0.6, model="a;=1+1"))
    text = to_csv(entry_frame(content(tmp_path).table))
    assert '"a;=1+1"' in text
    (row,) = (row for row in csv.DictReader(io.StringIO(text)) if (row["task"], row["method"]) == ("glue/cola", "asp"))
    assert (row["value"], row["trials"], row["hyperparameters"]) == ("-0.034", "1", "lr 1e-4, batch 32, seed 0")
    assert to_csv(pd.DataFrame({"-text": ["-3.4", "-3+4", "+"]})) == '"\'-text"\n"-3.4"\n"\'-3+4"\n"\'+"\n'


def test_a_command_stays_in_its_block(tmp_path: Path) -> None:
    write(tmp_path, record("a", 0.6))
    plan(tmp_path, ["a"])
    file = tmp_path / "sweeps" / "a.json"
    file.write_text(file.read_text().replace("data.path=a b", "tag=x\\n\\n<script>alert(1)</script>\\u001b[31m"))
    block = markdown(content(tmp_path)).partition("## Commands")[2].strip("\n").splitlines()
    assert len(block) == 1
    assert block[0].startswith("    python -m nxm_sweep -m ")
    assert "\x1b" not in block[0]


def test_a_comparison_is_written_where_it_is_asked_for_and_says_what_else_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write(tmp_path / "a", record("a", 0.6))
    second = write(tmp_path / "b", record("b", 0.7, weights="v" * 64, epochs=3))
    assert (
        run(str(first), str(second), "--to", str(tmp_path / "c"), "--formats", "csv,json", monkeypatch=monkeypatch) == 0
    )
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["comparison.csv", "comparison.json"]
    notes = json.loads((tmp_path / "c" / "comparison.json").read_text())["notes"]
    assert "Not the same: the model tiny has other weights in the second sweep." in notes
    assert "Settings differ: training.epochs is 2 in the first sweep and 3 in the second." in notes
    assert not (first / "reports").exists()
    assert "wrote" in capsys.readouterr().out


def test_trials_are_listed_beside_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = record("a", 0.6)
    whole["config"] = {"learning_rate": {"value": 1e-4}, "training": {"batch_size": 32, "precision": "fp32"}}
    write(tmp_path, whole)
    (tmp_path / "trials" / "b").mkdir()
    (tmp_path / "trials" / "b" / "result.json").write_text("{")
    assert run(str(tmp_path), "--trials", monkeypatch=monkeypatch) == 0
    out = capsys.readouterr().out
    assert "60.00" in out
    assert "no record: (b): unreadable" in out.replace("  ", " ")


def test_two_folders_are_shown_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    first, second = write(tmp_path / "a", record("a", 0.6)), write(tmp_path / "b", record("b", 0.7))
    assert run(str(first), str(second), monkeypatch=monkeypatch) == 0
    assert "+10.0" in capsys.readouterr().out


def test_the_command_of_a_sweep_is_quoted_for_a_shell(tmp_path: Path) -> None:
    write(tmp_path, record("a", 0.6))
    plan(tmp_path, ["a"])
    assert read_report([tmp_path]).commands == ("python -m nxm_sweep -m task=glue/rte 'data.path=a b'",)
