"""Measured speeds of 2:4 kernels on disk: ``speed/NAME.json``, read without PyTorch by reports and model cards."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, cast

from nxm_sweep.store.files import write_json
from nxm_sweep.store.paths import SPEEDS
from nxm_sweep.store.small_files import read_small_file

SCHEMA = 1
DENSE = "dense"
TENSORRT = "TensorRT"
TENSORRT_DENSE = "TensorRT dense"


class SpeedLayer(TypedDict):
    """Linear layers of one role and shape.

    ``kernels`` are the 2:4 kernels that take it; ``refusal`` says why there are none. ``milliseconds`` is the time of one
    product by kernel, :data:`DENSE` included; empty if it was not measured.
    """

    role: str
    count: int
    rows: int
    columns: int
    kernels: list[str]
    refusal: str
    milliseconds: dict[str, float]


class Speed(TypedDict):
    """One measurement: the linear layers of a model on one device, for one batch."""

    schema: int
    model: str
    device: str
    dtype: str
    batch: int
    length: int
    versions: dict[str, str]
    written: str
    layers: list[SpeedLayer]


@dataclass(frozen=True, slots=True)
class Total:
    """Milliseconds of all measured layers of a model together.

    Attributes:
        dense: With dense kernels of PyTorch.
        sparse: By 2:4 kernel; a layer whose shape it does not support counts as dense.
        tensorrt: Dense and sparse engines of TensorRT; None if it was not measured for every layer.
    """

    dense: float
    sparse: Mapping[str, float]
    tensorrt: tuple[float, float] | None

    @property
    def best(self) -> tuple[str, float]:
        """The fastest 2:4 kernel and its milliseconds."""
        return min(self.sparse.items(), key=lambda item: item[1])

    @property
    def speedup(self) -> float:
        """Dense milliseconds over those of the fastest 2:4 kernel."""
        return self.dense / self.best[1]


def total(layers: Sequence[SpeedLayer]) -> Total | None:
    """Add up the layers' milliseconds; None if no layer has been measured on 2:4 kernels."""
    measured = [layer for layer in layers if DENSE in layer["milliseconds"]]
    names = {name for layer in measured for name in layer["milliseconds"]} - {DENSE, TENSORRT, TENSORRT_DENSE}
    if not names:
        return None

    def add(name: str, otherwise: str = DENSE) -> float:
        times = (layer["milliseconds"] for layer in measured)
        return sum(
            layer["count"] * time.get(name, time[otherwise]) for layer, time in zip(measured, times, strict=True)
        )

    engines = all({TENSORRT, TENSORRT_DENSE} <= layer["milliseconds"].keys() for layer in measured)
    return Total(
        dense=add(DENSE),
        sparse={name: add(name) for name in sorted(names)},
        tensorrt=(add(TENSORRT_DENSE), add(TENSORRT)) if engines else None,
    )


def write_speed(output_dir: Path, speed: Speed) -> Path:
    """Write a measurement under ``output_dir``, in place of an earlier one of the same model, device, type and batch."""
    parts = (speed["model"], speed["device"], speed["dtype"], f"{speed['batch']}x{speed['length']}")
    name = "-".join(re.sub(r"[^\w.]+", "-", part).strip("-.")[-40:] or "model" for part in parts)
    path = output_dir / SPEEDS / f"{name}.json"
    write_json(path, cast("dict[str, object]", speed), indent=1)
    return path


def read_speeds(output_dir: Path) -> list[Speed]:
    """Return the measurements under ``output_dir``; a damaged file is named on standard error and ignored."""
    found = (read_small_file(path, Speed) for path in sorted((output_dir / SPEEDS).glob("*.json")))
    return [speed for speed in found if speed is not None and speed["schema"] <= SCHEMA and _is_usable(speed)]


def of_shapes(speed: Speed, shapes: Sequence[tuple[int, int]]) -> Total | None:
    """Return what a measurement says of matrices of other layers; None if it lacks one of their shapes.

    Args:
        speed: The measurement.
        shapes: ``(rows, columns)`` of each matrix.
    """
    known = {(layer["rows"], layer["columns"]): layer for layer in speed["layers"] if layer["milliseconds"]}
    if not shapes or not known.keys() >= set(shapes):
        return None
    return total([SpeedLayer(**{**known[shape], "count": 1}) for shape in shapes])


def _is_usable(speed: Speed) -> bool:
    """Return whether every number that is divided by or multiplied is positive."""
    return all(
        layer["count"] > 0 and all(value > 0.0 for value in layer["milliseconds"].values()) for layer in speed["layers"]
    )
