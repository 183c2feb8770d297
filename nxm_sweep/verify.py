"""``python -m nxm_sweep.verify DIR|FILE``: what the matrices of a saved model hold, read from the file alone.

What should hold stands in ``sparsity.json`` beside the file, or in the options; without either, a pattern is looked for.
Exit codes: 0 it holds; 1 it does not hold, or the model is not sparse; 2 bad input.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from nxm_sweep.console import BAD_INPUT, error_console, print_error
from nxm_sweep.errors import NxmSweepError, SparsityError
from nxm_sweep.export.audit import Audit, Untouched, audit, audit_manifest, look_for_patterns, matching
from nxm_sweep.export.manifest import read_manifest
from nxm_sweep.export.weights import Weights, open_weights
from nxm_sweep.formatting import constraint_text
from nxm_sweep.sparsity.pattern import Constraint, constraint, parse_constraint
from nxm_sweep.sparsity.semi_structured import eligibility
from nxm_sweep.sparsity.targets import ENCODER_LAYERS

_DOES_NOT_HOLD = 1
_SHOWN = 20  # reasons
_PIPED_WIDTH = 200  # columns, where nobody's window wraps them


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        weights = _open(options.path)
        found, source = _audit(weights, _asked_for(options), options.match)
    except NxmSweepError as error:
        print_error(error)
        return BAD_INPUT
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _PIPED_WIDTH
    if found.checks:
        console.print(source, markup=False)
        console.print(_matrices(found))
    if found.untouched:
        console.print(_untouched(found))
    return _conclude(found, console, error_console())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m nxm_sweep.verify",
        description="What the matrices of a saved model hold, read from the file alone.",
        epilog="exit codes: 0 it holds; 1 it does not hold, or the model is not sparse; 2 bad input",
    )
    parser.add_argument("path", type=Path, help="folder of a model, .safetensors file, index of several, or .onnx file")
    parser.add_argument("--pattern", help="what should hold, such as 2of4; with sparsity.json, beside what that says")
    parser.add_argument("--keep", type=int, help="the same as two numbers: keep so many ...")
    parser.add_argument("--group", type=int, help="... of every so many contiguous inputs")
    parser.add_argument("--density", type=float, help="the share of each matrix that may stay, wherever it lies")
    parser.add_argument(
        "--match",
        default=None,
        help=f"glob for the modules that the options are about (default: {ENCODER_LAYERS}, the encoder's layers)",
    )
    return parser


def _open(path: Path) -> Weights:
    onnx = path / "model.onnx" if path.is_dir() else path
    if onnx.suffix == ".onnx" and onnx.is_file():
        from nxm_sweep.export.onnx_weights import open_onnx  # noqa: PLC0415 - the extra may be missing

        return open_onnx(onnx)
    return open_weights(path)


def _asked_for(options: argparse.Namespace) -> Constraint | None:
    """The constraint that the options name, or None."""
    numbers = {name: getattr(options, name) for name in ("keep", "group", "density")}
    given = {name: value for name, value in numbers.items() if value is not None}
    if options.pattern is not None and given:
        raise SparsityError("give --pattern, or --keep and --group, or --density, and not two of them")
    if options.pattern is not None:
        return parse_constraint(options.pattern)
    if not given:
        if options.match is not None:
            raise SparsityError("--match says where a pattern should hold, but none is given", hint="--pattern 2of4")
        return None
    return constraint(**given)


def _audit(weights: Weights, asked: Constraint | None, match: str | None) -> tuple[Audit, str]:
    """What was found, and in words what it was held against."""
    manifest = read_manifest(weights.folder)
    if manifest is None:
        if asked is None:
            return look_for_patterns(weights), "nothing says what should hold; patterns found by looking:"
        return audit(weights, matching(weights, asked, match or ENCODER_LAYERS)), f"held against {asked}:"
    found, source = audit_manifest(weights, manifest), f"held against sparsity.json ({manifest.pattern}):"
    if asked is None:
        return found, source
    said = {target.matrix: target.constraint for target in manifest.targets}
    wanted = matching(weights, asked, match or ENCODER_LAYERS) if match or not said else dict.fromkeys(said, asked)
    also = audit(weights, {name: held for name, held in wanted.items() if said.get(name) != held})
    return Audit((*found.checks, *also.checks), found.untouched, (*found.problems, *also.problems)), source


def _matrices(found: Audit) -> Table:
    table = _table("matrix", "shape", "holds", "groups by kept weights", "zeros", "2:4 kernels")
    for check in found.checks:
        counts = [f"{kept}: {groups}" for kept, groups in enumerate(check.kept_per_group) if groups]
        table.add_row(
            check.matrix,
            f"{check.shape[0]} x {check.shape[1]}",
            f"{'' if check.holds else 'NOT '}{constraint_text(check.constraint)}",
            "  ".join(counts) or "-",
            f"{check.zeros / (check.shape[0] * check.shape[1]):.2%}",
            eligibility(check.shape, parse_constraint(check.constraint)) if check.holds else "none (does not hold)",
        )
    return table


def _untouched(found: Audit) -> Table:
    """Matrices that are held to nothing, those of one role in several layers together."""
    roles: dict[str, list[Untouched]] = defaultdict(list)
    for matrix in found.untouched:
        roles[re.sub(r"(?<=\.)\d+(?=\.)", "*", matrix.matrix)].append(matrix)
    table = _table("untouched", "matrices", "weights", "zeros")
    for role, matrices in roles.items():
        weights, zeros = sum(matrix.size for matrix in matrices), sum(matrix.zeros for matrix in matrices)
        table.add_row(role, str(len(matrices)), f"{weights:,}", f"{zeros:,}")
    return table


def _table(*headers: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for place, header in enumerate(headers):
        table.add_column(header, justify="right" if place else "left", overflow="fold")
    return table


def _conclude(found: Audit, console: Console, errors: Console) -> int:
    """Print the result in a line; return the exit code."""
    if found.broken:
        for reason in found.broken[:_SHOWN]:
            errors.print(f"does not hold: {reason}", markup=False)
        if len(found.broken) > _SHOWN:
            errors.print(f"... and {len(found.broken) - _SHOWN} more")
        return _DOES_NOT_HOLD
    if not found.checks:
        weights, zeros = (sum(getattr(matrix, name) for matrix in found.untouched) for name in ("size", "zeros"))
        share = zeros / weights if weights else 0.0
        console.print(
            f"not sparse: none of {len(found.untouched)} matrices holds a pattern; {zeros:,} of {weights:,} weights are "
            f"zero ({share:.2%})",
            soft_wrap=True,
        )
        return _DOES_NOT_HOLD
    patterns = ", ".join(dict.fromkeys(constraint_text(check.constraint) for check in found.checks))
    exact = "exactly " if all(check.exact for check in found.checks) else ""
    count = len(found.checks)
    console.print(
        f"holds: {count} of {count} targets hold {exact}{patterns}; untouched matrices: {len(found.untouched)}",
        soft_wrap=True,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
