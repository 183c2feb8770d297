"""Statistics, against hand computation and SciPy called directly."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_1samp

from nxm_sweep.report.comparison import compare_sweeps
from nxm_sweep.report.content import Content
from nxm_sweep.report.estimates import chooser_sets, estimate, holm
from nxm_sweep.report.frames import read_report
from nxm_sweep.report.predictions import mcnemar
from nxm_sweep.report.statistics import Statistics, compare, expected_best
from nxm_sweep.report.table import make_table
from tests.report.records import plan, predict, record, write


def row(found: Statistics, method: str, against: str, task: str = "glue/rte") -> dict[str, object]:
    frame = found.differences
    (index,) = frame.index[(frame["method"] == method) & (frame["against"] == against) & (frame["task"] == task)]
    return dict(frame.loc[index])


ASP = (0.60, 0.62, 0.61, 0.63, 0.60, 0.62)
NXM = (0.63, 0.64, 0.65, 0.64, 0.62, 0.66)


@pytest.fixture
def six_seeds(tmp_path: Path) -> Path:
    return write(
        tmp_path,
        *(record(f"a{seed}", value, seed=seed) for seed, value in enumerate(ASP)),
        *(record(f"n{seed}", value, method="nxm", rho=4e-3, seed=seed) for seed, value in enumerate(NXM)),
        *(record(f"m{seed}", value - 0.2, method="nxm", rho=1e-3, seed=seed) for seed, value in enumerate(NXM)),
        *(record(f"d{seed}", 0.7, method="dense", seed=seed) for seed in range(6)),
    )


def test_a_difference_is_paired_by_seed_between_the_best_settings_with_students_interval(six_seeds: Path) -> None:
    found = row(compare(read_report([six_seeds])), "nxm", "asp")
    differences = np.subtract(NXM, ASP)
    test = ttest_1samp(differences, 0.0)
    interval = test.confidence_interval(0.95)
    assert (found["mean"], found["p"]) == pytest.approx((statistics.fmean(differences), test.pvalue))
    assert (found["low"], found["high"]) == pytest.approx((interval.low, interval.high))
    assert (found["n"], found["missing"], found["choice"], found["settings"]) == (6, 0, "other seeds", "rho 4e-3")


def chosen_on_others(mine: dict[str, list[float]], reference: dict[str, list[float]], seeds: list[int]) -> float:
    """The mean difference by its definition: all ways to choose on some seeds, and to score on one more; NaN: no record."""
    size = max(1, min(3, (len(seeds) - 1) // 2))
    terms = []
    for choosers in itertools.combinations(seeds, size):
        for seed in (seed for seed in seeds if seed not in choosers):
            scores = []
            for grid in (mine, reference):
                whole = {
                    key: row for key, row in grid.items() if not any(math.isnan(row[s]) for s in (*choosers, seed))
                }
                if whole:
                    best = max(whole, key=lambda key: sum(whole[key][s] for s in choosers))
                    scores.append(whole[best][seed])
            terms += [scores[0] - scores[1]] if len(scores) == 2 else []
    return statistics.fmean(terms)


@pytest.mark.parametrize("count", [3, 4, 5, 6, 7, 8])
def test_settings_are_chosen_on_other_seeds_than_the_one_that_is_scored(tmp_path: Path, count: int) -> None:
    """Mean and jackknife error against their definitions, with rates for both, rho for one, and lost records."""
    draw = np.random.default_rng(count)
    asp, nxm = ({name: list(draw.normal(0.7, 0.02, count)) for name in names} for names in ("ab", "abcd"))
    if count > 4:
        asp["a"][1] = nxm["c"][0] = float("nan")
    rates, rhos = {"a": 1e-4, "b": 2e-4, "c": 1e-4, "d": 2e-4}, {"a": 1e-3, "b": 1e-3, "c": 4e-3, "d": 4e-3}
    for name, scores in nxm.items():
        for seed, value in enumerate(scores):
            entry = record(f"n{name}{seed}", value, method="nxm", rho=rhos[name], lr=rates[name], seed=seed)
            write(tmp_path, *([] if math.isnan(value) else [entry]))
    for name, scores in asp.items():
        for seed, value in enumerate(scores):
            write(
                tmp_path, *([] if math.isnan(value) else [record(f"a{name}{seed}", value, lr=rates[name], seed=seed)])
            )
    found = row(compare(read_report([tmp_path])), "nxm", "asp")
    seeds = list(range(count))
    whole = chosen_on_others(nxm, asp, seeds)
    assert found["mean"] == pytest.approx(whole)
    size = max(1, min(3, (count - 1) // 2))
    sets = list(itertools.combinations(seeds, size))
    assert {tuple(np.flatnonzero(each)) for each in chooser_sets(count, choice=True)} == set(sets)
    if count > 4:
        return  # without a seed the sets may be smaller, which is another estimate
    pseudo = [
        count * whole - (count - 1) * chosen_on_others(nxm, asp, [s for s in seeds if s != left]) for left in seeds
    ]
    test = ttest_1samp(pseudo, 0.0)
    assert found["p"] == pytest.approx(test.pvalue)
    assert found["low"] == pytest.approx(test.confidence_interval(0.95).low)


def test_where_all_seeds_choose_alike_it_is_the_paired_t_test() -> None:
    differences = np.random.default_rng(0).normal(size=8)
    choosers = chooser_sets(8, choice=True)
    found = estimate(np.where(choosers, np.nan, differences), choosers)
    test = ttest_1samp(differences, 0.0)
    assert (found.mean, found.p) == pytest.approx((differences.mean(), test.pvalue))
    assert (found.low, found.high) == pytest.approx(tuple(test.confidence_interval(0.95)))


def test_a_seed_that_shares_no_settings_takes_no_part_and_is_missing(tmp_path: Path) -> None:
    """It would count as a seed without spread."""
    for seed in range(4):
        for rate in (1e-4, 2e-4):
            write(tmp_path, record(f"a{seed}{rate}", 0.6 + seed**2 / 100 + rate, lr=rate, seed=seed))
            write(tmp_path, record(f"n{seed}{rate}", 0.7 + rate, lr=rate, method="nxm", rho=1e-3, seed=seed))
    before = row(compare(read_report([tmp_path])), "nxm", "asp")
    write(tmp_path, record("a4", 0.6, lr=9e-4, seed=4), record("n4", 0.9, lr=9e-4, method="nxm", rho=1e-3, seed=4))
    after = row(compare(read_report([tmp_path])), "nxm", "asp")
    assert (after["n"], after["missing"]) == (4, 1)
    assert after["note"] == "2 trials of settings with one seed take no part"
    assert before["low"] == pytest.approx(float(str(after["low"])), abs=0.02)  # of 5 seeds two choose, of 4 one
    assert before["mean"] == pytest.approx(float(str(after["mean"])))


def test_held_out_rows_choose_and_the_reported_score_is_compared(tmp_path: Path) -> None:
    for seed in range(3):
        write(
            tmp_path,
            record(f"a{seed}", 0.6 + seed / 100, selected=0.5, seed=seed),
            record(f"n{seed}", 0.7 + seed / 50, selected=0.9, method="nxm", rho=1e-3, seed=seed),
            record(f"m{seed}", 0.9, selected=0.4, method="nxm", rho=4e-3, seed=seed),
        )
    found = compare(read_report([tmp_path]))
    difference = row(found, "nxm", "asp")
    assert difference["mean"] == pytest.approx(statistics.fmean((0.10, 0.11, 0.12)))
    assert (difference["selection"], difference["settings"]) == ("heldout", "rho 1e-3")
    assert "by their scores on held-out training rows" in found.sentences[1]


@pytest.mark.parametrize(
    ("seeds", "rhos", "note"),
    [
        (1, 1, "one seed: no interval, no test"),
        (1, 2, "one seed: no interval, no test; it also chose the settings"),
        (2, 2, "2 seeds: each chose the settings of the other, so no interval and no test"),
    ],
)
def test_too_few_seeds_have_a_mean_alone_and_that_is_said(tmp_path: Path, seeds: int, rhos: int, note: str) -> None:
    for seed in range(seeds):
        write(tmp_path, record(f"a{seed}", 0.6, seed=seed))
        for rho in range(rhos):
            value = 0.7 + rho / 100 + seed / 1000
            write(tmp_path, record(f"n{seed}{rho}", value, method="nxm", rho=1e-3 * (rho + 1), seed=seed))
    found = row(compare(read_report([tmp_path])), "nxm", "asp")
    assert found["note"] == note
    assert found["mean"] == pytest.approx(0.1 + 0.01 * (rhos - 1) + 0.0005 * (seeds - 1))
    assert [name for name in ("low", "high", "p", "p_holm") if not math.isnan(float(str(found[name])))] == []


def test_holms_correction_is_stepwise_and_counts_what_was_tested() -> None:
    """By hand: 4 tests; 0.01 x 4, then max(0.04, 0.02 x 3), max(0.06, 0.025 x 2), 0.9."""
    assert holm([0.02, None, 0.01, 0.9, 0.025]) == [pytest.approx(0.06), None, 0.04, 0.9, pytest.approx(0.06)]
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_sentences_quote_the_corrected_p_and_say_for_how_many_tests(six_seeds: Path) -> None:
    found = compare(read_report([six_seeds]))
    assert found.differences["p"].count() == 3  # asp and nxm to dense, nxm to asp
    raw = row(found, "nxm", "asp")
    smaller = int((found.differences["p"] < raw["p"]).sum())
    assert raw["p_holm"] == pytest.approx((3 - smaller) * float(str(raw["p"])))
    assert "Holm's correction for the 3 tests of this table" in found.sentences[0]
    (line,) = (line for line in found.sentences if "above ASP" in line)
    assert f"p = {raw['p_holm']:.3g}, corrected" in line


def test_the_share_of_the_gap_has_fiellers_interval(tmp_path: Path) -> None:
    """A ratio is inside if Student's test does not reject it, so at the ends p is 0.05."""
    asp, dense, nxm = np.array(ASP), np.array((0.70, 0.71, 0.70, 0.74, 0.69, 0.73)), np.array(NXM)
    for method, scores in (("asp", asp), ("dense", dense), ("nxm", nxm)):
        rho = 1e-3 if method == "nxm" else None
        write(
            tmp_path,
            *(record(f"{method}{s}", v, method=method, rho=rho, seed=s) for s, v in enumerate(scores.tolist())),
        )
    found = compare(read_report([tmp_path]))
    (gap,) = found.gaps.to_dict("records")
    assert gap["share"] == pytest.approx(float((nxm - asp).mean() / (dense - asp).mean()))
    for end in (gap["low"], gap["high"]):
        assert ttest_1samp((nxm - asp) - end * (dense - asp), 0.0).pvalue == pytest.approx(0.05)
    assert gap["low"] < gap["share"] < gap["high"]
    words = (
        f"NxM (2:4) closes {100 * gap['share']:.0f}% (95% interval {100 * gap['low']:.0f}% to {100 * gap['high']:.0f}%"
    )
    assert any(words in line for line in found.sentences)


@pytest.mark.parametrize(
    ("dense", "reason"),
    [
        ([0.601], "too few seeds"),
        ([0.601, 0.58, 0.62, 0.59], "within its noise"),
        ([0.501, 0.52, 0.51, 0.50], "dense is below ASP"),
    ],
)
def test_a_gap_within_its_noise_has_no_share(tmp_path: Path, dense: list[float], reason: str) -> None:
    """From one seed, ASP 60.0 and dense 60.1, the share of a method at 62.0 was 2000%."""
    for seed, value in enumerate(dense):
        write(
            tmp_path,
            record(f"a{seed}", 0.60, seed=seed),
            record(f"d{seed}", value, method="dense", seed=seed),
            record(f"n{seed}", 0.62, method="nxm", rho=1e-3, seed=seed),
        )
    found = compare(read_report([tmp_path]))
    assert found.gaps["share"].isna().all()
    assert list(found.gaps["reason"]) == [reason]
    assert not any("gap" in line or "closes" in line for line in found.sentences)


def test_missing_pairs_are_counted_and_named(tmp_path: Path) -> None:
    write(tmp_path, *(record(f"a{seed}", 0.6 + seed / 100, seed=seed) for seed in range(4)))
    write(tmp_path, *(record(f"n{seed}", 0.7, method="nxm", rho=1e-3, seed=seed) for seed in (0, 2)))
    plan(tmp_path, ["n0", "n1", "n2", "n3", "n4"], cell="glue/rte nxm 2of4 tiny")  # seeds are those numbers
    failed = tmp_path / "trials" / "n1"
    failed.mkdir()
    (failed / "failures.json").write_text(
        '[{"kind": "non-finite", "message": "nan", "when": "2026-01-01T00:00:00+00:00"}]'
    )
    found = compare(read_report([tmp_path]))
    difference = row(found, "nxm", "asp")
    assert (difference["n"], difference["missing"]) == (2, 3)
    assert str(difference["note"]).startswith(
        "3 of 5 pairs missing: no record of NxM with seed 1, 3, 4 and of ASP with seed 4; "
        "points without a record: NxM 1 non-finite, 2 to do"
    )
    (line,) = (line for line in found.sentences if "above ASP" in line)
    assert line.endswith("; 3 of 5 pairs missing).")


def test_a_reference_without_any_record_is_missing_not_absent(tmp_path: Path) -> None:
    write(tmp_path, record("n", 0.7, method="nxm", rho=1e-3))
    plan(tmp_path, ["a"], cell="glue/rte asp 2of4 tiny")
    found = compare(read_report([tmp_path]))
    assert (row(found, "nxm", "asp")["n"], row(found, "nxm", "asp")["missing"]) == (0, 1)
    assert "1 of 1 pairs missing: no record of ASP with seed 0" in str(row(found, "nxm", "asp")["note"])


def test_mnli_counts_with_one_value_in_table_differences_and_expected_best(tmp_path: Path) -> None:
    """m alone would put nxm 2 points above, the mean of m and mm puts it 1 point below."""
    for name, matched, mismatched in (("asp", 0.80, 0.86), ("nxm", 0.82, 0.82)):
        reported = {"matched": {"accuracy": matched}, "mismatched": {"accuracy": mismatched}}
        rho = 1e-3 if name == "nxm" else None
        write(tmp_path, record(name, matched, task="glue/mnli", method=name, rho=rho, reported=reported))
    report = read_report([tmp_path])
    found = compare(report)
    entries = {each.method: each.entries["glue/mnli"] for each in make_table(report).rows}
    values = {method: entry.value or 0.0 for method, entry in entries.items()}
    assert values == pytest.approx({"asp": 0.83, "nxm": 0.82})
    assert row(found, "nxm", "asp", "glue/mnli")["mean"] == pytest.approx(values["nxm"] - values["asp"])
    assert dict(zip(found.expected["method"], found.expected["value"], strict=True)) == pytest.approx(values)
    assert dict(zip(report.trials["method"], report.trials["selected"], strict=True)) == {"asp": 0.80, "nxm": 0.82}


def test_each_method_stands_with_its_best_settings_of_equal_budget(tmp_path: Path) -> None:
    write(
        tmp_path,
        record("a", 0.60, lr=1e-4),
        record("b", 0.50, lr=2e-4),
        record("n", 0.63, method="nxm", rho=1e-3, lr=1e-4),
        record("m", 0.70, method="nxm", rho=1e-3, lr=3e-4),
        record("o", 0.90, method="nxm", rho=1e-3, lr=3e-4, epochs=9),  # ASP was not trained for as long
    )
    found = row(compare(read_report([tmp_path])), "nxm", "asp")
    assert found["mean"] == pytest.approx(0.10)
    assert (found["settings"], found["against_settings"]) == ("lr 3e-4", "lr 1e-4")
    assert str(found["note"]).endswith("1 of 5 trials left out: not of equal training.epochs")


def test_two_sweeps_are_tested_by_the_same_procedure(tmp_path: Path) -> None:
    """Of other epochs: sweeps are compared as they are, and the notes say what differs."""
    sweeps = []
    for name, scores, epochs in (("one", ASP, 2), ("two", (*NXM[:5], 0.9), 3)):
        seeds = [*range(5), 5 if name == "one" else 9]
        entries = [record(f"{name}{s}", v, seed=s, epochs=epochs) for s, v in zip(seeds, scores, strict=True)]
        report = read_report([write(tmp_path / name, *entries)])
        sweeps.append(Content(report, make_table(report), compare(report)))
    comparison = compare_sweeps(sweeps[0], sweeps[1], ("one", "two"))
    (pairing,) = comparison.pairings
    test = ttest_1samp(np.subtract(NXM, ASP)[:5], 0.0)
    assert pairing.tested["p_holm"] == pytest.approx(test.pvalue)
    assert (pairing.tested["n"], pairing.tested["missing"]) == (5, 2)
    shown = comparison.frame.iloc[0]
    assert shown["paired"] == f"{100 * np.subtract(NXM, ASP)[:5].mean():+.1f}"
    assert "no record of the second sweep with seed 5 and of the first sweep with seed 9" in shown["note"]
    assert any("Holm's correction for the 1 test of this table" in note for note in comparison.notes)


def test_a_difference_over_all_seeds_has_nothing_to_remark(six_seeds: Path) -> None:
    rows = compare(read_report([six_seeds])).differences.to_dict("records")
    assert [(row["n"], row["missing"], row["note"]) for row in rows] == [(6, 0, "")] * 3  # NxM to both, ASP to dense


def test_equal_differences_have_no_test(tmp_path: Path) -> None:
    write(
        tmp_path,
        *(record(f"a{seed}", 0.5, seed=seed) for seed in range(3)),
        *(record(f"n{seed}", 0.75, method="nxm", rho=1e-3, seed=seed) for seed in range(3)),
    )
    found = row(compare(read_report([tmp_path])), "nxm", "asp")
    assert found["mean"] == 0.25
    assert [name for name in ("low", "high", "p") if not math.isnan(float(str(found[name])))] == []
    assert found["note"] == "all 3 seeds differ by the same amount: no interval, no test"


def test_the_average_is_paired_over_the_seeds_that_every_task_has(tmp_path: Path) -> None:
    scores = {"glue/rte": ((0.5, 0.6), (0.6, 0.8)), "glue/cola": ((0.1, 0.2), (0.2, 0.2))}
    for task, (asp, nxm) in scores.items():
        for seed, (first, second) in enumerate(zip(asp, nxm, strict=True)):
            name = f"{task[-3:]}{seed}"
            write(
                tmp_path,
                record(f"a{name}", first, task=task, seed=seed),
                record(f"n{name}", second, task=task, method="nxm", rho=1e-3, seed=seed),
            )
    found = row(compare(read_report([tmp_path])), "nxm", "asp", "average")
    assert found["mean"] == pytest.approx(((0.1 + 0.1) / 2 + (0.2 + 0.0) / 2) / 2)
    assert found["n"] == 2


@pytest.mark.parametrize("other", [{"epochs": 5}, {"max_train_samples": 100}, {"precision": "bf16"}])
def test_trials_of_other_budgets_or_precision_are_not_compared(tmp_path: Path, other: dict[str, Any]) -> None:
    mine, reference = record("n", 0.63, method="nxm", rho=1e-3), record("a", 0.60)
    reference["hashed"]["training"] |= {"max_train_samples": None}
    mine["hashed"]["training"] |= {"max_train_samples": None} | other
    write(tmp_path, mine, reference)
    found = compare(read_report([tmp_path]))
    difference = row(found, "nxm", "asp")
    assert (difference["n"], difference["note"]) == (
        0,
        f"2 of 2 trials left out: not of equal training.{next(iter(other))}",
    )
    assert not any("left out" in line for line in found.sentences)


def test_an_average_needs_seeds_that_the_tasks_share(tmp_path: Path) -> None:
    for seed, task in enumerate(("glue/rte", "glue/cola")):
        write(
            tmp_path,
            record(f"a{seed}", 0.5, task=task, seed=seed),
            record(f"n{seed}", 0.6, task=task, method="nxm", rho=1e-3, seed=seed),
        )
    found = row(compare(read_report([tmp_path])), "nxm", "asp", "average")
    assert (found["n"], found["note"]) == (0, "averages are over CoLA, RTE; 2 of 2 seeds are not paired in every task")


def test_the_average_is_tested_over_the_means_of_each_seed(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    scores = draw.normal(0.7, 0.05, (2, 2, 5))
    for task, of_task in zip(("rte", "cola"), scores, strict=True):
        for seed in range(5):
            name = f"{task}{seed}"
            asp, nxm = of_task[:, seed].tolist()
            write(tmp_path, record(f"a{name}", asp, task=f"glue/{task}", seed=seed))
            write(tmp_path, record(f"n{name}", nxm, task=f"glue/{task}", seed=seed, method="nxm", rho=1e-3))
    found = row(compare(read_report([tmp_path])), "nxm", "asp", "average")
    test = ttest_1samp((scores[:, 1] - scores[:, 0]).mean(axis=0), 0.0)
    assert (found["n"], found["p"]) == (5, pytest.approx(test.pvalue))


def test_methods_that_make_two_patterns_of_the_same_rules_are_compared(tmp_path: Path) -> None:
    write(
        tmp_path,
        record("d", 0.8, method="dense"),
        record("a", 0.6),
        record("b", 0.5, rules="1of4", held="1 of 4"),
        record("u", 0.7, method="admm_unstructured", held="0.5 unstructured"),
        record("v", 0.55, method="admm_unstructured", rules="1of4", held="0.25 unstructured"),
    )
    found = compare(read_report([tmp_path]))
    pairs = found.differences[found.differences["against"] == "asp"].set_index("sparsity")["mean"]
    assert pairs.to_dict() == pytest.approx({"50% unstructured": 0.1, "75% unstructured": 0.05})
    gaps = found.gaps.set_index("sparsity")
    assert gaps["gain"].to_dict() == pytest.approx({"50% unstructured": 0.1, "75% unstructured": 0.05})
    assert gaps["gap"].to_dict() == pytest.approx({"50% unstructured": 0.2, "75% unstructured": 0.3})


def test_a_method_with_a_teacher_is_compared_with_its_like(tmp_path: Path) -> None:
    taught = {"distillation": {"name": "full", "teacher_digest": "t"}}
    write(
        tmp_path,
        record("a", 0.5),
        {**record("b", 0.6), **taught},
        {**record("n", 0.7, method="nxm", rho=1e-3), **taught},
        record("m", 0.65, method="nxm", rho=1e-3),
    )
    found = compare(read_report([tmp_path]))
    assert row(found, "nxm (distillation=full)", "asp")["mean"] == pytest.approx(0.1)
    assert row(found, "nxm", "asp")["mean"] == pytest.approx(0.15)


def test_the_gap_is_also_that_of_the_averages(tmp_path: Path) -> None:
    scores = {"glue/rte": (0.5, 0.7, 0.6), "glue/cola": (0.2, 0.4, 0.4)}
    for task, (asp, dense, nxm) in scores.items():
        for seed, noise in enumerate((0.0, 0.01, -0.01)):
            name = f"{task[-3:]}{seed}"
            write(
                tmp_path,
                record(f"a{name}", asp, task=task, seed=seed),
                record(f"d{name}", dense + noise, task=task, method="dense", seed=seed),
                record(f"n{name}", nxm + noise, task=task, method="nxm", rho=1e-3, seed=seed),
            )
    gaps = compare(read_report([tmp_path])).gaps.set_index("task")["share"]
    assert gaps.to_dict() == pytest.approx({"glue/rte": 0.5, "glue/cola": 1.0, "average": 0.75})


def test_mcnemar_is_left_out_where_its_rows_picked_a_trial(tmp_path: Path) -> None:
    write(tmp_path, record("a", 0.6), record("n", 0.8, method="nxm", rho=1e-3), record("b", 0.5, lr=2e-4))
    for name, answer in (("a", 0), ("b", 0), ("n", 1)):
        predict(tmp_path, name, [0, 1] * 10, [answer] * 20)
    assert compare(read_report([tmp_path])).differences["mcnemar"].isna().all()


def test_the_last_epoch_has_no_mcnemar_since_kept_predictions_are_the_best_epochs(tmp_path: Path) -> None:
    write(tmp_path, record("a", 0.6, selected=0.5), record("n", 0.7, method="nxm", selected=0.5))
    for identity, predictions in (("a", [0, 1, 0]), ("n", [1, 1, 0])):
        predict(tmp_path, identity, [1, 1, 0], predictions)
    assert row(compare(read_report([tmp_path])), "nxm", "asp")["mcnemar"] == 1.0
    assert math.isnan(float(row(compare(read_report([tmp_path], last_epoch=True)), "nxm", "asp")["mcnemar"]))  # type: ignore[arg-type]


def test_admm_is_compared_with_its_control_and_the_baselines_are_not(tmp_path: Path) -> None:
    write(
        tmp_path,
        *(record(f"a{seed}", value, seed=seed) for seed, value in enumerate(ASP)),
        *(record(f"n{seed}", value, method="nxm_refit", seed=seed) for seed, value in enumerate(NXM)),
        *(record(f"w{seed}", 0.62, method="warmup_asp", seed=seed) for seed in range(6)),
    )
    found = compare(read_report([tmp_path]))
    assert row(found, "nxm_refit", "warmup_asp")["mean"] == pytest.approx(statistics.fmean(NXM) - 0.62)
    pairs = set(zip(found.differences["method"], found.differences["against"], strict=True))
    assert pairs == {("nxm_refit", "warmup_asp"), ("nxm_refit", "asp"), ("warmup_asp", "asp")}


def test_mcnemar_counts_all_sets_of_a_task(tmp_path: Path) -> None:
    for identity, predictions in (("a", [1, 1, 1]), ("b", [0, 0, 0])):
        folder = tmp_path / identity
        folder.mkdir()
        sets = {name: {"labels": [0, 0, 0], "predictions": predictions} for name in ("matched", "mismatched")}
        (folder / "predictions.json").write_text(json.dumps({"epoch": 1, "sets": sets}))
    assert mcnemar(tmp_path / "a", tmp_path / "b") == pytest.approx(2 / 2**6)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"sets": {}}', '{"sets": {"v": {"labels": [[0], 1], "predictions": [0]}}}', "[" * 100_000]
)
def test_damaged_predictions_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "predictions.json").write_text(text)
    assert mcnemar(tmp_path, tmp_path) is None


def test_many_trials_have_an_expected_best_too(tmp_path: Path) -> None:
    write(tmp_path, *(record(f"a{number}", number / 100, seed=number) for number in range(60)))
    frame = expected_best(read_report([tmp_path])).set_index("trials")["value"]
    assert (frame.index[0], frame.index[-1]) == (1, 60)
    assert frame[1] == pytest.approx(statistics.fmean(number / 100 for number in range(60)))
    k = int(frame.index[len(frame) // 2])
    weights = [math.comb(number, k - 1) / math.comb(60, k) for number in range(60)]
    assert frame[k] == pytest.approx(sum(w * number / 100 for number, w in enumerate(weights)))
    assert frame[60] == pytest.approx(0.59)


def test_mcnemar_is_the_exact_test_of_the_discordant_rows(tmp_path: Path) -> None:
    write(tmp_path, record("a", 0.6), record("n", 0.8, method="nxm", rho=1e-3))
    labels = [0] * 10 + [1] * 10
    predict(tmp_path, "a", labels, [0] * 20)
    predict(tmp_path, "n", labels, [0] * 9 + [1] * 11)  # one right of ASP's is wrong, ten wrong ones are right
    p = mcnemar(tmp_path / "trials" / "n", tmp_path / "trials" / "a")
    assert p == pytest.approx(float(binomtest(10, 11).pvalue))
    assert row(compare(read_report([tmp_path])), "nxm", "asp")["mcnemar"] == p


@pytest.mark.parametrize(
    ("labels", "predictions"), [([0.5, 1.5], [0.5, 1.0]), ([0, 1, 1], [0, 1, 1])], ids=["regression", "other rows"]
)
def test_mcnemar_needs_right_and_wrong_on_the_same_rows(
    tmp_path: Path, labels: list[float], predictions: list[float]
) -> None:
    write(tmp_path, record("a", 0.6), record("n", 0.8))
    predict(tmp_path, "a", labels, predictions)
    predict(tmp_path, "n", [0.5, 1.5] if labels[0] == 0.5 else [0, 1], [0, 1])
    assert mcnemar(tmp_path / "trials" / "n", tmp_path / "trials" / "a") is None


def test_the_expected_best_is_the_mean_over_all_subsets(tmp_path: Path) -> None:
    values = (0.3, 0.9, 0.5, 0.7)
    write(tmp_path, *(record(f"a{number}", value, lr=1e-4 * (number + 1)) for number, value in enumerate(values)))
    frame = compare(read_report([tmp_path])).expected
    for k, expected in zip(frame["trials"], frame["value"], strict=True):
        subsets = list(itertools.combinations(values, k))
        assert expected == pytest.approx(statistics.fmean(map(max, subsets)))
    assert list(frame["trials"]) == [1, 2, 3, 4]


def test_few_seeds_edges_and_constant_scores_are_warned_of(tmp_path: Path) -> None:
    write(
        tmp_path,
        record("a", 0.6, lr=1e-4),
        record("b", 0.6, lr=2e-4),
        record("n", 0.6, method="nxm", rho=1e-3),
        record("m", 0.7, method="nxm", rho=4e-3),
        record("o", 0.6, method="nxm", rho=1e-2),
    )
    warnings = compare(read_report([tmp_path])).warnings
    assert any(line == "Differences rest on 1 seed: there is no test." for line in warnings)
    assert "All 2 trials of RTE ASP 2:4 tiny scored 60.00: the training may have collapsed." in warnings
    (edge,) = (line for line in warnings if "edge" in line)
    assert edge.startswith("The best lies at an edge of learning_rate.value, so a wider grid may be better: ")
    assert edge.endswith(": RTE ASP 2:4 tiny: 1e-4, the lowest.")


def test_findings_are_said_in_words(six_seeds: Path) -> None:
    sentences = compare(read_report([six_seeds])).sentences
    assert "chosen on other seeds than the one that is scored, by their scores on the reported rows" in sentences[1]
    (line,) = (line for line in sentences if "above ASP" in line)
    assert line.startswith("On RTE (tiny), NxM (2:4) with rho 4e-3 is 2.7 points above ASP (6 seeds; 95% interval +")


@pytest.mark.parametrize(
    ("scores", "failed"),
    [
        ((0.84, 0.83, 0.20), "Seed 2 of RTE ASP 2:4 tiny scored 20.0, far below the median 83.0 of 3 seeds"),
        ((0.84, 0.83, 0.74), None),  # 9 deviations
        ((0.84, 0.84, 0.80), None),  # no deviation to speak of, but a loss of 4 points
        ((0.84, 0.20), None),
    ],
)
def test_a_seed_far_below_the_others_is_named(tmp_path: Path, scores: tuple[float, ...], failed: str | None) -> None:
    write(tmp_path, *(record(f"a{seed}", value, seed=seed) for seed, value in enumerate(scores)))
    write(tmp_path, record("other", 0.9, lr=2e-4))  # of other settings: it is compared with nothing
    found = [line for line in compare(read_report([tmp_path])).warnings if "may have failed" in line]
    assert [line.partition(": its")[0] for line in found] == ([failed] if failed else [])
