"""Text to text with T5, 2 of 4: ``python sequence_to_sequence.py MODEL ROWS.jsonl OUT``.

A row: ``{"source": "translate English to German: thanks", "target": "danke"}``.
"""

import sys

from datasets import load_dataset
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, DataCollatorForSeq2Seq, TrainingArguments

from nxm_sweep import Pattern, SparseTrainer, encoder_rules, select_targets
from nxm_sweep.methods import RECOMMENDED, Nxm

name, file, out = sys.argv[1:]
rows = load_dataset("json", data_files=file, split="train")
tokenizer = AutoTokenizer.from_pretrained(name)
model = AutoModelForSeq2SeqLM.from_pretrained(name)

trainer = SparseTrainer(
    model,
    TrainingArguments(out, num_train_epochs=3, learning_rate=3e-4, save_strategy="no", report_to="none"),
    train_dataset=rows.map(
        lambda row: tokenizer(row["source"], text_target=row["target"], truncation=True),
        remove_columns=rows.column_names,
    ),
    data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
    processing_class=tokenizer,
    sparse_method=Nxm(select_targets(model, encoder_rules(Pattern(keep=2, group=4))), switches=RECOMMENDED),
)
trainer.train()
trainer.save_model(out)  # the pruned model
