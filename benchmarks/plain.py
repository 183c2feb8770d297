"""The peer: Transformers' own ``Trainer`` on GLUE rows, as its example configures it and as an expert would.

Nothing of ours is imported, so that a process of this module costs what a user of Transformers pays, imports included.
As a script it trains a :class:`Job` given as JSON, saves the model as the example does, and prints score and seconds.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from scipy.stats import pearsonr
from sklearn.metrics import accuracy_score
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EvalPrediction,
    Trainer,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

RECIPES: dict[str, dict[str, Any]] = {
    "example": {},  # TrainingArguments' defaults, as in run_glue.py, and rows padded to max_seq_length
    "expert": {
        "train_sampling_strategy": "group_by_length",
        "optim": "adamw_torch_fused",
        "per_device_eval_batch_size": 64,
    },
}


@dataclass(frozen=True)
class Job:
    """One fine-tuning.

    Attributes:
        model: Folder of the pretrained model.
        labels: Number of classes; 0 for a regression.
        recipe: A key of :data:`RECIPES`.
        compiler: Backend of ``torch.compile``; empty for none.
        rows: Folder of ``train.jsonl`` and ``validation.jsonl``, as for ``run_glue.py``; read only by the script.
    """

    model: str
    labels: int
    recipe: str
    precision: str = "fp32"
    epochs: int = 1
    batch_size: int = 32
    learning_rate: float = 2e-4
    seed: int = 0
    device: str = "cpu"
    rows: str = ""
    compiler: str = ""


def build(job: Job, train: datasets.Dataset, validation: datasets.Dataset, work: Path) -> Trainer:
    """Return the job's trainer over rows with the columns ``text``, optionally ``pair``, and ``label``."""
    set_seed(job.seed)
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    model: nn.Module = AutoModelForSequenceClassification.from_pretrained(job.model, num_labels=job.labels or 1)
    pads = job.recipe == "example"

    def tokenise(batch: dict[str, Any]) -> dict[str, Any]:
        texts = (batch["text"], batch["pair"]) if "pair" in batch else (batch["text"],)
        tokens: dict[str, Any] = tokenizer(
            *texts, padding="max_length" if pads else False, max_length=128, truncation=True
        )
        return tokens

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        outputs = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
        if not job.labels:
            return {"score": float(pearsonr(np.squeeze(outputs), prediction.label_ids)[0])}
        return {"score": float(accuracy_score(prediction.label_ids, np.argmax(outputs, axis=1)))}

    arguments = TrainingArguments(
        output_dir=str(work),
        num_train_epochs=job.epochs,
        per_device_train_batch_size=job.batch_size,
        learning_rate=job.learning_rate,
        seed=job.seed,
        bf16=job.precision == "bf16",
        use_cpu=job.device == "cpu",
        torch_compile=bool(job.compiler),
        torch_compile_backend=job.compiler or None,
        eval_strategy="epoch",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **RECIPES[job.recipe],
    )
    return Trainer(
        model=model,
        args=arguments,
        train_dataset=train.map(tokenise, batched=True),
        eval_dataset=validation.map(tokenise, batched=True),
        compute_metrics=compute_metrics,
        processing_class=tokenizer,
        data_collator=default_data_collator if pads else DataCollatorWithPadding(tokenizer),
    )


def run(job: Job) -> dict[str, float]:
    """Train a job from its files; return its score and the seconds of training."""
    with tempfile.TemporaryDirectory() as work:
        files = {split: f"{job.rows}/{split}.jsonl" for split in ("train", "validation")}
        rows = datasets.load_dataset("json", data_files=files)
        trainer = build(job, rows["train"], rows["validation"], Path(work))
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started
        trainer.save_model()
        return {"score": float(trainer.evaluate()["eval_score"]), "train_seconds": seconds}


def main() -> None:
    datasets.disable_progress_bars()
    print(json.dumps(run(Job(**json.loads(sys.argv[1])))))


if __name__ == "__main__":
    main()
