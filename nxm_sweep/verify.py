"""``python -m nxm_sweep.verify DIR|FILE``: check the sparsity of a saved model, from its files only.

The expected pattern is that of ``sparsity.json`` beside the file or of the options; without either, it is inferred.
Exit codes: 0 it holds; 1 it does not hold, or no pattern was found; 2 bad input, or weights in a form that is not read.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from nxm_sweep.console import BAD_INPUT, TextConsole, error_console, path_argument, print_error, program
from nxm_sweep.errors import NxmSweepError, SparsityError
from nxm_sweep.export.audit import Audit, Untouched, audit_model, open_model, refuse_unread
from nxm_sweep.formatting import constraint_text
from nxm_sweep.sparsity.pattern import Constraint, constraint, parse_constraint
from nxm_sweep.sparsity.semi_structured import eligibility
from nxm_sweep.sparsity.targets import ENCODER_LAYERS

_DOES_NOT_HOLD = 1
_SHOWN = 20  # reasons
_MANY = 5_000  # matrices that take seconds
_PIPED_WIDTH = 200  # columns, where no terminal wraps them


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        weights = open_model(options.path)
        if len(weights.shapes) > _MANY:
            error_console().print(f"reading {len(weights.shapes):,} matrices; this takes a while")
        audit, source = audit_model(weights, _read_constraint(options), options.match)
        if not audit.broken:
            refuse_unread(audit.unread)
    except NxmSweepError as error:
        print_error(error)
        return BAD_INPUT
    console = TextConsole()
    if not console.is_terminal:
        console.width = _PIPED_WIDTH
    if audit.checks:
        console.print(source, markup=False)
        console.print(_tabulate_matrices(audit))
    if audit.untouched:
        console.print(_tabulate_untouched(audit))
    for note in weights.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    if weights.unread:
        name, how = next(iter(weights.unread.items()))
        console.print(f"not read: {len(weights.unread)}, such as {name}, {how}", markup=False, soft_wrap=True)
    return _print_verdict(audit, console, error_console())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("verify"),
        description="What the matrices of a saved model hold, read from the file alone.",
        epilog="exit codes: 0 it holds; 1 it does not hold, or no pattern was found; 2 bad input, or weights in a form that "
        "is not read",
    )
    parser.add_argument(
        "path", type=path_argument, help="folder of a model, .safetensors file, index of several, or .onnx file"
    )
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


def _read_constraint(options: argparse.Namespace) -> Constraint | None:
    """Return the constraint given by the options, or None."""
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


def _tabulate_matrices(audit: Audit) -> Table:
    table = _make_table("matrix", "shape", "holds", "groups by kept weights", "zeros", "2:4 kernels")
    for check in audit.checks:
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


def _tabulate_untouched(audit: Audit) -> Table:
    """Tabulate unconstrained matrices, one row per role over all layers."""
    roles: dict[str, list[Untouched]] = defaultdict(list)
    for matrix in audit.untouched:
        roles[re.sub(r"(?<=\.)\d+(?=\.)", "*", matrix.matrix)].append(matrix)
    table = _make_table("untouched", "matrices", "weights", "zeros")
    for role, matrices in roles.items():
        weights, zeros = sum(matrix.size for matrix in matrices), sum(matrix.zeros for matrix in matrices)
        table.add_row(role, str(len(matrices)), f"{weights:,}", f"{zeros:,}")
    return table


def _make_table(*headers: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index, header in enumerate(headers):
        table.add_column(header, justify="right" if index else "left", overflow="fold")
    return table


def _print_verdict(audit: Audit, console: Console, errors: Console) -> int:
    """Print the verdict; return the exit code."""
    if audit.broken:
        for reason in audit.broken[:_SHOWN]:
            errors.print(f"does not hold: {reason}", markup=False)
        if len(audit.broken) > _SHOWN:
            errors.print(f"... and {len(audit.broken) - _SHOWN} more")
        return _DOES_NOT_HOLD
    if not audit.checks:
        console.print(_describe_without_pattern(audit.untouched), soft_wrap=True)
        return _DOES_NOT_HOLD
    patterns = ", ".join(dict.fromkeys(constraint_text(check.constraint) for check in audit.checks))
    exact = "exactly " if all(check.exact for check in audit.checks) else ""
    count = len(audit.checks)
    console.print(
        f"holds: {count} of {count} targets hold {exact}{patterns}; untouched matrices: {len(audit.untouched)}",
        soft_wrap=True,
    )
    return 0


def _describe_without_pattern(matrices: Sequence[Untouched]) -> str:
    """Describe a model none of whose matrices holds a pattern: unstructured, or not sparse."""
    sparse = [matrix for matrix in matrices if matrix.is_sparse]
    weights, zeros = (sum(getattr(matrix, name) for matrix in sparse or matrices) for name in ("size", "zeros"))
    share = f"{zeros:,} of {weights:,} weights are zero ({zeros / max(1, weights):.2%})"
    if sparse:
        return (
            f"unstructured: {len(sparse)} of {len(matrices)} matrices hold no pattern, but {share}; "
            f"--density {1 - zeros / weights:.4g} checks that share"
        )
    return f"not sparse: none of {len(matrices)} matrices holds a pattern; {share}"


if __name__ == "__main__":
    sys.exit(main())
