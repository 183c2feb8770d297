"""Format settings and scores for people, alike in tables, figures and progress: ``lr 2e-4``."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

_UNSTRUCTURED = re.compile(r"([\d.]+(?:e-?\d+)?) unstructured")
_N_OF_M = re.compile(r"_?(?<![0-9A-Za-z])(\d+) ?of ?(\d+)(?![0-9A-Za-z])")  # in a name: ffn_only_2of4
_ALIASES = {"learning_rate.value": "lr", "rho.value": "rho", "training.batch_size": "batch"}
_METHODS = {
    "dense": "Dense",
    "asp": "ASP",
    "warmup_asp": "Warm-up ASP",
    "admm_unstructured": "ADMM-Unstructured",
    "nxm": "NxM",
    "nxm_paper": "NxM-Paper",
    "nxm_refit": "NxM-Refit",
    "sr_ste": "SR-STE",
    "gradual": "Gradual",
}
_TASKS = {
    "glue/mnli": "MNLI m/mm",
    "glue/sst2": "SST-2",
    "glue/qnli": "QNLI",
    "glue/cola": "CoLA",
    "glue/stsb": "STS-B",
    "glue/mrpc": "MRPC",
    "glue/rte": "RTE",
    "glue/qqp": "QQP",
    "glue/wnli": "WNLI",
    "superglue/boolq": "BoolQ",
    "superglue/cb": "CB",
    "superglue/wic": "WiC",
    "demo/acceptability": "Acceptability",
    "demo/paraphrase": "Paraphrase",
    "demo/similarity": "Similarity",
}
_MODELS = {
    "bert_base": "BERT-base",
    "bert_large": "BERT-large",
    "distilbert": "DistilBERT",
    "minilm_l6": "MiniLM-L6",
    "roberta_base": "RoBERTa-base",
    "tinybert_6": "TinyBERT-6",
}
_DISPLAY = {"task": _TASKS, "method": _METHODS, "model": _MODELS}
_NAMES = 8  # names listed in a message
_LONGEST = 60  # characters of one of them


def short_name(key: str) -> str:
    """Return a setting's display name; most are the config key itself."""
    return _ALIASES.get(key, key)


def format_value(value: Any) -> str:
    """Format a setting's value: ``2e-4``, ``0.05``, ``32``, ``true``, ``null``; a text is unchanged."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if not isinstance(value, Real) or not math.isfinite(value):
        return str(value)
    number = float(value)
    if number.is_integer() and abs(number) < 1e6:
        return str(int(number))
    if 0.01 <= abs(number) < 1e6:
        return f"{number:g}"
    mantissa, _, exponent = f"{number:e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def display_name(kind: str, name: str) -> str:
    """Return the display name of a ``task``, ``method``, ``sparsity``, ``pattern`` or ``model``; others are unchanged.

    An addition in brackets stays: ``nxm (distillation=logits)`` becomes ``NxM (distillation=logits)``. A pattern is
    written as ``2:4``; that of a dense model is a dash.
    """
    if kind in {"sparsity", "pattern"}:
        return "-" if name == "dense" else _N_OF_M.sub(r" \1:\2", name).strip()
    base, bracket, addition = name.partition(" (")
    return f"{_DISPLAY.get(kind, {}).get(base, base)}{bracket}{addition}"


def constraint_text(constraint: str) -> str:
    """Format a matrix's constraint: ``2 of 4`` is unchanged, ``0.3 unstructured`` becomes ``70% unstructured``.

    Args:
        constraint: ``str`` of a constraint, as in records. Its number is the density; the percentage is the sparsity,
            as is usual for unstructured pruning.
    """
    density = _UNSTRUCTURED.fullmatch(constraint)
    return constraint if density is None else f"{100 * (1 - float(density[1])):.6g}% unstructured"


def pattern_label(constraints: Iterable[str], name: str) -> str:
    """Return the label of a model's pattern: the name of its rules, unless that names a pattern it does not hold.

    Args:
        constraints: ``str`` of each target's constraint; none for a dense model.
        name: Name of the rules (``sparsity.name``). An N:M in it is replaced if the targets hold another constraint:
            ``ffn_only_2of4`` becomes ``ffn_only 50% unstructured``. An unstructured density that it lacks is prepended.
    """
    patterns = {constraint_text(constraint).replace(" of ", "of") for constraint in constraints}
    if not patterns:
        return "dense"
    named = {f"{keep}of{group}" for keep, group in _N_OF_M.findall(name)}
    is_whole = bool(_N_OF_M.fullmatch(name))
    true = patterns.pop() if len(patterns) == 1 else "mixed"
    if named == {true} or (true == "mixed" and named <= patterns and not is_whole):
        return name
    if named:
        return _N_OF_M.sub(f" {true}", name).strip()
    return f"{true} ({name})" if true.endswith("unstructured") else name


def cell_name(names: Mapping[str, str]) -> str:
    """Return a cell's name: task, method, sparsity, model; distillation if there is a teacher."""
    teacher = names.get("distillation", "none")
    parts = [names.get(part, "") for part in ("task", "method", "sparsity", "model")]
    return " ".join([*parts, *([] if teacher == "none" else [f"distillation={teacher}"])])


def cell_title(names: Mapping[str, str]) -> str:
    """Return a cell's name for people: as :func:`cell_name`, but a dense model is called so once."""
    is_said_twice = names.get("sparsity") == names.get("method")
    name = cell_name({**names, "sparsity": ""} if is_said_twice else names)
    return re.sub(" +", " ", name)


def describe_point(cell: str, values: Mapping[str, Any]) -> str:
    """Format a point: its cell and its values."""
    return f"{cell} {format_values(values)}"


def format_values(values: Mapping[str, Any]) -> str:
    """Format a point's values: ``lr 2e-4 batch 32``."""
    return " ".join(f"{short_name(key)} {format_value(value)}" for key, value in values.items())


def format_names(names: Iterable[object]) -> str:
    """List names in a message: the first few, and the number of others."""
    texts = [text if text.isprintable() else repr(text)[1:-1] for text in map(str, names)]
    shown = ", ".join(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..." for text in texts[:_NAMES])
    return f"{shown} and {len(texts) - _NAMES:,} more" if len(texts) > _NAMES else shown


def format_score(value: float | None) -> str:
    """Format a score times 100 with two decimals, as everywhere on a screen; None is a dash. Tables have one decimal."""
    return "-" if value is None else f"{100 * value:.2f}"


def format_duration(seconds: float) -> str:
    """Format seconds in the two largest units: ``5 s``, ``1 min 5 s``, ``2 h 3 min``, ``4 d 4 h``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    first = next((index for index, (count, _) in enumerate(parts) if count), 3)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2] if count) or "0 s"


def is_number(text: str) -> bool:
    """Return whether a text is a number, ``nan`` and ``inf`` included."""
    try:
        float(text)
    except ValueError:
        return False
    return True
