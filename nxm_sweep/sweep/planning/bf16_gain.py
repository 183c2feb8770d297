"""Speed-up of bf16 over fp32 matrix products on this machine, measured on a model's shapes."""

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
_TURNS = 6  # the first one warms up


def bf16_gain(settings: TrialSettings, clock: Callable[[], float] | None = None) -> float | None:
    """Return the speed-up of a model's matrix products in bf16 over fp32, on the device that trials use here.

    Each matrix is multiplied by the inputs of 512 tokens. The dtypes alternate, and the fastest turn of each counts. On
    a CPU, the CPU time of one thread is measured, which other processes do not affect.

    Args:
        settings: A trial's settings; only model and device matter.
        clock: Monotonic clock in seconds, for tests.

    Returns:
        The ratio; None if the device has no native bf16, or the model's weights are not on disk.
    """
    shapes = _count_matrices(settings.model) if has_native_bf16(settings) else Counter()
    if not shapes:
        return None
    gpu = uses_gpu(settings)
    device, clock = torch.device("cuda" if gpu else "cpu"), clock or (time.perf_counter if gpu else time.thread_time)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        turns = [
            (
                _time_products(shapes, torch.float32, device, clock),
                _time_products(shapes, torch.bfloat16, device, clock),
            )
            for _ in range(_TURNS)
        ]
    finally:
        torch.set_num_threads(before)
    return min(fp32 for fp32, _ in turns) / min(bf16 for _, bf16 in turns)


def _count_matrices(model: ModelSettings) -> Counter[tuple[int, int]]:
    """Count a model's matrices by shape ``(rows, columns)``, without embeddings; empty if it is not on disk."""
    try:
        shapes = open_weights(_locate_model(model)).shapes
    except SparsityError:
        return Counter()
    return Counter(shape for name, shape in shapes.items() if "embedding" not in name)


def _locate_model(model: ModelSettings) -> Path:
    """Return the expected folder of a model without importing Transformers, which takes seconds."""
    match model.source:
        case "package":
            spec = importlib.util.find_spec(model.path)
            return Path((spec.submodule_search_locations or [""])[0] if spec else "") / "model"
        case "folder":
            return Path(model.path).expanduser()
    cached = try_to_load_from_cache(model.path, "config.json", revision=model.revision)
    return Path(cached).parent if isinstance(cached, str) else Path()


def _time_products(
    shapes: Counter[tuple[int, int]], dtype: torch.dtype, device: torch.device, clock: Callable[[], float]
) -> float:
    total = 0.0
    for (rows, columns), count in shapes.items():
        sizes = (_TOKENS, columns), (rows, columns), (_TOKENS, rows)
        inputs, weight, outputs = (torch.ones(size, dtype=dtype, device=device) for size in sizes)
        _synchronize(device)
        started = clock()
        torch.mm(inputs, weight.T, out=outputs)
        _synchronize(device)
        total += count * (clock() - started)
    return total


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
