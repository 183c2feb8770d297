"""Models with 2:4 matrices packed for PyTorch's kernels: writing them, and loading them onto a GPU."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel

from nxm_sweep.errors import ExportError, SparsityError
from nxm_sweep.export.audit import audit_manifest
from nxm_sweep.export.manifest import read_manifest
from nxm_sweep.export.stored_matrices import META, VALUES
from nxm_sweep.export.trial_model import refuse_if_broken
from nxm_sweep.export.usage import find_head
from nxm_sweep.export.weights import SEMI_STRUCTURED, SavedWeights, open_weights
from nxm_sweep.sparsity.pattern import Constraint
from nxm_sweep.sparsity.semi_structured import (
    DTYPES,
    STORED,
    TWO_OF_FOUR,
    Packed,
    choose_backend,
    narrow,
    pack,
    to_kernels,
)
from nxm_sweep.store.files import write_json


def check_packable(constraints: Mapping[str, Constraint]) -> None:
    """Raise unless a trial has targets and all of them are 2:4.

    Raises:
        SparsityError: With the reason.
    """
    if not constraints:
        raise SparsityError("a dense model has nothing to pack: --format semi_structured is for 2 of 4")
    for name, constraint in constraints.items():
        if constraint != TWO_OF_FOUR:
            raise SparsityError(
                f"{name} holds {constraint}, but PyTorch's kernels and the hardware below them take 2 of every 4 alone",
                hint="--format dense takes every pattern; sparsity=2of4 trains for this format",
            )


def write_packed(weights: SavedWeights, constraints: Mapping[str, Constraint], folder: Path, dtype: str) -> list[str]:
    """Write a model's tensors in half precision, 2:4 matrices packed, and verify those bit by bit.

    Args:
        weights: Dense model.
        constraints: Its targets, all 2:4.
        folder: Destination; the type is set in its ``config.json``.
        dtype: ``float16`` or ``bfloat16``.

    Returns:
        Targets that stay dense because their shape or layout cannot be packed.

    Raises:
        SparsityError: A matrix is not representable in ``dtype``, or no matrix can be packed.
        ExportError: A matrix read back differs from the one written.
    """
    tensors: dict[str, Tensor] = {}
    transposed = "its inputs first, and PyTorch's kernels are for linear layers"
    refusals = {
        name: transposed if name in weights.inputs_first else STORED.refusal(weights.shapes[name])
        for name in constraints
    }
    left_dense = [name for name, refusal in refusals.items() if refusal]
    if len(left_dense) == len(constraints):
        first = left_dense[0]
        raise SparsityError(f"no matrix can be packed: {first} has {refusals[first]}")
    for name in weights.files:
        tensor = weights.tensor(name)
        if tensor.is_floating_point():
            tensor = narrow(name, tensor, DTYPES[dtype])
        if name in constraints and name not in left_dense:
            packed = pack(name, tensor)
            tensors[name + VALUES], tensors[name + META] = packed.values, packed.meta
        else:
            tensors[name] = tensor
    save_file(tensors, folder / SEMI_STRUCTURED, metadata={"format": "pt"})
    _set_config_dtype(folder / "config.json", dtype)
    written = open_weights(folder)
    for name in constraints:
        expected = narrow(name, weights.matrix(name), DTYPES[dtype])
        if not torch.equal(written.matrix(name).view(torch.int16), expected.view(torch.int16)):
            raise ExportError(f"{name} was read back with other bits than were packed")
    return left_dense


def load_semi_structured(
    folder: str | Path, device: str | torch.device = "cuda", *, backend: str | None = None
) -> PreTrainedModel:
    """Load a model written by ``--format semi_structured``, in evaluation mode.

    Args:
        folder: The exported folder.
        device: A CUDA device runs the 2:4 kernels; any other loads the same weights densely.
        backend: ``cuSPARSELt`` or ``CUTLASS``; default: cuSPARSELt if the device runs it, else CUTLASS.

    Raises:
        ExportError: The files do not match ``sparsity.json``.
        SparsityError: They cannot be read, or the device has no 2:4 kernels.
    """
    folder, device = Path(folder), torch.device(device)
    weights, manifest = open_weights(folder), read_manifest(folder)
    if manifest is None or manifest.format != "semi_structured":
        raise SparsityError(f"{folder} was not written by --format semi_structured")
    refuse_if_broken(audit_manifest(weights, manifest).broken, str(folder))
    if device.type == "cuda" and backend is None:
        backend = choose_backend(device)
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    model: PreTrainedModel = getattr(transformers, find_head(config).auto).from_config(config, dtype=_dtype_of(config))
    state = {name: weights.tensor(name) for name in weights.files if not name.endswith((VALUES, META))}
    state |= {name: weights.matrix(name) for name in weights.packed}
    report = model.load_state_dict(state, strict=False)
    absent = set(report.missing_keys) - set(model.all_tied_weights_keys)
    if absent or report.unexpected_keys:
        raise SparsityError(f"{folder} does not fit {type(model).__name__}: {min(absent or report.unexpected_keys)}")
    model.to(device).eval()  # type: ignore[arg-type]
    if backend is not None:
        parts = {name: Packed(weights.tensor(name + VALUES), weights.tensor(name + META)) for name in weights.packed}
        put_on_kernels_(model, parts, backend)
    return model


def put_on_kernels_(model: nn.Module, matrices: Mapping[str, Packed], backend: str) -> list[str]:
    """Replace weights of a model on a CUDA device by packed ones; return those of shapes the backend excludes.

    Args:
        model: Model on a CUDA device, in the matrices' type.
        matrices: Packed weights by parameter name, on any device.
        backend: ``cuSPARSELt`` or ``CUTLASS``.
    """
    left = []
    for name, packed in matrices.items():
        module = model.get_submodule(name.rpartition(".")[0])
        device = module.get_parameter("weight").device
        kernels = to_kernels(Packed(packed.values.to(device), packed.meta.to(device)), backend)
        if kernels is None:
            left.append(name)
        else:
            module.weight = nn.Parameter(kernels, requires_grad=False)
    return left


def _set_config_dtype(path: Path, dtype: str) -> None:
    config: dict[str, Any] = json.loads(path.read_text())
    config.pop("torch_dtype", None)
    write_json(path, {**config, "dtype": dtype}, indent=2)


def _dtype_of(config: Any) -> torch.dtype:
    dtype = config.dtype
    return dtype if isinstance(dtype, torch.dtype) else DTYPES[str(dtype)]
