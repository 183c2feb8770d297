"""Other tasks of Transformers: the scripts of docs/other-tasks.md, gradient accumulation, and a teacher for every head."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from torch import Tensor, nn
from transformers import TrainingArguments

from nxm_sweep.errors import ModelError
from nxm_sweep.export.audit import audit_model
from nxm_sweep.export.weights import open_weights
from nxm_sweep.methods import Asp
from nxm_sweep.sparsity import Pattern, check_targets, encoder_rules, select_targets
from nxm_sweep.training.distillation import Distillation, Mixture
from nxm_sweep.training.trainer import SparseTrainer
from tests.training.other_tasks import MODELS, VOCABULARY, build, save, write_rows

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/other-tasks.md"
SCRIPTS = ROOT / "examples/other_tasks"
LAYERS = {"causal_language_model, GPT-2": "h.*", "sequence_to_sequence": "block.*"}
MATRICES = {"causal_language_model": 14, "causal_language_model, GPT-2": 8, "sequence_to_sequence": 32}
"""Targets of two layers: Llama has seven matrices in each, GPT-2 four, T5 six in an encoder's and ten in a decoder's."""
every_task = pytest.mark.parametrize("task", MODELS)


def arguments(folder: Path, **options: Any) -> TrainingArguments:
    return TrainingArguments(
        str(folder), report_to="none", use_cpu=True, disable_tqdm=True, save_strategy="no", **options
    )


def make_batch(task: str, rows: int = 4) -> dict[str, Tensor]:
    """Return a batch with labels; of a language model, row r counts r + 1 positions, so that no two rows weigh the same."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, VOCABULARY, (rows, 8), generator=generator)
    half = torch.arange(rows) % 2
    match task:
        case "image_classification":
            return {"pixel_values": torch.randn(rows, 3, 16, 16, generator=generator), "labels": half}
        case "question_answering":
            return {"input_ids": ids, "start_positions": half + 1, "end_positions": half + 3}
        case "multiple_choice":
            return {"input_ids": torch.stack([ids, ids.flip(1)], dim=1), "labels": half}
    counted = torch.arange(8) <= torch.arange(rows)[:, None] + int("causal" in task)
    labels = ids % 2 if task == "token_classification" else ids
    return {"input_ids": ids, "labels": labels.masked_fill(~counted, -100)}


def split(batch: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    return [{name: value[row] for name, value in batch.items()} for row in range(len(next(iter(batch.values()))))]


@pytest.mark.filterwarnings(
    "ignore:'pin_memory' argument is set as true but no accelerator"
)  # a script takes the device
@every_task
def test_script_of_the_page_trains_and_saves_a_model_that_holds_its_pattern(
    task: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    script = SCRIPTS / f"{task.partition(',')[0]}.py"
    model, rows = save(task, tiny_model, tmp_path / "model"), write_rows(task, tmp_path / "rows.jsonl")
    monkeypatch.setattr(sys, "argv", [script.name, str(model), str(rows), str(tmp_path / "out")])
    runpy.run_path(str(script), run_name="__main__")
    found, _ = audit_model(open_weights(tmp_path / "out"), None)
    assert not found.broken
    assert len(found.checks) == MATRICES.get(task, 12)
    assert {check.constraint for check in found.checks} == {str(Pattern(2, 4))}
    reloaded = type(build(task)).from_pretrained(tmp_path / "out")
    assert set(reloaded.state_dict()) == set(build(task).state_dict())


def test_every_script_is_on_the_page_and_every_script_of_the_page_is_there() -> None:
    named = set(re.findall(r"examples/other_tasks/(\w+\.py)", PAGE.read_text()))
    assert named == {path.name for path in SCRIPTS.glob("*.py")}
    assert named == {f"{task.partition(',')[0]}.py" for task in MODELS}


@every_task
def test_four_micro_batches_of_one_row_give_the_gradient_that_their_loss_defines(task: str, tmp_path: Path) -> None:
    """A decoder's loss is the mean over the positions of all micro-batches, any other the mean of their means."""
    batch = make_batch(task)
    model = build(task).eval()  # without dropout
    reference = build(task).eval()
    if "causal" in task:
        reference(**batch).loss.backward()
    else:
        for row in split(batch):
            (reference(**{name: value[None] for name, value in row.items()}).loss / 4).backward()
    assert gradients_of(model, batch, tmp_path, None) == pytest.approx(flat_gradient(reference), rel=1e-3, abs=1e-5)


def flat_gradient(model: nn.Module) -> list[float]:
    gradient = torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None])
    return [float(value) for value in gradient[:: max(1, len(gradient) // 500)]]


def gradients_of(model: Any, batch: dict[str, Tensor], folder: Path, distillation: Distillation | None) -> list[float]:
    """Return a sample of the gradient that the optimizer sees after four micro-batches of one row."""
    seen: list[list[float]] = []

    class Optimizer(torch.optim.SGD):
        def step(self, *further: Any, **options: Any) -> None:  # type: ignore[override]
            seen.append(flat_gradient(model))

    optimizer = Optimizer(model.parameters(), lr=0.1)
    trainer = SparseTrainer(
        model,
        arguments(
            folder,
            max_steps=1,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=4,
            max_grad_norm=0.0,
            remove_unused_columns=False,
        ),
        train_dataset=split(batch),
        data_collator=lambda rows: {name: torch.stack([row[name] for row in rows]) for name in rows[0]},
        optimizers=(optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)),
        distillation=distillation,
    )
    model.train = lambda _mode=True: model
    model.training = True
    trainer.train()
    assert len(seen) == 1
    return seen[0]


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``T^2 KL(teacher || student)`` per row by PyTorch, summed."""
    return temperature**2 * nn.functional.kl_div(
        (student / temperature).log_softmax(-1), (teacher / temperature).softmax(-1), reduction="sum"
    )


def expected_term(task: str, student: Any, teacher: Any, batch: dict[str, Tensor]) -> Tensor:
    """Return the teacher's term, spelled out for each task."""
    ours, theirs = student(**batch), teacher(**batch)
    if task == "question_answering":
        pairs = [(ours.start_logits, theirs.start_logits), (ours.end_logits, theirs.end_logits)]
        return torch.stack([divergence(*pair, 2.0) / len(pair[0]) for pair in pairs]).mean()
    if ours.logits.ndim == 2:
        return divergence(ours.logits, theirs.logits, 2.0) / len(ours.logits)
    total, count = torch.zeros(()), 0
    for row, labels in enumerate(batch["labels"].tolist()):
        for position, label in enumerate(labels):
            at = position - 1 if "causal" in task else position  # a causal model answers one position before
            if label != -100 and at >= 0:
                total = total + divergence(ours.logits[row, at], theirs.logits[row, at], 2.0)
                count += 1
    return total / count


@every_task
def test_teachers_term_is_over_rows_or_over_the_positions_that_the_loss_counts(task: str) -> None:
    student, teacher, batch = build(task).eval(), build(task, seed=1).eval(), make_batch(task)
    distillation = Distillation(teacher, Mixture(weight=0.5))
    distillation.attach_(student, torch.device("cpu"))
    with torch.no_grad():
        term = distillation.term(student(**batch), batch)
        assert float(term) == pytest.approx(float(expected_term(task, student, teacher, batch)), rel=1e-4)
        assert float(term) > 1e-3


@every_task
def test_model_that_is_its_own_teacher_learns_nothing_from_it(task: str) -> None:
    student, batch = build(task).eval(), make_batch(task)
    distillation = Distillation(build(task), Mixture(weight=1.0))
    distillation.attach_(student, torch.device("cpu"))
    outputs = student(**batch)
    loss = distillation.mix(outputs.loss if outputs.loss is not None else outputs[0], outputs, batch)
    loss.backward()  # type: ignore[no-untyped-call]
    assert max(float(each.grad.abs().max()) for each in student.parameters() if each.grad is not None) < 1e-5


@pytest.mark.parametrize("task", ["causal_language_model", "causal_language_model, GPT-2"])
def test_micro_batches_of_a_decoder_weigh_by_their_positions_with_a_teacher_too(task: str, tmp_path: Path) -> None:
    student, batch = build(task).eval(), make_batch(task)
    teacher = build(task, seed=1).eval()
    reference = build(task).eval()
    (0.3 * reference(**batch).loss + 0.7 * expected_term(task, reference, teacher, batch)).backward()
    distillation = Distillation(teacher, Mixture(weight=0.7))
    taught = gradients_of(student, batch, tmp_path, distillation)
    assert taught == pytest.approx(flat_gradient(reference), rel=1e-3, abs=1e-5)


@every_task
def test_trainer_distills_every_head(task: str, tmp_path: Path) -> None:
    trainer = SparseTrainer(
        build(task),
        arguments(tmp_path, max_steps=2, logging_steps=1, remove_unused_columns=False),
        train_dataset=split(make_batch(task)),
        data_collator=lambda rows: {name: torch.stack([row[name] for row in rows]) for name in rows[0]},
        distillation=Distillation(build(task, seed=1), Mixture()),
    )
    trainer.train()
    terms = [entry["distillation_loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(terms) == 2
    assert min(terms) > 0.0


@pytest.mark.parametrize("task", ["sequence_to_sequence", "image_classification", "multiple_choice"])
def test_layers_of_other_inputs_are_not_compared_and_the_error_says_so(task: str) -> None:
    with pytest.raises(ModelError, match="read one row of tokens") as caught:
        Distillation(build(task), Mixture(hidden=1.0)).attach_(build(task), torch.device("cpu"))
    assert "distillation.hidden=0" in caught.value.hint


@pytest.mark.parametrize("task", ["token_classification", "masked_language_model", "causal_language_model"])
def test_hidden_states_of_other_heads_are_compared(task: str) -> None:
    student, batch = build(task).eval(), make_batch(task)
    distillation = Distillation(build(task, seed=1), Mixture(logits=0.0, hidden=1.0))
    distillation.attach_(student, torch.device("cpu"))
    with torch.no_grad():
        assert float(distillation.term(student(**batch, **distillation.extras), batch)) > 0.0


def test_teacher_of_another_vocabulary_is_refused_in_one_line() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    student, batch = build("causal_language_model"), make_batch("causal_language_model")
    other = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=500, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
            intermediate_size=32,
        )
    )  # fmt: skip
    distillation = Distillation(other, Mixture())
    distillation.attach_(student, torch.device("cpu"))
    with pytest.raises(ModelError, match=r"have shape \(4, 8, 400\), the teacher's \(4, 8, 500\)"):
        distillation.term(student(**batch), batch)


def test_model_without_logits_is_refused() -> None:
    from transformers import BertModel

    student = build("masked_language_model").base_model
    assert isinstance(student, BertModel)
    distillation = Distillation(build("masked_language_model"), Mixture())
    distillation.attach_(student, torch.device("cpu"))
    batch = {"input_ids": make_batch("masked_language_model")["input_ids"]}
    with pytest.raises(ModelError, match="a BertModel returns none"):
        distillation.term(student(**batch), batch)


def test_several_labels_at_once_are_refused() -> None:
    from transformers import BertConfig, BertForSequenceClassification

    make: Any = BertConfig
    config = make(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        num_labels=3, problem_type="multi_label_classification",
    )  # fmt: skip
    student, teacher = BertForSequenceClassification(config), BertForSequenceClassification(config)
    distillation = Distillation(teacher, Mixture())
    distillation.attach_(student, torch.device("cpu"))
    batch = {"input_ids": torch.ones(2, 4, dtype=torch.long)}
    with pytest.raises(ModelError, match="problem_type is multi_label_classification"):
        distillation.term(student(**batch), batch)


def example(name: str) -> str:
    found = re.search(rf"<!-- example: {name} -->\n```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert found is not None
    return found[1]


def test_example_for_gpt2_selects_its_matrices(capsys: pytest.CaptureFixture[str]) -> None:
    exec(example("gpt2"), {"model": build("causal_language_model, GPT-2")})
    assert capsys.readouterr().out == "8 (48, 16)\n"


def test_example_of_a_teacher_trains(tmp_path: Path) -> None:
    task = "token_classification"
    model = build(task)
    names: dict[str, Any] = {
        "model": model,
        "teacher": build(task, seed=1),
        "args": arguments(tmp_path, max_steps=1),
        "train_dataset": split(make_batch(task)),
        "data_collator": lambda rows: {name: torch.stack([row[name] for row in rows]) for name in rows[0]},
        "method": Asp(select_targets(model, encoder_rules(Pattern(2, 4)))),
    }
    exec(example("teacher"), names)
    names["trainer"].train()
    assert all(check.holds for check in check_targets(names["method"].targets))
