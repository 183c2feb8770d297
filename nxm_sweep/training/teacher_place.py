"""Where a teacher's files are: those of a finished trial, or of any model. Imports no library that takes seconds."""

from __future__ import annotations

from pathlib import Path

from nxm_sweep.errors import ModelError
from nxm_sweep.settings import ModelSettings, TrialSettings


def teacher_model(settings: TrialSettings) -> ModelSettings:
    """Return the teacher of a trial as a model: that which a trial has kept is a folder.

    Raises:
        ModelError: The teacher is a trial that does not exist or has not kept its model.
    """
    teacher = settings.distillation.teacher
    source, path = teacher.source, teacher.path or ""
    if source == "trial":
        source, path = "folder", str(_kept_model(path, Path(settings.output_dir)))
    return ModelSettings("teacher", source, path, teacher.revision)


def _kept_model(trial: str, output_dir: Path) -> Path:
    """The model that a trial has kept; the trial is an identity under ``output_dir``, or a folder."""
    for folder in (output_dir / "trials" / trial, Path(trial).expanduser()):
        if (folder / "model").is_dir():
            return folder / "model"
        if (folder / "result.json").is_file():
            raise ModelError(
                f"the trial {folder.name} cannot teach: its model was not saved",
                hint="run its command again with save_model=true force=true",
            )
    raise ModelError(
        f"there is no finished trial {trial!r} under {output_dir} to teach",
        hint="distillation.teacher.path takes a trial's identity or folder; distillation.teacher.source=folder, any model's",
    )
