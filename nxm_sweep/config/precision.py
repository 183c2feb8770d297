"""Which precision ``training.precision=auto`` stands for: found on the hardware once, and one for all sweeps of a folder.

No module here imports PyTorch before ``auto`` asks what the hardware has.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from nxm_sweep.settings import AUTO, TrialSettings
from nxm_sweep.store.paths import precision_file

_ANSWERS = ("bf16", "fp32")


def resolve_precision(precision: str, settings: TrialSettings, *, keep: bool = False) -> str:
    """Return ``bf16`` or ``fp32`` for ``auto``; any other precision as it is.

    The first sweep of an output folder keeps its answer there, for each ``training.device``, and everything after it in that
    folder gets the same: another coordinator, a continued or a grown sweep, on whatever hardware. One ``auto`` never names two
    trials.

    Args:
        precision: A value of :data:`PRECISION`.
        settings: Checked settings; the device and the output folder count.
        keep: Whether to keep an answer that is not there yet.
    """
    if precision != AUTO:
        return precision
    file = precision_file(Path(settings.output_dir), settings.training.device)
    found = _read(file)
    if found is None:
        from nxm_sweep.config.device import has_native_bf16  # noqa: PLC0415 - imports PyTorch

        found = "bf16" if has_native_bf16(settings) else "fp32"
        if keep:
            return _keep(file, found)
    return found


def _read(file: Path) -> str | None:
    with suppress(OSError, ValueError):
        if (text := file.read_text().strip()) in _ANSWERS:
            return text
    return None


def _keep(file: Path, found: str) -> str:
    """Write an answer down unless another coordinator was faster; return the one that is there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):
        kept = _read(file)
        if kept is None:
            file.write_text(f"{found}\n")
        return kept or found
