"""A model's configuration and tokenizer, and whether they can be trained together: checked before any weights load."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
)

from nxm_sweep.errors import ModelError

_VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model")
_ATTENTION = (None, "eager", "sdpa", "flex_attention")
_OUTPUTS = {"output_attentions": False, "output_hidden_states": False, "return_dict": True}
"""What a checkpoint may say about outputs, and what training reads. None of it changes a logit."""
_POSITIONS = ("position_embeddings", "wpe", "embed_positions", "positions_embed")
_SEGMENTS = "token_type_embeddings"
_FEWEST = 8  # tokens, as of training.max_length: a pair of texts and what the tokenizer puts around them


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Configuration and tokenizer of a model that passed :func:`check_model`.

    Attributes:
        config: The configuration.
        tokenizer: The tokenizer.
        positions: Tokens that the model reads at most; None: no limit.
    """

    config: PretrainedConfig
    tokenizer: Any
    positions: int | None


def check_model(folder: Path, *, pairs: bool) -> ModelFiles:
    """Read a model's configuration and tokenizer, and refuse what would fail once it is trained or run.

    Args:
        folder: The model's files.
        pairs: Whether its inputs are pairs of texts.

    Raises:
        ModelError: A file cannot be read; the weights are quantised, or need another attention than PyTorch's; the
            architecture has no sequence classifier; or the tokenizer does not fit the model.
    """
    config, file = load_config(folder), folder / "config.json"
    quantization = getattr(config, "quantization_config", None)
    if quantization:
        method = quantization.get("quant_method") if isinstance(quantization, dict) else None
        raise ModelError(
            f"{file} has a quantization_config{f' ({method})' if method else ''}, and quantised weights are not trained",
            hint="take the checkpoint that was quantised, or dequantize() and save it",
        )
    attention = config._attn_implementation  # noqa: SLF001 - what the configuration of a file asks for has no other name
    if attention not in _ATTENTION:
        raise ModelError(
            f"{file} asks for attn_implementation={attention!r}, but trials take {', '.join(map(str, _ATTENTION[1:]))}",
            hint="remove the line: PyTorch's attention computes the same",
        )
    model, tokenizer = build_empty(config, 2), load_tokenizer(folder)
    _check_padding(folder, model, tokenizer)
    _check_vocabulary(folder, model, tokenizer)
    if pairs:
        _check_segments(folder, model, tokenizer)
    positions = _count_positions(model)
    if positions is not None and positions < _FEWEST:
        raise ModelError(f"the model in {folder} reads {positions} tokens, but a text takes at least {_FEWEST}")
    return ModelFiles(config, tokenizer, positions)


def limit_length(max_length: int, positions: int | None) -> int:
    """Return the tokens at which inputs are cut: ``max_length``, or fewer where the model reads fewer."""
    return max_length if positions is None else min(max_length, positions)


def describe_limit(max_length: int, positions: int | None) -> str:
    """Return a note that inputs are cut earlier than asked for; empty where they are not."""
    if limit_length(max_length, positions) == max_length:
        return ""
    return f"inputs are cut at {positions} tokens, all that the model reads, and not at max_length={max_length}"


def load_config(folder: Path, **changes: Any) -> PretrainedConfig:
    """Load a model's configuration; settings of its outputs are replaced by those that training reads.

    Raises:
        ModelError: The configuration cannot be read.
    """
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True, **_OUTPUTS, **changes)
    except Exception as error:  # a value of another type fails wherever the architecture's code meets it
        raise ModelError(f"the model in {folder} cannot be loaded: {_describe(error)}") from error
    if getattr(config, "chunk_size_feed_forward", 0):  # a length that is no multiple of it would fail
        config.chunk_size_feed_forward = 0
    return config


def load_tokenizer(folder: Path) -> Any:
    """Load a model's tokenizer from its folder.

    Raises:
        ModelError: The folder contains no readable tokenizer.
    """
    if not any(path for glob in _VOCABULARIES for path in folder.glob(glob)):  # the library would make an empty one
        raise ModelError(
            f"{folder} holds no tokenizer", hint="copy the files that tokenizer.save_pretrained wrote there"
        )
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise ModelError(f"{folder} holds no readable tokenizer: {_describe(error)}") from error


def build_empty(config: PretrainedConfig, classes: int) -> Any:
    """Build an architecture's classifier without memory for its weights.

    Raises:
        ModelError: The architecture has no sequence classifier, or cannot be built as configured.
    """
    where = f" in {config.name_or_path}" if config.name_or_path else ""
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise ModelError(f"the model{where}, a {type(config).__name__}, has no sequence classifier in Transformers")
    config = copy.deepcopy(config)
    config.num_labels = classes
    build: Any = AutoModelForSequenceClassification.from_config  # untyped
    try:
        with torch.device("meta"):
            model: nn.Module = build(config)
    except Exception as error:  # a number out of range fails wherever the architecture's code meets it
        raise ModelError(f"the model{where} cannot be built as configured: {_describe(error)}") from error
    return model


def _describe(error: Exception) -> str:
    """Return an error's first line, and the second where the first announces it."""
    first, *others = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    reason = f"{first} {others[0]}" if first.endswith(":") and others else first
    return f"{type(error).__name__}: {reason}"


def _check_padding(folder: Path, model: Any, tokenizer: Any) -> None:
    if tokenizer.pad_token is None:
        raise ModelError(
            f"the tokenizer in {folder} has no pad token, so that rows make no batch",
            hint="tokenizer.pad_token = tokenizer.eos_token, then tokenizer.save_pretrained",
        )
    if model.config.pad_token_id is None and hasattr(
        model, "score"
    ):  # a decoder reads the last token before the padding
        raise ModelError(
            f"{folder / 'config.json'} has no pad_token_id, which {type(model).__name__} needs",
            hint=f"the tokenizer pads with {tokenizer.pad_token_id}",
        )


def _check_vocabulary(folder: Path, model: Any, tokenizer: Any) -> None:
    try:
        size = _count_rows(model.get_input_embeddings())
    except NotImplementedError:  # CANINE hashes characters
        return
    tokens = 1 + max(tokenizer.get_vocab().values(), default=-1)
    if size is not None and tokens > size:
        raise ModelError(
            f"the tokenizer in {folder} has {tokens:,} tokens but the model's embedding {size:,} rows",
            hint="take the tokenizer of the model, or model.resize_token_embeddings(len(tokenizer)) and save it",
        )


def _check_segments(folder: Path, model: Any, tokenizer: Any) -> None:
    """Raise if a tokenizer marks the second text of a pair with a segment that the model lacks."""
    tables = [_count_rows(module) for name, module in model.named_modules() if name.endswith(_SEGMENTS)]
    segments = [rows for rows in tables if rows is not None]
    if segments and "token_type_ids" in tokenizer.model_input_names:
        types = 1 + max(tokenizer("a", "a")["token_type_ids"])
        if types > min(segments):
            raise ModelError(
                f"the tokenizer in {folder} marks {types} segments but the model has type_vocab_size={min(segments)}",
                hint="take the tokenizer of the model",
            )


def _count_positions(model: nn.Module) -> int | None:
    """Return the length of a model's learned positions; None if its positions are relative or computed.

    Models such as RoBERTa number positions from the padding's index on, those such as OPT from an offset.
    """
    learned = []
    for name, module in model.named_modules():
        rows = _count_rows(module) if name.rpartition(".")[2] in _POSITIONS else None
        if rows is not None:
            padding: int | None = getattr(module, "padding_idx", None)
            first: int = getattr(module, "offset", 0) if padding is None else padding + 1
            learned.append(rows - first)
    configured = getattr(model.config, "max_position_embeddings", None)
    return min([*learned, *([configured] if isinstance(configured, int) else [])]) if learned else None


def _count_rows(embedding: Any) -> int | None:
    """Return the entries of an embedding; None if the module is none."""
    weight = getattr(embedding, "weight", None)
    return weight.shape[0] if isinstance(weight, Tensor) and weight.ndim == 2 else None
