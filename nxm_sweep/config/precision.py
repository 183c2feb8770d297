"""Resolve ``training.precision=auto``: once from the hardware, and the same for all sweeps of a folder.

PyTorch is imported only when ``auto`` has to query the hardware.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from nxm_sweep.settings import AUTO, TrialSettings
from nxm_sweep.store.files import read_regular_file, write_text
from nxm_sweep.store.paths import precision_file

_ANSWERS = ("bf16", "fp32")


def resolve_precision(precision: str, settings: TrialSettings, *, keep: bool = False) -> str:
    """Return ``bf16`` or ``fp32`` for ``auto``; any other precision as it is.

    The first sweep of an output folder stores its answer there, for each ``training.device``. Everything after it in
    that folder reuses it: another coordinator, a continued or an extended sweep, on any hardware. One ``auto`` never
    names two trials.

    Args:
        precision: Value of the setting :data:`~nxm_sweep.settings.PRECISION`.
        settings: Validated settings; the device and the output folder are used.
        keep: Whether to store the answer if there is none yet.
    """
    if precision != AUTO:
        return precision
    file = precision_file(Path(settings.output_dir), settings.training.device)
    resolved = _read(file)
    if resolved is None:
        from nxm_sweep.config.device import has_native_bf16  # noqa: PLC0415 - imports PyTorch

        resolved = "bf16" if has_native_bf16(settings) else "fp32"
        if keep:
            return _store(file, resolved)
    return resolved


def _read(file: Path) -> str | None:
    with suppress(OSError, ValueError):
        if (text := read_regular_file(file).decode().strip()) in _ANSWERS:
            return text
    return None


def _store(file: Path, precision: str) -> str:
    """Store a precision unless another coordinator was faster; return the stored one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):
        kept = _read(file)
        if kept is None:
            write_text(file, f"{precision}\n")
        return kept or precision
