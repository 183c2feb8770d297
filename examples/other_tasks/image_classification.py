"""Image classification with a ViT, 2 of 4: ``python image_classification.py MODEL FOLDER OUT``.

The folder holds one folder of images per class: ``FOLDER/cat/1.png``.
"""

import sys

from datasets import load_dataset
from transformers import AutoImageProcessor, AutoModelForImageClassification, TrainingArguments

from nxm_sweep import Pattern, SparseTrainer, encoder_rules, select_targets
from nxm_sweep.methods import RECOMMENDED, Nxm

name, folder, out = sys.argv[1:]
rows = load_dataset("imagefolder", data_dir=folder, split="train")
classes = rows.features["label"].names
processor = AutoImageProcessor.from_pretrained(name)
model = AutoModelForImageClassification.from_pretrained(
    name,
    id2label=dict(enumerate(classes)),
    label2id={label: index for index, label in enumerate(classes)},
    ignore_mismatched_sizes=True,  # a head of another number of classes is drawn anew
)


def encode(batch: dict) -> dict:
    """Resize and normalize images when they are read."""
    images = [image.convert("RGB") for image in batch["image"]]
    return {**processor(images, return_tensors="pt"), "labels": batch["label"]}


trainer = SparseTrainer(
    model,
    TrainingArguments(
        out,
        num_train_epochs=3,
        learning_rate=5e-5,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,  # else the images, from which `encode` makes the inputs, are removed
    ),
    train_dataset=rows.with_transform(encode),
    processing_class=processor,
    sparse_method=Nxm(select_targets(model, encoder_rules(Pattern(keep=2, group=4))), switches=RECOMMENDED),
)
trainer.train()
trainer.save_model(out)  # the pruned model
