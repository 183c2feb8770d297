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
    """The first point was handed to a worker: planning and resuming are over."""


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
    """Return seconds from the command, after imports, to the first point; nine tenths of the records are on disk."""
    importlib.import_module("driver")  # replaces real trials
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
                _fill_study(Path(folder) / "out")
    return figures


def start() -> dict[str, float]:
    """Return CPU seconds until the first trial starts, by process; imports are measured in a process of their own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*_sweep_command(folder, seeds=1), "training.max_train_samples=64", "training.epochs=1"]
        figures = {}
        for state in ("new data", "known data"):
            spent: dict[int, float] = {}
            sweep = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            while sweep.poll() is None and not any(Path(folder).glob("out/trials/*/progress.json")):
                _record_cpu(psutil.Process(sweep.pid), spent)
                time.sleep(0.02)
            figures[f"{state}: command"], figures[f"{state}: all processes"] = spent[sweep.pid], sum(spent.values())
            sweep.terminate()
            sweep.wait()
    command_imports = _measure_cpu(
        "-c", "import nxm_sweep.__main__, nxm_sweep.sweep.run, nxm_sweep.sweep.planning.command_line"
    )
    imports = command_imports + _measure_cpu("-c", "import nxm_sweep.sweep.execution.preload")
    return {**figures, "imports of both": imports, "after imports": figures["known data: all processes"] - imports}


def _record_cpu(process: psutil.Process, spent: dict[int, float]) -> None:
    """Record the CPU seconds of a process and of its children, even if one ends meanwhile."""
    try:
        for one in (process, *process.children(recursive=True)):
            times = one.cpu_times()
            spent[one.pid] = times.user + times.system
    except psutil.NoSuchProcess:
        return


def packing(seeds: int = 2) -> dict[str, float]:
    """Return the wall time of real trials on two workers, imports included, over training, evaluation and saving."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*_sweep_command(folder, seeds), "training.max_train_samples=400", "training.epochs=3"]
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


def _sweep_command(folder: str, seeds: int) -> list[str]:
    """Return the command of a sweep of 6 trials per seed of the packaged MiniLM, on two workers."""
    grid = ["method=dense,asp,nxm", "learning_rate.value=1e-4,2e-4", "training.batch_size=32", "rho.value=4e-3"]
    rest = ["task=demo/paraphrase", "model=minilm_l6", "training.max_length=64", "sweep.workers=2", "sweep.threads=1"]
    return [
        *(sys.executable, "-m", "nxm_sweep", "-m", *grid, *rest),
        *(f"seed=range({seeds})", f"output_dir={folder}/out"),
    ]


def imports() -> dict[str, float]:
    """Return CPU seconds of imports and of ``--help``, the median of five fresh processes each."""
    statements = {name: ("-c", f"import {name}") for name in ("nxm_sweep", "torch", "nxm_sweep.sparsity")}
    commands = {**statements, "--help": ("-m", "nxm_sweep", "--help")}
    return {name: median(_measure_cpu(*arguments) for _ in range(5)) for name, arguments in commands.items()}


def _measure_cpu(*arguments: str) -> float:
    """Return the CPU seconds of a Python process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
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


def _fill_study(output_dir: Path) -> None:
    """Add every record to the study, as a sweep does while it trains."""
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


def _print_figures(figures: dict[str, float]) -> None:
    print("  ".join(f"{name}: {value:.3f}" for name, value in figures.items()), flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["planning", *sizes] if sizes:
            for size in map(int, sizes):
                _print_figures(planning(size))
        case [("overhead" | "start" | "packing" | "imports") as name]:
            _print_figures({"overhead": overhead, "start": start, "packing": packing, "imports": imports}[name]())
        case _:
            sys.exit(__doc__)
