"""A record as rows of plain values; whatever has not the type that it should have makes the record unusable, and is named."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nxm_sweep.report.names import method_name, name
from nxm_sweep.settings import LEFT_OUT_AT
from nxm_sweep.sweep.records import (
    beats,
    constant_value,
    pattern_of,
    reported_scores,
    reported_value,
    selected_epoch,
    selected_value,
    unpruned_value,
)

Rows = dict[str, list[Any]]
"""Rows by frame: dictionaries for ``trials`` and ``problems``, else values in the order of :data:`COLUMNS`."""
_KEY = ("folder", "identity")
_RESIDUALS = ("primal", "dual", "distance", "support_flips")
_STRENGTHS = ("rho", "mean_penalty_share", "kappa", "efolds", "mean_clip_factor")  # of all groups together
COLUMNS = {
    "scores": (*_KEY, "set", "metric", "value"),
    "epochs": (*_KEY, "epoch", "step", "selected", "unpruned", "training_loss", "residual"),
    "iterations": (*_KEY, "group", "step", *_RESIDUALS, *_STRENGTHS),
    "matrices": (*_KEY, "matrix", "constraint", "rows", "columns", "zeros"),
}
NOT_A_RECORD = (KeyError, TypeError, ValueError, AttributeError, StopIteration, IndexError, ArithmeticError)
"""What reading a value that is missing or of a wrong type raises."""
_LARGEST = 2**53  # what is larger, or no number, nobody measured; a setting like that is shown as it was written
_NUMBERS = ("learning_rate.value", "rho.value", "training.batch_size", "seed")


def rows_of(folder: Path, path: Path, record: Mapping[str, Any]) -> Rows:
    """Return a record's rows for the frames of :class:`~nxm_sweep.report.frames.Report`.

    Args:
        folder: The output folder.
        path: The record's file.
        record: What it holds.

    Raises:
        KeyError: A value is missing; :data:`NOT_A_RECORD` lists what else is raised where one is not what it should be.
    """
    key = {"folder": str(folder), "identity": str(record["identity"])}
    if key["identity"] != path.parent.name:
        raise ValueError(f"it is the record of trial {name(key['identity'])}")
    sparsity, epoch = record["sparsity"], selected_epoch(record)
    return {
        "trials": [{**_trial(record, epoch), **key, "path": str(path)}],
        "scores": [
            (*key.values(), name(part), name(metric), _number(score))
            for part, values in reported_scores(record).items()
            for metric, score in values.items()
        ],
        "epochs": [(*key.values(), *_epoch(entry)) for entry in record["epochs"]],
        "iterations": [(*key.values(), *group) for iteration in record["iterations"] for group in _groups(iteration)],
        "matrices": [
            (
                *key.values(),
                name(row["matrix"]),
                name(row["constraint"]),
                int(row["rows"]),
                int(row["columns"]),
                int(check["zeros"]),
            )
            for row, check in zip(sparsity["targets"], sparsity["checked"], strict=True)
        ],
    }


def _trial(record: Mapping[str, Any], epoch: Mapping[str, Any]) -> dict[str, Any]:
    best, model = record["best"], record["model"]
    value, constant = _score(reported_value(record)), _number(constant_value(record))
    return {
        "task": name(record["task"]),
        "method": method_name(record["method"], (record.get("distillation") or {}).get("name")),
        "sparsity": name(pattern_of(record)),
        "sparsity_name": name(record["sparsity_name"]),
        "model": name(record["model_name"]),
        "value": value,
        "selected": _score(selected_value(record)),
        "selection": name(record["selection"].get("name", "dev")),
        "metric": name(record["selection"]["metric"]),
        "constant": constant,
        "beats_constant": beats(value, constant),
        "epoch": int(best["epoch"]),
        "unpruned": _number(unpruned_value(record)),
        "residual": _number(epoch["relative_distance"]),
        "exact": bool(record["sparsity"]["exact"]),
        "seconds": float(record["seconds"]["total"]),
        "seconds_per_step": float(record["seconds"]["train"]) / max(1, int(record["steps"])),
        "cpu_per_step": _cpu_per_step(record),
        "steps": int(record["steps"]),
        "tokens": int(record["tokens"]),
        "train_rows": int(record["data"]["train_rows"]),
        "data": name(record["data"]["digest"]),
        "weights": name(model["digest"]),
        "rules": _digest(record["hashed"].get("sparsity")),
        "parameters": int(model["parameters"]),
        "target_parameters": int(model["target_parameters"]),
        "cost_of_prune": _number((record.get("last_prune") or {}).get("cost")),
        "device": name(record["hardware"].get("gpu") or record["hardware"]["device"]),
        "machine": json.dumps({name(key): name(value) for key, value in sorted(record["hardware"].items())}),
        "commit": name(record["git_commit"] or ""),
        "versions": json.dumps({name(key): name(value) for key, value in sorted(record["versions"].items())}),
        "finished": name(record["finished"]),
        **_settings(record["hashed"]),
    }


def _cpu_per_step(record: Mapping[str, Any]) -> float | None:
    spent = _number(record["seconds"].get("train_cpu"))
    return None if spent is None else spent / max(1, int(record["steps"]))


def _epoch(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    scores = (_number(entry[key]) for key in ("selection", "unpruned_selection", "training_loss", "relative_distance"))
    return int(entry["epoch"]), int(entry["step"]), *scores


def _groups(iteration: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    step, shared = int(iteration["step"]), [_number(iteration.get(key)) for key in _STRENGTHS]
    for group in ({**iteration, "group": "all"}, *iteration.get("groups", [])):
        yield name(group["group"]), step, *(_number(group[key]) for key in _RESIDUALS), *shared


def _settings(hashed: Mapping[str, Any]) -> dict[str, Any]:
    found = {"seed": hashed["seed"], **LEFT_OUT_AT, **{key: value for key, value in _flat(hashed) if "." in key}}
    return {**found, **{key: _number(found[key]) for key in _NUMBERS if key in found}}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        place = f"{prefix}{name(key)}"
        match value:
            case dict():
                yield from _flat(value, f"{place}.")
            case None | bool():
                yield place, value
            case int() | float() if abs(value) < _LARGEST:
                yield place, value
            case list():
                yield place, name(json.dumps(value))
            case _:
                yield place, name(value)


def _score(value: Any) -> float:
    score = _number(value)
    if score is None:
        raise ValueError(f"its score is {name(value)}")
    return score


def _number(value: Any) -> float | None:
    """A number that can be computed with, or None for what was not measured or is not finite."""
    return None if value is None or not abs(float(value)) < _LARGEST else float(value)


def _digest(value: Any) -> str:
    return "" if value is None else f"{zlib.crc32(json.dumps(value, sort_keys=True).encode()):08x}"
