"""Finding a finished trial, and what it has left beside its record."""

from __future__ import annotations

from pathlib import Path

from nxm_sweep.errors import RecordError
from nxm_sweep.sweep.records import RESULT, trial_folder

MODEL = "model"
SAVE_AGAIN = "run the trial's command again with save_model=true force=true"
_LISTED = 5  # an ambiguous prefix names no more identities than this


def find_trial(output_dir: Path, trial: str) -> Path:
    """Return the folder of a finished trial.

    Args:
        output_dir: Root of the trials.
        trial: An identity, the beginning of one that no other finished trial shares, or a trial's folder.

    Raises:
        RecordError: No trial is meant, several are, or the one that is has no record yet.
    """
    folder = Path(trial).expanduser()
    if trial and (folder / RESULT).is_file():
        return folder
    if not trial or "/" in trial:
        raise RecordError(
            f"{trial!r} is no trial's folder: it holds no {RESULT}",
            hint="a trial's folder is OUTPUT_DIR/trials/IDENTITY",
        )
    trials = trial_folder(output_dir, "")
    matching = sorted(path for path in trials.glob("*") if path.name.startswith(trial) and path.is_dir())
    finished = [path for path in matching if (path / RESULT).is_file()]
    if len(finished) == 1:
        return finished[0]
    if finished:
        more = f" and {len(finished) - _LISTED} more" if len(finished) > _LISTED else ""
        names = ", ".join(path.name for path in finished[:_LISTED])
        raise RecordError(
            f"{len(finished)} trials under {trials} begin with {trial!r}", hint=f"give more of it: {names}{more}"
        )
    if matching:
        raise RecordError(f"the trial {matching[0].name} has no record", hint="it runs, or its training has failed")
    raise RecordError(
        f"no finished trial under {trials} begins with {trial!r}, and it is no trial's folder",
        hint="a trial is a folder of OUTPUT_DIR/trials; --output-dir says where",
    )


def saved_model(folder: Path) -> Path:
    """Return the folder of a trial's saved model.

    Raises:
        RecordError: The trial was run without ``save_model=true``.
    """
    model = folder / MODEL
    if not (model / "config.json").is_file():
        raise RecordError(
            f"the model of the trial {folder.resolve().name} was not saved",
            hint=SAVE_AGAIN,
        )
    return model
