"""Time dense products against those of 2:4 kernels, in turn, on random weights of a layer's shape."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils import benchmark

from nxm_sweep.errors import MeasurementError, OutOfMemoryError
from nxm_sweep.sparsity.projection import project
from nxm_sweep.sparsity.semi_structured import KERNELS, TWO_OF_FOUR, make_sparse, narrow
from nxm_sweep.store.speeds import DENSE, SpeedLayer

ALLOWED = 1e-2
"""Largest relative difference between a dense and a sparse product, both in half precision."""
_ROUNDS = 3
_SECONDS = 0.2  # of one measurement
Product = Callable[[], Tensor]


def time_product(product: Product) -> float:
    """Return the median milliseconds of a call, by PyTorch's benchmark, which warms up and waits for the GPU."""
    timer = benchmark.Timer(stmt="product()", globals={"product": product})
    return 1e3 * float(timer.blocked_autorange(min_run_time=_SECONDS).median)


@dataclass(frozen=True, slots=True)
class Measurement:
    """How products are measured.

    Attributes:
        tokens: Rows of the inputs: batch size times length.
        dtype: Type of weights and inputs, fp16 or bf16.
        backends: 2:4 kernels of the device, of :data:`KERNELS`.
        device: The CUDA device.
        time: Returns milliseconds of a product.
        make_sparse: Converts a weight for a backend.
        engines: Returns further milliseconds by name, of engines outside PyTorch, given weight and inputs.
    """

    tokens: int
    dtype: torch.dtype
    backends: Sequence[str]
    device: torch.device
    time: Callable[[Product], float] = time_product
    make_sparse: Callable[[Tensor, str], Tensor] = make_sparse
    engines: Callable[[Tensor, Tensor], Mapping[str, float]] = lambda _weight, _inputs: {}

    def run(self, layers: Sequence[SpeedLayer]) -> Iterator[SpeedLayer]:
        """Yield each layer with its milliseconds; layers of one shape are measured once.

        Raises:
            MeasurementError: A kernel's product is not the dense one.
            OutOfMemoryError: The device has too little memory for a layer.
        """
        measured: dict[tuple[int, int], dict[str, float]] = {}
        for layer in layers:
            shape = (layer["rows"], layer["columns"])
            supported = [name for name in self.backends if name in layer["kernels"]]
            if supported and shape not in measured:
                with _explain_memory(layer, self.tokens):
                    measured[shape] = self._measure(shape, supported)
            yield {**layer, "milliseconds": measured[shape] if supported else {}}

    @torch.no_grad()
    def _measure(self, shape: tuple[int, int], backends: Sequence[str]) -> dict[str, float]:
        rows, columns = shape
        generator = torch.Generator().manual_seed(0)
        weight = narrow("w", project(torch.randn(rows, columns, generator=generator), TWO_OF_FOUR), self.dtype)
        weight = weight.to(self.device)
        bias = torch.randn(rows, generator=generator).to(self.device, self.dtype)
        inputs = torch.randn(self.tokens, columns, generator=generator).to(self.device, self.dtype)
        products = {DENSE: _multiply(inputs, weight, bias)}
        for backend in backends:
            products[backend] = _multiply(inputs, self.make_sparse(weight, backend), bias)
        self._compare(shape, products)
        times: dict[str, list[float]] = {name: [] for name in products}
        for _ in range(_ROUNDS):
            for name, product in products.items():
                times[name].append(self.time(product))
        medians = {name: statistics.median(each) for name, each in times.items()}
        return {**medians, **self.engines(weight, inputs)}

    def _compare(self, shape: tuple[int, int], products: Mapping[str, Product]) -> None:
        dense = products[DENSE]().float()
        for name, product in products.items():
            difference = float((product().float() - dense).norm() / dense.norm())
            if not difference <= ALLOWED:
                raise MeasurementError(
                    f"{name} differs from the dense product of {shape[0]} x {shape[1]} by {difference:.2g} (relative); "
                    f"allowed is {ALLOWED:g}",
                    hint="nothing was written: these kernels do not compute what the model does",
                )


def list_backends(device: torch.device) -> list[str]:
    """Return the 2:4 kernels that run on a device, by trying each; none without a CUDA device."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return []
    usable = []
    for backend in KERNELS:
        try:
            weight = narrow("w", project(torch.randn(128, 128), TWO_OF_FOUR), torch.float16).to(device)
            inputs = torch.ones(128, 128, dtype=torch.float16, device=device)
            nn.functional.linear(inputs, make_sparse(weight, backend))
            torch.cuda.synchronize(device)
        except (RuntimeError, NotImplementedError):  # no kernel for this compute capability, or not built
            continue
        usable.append(backend)
    return usable


def _multiply(inputs: Tensor, weight: Tensor, bias: Tensor) -> Product:
    return lambda: nn.functional.linear(inputs, weight, bias)


@contextmanager
def _explain_memory(layer: SpeedLayer, tokens: int) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemoryError(
            f"the device has too little memory for {tokens:,} tokens of {layer['rows']} x {layer['columns']}",
            hint="a smaller --batch or --length",
        ) from error
