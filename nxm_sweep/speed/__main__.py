"""``python -m nxm_sweep.speed MODEL``: dense layers against 2:4 kernels, on the GPU at hand, before anything is trained.

Exit codes: 0 measured and written; 1 nothing was measured: no GPU with 2:4 kernels, or no layer that they take, or kernels
that compute something else; 2 bad input.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from nxm_sweep.console import BAD_INPUT, TextConsole, error_console, path_argument, print_error, program
from nxm_sweep.errors import ConfigError, MeasurementError, NxmSweepError, OutOfMemoryError
from nxm_sweep.store.speeds import DENSE, SCHEMA, TENSORRT, TENSORRT_DENSE, Speed, SpeedLayer, total, write_speed

if TYPE_CHECKING:
    import torch

_NOT_MEASURED = 1
_DTYPES = ("float16", "bfloat16")
_PIPED_WIDTH = 160  # columns, where no terminal wraps them
_LARGEST = 2**20  # of batch and length


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = _parser().parse_args(arguments)
    console = TextConsole()
    if not console.is_terminal:
        console.width = _PIPED_WIDTH
    try:
        return _run(options, console)
    except NxmSweepError as error:
        print_error(error)
        return _NOT_MEASURED if isinstance(error, MeasurementError | OutOfMemoryError) else BAD_INPUT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("speed"),
        description="Times every linear layer of a model, dense and on 2:4 kernels, with random weights of its shape: "
        "what sparsity would gain on this GPU, before anything is trained.",
        epilog=(__doc__ or "").partition("\n\n")[2],
    )
    parser.add_argument("model", help="folder with a config.json, or an id of the hub; weights are not read")
    parser.add_argument("--batch", type=int, default=32, help="rows of a batch (default: 32)")
    parser.add_argument("--length", type=int, default=128, help="tokens of a row (default: 128)")
    parser.add_argument("--dtype", choices=_DTYPES, default="float16", help="of weights and inputs (default: float16)")
    parser.add_argument("--match", help="glob for the modules (default: the encoder's layers; GPT-2: h.*)")
    parser.add_argument(
        "--output-dir",
        default=Path("outputs"),
        type=path_argument,
        help="the result goes to its folder `speed`, which reports and model cards read (default: outputs)",
    )
    return parser


def _run(options: argparse.Namespace, console: TextConsole) -> int:
    for name in ("batch", "length"):
        if not 1 <= getattr(options, name) <= _LARGEST:
            raise ConfigError(f"--{name} must be in [1, {_LARGEST:,}] but got {getattr(options, name)}")
    import torch  # noqa: PLC0415 - seconds of imports

    from nxm_sweep.sparsity.targets import ENCODER_LAYERS  # noqa: PLC0415
    from nxm_sweep.speed.layers import list_layers, read_config  # noqa: PLC0415
    from nxm_sweep.speed.measure import list_backends  # noqa: PLC0415
    from nxm_sweep.training.quiet import silence_known_noise  # noqa: PLC0415

    silence_known_noise()
    layers = list_layers(read_config(options.model), options.match or ENCODER_LAYERS)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    backends = list_backends(device)
    taken = {name for layer in layers for name in layer["kernels"]}
    if not taken.intersection(backends):
        console.print(_tabulate(layers))
        reason = _explain_absence(device, backends)
        error_console().print(f"not measured: {reason}. The table shows which kernels take each shape.")
        return _NOT_MEASURED
    speed = _measure(options, layers, device, backends)
    console.print(_tabulate(speed["layers"]))
    for line in describe(speed):
        console.print(line, soft_wrap=True)
    path = write_speed(options.output_dir, speed)
    console.print(f"written to {path}; `nxm-sweep report` and the cards of `nxm-sweep export` show it", soft_wrap=True)
    return 0


def _explain_absence(device: torch.device, backends: Sequence[str]) -> str:
    import torch  # noqa: PLC0415 - imported already

    if device.type != "cuda":
        return "this machine has no CUDA device that PyTorch sees, and 2:4 kernels run on nothing else"
    if not backends:
        major, minor = torch.cuda.get_device_capability(device)
        return (
            f"{torch.cuda.get_device_name(device)} (compute capability {major}.{minor}) has no 2:4 kernels with PyTorch "
            f"{torch.__version__}; they need 8.0 or later"
        )
    return f"no layer has a shape that {' or '.join(backends)} takes"


def _measure(
    options: argparse.Namespace, layers: Sequence[SpeedLayer], device: torch.device, backends: Sequence[str]
) -> Speed:
    import torch  # noqa: PLC0415 - imported already

    from nxm_sweep.sparsity.semi_structured import DTYPES  # noqa: PLC0415
    from nxm_sweep.speed import tensorrt  # noqa: PLC0415
    from nxm_sweep.speed.measure import Measurement, time_product  # noqa: PLC0415

    measurement = Measurement(options.batch * options.length, DTYPES[options.dtype], backends, device)
    if tensorrt.has_tensorrt():
        engines = partial(tensorrt.measure, time=time_product)
        measurement = replace(measurement, engines=engines)
    folder = Path(options.model).expanduser()
    return Speed(
        schema=SCHEMA,
        model=folder.resolve().name if folder.is_dir() else options.model,
        device=torch.cuda.get_device_name(device),
        dtype=options.dtype,
        batch=options.batch,
        length=options.length,
        versions={"torch": torch.__version__, "cuda": str(torch.version.cuda)},
        written=datetime.now(UTC).isoformat(timespec="seconds"),
        layers=list(measurement.run(layers)),
    )


def describe(speed: Speed) -> list[str]:
    """Return the totals of a measurement as lines of text."""
    summary = total(speed["layers"])
    if summary is None:
        return ["no layer was measured on 2:4 kernels"]
    name, fastest = summary.best
    lines = [
        (
            f"{speed['device']}, {speed['dtype']}, batch {speed['batch']} x {speed['length']} tokens: all linear layers take "
            f"{summary.dense:.3f} ms dense and {fastest:.3f} ms with {name}, {summary.speedup:.2f} times as fast"
        )
    ]
    if summary.tensorrt is not None:
        dense, sparse = summary.tensorrt
        lines.append(f"TensorRT: {dense:.3f} ms dense, {sparse:.3f} ms sparse, {dense / sparse:.2f} times as fast")
    else:
        lines.append("TensorRT was not measured: onnxruntime with its TensorRT provider, and float16, are needed")
    return [*lines, "attention, normalization, embeddings and the head are not in these figures, and gain nothing"]


def _tabulate(layers: Sequence[SpeedLayer]) -> Table:
    names = {name: None for layer in layers for name in layer["milliseconds"]}
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("layer", overflow="fold")
    for header in ("layers", "shape", "2:4 kernels", *(f"{name} ms" for name in names)):
        table.add_column(header, justify="right")
    for layer in layers:
        times = layer["milliseconds"]
        cells = [_format_time(name, times) for name in names]
        shape = f"{layer['rows']} x {layer['columns']}"
        kernels = ", ".join(layer["kernels"]) or f"none ({layer['refusal']})"
        table.add_row(layer["role"], str(layer["count"]), shape, kernels, *cells)
    return table


def _format_time(name: str, times: dict[str, float]) -> str:
    """Return ``0.0123 (1.41x)``: milliseconds and the gain over the dense product of the same library."""
    if name not in times:
        return "-"
    reference = TENSORRT_DENSE if name == TENSORRT else DENSE
    gain = "" if name in {DENSE, TENSORRT_DENSE} else f" ({times[reference] / times[name]:.2f}x)"
    return f"{times[name]:.4f}{gain}"


if __name__ == "__main__":
    sys.exit(main())
