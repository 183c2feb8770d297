"""CPU time of importing the package and of printing its help, beside an empty Python and PyTorch's own import."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from benchmarks.groups import Options
from benchmarks.measure import Figure, Sample, alternate
from benchmarks.processes import run

COMMANDS: dict[str, Sequence[str]] = {
    "python": ["-c", "pass"],
    "torch": ["-c", "import torch"],
    "nxm_sweep": ["-c", "import nxm_sweep"],
    "nxm_sweep.sparsity": ["-c", "import nxm_sweep.sparsity"],
    "--help": ["-m", "nxm_sweep", "--help"],
}


def measure(options: Options) -> Iterator[Figure]:
    """Yield CPU seconds over all threads; with a warm file cache, wall seconds are no more on an idle machine."""
    for command in COMMANDS.values():
        run(command)
    taken = alternate({name: partial(_time_command, command) for name, command in COMMANDS.items()}, options.rounds)

    def seconds(name: str, without: str | None = None) -> list[float]:
        base = taken[without] if without else [Sample()] * len(taken[name])
        return [own.cpu - other.cpu for own, other in zip(taken[name], base, strict=True)]

    figure = partial(Figure, unit="s", at_least=False)
    yield figure("imports: import nxm_sweep", seconds("nxm_sweep", "python"), bar=0.1)
    yield figure("imports: nxm_sweep.sparsity, beyond torch", seconds("nxm_sweep.sparsity", "torch"), bar=0.1)
    yield Figure("imports: torch", seconds("torch", "python"), unit="s")
    yield figure("imports: nxm-sweep --help", seconds("--help"), bar=1.0)


def _time_command(command: Sequence[str]) -> Sample:
    return run(command).took
