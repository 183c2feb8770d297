"""Dense linear layers and whole models against PyTorch's 2:4 kernels, on one GPU.

``PYTHONPATH=. python benchmarks/semi_structured.py [--quick] [--search] [--compile] [--model DIR]``. Needs a CUDA device of
compute capability 8.0 or later, and Transformers for the whole models. Dense and sparse are timed in turn, in the same run,
with CUDA events; a figure is the median of the rounds. A ratio above 1 means that sparse is faster.

Exit codes: 0 measured; 1 the kernels' result differs from the dense product; 2 there is no CUDA device.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from nxm_sweep.sparsity import Pattern, encoder_rules, project, prune_, select_targets
from nxm_sweep.sparsity.semi_structured import DTYPES, KERNELS, narrow, pack, to_kernels

TWO_OF_FOUR = Pattern(2, 4)
LAYERS = {  # (out_features, in_features)
    "base attention": (768, 768),
    "base up": (3072, 768),
    "base down": (768, 3072),
    "large attention": (1024, 1024),
    "large up": (4096, 1024),
    "large down": (1024, 4096),
}
TOKENS = (128, 1024, 4096, 16384, 65536)
MODELS = {"bert-base": (12, 768, 12), "bert-large": (24, 1024, 16)}  # layers, width, heads
BATCHES = ((1, 128), (8, 128), (32, 128), (64, 512))
WARM_UP, ROUNDS = 5, 15
ALLOWED = 1e-2  # relative difference between the dense and the sparse result, both in half precision


@dataclass(frozen=True)
class Difference:
    """Relative difference of two results: ``||a - b|| / ||a||``."""

    value: float

    @classmethod
    def of(cls, dense: Tensor, sparse: Tensor) -> Difference:
        dense, sparse = dense.float(), sparse.float()
        return cls(float((dense - sparse).norm() / dense.norm()))


def main() -> int:
    options = parser().parse_args()
    if not torch.cuda.is_available():
        print("error: the 2:4 kernels need a CUDA device, and there is none", file=sys.stderr)
        return 2
    backends = available()
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}, backends: {', '.join(backends)}"
    )
    if not backends:
        print("error: neither cuSPARSELt nor CUTLASS has 2:4 kernels for this device", file=sys.stderr)
        return 2
    torch.manual_seed(0)
    worst = [linears(options, backends)]
    if not options.no_models:
        worst.append(models(options, backends))
    if options.model is not None:
        worst.append(exported(options.model, backends))
    largest = max(worst)
    print(f"\nlargest relative difference between dense and sparse: {largest:.1e} (allowed {ALLOWED:g})")
    return 0 if largest <= ALLOWED else 1


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description="Dense against 2:4 kernels.")
    made.add_argument("--quick", action="store_true", help="fp16 and fewer sizes")
    made.add_argument("--search", action="store_true", help="let cuSPARSELt search its algorithm for every product")
    made.add_argument("--compile", action="store_true", help="torch.compile both models")
    made.add_argument("--no-models", action="store_true", help="linear layers alone")
    made.add_argument("--model", type=Path, help="also a folder that `nxm_sweep.export --format semi_structured` wrote")
    return made


def available() -> list[str]:
    """Return the backends whose kernels run on this device, by trying each."""
    weight = narrow("w", project(torch.randn(128, 128), TWO_OF_FOUR), torch.float16)
    rows = torch.randn(128, 128, dtype=torch.float16, device="cuda")
    usable = []
    for backend in KERNELS:
        try:
            kernels = to_kernels(pack("w", weight.cuda()), backend)
            if kernels is not None:
                nn.functional.linear(rows, kernels)
                torch.cuda.synchronize()
                usable.append(backend)
        except (RuntimeError, NotImplementedError) as error:
            print(f"{backend} is not used: {(str(error).splitlines() or ['?'])[0]}")
    return usable


def linears(options: argparse.Namespace, backends: list[str]) -> float:
    """Print dense milliseconds and the ratio dense / sparse for every layer; return the largest difference."""
    dtypes = {"float16": torch.float16} if options.quick else DTYPES
    tokens = TOKENS[1::2] if options.quick else TOKENS
    worst = 0.0
    print(
        f"\n{'layer':<16} {'dtype':<9} {'tokens':>6} {'dense ms':>9}  " + "  ".join(f"{name:>12}" for name in backends)
    )
    with torch.no_grad():
        for layer, (rows, columns) in LAYERS.items():
            for name, dtype in dtypes.items():
                weight = narrow(layer, project(torch.randn(rows, columns), TWO_OF_FOUR), dtype).cuda()
                bias = torch.randn(rows, dtype=dtype, device="cuda")
                packed = pack(layer, weight)
                for count in tokens:
                    inputs = torch.randn(count, columns, dtype=dtype, device="cuda")
                    ways: dict[str, Callable[[], Tensor]] = {"dense": linear(inputs, weight, bias)}
                    for backend in backends:
                        kernels = to_kernels(packed, backend)
                        if kernels is not None:
                            tune(kernels, inputs, backend, search=options.search)
                            ways[backend] = linear(inputs, kernels, bias)
                    worst = max([worst, *(Difference.of(ways["dense"](), way()).value for way in ways.values())])
                    seconds = timed(ways, inner=20)
                    dense = seconds.pop("dense")
                    ratios = "  ".join(f"{ratio(dense, seconds.get(backend)):>12}" for backend in backends)
                    print(f"{layer:<16} {name:<9} {count:>6} {dense:>9.4f}  {ratios}", flush=True)
    return worst


def models(options: argparse.Namespace, backends: list[str]) -> float:
    """Print the same for whole BERTs with random weights; return the largest difference of the logits."""
    from transformers import BertConfig, BertForSequenceClassification  # noqa: PLC0415 - the layers need it not

    from nxm_sweep.export.semi_structured import put_on_kernels_  # noqa: PLC0415

    worst = 0.0
    print(
        f"\n{'model':<16} {'dtype':<9} {'batch':>8} {'dense ms':>9}  " + "  ".join(f"{name:>12}" for name in backends)
    )
    for title, (layers, width, heads) in MODELS.items():
        config = BertConfig(
            hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=4 * width
        )
        for name, dtype in ({"float16": torch.float16} if options.quick else DTYPES).items():
            dense = BertForSequenceClassification(config).eval().to("cuda", dtype)
            targets = select_targets(dense, encoder_rules(TWO_OF_FOUR))
            prune_(targets)
            packed = {target.name: pack(target.name, target.weight) for target in targets}
            ready = {"dense": dense}
            for backend in backends:
                ready[backend] = copy.deepcopy(dense)
                put_on_kernels_(ready[backend], packed, backend)
            worst = max(worst, latency(f"{title:<16} {name:<9}", ready, backends, compiled=options.compile))
    return worst


def exported(folder: Path, backends: list[str]) -> float:
    """Print the same for an exported folder; return the largest difference."""
    from nxm_sweep.export.semi_structured import load_semi_structured  # noqa: PLC0415

    ready: dict[str, nn.Module] = {"dense": load_semi_structured(folder, "cpu").cuda()}
    for backend in backends:
        ready[backend] = load_semi_structured(folder, "cuda", backend=backend)
    return latency(f"{folder.name:<26}", ready, backends, compiled=False)


def latency(title: str, ready: dict[str, nn.Module], backends: list[str], *, compiled: bool) -> float:
    """Print a line per batch; return the largest difference of the logits."""
    worst = 0.0
    if compiled:
        ready = {name: torch.compile(model) for name, model in ready.items()}
    with torch.no_grad():
        for rows, length in BATCHES:
            ids = torch.randint(1000, 20000, (rows, length), device="cuda")
            mask = torch.ones_like(ids)
            ways = {name: call(model, ids, mask) for name, model in ready.items()}
            worst = max([worst, *(Difference.of(ways["dense"](), way()).value for way in ways.values())])
            seconds = timed(ways, inner=3)
            dense = seconds.pop("dense")
            ratios = "  ".join(f"{ratio(dense, seconds.get(backend)):>12}" for backend in backends)
            print(f"{title} {f'{rows}x{length}':>8} {dense:>9.3f}  {ratios}", flush=True)
    return worst


def linear(inputs: Tensor, weight: Tensor, bias: Tensor) -> Callable[[], Tensor]:
    return lambda: nn.functional.linear(inputs, weight, bias)


def call(model: nn.Module, ids: Tensor, mask: Tensor) -> Callable[[], Tensor]:
    def forward() -> Tensor:
        logits: Tensor = model(input_ids=ids, attention_mask=mask).logits
        return logits

    return forward


def tune(kernels: Tensor, inputs: Tensor, backend: str, *, search: bool) -> None:
    """Set the cuSPARSELt algorithm that is fastest in its own search."""
    if search and backend == "cuSPARSELt" and hasattr(torch, "_cslt_sparse_mm_search"):
        kernels.alg_id_cusparselt = torch._cslt_sparse_mm_search(kernels.packed, inputs.t())  # noqa: SLF001


def timed(ways: dict[str, Callable[[], Tensor]], *, inner: int) -> dict[str, float]:
    """Return median milliseconds per call of each variant, in turn in every round."""
    for way in ways.values():
        for _ in range(WARM_UP):
            way()
    milliseconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(inner):
                way()
            end.record()
            torch.cuda.synchronize()
            milliseconds[name].append(start.elapsed_time(end) / inner)
    return {name: statistics.median(times) for name, times in milliseconds.items()}


def ratio(dense: float, sparse: float | None) -> str:
    return "-" if sparse is None else f"{dense / sparse:.2f}"


if __name__ == "__main__":
    sys.exit(main())
