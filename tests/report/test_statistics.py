"""Statistics, against hand computation and SciPy called directly."""

from __future__ import annotations

import itertools
import statistics
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from nxm_sweep.report.frames import read_report
from nxm_sweep.report.predictions import mcnemar
from nxm_sweep.report.statistics import Statistics, compare
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
    predict(tmp_path, "n", [0.5, 1.5] if isinstance(labels[0], float) else [0, 1], [0, 1])
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
