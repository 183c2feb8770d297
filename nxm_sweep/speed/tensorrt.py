"""TensorRT through ONNX Runtime: a layer's dense engine against the one that may use sparse kernels.

ONNX Runtime's own CUDA kernels multiply the zeros; only its TensorRT provider finds 2:4 weights (``trt_sparsity_enable``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nxm_sweep.store.speeds import TENSORRT, TENSORRT_DENSE

PROVIDER = "TensorrtExecutionProvider"
Product = Callable[[], Any]


def has_tensorrt() -> bool:
    """Return whether ONNX Runtime is installed with its TensorRT provider, and the package onnx beside it."""
    try:
        import onnx  # noqa: F401, PLC0415 - an extra
        import onnxruntime  # noqa: PLC0415 - an extra
    except ImportError:
        return False
    return PROVIDER in onnxruntime.get_available_providers()


def make_model(weight: Tensor, tokens: int) -> bytes:
    """Return an ONNX file of one product ``x W^T`` with fixed shapes, in fp16.

    Args:
        weight: Shape ``(rows, columns)``, fp16.
        tokens: Rows of ``x``.
    """
    from onnx import TensorProto, helper, numpy_helper  # noqa: PLC0415 - an extra

    rows, columns = weight.shape
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, [tokens, columns])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, [tokens, rows])],
        [numpy_helper.from_array(weight.T.contiguous().cpu().numpy(), "w")],
    )
    content: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()
    return content


def measure(weight: Tensor, inputs: Tensor, time: Callable[[Product], float]) -> dict[str, float]:
    """Return milliseconds of TensorRT's dense and sparse engine; empty for bf16, which is not measured.

    Args:
        weight: Shape ``(rows, columns)``, on a CUDA device.
        inputs: Shape ``(tokens, columns)``, on the same device.
        time: Returns milliseconds of a call.
    """
    if weight.dtype != torch.float16:
        return {}
    content, milliseconds = make_model(weight, len(inputs)), {}
    for name, sparse in ((TENSORRT_DENSE, False), (TENSORRT, True)):
        milliseconds[name] = time(_bind(content, inputs, weight.shape[0], sparse=sparse))
    return milliseconds


def _bind(content: bytes, inputs: Tensor, rows: int, *, sparse: bool) -> Product:
    """Return a call that runs the engine on tensors that stay on the device."""
    import numpy as np  # noqa: PLC0415 - with the extra
    import onnxruntime  # noqa: PLC0415 - an extra

    device = inputs.device.index or 0
    options = {"device_id": device, "trt_fp16_enable": True, "trt_sparsity_enable": sparse}
    session = onnxruntime.InferenceSession(content, providers=[(PROVIDER, options)])
    outputs = torch.empty(len(inputs), rows, dtype=inputs.dtype, device=inputs.device)
    binding = session.io_binding()
    for bind, name, tensor in ((binding.bind_input, "x", inputs), (binding.bind_output, "y", outputs)):
        bind(name, inputs.device.type, device, np.float16, tuple(tensor.shape), tensor.data_ptr())

    def run() -> tuple[Tensor, Tensor]:
        session.run_with_iobinding(binding)
        return inputs, outputs  # the binding knows their addresses only: they live as long as this call

    return run
