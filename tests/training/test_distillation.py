"""Learning from a teacher: the terms against computations by hand, the trainer's loss, and a teacher that does not fit."""

from __future__ import annotations

import copy
import io
import json
import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from nxm_sweep.config.compose import compose_settings
from nxm_sweep.errors import ModelError
from nxm_sweep.methods import METHODS
from nxm_sweep.settings import TrialSettings
from nxm_sweep.sparsity import check_targets
from nxm_sweep.training.distillation import (
    Distillation,
    Mixture,
    attention_term,
    class_term,
    hidden_term,
    matching_layers,
    segments,
)
from nxm_sweep.training.teacher import Teacher, build_distillation, check_labels, find_teacher
from nxm_sweep.training.trainer import SparseTrainer
from nxm_sweep.trial.build import build_method
from nxm_sweep.trial.digests import DigestMemo
from nxm_sweep.trial.identity import identity_of
from nxm_sweep.trial.run import run_point

VOCABULARY = 40
FULL = Mixture(hidden=1.0, attention=1.0)


def bert(
    *, seed: int = 0, dropout: float = 0.0, layers: int = 2, width: int = 16, heads: int = 2, outputs: int = 2
) -> Any:
    torch.manual_seed(seed)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=32,
            max_position_embeddings=16,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            initializer_range=0.2,
            id2label={number: f"LABEL_{number}" for number in range(outputs)},
        )
    )


def rows_of(count: int, seed: int = 0) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    return [
        {"input_ids": [draw.randrange(1, VOCABULARY) for _ in range(draw.randint(3, 10))], "labels": draw.randrange(2)}
        for _ in range(count)
    ]


def pad(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    longest = max(len(row["input_ids"]) for row in rows)
    ids = torch.tensor([row["input_ids"] + [0] * (longest - len(row["input_ids"])) for row in rows])
    labels = torch.tensor([row["labels"] for row in rows])
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels}


def trainer_of(
    folder: Path,
    model: Any,
    distillation: Distillation | None,
    method: str = "dense",
    *,
    kind: type[Trainer] = SparseTrainer,
    callbacks: Sequence[TrainerCallback] = (),
    **changes: Any,
) -> Any:
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "num_train_epochs": 2,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-3,
        "optim": "adamw_torch_fused",
        "save_strategy": "no",
        "logging_strategy": "epoch",
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    ours: dict[str, Any] = {}
    if kind is not Trainer:
        ours = {"sparse_method": build_method(_method(method), model), "distillation": distillation}
    rows: list[Any] = [rows_of(24), rows_of(10, seed=1)]
    return kind(
        model=model,
        args=TrainingArguments(**{**settings, **changes}),
        train_dataset=rows[0],
        eval_dataset=rows[1],
        data_collator=pad,
        callbacks=list(callbacks),
        **ours,
    )


def _method(name: str) -> TrialSettings:
    return compose_settings(["task=demo/paraphrase", "model=minilm_l6", f"method={name}"])


def bits(tensors: Mapping[str, Tensor]) -> dict[str, bytes]:
    return {name: value.detach().contiguous().numpy().tobytes() for name, value in tensors.items()}


# --- the terms ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_class_term_is_pytorchs_kl_divergence_and_its_gradient_is_hintons(temperature: float) -> None:
    torch.manual_seed(0)
    student, teacher = (
        torch.randn(5, 3, dtype=torch.float64, requires_grad=True),
        torch.randn(5, 3, dtype=torch.float64),
    )
    term = class_term(student, teacher, temperature)
    soft = [torch.softmax(logits.detach() / temperature, 1) for logits in (student, teacher)]
    expected = temperature**2 * functional.kl_div(soft[0].log(), soft[1], reduction="batchmean")
    torch.testing.assert_close(term.detach(), expected)
    (gradient,) = torch.autograd.grad(term, student)
    torch.testing.assert_close(gradient, temperature * (soft[0] - soft[1]) / 5)  # Hinton et al., equation 2, times T^2


@pytest.mark.parametrize(
    ("mixture", "outputs"),
    [
        *((Mixture(temperature=temperature), 2) for temperature in (0.5, 1.0, 3.0)),
        (Mixture(), 1),
        (Mixture(logits=0.0, hidden=1.0), 2),
        (Mixture(logits=0.0, attention=1.0), 2),
        (FULL, 2),
    ],
    ids=["T=0.5", "T=1", "T=3", "regression", "hidden", "attention", "all"],
)
def test_a_student_that_is_its_own_teacher_gets_no_gradient_from_it(mixture: Mixture, outputs: int) -> None:
    def gradient(teacher: Any) -> float:
        distillation = Distillation(teacher, mixture)
        distillation.attach_(student, torch.device("cpu"))
        student.zero_grad()
        torch.autograd.backward(distillation.term(student(**batch, **distillation.extras), batch))
        found = [weight.grad for weight in student.parameters() if weight.grad is not None]
        assert found
        return float(torch.nn.utils.get_total_norm(found))

    student = bert(outputs=outputs).double().train()
    batch = {name: value for name, value in pad(rows_of(6)).items() if name != "labels"}
    assert gradient(copy.deepcopy(student)) < 1e-14
    assert gradient(bert(seed=1, outputs=outputs).double()) > 1e-4


def test_hidden_and_attention_terms_are_means_over_rows_tokens_and_features_without_padding() -> None:
    torch.manual_seed(0)
    lengths, layers, rows, tokens, width, heads = [2, 5, 3], 2, 3, 5, 4, 2
    mask = torch.tensor([[1] * length + [0] * (tokens - length) for length in lengths])
    states = [[torch.randn(rows, tokens, width) for _ in range(layers)] for _ in range(2)]
    maps = [[torch.rand(rows, heads, tokens, tokens) for _ in range(layers)] for _ in range(2)]
    hidden, attention = [], []
    for layer in range(layers):
        for row, length in enumerate(lengths):
            cut = states[0][layer][row, :length] - states[1][layer][row, :length]
            hidden.append(float(cut.square().mean()))
            parts = maps[0][layer][row, :, :length, :length] - maps[1][layer][row, :, :length, :length]
            attention.append(float(parts.square().mean()))
    assert float(hidden_term(states[0], states[1], mask)) == pytest.approx(np.mean(hidden), rel=1e-5)
    assert float(attention_term(maps[0], maps[1], mask)) == pytest.approx(np.mean(attention), rel=1e-5)


@pytest.mark.parametrize(
    ("student", "teacher", "places"), [(2, 2, [1, 2]), (3, 6, [2, 4, 6]), (6, 24, [4, 8, 12, 16, 20, 24])]
)
def test_a_student_learns_from_every_kth_layer(student: int, teacher: int, places: list[int]) -> None:
    assert matching_layers(student, teacher) == places


@pytest.mark.parametrize(("student", "teacher"), [(4, 6), (6, 4), (0, 4)])
def test_layers_that_do_not_divide_are_refused(student: int, teacher: int) -> None:
    with pytest.raises(ModelError, match=f"a multiple of the student's but got {teacher} and {student}"):
        matching_layers(student, teacher)


def test_a_deeper_teacher_is_compared_at_every_second_layer_and_at_the_embeddings() -> None:
    student, teacher = bert(layers=2), bert(seed=1, layers=4)
    distillation = Distillation(teacher, Mixture(logits=0.0, hidden=2.0))
    batch = {name: value for name, value in pad(rows_of(1)).items() if name != "labels"}  # nothing is padded
    term = distillation.term(student.eval()(**batch, **distillation.extras), batch)
    ours = student(**batch, output_hidden_states=True).hidden_states
    theirs = teacher(**batch, output_hidden_states=True).hidden_states
    expected = [functional.mse_loss(ours[place], theirs[2 * place]) for place in range(3)]
    torch.testing.assert_close(term, 2.0 * torch.stack(expected).mean())


@pytest.mark.parametrize("bad", [{"weight": 1.1}, {"weight": -0.1}, {"temperature": 0.0}, {"hidden": -1.0}])
def test_a_mixture_out_of_range_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ModelError, match=next(iter(bad))):
        Mixture(**bad)


def test_segments_are_those_of_berts_tokenizer(tiny_model: Path) -> None:
    tokenizer = BertTokenizer.from_pretrained(tiny_model)
    texts = [("the a", "of the man"), ("the", "a")]
    encoded = tokenizer([one for one, _ in texts], [two for _, two in texts], padding=True, return_tensors="pt")
    assert encoded["token_type_ids"].sum() > 0
    made = segments(encoded["input_ids"], encoded["attention_mask"], tokenizer.sep_token_id)
    assert torch.equal(made, encoded["token_type_ids"])


def test_a_teacher_that_reads_segments_gets_them_where_the_students_rows_lack_them() -> None:
    teacher = bert(seed=1)
    batch = {"input_ids": torch.tensor([[3, 7, 2, 9, 2, 0]]), "attention_mask": torch.tensor([[1, 1, 1, 1, 1, 0]])}
    outputs = bert(seed=2)(**batch)
    expected = teacher.eval()(**batch, token_type_ids=torch.tensor([[0, 0, 0, 1, 1, 0]])).logits
    term = Distillation(teacher, Mixture(temperature=1.0), separator=2).term(outputs, batch)
    torch.testing.assert_close(term, class_term(outputs.logits, expected, 1.0))


# --- the trainer -------------------------------------------------------------------------------------------------------


def test_a_teacher_of_no_weight_leaves_every_bit_of_training_with_dropout_as_it_was(tmp_path: Path) -> None:
    found = []
    for kind, distillation in (
        (Trainer, None),
        (SparseTrainer, None),
        (SparseTrainer, Distillation(bert(seed=1, dropout=0.3), Mixture(weight=0.0))),
    ):
        trainer = trainer_of(tmp_path, bert(dropout=0.1), distillation, kind=kind)
        trainer.train()
        found.append(bits(trainer.model.state_dict()))
    assert found[1] == found[0]
    assert found[2] == found[0]


def test_training_minimises_the_mixture_and_evaluation_the_tasks_loss_alone(tmp_path: Path) -> None:
    student, teacher = bert(), bert(seed=1, dropout=0.5)
    twin = copy.deepcopy(teacher).eval()
    calls: list[bool] = []
    teacher.register_forward_hook(lambda module, *_: calls.append(module.training))
    mixture = Mixture(weight=0.3, temperature=2.0)
    trainer = trainer_of(tmp_path, student, Distillation(teacher, mixture))
    batch = pad(rows_of(24)[:8])
    with torch.no_grad():
        ours = student.eval()(**batch)
        theirs = twin(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    soft = functional.kl_div(
        (ours.logits / 2).log_softmax(1), (theirs / 2).log_softmax(1), reduction="batchmean", log_target=True
    )
    expected = 0.7 * float(ours.loss) + 0.3 * 4 * float(soft)
    student.train()
    assert trainer.compute_loss(student, dict(batch)).item() == pytest.approx(expected, rel=1e-5)
    student.eval()
    assert trainer.compute_loss(student, dict(batch)).item() == pytest.approx(float(ours.loss), rel=1e-6)
    assert calls == [False]
    trainer.train()
    assert calls == [False] * (1 + 2 * 3)  # once per micro-batch
    trainer.evaluate()
    assert len(calls) == 7


def test_four_micro_batches_of_two_move_the_weights_like_one_batch_of_eight(tmp_path: Path) -> None:
    finished, logged = [], []
    for size, accumulation in ((8, 1), (2, 4)):
        student = bert().double()
        trainer = trainer_of(
            tmp_path,
            student,
            Distillation(bert(seed=1).double(), FULL),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            train_sampling_strategy="sequential",
            optim="sgd",
            learning_rate=0.5,
        )
        trainer.train()
        assert trainer.state.global_step == 6
        finished.append(student.state_dict())
        logged.append([entry["distillation_loss"] for entry in trainer.state.log_history if "loss" in entry])
    torch.testing.assert_close(finished[1], finished[0], rtol=1e-6, atol=1e-8)
    assert logged[1] == pytest.approx(logged[0], rel=1e-5)
    assert len(logged[0]) == 2


@pytest.mark.parametrize("method", METHODS)
def test_every_method_reaches_its_pattern_with_a_teacher_and_elsewhere_than_without(
    tmp_path: Path, method: str
) -> None:
    weights = []
    for distillation in (None, Distillation(bert(seed=1), FULL)):
        student = bert()
        trainer = trainer_of(tmp_path, student, distillation, method, num_train_epochs=1)
        trainer.train()
        with trainer.sparse_method.pruned():
            assert all(check.holds for check in check_targets(trainer.sparse_method.targets))
            weights.append(bits(student.state_dict()))
    assert bool(trainer.sparse_method.targets) == (method != "dense")
    assert weights[0] != weights[1]


class _Stopped(Exception):  # noqa: N818 - a stand-in for a power cut
    pass


class _StopAfterFirstSave(TrainerCallback):
    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        raise _Stopped


def test_a_resumed_run_is_the_uninterrupted_one_and_checkpoints_hold_no_teacher(tmp_path: Path) -> None:
    def trainer(folder: str, seed: int, *callbacks: TrainerCallback) -> Any:
        return trainer_of(
            tmp_path / folder,
            bert(seed=seed, dropout=0.1),
            Distillation(bert(seed=1, layers=4), FULL),
            "nxm",
            callbacks=callbacks,
            save_strategy="epoch",
        )

    whole = trainer("whole", 0)
    whole.train()
    with pytest.raises(_Stopped):
        trainer("cut", 0, _StopAfterFirstSave()).train()
    checkpoint = tmp_path / "cut" / "checkpoint-3"
    saved = load_file(checkpoint / "model.safetensors")
    assert set(saved) == set(bert().state_dict())
    random.seed(77)
    torch.manual_seed(77)
    resumed = trainer("cut", 5)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert bits(resumed.model.state_dict()) == bits(whole.model.state_dict())
    losses = [
        [entry["distillation_loss"] for entry in run.state.log_history if "loss" in entry] for run in (whole, resumed)
    ]
    assert losses[0] == losses[1]


def test_a_loss_from_outside_the_model_takes_no_teacher(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="its own loss, not compute_loss_func"):
        SparseTrainer(
            model=bert(),
            args=TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True),
            compute_loss_func=lambda *_, **__: torch.zeros(()),
            distillation=Distillation(bert(seed=1), Mixture()),
        )


# --- a teacher on disk -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def teacher_folder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a trained head of the demo's classes."""
    folder = tmp_path_factory.mktemp("teacher") / "model"
    labels = compose_settings(["task=demo/paraphrase"]).task.labels
    config = BertConfig.from_pretrained(tiny_model, id2label=dict(enumerate(labels)))
    torch.manual_seed(3)
    BertForSequenceClassification(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


def taught(teacher: Path, student: Path, *overrides: str) -> TrialSettings:
    return compose_settings(
        [
            *("task=demo/paraphrase", "model=local", f"model.path={student}", "distillation=logits"),
            *("distillation.teacher.source=folder", f"distillation.teacher.path={teacher}", *overrides),
        ]
    )


def _changed_config(folder: Path, place: Path, **changes: Any) -> Path:
    shutil.copytree(folder, place)
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**config, **changes}))
    return place


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["different", "same", "both"], r"the teacher has 3 outputs \(different, same, both\) but the task needs 2"),
        (["b", "a"], "the teacher's classes are b, a but the student's are a, b, in this order"),
        (["x", "y"], "the teacher's classes are x, y but the student's are a, b"),
    ],
)
def test_a_teacher_whose_outputs_mean_something_else_is_refused(
    tmp_path: Path, teacher_folder: Path, names: list[str], message: str
) -> None:
    folder = _changed_config(teacher_folder, tmp_path / "t", id2label=dict(enumerate(names)))
    settings = taught(folder, teacher_folder).distillation
    with pytest.raises(ModelError, match=message):
        check_labels(settings, Teacher(folder, ""), ("a", "b"))
    settings.logits = 0.0  # outputs are not compared
    check_labels(settings, Teacher(folder, ""), ("a", "b"))


@pytest.mark.parametrize("names", [["A", "b"], ["LABEL_0", "LABEL_1"]])
def test_case_and_names_that_say_nothing_are_no_difference(
    tmp_path: Path, teacher_folder: Path, names: list[str]
) -> None:
    folder = _changed_config(teacher_folder, tmp_path / "t", id2label=dict(enumerate(names)))
    check_labels(taught(folder, teacher_folder).distillation, Teacher(folder, ""), ("a", "b"))


@pytest.mark.fault("model", "a teacher of another vocabulary", "exit code 2 with the entries")
def test_a_teacher_of_another_vocabulary_is_refused(tmp_path: Path, teacher_folder: Path, tiny_model: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    shutil.copy(teacher_folder / "config.json", folder)
    shutil.copy(teacher_folder / "model.safetensors", folder)
    words = (tiny_model / "vocab.txt").read_text().split()
    words[7], words[8] = words[8], words[7]
    (folder / "words.txt").write_text("\n".join(words))
    BertTokenizer(str(folder / "words.txt")).save_pretrained(folder)
    with pytest.raises(ModelError, match=r"another vocabulary than the student: .* 4 entries differ"):
        find_teacher(taught(folder, tiny_model), tiny_model)


@pytest.mark.parametrize(
    ("change", "term", "message"),
    [
        (
            {"hidden_size": 64},
            "hidden",
            "distillation.hidden needs the same hidden_size in teacher and student but got 64 and 32",
        ),
        (
            {"num_attention_heads": 4},
            "attention",
            "needs the same num_attention_heads in teacher and student but got 4 and 2",
        ),
        ({"num_hidden_layers": 3}, "hidden", "a multiple of the student's but got 3 and 2"),
    ],
)
def test_layers_that_do_not_fit_are_refused_before_a_model_loads(
    tmp_path: Path, teacher_folder: Path, tiny_model: Path, change: dict[str, int], *, term: str, message: str
) -> None:
    folder = _changed_config(teacher_folder, tmp_path / "t", **change)
    (folder / "model.safetensors").write_bytes(b"not read")
    with pytest.raises(ModelError, match=message):
        find_teacher(taught(folder, tiny_model, f"distillation.{term}=1"), tiny_model)
    assert find_teacher(taught(folder, tiny_model), tiny_model) is not None


def test_a_teacher_without_a_trained_head_is_refused(tmp_path: Path, teacher_folder: Path, tiny_model: Path) -> None:
    folder = tmp_path / "headless"
    shutil.copytree(teacher_folder, folder)
    weights = {
        name: value for name, value in load_file(folder / "model.safetensors").items() if "classifier" not in name
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    settings = taught(folder, tiny_model, f"output_dir={tmp_path / 'o'}")
    with pytest.raises(ModelError, match=r"no trained classifier: it lacks 2 weights, such as classifier\.bias"):
        run_point(settings, Console(file=io.StringIO()))


def test_loading_a_teacher_draws_no_random_number(teacher_folder: Path, tiny_model: Path) -> None:
    settings = taught(teacher_folder, tiny_model)
    before = torch.get_rng_state()
    distillation = build_distillation(
        settings.distillation, find_teacher(settings, tiny_model), BertTokenizer.from_pretrained(tiny_model)
    )
    assert distillation is not None
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(weight.requires_grad for weight in distillation.teacher.parameters())
    assert distillation.mixture == Mixture()


def test_a_missing_teacher_is_named_before_data_or_models_are_read(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nxm_sweep.trial.train.load_rows", lambda *_: pytest.fail("the rows were read"))
    with pytest.raises(ModelError, match="the teacher: there is no folder nowhere"):
        run_point(taught(Path("nowhere"), tiny_model), Console(file=io.StringIO()))
    trial = [f"output_dir={tmp_path}", "distillation.teacher.source=trial"]
    with pytest.raises(ModelError, match="there is no finished trial 'nowhere'"):
        run_point(taught(Path("nowhere"), tiny_model, *trial), Console(file=io.StringIO()))
    (tmp_path / "trials" / "abc").mkdir(parents=True)
    (tmp_path / "trials" / "abc" / "result.json").write_text("{}")
    with pytest.raises(ModelError, match="the trial abc cannot teach: its model was not saved") as caught:
        run_point(taught(Path("abc"), tiny_model, *trial), Console(file=io.StringIO()))
    assert "save_model=true" in caught.value.hint


def test_a_finished_trial_teaches_another_under_the_identity_that_was_planned(tmp_path: Path, tiny_model: Path) -> None:
    common = [
        *("task=demo/paraphrase", "model=local", f"model.path={tiny_model}", f"output_dir={tmp_path / 'o'}"),
        *(
            "training.epochs=1",
            "training.max_train_samples=64",
            "training.max_eval_samples=32",
            "training.max_length=32",
        ),
    ]
    console = Console(file=io.StringIO())
    dense, _ = run_point(compose_settings([*common, "method=dense", "save_model=true"]), console)
    student = [*common, "method=nxm", "distillation=full"]
    by_identity = compose_settings([*student, f"distillation.teacher.path={dense['identity']}"])
    kept = tmp_path / "o" / "trials" / dense["identity"] / "model"
    planned = DigestMemo(tmp_path / "memo.json").of(by_identity)
    assert DigestMemo(tmp_path / "memo.json").of(by_identity) == planned
    record, _ = run_point(by_identity, console)
    identity, _ = identity_of(
        by_identity, data_digest=planned.data, model_digest=planned.model, teacher_digest=planned.teacher
    )
    assert record["identity"] == identity
    assert record["hashed"]["distillation"]["teacher"] == planned.teacher
    assert record["distillation"] == {"name": "full", "teacher_digest": planned.teacher}
    assert record["epochs"][0]["distillation_loss"] > 0
    assert record["sparsity"]["exact"]
    for place in (f"distillation.teacher.path={kept.parent}", f"distillation.teacher.path={kept}"):
        source = "folder" if place.endswith("model") else "trial"
        settings = compose_settings([*student, place, f"distillation.teacher.source={source}"])
        again, trained = run_point(settings, console)  # the same trial, by another name of its teacher
        assert (again["identity"], trained) == (identity, False)
    assert "distillation" not in dense
    assert "distillation_loss" not in dense["epochs"][0]


def test_a_changed_teacher_is_read_again(tmp_path: Path, teacher_folder: Path, tiny_model: Path) -> None:
    folder = tmp_path / "teacher"
    shutil.copytree(teacher_folder, folder)
    memo = tmp_path / "memo.json"
    before = DigestMemo(memo).of(taught(folder, tiny_model))
    off = taught(folder, tiny_model)
    off.distillation.name = "none"
    assert DigestMemo(memo).of(off).teacher == ""
    weights = load_file(folder / "model.safetensors")
    weights["classifier.bias"] += 1.0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    after = DigestMemo(memo).of(taught(folder, tiny_model))
    assert (before.data, before.model) == (after.data, after.model)
    assert before.teacher != after.teacher


def test_the_students_attention_is_left_alone_where_it_is_not_compared(tmp_path: Path) -> None:
    for mixture, expected in ((Mixture(hidden=1.0), "sdpa"), (FULL, "eager")):
        student = bert()
        trainer_of(tmp_path, student, Distillation(bert(seed=1), mixture))
        assert student.config._attn_implementation == expected
