"""GLUE's metrics, from scikit-learn and SciPy, and every scorer of scikit-learn by its name."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ConstantInputWarning, pearsonr, spearmanr
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.metrics import accuracy_score, f1_score, get_scorer, matthews_corrcoef

from nxm_sweep.errors import DataError, NonFiniteError, first_line

Array = NDArray[np.float64]
_UNFIT = (ValueError, TypeError, AttributeError)
"""What scikit-learn raises for labels that a scorer is not for."""
_OTHERS = "task.metrics takes others, such as accuracy, f1_macro and balanced_accuracy, or r2 for a regression"

_METRICS: dict[str, Callable[[Array, Array], float]] = {
    "accuracy": lambda labels, predictions: float(accuracy_score(labels, predictions)),
    "f1": lambda labels, predictions: float(f1_score(labels, predictions, zero_division=0.0)),
    "f1_macro": lambda labels, predictions: float(f1_score(labels, predictions, average="macro", zero_division=0.0)),
    "matthews": lambda labels, predictions: float(matthews_corrcoef(labels, predictions)),
    "pearson": lambda labels, predictions: float(pearsonr(labels, predictions).statistic),
    "spearman": lambda labels, predictions: float(spearmanr(labels, predictions).statistic),
}
_CORRELATIONS = frozenset({"pearson", "spearman"})


class _Classifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Logits as a classifier of scikit-learn, whose scorers ask for classes or probabilities."""

    def __init__(self, classes: int = 2) -> None:
        self.classes_ = np.arange(classes)

    def predict(self, outputs: Array) -> Array:
        return answers(outputs)

    def predict_proba(self, outputs: Array) -> Array:
        return probabilities(outputs)


class _Regressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Outputs as a regressor of scikit-learn."""

    def predict(self, outputs: Array) -> Array:
        return answers(outputs)


def answers(outputs: Array) -> Array:
    """Return a head's predictions: the number for a regression, else the most likely class.

    Args:
        outputs: Shape ``(rows,)`` or ``(rows, 1)`` for a regression, else logits of shape ``(rows, classes)``.
    """
    return outputs.reshape(len(outputs)) if outputs.ndim == 1 or outputs.shape[1] == 1 else outputs.argmax(axis=-1)


def probabilities(outputs: Array) -> Array:
    """Return the classes' probabilities, the softmax of logits of shape ``(rows, classes)``."""
    exact = outputs.astype(np.float64)  # in fp32 unequal rows tie
    powers = np.exp(exact - exact.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def score(metrics: Sequence[str], outputs: Array, labels: Array, *, positive: int = 1) -> dict[str, float]:
    """Return each metric, and their ``mean`` if there are several.

    Args:
        metrics: Names: accuracy, f1 (of the positive class), f1_macro (unweighted mean of F1 over the classes among labels
            or predictions), matthews, pearson, spearman, which lie in [-1, 1]; or those of scikit-learn's scorers, such as
            ``balanced_accuracy`` and ``neg_mean_absolute_error``. Larger is better.
        outputs: Logits, shape ``(rows, classes)``; for a regression predictions, shape ``(rows,)`` or ``(rows, 1)``.
        labels: Shape ``(rows,)``.
        positive: Number of the positive class, for metrics of two classes.

    Raises:
        DataError: A correlation is requested for a single row.
        NonFiniteError: A model output is not finite, or a metric is undefined, as a correlation where all predictions are
            equal.
        ValueError: A scorer of scikit-learn is for other labels; :func:`check_metrics` finds that before.

    Source: GLUE (Wang et al., 2019), section 2; averages of two metrics follow its leaderboard.
    """
    if _CORRELATIONS.intersection(metrics) and len(labels) < 2:
        raise DataError("a correlation needs at least two validation rows but got one", hint="raise max_eval_samples")
    if not bool(np.isfinite(outputs).all()):
        raise NonFiniteError(
            "the model's outputs on the validation set are not finite", hint="lower learning_rate.value"
        )
    scores = _score_each(metrics, outputs, labels, positive)
    undefined = [name for name, value in scores.items() if not np.isfinite(value)]
    if undefined:
        why = "all predictions are equal" if undefined[0] in _CORRELATIONS else "these predictions leave it undefined"
        raise NonFiniteError(f"{undefined[0]} does not exist: {why}", hint="lower learning_rate.value")
    return _add_mean(scores)


def check_metrics(metrics: Sequence[str], labels: Array, *, classes: int, where: str) -> None:
    """Refuse scorers of scikit-learn that cannot score labels, not even with predictions that equal them.

    Args:
        metrics: As for :func:`score`.
        labels: Those of a validation set, shape ``(rows,)``.
        classes: Number of classes; 0 for a regression.
        where: Name of the set in the message.

    Raises:
        DataError: The metric, and what scikit-learn says.
    """
    perfect = np.eye(classes)[labels.astype(np.int64)] if classes else labels.astype(np.float64)
    for name in metrics:
        if name in _METRICS:
            continue
        if classes and _scores_numbers(name):
            raise DataError(f"the metric {name} scores numbers, but {where} has classes", hint=_OTHERS)
        try:
            value = _score_each([name], perfect, labels, positive=1)[name]
        except _UNFIT as error:
            raise DataError(f"the metric {name} cannot score {where}: {first_line(error)}", hint=_OTHERS) from error
        if not np.isfinite(value):
            raise DataError(f"the metric {name} is not defined for {where}", hint=_OTHERS)


def _scores_numbers(name: str) -> bool:
    """Return whether a scorer takes labels that are no classes."""
    numbers = np.array([0.25, 0.5, 1.0])
    try:
        _score_each([name], numbers, numbers, positive=1)
    except _UNFIT:
        return False
    return True


def _score_each(metrics: Sequence[str], outputs: Array, labels: Array, positive: int) -> dict[str, float]:
    """Return each metric; NaN where it is undefined."""
    if positive == 0:  # of two classes: the metrics take the second one
        outputs, labels = outputs[:, ::-1], 1 - labels
    predictions = answers(outputs)
    regression = outputs.ndim == 1 or outputs.shape[1] == 1
    estimator = _Regressor() if regression else _Classifier(outputs.shape[1])
    targets = labels if regression else labels.astype(np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)  # its NaN is refused
        warnings.simplefilter("ignore", UserWarning)  # of scikit-learn, where a class is never predicted
        return {
            name: _METRICS[name](labels, predictions)
            if name in _METRICS
            else float(get_scorer(name)(estimator, outputs, targets))
            for name in metrics
        }


def score_constant(
    metrics: Sequence[str], train_labels: Array, labels: Array, *, classes: int, positive: int = 1
) -> dict[str, float]:
    """Score the best constant prediction of the training rows, in the form of :func:`score`.

    The constant is the most frequent class of the training rows (the lowest in a tie), or their mean label for a
    regression. A correlation with a constant is undefined; it is recorded as 0, "no association", which is also
    Matthews' coefficient of a constant by convention. Any other metric that is undefined for it is 0, too.

    Args:
        metrics: As for :func:`score`.
        train_labels: Class numbers or scores of the training rows, shape ``(rows,)``.
        labels: Those of the scored rows, shape ``(rows,)``.
        classes: Number of classes; 0 for a regression.
        positive: As for :func:`score`.
    """
    if classes:
        constant = np.bincount(train_labels.astype(np.int64)).argmax()
        outputs = np.tile(np.eye(classes)[constant], (len(labels), 1))
    else:
        outputs = np.full(len(labels), train_labels.mean())
    defined = [name for name in metrics if name not in _CORRELATIONS]
    scores = _score_each(defined, outputs, labels, positive) if defined else {}
    return _add_mean({name: value if np.isfinite(value := scores.get(name, 0.0)) else 0.0 for name in metrics})


def _add_mean(scores: dict[str, float]) -> dict[str, float]:
    return scores if len(scores) == 1 else {**scores, "mean": float(np.mean(list(scores.values())))}
