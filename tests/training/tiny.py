"""A small BERT of random numbers, for tests that train."""

from __future__ import annotations

import torch
from transformers import BertConfig, BertForSequenceClassification

VOCABULARY = 40


def bert(*, dropout: float = 0.1, seed: int = 0, spread: float = 0.1) -> BertForSequenceClassification:
    """Return a classifier of two layers of width 16.

    Args:
        dropout: Of hidden states and of attention.
        seed: Of its weights.
        spread: Standard deviation of its weights: with the usual 0.02 pruning would not change a score.
    """
    torch.manual_seed(seed)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=16,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            initializer_range=spread,
        )
    )
