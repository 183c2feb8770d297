"""Optimizer and random states through files, and which checkpoints count as whole."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nxm_sweep.training import checkpoint as files
from nxm_sweep.training.checkpoint import (
    complete_checkpoints,
    find_damage,
    load_optimizer,
    load_random_state,
    make_room,
    newest_usable,
    save_optimizer,
    save_random_state,
    seal,
)

Maker = Callable[[nn.Module], torch.optim.Optimizer]


@pytest.fixture(autouse=True)
def _random_states_as_before() -> Iterator[None]:
    python, numpy, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    yield
    random.setstate(python)
    np.random.set_state(numpy)  # noqa: NPY002
    torch.set_rng_state(torch_state)


def _groups(model: nn.Module) -> list[dict[str, object]]:
    """Two groups, as the Trainer makes them: biases without weight decay."""
    named = list(model.named_parameters())
    return [
        {"params": [weight for name, weight in named if "bias" not in name], "weight_decay": 0.1},
        {"params": [weight for name, weight in named if "bias" in name], "weight_decay": 0.0},
    ]


OPTIMIZERS: dict[str, Maker] = {
    "fused AdamW": lambda model: torch.optim.AdamW(_groups(model), lr=1 / 3, betas=(0.8, 0.95), fused=True),
    "AdamW": lambda model: torch.optim.AdamW(_groups(model), lr=1 / 3, amsgrad=True),
    "SGD": lambda model: torch.optim.SGD(_groups(model), lr=0.1),
    "SGD with momentum": lambda model: torch.optim.SGD(_groups(model), lr=0.1, momentum=0.9, nesterov=True),
}


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor) -> None:
    optimizer.zero_grad()
    model(inputs).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=list(OPTIMIZERS))
def test_an_optimizer_read_back_steps_as_the_one_that_was_written(tmp_path: Path, make: Maker) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    inputs = torch.randn(5, 4)
    optimizer = make(model)
    for _ in range(3):
        _step(model, optimizer, inputs)
    optimizer.param_groups[0]["lr"] = 0.1 + 0.2  # as a scheduler leaves it: no short decimal
    plain = save_optimizer(tmp_path, optimizer)

    twin = copy.deepcopy(model)
    fresh = make(twin)
    for group in fresh.param_groups:
        group["lr"] = 7.0
    load_optimizer(tmp_path, fresh, json.loads(json.dumps(plain)))

    assert fresh.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]
    saved, loaded = optimizer.state_dict()["state"], fresh.state_dict()["state"]
    torch.testing.assert_close(loaded, saved, rtol=0, atol=0)
    for _ in range(2):
        _step(model, optimizer, inputs)
        _step(twin, fresh, inputs)
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), twin.parameters(), strict=True))


def test_an_optimizer_that_has_not_stepped_survives(tmp_path: Path) -> None:
    model = nn.Linear(4, 4)
    plain = save_optimizer(tmp_path, torch.optim.AdamW(model.parameters()))
    fresh = torch.optim.AdamW(model.parameters(), lr=0.5)
    load_optimizer(tmp_path, fresh, json.loads(json.dumps(plain)))
    assert fresh.state_dict()["state"] == {}
    assert fresh.param_groups[0]["lr"] == 1e-3


def _draw() -> tuple[list[float], list[float], list[float]]:
    """Odd counts of normal numbers, of which Python and NumPy keep a second one back."""
    return (
        [random.random(), *(random.gauss(0, 1) for _ in range(3))],
        [*np.random.standard_normal(3).tolist(), *np.random.random(2).tolist()],  # noqa: NPY002
        [*torch.randn(3).tolist(), *torch.rand(2).tolist()],
    )


def test_the_three_generators_go_on_where_they_were_written(tmp_path: Path) -> None:
    random.seed(3)
    np.random.seed(4)  # noqa: NPY002
    torch.manual_seed(5)
    _draw()  # leaves a normal number kept back in Python's and NumPy's generators
    assert random.getstate()[2] is not None
    save_random_state(tmp_path)
    expected = _draw()
    random.seed(6)
    np.random.seed(6)  # noqa: NPY002
    torch.manual_seed(6)
    assert _draw() != expected
    load_random_state(tmp_path)
    assert _draw() == expected


def test_gpu_in_use_gets_its_state_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Tensor] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: torch.full((16,), 7, dtype=torch.uint8))
    monkeypatch.setattr(torch.cuda, "set_rng_state", given.append)
    save_random_state(tmp_path)
    load_random_state(tmp_path)
    assert [state.tolist() for state in given] == [[7] * 16]


def test_every_rank_gets_its_own_state_back(tmp_path: Path) -> None:
    drawn = {}
    for rank in (0, 1):
        torch.manual_seed(rank)
        save_random_state(tmp_path, rank)
        drawn[rank] = torch.rand(3)
    for rank in (1, 0):
        load_random_state(tmp_path, rank)
        assert torch.equal(torch.rand(3), drawn[rank])


def _checkpoint(work: Path, step: int, best: str = "best-1", *, sealed: bool = True) -> Path:
    path = work / f"checkpoint-{step}"
    path.mkdir()
    (path / files.STATE).write_text("{}")
    (work / best).mkdir(exist_ok=True)
    (work / best / "model.safetensors").write_text("weights")
    if sealed:
        seal(path, work / best)
    return path


def test_checkpoints_are_ordered_by_their_number(tmp_path: Path) -> None:
    made = {step: _checkpoint(tmp_path, step) for step in (1000, 9, 20, 100)}
    assert complete_checkpoints(tmp_path) == [made[step] for step in (9, 20, 100, 1000)]


def test_a_checkpoint_that_was_not_written_to_its_end_is_passed_over(tmp_path: Path) -> None:
    whole = _checkpoint(tmp_path, 3)
    _checkpoint(tmp_path, 6, sealed=False)
    assert complete_checkpoints(tmp_path) == [whole]
    assert newest_usable(tmp_path) == whole


def test_a_folder_that_does_not_exist_holds_no_checkpoints(tmp_path: Path) -> None:
    assert complete_checkpoints(tmp_path / "none") == []
    assert newest_usable(tmp_path / "none") is None


def test_room_is_made_for_one_beside_the_newest_and_the_models_that_it_names(tmp_path: Path) -> None:
    _checkpoint(tmp_path, 3)
    _checkpoint(tmp_path, 6, "best-2")
    _checkpoint(tmp_path, 9, "best-3", sealed=False)
    make_room(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best-2", "checkpoint-6"]


def test_the_best_model_of_the_checkpoint_to_come_stays(tmp_path: Path) -> None:
    _checkpoint(tmp_path, 3)
    (tmp_path / "best-2").mkdir()
    make_room(tmp_path, tmp_path / "best-2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best-1", "best-2", "checkpoint-3"]


@pytest.mark.parametrize(
    "name", ["../secret", "checkpoint-3/../../secret", "/dev/zero", "checkpoint-3/", "best-1/model.safetensors/x"]
)
def test_a_manifest_that_names_other_files_is_damaged_and_reads_none(name: str, tmp_path: Path) -> None:
    path = _checkpoint(tmp_path, 3)
    assert find_damage(path) == ""
    manifest = json.loads((path / files.MANIFEST).read_text())
    manifest["files"][name] = {"bytes": 0, "sha256": ""}
    (path / files.MANIFEST).write_text(json.dumps(manifest))
    assert "which is no file of it" in find_damage(path)


@pytest.mark.parametrize("left_out", ["checkpoint-3", "best-1"])
def test_a_manifest_without_the_best_model_is_damaged(left_out: str, tmp_path: Path) -> None:
    path = _checkpoint(tmp_path, 3)
    manifest = json.loads((path / files.MANIFEST).read_text())
    manifest["files"] = {name: entry for name, entry in manifest["files"].items() if not name.startswith(left_out)}
    (path / files.MANIFEST).write_text(json.dumps(manifest))
    assert find_damage(path) == f"{files.MANIFEST} is not complete"
