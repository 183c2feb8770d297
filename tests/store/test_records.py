"""Records on disk: whole or not there, whatever happens while they are written."""

from __future__ import annotations

import json
import math
import os
import runpy
import threading
from pathlib import Path
from typing import Any, NoReturn

import pytest

from nxm_sweep.errors import RecordError
from nxm_sweep.store.paths import RESULT, trial_folder
from nxm_sweep.store.record import Record
from nxm_sweep.store.records import SCHEMA, read_record, read_records, read_summary, write_record
from tests.store.keys import undescribed

OLD: dict[str, Any] = {
    "schema": SCHEMA,
    "identity": "a",
    "sparsity_name": "2of4",
    "best": {"epoch": 1, "value": 0.5},
    "epochs": [{"epoch": 1, "selection": 0.5, "unpruned_selection": None, "relative_distance": 1}],
    "sparsity": {"targets": [{"constraint": "2 of 4"}], "exact": True},
    "seconds": {"total": 2.5},
}

ROOT = Path(__file__).resolve().parents[2]


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = write_record(tmp_path / "trials" / "a", OLD)
    assert path == tmp_path / "trials" / "a" / "result.json"
    assert json.loads(path.read_text()) == OLD
    assert read_record(path.parent) == OLD
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_trial_without_a_record_has_none(tmp_path: Path) -> None:
    assert read_record(tmp_path) is None
    assert list(read_records(tmp_path)) == []


def test_a_reader_never_sees_part_of_a_record(tmp_path: Path) -> None:
    records = [{**OLD, "identity": name, "text": name * size} for name, size in (("a", 300_000), ("b", 10))]
    write_record(tmp_path, records[0])
    done = threading.Event()
    seen: list[str] = []
    wrong: list[object] = []

    def poll() -> None:
        while not done.is_set():
            try:
                record = read_record(tmp_path)
            except RecordError as error:
                wrong.append(error)
                return
            if record not in records:
                wrong.append(record)
                return
            seen.append(record["identity"])

    reader = threading.Thread(target=poll)
    reader.start()
    try:
        for turn in range(150):
            write_record(tmp_path, records[turn % 2])
    finally:
        done.set()
        reader.join()
    assert wrong == []
    assert set(seen) == {"a", "b"}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_record_that_is_not_finite_is_refused_and_the_old_one_stays(value: float, tmp_path: Path) -> None:
    write_record(tmp_path, OLD)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_record(tmp_path, {**OLD, "loss": value})
    assert read_record(tmp_path) == OLD
    assert [path.name for path in tmp_path.iterdir()] == [RESULT]


@pytest.mark.parametrize("stage", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_record_and_no_litter(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> NoReturn:
        raise OSError("no space left on device")

    write_record(tmp_path, OLD)
    with monkeypatch.context() as patch:
        patch.setattr(os if stage == "fsync" else Path, stage, fail)
        with pytest.raises(OSError, match="no space left"):
            write_record(tmp_path, {**OLD, "identity": "new"})
    assert read_record(tmp_path) == OLD
    assert [path.name for path in tmp_path.iterdir()] == [RESULT]


def test_what_a_killed_writer_left_is_no_record(tmp_path: Path) -> None:
    folder = tmp_path / "trials" / "a"
    folder.mkdir(parents=True)
    (folder / f".{RESULT}.x1y2").write_text('{"schema": 1, "iden')
    assert read_record(folder) is None
    assert list(read_records(tmp_path)) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b'{"schema": 1, "identity"', "cannot be read"),
        (b"\xff\xfe{}", "cannot be read"),
        (b"[]", "its content must be an object but is a list"),
        (b"{}", "schema is missing"),
        (b'{"schema": "1"}', "schema must be a whole number but is text"),
        (b'{"schema": null}', "schema must be a whole number but is null"),
        (b'{"schema": true}', "schema must be a whole number but is true or false"),
        (b"null", "its content must be an object but is null"),
        (b'{"schema": 1}', "is not a record: identity is missing"),
        (b'{"schema": NaN}', "NaN is not JSON"),
        (b"[" * 100_000, "is nested too deeply"),
        (json.dumps({**OLD, "best": {"epoch": 1, "value": "0.9"}}).encode(), "best.value must be a number but is text"),
        (json.dumps({**OLD, "best": {"epoch": 7, "value": 0.9}}).encode(), "best epoch is not among its epochs"),
        (json.dumps({**OLD, "epochs": [None]}).encode(), "epochs[0] must be an object but is null"),
        (b'{"schema": 1' + b"0" * 400 + b"}", "schema is out of range"),
        (b'{"schema": 3}', "has schema 3 but this version reads up to 2"),
    ],
)
def test_a_file_that_is_not_a_record_is_one_line_with_a_way_out(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / RESULT).write_bytes(content)
    with pytest.raises(RecordError) as caught:
        read_record(tmp_path)
    assert str(tmp_path / RESULT) in caught.value.message
    assert message in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint in {"move it away to train the trial again", "upgrade"}


def test_a_record_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    (tmp_path / RESULT).mkdir()
    with pytest.raises(RecordError, match="cannot be read"):
        read_record(tmp_path)


def test_records_come_in_the_order_of_their_identities(tmp_path: Path) -> None:
    for identity in ("c", "a", "b"):
        write_record(trial_folder(tmp_path, identity), {**OLD, "identity": identity})
    trial_folder(tmp_path, "unfinished").mkdir()
    (tmp_path / "trials" / "notes.txt").touch()
    assert [record["identity"] for record in read_records(tmp_path)] == ["a", "b", "c"]


def test_one_damaged_record_is_not_passed_over(tmp_path: Path) -> None:
    write_record(trial_folder(tmp_path, "a"), OLD)
    damaged = trial_folder(tmp_path, "b")
    damaged.mkdir()
    (damaged / RESULT).write_text("{")
    with pytest.raises(RecordError, match=str(damaged)):
        list(read_records(tmp_path))


# --- records of schema 1 ----------------------------------------------------------------------------------------------


def _trained(method: str, schedule: str = "constant", **admm: str) -> dict[str, Any]:
    hashed = {"method": {"name": method, "admm": {"penalty": "gradient", "finish": "refit", **admm}}}
    return {**OLD, "schema": 1, "hashed": hashed, "config": {"rho": {"schedule": schedule}}}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (_trained("nxm", "linear", penalty="decoupled"), "rho.schedule=linear has rescaled the dual of a decoupled"),
        (_trained("nxm_refit", "balanced", penalty="decoupled"), "rho.schedule=balanced has rescaled the dual"),
        (_trained("nxm_refit", finish="prune"), "method.admm.finish=prune left method.admm.admm_fraction out of it"),
    ],
)
def test_a_record_whose_identity_stood_for_other_outcomes_too_is_no_answer(
    record: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    write_record(tmp_path, record)
    with pytest.raises(RecordError, match=reason) as caught:
        read_record(tmp_path)
    assert caught.value.hint == "move it away to train the trial again"
    write_record(tmp_path, {**record, "schema": 2})
    assert read_record(tmp_path) == {**record, "schema": 2}


@pytest.mark.parametrize(
    "record",
    [
        _trained("nxm", penalty="decoupled"),
        _trained("nxm", "linear"),
        _trained("nxm", finish="prune"),
        _trained("nxm_refit"),
        {**OLD, "schema": 1, "hashed": {"method": {"name": "dense"}}},
        {**OLD, "schema": 1, "hashed": [], "config": {"rho": 3}},
    ],
)
def test_every_other_record_of_schema_1_is_read(record: dict[str, Any], tmp_path: Path) -> None:
    write_record(tmp_path, record)
    assert read_record(tmp_path) == record


def test_a_summary_follows_the_file(tmp_path: Path) -> None:
    assert read_summary(tmp_path) is None
    write_record(tmp_path, OLD)
    summary = read_summary(tmp_path)
    assert summary is not None
    assert (summary.score, summary.epoch, summary.seconds, summary.pattern) == (0.5, 1.0, 2.5, "2of4")
    write_record(tmp_path, {**OLD, "best": {"epoch": 1, "value": 0.75}})
    assert (read_summary(tmp_path) or summary).score == 0.75
    (tmp_path / RESULT).unlink()
    assert read_summary(tmp_path) is None


# --- what a record holds ----------------------------------------------------------------------------------------------

RECORDS = sorted((ROOT / "outputs" / "examples").glob("*/trials/*/result.json"))


def test_every_committed_record_has_the_keys_that_the_type_lists() -> None:
    assert RECORDS
    assert {place for path in RECORDS for place in undescribed(json.loads(path.read_text()), Record)} == set()


def test_the_page_of_records_is_made_from_the_type() -> None:
    page = runpy.run_path(str(ROOT / "docs" / "make_records.py"))["page"]()
    assert (ROOT / "docs" / "records.md").read_text() == page
    assert "| `selection_value` | `float` |" in page
