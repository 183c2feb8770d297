"""GLUE's metrics, from scikit-learn and SciPy."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ConstantInputWarning, pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from nxm_sweep.errors import DataError, NonFiniteError

Array = NDArray[np.float64]

_METRICS: dict[str, Callable[[Array, Array], float]] = {
    "accuracy": lambda labels, predictions: float(accuracy_score(labels, predictions)),
    "f1": lambda labels, predictions: float(f1_score(labels, predictions, zero_division=0.0)),
    "f1_macro": lambda labels, predictions: float(f1_score(labels, predictions, average="macro", zero_division=0.0)),
    "matthews": lambda labels, predictions: float(matthews_corrcoef(labels, predictions)),
    "pearson": lambda labels, predictions: float(pearsonr(labels, predictions).statistic),
    "spearman": lambda labels, predictions: float(spearmanr(labels, predictions).statistic),
}
_CORRELATIONS = frozenset({"pearson", "spearman"})


def answers(outputs: Array) -> Array:
    """Return a head's predictions: the number for a regression, else the most likely class.

    Args:
        outputs: Shape ``(rows,)`` or ``(rows, 1)`` for a regression, else logits of shape ``(rows, classes)``.
    """
    return outputs.reshape(len(outputs)) if outputs.ndim == 1 or outputs.shape[1] == 1 else outputs.argmax(axis=-1)


def score(metrics: Sequence[str], outputs: Array, labels: Array) -> dict[str, float]:
    """Return each metric, and their ``mean`` if there are several.

    Args:
        metrics: Names: accuracy, f1 (of class 1), f1_macro (unweighted mean of F1 over the classes among labels or
            predictions), matthews, pearson, spearman. All lie in [-1, 1], larger is better.
        outputs: Logits, shape ``(rows, classes)``; for a regression predictions, shape ``(rows,)`` or ``(rows, 1)``.
        labels: Shape ``(rows,)``.

    Raises:
        DataError: A correlation is requested for a single row.
        NonFiniteError: A model output is not finite, or a correlation is undefined because all predictions are equal.

    Source: GLUE (Wang et al., 2019), section 2; averages of two metrics follow its leaderboard.
    """
    if _CORRELATIONS.intersection(metrics) and len(labels) < 2:
        raise DataError("a correlation needs at least two validation rows but got one", hint="raise max_eval_samples")
    if not bool(np.isfinite(outputs).all()):
        raise NonFiniteError(
            "the model's outputs on the validation set are not finite", hint="lower learning_rate.value"
        )
    predictions = answers(outputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)  # the resulting NaN is refused below
        scores = {name: _METRICS[name](labels, predictions) for name in metrics}
    undefined = [name for name, value in scores.items() if not np.isfinite(value)]
    if undefined:
        raise NonFiniteError(
            f"{undefined[0]} does not exist: all predictions are equal", hint="lower learning_rate.value"
        )
    return _add_mean(scores)


def score_constant(metrics: Sequence[str], train_labels: Array, labels: Array, *, regression: bool) -> dict[str, float]:
    """Score the best constant prediction of the training rows, in the form of :func:`score`.

    The constant is the most frequent class of the training rows (the lowest in a tie), or their mean label for a
    regression. A correlation with a constant is undefined; it is recorded as 0, "no association", which is also
    Matthews' coefficient of a constant by convention.

    Args:
        metrics: As for :func:`score`.
        train_labels: Class numbers or scores of the training rows, shape ``(rows,)``.
        labels: Those of the scored rows, shape ``(rows,)``.
        regression: Whether the labels are scores.
    """
    constant = train_labels.mean() if regression else np.bincount(train_labels.astype(np.int64)).argmax()
    predictions = np.full(len(labels), constant)
    return _add_mean({name: 0.0 if name in _CORRELATIONS else _METRICS[name](labels, predictions) for name in metrics})


def _add_mean(scores: dict[str, float]) -> dict[str, float]:
    return scores if len(scores) == 1 else {**scores, "mean": float(np.mean(list(scores.values())))}
