"""GLUE's metrics against their formulas, written out in NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    f1_score,
    log_loss,
    precision_score,
    recall_score,
    roc_auc_score,
)

from nxm_sweep.config.checks import METRICS
from nxm_sweep.errors import DataError, NonFiniteError
from nxm_sweep.training.metrics import check_metrics, score, score_constant

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


SCORERS: dict[
    str, Callable[[Array, Array, Array], float]
] = {  # of labels, answers, and probabilities of the second class
    "balanced_accuracy": lambda labels, guesses, _: balanced_accuracy_score(labels, guesses),
    "f1_weighted": lambda labels, guesses, _: f1_score(labels, guesses, average="weighted"),
    "precision": lambda labels, guesses, _: precision_score(labels, guesses),
    "recall": lambda labels, guesses, _: recall_score(labels, guesses),
    "roc_auc": lambda labels, _, chances: roc_auc_score(labels, chances),
    "average_precision": lambda labels, _, chances: average_precision_score(labels, chances),
    "neg_log_loss": lambda labels, _, chances: -log_loss(labels, chances),
}


@pytest.mark.parametrize("positive", [0, 1])
@pytest.mark.parametrize(
    ("name", "formula"), [*SCORERS.items(), ("f1", lambda labels, guesses, _: f1_score(labels, guesses))]
)
def test_scorer_of_scikit_learn_scores_the_positive_class(
    name: str, formula: Callable[[Array, Array, Array], float], positive: int
) -> None:
    rng = np.random.default_rng(3)
    labels, logits = rng.integers(0, 2, 50).astype(float), rng.normal(size=(50, 2))
    chances = 1 / (1 + np.exp(logits[:, 1 - positive] - logits[:, positive]))
    expected = formula((labels == positive).astype(int), (chances > 0.5).astype(int), chances)
    assert score([name], logits, labels, positive=positive)[name] == pytest.approx(expected, abs=1e-12)


def test_scorers_take_more_classes_and_numbers() -> None:
    rng = np.random.default_rng(4)
    labels, logits = rng.integers(0, 4, 60).astype(float), rng.normal(size=(60, 4))
    expected = recall_score(labels, logits.argmax(axis=1), average="macro")
    assert score(["recall_macro"], logits, labels)["recall_macro"] == pytest.approx(expected)
    targets, outputs = rng.normal(size=30), rng.normal(size=(30, 1))
    found = score(["r2", "neg_mean_absolute_error"], outputs, targets)
    error = np.abs(targets - outputs[:, 0]).mean()
    r2 = 1 - np.square(targets - outputs[:, 0]).sum() / np.square(targets - targets.mean()).sum()
    assert found == pytest.approx({"r2": r2, "neg_mean_absolute_error": -error, "mean": (r2 - error) / 2})


@pytest.mark.parametrize(
    ("name", "labels", "classes", "reason"),
    [
        ("roc_auc", [0, 1, 2], 3, "cannot score the split dev of mine: multi_class must be in"),
        ("roc_auc", [1, 1, 1], 2, "is not defined for the split dev of mine"),
        ("precision", [0, 1, 2], 3, "cannot score the split dev of mine: Target is multiclass"),
        ("r2", [0, 1, 1], 2, "scores numbers, but the split dev of mine has classes"),
        ("balanced_accuracy", [0.5, 1.25, 3.0], 0, "cannot score the split dev of mine: "),
        ("roc_auc", [0.5, 1.25, 3.0], 0, "cannot score the split dev of mine: "),
    ],
)
def test_scorer_that_cannot_score_the_labels_is_refused(
    name: str, labels: list[float], classes: int, reason: str
) -> None:
    with pytest.raises(DataError) as caught:
        check_metrics([name], np.array(labels), classes=classes, where="the split dev of mine")
    assert caught.value.message.startswith(f"the metric {name} {reason}")
    assert "task.metrics takes others" in caught.value.hint


def test_scorers_that_fit_pass_the_check() -> None:
    for names, labels, classes in (
        (["roc_auc", "precision", "neg_log_loss", "accuracy"], [0, 1, 1], 2),
        (["recall_macro", "roc_auc_ovr", "f1_weighted"], [0, 1, 2], 3),
        (["r2", "neg_mean_squared_error", "pearson"], [0.5, 1.0, 2.0], 0),
    ):
        check_metrics(names, np.array(labels), classes=classes, where="")


def test_constant_answer_of_a_scorer() -> None:
    train, labels = np.array([1, 1, 0]), np.array([1, 0, 1, 1])
    found = score_constant(["balanced_accuracy", "roc_auc", "precision"], train, labels, classes=2)
    assert found == pytest.approx({"balanced_accuracy": 0.5, "roc_auc": 0.5, "precision": 0.75, "mean": (1 + 0.75) / 3})
    assert score_constant(["f1"], train, labels, classes=2, positive=0) == {"f1": 0.0}


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
