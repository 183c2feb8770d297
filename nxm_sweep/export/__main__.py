"""``python -m nxm_sweep.export TRIAL --to DIR``: export a finished trial's model to a folder.

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
        description="A finished trial's model as a folder to ship; its pattern is read back first, always.",
        epilog="exit codes: 0 it is written; 1 the model does not hold its pattern, or the exported one is not what it "
        "should be; 2 bad input",
    )
    parser.add_argument("trial", help="identity of the trial, the beginning of it, or its folder")
    parser.add_argument(
        "--to", required=True, type=path_argument, help="the folder to make; one that is not empty is refused"
    )
    parser.add_argument(
        "--output-dir", default=Path("outputs"), type=path_argument, help="root of trials (default: outputs)"
    )
    parser.add_argument("--format", default="dense", choices=_FORMATS, help="what is written (default: dense)")
    parser.add_argument("--dtype", choices=_DTYPES, help="for semi_structured: type of the weights (default: float16)")
    parser.add_argument("--license", help="identifier of the model's licence for its card, such as apache-2.0")
    return parser


def _export(options: argparse.Namespace) -> list[str]:
    if options.dtype is not None and options.format != "semi_structured":
        raise ConfigError(f"--dtype is for semi_structured; {options.format} keeps the trained weights as they are")
    from nxm_sweep.export.exporter import export_trial  # noqa: PLC0415 - seconds of imports
    from nxm_sweep.training.quiet import silence_known_noise  # noqa: PLC0415

    silence_known_noise()
    return export_trial(
        options.trial,
        options.output_dir,
        options.to,
        kind=options.format,
        dtype=options.dtype or "float16",
        licence=options.license,
    )


if __name__ == "__main__":
    sys.exit(main())
