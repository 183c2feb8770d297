"""A page per trial: its score, curves, residuals by kind of matrix, and where the kept weights lie."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pandas as pd

import nxm_sweep
from nxm_sweep.errors import RecordError
from nxm_sweep.formatting import constraint_text, display_name, format_duration, format_score, format_value, short_name
from nxm_sweep.report.content import Content
from nxm_sweep.report.figures.training_curves import add_shares
from nxm_sweep.report.figures.trial_curves import trial_pictures
from nxm_sweep.report.formats.html import drawn, fill, format_minute
from nxm_sweep.report.formats.trial_table import link, page_addresses
from nxm_sweep.report.frames import CELL, Report
from nxm_sweep.report.table import metric_label
from nxm_sweep.store.files import read_regular_file
from nxm_sweep.store.paths import TRIALS

_ROLES = 12  # most columns of the table of kept weights
_LAYERS = 200  # most of its rows
_HEAD = 4096  # bytes at the begin of a page that hold its key
_SECTIONS = ("Score", "Curves", "Weights", "Settings")


def trial_pages(content: Content) -> dict[str, str]:
    """Return the pages of the best trials by name, without those that lie in ``content.target`` and are up to date."""
    report, pages = content.report, {}
    rows = {str(row["path"]): row for row in report.trials.to_dict("records")}
    for path, address in page_addresses(report).items():
        name = unquote(address)
        key = _make_key(Path(path))
        if not _is_current(content.target / name, key):
            pages[name] = render_trial(report, rows[path], content.target / TRIALS, key)
    return pages


def render_trial(report: Report, trial: Mapping[Any, Any], target: Path, key: str = "") -> str:
    """Return the page of a trial.

    Args:
        report: Frames as read.
        trial: Its row of ``report.trials``.
        target: The page's folder; links are relative to it.
        key: What the page depends on, as it is written into the page.
    """
    epochs, iterations, matrices = (
        frame[(frame["identity"] == trial["identity"]) & (frame["folder"] == trial["folder"])]
        for frame in (report.epochs, report.iterations, report.matrices)
    )
    metric = metric_label(report, str(trial["task"]))
    names = {kind: display_name(kind, str(trial[kind])) for kind in CELL}
    scores = report.scores[report.scores["identity"] == trial["identity"]].drop_duplicates(["set", "metric"])
    values = {
        "title": " ".join([names["method"], f"on {names['task']}"]),
        "watch": None,
        "key": key,
        "sections": _SECTIONS,
        "score": f"{100 * trial['value']:.1f}",
        "metric": metric,
        "rank": int(trial["rank"]),
        "facts": list(_list_facts(trial, names)),
        "scores": [
            (
                row["set"],
                row["metric"],
                f"{row['value']:.4f}" if row["metric"] == "loss" else format_score(row["value"]),
            )
            for row in scores.to_dict("records")
        ],
        "epochs": list(_list_epochs(epochs, trial)),
        "has_residual": bool(epochs["residual"].notna().any()),
        "pictures": [drawn(picture) for picture in trial_pictures(epochs, iterations, str(trial["method"]), metric)],
        "residuals": _tabulate_residuals(add_shares(matrices)),
        "weights": _tabulate_weights(add_shares(matrices)),
        "settings": list(_list_settings(report, trial)),
        "record": link(str(trial["path"]), target),
        "identity": trial["identity"],
        "made": f"Made from the record of trial {trial['identity']}, finished {format_minute(str(trial['finished']))}.",
    }
    return fill("trial.html.jinja", values)


def _make_key(path: Path) -> str:
    """Return a digest of a record and of what makes its page."""
    try:
        content = read_regular_file(path)
    except (OSError, RecordError):  # it has gone since it was read: the page is made again
        return ""
    return hashlib.sha256(_read_sources() + content).hexdigest()[:32]


@cache
def _read_sources() -> bytes:
    """Return the package's version, the templates and this module, so that a checkout's changes are seen."""
    templates = sorted((files("nxm_sweep.report") / "templates").iterdir(), key=lambda file: file.name)
    return b"".join(
        [nxm_sweep.__version__.encode(), Path(__file__).read_bytes(), *(one.read_bytes() for one in templates)]
    )


def _is_current(page: Path, key: str) -> bool:
    try:
        with page.open("rb") as file:
            return bool(key) and f'content="{key}"'.encode() in file.read(_HEAD)
    except OSError:
        return False


def _list_facts(trial: Mapping[Any, Any], names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield what was trained and how long it took."""
    for kind, label in (("method", "method"), ("sparsity", "pattern"), ("model", "model"), ("task", "task")):
        yield label, names[kind]
    pruned, total = int(trial["target_parameters"]), int(trial["parameters"])
    if pruned:
        checked = "every group holds its pattern" if trial["exact"] else "some groups hold fewer weights than allowed"
        yield "verified", f"{checked}; {pruned:,} of {total:,} parameters are in pruned matrices"
    if not pd.isna(trial["constant"]):
        yield "constant answer", f"{100 * trial['constant']:.1f}"
    if not pd.isna(trial["cost_of_prune"]):
        yield "last prune", f"{100 * trial['cost_of_prune']:.1f} points: the unpruned less the pruned score"
    yield (
        "training",
        f"{int(trial['steps']):,} steps, {int(trial['tokens']):,} tokens, {format_duration(trial['seconds'])}",
    )
    yield "device", str(trial["device"])
    yield "trial", str(trial["identity"])


def _list_epochs(epochs: pd.DataFrame, trial: Mapping[Any, Any]) -> Iterator[dict[str, Any]]:
    def show(value: Any, form: str) -> str:
        return "" if value is None or pd.isna(value) else form.format(value)

    for row in epochs.sort_values("epoch").to_dict("records"):
        yield {
            "epoch": int(row["epoch"]),
            "step": f"{int(row['step']):,}",
            "selected": show(None if row["selected"] is None else 100 * row["selected"], "{:.1f}"),
            "unpruned": show(None if row["unpruned"] is None else 100 * row["unpruned"], "{:.1f}"),
            "loss": show(row["training_loss"], "{:.4f}"),
            "residual": show(row["residual"], "{:.4f}"),
            "best": int(row["epoch"]) == int(trial["epoch"]),
        }


def _tabulate_weights(matrices: pd.DataFrame) -> dict[str, Any]:
    """Return the share of weights that each layer's matrices keep, as a table, or as a text where it is the same."""
    if matrices.empty:
        return {"text": "No matrix is pruned.", "heads": [], "rows": []}
    low, high = matrices["share"].min(), matrices["share"].max()
    patterns = ", ".join(
        dict.fromkeys(display_name("pattern", constraint_text(str(one))) for one in matrices["constraint"])
    )
    if high - low < 0.1:
        text = f"Each of the {len(matrices)} pruned matrices keeps {low:.1f}% of its weights: the pattern {patterns} fixes it."
        return {"text": text, "heads": [], "rows": []}
    text = f"Kept weights in percent, by layer and matrix, from {low:.1f} to {high:.1f} ({patterns}); darker is more."
    return {"text": text, **_tabulate_layers(matrices, "share", "{:.1f}")}


def _tabulate_residuals(matrices: pd.DataFrame) -> dict[str, Any]:
    """Return the residual of each layer's matrices before the last prune as a table, without rows if unknown."""
    known = matrices[matrices["residual"].notna()]
    if known.empty or known["layer"].isna().all():
        return {"text": "", "heads": [], "rows": []}
    text = "||W - P(W)|| / ||W|| of each matrix before the last prune, by layer; darker is more."
    return {"text": text, **_tabulate_layers(known, "residual", "{:.4f}")}


def _tabulate_layers(matrices: pd.DataFrame, column: str, form: str) -> dict[str, Any]:
    """Return a column as layers by matrices: heads, and rows of texts, each with its shade in percent."""
    wide = matrices.pivot_table(index="layer", columns="role", values=column, sort=False, dropna=False)
    wide = wide.iloc[:_LAYERS, :_ROLES].sort_index()
    low, high = matrices[column].min(), matrices[column].max()
    span = (high - low) or 1.0
    rows = [
        (int(layer), [("", 0) if pd.isna(one) else (form.format(one), round(60 * (one - low) / span)) for one in row])
        for layer, row in zip(wide.index, wide.to_numpy(float), strict=True)
    ]
    return {"heads": list(wide.columns), "rows": rows}


def _list_settings(report: Report, trial: Mapping[Any, Any]) -> Iterator[tuple[str, str]]:
    """Yield the settings that the method reads, those that vary in the report first."""
    first = [name for name in report.hyperparameters() if name in trial]
    for name in dict.fromkeys([*first, *sorted(report.settings())]):
        if not pd.isna(trial[name]):
            yield short_name(name), format_value(trial[name])
