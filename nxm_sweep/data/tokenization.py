"""Rows as token ids: tokenised once, cached across trials, padded to the longest of each batch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import tokenizers
import torch
from datasets import Dataset
from filelock import FileLock
from torch import Tensor

from nxm_sweep.data.loading import TaskRows, heldout_rows, limit_rows
from nxm_sweep.errors import DataError


@dataclass(frozen=True, slots=True)
class Tokenised:
    """A task's rows as token ids.

    Attributes:
        train: Columns ``input_ids``, ``labels``, ``length`` and the tokenizer's other outputs; in the rows' order.
        validation: One data set per validation set, shortest rows first to reduce padding; ``row`` is the row's number
            among those kept.
        heldout: A slice of the training set that is not in ``train``, in the form of a validation set; None unless asked for.
    """

    train: Dataset
    validation: dict[str, Dataset]
    heldout: Dataset | None = None


@dataclass(frozen=True, slots=True)
class PadToLongest:
    """Collate rows into tensors padded to the longest of the batch; columns that are not model inputs are dropped."""

    tokenizer: Any

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Return model inputs of shape ``(len(rows), longest)`` and ``labels`` of shape ``(len(rows),)``."""
        names = [name for name in self.tokenizer.model_input_names if name in rows[0]]
        batch = dict(self.tokenizer.pad([{name: row[name] for name in names} for row in rows], return_tensors="pt"))
        return {**batch, "labels": torch.tensor([row["labels"] for row in rows])}


def tokenise(
    rows: TaskRows,
    tokenizer: Any,
    *,
    tokenizer_digest: str,
    max_length: int,
    max_train_samples: int | None = None,
    max_eval_samples: int | None = None,
    heldout_fraction: float | None = None,
    subset: str = "first",
    cache: Path | None = None,
) -> Tokenised:
    """Tokenise a task's rows, or load them from the cache.

    The cache key is a hash of the rows' and the tokenizer's content and ``max_length``, so it is valid on every machine
    and never a random fingerprint.

    Args:
        rows: Rows to tokenise.
        tokenizer: A Transformers tokenizer.
        tokenizer_digest: Hash of the tokenizer's files.
        max_length: Limit in tokens; longer inputs are cut, the longer of two texts first.
        max_train_samples: Limit on the training rows.
        max_eval_samples: Limit on the rows of each validation set.
        heldout_fraction: Share of all training rows to hold out; None holds out none.
        subset: Rows that the limits keep; see :func:`limit_rows`.
        cache: Folder of the cache; default: ``nxm_sweep`` in the Datasets library's cache.

    Raises:
        DataError: A part of the key cannot be hashed.
    """
    folder = cache or Path(datasets.config.HF_DATASETS_CACHE) / "nxm_sweep"
    folder.mkdir(parents=True, exist_ok=True)
    settings: list[str | int] = [
        rows.digest,
        tokenizer_digest,
        max_length,
        type(tokenizer).__name__,
        tokenizers.__version__,
    ]

    def encode_part(part: Dataset, name: str) -> Dataset:
        return _encode(part, tokenizer, max_length, folder, cache_key(*settings, name))

    def keep(part: Dataset, limit: int | None) -> Dataset:
        return part if limit is None else part.select(limit_rows(range(len(part)), limit, subset))

    validation = {name: keep(encode_part(part, name), max_eval_samples) for name, part in rows.validation.items()}
    train, heldout = encode_part(rows.train, "train"), None
    if heldout_fraction is not None:
        selected = train.select(heldout_rows(len(train), heldout_fraction)[1])
        heldout = _sort_by_length(keep(selected, max_eval_samples))
    numbers = training_rows(len(train), max_train_samples, heldout_fraction, subset)
    return Tokenised(
        train=train if len(numbers) == len(train) else train.select(numbers),
        validation={name: _sort_by_length(part) for name, part in validation.items()},
        heldout=heldout,
    )


def training_rows(
    count: int, max_train_samples: int | None, heldout_fraction: float | None, subset: str = "first"
) -> Sequence[int]:
    """Return the numbers of the rows to train on, ascending.

    Args:
        count: Size of the training set.
        max_train_samples: As for :func:`tokenise`.
        heldout_fraction: As for :func:`tokenise`.
        subset: As for :func:`tokenise`.
    """
    numbers = range(count) if heldout_fraction is None else heldout_rows(count, heldout_fraction)[0]
    return limit_rows(numbers, max_train_samples, subset)


def cache_key(*parts: str | float) -> str:
    """Return a hash of plain values.

    Raises:
        DataError: A part is neither text nor a number, so its content cannot be hashed.
    """
    for part in parts:
        if not isinstance(part, str | int | float):
            raise DataError(f"a cache key takes text and numbers but got a {type(part).__name__}")
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _encode(rows: Dataset, tokenizer: Any, max_length: int, folder: Path, key: str) -> Dataset:
    paired = "pair" in rows.column_names

    def encode(batch: Mapping[str, Any]) -> dict[str, Any]:
        texts = (batch["text"], batch["pair"]) if paired else (batch["text"],)
        encoded = tokenizer(*texts, truncation=True, max_length=max_length)
        lengths = [len(ids) for ids in encoded["input_ids"]]
        return {**encoded, "length": lengths, "labels": batch["label"]}

    path = folder / f"{key}.arrow"
    with FileLock(f"{path}.lock"):
        if path.is_file():
            return Dataset.from_file(str(path))
        return rows.map(
            encode,
            batched=True,
            remove_columns=rows.column_names,
            cache_file_name=str(path),
            new_fingerprint=key,
        )


def _sort_by_length(rows: Dataset) -> Dataset:
    """Sort rows stably by length; their numbers before are kept as ``row``."""
    lengths = torch.tensor(rows["length"][:])
    order = lengths.argsort(stable=True).tolist()
    return rows.add_column("row", list(range(len(rows))), new_fingerprint="row").select(order)
