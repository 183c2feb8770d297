"""``python -m nxm_sweep.report OUTPUT_DIR``: finished trials side by side.

Exit codes: 0 there are records; 2 there are none, or one cannot be read.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from nxm_sweep.errors import NxmSweepError, RecordError
from nxm_sweep.report.summary import comparison
from nxm_sweep.sweep.records import read_records

_BAD_INPUT = 2


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m nxm_sweep.report", description="Finished trials side by side.")
    parser.add_argument("output_dir", nargs="?", default="outputs", type=Path, help="root of trials (default: outputs)")
    folder: Path = parser.parse_args().output_dir
    try:
        records = list(read_records(folder))
        if not records:
            raise RecordError(f"{folder} holds no records", hint="run a trial: python -m nxm_sweep task=glue/rte")
    except NxmSweepError as error:
        errors = Console(stderr=True, soft_wrap=True, highlight=False)
        errors.print(f"error: {error.message}", markup=False)
        if error.hint:
            errors.print(f"hint: {error.hint}", markup=False)
        return _BAD_INPUT
    console = Console(highlight=False)
    comparison(records, console)
    console.print("A score is the best epoch's on the set it is reported on: optimistic, as in the paper.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
