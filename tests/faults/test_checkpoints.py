"""An interrupted trial with damaged files goes on from the newest checkpoint that is whole, and ends as if undisturbed."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest

from nxm_sweep.__main__ import main
from nxm_sweep.training.checkpoint import MANIFEST, complete_checkpoints, find_damage, newest_usable
from nxm_sweep.trial.trainer import TrialTrainer
from tests.answer import Answer, ask

DRIVER, WRITER = (Path(__file__).with_name(name) for name in ("killed_trial.py", "killed_writer.py"))
EPOCHS = 4
COMPARED = ("identity", "epochs", "iterations", "best", "reported", "sparsity", "steps", "tokens")


def _command(*arguments: str) -> Answer:
    return ask(main, "nxm_sweep", *arguments)


def _outcome(output: Path) -> dict[str, Any]:
    (path,) = output.glob("trials/*/result.json")
    record = json.loads(path.read_text())
    return {name: record[name] for name in COMPARED} | {"predictions": (path.parent / "predictions.json").read_text()}


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Token ids are cached here and not at home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(scope="module")
def trial(tiny_model: Path) -> list[str]:
    return [
        "task=demo/paraphrase",
        "task.rows={train:48,validation:24}",
        *("model=local", f"model.path={tiny_model}", "method=nxm", "save_model=true"),
        *(f"training.epochs={EPOCHS}", "training.max_length=32", "training.batch_size=16", "training.threads=1"),
        "learning_rate.value=5e-3",
    ]


@pytest.fixture(scope="module")
def undisturbed(trial: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    output = tmp_path_factory.mktemp("undisturbed")
    answer = _command(*trial, f"output_dir={output}")
    assert answer.code == 0, answer.err
    return _outcome(output)


@pytest.fixture(scope="module")
def interrupted(trial: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trial that was interrupted after its third epoch."""
    output = tmp_path_factory.mktemp("interrupted")
    whole = TrialTrainer._save_checkpoint

    def save(trainer: TrialTrainer, *arguments: Any) -> None:
        whole(trainer, *arguments)
        trainer._finish_sealing()
        if len(trainer.epochs) == 3:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrialTrainer, "_save_checkpoint", save)
        assert _command(*trial, f"output_dir={output}").code == 130
    assert [path.name for path in complete_checkpoints(_work(output))] == ["checkpoint-6", "checkpoint-9"]
    return output


@pytest.fixture
def copy(interrupted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(interrupted, tmp_path / "outputs"))


def _work(output: Path) -> Path:
    (work,) = output.glob("trials/*/work")
    return work


def _truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def _alter(file: Path) -> None:
    """Change 400 bytes."""
    data = bytearray(file.read_bytes())
    for place in random.Random(0).sample(range(len(data)), min(400, len(data))):
        data[place] ^= 0x55
    file.write_bytes(data)


def _replace(content: str) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        file.write_text(content)

    return write


def _pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


@pytest.mark.fault(
    "storage",
    "a damaged newest checkpoint",
    "it is named and set aside, and the trial continues from the one before it",
)
@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("model.safetensors", _alter),
        ("model.safetensors", _truncate),
        ("optimizer.safetensors", _truncate),
        ("method.safetensors", Path.unlink),
        ("random.safetensors", _replace("")),
        ("nxm_sweep.json", _replace("{}")),
        ("trainer_state.json", _replace("[]")),
        ("config.json", _pipe),
        (MANIFEST, _replace('{"files": {}}')),
        (MANIFEST, _replace("[" * 100_000)),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_damaged_newest_checkpoint_is_set_aside_and_the_one_before_it_is_used(
    name: str, damage: Callable[[Path], None], copy: Path
) -> None:
    newest = _work(copy) / "checkpoint-9"
    damage(newest / name)
    with contextlib.redirect_stderr(io.StringIO()) as said:
        usable = newest_usable(newest.parent)
    assert usable == newest.with_name("checkpoint-6")
    (line,) = said.getvalue().splitlines()
    assert line.startswith(f"warning: the checkpoint {newest} is damaged: ")
    assert line.endswith("; it was set aside as checkpoint-9.damaged")
    assert newest.with_name("checkpoint-9.damaged").is_dir()
    assert find_damage(usable) == ""


@pytest.mark.fault(
    "storage", "altered weights in the newest checkpoint", "the trial ends with the scores of an undisturbed one"
)
def test_trial_with_a_damaged_checkpoint_ends_as_if_undisturbed(
    copy: Path, trial: list[str], undisturbed: dict[str, Any]
) -> None:
    _alter(_work(copy) / "checkpoint-9" / "model.safetensors")
    answer = _command(*trial, f"output_dir={copy}")
    assert answer.code == 0, answer.err
    assert "checkpoint-9.damaged" in answer.err
    assert "continuing after step 6" in answer.out
    assert _outcome(copy) == undisturbed
    assert not list(copy.glob("trials/*/work"))


@pytest.mark.fault(
    "storage",
    "a missing or damaged best model of an interrupted trial",
    "it is trained from its beginning, and said so",
)
@pytest.mark.parametrize("name", ["model.safetensors", "predictions.json", None])
def test_trial_without_its_best_model_starts_again(
    name: str | None, copy: Path, trial: list[str], undisturbed: dict[str, Any]
) -> None:
    for best in list(_work(copy).glob("best-*")):
        shutil.rmtree(best) if name is None else (best / name).write_text("")
    answer = _command(*trial, f"output_dir={copy}")
    assert answer.code == 0, answer.err
    assert answer.err.splitlines()[-1].endswith("no usable checkpoint is left: the trial is trained from its beginning")
    assert "Traceback" not in answer.err
    assert _outcome(copy) == undisturbed


def test_undamaged_trial_continues_bit_for_bit(copy: Path, trial: list[str], undisturbed: dict[str, Any]) -> None:
    answer = _command(*trial, f"output_dir={copy}")
    assert (answer.code, answer.err) == (0, "")
    assert "continuing after step 9" in answer.out
    assert _outcome(copy) == undisturbed


@pytest.mark.fault(
    "storage", "300 damaged checkpoints, drawn at random", "every one is found out, and the one before it is used"
)
def test_three_hundred_mutated_checkpoints_are_all_found_out(copy: Path) -> None:
    draw = random.Random(14)
    newest = _work(copy) / "checkpoint-9"
    files = sorted(newest.iterdir())
    assert find_damage(newest) == ""
    for turn in range(300):
        file = draw.choice(files)
        whole = file.read_bytes()
        file.write_bytes(_mutate(whole, draw))
        assert find_damage(newest) or file.read_bytes() == whole or file.name == MANIFEST, (turn, file.name)
        if file.name == MANIFEST and find_damage(newest) == "":  # white space, or the entry of an undamaged file
            assert set(json.loads(file.read_text())) == {"files"}
        file.write_bytes(whole)
    assert find_damage(newest) == ""


def _mutate(data: bytes, draw: random.Random) -> bytes:
    match draw.randrange(6):
        case 0:
            return data[: draw.randrange(len(data))]
        case 1:
            return draw.choice([b"", b"{}", b"[]", b"null", b"\0" * len(data), b"[" * 100_000])
        case 2:
            return data + draw.randbytes(draw.randrange(1, 20))
        case 3:
            start = draw.randrange(len(data))
            return data[:start] + data[start + draw.randrange(1, 50) :]
    place = draw.randrange(len(data))
    return data[:place] + bytes([data[place] ^ (1 << draw.randrange(8))]) + data[place + 1 :]


@pytest.mark.fault(
    "process",
    "SIGKILL at a moment of writing a checkpoint",
    "a usable one is left, and the trial ends as if undisturbed",
)
@pytest.mark.parametrize("stride", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_kill_at_any_moment_of_writing_leaves_a_usable_checkpoint(stride: int, tmp_path: Path) -> None:
    command = [sys.executable, str(WRITER), str(tmp_path), str(stride)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    outcomes = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert len(outcomes) > 120 / stride
    for (
        moment,
        sealed,
        usable,
        damaged,
    ) in outcomes:  # the newest epoch whose manifest was complete, and that which is used
        assert usable == sealed, moment
        assert damaged == 0, moment
    assert {usable for _, _, usable, _ in outcomes} == {0, 1, 2, 3, 4}


@pytest.mark.slow
@pytest.mark.fault(
    "process", "SIGKILL at moments of a real trial's checkpoints", "the same command ends as if undisturbed"
)
def test_trial_killed_at_moments_of_writing_ends_as_if_undisturbed(
    trial: list[str], undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    command = [sys.executable, str(DRIVER), str(tmp_path), "61", *trial]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3000, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    ends = [line.split() for line in done.stdout.splitlines() if line.startswith("killed")]
    assert len(ends) >= 3
    for _, moment, sealed, resumed in ends:  # manifests written before the kill; step that the next run continued from
        assert (resumed != "None") == (int(sealed) > 0), (moment, sealed, resumed)
        assert _outcome(tmp_path / moment) == undisturbed, moment
