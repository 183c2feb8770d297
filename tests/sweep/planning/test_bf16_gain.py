"""What bf16 gains here: the time of the same products in either type, and nothing where there is nothing to measure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nxm_sweep.config.compose import compose_settings
from nxm_sweep.settings import TrialSettings
from nxm_sweep.sweep.planning import bf16_gain as module
from nxm_sweep.sweep.planning.bf16_gain import bf16_gain


def _settings(model: Path) -> TrialSettings:
    return compose_settings(["task=demo/paraphrase", "model=local", f"model.path={model}", "training.device=cpu"])


def _native(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    monkeypatch.setattr(module, "has_native_bf16", lambda _: native)


def _clock(multiplied: list[torch.dtype]) -> Callable[[], float]:
    """A clock by which a product in fp32 takes 3 s, one in bf16 1 s, and the first in either type 100 s more."""
    return lambda: sum(
        (3.0 if dtype is torch.float32 else 1.0) + 100.0 * (dtype not in multiplied[:number])
        for number, dtype in enumerate(multiplied)
    )


def test_gain_is_the_ratio_of_the_same_products(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _native(monkeypatch, native=True)
    multiplied: list[torch.dtype] = []
    shapes: dict[torch.dtype, list[tuple[int, ...]]] = {torch.float32: [], torch.bfloat16: []}
    multiply = torch.mm

    def watched(first: torch.Tensor, second: torch.Tensor, *, out: torch.Tensor) -> None:
        multiply(first, second, out=out)
        multiplied.append(first.dtype)
        shapes[first.dtype].append((*first.shape, *second.shape))

    monkeypatch.setattr(torch, "mm", watched)
    threads = 1 + torch.get_num_threads()
    torch.set_num_threads(threads)
    assert bf16_gain(_settings(tiny_model), _clock(multiplied)) == pytest.approx(3.0)
    assert shapes[torch.float32] == shapes[torch.bfloat16] != []
    assert multiplied[0] is not multiplied[len(set(shapes[torch.float32]))]  # they take turns
    assert torch.get_num_threads() == threads
    torch.set_num_threads(threads - 1)


def test_nothing_is_measured_without_native_bf16(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _native(monkeypatch, native=False)
    assert bf16_gain(_settings(tiny_model)) is None


@pytest.mark.parametrize(
    "model", [["model=local", "model.path=absent"], ["model=bert_base", "model.path=nobody/nothing"]]
)
def test_nothing_is_measured_without_the_models_files(model: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    _native(monkeypatch, native=True)
    assert bf16_gain(compose_settings(["task=demo/paraphrase", *model])) is None


def test_the_packaged_model_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    _native(monkeypatch, native=True)
    gain = bf16_gain(compose_settings(["task=demo/paraphrase", "model=minilm_l6", "training.device=cpu"]))
    assert gain is not None
    assert gain > 0
