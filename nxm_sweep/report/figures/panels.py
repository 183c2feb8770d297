"""Split trials into panels (one per task and model) and series (one per method and sparsity)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import pandas as pd
from matplotlib.axes import Axes

from nxm_sweep.report.figures.style import (
    Panel,
    Picture,
    Style,
    legend,
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
        for heading, group in places(frame):
            with open_figure(heading, self.across, _break_label(self.up, metrics(group))) as (figure, axes):
                axes.grid()
                text = mark(axes, group)
                legend(axes)
                panels.append(render_panel(figure, f"{self.name}-{len(panels)}", f"{self.title}, {heading}: {text}."))
            if len(panels) == PANELS:
                break
        return make_figure(self.name, self.title, panels, len(list(places(frame))), words)

    def without(self, why: str) -> Picture:
        """Return an empty picture that states why."""
        return Picture(self.name, self.title, words=f"Left out: {why}.")


def make_figure(name: str, title: str, panels: Sequence[Panel], wanted: int, words: str = "") -> Picture:
    """Return a picture of at most :data:`PANELS` panels, with a note if more were wanted."""
    if wanted > PANELS:
        words = f"{words} The first {PANELS} of {wanted} panels are drawn.".strip()
    return Picture(name, title, tuple(panels[:PANELS]), words)


def places(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield heading and rows of each task and model, in the frame's order."""
    one_model = len(set(frame["model"])) == 1
    for (task, model), group in frame.groupby(["task", "model"], sort=False):
        yield (truncate(task) if one_model else f"{truncate(task, 20)}, {truncate(model, 22)}"), group


def split_series(frame: pd.DataFrame) -> Iterator[Series]:
    """Yield a series per method and sparsity, in legend order."""
    for method in legend_order(list(frame["method"])):
        trials = frame[frame["method"] == method]
        sparsities = sorted(set(trials["sparsity"]))
        for index, sparsity in enumerate(sparsities):
            label = truncate(method) if len(sparsities) == 1 else f"{truncate(method, 20)} {truncate(sparsity, 16)}"
            yield Series(label, replace(style_of(method), hollow=index > 0), trials[trials["sparsity"] == sparsity])


def metrics(frame: pd.DataFrame) -> str:
    """Return the frame's metrics in brackets, for an axis label; empty if it has none."""
    if "metric" not in frame:
        return ""
    return f"({', '.join(truncate(metric) for metric in sorted(set(frame['metric'])))})"


def _break_label(up: str, unit: str) -> str:
    """Break a label to fit a panel's height."""
    return f"{up}\n{unit}" if len(up) + len(unit) > 34 else f"{up} {unit}".strip()
