"""Our trainer in a script that makes its own, as docs/run_glue.md says; what such a trainer predicts with and saves."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
    TrainingArguments,
)

from nxm_sweep.data.demo import generate
from nxm_sweep.errors import ModelError
from nxm_sweep.methods import AdmmSwitches, Nxm, NxmRefit
from nxm_sweep.sparsity import Pattern, check_file, encoder_rules, select_targets
from nxm_sweep.training.trainer import sparse_trainer
from tests.training.tiny import bert

DOCS = Path(__file__).resolve().parents[2] / "docs" / "run_glue.md"
RULES = encoder_rules(Pattern(2, 4))
REAL_SCRIPT = "NXM_RUN_GLUE"
"""Environment variable with the path of run_glue.py from the Transformers repository."""

STAND_IN = """
import logging
from dataclasses import dataclass, field

import numpy as np
from datasets import load_dataset

import transformers
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
    default_data_collator,
    set_seed,
)


@dataclass
class ScriptArguments:
    model_name_or_path: str = field()
    train_file: str = field()
    validation_file: str = field()
    max_seq_length: int = 128


def main():
    script, args = HfArgumentParser((ScriptArguments, TrainingArguments)).parse_args_into_dataclasses()
    transformers.utils.logging.set_verbosity(args.get_process_log_level())
    set_seed(args.seed)
    rows = load_dataset("csv", data_files={"train": script.train_file, "validation": script.validation_file})
    labels = sorted(rows["train"].unique("label"))
    config = AutoConfig.from_pretrained(script.model_name_or_path, num_labels=len(labels))
    tokenizer = AutoTokenizer.from_pretrained(script.model_name_or_path)
    model = AutoModelForSequenceClassification.from_pretrained(script.model_name_or_path, config=config)

    def tokenise(batch):
        return tokenizer(
            batch["sentence1"], batch["sentence2"], padding="max_length", max_length=script.max_seq_length, truncation=True
        )

    rows = rows.map(tokenise, batched=True)
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=rows["train"],
        eval_dataset=rows["validation"],
        compute_metrics=lambda p: {"accuracy": float((np.argmax(p.predictions, axis=1) == p.label_ids).mean())},
        processing_class=tokenizer,
        data_collator=default_data_collator,
    )
    trainer.train()
    trainer.save_model()
    trainer.save_metrics("eval", trainer.evaluate(eval_dataset=rows["validation"]))


if __name__ == "__main__":
    main()
"""


def snippet(pattern: str) -> str:
    found = re.search(pattern, DOCS.read_text(), flags=re.DOTALL)
    assert found is not None
    return found[1]


def script(kind: str, folder: Path) -> Path:
    """The script to be run; the real one with what docs/run_glue.md puts beside it where there is no network."""
    if kind == "stand-in":
        path = folder / "script.py"
        path.write_text(STAND_IN)
        return path
    real = os.environ.get(REAL_SCRIPT)
    if real is None:
        pytest.skip(f"the environment variable {REAL_SCRIPT} names no run_glue.py")
    pytest.importorskip("evaluate", reason="run_glue.py imports the package evaluate, which is not installed")
    (folder / "accuracy").mkdir()
    (folder / "accuracy" / "accuracy.py").write_text(snippet(r"\n```python\n(import datasets\n.*?)```"))
    return Path(real).resolve()


@pytest.mark.parametrize("kind", ["stand-in", "run_glue.py"])
def test_an_unmodified_script_trains_under_the_method_and_saves_a_sparse_model(
    tmp_path: Path, tiny_model: Path, kind: str
) -> None:
    for split, count in (("train", 48), ("validation", 16)):
        lines = ["sentence1,sentence2,label"]
        lines += [
            f"{row['sentence1']},{row['sentence2']},{row['label']}" for row in generate("paraphrase", split, count)
        ]
        (tmp_path / f"{split}.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "sparse_glue.py").write_text(snippet(r"<!-- example: run_glue -->\n```python\n(.*?)```"))
    done = subprocess.run(
        [
            *(sys.executable, "sparse_glue.py", str(script(kind, tmp_path))),
            *(
                "--model_name_or_path",
                str(tiny_model),
                "--train_file",
                "train.csv",
                "--validation_file",
                "validation.csv",
            ),
            *(("--do_train", "--do_eval") if kind == "run_glue.py" else ()),
            *("--max_seq_length", "32", "--num_train_epochs", "2", "--learning_rate", "1e-3"),
            *("--output_dir", "out", "--save_strategy", "no", "--use_cpu", "--disable_tqdm", "True"),
        ],
        check=False,
        cwd=tmp_path,
        env={**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache"), "HF_MODULES_CACHE": str(tmp_path / "modules")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    saved = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    constraints = {target.name: target.constraint for target in select_targets(saved, RULES)}
    checks = check_file(tmp_path / "out" / "model.safetensors", constraints)
    assert [check.exact for check in checks] == [True] * 12
    assert 0.0 <= json.loads((tmp_path / "out" / "eval_results.json").read_text())["eval_accuracy"] <= 1.0


# --- the trainer's own part --------------------------------------------------------------------------------------------


ROWS = [{"input_ids": torch.arange(1, 7) + number % 20, "labels": torch.tensor(number % 2)} for number in range(24)]


def trainer_of(folder: Path, make_method: Any, **changes: Any) -> Any:
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "num_train_epochs": 2,
        "learning_rate": 1e-3,
        "save_strategy": "epoch",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "use_cpu": True,
    }
    return sparse_trainer(make_method)(
        bert(spread=0.3), TrainingArguments(**{**settings, **changes}), train_dataset=ROWS, eval_dataset=ROWS
    )


def is_sparse(file: Path) -> bool:
    targets = select_targets(bert(spread=0.3), RULES)
    return all(check.exact for check in check_file(file, {target.name: target.constraint for target in targets}))


def test_what_is_saved_by_hand_is_the_pruned_model_and_a_checkpoint_is_what_was_trained(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, lambda model: Nxm(select_targets(model, RULES), rho=1e-3))
    trainer.train()
    before = copy.deepcopy(trainer.model.state_dict())
    trainer.save_model()
    trainer.save_model(str(tmp_path / "elsewhere"))
    assert is_sparse(tmp_path / "model.safetensors")
    assert is_sparse(tmp_path / "elsewhere" / "model.safetensors")
    last = load_file(tmp_path / "checkpoint-6" / "model.safetensors")
    assert all(torch.equal(last[name], value) for name, value in before.items())
    assert all(torch.equal(trainer.model.state_dict()[name], value) for name, value in before.items())
    assert not is_sparse(tmp_path / "checkpoint-6" / "model.safetensors")


def test_predictions_are_the_saved_models(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, lambda model: Nxm(select_targets(model, RULES), rho=1e-3), save_strategy="no")
    trainer.train()
    random_state = torch.get_rng_state()
    predicted = trainer.predict(ROWS).predictions
    assert torch.equal(torch.get_rng_state(), random_state)
    trainer.save_model()
    ids = torch.stack([row["input_ids"] for row in ROWS])
    with torch.no_grad():
        saved = BertForSequenceClassification.from_pretrained(tmp_path)(ids).logits
        unpruned: Tensor = trainer.model.train(mode=False)(ids).logits
    np.testing.assert_allclose(predicted, saved.numpy(), atol=1e-5)
    assert not np.allclose(predicted, unpruned.numpy(), atol=1e-3)


def test_the_best_checkpoint_of_a_refit_is_saved_sparse_although_it_is_from_before_the_freeze(tmp_path: Path) -> None:
    def method(model: Any) -> Nxm:
        switches = AdmmSwitches(finish="refit", admm_fraction=0.6)
        return NxmRefit(select_targets(model, RULES), rho=1e-3, switches=switches)

    trainer = trainer_of(tmp_path, method, eval_strategy="epoch", load_best_model_at_end=True, learning_rate=0.05)
    scores = iter([0.9, 0.1, 0.1, 0.1])
    trainer.compute_metrics = lambda _: {"score": next(scores)}
    trainer.args.metric_for_best_model, trainer.args.greater_is_better = "eval_score", True
    trainer.train()
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-3")
    assert not trainer.sparse_method.prunes  # frozen since
    trainer.save_model(str(tmp_path / "best"))
    assert is_sparse(tmp_path / "best" / "model.safetensors")
    shutil.rmtree(tmp_path / "best")


def test_a_trainer_without_a_model_is_refused(tmp_path: Path) -> None:
    kind = sparse_trainer(lambda model: Nxm(select_targets(model, RULES), rho=1e-3))
    with pytest.raises(ModelError, match="needs the model when the trainer is made"):
        kind(args=TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True), model_init=bert)
