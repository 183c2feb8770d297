"""Masked language modelling, 2 of 4: ``python masked_language_model.py MODEL ROWS.jsonl OUT``.

A row: ``{"text": "Ada lives in Rome"}``.
"""

import sys

from datasets import load_dataset
from transformers import AutoModelForMaskedLM, AutoTokenizer, DataCollatorForLanguageModeling, TrainingArguments

from nxm_sweep import Pattern, SparseTrainer, encoder_rules, select_targets
from nxm_sweep.methods import RECOMMENDED, Nxm

name, file, out = sys.argv[1:]
rows = load_dataset("json", data_files=file, split="train")
tokenizer = AutoTokenizer.from_pretrained(name)
model = AutoModelForMaskedLM.from_pretrained(name)

trainer = SparseTrainer(
    model,
    TrainingArguments(out, num_train_epochs=3, learning_rate=5e-5, save_strategy="no", report_to="none"),
    train_dataset=rows.map(lambda row: tokenizer(row["text"], truncation=True), remove_columns=rows.column_names),
    data_collator=DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15),
    processing_class=tokenizer,
    sparse_method=Nxm(select_targets(model, encoder_rules(Pattern(keep=2, group=4))), switches=RECOMMENDED),
)
trainer.train()
trainer.save_model(out)  # the pruned model
