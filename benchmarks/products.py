"""Share of the matrix product rate that a training step reaches: two concurrent processes of one thread each, fp32.

Useful FLOPs exclude padding: 6 per token and weight of the encoder's linear layers, and attention's products per real
length. The bare products are those of the same linear layers on as many tokens: forward, gradient of the inputs,
gradient of the weights.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from multiprocessing.synchronize import Barrier

from benchmarks.groups import Options
from benchmarks.measure import Figure
from benchmarks.processes import together

PROCESSES = 2
BARE_SECONDS = 5.0


def measure(options: Options) -> Iterator[Figure]:
    """Yield both rates and their ratio, as means over the processes per round."""
    taken = together(PROCESSES, _measure_rates, options)
    useful, bare = (
        [sum(column) / PROCESSES for column in zip(*rates, strict=True)] for rates in zip(*taken, strict=True)
    )
    for name, rates in (("useful in a training step", useful), ("bare products", bare)):
        yield Figure(f"products: {name}", [rate / 1e9 for rate in rates], unit="GFLOP/s")
    shares = [part / whole for part, whole in zip(useful, bare, strict=True)]
    yield Figure("products: useful / bare, 2 processes of one thread, fp32", shares, bar=0.85)


def _measure_rates(barrier: Barrier, options: Options) -> tuple[list[float], list[float]]:
    """Measure FLOPs per CPU second of each round, in training and in bare products, in step with the other process."""
    import torch  # noqa: PLC0415 - the parent process does without

    from benchmarks.ways import Bench  # noqa: PLC0415
    from nxm_sweep.training.models import load_model  # noqa: PLC0415

    torch.set_num_threads(1)
    bench = Bench.of("glue/mrpc", 64 if options.quick else options.rows)
    model = load_model(bench.prepared.model_folder, bench.prepared.rows.labels)
    shapes = [
        (layer.in_features, layer.out_features)
        for layer in model.base_model.get_submodule("encoder").modules()
        if isinstance(layer, torch.nn.Linear)
    ]
    lengths, config = bench.real_tokens(), model.config
    weights = sum(inputs * outputs for inputs, outputs in shapes)
    attention = 12 * config.num_hidden_layers * config.hidden_size * sum(length**2 for length in lengths)
    needed = 6 * weights * sum(lengths) + attention
    tokens = round(sum(lengths) / len(lengths) * bench.settings.training.batch_size)
    train = bench.ours("fp32")
    Bench.of("glue/mrpc", 64).ours("fp32")()  # warm up the kernels
    _measure_bare_rate(shapes, tokens, 1.0)
    useful, bare = [], []
    for _ in range(options.rounds):
        barrier.wait()
        useful.append(needed / train().train.cpu)
        barrier.wait()
        bare.append(_measure_bare_rate(shapes, tokens, 1.0 if options.quick else BARE_SECONDS))
    return useful, bare


def _measure_bare_rate(shapes: list[tuple[int, int]], tokens: int, seconds: float) -> float:
    import torch  # noqa: PLC0415

    layers = [
        (torch.randn(tokens, inputs), torch.randn(outputs, inputs), torch.randn(outputs), torch.randn(tokens, outputs))
        for inputs, outputs in shapes
    ]
    done, started = 0, time.process_time()
    while time.process_time() - started < seconds:
        for x, weight, bias, gradient in layers:  # (tokens, in), (out, in), (out), (tokens, out)
            torch.addmm(bias, x, weight.t())
            torch.mm(gradient, weight)
            torch.mm(gradient.t(), x)
            done += 6 * x.numel() * weight.shape[0]
    return done / (time.process_time() - started)
