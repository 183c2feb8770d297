"""Weight matrices of an ONNX file as ``(out_features, in_features)``, whatever their layout in the file.

Exporters store the weight of a linear layer transposed, for ``MatMul(x, W)``. Groups run along the inputs: the axis
that the product sums over, the first one of that operand. Between a stored weight and the product may stand casts and
transpositions, and quantisation to 8 bits, where an entry is zero if it equals the zero point.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nxm_sweep.errors import ConfigError, SparsityError, first_line
from nxm_sweep.export.stored_matrices import describe_forms, is_embedding

_WEIGHTS = {
    "MatMul": (1, None),
    "Gemm": (1, None),
    "FusedMatMul": (1, None),
    "Attention": (1, None),
    "Conv": (1, None),
    "ConvTranspose": (1, None),
    "MatMulInteger": (1, 3),
    "DynamicQuantizeMatMul": (1, 3),
    "ConvInteger": (1, 3),
    "QLinearMatMul": (3, 5),
    "QLinearConv": (3, 5),
    "QGemm": (3, 5),
    "QAttention": (1, 7),
}
"""Position of the weight and of its zero point among the inputs of an operator."""
_TABLES = {"Gather": (0,), "EmbedLayerNormalization": (2, 3, 4), "QEmbedLayerNormalization": (2, 3, 4)}
"""Positions of embedding tables."""
_CONVOLUTIONS = ("Conv", "ConvInteger", "QLinearConv")
_SAME_SHAPE = ("Identity", "Cast", "QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True, slots=True)
class _Use:
    """How a product takes a stored weight.

    Attributes:
        is_transposed: Whether it is transposed on the way.
        zero_point: Name of the zero point, empty if it is 0.
        axis: Axis along which the zero point differs.
        is_blocked: Whether scale and zero point differ between blocks of an axis.
    """

    is_transposed: bool = False
    zero_point: str = ""
    axis: int = -1
    is_blocked: bool = False


class OnnxWeights:
    """Constant matrices of an ONNX file, by the name of the initialiser or of the output of a ``Constant``.

    Args:
        path: Path of the file.
        model: Its ``ModelProto``.
    """

    def __init__(self, path: Path, model: Any) -> None:
        self.folder, self.paths = path.parent, (path.name,)
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._makers: dict[str, Any] = {}
        for node in model.graph.node:
            self._makers |= dict.fromkeys(node.output, node)
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self._constants[node.output[0]] = node.attribute[0].t
        self._inputs: dict[str, int] = {}  # axis of the inputs, of weights
        self._uses: dict[str, _Use] = {}
        tables = set(self._follow(model.graph))
        stored = {tensor.name for tensor in model.graph.initializer}
        self.shapes: dict[str, tuple[int, int]] = {}
        self.unread = {tensor.values.name: "sparse" for tensor in model.graph.sparse_initializer}
        forms: dict[str, list[str]] = defaultdict(list)
        for name in sorted(stored | set(self._uses)):
            self._classify(name, forms)
        self.embeddings = frozenset(name for name in self.shapes if name in tables or is_embedding(name))
        self.notes = describe_forms(forms)

    def matrix(self, name: str) -> Tensor:
        if name not in self.shapes:
            raise SparsityError(f"{self.paths[0]} holds no matrix {name!r}")
        array, use = self._read(name), self._uses.get(name, _Use())
        if use.zero_point:
            zero = self._read(use.zero_point).astype(np.int32).flatten()
            if zero.size > 1:
                axis = use.axis % array.ndim
                zero = zero.reshape([-1 if axis == other else 1 for other in range(array.ndim)])
            if zero.size not in {1, array.shape[use.axis % array.ndim]}:
                raise SparsityError(f"{name} of {self.paths[0]} has {zero.size} zero points for {array.shape}")
            array = array.astype(np.int32) - zero
        if array.dtype not in (np.float16, np.float32, np.float64):
            array = array.astype(np.float32)  # bfloat16, the 8-bit types and their differences: exact
        rows, columns = self.shapes[name]
        return torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, self._inputs.get(name, -1), -1))).reshape(
            rows, columns
        )

    def _read(self, name: str) -> np.ndarray[Any, Any]:
        return np.array(onnx_library().numpy_helper.to_array(self._constants[name]))

    def _classify(self, name: str, forms: dict[str, list[str]]) -> None:
        """Add a constant to the matrices, to what is not read, or to neither."""
        tensor, use = self._constants[name], self._uses.get(name)
        shape, types = tuple(tensor.dims), onnx_library().TensorProto
        is_narrow = tensor.data_type in {types.INT8, types.UINT8}
        is_float = tensor.data_type in {types.FLOAT, types.FLOAT16, types.BFLOAT16, types.DOUBLE} | set(_float_8(types))
        is_index = tensor.data_type in {types.INT64, types.INT32, types.BOOL, types.STRING}
        if (
            len(shape) < 2
            or 0 in shape
            or is_index
            or (use is None and (len(shape) > 2 if is_float else shape[0] == 1))
        ):
            return
        is_readable = is_float or (
            is_narrow and use is not None and not use.is_blocked and (use.zero_point or name) in self._constants
        )
        if not is_readable or (len(shape) > 2 and name not in self._inputs):
            self.unread[name] = f"{types.DataType.Name(tensor.data_type)} of {' x '.join(map(str, shape))}"
            return
        inputs = shape[self._inputs.get(name, -1)]
        self.shapes[name] = (math.prod(shape) // max(1, inputs), inputs)
        forms["convolution" if len(shape) > 2 else "8 bits" if is_narrow else ""].append(name)

    def _follow(self, graph: Any) -> Iterator[str]:
        """Record how operators use the constants; yield the embedding tables."""
        for node in graph.node:
            for position in _TABLES.get(node.op_type, ()):
                if position < len(node.input) and (found := self._trace(node.input[position])):
                    self._uses.setdefault(*found)
                    yield found[0]
            if node.op_type not in _WEIGHTS:
                continue
            weight, zero = _WEIGHTS[node.op_type]
            attributes = {attribute.name: attribute.i for attribute in node.attribute}
            found = self._trace(node.input[weight]) if weight < len(node.input) else None
            if found is None:
                continue
            name, use = found
            if zero is not None and zero < len(node.input) and node.input[zero]:
                axis = 0 if node.op_type in _CONVOLUTIONS else -1
                use = replace(use, zero_point=self._name_constant(node.input[zero]), axis=axis)
            self._uses[name] = use
            dimensions = len(self._constants[name].dims)
            if dimensions > 2 and node.op_type in {*_CONVOLUTIONS, "ConvTranspose"} and not use.is_transposed:
                self._inputs[name] = 0 if node.op_type == "ConvTranspose" else 1
            elif dimensions == 2:
                self._inputs[name] = 1 if use.is_transposed != bool(attributes.get("transB")) else 0

    def _trace(self, operand: str) -> tuple[str, _Use] | None:
        """Return the constant that an operand comes from, and what stands between; None if it is computed."""
        use = _Use()
        while operand not in self._constants:
            node = self._makers.get(operand)
            if node is None or node.op_type not in {*_SAME_SHAPE, "Transpose"}:
                return None
            attributes = {attribute.name: attribute for attribute in node.attribute}
            if node.op_type == "Transpose":
                use = replace(use, is_transposed=not use.is_transposed, axis=1 - use.axis % 2)
            elif node.op_type == "DequantizeLinear":
                use = replace(
                    use,
                    zero_point=self._name_constant(node.input[2]) if len(node.input) > 2 and node.input[2] else "",
                    axis=attributes["axis"].i if "axis" in attributes else 1,
                    is_blocked="block_size" in attributes and attributes["block_size"].i > 0,
                )
            elif node.op_type == "QuantizeLinear":
                use = replace(use, zero_point="")  # the constant comes before quantisation
            operand = node.input[0]
        return operand, use

    def _name_constant(self, operand: str) -> str:
        """Return the constant behind an operand; its own name if it is computed."""
        found = self._trace(operand)
        return found[0] if found else operand


def _float_8(types: Any) -> tuple[int, ...]:
    return types.FLOAT8E4M3FN, types.FLOAT8E4M3FNUZ, types.FLOAT8E5M2, types.FLOAT8E5M2FNUZ


def open_onnx(path: Path) -> OnnxWeights:
    """Return the matrices of an ONNX file.

    Raises:
        ConfigError: The package onnx is not installed.
        SparsityError: The file is damaged.
    """
    onnx = onnx_library()
    try:
        model = onnx.load(path)
        onnx.checker.check_model(path)  # of the path: a model above 2 GiB cannot be serialised
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
