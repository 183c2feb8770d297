"""A Transformers ``Trainer`` that trains under a sparse method: swap the class, pass the method."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler
from transformers.trainer_utils import has_length

from nxm_sweep.errors import ModelError, NonFiniteError
from nxm_sweep.training import checkpoint as files
from nxm_sweep.training.methods import Budget, Dense, Iteration, SparseMethod


class SparseTrainer(Trainer):
    """``transformers.Trainer`` under a sparse method.

    - The method changes gradients once per optimizer step: at the last micro-batch, before clipping.
    - ``evaluate`` scores the pruned model and restores the weights bit for bit. Where they differ, the unpruned model is
      scored too, under ``<prefix>_unpruned_...``. Evaluation leaves PyTorch's random state as it was.
    - Checkpoints hold optimizer, scheduler, random state and method as safetensors and JSON; a run resumed at an epoch's
      end equals an uninterrupted one bit for bit on the same machine.
    - A loss or a metric that is not finite ends the run.

    Args:
        *args: As for ``transformers.Trainer``.
        sparse_method: Method over targets of ``model``; None trains densely.
        **kwargs: As for ``transformers.Trainer``.

    Attributes:
        carried: Values for JSON that checkpoints carry over an interruption.
        last_loss: Loss of the latest micro-batch, per row.
    """

    callback_handler: CallbackHandler
    state: TrainerState

    def __init__(self, *args: Any, sparse_method: SparseMethod | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sparse_method = sparse_method or Dense()
        self.carried: dict[str, Any] = {}
        self.last_loss: float | None = None
        self._resumed = False
        if _is_row_mean(self.model):
            self.model_accepts_loss_kwargs = False  # else the gradients of an accumulation are summed, not averaged
        self.add_callback(_MethodHooks(self))

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Run forward and backward of a micro-batch; let the method see the gradients when the last one is in.

        Raises:
            NonFiniteError: The loss is NaN or infinite.
        """
        self.sparse_method.before_forward_()
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        if not bool(loss.isfinite()):
            raise NonFiniteError(
                f"the training loss became {float(loss)} at step {self.state.global_step + 1}",
                hint="lower learning_rate.value, or raise training.warmup_ratio",
            )
        self.last_loss = float(loss) * self.current_gradient_accumulation_steps
        if self.accelerator.sync_gradients:
            scaler = self.accelerator.scaler
            self.sparse_method.before_clip_(scale=1.0 if scaler is None else float(scaler.get_scale()))
        return loss

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Score the pruned model, and the unpruned one where it differs.

        Raises:
            NonFiniteError: A metric is NaN or infinite.
        """
        if isinstance(self.eval_dataset if eval_dataset is None else eval_dataset, dict):
            return dict(super().evaluate(eval_dataset, ignore_keys, metric_key_prefix))  # comes back here for each set
        with _unchanged_random_state():
            with self.sparse_method.pruned():
                metrics = dict(super().evaluate(eval_dataset, ignore_keys, metric_key_prefix))
            if self.sparse_method.prunes:
                metrics |= super().evaluate(eval_dataset, ignore_keys, f"{metric_key_prefix}_unpruned")
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise NonFiniteError(f"{name} became {value} at step {self.state.global_step}")
        return metrics

    def budget(self) -> Budget:
        """Return the optimizer steps of this run, which the state knows once training begins."""
        batches = len(self.get_train_dataloader()) if has_length(self.train_dataset) else self.state.max_steps
        per_epoch = math.ceil(batches / self.args.gradient_accumulation_steps)
        return Budget(steps=self.state.max_steps, steps_per_epoch=max(1, min(per_epoch, self.state.max_steps)))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        self._refuse_sharding()
        if not self.args.should_save:
            return
        folder = Path(output_dir)
        save_file(
            {name: value.contiguous() for name, value in self.sparse_method.whole_state().items()},
            folder / files.METHOD,
        )
        optimizer, scheduler = self._stepping()
        state = {
            "optimizer": files.save_optimizer(folder, optimizer),
            "scheduler": {name: value for name, value in scheduler.state_dict().items() if _is_plain(value)},
            "iterations": [dataclasses.asdict(iteration) for iteration in self.sparse_method.iterations],
            "carried": self.carried,
            "scaler": None if self.accelerator.scaler is None else self.accelerator.scaler.state_dict(),
        }
        (folder / files.STATE).write_text(json.dumps(state))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        self._refuse_sharding()
        folder = Path(checkpoint)
        state = json.loads((folder / files.STATE).read_text())
        optimizer, scheduler = self._stepping()
        files.load_optimizer(folder, optimizer, state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        method = self.sparse_method
        method.load_whole_state(load_file(folder / files.METHOD), self.budget(), step=self.state.global_step)
        method.iterations = [Iteration.from_dict(entry) for entry in state["iterations"]]
        self.carried = state["carried"]
        if self.accelerator.scaler is not None and state.get("scaler"):
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self._resumed = True

    def _save_scaler(self, output_dir: str) -> None:
        """Do nothing: the gradient scaler's numbers stand beside the optimizer's, where the Trainer would pickle them."""

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Do nothing: see :meth:`_save_scaler`."""

    def _save_rng_state(self, output_dir: str) -> None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        files.save_random_state(Path(output_dir))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            files.load_random_state(Path(checkpoint))

    def _stepping(self) -> tuple[torch.optim.Optimizer, Any]:
        if self.optimizer is None or self.lr_scheduler is None:
            raise ModelError("a checkpoint needs the optimizer and the scheduler, which exist once training begins")
        return self.optimizer, self.lr_scheduler

    def _refuse_sharding(self) -> None:
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            raise ModelError("a sparse method needs whole weight matrices: DeepSpeed and FSDP split them")


class _MethodHooks(TrainerCallback):
    """Hands the Trainer's moments on to the method."""

    def __init__(self, trainer: SparseTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not self._trainer._resumed:  # noqa: SLF001 - the trainer's own part
            self._trainer.sparse_method.start_(self._trainer.budget())
        self._trainer._resumed = False  # noqa: SLF001 - the trainer's own part

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._trainer.sparse_method.after_clip_()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._trainer.sparse_method.after_step_()

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._trainer.sparse_method.after_epoch_()


@contextmanager
def _unchanged_random_state() -> Iterator[None]:
    with torch.random.fork_rng():
        yield


def _is_row_mean(model: Any) -> bool:
    """Whether the loss is a mean over rows: a sequence classifier accepts ``num_items_in_batch`` but does not divide by it."""
    return any(kind.__name__.endswith("ForSequenceClassification") for kind in type(model).__mro__)


def _is_plain(value: Any) -> bool:
    """Whether JSON holds a scheduler's value: its lambdas are made anew."""
    if isinstance(value, dict):
        return all(_is_plain(item) for item in value.values())
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    return isinstance(value, int | float | str | bool | type(None))
