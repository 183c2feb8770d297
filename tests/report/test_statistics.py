"""Statistics, against hand computation and SciPy called directly."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, bootstrap, permutation_test

from nxm_sweep.report.frames import read_report
from nxm_sweep.report.pairs import assess, coverage
from nxm_sweep.report.predictions import mcnemar
from nxm_sweep.report.statistics import Statistics, compare, expected_best
from nxm_sweep.report.table import make_table
from tests.report.records import predict, record, write


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


def test_a_difference_is_paired_by_seed_with_the_methods_own_settings_at_their_best(six_seeds: Path) -> None:
    found = row(compare(read_report([six_seeds])), "nxm", "asp")
    differences = [mine - other for mine, other in zip(NXM, ASP, strict=True)]
    assert found["mean"] == pytest.approx(statistics.fmean(differences))
    assert (found["n"], found["pairs"]) == (6, 6)
    assert min(differences) < float(str(found["low"])) < statistics.fmean(differences) < float(str(found["high"]))


def test_the_permutation_test_counts_all_sign_flips(six_seeds: Path) -> None:
    found = row(compare(read_report([six_seeds])), "nxm", "asp")
    differences = np.subtract(NXM, ASP)
    means = [float(np.mean(differences * signs)) for signs in itertools.product((1, -1), repeat=6)]
    as_extreme = sum(abs(mean) >= abs(float(differences.mean())) - 1e-12 for mean in means)
    assert found["p"] == pytest.approx(as_extreme / 64)
    assert found["p"] == pytest.approx(2 / 64)


def test_the_share_of_the_gap_is_between_the_best(six_seeds: Path) -> None:
    (gap,) = compare(read_report([six_seeds])).gaps.to_dict("records")
    assert (gap["asp"], gap["dense"], gap["value"]) == (0.63, 0.7, 0.66)
    assert gap["share"] == pytest.approx(0.03 / 0.07)


def test_the_gap_is_between_the_means_of_a_table_of_means(six_seeds: Path) -> None:
    report = read_report([six_seeds])
    found = compare(report, make_table(report, by="seed"))
    (gap,) = found.gaps.to_dict("records")
    assert (gap["asp"], gap["dense"], gap["value"]) == pytest.approx((np.mean(ASP), 0.7, np.mean(NXM)))
    assert found.sentences[-1].endswith(", means over seeds.")


def test_no_gap_has_no_share(tmp_path: Path) -> None:
    write(tmp_path, record("a", 0.7), record("d", 0.7, method="dense"), record("n", 0.7, method="nxm", rho=1e-3))
    found = compare(read_report([tmp_path]))
    (gap,) = found.gaps.to_dict("records")
    assert pd.isna(gap["share"])
    (line,) = (line for line in found.sentences if "gap" in line)
    assert line.endswith(
        "has no gap to close between ASP (70.0) and dense (70.0), best against best: dense is not above ASP."
    )


def test_pairs_share_their_hyperparameters(tmp_path: Path) -> None:
    write(
        tmp_path,
        record("a", 0.60, lr=1e-4),
        record("b", 0.50, lr=2e-4),
        record("n", 0.63, method="nxm", rho=1e-3, lr=1e-4),
        record("m", 0.70, method="nxm", rho=1e-3, lr=3e-4),  # ASP has no such rate
    )
    found = row(compare(read_report([tmp_path])), "nxm", "asp")
    assert found["mean"] == pytest.approx(0.03)
    assert (found["n"], found["pairs"], found["note"]) == (1, 1, "one seed: no interval, no test")


def test_nothing_in_common_is_said(tmp_path: Path) -> None:
    write(tmp_path, record("a", 0.60, lr=1e-4), record("n", 0.63, method="nxm", rho=1e-3, lr=2e-4))
    found = compare(read_report([tmp_path]))
    assert row(found, "nxm", "asp")["note"] == "no seed and hyperparameters in common"
    assert found.sentences == ()


def test_equal_differences_have_no_test(tmp_path: Path) -> None:
    write(
        tmp_path,
        *(record(f"a{seed}", 0.5, seed=seed) for seed in range(3)),
        *(record(f"n{seed}", 0.75, method="nxm", rho=1e-3, seed=seed) for seed in range(3)),
    )
    found = row(compare(read_report([tmp_path])), "nxm", "asp")
    assert (found["mean"], found["low"], found["high"]) == (0.25, 0.25, 0.25)
    assert found["note"] == "all 3 seeds differ by the same amount: no test"


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


def test_interval_and_p_are_scipys() -> None:
    values = np.array([0.01, 0.03, -0.02, 0.04, 0.02, 0.05, 0.01])
    other = np.array([0.2, 0.1, 0.4, -0.1, 0.3, 0.0, 0.1])
    (found, *_, beside) = assess([values, np.array([]), np.array([0.5]), np.array([0.1, 0.2]), other])
    assert (beside["low"], beside["p"]) == (assess([other])[0]["low"], assess([other])[0]["p"])
    interval = bootstrap((values,), np.mean, n_resamples=9999, method="percentile", rng=np.random.default_rng(1))
    assert found["low"] == pytest.approx(interval.confidence_interval.low, abs=2e-3)
    assert found["high"] == pytest.approx(interval.confidence_interval.high, abs=2e-3)
    test = permutation_test((values,), np.mean, permutation_type="samples", n_resamples=2**7)  # all signs
    assert found["p"] == pytest.approx(test.pvalue)


def test_few_seeds_say_what_their_interval_can_hold() -> None:
    draw = np.random.default_rng(0).normal(size=(4000, 3))
    inside = np.mean((draw.min(axis=1) < 0) & (draw.max(axis=1) > 0))  # where any percentile of a bootstrap lies
    assert coverage(3) == pytest.approx(inside, abs=0.02)
    assert assess([draw[0]])[0]["note"] == "3 seeds: p cannot fall below 0.25, the interval covers 75% at most"
    assert (coverage(6), assess([np.arange(6.0)])[0]["note"]) == (0.95, "")


def test_trials_of_other_budgets_are_no_pair(tmp_path: Path) -> None:
    write(tmp_path, record("a", 0.60, epochs=2), record("n", 0.63, method="nxm", rho=1e-3, epochs=5))
    assert row(compare(read_report([tmp_path])), "nxm", "asp")["note"] == "no seed and hyperparameters in common"


def test_a_budget_and_none_are_no_pair(tmp_path: Path) -> None:
    whole, cut = record("a", 0.60), record("n", 0.63, method="nxm", rho=1e-3)
    whole["hashed"]["training"]["max_train_samples"], cut["hashed"]["training"]["max_train_samples"] = None, 100
    write(tmp_path, whole, cut)
    assert row(compare(read_report([tmp_path])), "nxm", "asp")["n"] == 0


def test_an_average_needs_seeds_that_the_tasks_share(tmp_path: Path) -> None:
    for seed, task in enumerate(("glue/rte", "glue/cola")):
        write(
            tmp_path,
            record(f"a{seed}", 0.5, task=task, seed=seed),
            record(f"n{seed}", 0.6, task=task, method="nxm", rho=1e-3, seed=seed),
        )
    found = row(compare(read_report([tmp_path])), "nxm", "asp", "average")
    assert (found["n"], found["note"]) == (0, "over glue/cola, glue/rte; no seed and hyperparameters in common")


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
    shares = found.gaps.set_index("sparsity")["share"]
    assert shares.to_dict() == pytest.approx({"50% unstructured": 0.5, "75% unstructured": 0.05 / 0.3})


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
        name = task[-3:]
        write(
            tmp_path,
            record(f"a{name}", asp, task=task),
            record(f"d{name}", dense, task=task, method="dense"),
            record(f"n{name}", nxm, task=task, method="nxm", rho=1e-3),
        )
    gaps = compare(read_report([tmp_path])).gaps.set_index("task")["share"]
    assert gaps.to_dict() == pytest.approx({"glue/rte": 0.5, "glue/cola": 1.0, "average": 0.75})


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
    assert any("fewer than 6 seeds cannot reach p < 0.05" in line for line in warnings)
    assert "All 2 trials of glue/rte asp 2of4 tiny scored 0.6000: the training may have collapsed." in warnings
    (edge,) = (line for line in warnings if "edge" in line)
    assert edge.startswith("The best lies at an edge of learning_rate.value, so a wider grid may be better: ")
    assert edge.endswith(": glue/rte asp 2of4 tiny: 1e-4, the lowest.")


def test_findings_are_said_in_words(six_seeds: Path) -> None:
    sentences = compare(read_report([six_seeds])).sentences
    (line,) = (line for line in sentences if "above asp" in line)
    assert line.startswith(
        "On glue/rte (tiny), nxm (2of4) with rho 4e-3 is 2.7 points above asp (6 seeds, 6 pairs of equal "
    )
    assert "; bootstrap interval +" in line
    assert line.endswith(", 95%; paired permutation test p = 0.0312).")
    assert (
        "On glue/rte (tiny), nxm (2of4) closes 43% of the gap between ASP (63.0) and dense (70.0), best against best."
        in sentences
    )


@pytest.mark.parametrize(
    ("scores", "failed"),
    [
        ((0.84, 0.83, 0.20), "Seed 2 of glue/rte asp 2of4 tiny scored 20.0, far below the median 83.0 of 3 seeds"),
        ((0.84, 0.83, 0.74), None),  # 9 deviations
        ((0.84, 0.84, 0.80), None),  # no deviation to speak of, but a loss of 4 points
        ((0.84, 0.20), None),
    ],
)
def test_a_seed_far_below_the_others_is_named(tmp_path: Path, scores: tuple[float, ...], failed: str | None) -> None:
    write(tmp_path, *(record(f"a{seed}", value, seed=seed) for seed, value in enumerate(scores)))
    write(tmp_path, record("other", 0.9, lr=2e-4))  # of other settings: it is compared with nothing
    found = [line for line in compare(read_report([tmp_path])).warnings if "may have failed" in line]
    assert [line.partition(":")[0] for line in found] == ([failed] if failed else [])
