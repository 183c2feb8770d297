"""GLUE's metrics against their formulas, written out in NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from nxm_sweep.config.checks import METRICS
from nxm_sweep.errors import NonFiniteError
from nxm_sweep.training.metrics import score

Array = NDArray[np.float64]


def confusion(labels: Array, predictions: Array) -> tuple[int, int, int, int]:
    """True positives, false positives, false negatives and true negatives of class 1."""
    pairs = list(zip(labels.tolist(), predictions.tolist(), strict=True))
    return pairs.count((1, 1)), pairs.count((0, 1)), pairs.count((1, 0)), pairs.count((0, 0))


def accuracy(labels: Array, predictions: Array) -> float:
    return sum(int(label == guess) for label, guess in zip(labels, predictions, strict=True)) / len(labels)


def f1(labels: Array, predictions: Array) -> float:
    hits, false_alarms, misses, _ = confusion(labels, predictions)
    return 2 * hits / (2 * hits + false_alarms + misses)


def f1_macro(labels: Array, predictions: Array) -> float:
    return (f1(labels, predictions) + f1(1 - labels, 1 - predictions)) / 2


def matthews(labels: Array, predictions: Array) -> float:
    hits, false_alarms, misses, rejections = confusion(labels, predictions)
    below = (hits + false_alarms) * (hits + misses) * (rejections + false_alarms) * (rejections + misses)
    return float((hits * rejections - false_alarms * misses) / np.sqrt(below))


def pearson(labels: Array, predictions: Array) -> float:
    first, second = labels - labels.mean(), predictions - predictions.mean()
    return float(first @ second / np.sqrt((first @ first) * (second @ second)))


def mean_ranks(values: Array) -> Array:
    """Rank by counting: how many are smaller, and the middle of the places that equal values share."""
    return np.array([(values < value).sum() + ((values == value).sum() + 1) / 2 for value in values])


def spearman(labels: Array, predictions: Array) -> float:
    return pearson(mean_ranks(labels), mean_ranks(predictions))


CLASSIFICATION = {"accuracy": accuracy, "f1": f1, "f1_macro": f1_macro, "matthews": matthews}
REGRESSION = {"pearson": pearson, "spearman": spearman}


def test_every_metric_that_settings_allow_is_checked_here() -> None:
    assert {*CLASSIFICATION, *REGRESSION} == set(METRICS)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("name", "formula"), CLASSIFICATION.items())
def test_two_class_metric_equals_its_formula(name: str, formula: Callable[[Array, Array], float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, logits = rng.integers(0, 2, 60).astype(float), rng.normal(size=(60, 2))
    logits[np.arange(60), labels.astype(int)] += 0.7  # better than chance, so that no metric is near 0
    guesses = (logits[:, 1] > logits[:, 0]).astype(float)
    assert score([name], logits, labels) == {name: pytest.approx(formula(labels, guesses), abs=1e-12)}


def test_accuracy_of_three_classes_counts_the_largest_logit() -> None:
    logits = np.array([[0.1, 0.2, 0.3], [5.0, 4.0, 3.0], [-3.0, -1.0, -2.0], [0.0, 1.0, 0.5]])
    assert score(["accuracy"], logits, np.array([2, 0, 1, 0])) == {"accuracy": 0.75}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize(("name", "formula"), REGRESSION.items())
def test_correlation_equals_its_formula(
    name: str, formula: Callable[[Array, Array], float], ties: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.uniform(0, 5, 50)
    outputs = labels + rng.normal(size=50)
    if ties:
        labels, outputs = labels.round(), outputs.round()
    expected = {name: pytest.approx(formula(labels, outputs), abs=1e-12)}
    assert score([name], outputs, labels) == expected
    assert score([name], outputs[:, None], labels) == expected


def test_several_metrics_come_with_their_mean_and_one_does_not() -> None:
    labels, logits = np.array([0, 1, 1, 1]), np.array([[1.0, 0], [0, 1], [0, 1], [1, 0]])
    scores = score(["accuracy", "f1"], logits, labels)
    assert scores == {"accuracy": 0.75, "f1": pytest.approx(0.8), "mean": pytest.approx(0.775)}
    assert list(score(["accuracy"], logits, labels)) == ["accuracy"]


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_macro_f1_is_scikit_learns_and_the_mean_of_each_classs_own(classes: int) -> None:
    rng = np.random.default_rng(classes)
    labels, logits = rng.integers(0, classes, 80), rng.normal(size=(80, classes))
    logits[np.arange(80), labels] += 0.7
    guesses = logits.argmax(axis=1)
    each = [f1((labels == number).astype(float), (guesses == number).astype(float)) for number in range(classes)]
    found = score(["f1_macro"], logits, labels.astype(float))
    assert found == {"f1_macro": pytest.approx(sum(each) / classes, abs=1e-12)}
    assert found["f1_macro"] == f1_score(labels, guesses, average="macro")


def test_macro_f1_counts_a_class_that_is_never_right_as_zero_and_none_that_does_not_occur() -> None:
    """Class 0: 2 of 2 found, 1 false alarm, F1 4/5. Class 1: F1 0. Classes 2 and 3 occur nowhere."""
    logits = np.eye(4)[[0, 0, 0]]
    assert score(["f1_macro"], logits, np.array([0, 0, 1]))["f1_macro"] == pytest.approx((4 / 5 + 0) / 2)


@pytest.mark.parametrize("predicted", [0, 1])
def test_predicting_one_class_scores_zero_and_not_an_error(predicted: int) -> None:
    logits = np.zeros((6, 2))
    logits[:, predicted] = 1.0
    scores = score(["f1", "matthews"], logits, np.array([0, 1, 0, 1, 0, 1]))
    assert scores["matthews"] == 0.0
    assert scores["f1"] == pytest.approx(2 / 3 if predicted else 0.0)


def test_labels_of_one_class_score_zero_matthews() -> None:
    assert score(["matthews"], np.eye(2)[[0, 1, 0]], np.array([0, 0, 0])) == {"matthews": 0.0}


@pytest.mark.parametrize("name", REGRESSION)
def test_constant_predictions_have_no_correlation(name: str) -> None:
    with pytest.raises(NonFiniteError, match=f"{name} does not exist"):
        score([name], np.full((4, 1), 2.5), np.array([0.0, 1.0, 2.0, 3.0]))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("metric", "shape"), [("accuracy", (4, 2)), ("pearson", (4, 1))])
def test_one_output_that_is_not_finite_ends_the_trial(value: float, metric: str, shape: tuple[int, int]) -> None:
    outputs = np.arange(np.prod(shape), dtype=float).reshape(shape)
    outputs[2, 0] = value
    with pytest.raises(NonFiniteError, match="not finite"):
        score([metric], outputs, np.array([0.0, 1.0, 0.0, 1.0]))
