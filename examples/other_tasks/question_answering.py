"""Extractive question answering, 2 of 4: ``python question_answering.py MODEL ROWS.jsonl OUT``.

A row: ``{"question": "Where?", "context": "Ada lives in Rome", "answer": "Rome", "start": 13}``.
"""

import sys

from datasets import load_dataset
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, DataCollatorWithPadding, TrainingArguments

from nxm_sweep import Pattern, SparseTrainer, encoder_rules, select_targets
from nxm_sweep.methods import RECOMMENDED, Nxm

name, file, out = sys.argv[1:]
rows = load_dataset("json", data_files=file, split="train")
tokenizer = AutoTokenizer.from_pretrained(name)
model = AutoModelForQuestionAnswering.from_pretrained(name)


def encode(row: dict) -> dict:
    """Locate the answer's first and last token; an answer that was cut off is at the first token."""
    tokens = tokenizer(row["question"], row["context"], truncation="only_second")
    first = tokens.char_to_token(row["start"], sequence_index=1)
    last = tokens.char_to_token(row["start"] + len(row["answer"]) - 1, sequence_index=1)
    found = first is not None and last is not None
    tokens["start_positions"], tokens["end_positions"] = (first, last) if found else (0, 0)
    return tokens


trainer = SparseTrainer(
    model,
    TrainingArguments(out, num_train_epochs=3, learning_rate=5e-5, save_strategy="no", report_to="none"),
    train_dataset=rows.map(encode, remove_columns=rows.column_names),
    data_collator=DataCollatorWithPadding(tokenizer),
    processing_class=tokenizer,
    sparse_method=Nxm(select_targets(model, encoder_rules(Pattern(keep=2, group=4))), switches=RECOMMENDED),
)
trainer.train()
trainer.save_model(out)  # the pruned model
