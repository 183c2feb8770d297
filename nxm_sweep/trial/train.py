"""Train one trial from its settings; return its record's body."""

from __future__ import annotations

import shutil
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console
from safetensors import safe_open
from transformers import set_seed

from nxm_sweep.config.device import uses_gpu
from nxm_sweep.data.loading import TaskRows, load_rows
from nxm_sweep.data.tokenization import PadToLongest, Tokenised, tokenise
from nxm_sweep.errors import NonFiniteError, SparsityError
from nxm_sweep.methods import Iteration
from nxm_sweep.settings import SLICE_NOTE, TrialSettings
from nxm_sweep.sparsity import MatrixCheck, Target, check_file, describe_targets, distributed
from nxm_sweep.store.files import replace_folder, write_text
from nxm_sweep.store.paths import MODEL, PREDICTIONS
from nxm_sweep.store.record import RecordBody
from nxm_sweep.training.callbacks import forget_reports
from nxm_sweep.training.checkpoint import newest_usable
from nxm_sweep.training.cpu_layers import use_fast_layers_
from nxm_sweep.training.heads import carries_head, check_kept_head, check_shapes
from nxm_sweep.training.model_files import check_model, describe_limit, limit_length, load_tokenizer
from nxm_sweep.training.models import digest_model, load_model, locate_model
from nxm_sweep.training.monitor import Monitor, RankZeroMonitor
from nxm_sweep.training.packing import pack_
from nxm_sweep.training.teacher import Teacher, build_distillation, check_labels, find_teacher
from nxm_sweep.trial.build import build_importance, build_method
from nxm_sweep.trial.diagnostics import distance_to_go, last_prune_of, learning_rate_sum
from nxm_sweep.trial.provenance import hardware, versions
from nxm_sweep.trial.splits import check_used_metrics, describe_splits, warn_of_duplicates
from nxm_sweep.trial.trainer import TrialTrainer

HELDOUT = "heldout"
"""Name of the training slice used for selection in place of the validation set."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A trial's inputs, located and hashed; no model is loaded yet.

    Attributes:
        rows: Training and validation rows.
        model_folder: Folder of the pretrained model's files.
        model_digest: Hash of their content.
        carries_head: Whether they contain a classifier head.
        positions: Tokens that the model and its teacher read at most; None: no limit.
        teacher: The model that this one learns from, if any.
        seconds: Duration of the preparation.
        derived: Values that trials derived from the rows, for reuse by later trials.
    """

    rows: TaskRows
    model_folder: Path
    model_digest: str
    seconds: float
    carries_head: bool = False
    positions: int | None = None
    teacher: Teacher | None = None
    derived: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def teacher_digest(self) -> str:
        """Hash of the teacher's files; empty without one."""
        return "" if self.teacher is None else self.teacher.digest


def prepare(settings: TrialSettings) -> Prepared:
    """Locate a trial's data, model and teacher and hash their content.

    Raises:
        DataError: The data set is missing or not what the task expects.
        ModelError: The model or the teacher is missing, or they do not fit together.
    """
    started = time.perf_counter()
    folder = locate_model(settings.model)
    files = check_model(folder, pairs=len(settings.task.text_columns) > 1)
    check_shapes(folder, files.config)
    teacher = find_teacher(settings, folder)
    rows = load_rows(settings.task, settings.data)
    check_used_metrics(settings, rows)
    if teacher is not None:
        check_labels(settings.distillation, teacher, rows.labels)
    if settings.model.head == "keep":
        check_kept_head(folder, files.config, rows.labels)
    return Prepared(
        rows=rows,
        model_folder=folder,
        model_digest=digest_model(folder),
        carries_head=carries_head(folder, files.config),
        positions=min((each.positions for each in (files, teacher) if each and each.positions), default=None),
        teacher=teacher,
        seconds=time.perf_counter() - started,
    )


def run_trial(
    settings: TrialSettings,
    prepared: Prepared,
    folder: Path,
    console: Console,
    monitor: Monitor,
    *,
    work: Path,
) -> RecordBody | None:
    """Train one trial and return its record's body; continue from the newest usable checkpoint in ``work``.

    Args:
        settings: Checked settings.
        prepared: The result of :func:`prepare`.
        folder: The trial's folder; ``model/`` is the best pruned model, if it is saved.
        console: Output for progress.
        monitor: Receives steps and epochs, and may stop the trial.
        work: Folder for checkpoints; the caller removes it once the record is written.

    Returns:
        Values for JSON: scores per epoch, ADMM iterations, best epoch, the saved file's sparsity check, seconds,
        versions. With several ranks, only rank 0 writes, prints, uses its monitor and returns them; the others return
        None.

    Raises:
        NonFiniteError: A loss or metric became NaN or infinite.
        TrialStoppedError: The monitor stopped the trial.
        SparsityError: A rule does not fit the model, or the saved weights violate their pattern.
    """
    seconds = {"prepare": prepared.seconds}
    if (
        settings.training.threads is not None or distributed.count() > 1
    ):  # so that sums have the same bits on every rank
        torch.set_num_threads(settings.training.threads or distributed.share(torch.get_num_threads()))
    console, monitor = (console if distributed.rank() == 0 else Console(quiet=True)), RankZeroMonitor(monitor)
    with _time_phase(seconds, "tokenise"), distributed.together():
        data, tokenizer = tokenise_rows(settings, prepared)
    limit = describe_limit(settings.training.max_length, prepared.positions)
    if limit and max(data.train["length"]) == prepared.positions:
        console.print(f"note: {limit}", highlight=False, soft_wrap=True)
    with _time_phase(seconds, "compare_splits"):
        splits = _compare_splits(settings, prepared, data, console) if distributed.rank() == 0 else {}
    with _time_phase(seconds, "load_model"), distributed.together():
        trainer = build_trainer(settings, prepared, data, tokenizer, work=work, console=console, monitor=monitor)
    method = trainer.sparse_method
    budget = learning_rate_sum(settings, trainer.optimizer_steps())
    start = distance_to_go(method.targets, budget)
    usable = newest_usable(work) if distributed.rank() == 0 else None
    checkpoint = distributed.share(None if usable is None else str(usable))
    if not checkpoint and distributed.rank() == 0:
        forget_reports(folder)
    trainer.run(Path(checkpoint) if checkpoint else None)
    end, last_prune = distance_to_go(method.targets), last_prune_of(trainer, start)
    if last_prune is not None and last_prune["advice"]:
        console.print(f"note: {last_prune['advice']}", highlight=False, soft_wrap=True)
    with _time_phase(seconds, "report"):
        outcome = _collect_outcome(settings, trainer, data)
    if distributed.rank() > 0:
        return None
    seconds |= trainer.seconds
    with _time_phase(seconds, "verify"):
        checks = _verify(trainer.best_folder, method.targets)
    if settings.save_model:
        _keep_model(trainer, tokenizer, folder / MODEL)
    else:
        shutil.rmtree(folder / MODEL, ignore_errors=True)  # left by an earlier run that force=true replaced
    write_text(folder / PREDICTIONS, trainer.predictions_file.read_text())
    return cast(
        "RecordBody",
        {
            **outcome,
            "last_prune": last_prune,
            "travel": {"learning_rate_sum": budget, "start": start, "end": end},
            "sparsity": {
                "targets": describe_targets(method.targets),
                "checked": [asdict(check) for check in checks],
                "exact": all(check.exact for check in checks),
            },
            **_describe_inputs(prepared, data, splits, trainer.model, method.targets),
            **_describe_teacher(settings, prepared),
            "steps": trainer.state.global_step,
            "tokens": settings.training.epochs * sum(data.train["length"]),
            "resumed_from_step": int(checkpoint.rpartition("-")[2]) if checkpoint else None,
            "seconds": seconds | {"total": sum(seconds.values()), **trainer.cpu_seconds},
            "hardware": hardware(trainer.args.device),
            "versions": versions(),
        },
    )


def _collect_outcome(settings: TrialSettings, trainer: TrialTrainer, data: Tokenised) -> dict[str, Any]:
    """Return a record's outcome; score the validation sets now if another slice was used for selection."""
    best, metric = trainer.best_epoch(), settings.task.selection_metric
    if data.heldout is None:
        scores, value, unpruned = best["pruned"] or best["unpruned"], best["selection"], best["unpruned_selection"]
        protocol = "best epoch on the reported validation set (the paper's; optimistic)"
    else:
        scores, unpruned = trainer.report(data.validation), None
        value = next(iter(scores.values()))[metric]
        protocol = "best epoch on a held-out slice of the training set; the validation set is scored once"
    first = next(iter(data.validation))
    return {
        "best": {
            "epoch": best["epoch"],
            "value": value,
            "unpruned_value": unpruned,
            "selection_value": best["selection"],
        },
        "selection": {
            "metric": metric,
            "name": settings.selection.name,
            "set": first if data.heldout is None else HELDOUT,
            "reported_set": first,
            "protocol": protocol,
        },
        "reported": scores,
        "epochs": trainer.epochs,
        "iterations": [_flatten_iteration(entry) for entry in trainer.sparse_method.iterations],
    }


def _flatten_iteration(entry: Iteration) -> dict[str, Any]:
    residuals = asdict(entry.residuals)
    groups = [
        {"group": name, **{key: value for key, value in group.items() if key not in {"groups", "rho"}}}
        for name, group in residuals.pop("groups").items()
    ]
    values = {name: value for name, value in asdict(entry).items() if name != "residuals"}
    return {**values, **residuals, "groups": groups}


def _compare_splits(settings: TrialSettings, prepared: Prepared, data: Tokenised, console: Console) -> dict[str, Any]:
    """Return a record's comparison of the splits; warn of duplicates and of lines that were left out."""
    rows = prepared.rows
    for name, count in rows.left_out.items():
        console.print(f"note: broken lines of {name}, left out as on the hub: {count:,}", highlight=False)
    for name in rows.split_off:
        count = len(rows.validation[name])
        console.print(f"note: {name} {SLICE_NOTE}: {count:,} of {count + len(rows.train):,}", highlight=False)
    task, training = settings.task, settings.training
    rows_used = f"{training.max_train_samples} {training.max_eval_samples} {training.subset} {settings.selection}"
    key = f"splits {rows_used} {task.metrics} {task.problem}"
    if key not in prepared.derived:
        prepared.derived[key] = describe_splits(rows, settings)
    splits = {**prepared.derived[key], "left_out": dict(rows.left_out)}
    if rows.split_off:
        splits["split_off"] = {name: len(rows.validation[name]) for name in rows.split_off}
    warning = warn_of_duplicates(splits["duplicates"], {name: len(part) for name, part in data.validation.items()})
    if warning:
        console.print(f"warning: {warning}", highlight=False, soft_wrap=True, markup=False)
    return splits


def _describe_inputs(
    prepared: Prepared, data: Tokenised, splits: dict[str, Any], model: Any, targets: list[Target]
) -> dict[str, Any]:
    """Return a record's entries for the data and the model."""
    return {
        "data": {
            "layout": prepared.rows.layout,
            "digest": prepared.rows.digest,
            "labels": list(prepared.rows.labels),
            "train_rows": len(data.train),
            "heldout_rows": 0 if data.heldout is None else len(data.heldout),
            "validation_rows": {name: len(part) for name, part in data.validation.items()},
            **splits,
        },
        "model": {
            "digest": prepared.model_digest,
            "class": type(model).__name__,
            "parameters": sum(weight.numel() for weight in model.parameters()),
            "target_parameters": sum(target.weight.numel() for target in targets),
        },
    }


def _describe_teacher(settings: TrialSettings, prepared: Prepared) -> dict[str, Any]:
    """Return a record's entry for the teacher; empty without one."""
    if prepared.teacher is None:
        return {}
    return {"distillation": {"name": settings.distillation.name, "teacher_digest": prepared.teacher_digest}}


def tokenise_rows(settings: TrialSettings, prepared: Prepared) -> tuple[Tokenised, Any]:
    """Return a trial's tokenised rows, and the tokenizer."""
    training = settings.training
    fraction = settings.selection.fraction if settings.selection.name == "heldout" else None
    key = f"tokens {training.max_length} {training.max_train_samples} {training.max_eval_samples} {training.subset} {fraction}"
    if key not in prepared.derived:
        tokenizer = load_tokenizer(prepared.model_folder)
        data = tokenise(
            prepared.rows,
            tokenizer,
            tokenizer_digest=prepared.model_digest,
            max_length=limit_length(training.max_length, prepared.positions),
            max_train_samples=training.max_train_samples,
            max_eval_samples=training.max_eval_samples,
            heldout_fraction=fraction,
            subset=training.subset,
        )
        prepared.derived[key] = data, tokenizer
    tokenised: tuple[Tokenised, Any] = prepared.derived[key]
    return tokenised


def build_trainer(
    settings: TrialSettings,
    prepared: Prepared,
    data: Tokenised,
    tokenizer: Any,
    *,
    work: Path,
    console: Console,
    monitor: Monitor,
) -> TrialTrainer:
    """Build a trial's trainer over the pretrained model and a head, drawn from the seed or the model's own.

    Raises:
        SparsityError: A rule does not fit the model.
    """
    set_seed(settings.seed)
    model = load_model(prepared.model_folder, prepared.rows.labels, keep_head=settings.model.head == "keep")
    if not uses_gpu(settings):
        use_fast_layers_(model, embeddings=distributed.count() == 1)
        if not settings.training.arguments.get("gradient_checkpointing"):  # recomputes layers outside a packed call
            pack_(model)
    trainer = TrialTrainer(
        settings=settings,
        work=work,
        console=console,
        monitor=monitor,
        positive=prepared.rows.positive,
        model=model,
        train_dataset=data.train,
        eval_dataset=data.validation if data.heldout is None else {HELDOUT: data.heldout},
        data_collator=PadToLongest(tokenizer),
        processing_class=tokenizer,
        sparse_method=build_method(settings, model),
        distillation=build_distillation(settings.distillation, prepared.teacher, tokenizer),
    )
    trainer.sparse_method.importance = build_importance(settings.method.importance, trainer)
    if distributed.rank() > 0:  # a dropout mask other than rank 0's
        set_seed(zlib.crc32(f"{settings.seed} {distributed.rank()}".encode()))
    return trainer


def _keep_model(trainer: TrialTrainer, tokenizer: Any, place: Path) -> None:
    """Copy the best model with its tokenizer to its place; the checkpoints, which name it, stay until there is a record."""
    fresh = trainer.best_folder.with_name(MODEL)
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(trainer.best_folder, fresh, ignore=shutil.ignore_patterns(PREDICTIONS))
    tokenizer.save_pretrained(fresh)
    replace_folder(fresh, place)


def _verify(best: Path, targets: list[Target]) -> list[MatrixCheck]:
    """Read back the saved weights and check every target.

    Raises:
        NonFiniteError: A weight is NaN or infinite, be it one that no validation row reads.
        SparsityError: A target breaks its constraint.
    """
    with safe_open(best / "model.safetensors", framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - no mapping
            weight = file.get_tensor(name)
            if weight.is_floating_point() and not bool(weight.isfinite().all()):
                raise NonFiniteError(
                    f"the trained weights hold NaN or infinity: {name}",
                    hint="lower learning_rate.value, or raise training.warmup_ratio",
                )
    checks = check_file(
        best / "model.safetensors",
        {target.name: target.constraint for target in targets},
        inputs_first=[target.name for target in targets if target.inputs_first],
    )
    for check in checks:
        if not check.holds:
            raise SparsityError(
                f"the saved matrix {check.matrix} breaks {check.constraint} at {check.first_violation}",
                hint="this is a defect of nxm_sweep: please report it with the record's settings",
            )
    return checks


@contextmanager
def _time_phase(seconds: dict[str, float], phase: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[phase] = time.perf_counter() - started
