"""Commands of the same fine-tunings: ours as a trial or a sweep, Transformers' example and an expert's as a script."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import ROOT
from benchmarks.processes import isolated


@dataclass(frozen=True)
class Work:
    """MRPC cut to its first rows, in a folder of its own.

    Attributes:
        folder: Folder of rows, caches and outputs.
        jobs: The peer's job by recipe, as JSON values.
        overrides: Overrides of ours, for the same rows, epochs, batches and updates.
    """

    folder: Path
    jobs: Mapping[str, Mapping[str, object]]
    overrides: Sequence[str]

    @classmethod
    def of(cls, folder: Path, rows: int, epochs: int = 1) -> Work:
        """Cut the task and write its rows.

        Raises:
            MissingError: The rows or the model are not on this machine.
        """
        (folder / "rows").mkdir()
        jobs, overrides = isolated(prepare, folder / "rows", rows, epochs)
        return cls(folder, jobs, overrides)

    def plain(self, recipe: str, **changes: object) -> list[str]:
        """Return the peer's command."""
        return [str(ROOT / "benchmarks" / "plain.py"), json.dumps({**self.jobs[recipe], **changes})]

    def trial(self, *overrides: str, output: str = "trial") -> list[str]:
        """Return our command for one trial."""
        return ["-m", "nxm_sweep", *self.overrides, *overrides, f"output_dir={self.folder / output}", "force=true"]

    def sweep(self, *overrides: str, output: str) -> list[str]:
        """Return our command for a sweep on two workers of one thread."""
        workers = ["sweep.workers=2", "sweep.threads=1"]
        return ["-m", "nxm_sweep", "-m", *self.overrides, *workers, *overrides, f"output_dir={self.folder / output}"]

    def environment(self, output: str) -> dict[str, str]:
        """Return the environment variables for a separate, cold cache."""
        return {"HF_DATASETS_CACHE": str(self.folder / f"{output}-cache")}


def prepare(folder: Path, rows: int, epochs: int) -> tuple[dict[str, dict[str, object]], list[str]]:
    """Write the rows; return the peer's jobs and our overrides."""
    from dataclasses import asdict, replace  # noqa: PLC0415

    from benchmarks.plain import RECIPES  # noqa: PLC0415 - they load PyTorch, which the caller does without
    from benchmarks.ways import GLUE, Bench  # noqa: PLC0415

    bench = Bench.of("glue/mrpc", rows)
    bench.write_rows(folder)
    jobs = {recipe: asdict(replace(bench.job(recipe), rows=str(folder), epochs=epochs)) for recipe in RECIPES}
    (validation,) = bench.prepared.rows.validation.values()
    overrides = [
        "task=glue/mrpc",
        "model=minilm_l6",
        f"data.path={GLUE}",
        "training.device=cpu",
        f"training.epochs={epochs}",
        f"training.max_train_samples={len(bench.prepared.rows.train)}",
        f"training.max_eval_samples={len(validation)}",
        "training.batch_size=32",
        f"learning_rate.value={jobs['example']['learning_rate']}",
    ]
    return jobs, overrides
