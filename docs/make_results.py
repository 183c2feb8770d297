"""Write the tables of docs/results.md from the study's records: ``python docs/make_results.py``.

A table stands between ``<!-- made: NAME -->`` and ``<!-- end -->``; the text around it is written by hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from nxm_sweep.formatting import display_name, format_value
from nxm_sweep.report.content import difference_frame
from nxm_sweep.report.formats.markdown import markdown_table
from nxm_sweep.report.frames import CELL, Report, read_report
from nxm_sweep.report.statistics import compare
from nxm_sweep.report.table import make_table, table_frame

ROOT = Path(__file__).resolve().parents[1]
PAGE, STUDY = ROOT / "docs" / "results.md", ROOT / "outputs" / "examples" / "low_resource"
_BLOCK = re.compile(r"(<!-- made: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def page(text: str, study: Path = STUDY) -> str:
    """Return the page with its tables made anew."""
    tuning, scores = read_report([study / "tuning"]), read_report([study / "scores"], last_epoch=True)
    best = read_report([study / "scores"])
    tuned = tuning.trials[tuning.trials["task"].isin(scores.trials["task"])]  # the others are not finished
    tables: dict[str, Callable[[], str]] = {
        "scores": lambda: markdown_table(table_frame(make_table(scores, "seed"))),
        "differences": lambda: _differences(scores),
        "protocol": lambda: markdown_table(table_frame(make_table(best, "seed"))),
        "residuals": lambda: markdown_table(_residuals(scores.trials)),
        "tuning": lambda: markdown_table(_tuning(tuned)),
        "cost": lambda: markdown_table(_cost({"tuning": tuned, "scores": scores.trials})),
    }
    return _BLOCK.sub(lambda block: f"{block[1]}\n{tables[block[2]]()}\n\n{block[3]}", text)


def _differences(report: Report) -> str:
    frame, shared = difference_frame(compare(report).differences)
    return f"{markdown_table(frame.drop(columns='model'))}\n\n{shared[:1].upper()}{shared[1:]}."


def _residuals(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the residual before the last prune and that prune's cost, per cell that has one."""
    pruned = trials[trials["cost_of_prune"].notna()]
    rows = [
        {
            **{kind: display_name(kind, name) for kind, name in zip(CELL, names, strict=False) if kind != "model"},
            "relative residual, mean": f"{cell['residual'].mean():.3f}",
            "largest": f"{cell['residual'].max():.3f}",
            "cost of the last prune, points": f"{100 * cell['cost_of_prune'].mean():+.1f}",
        }
        for names, cell in pruned.groupby(CELL, sort=False)
    ]
    return pd.DataFrame(rows)


def _tuning(trials: pd.DataFrame) -> pd.DataFrame:
    """Return each cell's held-out score by learning rate."""
    scored = trials.assign(score=[f"{100 * value:.1f}" for value in trials["selected"]])
    wide = scored.pivot_table(
        index=CELL[:3], columns="learning_rate.value", values="score", aggfunc="first", fill_value=""
    )
    wide.index = pd.MultiIndex.from_tuples(
        [tuple(display_name(kind, name) for kind, name in zip(CELL, names, strict=False)) for names in wide.index],
        names=["task", "method", "pattern"],
    )
    wide.columns = [f"lr {format_value(rate)}" for rate in wide.columns]
    return wide.reset_index()


def _cost(rounds: dict[str, pd.DataFrame]) -> pd.DataFrame:
    rows = [
        {
            "round": name,
            "trials": len(trials),
            "optimizer steps": f"{trials['steps'].sum():,}",
            "tokens, millions": f"{trials['tokens'].sum() / 1e6:.1f}",
            "CPU hours of training": f"{(trials['cpu_per_step'] * trials['steps']).sum() / 3600:.1f}",
        }
        for name, trials in rounds.items()
    ]
    return pd.DataFrame(rows)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
