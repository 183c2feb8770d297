"""Named entities, 2 of 4: ``python token_classification.py MODEL ROWS.jsonl OUT``.

A row: ``{"words": ["Ada", "lives", "in", "Rome"], "tags": ["PER", "O", "O", "LOC"]}``.
"""

import sys

from datasets import load_dataset
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    TrainingArguments,
)

from nxm_sweep import Pattern, SparseTrainer, encoder_rules, select_targets
from nxm_sweep.methods import RECOMMENDED, Nxm

name, file, out = sys.argv[1:]
rows = load_dataset("json", data_files=file, split="train")
tags = sorted({tag for row in rows["tags"] for tag in row})
tokenizer = AutoTokenizer.from_pretrained(name)
model = AutoModelForTokenClassification.from_pretrained(
    name, id2label=dict(enumerate(tags)), label2id={tag: index for index, tag in enumerate(tags)}
)


def encode(row: dict) -> dict:
    """Label the first token of each word; -100 leaves the others out of the loss."""
    tokens = tokenizer(row["words"], is_split_into_words=True, truncation=True)
    owners = tokens.word_ids()
    before = [None, *owners[:-1]]
    tokens["labels"] = [
        -100 if word is None or word == last else tags.index(row["tags"][word])
        for word, last in zip(owners, before, strict=True)
    ]
    return tokens


trainer = SparseTrainer(
    model,
    TrainingArguments(out, num_train_epochs=3, learning_rate=5e-5, save_strategy="no", report_to="none"),
    train_dataset=rows.map(encode, remove_columns=rows.column_names),
    data_collator=DataCollatorForTokenClassification(tokenizer),
    processing_class=tokenizer,
    sparse_method=Nxm(select_targets(model, encoder_rules(Pattern(keep=2, group=4))), switches=RECOMMENDED),
)
trainer.train()
trainer.save_model(out)  # the pruned model
