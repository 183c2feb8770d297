"""`nxm_sweep.verify` on files made here: what it counts, what it says, and how it exits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from nxm_sweep.export.audit import LOOKED_FOR, audit, likely_pattern
from nxm_sweep.export.manifest import Manifest, checksum, read_manifest, write_manifest
from nxm_sweep.export.weights import SEMI_STRUCTURED, open_weights
from nxm_sweep.sparsity import Constraint, Pattern, Unstructured, project
from nxm_sweep.sparsity.pattern import parse_constraint
from nxm_sweep.sparsity.semi_structured import narrow, pack
from nxm_sweep.verify import main

TWO_OF_FOUR = Pattern(2, 4)
TARGETS = ("encoder.layer.0.query.weight", "encoder.layer.1.query.weight")
EMBEDDINGS = "embeddings.word_embeddings.weight"


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def state_of(pattern: Constraint | None = TWO_OF_FOUR) -> dict[str, Tensor]:
    """An encoder of two matrices of 32 x 64, with a bias and embeddings; one embedding is zero."""
    weights = [seeded(32, 64, seed=seed) for seed in (1, 2)]
    if pattern is not None:
        weights = [project(weight, pattern) for weight in weights]
    embeddings = seeded(10, 32)
    embeddings[3, 5] = 0.0
    return {
        **dict(zip(TARGETS, weights, strict=True)),
        EMBEDDINGS: embeddings,
        "encoder.layer.0.query.bias": seeded(32),
    }


def saved(folder: Path, state: dict[str, Tensor], name: str = "model.safetensors") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / name)
    return folder


def described(folder: Path, kind: str = "dense") -> Path:
    """Write a `sparsity.json` for the two targets of what is saved in a folder."""
    weights = open_weights(folder)
    found = audit(weights, dict.fromkeys(TARGETS, TWO_OF_FOUR))
    checksums = {name: checksum(folder / name) for name in weights.paths}
    write_manifest(folder, Manifest(kind, found.targets(), checksums))
    return folder


def corrupt(weight: Tensor, row: int, column: int) -> None:
    """Put a third value into the group that begins there."""
    group = weight[row, column : column + 4]
    group[(group == 0).nonzero()[0]] = 1e-20


class Verified:
    """What the command answered."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> None:
        self.code = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        self.out, self.err = printed.out, printed.err


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str]) -> Any:
    return lambda *arguments: Verified(capsys, *arguments)


# --- what should hold is known ----------------------------------------------------------------------------------------


def test_manifest_that_holds_is_exit_code_0_with_the_counts(tmp_path: Path, verify: Any) -> None:
    answer = verify(described(saved(tmp_path, state_of())))
    assert (answer.code, answer.err) == (0, "")
    assert "held against sparsity.json (2 of 4)" in answer.out
    (row,) = [line for line in answer.out.splitlines() if line.startswith(TARGETS[0])]
    assert " ".join(row.split()) == f"{TARGETS[0]} 32 x 64 2 of 4 2: 512 50.00% cuSPARSELt, CUTLASS"
    (row,) = [line for line in answer.out.splitlines() if line.startswith(EMBEDDINGS)]
    assert row.split() == [EMBEDDINGS, "1", "320", "1"]
    assert answer.out.endswith("holds: 2 of 2 targets hold exactly 2 of 4; untouched matrices: 1\n")


@pytest.mark.parametrize(("row", "column"), [(0, 0), (17, 40), (31, 60)])
def test_one_corrupted_group_is_exit_code_1_and_named(tmp_path: Path, verify: Any, row: int, column: int) -> None:
    folder = described(saved(tmp_path, state_of()))
    state = load_file(folder / "model.safetensors")
    corrupt(state[TARGETS[1]], row, column)
    save_file(state, folder / "model.safetensors")
    answer = verify(folder)
    assert answer.code == 1
    assert f"{TARGETS[1]} breaks 2 of 4 in 1 group, first at row {row}, column {column}" in answer.err
    assert "another SHA-256" in answer.err
    assert "2: 511  3: 1" in answer.out


def test_changed_value_that_keeps_the_pattern_is_found_by_its_checksum(tmp_path: Path, verify: Any) -> None:
    folder = described(saved(tmp_path, state_of()))
    state = load_file(folder / "model.safetensors")
    state[TARGETS[0]].mul_(2.0)
    save_file(state, folder / "model.safetensors")
    answer = verify(folder)
    assert answer.code == 1
    assert (
        answer.err == "does not hold: model.safetensors has changed since sparsity.json was written: another SHA-256\n"
    )


@pytest.mark.parametrize("change", ["missing", "shape", "zeros", "unlisted file"])
def test_target_list_is_checked(tmp_path: Path, verify: Any, change: str) -> None:
    folder = described(saved(tmp_path, state_of()))
    values = json.loads((folder / "sparsity.json").read_text())
    match change:
        case "missing":
            values["targets"][0]["matrix"], said = "encoder.layer.7.query.weight", "encoder.layer.7.query.weight is not"
        case "shape":
            values["targets"][0]["rows"], said = 16, "has shape 32 x 64, but sparsity.json says 16 x 64"
        case "zeros":
            values["targets"][0]["zeros"], said = 1025, "has 1024 zeros, but sparsity.json says 1025"
        case _:
            values["sha256"], said = {}, "sparsity.json does not list model.safetensors"
    (folder / "sparsity.json").write_text(json.dumps(values))
    answer = verify(folder)
    assert answer.code == 1
    assert said in answer.err


def test_options_say_what_should_hold_where_nothing_else_does(tmp_path: Path, verify: Any) -> None:
    folder = saved(tmp_path, state_of())
    assert verify(folder, "--pattern", "2of4").code == 0
    assert verify(folder, "--keep", 2, "--group", 4).code == 0
    assert verify(folder / "model.safetensors", "--density", 0.5).code == 0
    answer = verify(folder, "--pattern", "1of4")
    assert answer.code == 1
    assert f"{TARGETS[0]} breaks 1 of 4 in 512 groups, first at row 0, column 0" in answer.err


def test_options_are_checked_beside_a_manifest(tmp_path: Path, verify: Any) -> None:
    folder = described(saved(tmp_path, state_of()))
    assert verify(folder, "--pattern", "2of4").code == 0
    assert verify(folder, "--pattern", "4of8").code == 0
    assert verify(folder, "--pattern", "1of4").code == 1
    assert verify(folder, "--pattern", "1of4", "--match", "layer.1.*").code == 1


def test_match_says_where_the_pattern_should_hold(tmp_path: Path, verify: Any) -> None:
    folder = saved(tmp_path, state_of())
    answer = verify(folder, "--pattern", "2of4", "--match", "layer.1.*")
    assert "holds: 1 of 1 targets hold exactly 2 of 4; untouched matrices: 2" in answer.out
    assert verify(folder, "--pattern", "2of4", "--match", "*").code == 0  # the embeddings are dense, as they should be
    answer = verify(folder, "--pattern", "2of4", "--match", "*embeddings")
    assert answer.code == 2
    assert "matches none of the model's 2 matrices without its embeddings" in answer.err.replace("\n", " ")


def test_rows_that_are_no_multiple_do_not_hold(tmp_path: Path, verify: Any) -> None:
    answer = verify(saved(tmp_path, state_of()), "--pattern", "3of7")
    assert answer.code == 1
    assert f"{TARGETS[0]}: in_features must be a multiple of group = 7 but got 64" in answer.err


# --- nothing says what should hold ------------------------------------------------------------------------------------


def test_plain_model_is_reported_as_not_sparse_with_counts(tmp_path: Path, verify: Any) -> None:
    answer = verify(saved(tmp_path, state_of(None)))
    assert answer.code == 1
    assert answer.out.endswith("not sparse: none of 3 matrices holds a pattern; 1 of 4,416 weights are zero (0.02%)\n")
    assert "encoder.layer.*.query.weight" in answer.out


def test_folder_of_a_plain_transformers_model_is_not_sparse(tiny_model: Path, verify: Any) -> None:
    answer = verify(tiny_model)
    weights = [weight for weight in load_file(tiny_model / "model.safetensors").values() if weight.ndim == 2]
    total, zeros = sum(weight.numel() for weight in weights), sum(int((weight == 0).sum()) for weight in weights)
    assert answer.code == 1
    assert f"none of {len(weights)} matrices holds a pattern; {zeros:,} of {total:,} weights are zero" in answer.out


@pytest.mark.parametrize("pattern", [Pattern(1, 4), TWO_OF_FOUR, Pattern(4, 8), Pattern(8, 32)], ids=str)
def test_pattern_of_somebody_elses_model_is_found(tmp_path: Path, verify: Any, pattern: Pattern) -> None:
    answer = verify(saved(tmp_path, state_of(pattern)))
    assert answer.code == 0
    assert "nothing says what should hold; patterns found by looking" in answer.out
    assert f"holds: 2 of 2 targets hold exactly {pattern}; untouched matrices: 1" in answer.out


def test_corrupted_group_is_found_in_somebody_elses_model(tmp_path: Path, verify: Any) -> None:
    state = state_of()
    corrupt(state[TARGETS[0]], 4, 8)
    answer = verify(saved(tmp_path, state))
    assert answer.code == 1
    assert answer.err == f"does not hold: {TARGETS[0]} breaks 2 of 4 in 1 group, first at row 4, column 8\n"


@pytest.mark.fault(
    "model",
    "a model to verify whose zeros follow no pattern",
    "exit code 1, and it is called unstructured, with its share of zeros and the option that checks it",
)
def test_unstructured_zeros_are_no_pattern(tmp_path: Path, verify: Any) -> None:
    answer = verify(saved(tmp_path, state_of(Unstructured(0.5))))
    assert answer.code == 1
    assert answer.out.endswith(
        "unstructured: 2 of 3 matrices hold no pattern, but 2,048 of 4,096 weights are zero (50.00%); "
        "--density 0.5 checks that share\n"
    )
    assert verify(tmp_path, "--density", "0.5").code == 0
    high = saved(tmp_path / "high", state_of(Unstructured(0.03)))  # most groups hold 1 of 4 by chance
    answer = verify(high)
    assert (answer.code, answer.err) == (1, "")
    assert "unstructured: 2 of 3 matrices hold no pattern, but" in answer.out


@pytest.mark.parametrize("pattern", LOOKED_FOR, ids=str)
def test_the_pattern_that_was_pruned_to_is_the_one_that_is_found(pattern: Pattern) -> None:
    assert likely_pattern(project(seeded(64, 64), pattern)) == pattern


@pytest.mark.parametrize("matrix", [torch.zeros(8, 8), torch.ones(8, 8), seeded(8, 8)], ids=["zeros", "ones", "random"])
def test_matrix_without_a_pattern_has_none(matrix: Tensor) -> None:
    assert likely_pattern(matrix) is None


# --- files ------------------------------------------------------------------------------------------------------------


def sharded(folder: Path, state: dict[str, Tensor]) -> Path:
    parts = {
        f"model-0000{number}-of-00002.safetensors": names for number, names in ((1, TARGETS[:1]), (2, TARGETS[1:]))
    }
    for part, names in parts.items():
        saved(folder, {name: state[name] for name in names}, part)
    places = {name: part for part, names in parts.items() for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


@pytest.mark.parametrize("given", ["folder", "index"])
def test_sharded_model_is_read_whole(tmp_path: Path, verify: Any, given: str) -> None:
    folder = sharded(tmp_path, state_of())
    answer = verify(folder if given == "folder" else folder / "model.safetensors.index.json")
    assert answer.out.endswith("holds: 2 of 2 targets hold exactly 2 of 4; untouched matrices: 0\n")


def test_corruption_in_the_second_shard_is_found(tmp_path: Path, verify: Any) -> None:
    state = state_of()
    corrupt(state[TARGETS[1]], 0, 4)
    assert verify(sharded(tmp_path, state), "--pattern", "2of4").code == 1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_packed_matrices_are_unpacked_and_counted(tmp_path: Path, verify: Any, dtype: str) -> None:
    state = {}
    for name, tensor in state_of().items():
        state[name] = narrow(name, tensor, getattr(torch, dtype))
        if name in TARGETS:
            packed = pack(name, state.pop(name))
            state |= {f"{name}.packed": packed.values, f"{name}.meta": packed.meta}
    folder = described(saved(tmp_path, state, SEMI_STRUCTURED), "semi_structured")
    answer = verify(folder)
    assert (answer.code, answer.err) == (0, "")
    assert "2: 512" in answer.out
    state[f"{TARGETS[0]}.meta"][0, 0] ^= 1
    save_file(state, folder / SEMI_STRUCTURED)
    assert verify(folder).code == 1


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("model.safetensors", b"\x00" * 40, "model.safetensors cannot be read"),
        ("pytorch_model.bin", b"", "holds no model"),
        ("model.safetensors.index.json", b"[]", "is no index of safetensors files"),
        ("model.safetensors.index.json", b'{"weight_map": {"w": "../w.safetensors"}}', "outside its own folder"),
        (
            "model.safetensors.index.json",
            b'{"weight_map": {"w": "gone.safetensors"}}',
            "gone.safetensors cannot be read",
        ),
    ],
)
def test_unreadable_model_is_bad_input(tmp_path: Path, verify: Any, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    answer = verify(tmp_path)
    assert answer.code == 2
    assert said in answer.err
    assert len(answer.err.splitlines()) <= 2


def test_truncated_file_is_bad_input(tmp_path: Path, verify: Any) -> None:
    path = saved(tmp_path, state_of()) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert verify(tmp_path).code == 2


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"schema": 2}', '{"schema": 1, "format": "dense", "targets": [{}], "sha256": {}}']
)
def test_damaged_manifest_is_bad_input(tmp_path: Path, verify: Any, text: str) -> None:
    saved(tmp_path, state_of())
    (tmp_path / "sparsity.json").write_text(text)
    answer = verify(tmp_path)
    assert answer.code == 2
    assert answer.err.startswith("error: ")


@pytest.mark.parametrize(
    "options",
    [
        ["--pattern", "2from4"],
        ["--pattern", "5of4"],
        ["--pattern", "2of4", "--keep", "2"],
        ["--keep", "2"],
        ["--density", "1.5"],
        ["--match", "x"],
        ["--pattern", "2of4", "--match", "nothing"],
    ],
    ids=" ".join,
)
def test_bad_option_is_one_line_and_exit_code_2(tmp_path: Path, verify: Any, options: list[str]) -> None:
    answer = verify(saved(tmp_path, state_of()), *options)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: ")
    assert len(answer.err.splitlines()) <= 2


def test_trial_folder_gets_a_hint(tmp_path: Path, verify: Any) -> None:
    (tmp_path / "result.json").write_text("{}")
    assert "save_model=true force=true" in verify(tmp_path).err
    saved(tmp_path / "model", state_of())
    assert f"did you mean {tmp_path / 'model'}?" in verify(tmp_path).err.replace("\n", "")


def test_manifest_survives_writing_and_reading(tmp_path: Path) -> None:
    folder = described(saved(tmp_path, state_of()))
    read = read_manifest(folder)
    assert read is not None
    write_manifest(folder, read)
    assert read_manifest(folder) == read
    assert [(target.matrix, target.shape, target.constraint) for target in read.targets] == [
        (name, (32, 64), TWO_OF_FOUR) for name in TARGETS
    ]


@pytest.mark.parametrize(
    "constraint", [*LOOKED_FOR, Unstructured(0.5), Unstructured(0.05), Unstructured(1e-7)], ids=str
)
def test_constraint_is_read_back_from_its_words(constraint: Constraint) -> None:
    assert parse_constraint(str(constraint)) == constraint


def test_the_command_needs_no_transformers(tmp_path: Path) -> None:
    saved(tmp_path, state_of())
    code = f"import sys; from nxm_sweep.verify import main; main([{str(tmp_path)!r}]); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"transformers", "hydra", "optuna", "onnx"}.isdisjoint(done.stdout.split())
