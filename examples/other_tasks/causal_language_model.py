"""Causal language modelling, 2 of 4, for Llama's family and GPT-2: ``python causal_language_model.py MODEL ROWS.jsonl OUT``.

A row: ``{"text": "Ada lives in Rome"}``.
"""

import sys

from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForLanguageModeling, TrainingArguments

from nxm_sweep import Pattern, SparseTrainer, select_targets
from nxm_sweep.methods import RECOMMENDED, Nxm
from nxm_sweep.sparsity import Rule

name, file, out = sys.argv[1:]
rows = load_dataset("json", data_files=file, split="train")
tokenizer = AutoTokenizer.from_pretrained(name)
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
model = AutoModelForCausalLM.from_pretrained(name)
rules = [Rule("layers.*|h.*", Pattern(keep=2, group=4))]  # the blocks are called `layers` in Llama and `h` in GPT-2

trainer = SparseTrainer(
    model,
    TrainingArguments(out, num_train_epochs=3, learning_rate=5e-5, save_strategy="no", report_to="none"),
    train_dataset=rows.map(lambda row: tokenizer(row["text"], truncation=True), remove_columns=rows.column_names),
    data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    processing_class=tokenizer,
    sparse_method=Nxm(select_targets(model, rules), switches=RECOMMENDED),
)
trainer.train()
trainer.save_model(out)  # the pruned model
