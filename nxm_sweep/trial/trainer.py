"""The trainer of a trial, which keeps each epoch's scores and the best pruned model."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from rich.console import Console
from safetensors.torch import load_model as load_weights
from torch.utils.data import DataLoader, Sampler, SequentialSampler
from transformers import EvalPrediction, PreTrainedModel, PrinterCallback, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from nxm_sweep.config.training_arguments import pass_on
from nxm_sweep.errors import ModelError
from nxm_sweep.formatting import format_score
from nxm_sweep.methods import Budget, Dense
from nxm_sweep.settings import TaskSettings, TrialSettings
from nxm_sweep.sparsity import distance, distributed
from nxm_sweep.store.files import follow_umask, write_json
from nxm_sweep.store.paths import PREDICTIONS
from nxm_sweep.training import checkpoint as files
from nxm_sweep.training.callbacks import PROJECT, MonitorCallback, ProgressBar, end_reports, report_into
from nxm_sweep.training.distributed_trainer import RankTrainer
from nxm_sweep.training.metrics import answers, score
from nxm_sweep.training.monitor import Monitor, raise_if_stopped

_EVAL_BATCH = 64  # rows; affects only speed


class TrialTrainer(RankTrainer):
    """Keep each epoch's scores and the best pruned model; with several ranks, rank 0 writes.

    Args:
        settings: The trial's settings.
        work: Folder for the last two checkpoints and the best model so far.
        console: Output for progress.
        monitor: Receives steps and epochs, and may stop the trial.
        positive: Number of the positive class, for metrics of two classes.
        **kwargs: As for :class:`RankTrainer`.
    """

    def __init__(
        self,
        *,
        settings: TrialSettings,
        work: Path,
        console: Console,
        monitor: Monitor,
        positive: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            args=training_arguments(settings, work),
            compute_metrics=lambda prediction: _score(settings.task, prediction, positive),
            **kwargs,
        )
        self._task, self._console, self._monitor = settings.task, console, monitor
        self._precision, self._epochs = settings.training.precision, settings.training.epochs
        self._work = work
        self._reported: Path | None = None
        self._sealer = ThreadPoolExecutor(1, "seal")  # checksums and disk take seconds, in which the next epoch trains
        self._sealing: Future[None] | None = None
        self._sets: dict[str, Dataset] = kwargs["eval_dataset"]
        self._predictions: dict[str, dict[str, list[float]]] = {}  # of the latest evaluation, by validation set
        self._progress = ProgressBar(self, console)
        self.remove_callback(PrinterCallback)
        self.add_callback(self._progress)
        self.add_callback(MonitorCallback(monitor))
        report_into(self, work.parent, console)
        self.carried = {"epochs": [], "seconds": {"train": 0.0, "evaluate": 0.0, "save": 0.0}, "train_cpu": 0.0}
        self._mark, self._cpu_mark = time.perf_counter(), time.process_time()

    @property
    def best_folder(self) -> Path:
        """The pruned model of the best epoch so far. A checkpoint names it in its manifest, so it is never rewritten."""
        return self._work / f"{files.BEST}{self.best_epoch()['epoch']}"

    @property
    def predictions_file(self) -> Path:
        """The predictions of the selected model on the validation sets."""
        return self._reported or self.best_folder / PREDICTIONS

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """One entry per finished epoch."""
        return list(self.carried["epochs"])

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of training, evaluation and saving, including those before an interruption."""
        return dict(self.carried["seconds"])

    @property
    def cpu_seconds(self) -> dict[str, float]:
        """CPU seconds of training over all threads of this process, as ``train_cpu``, including before an interruption.

        Empty where they are unknown: a checkpoint of an earlier version did not count them, or other ranks spent some.
        """
        spent = self.carried.get("train_cpu")
        return {} if spent is None or distributed.count() > 1 else {"train_cpu": spent}

    def optimizer_steps(self) -> int:
        """Return the number of optimizer steps of the whole run."""
        batches = len(self.get_train_dataloader())
        return round(self.args.num_train_epochs) * math.ceil(batches / self.args.gradient_accumulation_steps)

    def run(self, checkpoint: Path | None) -> None:
        """Train from the start or from a checkpoint; without epochs, prune once."""
        self._mark, self._cpu_mark = time.perf_counter(), time.process_time()
        if checkpoint is not None:
            self._console.print(f"continuing after step {checkpoint.name.rpartition('-')[2]}", highlight=False)
        try:
            if self._epochs == 0:
                self.sparse_method.start_(Budget(steps=0, steps_per_epoch=1))
                self._evaluate(None, None)
                return
            self.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        except BaseException:
            end_reports(self)
            raise
        finally:
            self._progress.close()
            self._finish_sealing()

    def best_epoch(self) -> dict[str, Any]:
        """Return the entry of the epoch with the best selection score; the earlier wins a tie."""
        return max(self.epochs, key=lambda entry: float(entry["selection"]))

    def report(self, validation: dict[str, Dataset]) -> dict[str, dict[str, float]]:
        """Score the selected model on validation sets not used for selection; keep its predictions."""
        load_weights(self._require_model(), self.best_folder / "model.safetensors")
        method, self.sparse_method = self.sparse_method, Dense()  # the weights are already pruned
        try:
            self._predictions = {}
            metrics = self.evaluate(validation)
        finally:
            self.sparse_method = method
        self._reported = self._work / PREDICTIONS
        self._keep_predictions(self.best_epoch()["epoch"], validation)
        return _pick_scores(metrics, self._task, list(validation))

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler[int]:
        """Keep the rows' order, which is by length already; the Trainer would shuffle them."""
        return SequentialSampler(eval_dataset)

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Score as the Trainer does, and keep the predictions."""
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        labels, predictions = np.asarray(output.label_ids), answers(_select_outputs(output.predictions))
        digits = 6 if predictions.dtype.kind == "f" else None
        self._predictions[metric_key_prefix.removeprefix("eval_")] = {
            "labels": [round(value, digits) for value in labels.tolist()],
            "predictions": [round(value, digits) for value in predictions.tolist()],
        }
        return output

    def _evaluate(self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False) -> dict[str, float]:
        self._lap("train")
        metrics: dict[str, float] = super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)
        entry = self._make_entry(metrics)
        self._lap("evaluate")
        is_best = all(entry["selection"] > earlier["selection"] for earlier in self.epochs)
        self.carried["epochs"].append(entry)
        if is_best:
            self._save_best()
        self._lap("save")
        self._print_epoch(entry, is_best=is_best)
        return metrics

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self._lap("train")  # within an epoch
        if distributed.rank() == 0:
            self._finish_sealing()
            files.make_room(self._work, self._best_so_far)
        distributed.wait()  # else rank 0 would delete what another rank has written into the new one
        super()._save_checkpoint(model, trial)
        if distributed.rank() == 0:
            checkpoint = self._work / f"checkpoint-{self.state.global_step}"
            self._sealing = self._sealer.submit(files.seal, checkpoint, self._best_so_far)
        self._lap("save")
        self._monitor.on_epoch(self.epochs)
        if self.state.global_step < self.state.max_steps:
            raise_if_stopped(self._monitor.stop_after_epoch())

    @property
    def _best_so_far(self) -> Path | None:
        """The best model's folder; None within the first epoch."""
        return self.best_folder if self.epochs else None

    def _finish_sealing(self) -> None:
        """Wait until the latest checkpoint is complete."""
        if self._sealing is not None:
            sealing, self._sealing = self._sealing, None
            sealing.result()

    def _lap(self, phase: str) -> None:
        """Add the time since the last call to ``phase``."""
        now, cpu = time.perf_counter(), time.process_time()
        self.carried["seconds"][phase] += now - self._mark
        if phase == "train" and "train_cpu" in self.carried:
            self.carried["train_cpu"] += cpu - self._cpu_mark
        self._mark, self._cpu_mark = now, cpu

    def _make_entry(self, metrics: Mapping[str, float]) -> dict[str, Any]:
        targets = self.sparse_method.targets
        sets = list(self._sets)
        pruned, unpruned = (
            _pick_scores(metrics, self._task, sets),
            _pick_scores(metrics, self._task, sets, "unpruned_"),
        )
        deciding = next(iter(pruned.values()))  # the first validation set decides
        if not targets:
            pruned, unpruned = {}, pruned
        metric = self._task.selection_metric
        logged = [entry for entry in self.state.log_history if "loss" in entry]
        details = {"training_loss": logged[-1]["loss"] if logged else None}
        if self.distillation is not None and logged:
            details["distillation_loss"] = logged[-1]["distillation_loss"]
        return {
            "epoch": round(self.state.epoch or 0),
            "step": self.state.global_step,
            "selection": deciding[metric],
            "unpruned_selection": next(iter(unpruned.values()))[metric] if unpruned else None,
            "pruned": pruned or None,
            "unpruned": unpruned or None,
            **details,
            "relative_distance": distance(targets) if targets else None,
        }

    def _save_best(self) -> None:
        """Write the pruned model; the best one before it stays until no checkpoint names it."""
        if distributed.rank() > 0:
            return
        self._finish_sealing()
        files.make_room(self._work)
        self.best_folder.mkdir(parents=True)
        with self.sparse_method.pruned():
            self._require_model().save_pretrained(self.best_folder)
        follow_umask(self.best_folder)
        self._keep_predictions(round(self.state.epoch or 0), self._sets)

    def _require_model(self) -> PreTrainedModel:
        if not isinstance(self.model, PreTrainedModel):
            raise ModelError(f"expected a Transformers model but got a {type(self.model).__name__}")
        return self.model

    def _keep_predictions(self, epoch: int, sets: Mapping[str, Dataset]) -> None:
        """Write the pruned model's predictions in the order of the source's rows."""
        if distributed.rank() > 0:
            return
        kept = {}
        for name, rows in sets.items():
            order = np.argsort(rows["row"][:])
            kept[name] = {key: [values[index] for index in order] for key, values in self._predictions[name].items()}
        write_json(self.predictions_file, {"epoch": epoch, "precision": self._precision, "sets": kept}, indent=None)

    def _print_epoch(self, entry: Mapping[str, Any], *, is_best: bool) -> None:
        parts = [f"epoch {entry['epoch']}: {self._task.selection_metric} {format_score(entry['selection'])}"]
        if entry["pruned"] and entry["unpruned"]:
            parts.append(f"unpruned {format_score(entry['unpruned_selection'])}")
        if entry["relative_distance"]:
            parts.append(f"residual {entry['relative_distance']:.3f}")
        self._console.print("  ".join(parts) + ("  (best so far)" if is_best else ""), highlight=False)


def training_arguments(settings: TrialSettings, work: Path) -> TrainingArguments:
    """Return the Trainer's arguments for a trial with the work folder ``work``."""
    training = settings.training
    arguments = TrainingArguments(
        output_dir=str(work),
        num_train_epochs=training.epochs,
        per_device_train_batch_size=training.batch_size,  # of all devices: see RankTrainer
        per_device_eval_batch_size=distributed.count() * math.ceil(_EVAL_BATCH / distributed.count()),
        gradient_accumulation_steps=training.gradient_accumulation,
        learning_rate=settings.learning_rate.value,
        lr_scheduler_type=training.schedule,
        warmup_steps=training.warmup_ratio,  # below 1: a share of all steps
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        optim="adamw_torch_fused",
        bf16=training.precision == "bf16",
        fp16=training.precision == "fp16",
        seed=settings.seed,
        use_cpu=training.device == "cpu" or (training.device == "auto" and not torch.cuda.is_available()),
        train_sampling_strategy="group_by_length" if training.batching == "by_length" else "random",
        remove_unused_columns=False,  # the sampler needs `length`; the collator picks the model's inputs
        dataloader_pin_memory=torch.cuda.is_available(),
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        save_total_limit=None,  # see _save_checkpoint
        logging_nan_inf_filter=False,
        report_to=training.report_to or "none",
        run_name=work.parent.name,  # the run's name in MLflow, W&B and Trackio: the trial's identity
        project=os.environ.get("TRACKIO_PROJECT", PROJECT),
        disable_tqdm=True,
        **pass_on(training.arguments),
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # noqa: SLF001 - else the Trainer multiplies the batch by the number of GPUs it sees
    return arguments


def _score(task: TaskSettings, prediction: EvalPrediction, positive: int) -> dict[str, float]:
    outputs, labels = _select_outputs(prediction.predictions), np.asarray(prediction.label_ids)
    return score(task.metrics, outputs, labels, positive=positive)


def _select_outputs(predictions: Any) -> np.ndarray[Any, Any]:
    """Return the head's outputs without a model's additional ones."""
    return np.asarray(predictions[0] if isinstance(predictions, tuple) else predictions)


def _pick_scores(
    metrics: Mapping[str, float], task: TaskSettings, sets: Sequence[str], infix: str = ""
) -> dict[str, dict[str, float]]:
    """Return scores per set of rows; empty where the pruned or unpruned model was not scored."""
    names = [*task.metrics, *(["mean"] if len(task.metrics) > 1 else []), "loss"]
    return {
        part: {name: float(metrics[f"eval_{part}_{infix}{name}"]) for name in names}
        for part in sets
        if f"eval_{part}_{infix}loss" in metrics
    }
