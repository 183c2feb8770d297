"""``python -m nxm_sweep.export TRIAL|FOLDER --to DIR``: export a model that holds its pattern to a folder.

Exit codes: 0 it is written; 1 the model does not hold its pattern, or the exported one differs from it; 2 bad input.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nxm_sweep.console import BAD_INPUT, TextConsole, path_argument, print_error, program
from nxm_sweep.errors import ConfigError, ExportError, NxmSweepError

_FAILED = 1
_FORMATS = ("dense", "onnx", "semi_structured")
_DTYPES = ("float16", "bfloat16")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        lines = _export(options)
    except NxmSweepError as error:
        print_error(error)
        return _FAILED if isinstance(error, ExportError) else BAD_INPUT
    console = TextConsole(soft_wrap=True)
    for line in lines:
        console.print(line, markup=False)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("export"),
        description="The model of a finished trial, or of any folder that holds a pattern, as a folder to ship; the pattern "
        "is read back first, always.",
        epilog="exit codes: 0 it is written; 1 the model does not hold its pattern, or the exported one is not what it "
        "should be; 2 bad input",
    )
    parser.add_argument(
        "model",
        metavar="TRIAL|FOLDER",
        help="identity of the trial, the beginning of it, or its folder; or the folder of any model",
    )
    parser.add_argument(
        "--to", required=True, type=path_argument, help="the folder to make; one that is not empty is refused"
    )
    parser.add_argument(
        "--output-dir", default=Path("outputs"), type=path_argument, help="root of trials (default: outputs)"
    )
    parser.add_argument("--format", default="dense", choices=_FORMATS, help="what is written (default: dense)")
    parser.add_argument(
        "--dtype",
        choices=_DTYPES,
        help="type of the weights, for semi_structured (default: float16), or float16 for onnx (default: float32)",
    )
    parser.add_argument(
        "--pattern",
        help="for a folder: what should hold, such as 2of4 (default: its sparsity.json, else what is found)",
    )
    parser.add_argument(
        "--match", help="for --pattern: glob for the modules that it is about (default: the encoder's layers)"
    )
    parser.add_argument("--license", help="identifier of the model's licence for its card, such as apache-2.0")
    return parser


def _export(options: argparse.Namespace) -> list[str]:
    if options.dtype is not None and options.format == "dense":
        raise ConfigError("--dtype is for semi_structured and onnx; dense keeps the trained weights as they are")
    if (options.dtype, options.format) == ("bfloat16", "onnx"):
        raise ConfigError("--format onnx is float32, or --dtype float16: bfloat16 has few kernels in ONNX Runtime")
    if options.match is not None and options.pattern is None:
        raise ConfigError("--match says where a pattern should hold, but none is given", hint="--pattern 2of4")
    from nxm_sweep.export.exporter import export_model  # noqa: PLC0415 - seconds of imports
    from nxm_sweep.sparsity.pattern import parse_constraint  # noqa: PLC0415
    from nxm_sweep.training.quiet import silence_known_noise  # noqa: PLC0415

    wanted = None if options.pattern is None else parse_constraint(options.pattern)
    silence_known_noise()
    return export_model(
        options.model,
        options.output_dir,
        options.to,
        kind=options.format,
        dtype=options.dtype,
        licence=options.license,
        wanted=wanted,
        match=options.match,
    )


if __name__ == "__main__":
    sys.exit(main())
