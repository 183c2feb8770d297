"""Locate a trial's teacher, compare it with the student before any model is loaded, and load it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nxm_sweep.errors import ModelError
from nxm_sweep.formatting import format_names
from nxm_sweep.settings import DistillationSettings, TrialSettings
from nxm_sweep.store.records import teacher_model
from nxm_sweep.training.distillation import Distillation, Mixture, matching_layers
from nxm_sweep.training.model_files import check_model, load_config, load_tokenizer
from nxm_sweep.training.models import digest_model, load_trained_model, locate_model

_SEGMENTS = "token_type_ids"


@dataclass(frozen=True, slots=True)
class Teacher:
    """Folder of a teacher's files, the hash of their content, and the tokens that it reads at most."""

    folder: Path
    digest: str
    positions: int | None = None


def find_teacher(settings: TrialSettings, student: Path) -> Teacher | None:
    """Find a trial's teacher and compare it with the student; None without distillation.

    Args:
        settings: The trial's settings.
        student: Folder of the student's model.

    Raises:
        ModelError: The teacher is missing or cannot be run, or its vocabulary or layers do not match the student's.
    """
    if not settings.distillation.enabled:
        return None
    model = teacher_model(settings)
    try:
        folder = locate_model(model)
    except ModelError as error:
        raise ModelError(
            f"the teacher: {error.message}",
            hint="distillation.teacher.source and .path say where it is, as model.source and .path do of a model",
        ) from error
    try:
        files = check_model(folder, pairs=len(settings.task.text_columns) > 1)
    except ModelError as error:
        raise ModelError(f"the teacher: {error.message}", error.hint) from error
    _check_vocabulary(student, folder)
    _check_layers(settings.distillation, student, folder)
    return Teacher(folder, digest_model(folder), files.positions)


def check_labels(distillation: DistillationSettings, teacher: Teacher, labels: tuple[str, ...]) -> None:
    """Refuse a teacher whose outputs are not the student's classes.

    Classes named ``LABEL_0``, ``LABEL_1``, ... are assumed to be in the student's order.

    Args:
        distillation: Settings; with ``logits=0`` nothing is checked.
        teacher: The teacher.
        labels: The student's classes in order; empty for a regression.

    Raises:
        ModelError: The number, names or order of the outputs differ.
    """
    if not distillation.logits:
        return
    named = load_config(teacher.folder).id2label or {}
    names = [str(name) for _, name in sorted(named.items())]
    if len(names) != max(1, len(labels)):
        raise ModelError(
            f"the teacher has {len(names)} outputs ({format_names(names)}) but the task needs {max(1, len(labels))}",
            hint="a teacher is trained on the student's task",
        )
    unnamed = names == [f"LABEL_{number}" for number in range(len(names))]
    if labels and not unnamed and [name.lower() for name in names] != [name.lower() for name in labels]:
        raise ModelError(
            f"the teacher's classes are {format_names(names)} but the student's are {format_names(labels)}, in this order",
            hint="a teacher is trained on the student's task; task.labels sets the student's order",
        )


def build_distillation(
    distillation: DistillationSettings, teacher: Teacher | None, tokenizer: Any
) -> Distillation | None:
    """Load a teacher without drawing random numbers; None without one.

    Args:
        distillation: Settings.
        teacher: The result of :func:`find_teacher`.
        tokenizer: The student's.

    Raises:
        ModelError: The teacher's files are damaged or contain no trained head.
    """
    if teacher is None:
        return None
    model = load_trained_model(teacher.folder)
    mixture = Mixture(
        weight=distillation.weight,
        temperature=distillation.temperature,
        logits=distillation.logits,
        hidden=distillation.hidden,
        attention=distillation.attention,
    )
    reads_segments = _SEGMENTS in load_tokenizer(teacher.folder).model_input_names
    gets_segments = _SEGMENTS in tokenizer.model_input_names
    separator = tokenizer.sep_token_id if reads_segments and not gets_segments else None
    return Distillation(model, mixture, separator=separator)


def _check_vocabulary(student: Path, teacher: Path) -> None:
    ours, theirs = load_tokenizer(student).get_vocab(), load_tokenizer(teacher).get_vocab()
    if ours != theirs:
        strange = len(ours.items() ^ theirs.items())
        raise ModelError(
            f"the teacher in {teacher} has another vocabulary than the student: {len(theirs)} tokens against {len(ours)}, "
            f"{strange} entries differ",
            hint="teacher and student read the same token ids: take a teacher of the student's family",
        )


def _check_layers(distillation: DistillationSettings, student: Path, teacher: Path) -> None:
    """Refuse layers whose width, heads or number do not match."""
    compared = {"hidden": "hidden_size", "attention": "num_attention_heads"}
    wanted = {name: key for name, key in compared.items() if getattr(distillation, name)}
    if not wanted:
        return
    ours, theirs = load_config(student), load_config(teacher)
    for name, key in wanted.items():
        own, other = getattr(ours, key, None), getattr(theirs, key, None)
        if own is None or own != other:
            raise ModelError(
                f"distillation.{name} needs the same {key} in teacher and student but got {other} and {own}",
                hint=f"distillation.{name}=0 leaves that term out",
            )
    matching_layers(ours.num_hidden_layers, theirs.num_hidden_layers)
