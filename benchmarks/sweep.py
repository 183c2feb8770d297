"""What a sweep costs beside training: seconds per trial that trains nothing, and seconds to plan and resume a large grid.

``python benchmarks/sweep.py overhead`` and ``python benchmarks/sweep.py planning 1000 10000 50000``.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn, Self

import optuna
from optuna.distributions import FloatDistribution, IntDistribution

from nxm_sweep.sweep.storage import open_storage

ROOT = Path(__file__).resolve().parents[1]
DRIVER = ROOT / "tests" / "sweep" / "driver.py"
sys.path.insert(0, str(DRIVER.parent))
TRIALS = 200
DONE = 0.9


class ReachedError(Exception):
    """The first point is handed to a worker: planning and resuming are over."""


def overhead() -> None:
    """Run trials that train nothing on two workers; print wall seconds per trial after the workers are warm."""
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
    print(f"{len(ends)} trials that train nothing, 2 workers: {(warm[-1] - warm[0]) / (len(warm) - 1):.3f} s per trial")


def planning(points: int) -> None:
    """Time from the command to the first point handed out, with nine tenths of the records on disk."""
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

    run.Pool = NoPool
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
                print(f"{points:6} points, {state}: {time.perf_counter() - begun:.1f} s", flush=True)
            if state.startswith("no record"):
                _write_records(Path(folder) / "out")
            elif state.endswith("lost"):
                _tell_all(Path(folder) / "out")


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


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["overhead"]:
            overhead()
        case ["planning", *sizes] if sizes:
            for size in map(int, sizes):
                planning(size)
        case _:
            sys.exit(__doc__)
