"""A trainer that splits batches across ranks: steps, their rows and scores are those of one process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Sampler
from transformers.trainer_utils import EvalLoopOutput

from nxm_sweep.sparsity import distributed
from nxm_sweep.training.trainer import SparseTrainer


class RankBatches(Sampler[list[int]]):
    """This rank's part of every batch.

    A batch of ``k * ranks`` rows is split in order, ``k`` per rank. Any other batch, which can only end an epoch, goes
    to every rank whole: the mean over the ranks' mean losses, and so the gradient, still is the batch's mean. Rank 0
    draws the rows of each batch.

    Args:
        whole: Batches of one process.
    """

    def __init__(self, whole: BatchSampler) -> None:
        self.whole = whole

    def __len__(self) -> int:
        return len(self.whole)

    def set_epoch(self, epoch: int) -> None:
        """Draw the rows of this epoch next, also in a run resumed there."""
        draw: Any = self.whole.sampler
        if hasattr(draw, "set_epoch"):
            draw.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in distributed.share(list(self.whole)):
            size, rest = divmod(len(batch), distributed.count())
            yield batch if rest else batch[distributed.rank() * size : (distributed.rank() + 1) * size]


class RankTrainer(SparseTrainer):
    """A :class:`SparseTrainer` whose batch sizes count the rows of all ranks together.

    Under ``transformers.Trainer`` each rank takes ``per_device_train_batch_size`` rows and fills its last batch from
    the first, and evaluation repeats rows. Here a step takes the same rows as in one process, and evaluation scores
    every row once and returns the same on every rank. With several ranks, evaluation keeps only the head's outputs,
    not the model's others.
    """

    _unscored = 0  # rows of the evaluation still to score
    _scored = 0  # rows of its latest batch

    def get_train_dataloader(self) -> DataLoader[Any]:
        return _split_batches(super().get_train_dataloader())

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        return _split_batches(super().get_eval_dataloader(eval_dataset))

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        if distributed.count() > 1:
            self._unscored = len(dataloader.dataset)  # type: ignore[arg-type]
            self.gather_function = lambda rows: rows[: self._scored]  # already gathered by prediction_step
        return super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Any, Any]:
        """Return loss, outputs and labels of this rank's part; with several ranks, of the whole batch on each."""
        outputs: Any
        loss, outputs, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        if distributed.count() == 1:
            return loss, outputs, labels
        self._scored = min(self.args.eval_batch_size, self._unscored)
        self._unscored -= self._scored
        outputs = outputs[0] if isinstance(outputs, tuple) else outputs
        return None if loss is None else distributed.mean(loss), _stack_ranks(outputs), _stack_ranks(labels)


def _stack_ranks(rows: Any) -> Tensor | None:
    """Stack the rows of all ranks; a batch that each rank had whole appears once per rank."""
    return distributed.stack(rows) if isinstance(rows, Tensor) else None


class _RankLoader(DataLoader[Any]):
    """A loader of a rank's batches; the Trainer sets its epoch, as it does Accelerate's."""

    def set_epoch(self, epoch: int) -> None:
        batches: Any = self.batch_sampler
        batches.set_epoch(epoch)


def _split_batches(loader: DataLoader[Any]) -> DataLoader[Any]:
    if distributed.count() == 1:
        return loader
    shard: Any = loader.batch_sampler  # Accelerate's, around the batches of one process
    return _RankLoader(
        loader.dataset,
        batch_sampler=RankBatches(shard.batch_sampler),
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
    )
