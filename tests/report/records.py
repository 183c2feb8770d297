"""Small records with known scores, as a sweep would leave them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

VERSIONS = {"python": "3.11.7", "torch": "2.13.0"}


def record(
    identity: str,
    value: float,
    *,
    task: str = "glue/rte",
    method: str = "asp",
    model: str = "tiny",
    seed: int = 0,
    lr: float = 1e-4,
    rho: float | None = None,
    batch: int = 32,
    epochs: int = 2,
    epoch: int = 1,
    selected: float | None = None,
    metrics: tuple[str, ...] = ("accuracy",),
    reported: dict[str, dict[str, float]] | None = None,
    weights: str = "w" * 64,
    rules: str = "2of4",
    held: str = "2 of 4",
    constant: float | dict[str, float] | None = None,
    cpu: float | None = None,
    gpu: str = "",
    machine: str = "x86_64",
    precision: str = "fp32",
) -> dict[str, Any]:
    """A record of schema 1 with the fields that the report reads."""
    metric = "mean" if len(metrics) > 1 else metrics[0]
    hashed: dict[str, Any] = {
        "data": "d" * 64,
        "model": weights,
        "version": 1,
        "learning_rate": {"value": lr},
        "method": {"name": method},
        "seed": seed,
        "task": {"metrics": list(metrics), "problem": "classification", "selection_metric": metric},
        "training": {"batch_size": batch, "epochs": epochs, "precision": precision},
    }
    if rho is not None:
        hashed["rho"] = {"value": rho, "schedule": "constant"}
    sparse = method != "dense"
    scores = reported or {"validation": {metric: value, "loss": 0.5}}
    of_sets = constant if isinstance(constant, dict) else dict.fromkeys(scores, constant)
    constants = {} if constant is None else {"constant": {name: {metric: score} for name, score in of_sets.items()}}
    heldout = selected is not None
    return {
        "schema": 1,
        "identity": identity,
        "task": task,
        "method": method,
        "sparsity_name": rules if sparse else "dense",
        "model_name": model,
        "started": "2026-01-01T00:00:00+00:00",
        "finished": "2026-01-01T00:01:00+00:00",
        "git_commit": "c" * 40,
        "best": {
            "epoch": epoch,
            "value": value,
            "unpruned_value": None,
            "selection_value": selected if heldout else value,
        },
        "selection": {
            "metric": metric,
            "name": "heldout" if heldout else "dev",
            "set": "validation",
            "protocol": "...",
        },
        "reported": scores,
        "epochs": [
            {
                "epoch": epoch,
                "step": 10,
                "selection": selected if heldout else value,
                "unpruned_selection": None,
                "pruned": scores if sparse else None,
                "unpruned": None if sparse else scores,
                "training_loss": 0.7,
                "relative_distance": 0.0 if sparse else None,
            }
        ],
        "iterations": [],
        "travel": {"learning_rate_sum": 0.1, "start": None, "end": None},
        "sparsity": {
            "targets": [{"matrix": "a.weight", "rows": 4, "columns": 8, "constraint": held, "kept": 16}]
            if sparse
            else [],
            "checked": [{"matrix": "a.weight", "zeros": 16, "exact": True}] if sparse else [],
            "exact": True,
        },
        "data": {
            "layout": "hub",
            "digest": "d" * 64,
            "labels": [],
            "train_rows": 2490,
            "validation_rows": {},
            **constants,
        },
        "model": {"digest": weights, "class": "Bert", "parameters": 100, "target_parameters": 32 if sparse else 0},
        "steps": 10,
        "tokens": 1000,
        "seconds": {"train": 20.0, "total": 30.0} | ({} if cpu is None else {"train_cpu": cpu}),
        "hardware": {"device": "cuda:0" if gpu else "cpu", "gpu": gpu, "machine": machine},
        "versions": VERSIONS,
        "config": {},
        "hashed": hashed,
    }


def write(folder: Path, *records: dict[str, Any]) -> Path:
    """Write records below an output folder; return it."""
    for entry in records:
        place = folder / "trials" / entry["identity"]
        place.mkdir(parents=True)
        (place / "result.json").write_text(json.dumps(entry))
    return folder


def predict(folder: Path, identity: str, labels: list[Any], predictions: list[Any]) -> None:
    """Write a trial's kept predictions."""
    kept = {"epoch": 1, "sets": {"validation": {"labels": labels, "predictions": predictions}}}
    (folder / "trials" / identity / "predictions.json").write_text(json.dumps(kept))


def plan(folder: Path, points: list[str], *, cell: str = "glue/rte  asp  2of4  tiny") -> None:
    """Write a sweep's plan that wants points of a cell."""
    (folder / "sweeps").mkdir(parents=True, exist_ok=True)
    cells = [
        {
            "name": cell,
            "study": cell,
            "metric": "accuracy",
            "axes": ["learning_rate.value", "seed"],
            "points": [[identity, [1e-4, number]] for number, identity in enumerate(points)],
        }
    ]
    rules = {"lease": 60.0, "max_attempts": 3, "pruning": False}
    written = {"command": ["task=glue/rte", "data.path=a b"], "written": 1.0, "n_trials": None, **rules, "cells": cells}
    (folder / "sweeps" / f"{points[0]}.json").write_text(json.dumps(written))
