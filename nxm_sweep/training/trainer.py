"""A Transformers ``Trainer`` that trains under a sparse method: swap the class, pass the method."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.amp.grad_scaler import OptState
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import PredictionOutput, has_length
from transformers.utils import SAFE_WEIGHTS_NAME

from nxm_sweep.errors import ModelError, NonFiniteError
from nxm_sweep.methods import Budget, Dense, Iteration, SparseMethod
from nxm_sweep.sparsity import distributed, pruned
from nxm_sweep.store.files import follow_umask
from nxm_sweep.training import checkpoint as files
from nxm_sweep.training.distillation import Distillation
from nxm_sweep.training.heads import averages_micro_batches, predicts_the_next
from nxm_sweep.training.unfinished_epoch import Draw, RepeatableOrder, continue_epoch_, describe_unfinished_epoch


class SparseTrainer(Trainer):
    """``transformers.Trainer`` under a sparse method.

    - The method changes gradients once per optimizer step: at the last micro-batch, before clipping.
    - ``evaluate`` scores the pruned model and restores the weights bit for bit. Where they differ, the unpruned model
      is scored too, under ``<prefix>_unpruned_...``. Evaluation leaves PyTorch's random state unchanged.
    - Checkpoints store optimizer, scheduler, random state and method as safetensors and JSON; a run resumed after any
      step equals an uninterrupted one bit for bit on the same machine.
    - A non-finite loss or metric ends the run.
    - Under ``torchrun`` every rank has the same weights and the same state of the method. The method sees gradients
      already averaged over the ranks; a non-finite loss on one rank ends the run on all.

    Args:
        *args: As for ``transformers.Trainer``.
        sparse_method: Method over targets of ``model``; None trains densely.
        distillation: A teacher, whose term is mixed into the loss of every micro-batch in training, not in evaluation.
        **kwargs: As for ``transformers.Trainer``.

    Raises:
        ModelError: The teacher does not fit the model or the loss.

    Attributes:
        carried: Values for JSON that checkpoints preserve.
    """

    callback_handler: CallbackHandler
    state: TrainerState

    def __init__(
        self,
        *args: Any,
        sparse_method: SparseMethod | None = None,
        distillation: Distillation | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.sparse_method = sparse_method or Dense()
        self.distillation = distillation
        self.carried: dict[str, Any] = {}
        self._loss: Tensor | None = None  # of the latest micro-batch, per row, over all ranks
        self._first_non_finite: Tensor | None = None  # (step, loss) of the first non-finite loss; step 0 without one
        self._checks_every_step = self.args.device.type == "cpu"  # elsewhere reading a number waits for the device
        self._resumed = False
        self._logged_step = 0  # of the latest logged ADMM iteration
        self._draw = Draw()
        self._unfinished_epoch: dict[str, Any] | None = None  # of the checkpoint that this run continues
        self._refuse_sharding()
        if averages_micro_batches(self.model):
            self.model_accepts_loss_kwargs = False  # else the gradients of an accumulation are summed, not averaged
        self._loss_shifts_labels = predicts_the_next(self.model)  # of GPT-2, the Trainer counts a label too many
        if distillation is not None:
            if not isinstance(self.model, PreTrainedModel) or self.compute_loss_func:
                raise ModelError("distillation needs a model of Transformers and its own loss, not compute_loss_func")
            distillation.attach_(self.model, self.args.device)
        self.add_callback(_MethodHooks(self))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the loss of a micro-batch; in training, mixed with the teacher's term."""
        if self.distillation is None or not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        extended = {**inputs, **self.distillation.extras}
        task_loss, outputs = super().compute_loss(
            model, extended, return_outputs=True, num_items_in_batch=num_items_in_batch
        )
        items = num_items_in_batch if self.model_accepts_loss_kwargs else None
        if items is not None and self.args.average_tokens_across_devices:  # as the Trainer scales the task's loss
            items = items / (self.accelerator.num_processes // self.get_tp_size())
        loss = self.distillation.mix(task_loss, outputs, inputs, items=items)
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Run forward and backward of a micro-batch; after the last one, pass the gradients to the method.

        Raises:
            NonFiniteError: The loss is NaN or infinite, on a CPU. Elsewhere the epoch's end raises it, so that no step
                waits for the device.
        """
        self.sparse_method.before_forward_()
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        whole = distributed.mean(loss.detach())
        self._loss = whole * self.current_gradient_accumulation_steps
        self._note_loss_(whole)
        if self._checks_every_step:
            self.check_losses()
        if self.accelerator.sync_gradients:
            self.sparse_method.before_clip_(scale=self.gradient_scale())
        return loss

    @property
    def last_loss(self) -> float | None:
        """Loss of the latest micro-batch, per row, over all ranks; None before the first. Waits for the device."""
        return None if self._loss is None else float(self._loss)

    def _note_loss_(self, loss: Tensor) -> None:
        """Keep the first non-finite loss, on its device."""
        now = torch.stack([torch.full_like(loss, self.state.global_step + 1), loss]).double()
        before = torch.zeros_like(now) if self._first_non_finite is None else self._first_non_finite
        self._first_non_finite = torch.where((before[0] == 0.0) & ~loss.isfinite(), now, before)

    def check_losses(self) -> None:
        """Raise an error after a non-finite training loss.

        Raises:
            NonFiniteError: A loss since training began was NaN or infinite.
        """
        if self._first_non_finite is None:
            return
        step, loss = self._first_non_finite.tolist()
        if step:
            raise NonFiniteError(
                f"the training loss became {loss} at step {step:.0f}",
                hint="lower learning_rate.value, or raise training.warmup_ratio",
            )

    def gradient_scale(self) -> float:
        """Return the gradient scaler's factor in the current gradients: 1 without a scaler, or once it was removed.

        Clipping removes it. With ``max_grad_norm=0`` the Trainer removes it too, but only because it logs the norm.
        """
        scaler: Any = self.accelerator.scaler
        if scaler is None:
            return 1.0
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)  # Accelerate hands the scaler the wrapped one
        stage = scaler._per_optimizer_states[id(optimizer)]["stage"]  # noqa: SLF001 - a scaler tells it by errors alone
        return 1.0 if stage is OptState.UNSCALED else float(scaler.get_scale())

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Score the pruned model, and the unpruned one where it differs.

        Raises:
            NonFiniteError: A metric is NaN or infinite.
        """
        if isinstance(self.eval_dataset if eval_dataset is None else eval_dataset, dict):
            return dict(super().evaluate(eval_dataset, ignore_keys, metric_key_prefix))  # calls this for each set
        with _preserve_random_state():
            with self.sparse_method.pruned():
                metrics = dict(super().evaluate(eval_dataset, ignore_keys, metric_key_prefix))
            if self.sparse_method.prunes:
                metrics |= super().evaluate(eval_dataset, ignore_keys, f"{metric_key_prefix}_unpruned")
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise NonFiniteError(f"{name} became {value} at step {self.state.global_step}")
        return metrics

    def predict(
        self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """Predict with the pruned model."""
        with _preserve_random_state(), self.sparse_method.pruned():
            return super().predict(test_dataset, ignore_keys, metric_key_prefix)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the pruned model, which ``evaluate`` scores. Checkpoints store the training weights."""
        if _internal_call:
            super().save_model(output_dir, _internal_call)
            return
        method = self.sparse_method
        with method.pruned(), pruned(method.targets):  # the latter if load_best_model_at_end undid a mask
            super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Save model and tokenizer as the Trainer does, but not its arguments, which it would pickle."""
        if not self.args.should_save:
            return
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        model: Any = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        if hasattr(model, "save_pretrained"):
            model.save_pretrained(folder, state_dict=state_dict)
        else:
            save_file(state_dict or model.state_dict(), folder / SAFE_WEIGHTS_NAME, metadata={"format": "pt"})
        tokenizer: Any = self.processing_class or getattr(self.data_collator, "tokenizer", None)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        follow_umask(folder)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as the Trainer does; add the latest ADMM iteration and the teacher's mean term to the training loss."""
        if "loss" in logs:
            logs.update(self._collect_details())
        super().log(logs, start_time)

    def _collect_details(self) -> dict[str, float]:
        details: dict[str, float] = {}
        mean = None if self.distillation is None else self.distillation.take_mean()
        if mean is not None:
            details["distillation_loss"] = mean
        latest = self.sparse_method.iterations[-1] if self.sparse_method.iterations else None
        if latest is not None and latest.step > self._logged_step:
            self._logged_step = latest.step
            residuals = latest.residuals
            details |= {f"admm_{name}": getattr(residuals, name) for name in ("primal", "dual", "distance", "rho")}
            details["admm_support_flips"] = residuals.support_flips
        return details

    def budget(self) -> Budget:
        """Return the optimizer steps of this run, which are known once training begins."""
        batches = len(self.get_train_dataloader()) if has_length(self.train_dataset) else self.state.max_steps
        per_epoch = math.ceil(batches / self.args.gradient_accumulation_steps)
        steps = self.state.max_steps
        rates = [part(step) for part in getattr(self.lr_scheduler, "lr_lambdas", [])[:1] for step in range(steps)]
        return Budget(steps, steps_per_epoch=max(1, min(per_epoch, steps)), learning_rates=rates)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Return the Trainer's sampler; one that draws from PyTorch's own generator can repeat its latest draw."""
        sampler = super()._get_train_sampler(train_dataset)
        if isinstance(sampler, LengthGroupedSampler):
            return RepeatableOrder(sampler, self._draw)
        return sampler

    def _finish_epoch(self) -> None:
        unfinished, self._unfinished_epoch = self._unfinished_epoch, None
        continue_epoch_(self, self._draw, unfinished)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        self._refuse_sharding()
        unfinished = describe_unfinished_epoch(self, self._draw)
        if not self.args.should_save:
            return
        folder = Path(output_dir)
        save_file(
            {name: value.contiguous() for name, value in self.sparse_method.whole_state().items()},
            folder / files.METHOD,
        )
        optimizer, scheduler = self._require_optimizer_and_scheduler()
        state = {
            "optimizer": files.save_optimizer(folder, optimizer),
            "scheduler": {name: value for name, value in scheduler.state_dict().items() if _is_plain(value)},
            "iterations": [dataclasses.asdict(iteration) for iteration in self.sparse_method.iterations],
            "carried": self.carried,
            "unfinished_epoch": unfinished,
            "scaler": None if self.accelerator.scaler is None else self.accelerator.scaler.state_dict(),
        }
        (folder / files.STATE).write_text(json.dumps(state))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        self._refuse_sharding()
        folder = Path(checkpoint)
        state = json.loads((folder / files.STATE).read_text())
        optimizer, scheduler = self._require_optimizer_and_scheduler()
        files.load_optimizer(folder, optimizer, state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        method = self.sparse_method
        method.load_whole_state(load_file(folder / files.METHOD), self.budget(), step=self.state.global_step)
        method.iterations = [Iteration.from_dict(entry) for entry in state["iterations"]]
        self.carried = state["carried"]
        self._unfinished_epoch = state.get("unfinished_epoch")
        if self.accelerator.scaler is not None and state.get("scaler"):
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self._resumed = True
        self._logged_step = self.state.global_step

    def _save_scaler(self, output_dir: str) -> None:
        """Do nothing: the gradient scaler's state is saved with the optimizer's; the Trainer would pickle it."""

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Do nothing: see :meth:`_save_scaler`."""

    def _save_rng_state(self, output_dir: str) -> None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        files.save_random_state(Path(output_dir), distributed.rank())
        distributed.wait()  # the next file written marks the checkpoint as complete
        if self.args.should_save:
            follow_umask(Path(output_dir))  # of all ranks' files

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            files.load_random_state(Path(checkpoint), distributed.rank())

    def _require_optimizer_and_scheduler(self) -> tuple[torch.optim.Optimizer, Any]:
        if self.optimizer is None or self.lr_scheduler is None:
            raise ModelError("a checkpoint needs the optimizer and the scheduler, which exist once training begins")
        return self.optimizer, self.lr_scheduler

    def _refuse_sharding(self) -> None:
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            raise ModelError("a sparse method needs whole weight matrices: DeepSpeed and FSDP split them")


class _MethodHooks(TrainerCallback):
    """Forward the Trainer's events to the method."""

    def __init__(self, trainer: SparseTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not self._trainer._resumed:  # noqa: SLF001 - the trainer's own part
            self._trainer.sparse_method.start_(self._trainer.budget())
            self._trainer._logged_step = 0  # noqa: SLF001 - the trainer's own part
        if self._trainer.distillation is not None:
            self._trainer.distillation.restart_()
        self._trainer._finish_epoch()  # noqa: SLF001 - the trainer's own part
        self._trainer._resumed = False  # noqa: SLF001 - the trainer's own part
        self._trainer._first_non_finite = None  # noqa: SLF001 - the trainer's own part

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._trainer.sparse_method.after_clip_(scale=self._trainer.gradient_scale())

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._trainer.sparse_method.after_step_()

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._trainer.check_losses()
        self._trainer.sparse_method.after_epoch_()


@contextmanager
def _preserve_random_state() -> Iterator[None]:
    here = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(here):
        yield


def _is_plain(value: Any) -> bool:
    """Return whether JSON can hold a scheduler's value; lambdas are rebuilt."""
    if isinstance(value, dict):
        return all(_is_plain(item) for item in value.values())
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    return isinstance(value, int | float | str | bool | type(None))


def swap_trainer(make_method: Callable[[nn.Module], SparseMethod]) -> None:
    """Make ``from transformers import Trainer`` return :func:`sparse_trainer`'s class from now on.

    Setting ``transformers.Trainer`` by hand is not always enough: importing parts of Transformers recreates the module
    ``transformers``, and a script would import the new one.

    Args:
        make_method: As for :func:`sparse_trainer`.
    """
    sys.modules["transformers"].Trainer = sparse_trainer(make_method)  # type: ignore[attr-defined]


def sparse_trainer(make_method: Callable[[nn.Module], SparseMethod]) -> type[SparseTrainer]:
    """Return a trainer class that takes ``transformers.Trainer``'s arguments and trains under a method.

    Evaluation, prediction and ``save_model()`` use the pruned model.

    Args:
        make_method: Returns the method over the targets of the trainer's model.
    """

    class Swapped(SparseTrainer):
        """A :class:`SparseTrainer` that builds its method from its model."""

        def __init__(self, model: nn.Module | None = None, *args: Any, **kwargs: Any) -> None:
            if model is None:
                raise ModelError(
                    "a sparse method needs the model when the trainer is made", hint="pass model, not model_init"
                )
            super().__init__(model, *args, sparse_method=make_method(model), **kwargs)

    return Swapped
