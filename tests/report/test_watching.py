"""``--watch``: files are written when something has come, and Ctrl-C ends it well."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nxm_sweep.errors import RecordError
from nxm_sweep.report.__main__ import main
from nxm_sweep.report.watch import watch
from tests.report.records import record, write


def test_files_are_written_when_a_record_has_come_and_once_more_at_the_end(tmp_path: Path) -> None:
    write(tmp_path, record("a", 0.6))
    refreshed: list[float | None] = []
    looks = iter(["nothing", "a record", "nothing"])

    def pause(seconds: float) -> None:
        comes = next(looks, "Ctrl-C")
        if comes == "a record":
            write(tmp_path, record("b", 0.7))
        if comes == "Ctrl-C":
            raise KeyboardInterrupt

    watch([tmp_path], 5.0, refreshed.append, lambda _: None, pause)
    assert refreshed == [5.0, 5.0, None]


def test_ctrl_c_while_files_are_written_leaves_a_page_that_stays(tmp_path: Path) -> None:
    refreshed: list[float | None] = []

    def refresh(period: float | None) -> None:
        refreshed.append(period)
        if period is not None:
            raise KeyboardInterrupt

    watch([tmp_path], 5.0, refresh, lambda _: None)
    assert refreshed == [5.0, None]


def test_records_that_are_not_there_yet_are_waited_for(tmp_path: Path) -> None:
    said: list[str] = []

    def refresh(period: float | None) -> None:
        raise RecordError("no records", hint="train")

    def pause(seconds: float) -> None:
        raise KeyboardInterrupt

    watch([tmp_path], 5.0, refresh, said.append, pause)
    assert said == ["waiting: no records"]


def test_a_folder_that_does_not_exist_is_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="there is no folder"):
        watch([tmp_path / "typo"], 5.0, lambda _: None, lambda _: None)


def test_ctrl_c_ends_the_command_with_exit_code_0_and_a_page_that_stays(tmp_path: Path) -> None:
    write(tmp_path, record("a", 0.6))
    command = [sys.executable, "-m", "nxm_sweep.report", str(tmp_path), "--watch", "1", "--formats", "html"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # under nohup it is ignored, and a child inherits that
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            assert "1 records" in process.stdout.readline()
            page = tmp_path / "reports/index.html"
            assert 'http-equiv="refresh" content="1"' in page.read_text()
            process.send_signal(signal.SIGINT)
            out, errors = process.communicate(timeout=120)
        finally:
            signal.signal(signal.SIGINT, before)
            process.kill()
    assert (process.returncode, errors) == (0, "")
    assert "reloads itself no longer" in out
    assert 'http-equiv="refresh"' not in page.read_text()


@pytest.mark.parametrize("arguments", [["--watch", "0"], ["--watch", "nan"], ["other", "--watch", "5"]])
def test_a_period_that_is_none_is_bad_input(
    tmp_path: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path), *arguments])
    assert main() == 2
    assert capsys.readouterr().err.startswith("error: --watch takes one output folder and at least 1 second")
