"""A sweep of 12 trials on two one-thread workers, against Optuna with joblib, Hydra's sweeper and Ray Tune.

The peers train with Transformers' Trainer, as its example configures it or as an expert would; ours is dense fine-tuning of the
same rows and updates. Wall seconds of whole commands, imports included: measure on an idle machine.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.commands import Work
from benchmarks.groups import Options
from benchmarks.machine import ROOT
from benchmarks.measure import Figure, Sample, alternate, wall_figure
from benchmarks.peers.points import grid
from benchmarks.processes import ONE_THREAD, run

WORKERS, TRIALS = 2, 12
BAR = 1.08
PEERS = {  # name: (script, recipe, whether it has an environment of its own)
    "Optuna with joblib, example": ("optuna_joblib", "example", False),
    "Optuna with joblib, expert": ("optuna_joblib", "expert", False),
    "hydra-optuna-sweeper, expert": ("hydra_optuna", "expert", True),
    "Ray Tune, expert": ("ray_tune", "expert", True),
}


@dataclass(frozen=True)
class Swept:
    """A whole sweep: seconds of the command, and of the training of its trials."""

    took: Sample
    trained: float

    @property
    def overhead(self) -> float:
        """Wall seconds relative to training only, spread over the workers."""
        return self.took.wall / (self.trained / WORKERS)


def measure(options: Options) -> Iterator[Figure]:
    """Yield every sweep's wall seconds relative to ideal ones, and every peer's relative to ours."""
    trials = 2 if options.quick else TRIALS
    ways: dict[str, Callable[[], Swept]] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Work.of(Path(folder), 64 if options.quick else 2 * options.rows)
        ways["ours"] = _make_ours(work, trials)
        missing: dict[str, str] = {}
        for name, (script, recipe, has_environment) in PEERS.items():
            python = Path(os.environ.get("NXM_PEERS", ""), script, "bin", "python") if has_environment else None
            if python is not None and not ("NXM_PEERS" in os.environ and python.is_file()):
                missing[name] = "not installed: python benchmarks/peers/install.py FOLDER, then NXM_PEERS=FOLDER"
            else:
                ways[name] = _make_peer(work, trials, script, recipe, python)
        taken = alternate({name: _attempt(way, name, missing) for name, way in ways.items()}, options.rounds)
    swept_by = {name: [one for one in swept if one is not None] for name, swept in taken.items() if name not in missing}
    title = f"grid: wall of {trials} trials / (seconds of training / {WORKERS})"
    for name, swept in swept_by.items():
        bar = BAR if name == "ours" else None
        samples = {name: [asdict(one) for one in swept]}
        yield wall_figure(f"{title}, {name}", [one.overhead for one in swept], bar=bar, at_least=False, samples=samples)
    for name in PEERS:
        if name in swept_by:
            pairs = zip(swept_by[name], swept_by["ours"], strict=True)
            yield wall_figure(f"grid: {name} / ours", [peer.took.wall / own.took.wall for peer, own in pairs])
        else:
            yield Figure(f"grid: {name} / ours", skipped=missing[name])


def _attempt(way: Callable[[], Swept], name: str, missing: dict[str, str]) -> Callable[[], Swept | None]:
    """Wrap a sweep so that a failed peer is listed with its error and not run again."""

    def attempt() -> Swept | None:
        if name in missing:
            return None
        try:
            return way()
        except RuntimeError as error:
            if name not in PEERS:
                raise
            missing[name] = f"failed: {str(error).strip().splitlines()[-1]}"
            return None

    return attempt


def _make_ours(work: Work, trials: int) -> Callable[[], Swept]:
    count = iter(range(10**6))
    points = grid(trials)
    rates, seeds = (",".join(map(str, sorted(set(values)))) for values in zip(*points, strict=True))

    def sweep() -> Swept:
        output = f"ours-{next(count)}"
        command = work.sweep("method=dense", f"learning_rate.value={rates}", f"seed={seeds}", output=output)
        took = run(command, {**ONE_THREAD, **work.environment(output)}).took
        records = [json.loads(file.read_text()) for file in (work.folder / output).glob("trials/*/result.json")]
        return Swept(took, _sum([record["seconds"]["train"] for record in records], trials))

    return sweep


def _make_peer(work: Work, trials: int, script: str, recipe: str, python: Path | None) -> Callable[[], Swept]:
    def sweep() -> Swept:
        with tempfile.TemporaryDirectory(dir=work.folder) as results:
            command = [str(ROOT / "benchmarks" / "peers" / f"{script}.py")]
            arguments = [json.dumps(work.jobs[recipe]), str(trials), results]
            environment = {**ONE_THREAD, "HF_DATASETS_CACHE": f"{results}/cache"}
            took = run([*command, *arguments], environment, python=python).took
            outcomes = [json.loads(file.read_text()) for file in Path(results).glob("*.json")]
            return Swept(took, _sum([outcome["train_seconds"] for outcome in outcomes], trials))

    return sweep


def _sum(seconds: Sequence[float], trials: int) -> float:
    if len(seconds) != trials:
        raise RuntimeError(f"{len(seconds)} of {trials} trials finished")
    return sum(seconds)
