"""Export of a PyTorch model to ONNX, and comparison of their outputs."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from nxm_sweep.data.loading import load_rows
from nxm_sweep.errors import ConfigError, ExportError, NxmSweepError, first_line
from nxm_sweep.export.onnx_weights import OnnxWeights, onnx_library, open_onnx
from nxm_sweep.export.trial_model import FinishedTrial

_COUNT = 48
_BUILT_IN = (
    ("The committee met on Tuesday.", "On Tuesday there was a meeting of the committee."),
    ("No.", "It is not."),
    ("Who wrote the letter that was found in the attic of the old house by the river?", "The letter was never signed."),
    (
        "Prices rose by 3.5 % in May, the fastest since 2011.",
        "In May, prices rose faster than in any month since 2011.",
    ),
    ("a gripping, funny and at times moving film", "dull"),
    ("The cat sat on the mat, and the dog, which had been asleep, looked up.", "A dog looked up."),
    ("Zürich, São Paulo & Kraków", "cities"),
    ("x" * 40, "A word that no vocabulary knows."),
)
ONNX = "model.onnx"
TOLERANCE = 1e-4
"""Largest allowed difference of a logit between ONNX Runtime and PyTorch, both in fp32 on a CPU."""
_HALF = 0.01  # the same where ONNX Runtime computes in half precision, relative to the largest logit, or to 0.1
_WRAPPED = "model."
Batch = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Sentences:
    """Texts, with second texts if the task has pairs.

    Attributes:
        texts: First texts.
        pairs: Second texts, or None.
        source: Description of their origin.
    """

    texts: Sequence[str]
    pairs: Sequence[str] | None
    source: str


def sentences_of(trial: FinishedTrial | None) -> Sentences:
    """Return the first validation rows of the trial's task; built-in sentences if those cannot be read, or without a trial."""
    if trial is None:
        texts = [text for pair in _BUILT_IN for text in pair]
        return Sentences(texts, None, f"{len(texts)} built-in sentences")
    try:
        rows = next(iter(load_rows(trial.task, trial.data).validation.values()))
    except NxmSweepError:
        paired = len(trial.task.text_columns) > 1
        first, second = zip(*_BUILT_IN, strict=True)
        return Sentences(
            first, second if paired else None, f"{len(first)} built-in sentences (the task's are not here)"
        )
    head = rows.select(range(min(_COUNT, len(rows))))
    pairs = head["pair"][:] if "pair" in head.column_names else None
    return Sentences(head["text"][:], pairs, f"{len(head)} validation rows of {trial.record['task']}")


class _Logits(nn.Module):
    """A model with positional inputs whose only output is its logits."""

    def __init__(self, model: PreTrainedModel, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self._names = model, names

    def forward(self, *inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(**dict(zip(self._names, inputs, strict=True))).logits
        return logits


def check_onnx_installed() -> None:
    """Raise unless all packages of an ONNX export are installed.

    Raises:
        ConfigError: A package is missing.
    """
    onnx_library()
    _import_runtime()
    try:
        import onnxscript  # noqa: F401, PLC0415 - an extra; torch.onnx needs it
    except ImportError as error:
        raise ConfigError(
            "the package onnxscript is not installed", hint="pip install '.[onnx]' in a checkout"
        ) from error


def write_onnx(model: PreTrainedModel, batch: Batch, path: Path) -> OnnxWeights:
    """Export a model to ONNX with dynamic batch and sequence axes; weights keep their PyTorch names.

    Args:
        model: Model in fp32 and evaluation mode, on the CPU.
        batch: Example inputs of shape ``(rows, longest)``, at least two of each, with padding.
        path: Destination.

    Returns:
        The matrices of the written file.

    Raises:
        ExportError: PyTorch cannot export the model, or one of its matrices is not in the file.
    """
    names = tuple(batch)
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    try:
        with _silence_exporter():
            program: Any = torch.onnx.export(
                _Logits(model, names),
                tuple(batch.values()),
                input_names=list(names),
                output_names=["logits"],
                dynamic_shapes=(tuple(axes for _ in names),),
                dynamo=True,
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        reason = first_line(error)
        raise ExportError(f"PyTorch cannot export {type(model).__name__} to ONNX: {reason}") from error
    exported = program.model_proto
    _rename_initialisers(exported.graph, model)
    _clear_metadata(exported)
    onnx_library().save(exported, path)
    return open_onnx(path)


def allowed_difference(dtype: str | None, largest: float) -> float:
    """Return the allowed difference of a logit from PyTorch in fp32, given the export's type and the largest logit."""
    return TOLERANCE if dtype is None else _HALF * max(0.1, largest)


def largest_difference(model: PreTrainedModel, path: Path, batches: list[Batch]) -> tuple[float, float]:
    """Return the largest absolute difference of a logit between ONNX Runtime and PyTorch, and PyTorch's largest logit."""
    session = _import_runtime().InferenceSession(path, providers=["CPUExecutionProvider"])
    difference = largest = 0.0
    for batch in batches:
        with torch.inference_mode():
            expected = model(**batch).logits.numpy()
        (logits,) = session.run(None, {name: values.numpy() for name, values in batch.items()})
        if logits.shape != expected.shape or not np.isfinite(logits).all():
            return float("inf"), largest
        difference = max(difference, float(np.abs(logits.astype(np.float32) - expected).max()))
        largest = max(largest, float(np.abs(expected).max()))
    return difference, largest


@contextlib.contextmanager
def _silence_exporter() -> Iterator[None]:
    """Silence the exporter: its progress, its own deprecations, and that torchvision is absent."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _import_runtime() -> Any:
    try:
        import onnxruntime  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError(
            "the package onnxruntime is not installed", hint="pip install '.[onnx]' in a checkout"
        ) from error
    return onnxruntime


def _rename_initialisers(graph: Any, model: nn.Module) -> None:
    """Rename initialisers after the parameters that they store, transposed or not."""
    to_array = onnx_library().numpy_helper.to_array
    names: dict[bytes, str] = {}
    for name, weight in reversed(list(model.named_parameters())):
        if weight.ndim == 2:
            for stored in (weight.detach().T, weight.detach()):
                names[_hash_content(stored.numpy())] = name
    renamed: dict[str, str] = {}
    taken = {tensor.name for tensor in graph.initializer}
    for tensor in graph.initializer:
        wanted = tensor.name.removeprefix(_WRAPPED)
        if len(tensor.dims) == 2:
            wanted = names.get(_hash_content(to_array(tensor)), wanted)
        if wanted not in taken:
            renamed[tensor.name] = wanted
            taken.add(wanted)
            tensor.name = wanted
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)


def _hash_content(array: np.ndarray[Any, Any]) -> bytes:
    return hashlib.sha256(f"{array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes()).digest()


def _clear_metadata(exported: Any) -> None:
    """Clear stack traces and other metadata, which contain local paths."""
    graph = exported.graph
    for part in (exported, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
