"""The benchmarks' arithmetic: rounds taken in turn, ratios, spread, bars, and the run that is kept."""

from __future__ import annotations

import json
import os
import statistics
import time
from functools import partial
from pathlib import Path

import pytest

from benchmarks import groups
from benchmarks.groups import GROUPS, Options
from benchmarks.machine import ROOT
from benchmarks.measure import Figure, Sample, alternate, geometric_means, ratios
from benchmarks.processes import run
from benchmarks.results import markdown, save


def test_ways_are_taken_in_turn_and_every_other_round_backwards() -> None:
    calls: list[str] = []

    def call(name: str) -> int:
        calls.append(name)
        return len(calls)

    taken = alternate({name: partial(call, name) for name in "abc"}, 3)
    assert "".join(calls) == "abccbaabc"
    assert taken == {"a": [1, 6, 7], "b": [2, 5, 8], "c": [3, 4, 9]}


def test_ratios_are_taken_round_by_round() -> None:
    slow, fast = [Sample(2, 30), Sample(9, 20), Sample(8, 10)], [Sample(1, 10), Sample(3, 10), Sample(2, 10)]
    assert ratios(slow, fast) == [2, 3, 4]
    assert ratios(slow, fast, "wall") == [3, 2, 1]
    assert Figure("f", ratios(slow, fast)).median == 3  # the medians' ratio is 4
    with pytest.raises(ValueError, match="shorter"):
        ratios(slow, fast[:2])


def test_the_mean_over_tasks_is_geometric_and_keeps_the_rounds() -> None:
    tasks = [[1.5, 2.0], [3.0, 2.5], [2.2, 9.0]]
    expected = [statistics.geometric_mean(column) for column in zip(*tasks, strict=True)]
    assert geometric_means(tasks) == pytest.approx(expected)


def test_waiting_counts_on_the_wall_and_not_on_the_cpu() -> None:
    took = Sample()
    with took.timed():
        time.sleep(0.2)
    assert took.wall >= 0.2
    assert took.cpu < 0.1


@pytest.mark.parametrize(("bar", "at_least", "is_met"), [(3, True, True), (3.1, True, False), (2.9, False, False)])
def test_the_median_is_held_against_the_bar(bar: float, at_least: bool, is_met: bool) -> None:
    assert Figure("f", [9, 3, 1], bar=bar, at_least=at_least).is_met is is_met
    assert Figure("f", bar=bar, skipped="no GPU").is_met is None


def test_a_process_is_charged_for_what_it_starts() -> None:
    child = "import time; x = bytearray(300 * 2**20); [None for _ in iter(lambda: time.process_time() < 0.5, False)]"
    finished = run(["-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}]); print('done')"])
    assert finished.output == "done\n"
    assert finished.took.cpu >= 0.5
    assert finished.peak >= 0.29
    with pytest.raises(RuntimeError, match="exit code 3"):
        run(["-c", "raise SystemExit(3)"])


def test_a_run_is_kept_with_its_spread_and_says_nothing_of_who_made_it(tmp_path: Path) -> None:
    figures = [Figure("epoch", [1.23456, 3, 2], bar=1.2), Figure("gpu", bar=1, skipped="needs a CUDA GPU")]
    first, second = save(figures, Options(), tmp_path), save(figures, Options(), tmp_path)
    assert first != second
    run = json.loads(first.read_text())
    epoch, gpu = run["figures"]
    assert (epoch["median"], epoch["min"], epoch["max"], epoch["is_met"]) == (2, 1.235, 3, True)
    assert gpu["skipped"] == "needs a CUDA GPU"
    assert {"cpu", "cores", "flags", "versions", "commit"} <= set(run["machine"])
    text = first.read_text() + first.with_suffix(".md").read_text()
    assert not [name for name in (os.uname().nodename, str(ROOT), str(Path.home())) if len(name) > 1 and name in text]
    assert "| 2.00 (1.23 to 3.00)" in markdown(figures)


def test_a_group_that_fails_keeps_what_it_had_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        @staticmethod
        def measure(_: Options) -> object:
            yield Figure("first", [1.0])
            raise OSError("disk full")

    monkeypatch.setattr("benchmarks.groups.importlib.import_module", lambda _: Broken)
    figures, error = groups.measure("epoch", Options())
    assert [figure.name for figure in figures] == ["first"]
    assert error.strip().endswith("OSError: disk full")


def test_every_group_is_a_module_and_in_the_readme() -> None:
    readme = (ROOT / "benchmarks" / "README.md").read_text()
    for group in GROUPS:
        assert (ROOT / "benchmarks" / f"{group}.py").is_file()
        assert f"`{group}`" in readme
