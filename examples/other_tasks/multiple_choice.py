"""Multiple choice, 2 of 4: ``python multiple_choice.py MODEL ROWS.jsonl OUT``.

A row: ``{"question": "Ada lives", "choices": ["in Rome", "red"], "answer": 0}``; all rows have as many choices.
"""

import sys

from datasets import load_dataset
from transformers import AutoModelForMultipleChoice, AutoTokenizer, DataCollatorForMultipleChoice, TrainingArguments

from nxm_sweep import Pattern, SparseTrainer, encoder_rules, select_targets
from nxm_sweep.methods import RECOMMENDED, Nxm

name, file, out = sys.argv[1:]
rows = load_dataset("json", data_files=file, split="train")
tokenizer = AutoTokenizer.from_pretrained(name)
model = AutoModelForMultipleChoice.from_pretrained(name)


def encode(row: dict) -> dict:
    """Pair the question with each of its choices."""
    tokens = tokenizer([row["question"]] * len(row["choices"]), row["choices"], truncation=True)
    return {**tokens, "labels": row["answer"]}


trainer = SparseTrainer(
    model,
    TrainingArguments(out, num_train_epochs=3, learning_rate=5e-5, save_strategy="no", report_to="none"),
    train_dataset=rows.map(encode, remove_columns=rows.column_names),
    data_collator=DataCollatorForMultipleChoice(tokenizer),
    processing_class=tokenizer,
    sparse_method=Nxm(select_targets(model, encoder_rules(Pattern(keep=2, group=4))), switches=RECOMMENDED),
)
trainer.train()
trainer.save_model(out)  # the pruned model
