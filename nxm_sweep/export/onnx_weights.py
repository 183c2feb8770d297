"""Weight matrices of an ONNX file as ``(out_features, in_features)``, whatever their layout in the file.

Exporters store the weight of a linear layer transposed, for ``MatMul(x, W)``. Groups run along the inputs: the axis
that the product sums over, the first one of that operand.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nxm_sweep.errors import ConfigError, SparsityError, first_line


class OnnxWeights:
    """Constant matrices of an ONNX file, by initialiser.

    Args:
        path: Path of the file.
        model: Its ``ModelProto``.
    """

    def __init__(self, path: Path, model: Any) -> None:
        self.folder, self.paths = path.parent, (path.name,)
        self._initialisers = {tensor.name: tensor for tensor in model.graph.initializer}
        self._inputs_first = set(_find_inputs_first(model.graph))
        self.shapes: dict[str, tuple[int, int]] = {}
        for name, tensor in sorted(self._initialisers.items()):
            if len(tensor.dims) == 2 and tensor.data_type in _floating_types():
                rows, columns = tensor.dims
                self.shapes[name] = (columns, rows) if name in self._inputs_first else (rows, columns)

    def matrix(self, name: str) -> Tensor:
        if name not in self.shapes:
            raise SparsityError(f"{self.paths[0]} holds no matrix {name!r}")
        array = np.array(onnx_library().numpy_helper.to_array(self._initialisers[name]))
        if array.dtype not in (np.float16, np.float32, np.float64):
            array = array.astype(np.float32)  # bfloat16 and the 8-bit types: exact
        stored = torch.from_numpy(array)
        return stored.T.contiguous() if name in self._inputs_first else stored


def open_onnx(path: Path) -> OnnxWeights:
    """Return the matrices of an ONNX file.

    Raises:
        ConfigError: The package onnx is not installed.
        SparsityError: The file is damaged.
    """
    onnx = onnx_library()
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf's errors share no base with the checker's
        reason = first_line(error)
        raise SparsityError(f"{path.name} cannot be read: {reason}") from error
    return OnnxWeights(path, model)


def onnx_library() -> Any:
    """Import the package onnx.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import onnx  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError(
            "the package onnx is not installed", hint="install the extra `onnx`: pip install '.[onnx]' in a checkout"
        ) from error
    return onnx


def _floating_types() -> tuple[int, ...]:
    types = onnx_library().TensorProto
    return types.FLOAT, types.FLOAT16, types.BFLOAT16, types.DOUBLE


def _find_inputs_first(graph: Any) -> Iterator[str]:
    """Yield the constants whose first axis is the one that a product sums over."""
    flipped = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Transpose"}
    for node in graph.node:
        if node.op_type not in {"MatMul", "Gemm"}:
            continue
        operand = node.input[1]
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        if operand in flipped:
            operand, transposed = flipped[operand], not transposed
        if not transposed:
            yield operand
