"""How much faster bf16 multiplies matrices here than fp32, measured on the shapes of a model."""

from __future__ import annotations

import importlib.util
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache

from nxm_sweep.config.device import has_native_bf16, uses_gpu
from nxm_sweep.errors import SparsityError
from nxm_sweep.export.weights import open_weights
from nxm_sweep.settings import ModelSettings, TrialSettings

_TOKENS = 512
_TURNS = 6  # of which the first warms up


def bf16_gain(settings: TrialSettings, clock: Callable[[], float] | None = None) -> float | None:
    """Return how many times as fast as in fp32 a model's layers multiply in bf16, on the device that trials use here.

    Each matrix is multiplied with the inputs of 512 tokens. The types take turns, and the fastest turn of each counts. On a CPU
    it is the CPU time of one thread, which other processes on the machine do not change.

    Args:
        settings: A trial's settings; model and device count.
        clock: Seconds that only grow; for tests.

    Returns:
        The ratio; None where the device has no native bf16, or the model's weights are not at hand.
    """
    shapes = _matrices(settings.model) if has_native_bf16(settings) else Counter()
    if not shapes:
        return None
    gpu = uses_gpu(settings)
    device, clock = torch.device("cuda" if gpu else "cpu"), clock or (time.perf_counter if gpu else time.thread_time)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        turns = [
            (_seconds(shapes, torch.float32, device, clock), _seconds(shapes, torch.bfloat16, device, clock))
            for _ in range(_TURNS)
        ]
    finally:
        torch.set_num_threads(before)
    return min(fp32 for fp32, _ in turns) / min(bf16 for _, bf16 in turns)


def _matrices(model: ModelSettings) -> Counter[tuple[int, int]]:
    """How often a model has a matrix of each shape, embeddings aside; nothing where its files are not at hand."""
    try:
        shapes = open_weights(_folder(model)).shapes
    except SparsityError:
        return Counter()
    return Counter(shape for name, shape in shapes.items() if "embedding" not in name)


def _folder(model: ModelSettings) -> Path:
    """Where a model's files are expected, without the seconds that importing Transformers takes."""
    match model.source:
        case "package":
            spec = importlib.util.find_spec(model.path)
            return Path((spec.submodule_search_locations or [""])[0] if spec else "") / "model"
        case "folder":
            return Path(model.path).expanduser()
    cached = try_to_load_from_cache(model.path, "config.json", revision=model.revision)
    return Path(cached).parent if isinstance(cached, str) else Path()


def _seconds(
    shapes: Counter[tuple[int, int]], dtype: torch.dtype, device: torch.device, clock: Callable[[], float]
) -> float:
    total = 0.0
    for (rows, columns), count in shapes.items():
        sizes = (_TOKENS, columns), (rows, columns), (_TOKENS, rows)
        inputs, weight, outputs = (torch.ones(size, dtype=dtype, device=device) for size in sizes)
        _wait(device)
        started = clock()
        torch.mm(inputs, weight.T, out=outputs)
        _wait(device)
        total += count * (clock() - started)
    return total


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
