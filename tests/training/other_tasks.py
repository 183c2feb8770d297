"""Tiny random models of every task that the scripts of ``examples/other_tasks`` train, with rows for each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForQuestionAnswering,
    BertForTokenClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from nxm_sweep.data.demo import generate

VOCABULARY = 400
_SIZES: Any = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def bert(head: type[PreTrainedModel], **options: Any) -> PreTrainedModel:
    return head(
        BertConfig(vocab_size=VOCABULARY, max_position_embeddings=64, initializer_range=0.2, **_SIZES, **options)
    )


def llama() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, num_key_value_heads=2, initializer_range=0.2, **_SIZES))


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY, n_positions=64, n_embd=16, n_layer=2, n_head=2, bos_token_id=2, eos_token_id=3,
            initializer_range=0.2,
        )
    )  # fmt: skip


def t5() -> PreTrainedModel:
    make: Any = T5Config  # whose own arguments do not name all that it takes
    config = make(
        vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    return T5ForConditionalGeneration(config)


def vit() -> PreTrainedModel:
    make: Any = ViTConfig
    return ViTForImageClassification(make(image_size=16, patch_size=8, num_labels=2, initializer_range=0.2, **_SIZES))


MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "token_classification": lambda: bert(BertForTokenClassification, num_labels=2),
    "question_answering": lambda: bert(BertForQuestionAnswering),
    "masked_language_model": lambda: bert(BertForMaskedLM),
    "causal_language_model": llama,
    "causal_language_model, GPT-2": gpt2,
    "sequence_to_sequence": t5,
    "image_classification": vit,
    "multiple_choice": lambda: bert(BertForMultipleChoice),
}
"""A model of each script, and of GPT-2, whose layers are stored the other way round."""


def build(task: str, seed: int = 0) -> Any:
    """Return a random model of a task; equal seeds give equal weights."""
    torch.manual_seed(seed)
    return MODELS[task]()


def save(task: str, tokenizer: Path, folder: Path) -> Path:
    """Write a model as ``save_pretrained`` does, with a tokenizer or an image processor."""
    build(task).save_pretrained(folder)
    if task == "image_classification":
        ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
        return folder
    is_decoder = task.startswith(("causal", "sequence"))  # Llama, GPT-2 and T5 read no segments
    names = {"model_input_names": ["input_ids", "attention_mask"]} if is_decoder else {}
    AutoTokenizer.from_pretrained(tokenizer, **names).save_pretrained(folder)
    return folder


def write_rows(task: str, place: Path) -> Path:
    """Write rows of a task as its script reads them; return their file or folder."""
    if task == "image_classification":
        generator = np.random.default_rng(0)
        for index in range(16):
            folder = place / ("dark", "light")[index % 2]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = generator.integers(0, 128, (20, 20, 3)) + 127 * (index % 2)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}.png")
        return place
    texts = [str(row["sentence1"]) for row in generate("paraphrase", "train", 16)]
    place.write_text("".join(f"{json.dumps(_make_row(task, index, text))}\n" for index, text in enumerate(texts)))
    return place


def _make_row(task: str, index: int, text: str) -> dict[str, Any]:
    words = text.split()
    match task:
        case "token_classification":
            return {"words": words, "tags": ["LONG" if len(word) > 4 else "O" for word in words]}
        case "question_answering":
            return {"question": words[0], "context": text, "answer": words[-1], "start": text.rindex(words[-1])}
        case "sequence_to_sequence":
            return {"source": text, "target": words[-1]}
        case "multiple_choice":
            return {"question": text, "choices": [words[0], words[-1]], "answer": index % 2}
        case _:
            return {"text": text}
