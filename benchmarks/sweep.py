"""What a sweep costs beside training. Each function returns its figures; the command prints them.

- ``python benchmarks/sweep.py overhead``: seconds per trial that trains nothing.
- ``python benchmarks/sweep.py planning 1000 10000 50000``: seconds to plan and resume a large grid.
- ``python benchmarks/sweep.py start``: CPU seconds until the first trial starts.
- ``python benchmarks/sweep.py packing``: wall time of 12 real trials against their training seconds, minutes of training.
- ``python benchmarks/sweep.py imports``: seconds of imports and of ``--help``.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any, NoReturn, Self

import optuna
import psutil
from optuna.distributions import FloatDistribution, IntDistribution

from nxm_sweep.sweep.studies.storage import open_storage

ROOT = Path(__file__).resolve().parents[1]
DRIVER = ROOT / "tests" / "sweep" / "driver.py"
sys.path.insert(0, str(DRIVER.parent))
TRIALS = 200
DONE = 0.9


class ReachedError(Exception):
    """The first point is handed to a worker: planning and resuming are over."""


def overhead() -> dict[str, float]:
    """Run trials that train nothing on two workers; wall seconds per trial after the workers are warm."""
    with tempfile.TemporaryDirectory() as folder:
        options = {"ledger": f"{folder}/ledger.txt", "epochs": 1, "seconds": 0.0}
        command = [
            sys.executable,
            str(DRIVER),
            "-m",
            "model=minilm_l6",
            "task=glue/rte",
            "method=nxm",
            "sweep.workers=2",
        ]
        grid = [
            "learning_rate.value=1e-4,2e-4",
            "training.batch_size=16,32",
            "rho.value=1e-3",
            f"seed=range({TRIALS // 4})",
        ]
        subprocess.run(
            [*command, *grid, f"output_dir={folder}/out", "sweep.threads=1"],
            env=os.environ | {"FAKE_TRIALS": json.dumps(options)},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        ends = sorted(path.stat().st_mtime for path in Path(folder).glob("out/trials/*/result.json"))
    warm = ends[2:]  # each worker's first trial waits for its imports
    return {"trials": len(ends), "seconds_per_trial": (warm[-1] - warm[0]) / (len(warm) - 1)}


def planning(points: int = 10_000) -> dict[str, float]:
    """Seconds from the command, its imports done, to the first point handed out; nine tenths of the records are on disk."""
    importlib.import_module("driver")  # its trials stand for the real ones
    run = importlib.import_module("nxm_sweep.sweep.run")
    main = importlib.import_module("nxm_sweep.__main__").main

    class NoPool:
        has_room = True

        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def submit(self, _: Any) -> NoReturn:
            raise ReachedError

    run.Pool, run.start_imports = NoPool, lambda: None
    importlib.import_module("nxm_sweep.sweep.execution.pool").apart = lambda: nullcontext(
        lambda function, *args: function(*args)
    )
    figures: dict[str, float] = {"points": points}
    with tempfile.TemporaryDirectory() as folder:
        grid = [
            "learning_rate.value=1e-4,2e-4,3e-4,4e-4,5e-4",
            "training.batch_size=16,32",
            f"seed=range({points // 10})",
        ]
        rest = ["model=minilm_l6", "task=glue/rte", "method=asp", "sweep.yes=true", f"output_dir={folder}/out"]
        sys.argv = ["nxm_sweep", "-m", *rest, *grid]
        for state in ("no record, new study", "records, study lost", "records and study"):
            begun = time.perf_counter()
            try:
                main()
            except ReachedError:
                figures[state] = time.perf_counter() - begun
            if state.startswith("no record"):
                _write_records(Path(folder) / "out")
            elif state.endswith("lost"):
                _tell_all(Path(folder) / "out")
    return figures


def start() -> dict[str, float]:
    """CPU seconds until the first trial starts, by process; imports are those of a process that does nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*_real_sweep(folder, seeds=1), "training.max_train_samples=64", "training.epochs=1"]
        figures = {}
        for state in ("new data", "known data"):
            spent: dict[int, float] = {}
            sweep = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            while sweep.poll() is None and not any(Path(folder).glob("out/trials/*/progress.json")):
                _count(psutil.Process(sweep.pid), spent)
                time.sleep(0.02)
            figures[f"{state}: command"], figures[f"{state}: all processes"] = spent[sweep.pid], sum(spent.values())
            sweep.terminate()
            sweep.wait()
    command_imports = _cpu(
        "-c", "import nxm_sweep.__main__, nxm_sweep.sweep.run, nxm_sweep.sweep.planning.command_line"
    )
    imports = command_imports + _cpu("-c", "import nxm_sweep.sweep.execution.preload")
    return {**figures, "imports of both": imports, "after imports": figures["known data: all processes"] - imports}


def _count(process: psutil.Process, spent: dict[int, float]) -> None:
    """Note the CPU seconds of a process and of those that it has started, also where one ends meanwhile."""
    try:
        for one in (process, *process.children(recursive=True)):
            times = one.cpu_times()
            spent[one.pid] = times.user + times.system
    except psutil.NoSuchProcess:
        return


def packing(seeds: int = 2) -> dict[str, float]:
    """Wall time of real trials, imports and all, over the seconds that they train, evaluate and save, two workers."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*_real_sweep(folder, seeds), "training.max_train_samples=400", "training.epochs=3"]
        begun = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        wall = time.perf_counter() - begun
        records = [json.loads(path.read_text()) for path in Path(folder).glob("out/trials/*/result.json")]
    seconds = [sum(record["seconds"][phase] for phase in ("train", "evaluate", "save")) for record in records]
    fixed = median(record["seconds"]["total"] - trained for record, trained in zip(records, seconds, strict=True))
    return {
        "trials": len(records),
        "wall": wall,
        "training": sum(seconds),
        "fixed per trial": fixed,
        "wall / (training / 2)": wall / (sum(seconds) / 2),
    }


def _real_sweep(folder: str, seeds: int) -> list[str]:
    """A sweep of 6 trials a seed over the packaged MiniLM, two workers."""
    grid = ["method=dense,asp,nxm", "learning_rate.value=1e-4,2e-4", "training.batch_size=32", "rho.value=4e-3"]
    rest = ["task=demo/paraphrase", "model=minilm_l6", "training.max_length=64", "sweep.workers=2", "sweep.threads=1"]
    return [
        *(sys.executable, "-m", "nxm_sweep", "-m", *grid, *rest),
        *(f"seed=range({seeds})", f"output_dir={folder}/out"),
    ]


def imports() -> dict[str, float]:
    """CPU seconds of imports and of ``--help``, a fresh process each: the median of five."""
    statements = {name: ("-c", f"import {name}") for name in ("nxm_sweep", "torch", "nxm_sweep.sparsity")}
    commands = {**statements, "--help": ("-m", "nxm_sweep", "--help")}
    return {name: median(_cpu(*words) for _ in range(5)) for name, words in commands.items()}


def _cpu(*words: str) -> float:
    """CPU seconds of a Python process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _write_records(output_dir: Path) -> None:
    (plan,) = (json.loads(path.read_text()) for path in (output_dir / "sweeps").glob("*.json"))
    identities = [identity for cell in plan["cells"] for identity, _ in cell["points"]]
    filler = [{"matrix": f"encoder.layer.{number}", "histogram": list(range(40))} for number in range(100)]
    epochs = [
        {"epoch": epoch, "selection": 0.5, "unpruned_selection": 0.5, "relative_distance": 0.1, "pruned": {}}
        for epoch in range(1, 6)
    ]
    for identity in identities[: int(len(identities) * DONE)]:
        folder = output_dir / "trials" / identity
        folder.mkdir(parents=True, exist_ok=True)
        record = {
            "schema": 2,
            "identity": identity,
            "best": {"epoch": 1, "value": 0.5},
            "epochs": epochs,
            "sparsity": {"exact": True, "checked": filler},
            "seconds": {"total": 60.0},
        }
        (folder / "result.json").write_text(json.dumps(record))
    for file in (output_dir / "studies").glob("optuna.db*"):
        file.unlink()


def _tell_all(output_dir: Path) -> None:
    """Put every record into the study, as a sweep does while it trains."""
    storage = open_storage("sqlite", output_dir)
    (summary,) = optuna.get_all_study_summaries(storage)
    study = optuna.load_study(study_name=summary.study_name, storage=storage)
    (plan,) = (json.loads(path.read_text()) for path in (output_dir / "sweeps").glob("*.json"))
    axes = plan["cells"][0]["axes"]
    points = plan["cells"][0]["points"]
    for identity, values in points[: int(len(points) * DONE)]:
        params = dict(zip(axes, values, strict=True))
        distributions = {
            key: FloatDistribution(1e-4, 5e-4, log=True) if isinstance(value, float) else IntDistribution(0, 10**6)
            for key, value in params.items()
        }
        attributes = {"identity": identity, "seconds": 60.0}
        study.add_trial(
            optuna.trial.create_trial(params=params, distributions=distributions, value=0.5, user_attrs=attributes)
        )


def _show(figures: dict[str, float]) -> None:
    print("  ".join(f"{name}: {value:.3f}" for name, value in figures.items()), flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["planning", *sizes] if sizes:
            for size in map(int, sizes):
                _show(planning(size))
        case [("overhead" | "start" | "packing" | "imports") as name]:
            _show({"overhead": overhead, "start": start, "packing": packing, "imports": imports}[name]())
        case _:
            sys.exit(__doc__)
