"""Split trials into panels (one per task and model) and series (one per method and sparsity)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import pandas as pd
from matplotlib.axes import Axes

from nxm_sweep.formatting import display_name
from nxm_sweep.report.figures.style import (
    Legend,
    Panel,
    Picture,
    Style,
    Swatch,
    legend_order,
    open_figure,
    render_panel,
    style_of,
    truncate,
)

PANELS = 9  # most in one picture: the tasks of GLUE


@dataclass(frozen=True)
class Series:
    """The trials of one method and sparsity in a panel."""

    label: str
    style: Style
    frame: pd.DataFrame


@dataclass(frozen=True)
class Sheet:
    """A picture with one panel per task and model.

    Attributes:
        name: Picture name.
        title: Picture title.
        across: Label of the horizontal axis, with its unit.
        up: Label of the vertical axis; a panel's metrics follow in brackets.
    """

    name: str
    title: str
    across: str
    up: str

    def draw(self, frame: pd.DataFrame, mark: Callable[[Axes, pd.DataFrame], str], words: str = "") -> Picture:
        """Return the picture; ``mark`` draws the rows of a panel and returns a description."""
        panels: list[Panel] = []
        legend = Legend()
        for heading, group in places(frame):
            with open_figure(heading, self.across, break_label(self.up, metrics(group))) as (figure, axes):
                axes.grid()
                text = mark(axes, group)
                legend.add(axes)
                panels.append(render_panel(figure, f"{self.name}-{len(panels)}", f"{self.title} {heading}: {text}."))
            if len(panels) == PANELS:
                break
        swatches = legend.swatches(self.name)
        return make_figure(self.name, self.title, panels, len(list(places(frame))), words, legend=swatches)

    def without(self, why: str) -> Picture:
        """Return an empty picture that states why."""
        return Picture(self.name, self.title, words=why)


def make_figure(
    name: str, title: str, panels: Sequence[Panel], wanted: int, words: str = "", *, legend: Sequence[Swatch] = ()
) -> Picture:
    """Return a picture of at most :data:`PANELS` panels, with a note if more were wanted."""
    if wanted > PANELS:
        words = f"{words} The first {PANELS} of {wanted} panels are drawn.".strip()
    return Picture(name, title, tuple(panels[:PANELS]), words, legend)


def places(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield heading and rows of each task and model, in the frame's order, with the labels of their series."""
    one_model = len(set(frame["model"])) == 1
    for (task, model), group in _add_labels(frame).groupby(["task", "model"], sort=False):
        names = display_name("task", str(task)), display_name("model", str(model))
        yield (truncate(names[0]) if one_model else f"{truncate(names[0], 20)}, {truncate(names[1], 22)}"), group


def _add_labels(frame: pd.DataFrame) -> pd.DataFrame:
    """Add ``series``, the label of a method and sparsity in every panel, and ``later``, whether it is not the first."""
    patterns = {method: sorted(set(group)) for method, group in frame.groupby("method")["sparsity"]}
    labels, later = [], []
    for method, sparsity in zip(frame["method"], frame["sparsity"], strict=True):
        name, pattern = display_name("method", method), display_name("pattern", sparsity)
        several = len(patterns[method]) > 1
        labels.append(f"{truncate(name, 20)} {truncate(pattern, 16)}" if several else truncate(name))
        later.append(sparsity != patterns[method][0])
    return frame.assign(series=labels, later=later)


def split_series(frame: pd.DataFrame) -> Iterator[Series]:
    """Yield a series per method and sparsity of a panel that :func:`places` returned, in legend order."""
    for method in legend_order(list(frame["method"])):
        trials = frame[frame["method"] == method]
        for _, rows in trials.groupby("sparsity"):
            first = rows.iloc[0]
            yield Series(first["series"], replace(style_of(method), hollow=bool(first["later"])), rows)


def metrics(frame: pd.DataFrame) -> str:
    """Return the frame's metrics in brackets, for an axis label; empty if it has none."""
    if "metric" not in frame:
        return ""
    return f"({', '.join(truncate(metric) for metric in sorted(set(frame['metric'])))})"


def break_label(up: str, unit: str) -> str:
    """Break a label to fit a panel's height."""
    return f"{up}\n{unit}" if len(up) + len(unit) > 34 else f"{up} {unit}".strip()
