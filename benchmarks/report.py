"""Time and memory of a report over many records.

Writes records to a temporary folder, as large as real ones: each is a real record with another identity, seed and
score, for one of nine tasks, three models and three patterns.
Usage: python benchmarks/report.py [RECORDS]
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[1] / "outputs" / "examples" / "methods" / "trials"
TASKS = ("mnli", "sst2", "qnli", "cola", "stsb", "mrpc", "rte", "qqp", "wnli")


def report(count: int = 10_000) -> dict[str, float]:
    """Return seconds, CPU seconds and GiB of memory of a report, and MiB of each file that it writes."""
    samples = [json.loads(path.read_text()) for path in sorted(EXAMPLE.glob("*/result.json"))]
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as root:
        for number in range(count):
            record = samples[number % len(samples)]
            rest, task = divmod(number // len(samples), len(TASKS))
            rest, model = divmod(rest, 3)
            seed, pattern = divmod(rest, 3)
            record["identity"] = f"{number:016x}"
            record["task"], record["model_name"] = f"glue/{TASKS[task]}", f"model{model}"
            if record["method"] != "dense":
                record["sparsity_name"] = f"{pattern + 1}of4"
            for target in record["sparsity"]["targets"]:
                is_free = record["method"] == "admm_unstructured"
                target["constraint"] = f"{(pattern + 1) / 4} unstructured" if is_free else f"{pattern + 1} of 4"
            record["hashed"]["seed"] = seed if record["method"] != "dense" else 3 * seed + pattern
            record["best"]["value"] += draw.gauss(0, 1e-4)
            folder = Path(root) / "trials" / record["identity"]
            folder.mkdir(parents=True)
            (folder / "result.json").write_text(json.dumps(record, indent=1))
        size = sum(path.stat().st_size for path in Path(root).rglob("result.json")) / 2**20
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "nxm_sweep.report", root], check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        written = {path.name: path.stat().st_size / 2**20 for path in sorted((Path(root) / "reports").iterdir())}
    figures = {
        "records": count,
        "MiB of records": size,
        "seconds": seconds,
        "CPU seconds": usage.ru_utime + usage.ru_stime,
    }
    return {**figures, "GiB of memory": usage.ru_maxrss / 2**20, **written}


if __name__ == "__main__":
    for name, value in report(*map(int, sys.argv[1:2])).items():
        print(f"{name}: {value:.1f}")
