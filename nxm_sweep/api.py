"""The functions behind ``import nxm_sweep``: a trial, a sweep, their results, and whether a model holds its pattern."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from nxm_sweep.export.audit import Audit
    from nxm_sweep.store.record import Record


def run(overrides: Sequence[str] = (), *, quiet: bool = True) -> Record:
    """Train one trial, or return its record if it has one.

    Args:
        overrides: As on the command line: ``["task=glue/rte", "method=nxm", "learning_rate.value=5e-5"]``.
        quiet: Whether to show no progress.

    Returns:
        The record (docs/records.md lists its keys).

    Raises:
        NxmSweepError: Bad input, found before anything is trained, or a training that failed.
    """
    from rich.console import Console  # noqa: PLC0415 - `import nxm_sweep` loads nothing

    from nxm_sweep.config.compose import compose_settings  # noqa: PLC0415
    from nxm_sweep.training.quiet import silence_known_noise  # noqa: PLC0415
    from nxm_sweep.trial.run import run_point  # noqa: PLC0415

    settings = compose_settings(overrides)
    silence_known_noise()
    record, _ = run_point(settings, Console(quiet=quiet))
    return record


def run_sweep(overrides: Sequence[str]) -> pd.DataFrame:
    """Train every point of a sweep that has no record, as ``python -m nxm_sweep -m`` does, and return its trials.

    Args:
        overrides: As on the command line: ``["task=glue/rte,glue/mrpc", "learning_rate.value=1e-5,5e-5"]``.

    Returns:
        The trials under the sweep's ``output_dir``, as :func:`load` returns them.

    Raises:
        ConfigError: Bad input; nothing has been trained.
        SweepIncompleteError: Points have no record.
    """
    from nxm_sweep.config.compose import multirun  # noqa: PLC0415 - `import nxm_sweep` loads nothing

    return load(multirun(overrides))


def load(output_dir: str | Path = "outputs") -> pd.DataFrame:
    """Return the trials under an output directory, one row each, in the order of their sweep's grid.

    Args:
        output_dir: Root of the trials.

    Returns:
        Columns ``task``, ``method``, ``sparsity``, ``model``, ``value`` (the reported score), ``selected`` (the score that
        selects), ``rank`` in its cell, ``metric``, ``epoch``, ``residual``, ``seconds``, ``seed``, one per setting, and more:
        :class:`nxm_sweep.report.frames.Report` lists all. Points without a record are no rows.

    Raises:
        RecordError: There is no such folder.
    """
    from nxm_sweep.report.frames import read_report  # noqa: PLC0415 - `import nxm_sweep` loads nothing

    return read_report([Path(output_dir)]).trials


def verify_model(path: str | Path, pattern: str | None = None) -> Audit:
    """Count what the matrices of a saved model hold, from its files alone.

    Args:
        path: A model's folder, a safetensors file, an index of several, or an ONNX file.
        pattern: What should hold, such as ``2of4``; None: what ``sparsity.json`` says, or any pattern that is found.

    Returns:
        Every matrix with its counts. The model holds its pattern where ``broken`` is empty and ``checks`` is not; nothing is
        known of the weights in ``unread``.

    Raises:
        ModelError: The model cannot be read.
        SparsityError: ``pattern`` is none.
    """
    from nxm_sweep.export.audit import audit_model, open_model  # noqa: PLC0415 - `import nxm_sweep` loads nothing
    from nxm_sweep.sparsity.pattern import parse_constraint  # noqa: PLC0415

    found, _ = audit_model(open_model(Path(path)), None if pattern is None else parse_constraint(pattern))
    return found
