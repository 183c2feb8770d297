"""Digests that are remembered: a second planning reads no data, a changed file is read again, a branch is never trusted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import nxm_sweep.trial.train
from nxm_sweep.config.compose import compose_settings
from nxm_sweep.settings import TrialSettings
from nxm_sweep.trial.digests import DigestMemo, Digests

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Reads:
    """Stands for reading data and model; the digest counts how often."""

    def __init__(self) -> None:
        self.tasks: list[str] = []

    def prepare(self, settings: TrialSettings) -> Any:
        self.tasks.append(settings.task.name)
        rows = SimpleNamespace(digest=f"rows {len(self.tasks)}", train=range(7))
        return SimpleNamespace(rows=rows, model_digest="model", teacher_digest="", carries_head=False)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    fake = Reads()
    monkeypatch.setattr(nxm_sweep.trial.train, "prepare", fake.prepare)
    return fake


@pytest.fixture
def memo(tmp_path: Path) -> Path:
    return tmp_path / "memo.json"


@pytest.fixture
def local(tmp_path: Path) -> TrialSettings:
    """Settings whose data and model lie in folders of the test's own."""
    for name in ("data/RTE/train.tsv", "model/config.json", "model/model.safetensors"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("content")
    return compose_settings(
        ["task=glue/rte", f"data.path={tmp_path / 'data'}", "model=local", f"model.path={tmp_path / 'model'}"]
    )


def test_a_second_planning_reads_nothing(reads: Reads, local: TrialSettings, memo: Path) -> None:
    first = DigestMemo(memo).of(local)
    assert first == Digests("rows 1", "model", 7)
    assert DigestMemo(memo).of(local) == first
    assert len(reads.tasks) == 1


def test_methods_and_patterns_share_what_is_known(reads: Reads, memo: Path) -> None:
    known = DigestMemo(memo)
    for overrides in (["method=asp"], ["method=dense"], ["sparsity=1of4"], ["training.epochs=1"]):
        known.of(compose_settings(["task=demo/paraphrase", "model=minilm_l6", *overrides]))
    assert reads.tasks == ["demo/paraphrase"]


def _grow(file: Path) -> None:
    file.write_text(file.read_text() + "more")


def _touch(file: Path) -> None:
    os.utime(file, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns + 1))


def _replace(file: Path) -> None:
    file.rename(file.with_name("other"))


@pytest.mark.parametrize("name", ["data/RTE/train.tsv", "model/model.safetensors"])
@pytest.mark.parametrize("change", [_grow, _touch, _replace])
def test_a_changed_file_is_read_again(reads: Reads, local: TrialSettings, memo: Path, name: str, change: Any) -> None:
    DigestMemo(memo).of(local)
    change(memo.parent / name)
    assert DigestMemo(memo).of(local).data == "rows 2"


def test_a_new_file_in_a_folder_is_seen(reads: Reads, local: TrialSettings, memo: Path) -> None:
    DigestMemo(memo).of(local)
    (memo.parent / "data" / "RTE" / "dev.tsv").touch()
    DigestMemo(memo).of(local)
    assert len(reads.tasks) == 2


def test_the_users_own_files_are_watched(reads: Reads, memo: Path, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("train.csv", "dev.csv")]
    for file in files:
        file.write_text("text,label\n")
    settings = compose_settings(
        ["task=files", "model=minilm_l6", "task.text_columns=[text]", f"task.files.train={files[0]}",
         f"task.files.validation={files[1]}"]
    )  # fmt: skip
    DigestMemo(memo).of(settings)
    DigestMemo(memo).of(settings)
    assert len(reads.tasks) == 1
    _grow(files[1])
    DigestMemo(memo).of(settings)
    assert len(reads.tasks) == 2


@pytest.mark.parametrize(
    ("data", "model", "reading"),
    [("main", COMMIT, 2), ("null", COMMIT, 2), (COMMIT, "null", 2), (COMMIT, COMMIT, 1)],
    ids=["branch", "no revision", "model's branch", "pinned"],
)
def test_only_a_pinned_commit_of_the_hub_is_trusted(
    reads: Reads, memo: Path, data: str, model: str, reading: int
) -> None:
    quoted = {value: value if value in {"null", "main"} else f"'{value}'" for value in (data, model)}
    settings = compose_settings(
        [
            "task=glue/rte",
            "data.path=some/repository",
            f"data.revision={quoted[data]}",
            f"model.revision={quoted[model]}",
        ]
    )
    for _ in range(2):
        known = DigestMemo(memo)
        assert known.of(settings) == known.of(settings)  # within one planning it is read once
    assert len(reads.tasks) == reading


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"a": 1}', '{"a": {"data": 1}}', "\x00\xff"], ids=["empty", "torn", "list", "null",
    "number", "keys", "binary"]
)  # fmt: skip
def test_a_damaged_memo_is_made_anew(reads: Reads, local: TrialSettings, memo: Path, text: str) -> None:
    memo.write_text(text)
    assert DigestMemo(memo).of(local).data == "rows 1"
    assert DigestMemo(memo).of(local).data == "rows 1"
    assert len(reads.tasks) == 1


def test_a_damaged_entry_is_read_again(reads: Reads, local: TrialSettings, memo: Path) -> None:
    DigestMemo(memo).of(local)
    memo.write_text(memo.read_text().replace('"train_rows": 7', '"train_rows": "many"'))
    assert DigestMemo(memo).of(local).data == "rows 2"


def test_an_entry_of_a_version_that_did_not_look_for_a_head_is_read_again(
    reads: Reads, local: TrialSettings, memo: Path
) -> None:
    DigestMemo(memo).of(local)
    memo.write_text(memo.read_text().replace('"carries_head"', '"other"'))
    assert DigestMemo(memo).of(local).data == "rows 2"
    assert DigestMemo(memo).of(local).data == "rows 2"


def test_two_that_plan_at_once_keep_what_both_have_read(reads: Reads, local: TrialSettings, memo: Path) -> None:
    other = compose_settings(["task=demo/paraphrase", "model=minilm_l6"])
    one, two = DigestMemo(memo), DigestMemo(memo)  # both have read the empty memo
    one.of(local)
    two.of(other)
    third = DigestMemo(memo)
    third.of(local)
    third.of(other)
    assert len(reads.tasks) == 2


WRITER = """
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
trial = ModuleType("nxm_sweep.trial.train")
trial.prepare = lambda settings: SimpleNamespace(
    rows=SimpleNamespace(digest=settings.task.name, train=range(7)),
    model_digest="model", teacher_digest="", carries_head=False)
sys.modules[trial.__name__] = trial
from nxm_sweep.config.compose import compose_settings
from nxm_sweep.trial.digests import DigestMemo
settings = compose_settings(["task=demo/paraphrase", "model=minilm_l6"])
for number in range(30):
    settings.task.name = f"{sys.argv[2]} {number}"
    assert DigestMemo(Path(sys.argv[1])).of(settings).data == settings.task.name
"""


def test_two_processes_that_write_at_once_do_no_harm(memo: Path) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(memo), name], stderr=subprocess.PIPE, text=True)
        for name in ("one", "two")
    ]
    for writer in writers:
        _, err = writer.communicate(timeout=120)
        assert (writer.returncode, err) == (0, "")
    assert not list(memo.parent.glob(f".{memo.name}.*"))  # no half-written file is left
