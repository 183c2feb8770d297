"""A saved model asked about texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from nxm_sweep.errors import ModelError
from nxm_sweep.training.metrics import Array
from nxm_sweep.training.models import load_tokenizer
from nxm_sweep.training.packing import pack_

_BATCH = 64  # rows; it changes speed alone
_TOKENISED = 1000  # rows tokenised in one call
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def label_words(folder: Path) -> tuple[str, ...]:
    """Return the class names of a saved model, in the order of its outputs, without loading it.

    Raises:
        ModelError: Its ``config.json`` cannot be read.
    """
    try:
        names = json.loads((folder / "config.json").read_text())["id2label"]
        return tuple(str(names[str(number)]) for number in range(len(names)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / 'config.json'} names no classes: {type(error).__name__}: {error}") from error


def load_classifier(folder: Path) -> tuple[PreTrainedModel, Any]:
    """Load a saved model with its head, and its tokenizer.

    Raises:
        ModelError: The files are damaged or lack weights.
    """
    tokenizer = load_tokenizer(folder)
    try:
        model, report = AutoModelForSequenceClassification.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype="float32", output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"the model in {folder} cannot be loaded: {reason}") from error
    absent = sorted(report["missing_keys"])
    if absent:
        raise ModelError(f"the model in {folder} lacks {len(absent)} of its weights, such as {absent[0]}")
    if torch.cuda.is_available():
        return model.to("cuda").eval(), tokenizer
    pack_(model)
    return model.eval(), tokenizer


def outputs_of(
    model: PreTrainedModel,
    tokenizer: Any,
    text: Sequence[str],
    pair: Sequence[str] | None,
    *,
    max_length: int,
    precision: str,
    on_rows: Callable[[int], None] = lambda _: None,
) -> Array:
    """Return a model's outputs for texts.

    Args:
        model: As :func:`load_classifier` returns it.
        tokenizer: Its tokenizer.
        text: First text of each row.
        pair: Second text of each row; None if there is one text.
        max_length: Tokens; longer inputs are cut, the longer of two texts first, as in training.
        precision: ``fp32``, or ``bf16`` or ``fp16`` to run under autocast, as a trial of that precision is scored.
        on_rows: Hears of each batch's number of rows.

    Returns:
        Shape ``(len(text), outputs of the head)``, in the order of ``text``.
    """
    encoded: list[dict[str, list[int]]] = []
    for start in range(0, len(text), _TOKENISED):
        texts = [part[start : start + _TOKENISED] for part in (text, pair) if part is not None]
        batch = tokenizer(*texts, truncation=True, max_length=max_length)
        encoded += [{name: batch[name][row] for name in batch} for row in range(len(texts[0]))]
    order = sorted(range(len(encoded)), key=lambda row: len(encoded[row]["input_ids"]), reverse=True)
    outputs: list[Any] = [None] * len(encoded)
    dtype = _AUTOCAST.get(precision)
    with torch.inference_mode(), torch.autocast(model.device.type, dtype=dtype, enabled=dtype is not None):
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]  # the longest first, so that too little memory shows at once
            inputs = tokenizer.pad([encoded[row] for row in rows], return_tensors="pt").to(model.device)
            logits = model(**inputs).logits.float().cpu().numpy()
            for row, output in zip(rows, logits, strict=True):
                outputs[row] = output
            on_rows(len(rows))
    return np.stack(outputs).astype(np.float64)
