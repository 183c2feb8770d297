"""The smallest record that a sweep reads."""

from __future__ import annotations

from typing import Any

from nxm_sweep.store.records import SCHEMA


def core_record(identity: str, value: float = 0.5, seconds: float = 1.0, **more: Any) -> dict[str, Any]:
    """A record of one epoch, or with other keys."""
    epoch: dict[str, Any] = {
        "epoch": 1,
        "selection": value,
        "unpruned_selection": None,
        "relative_distance": None,
        "pruned": {},
    }
    return {
        "schema": SCHEMA,
        "identity": identity,
        "sparsity_name": "2of4",
        "best": {"epoch": 1, "value": value},
        "epochs": [epoch],
        "sparsity": {"targets": [{"constraint": "2 of 4"}], "exact": True},
        "seconds": {"total": seconds},
        **more,
    }
