"""The verdict: which method it names, and that it claims no more than intervals and corrected tests allow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nxm_sweep.report.content import Content
from nxm_sweep.report.frames import read_report
from nxm_sweep.report.statistics import compare
from nxm_sweep.report.table import best_entries, difference_to_dense, make_table
from nxm_sweep.report.verdict import Difference
from tests.report.records import record, write

SPREAD = (-0.004, 0.001, 0.003, -0.002, 0.002)  # of five seeds


def sentences(folder: Path) -> list[str]:
    report = read_report([folder])
    return [verdict.sentence for verdict in Content(report, make_table(report), compare(report)).verdicts]


def add(folder: Path, method: str, scores: list[float], **other: Any) -> None:
    for seed, score in enumerate(scores):
        name = f"{method}{seed}{other.get('task', '')[-3:]}{other.get('rules', '')}{other.get('model', '')}"
        write(folder, record(name, score, method=method, seed=seed, **other))


def test_one_seed_has_no_interval_and_no_gain(tmp_path: Path) -> None:
    for method, score in (("dense", 0.80), ("asp", 0.70), ("nxm", 0.75)):
        add(tmp_path, method, [score])
    (sentence,) = sentences(tmp_path)
    assert sentence == (
        "At 2:4, NxM has the highest score of 2 sparse methods, 75.0 on RTE: it scores 5.0 points above ASP and "
        "5.0 points below dense (one seed: no interval)."
    )


def test_equal_scores_are_level(tmp_path: Path) -> None:
    for method, score in (("dense", 0.80), ("asp", 0.7504), ("nxm", 0.7506)):
        add(tmp_path, method, [score])
    (sentence,) = sentences(tmp_path)
    assert sentence.endswith("it scores level with ASP and 4.9 points below dense (one seed: no interval).")


def test_a_gain_and_a_loss_have_their_intervals(tmp_path: Path) -> None:
    for method, score in (("dense", 0.80), ("asp", 0.70), ("nxm", 0.75)):
        wobble = SPREAD if method == "nxm" else [0.0] * 5
        add(tmp_path, method, [score + one for one in wobble])
    (sentence,) = sentences(tmp_path)
    assert "it gains 5.0 points over ASP (95% interval +4.6 to +5.4, 5 seeds)" in sentence
    assert "and it loses 5.0 points to dense (95% interval -5.4 to -4.6, 5 seeds)." in sentence


def test_an_interval_that_includes_zero_is_no_gain(tmp_path: Path) -> None:
    add(tmp_path, "asp", [0.70] * 5)
    add(tmp_path, "nxm", [0.701 + 3 * one for one in SPREAD])
    (sentence,) = sentences(tmp_path)
    assert "it cannot be told apart from ASP (+0.1 points, 95% interval -1.0 to +1.2, 5 seeds)" in sentence
    assert "it has no dense to be compared with." in sentence
    assert "gains" not in sentence


def test_an_interval_without_zero_is_no_gain_before_holms_correction() -> None:
    difference = Difference("nxm", "asp", 1.0, 0.1, 1.9, 0.09, 5, ("glue/rte",))
    assert difference.text.startswith(
        "cannot be told apart from ASP (+1.0 points, 95% interval +0.1 to +1.9, 5 seeds; p = 0.09"
    )


@given(
    mean=st.floats(-50, 50),
    reach=st.one_of(st.none(), st.floats(0, 60)),
    p=st.floats(0, 1),
    seeds=st.integers(1, 10),
)
def test_it_never_claims_a_difference_whose_interval_includes_zero(
    mean: float, reach: float | None, p: float, seeds: int
) -> None:
    low, high = (None, None) if reach is None else (mean - reach, mean + reach)
    text = Difference("nxm", "asp", mean, low, high, None if reach is None else p, seeds, ()).text
    claims = "gains" in text or "loses" in text
    if low is None or high is None or low <= 0.0 <= high or p >= 0.05:
        assert not claims
    assert ("no interval" in text) == (low is None)
    assert ("95% interval" in text) == (low is not None)


def test_p_is_corrected_for_the_tests_of_all_methods_that_the_best_is_chosen_from(tmp_path: Path) -> None:
    """By hand: of three methods' averages against ASP and dense, five tests; Holm multiplies the smallest p by 5."""
    draw = np.random.default_rng(0)
    for task in ("rte", "cola", "mrpc"):
        for method, score in (("dense", 0.80), ("asp", 0.70), ("nxm", 0.75), ("gradual", 0.71)):
            add(tmp_path, method, (score + draw.normal(0, 0.004, 3)).tolist(), task=f"glue/{task}")
    report = read_report([tmp_path])
    found = Content(report, make_table(report), compare(report))
    averages = found.statistics.differences.query("task == 'average'")
    raw = sorted(averages["p"])
    assert len(raw) == 5
    (verdict,) = found.verdicts
    (against_asp, against_dense) = verdict.differences
    for difference in (against_asp, against_dense):
        row = averages[(averages["method"] == "nxm") & (averages["against"] == difference.against)].iloc[0]
        rank = raw.index(row["p"])
        assert difference.p == pytest.approx(max((5 - place) * raw[place] for place in range(rank + 1)))
        assert difference.p < row["p_holm"]  # the table's is corrected for every task, too


def test_where_asp_is_the_best_the_next_is_held_against_it(tmp_path: Path) -> None:
    for method, score in (("dense", 0.80), ("asp", 0.75), ("nxm", 0.70)):
        add(tmp_path, method, [score])
    (sentence,) = sentences(tmp_path)
    assert "ASP has the highest score" in sentence
    assert "the next, NxM, scores 5.0 points below ASP (one seed: no interval)" in sentence


def test_the_best_is_that_of_the_tasks_that_every_method_has_and_they_are_named(tmp_path: Path) -> None:
    for task, asp, nxm in (("glue/rte", 0.70, 0.60), ("glue/cola", 0.40, 0.60)):
        add(tmp_path, "asp", [asp], task=task)
        add(tmp_path, "nxm", [nxm], task=task)
    add(tmp_path, "gradual", [0.9], task="glue/rte")
    (sentence,) = sentences(tmp_path)
    assert sentence.startswith("At 2:4, Gradual has the highest score of 3 sparse methods, 90.0 on RTE: ")
    (tmp_path / "trials/gradual0rte/result.json").unlink()
    (tmp_path / "trials/gradual0rte").rmdir()
    (sentence,) = sentences(tmp_path)
    assert "NxM has the highest score of 2 sparse methods, 60.0 on average over CoLA and RTE: it scores 5.0" in sentence


def test_patterns_and_models_have_a_verdict_each_and_unstructured_ones_none_beside_them(tmp_path: Path) -> None:
    add(tmp_path, "asp", [0.70])
    add(tmp_path, "asp", [0.60], rules="1of4", held="1 of 4")
    add(tmp_path, "asp", [0.65], model="other")
    add(tmp_path, "admm_unstructured", [0.9], held="0.5 unstructured")
    found = sentences(tmp_path)
    assert [sentence.partition(",")[0] for sentence in found] == ["At 2:4 on other", "At 1:4 on tiny", "At 2:4 on tiny"]
    assert not any("Unstructured" in sentence for sentence in found)


def test_without_a_common_task_or_a_sparse_method_none_is_the_best(tmp_path: Path) -> None:
    add(tmp_path, "dense", [0.7])
    assert sentences(tmp_path) == ["No sparse method has a score yet."]
    add(tmp_path, "asp", [0.7], task="glue/rte")
    add(tmp_path, "nxm", [0.7], task="glue/cola")
    assert sentences(tmp_path) == ["At 2:4, no task has a score of every method, so none is the best."]


def test_the_best_sparse_entries_are_those_of_one_pattern_ties_included(tmp_path: Path) -> None:
    for method, score in (("dense", 0.9), ("asp", 0.70), ("nxm", 0.7501), ("gradual", 0.7502)):
        add(tmp_path, method, [score])
    add(tmp_path, "asp", [0.8], rules="1of4", held="1 of 4")
    table = make_table(read_report([tmp_path]))
    best = {(table.rows[row].method, table.rows[row].sparsity, column) for row, column in best_entries(table)}
    assert best == {(name, "2of4", column) for name in ("nxm", "gradual") for column in ("glue/rte", "average")}


def test_the_difference_to_dense_is_of_the_same_model(tmp_path: Path) -> None:
    add(tmp_path, "dense", [0.9])
    add(tmp_path, "asp", [0.7])
    add(tmp_path, "asp", [0.6], model="other")
    table = make_table(read_report([tmp_path]))
    found = {(row.method, row.model): difference_to_dense(table, row, "glue/rte") for row in table.rows}
    assert found == {("dense", "tiny"): None, ("asp", "tiny"): pytest.approx(-0.2), ("asp", "other"): None}


def test_methods_of_two_precisions_are_not_ranked_together(tmp_path: Path) -> None:
    for precision, score in (("fp32", 0.7), ("bf16", 0.8)):
        write(tmp_path, record(precision, score, precision=precision))
    found = sentences(tmp_path)
    assert [sentence.partition(" scores ")[0] for sentence in found] == [
        "At 2:4 in bf16, ASP (precision=bf16)",
        "At 2:4 in fp32, ASP (precision=fp32)",
    ]
