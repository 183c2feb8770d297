"""Trials as a picture takes them apart: places (a panel each), and in a place series (a mark each)."""

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

PANELS = 9  # at most, of one picture: the tasks of GLUE


@dataclass(frozen=True)
class Series:
    """The trials of one method and sparsity in one place."""

    label: str
    style: Style
    frame: pd.DataFrame


@dataclass(frozen=True)
class Sheet:
    """A picture whose panels show one place each.

    Attributes:
        name: Of the picture.
        title: Of the picture.
        across: Label of the horizontal axis, with its unit.
        up: Label of the vertical axis; a place's metrics are added in brackets.
    """

    name: str
    title: str
    across: str
    up: str

    def draw(self, frame: pd.DataFrame, mark: Callable[[Axes, pd.DataFrame], str], words: str = "") -> Picture:
        """Return the picture: ``mark`` draws a place into its axes and returns in words what it drew."""
        panels: list[Panel] = []
        for heading, group in places(frame):
            with open_figure(heading, self.across, _lines(self.up, metrics(group))) as (figure, axes):
                axes.grid()
                said = mark(axes, group)
                legend(axes)
                panels.append(render_panel(figure, f"{self.name}-{len(panels)}", f"{self.title}, {heading}: {said}."))
            if len(panels) == PANELS:
                break
        return make_figure(self.name, self.title, panels, len(list(places(frame))), words)

    def without(self, why: str) -> Picture:
        """Return the picture left out."""
        return Picture(self.name, self.title, words=f"Left out: {why}.")


def make_figure(name: str, title: str, panels: Sequence[Panel], wanted: int, words: str = "") -> Picture:
    """Return a picture of at most :data:`PANELS` panels, which says how many there would be."""
    if wanted > PANELS:
        words = f"{words} The first {PANELS} of {wanted} panels are drawn.".strip()
    return Picture(name, title, tuple(panels[:PANELS]), words)


def places(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the heading and the rows of each task and model, in the frame's order."""
    alone = len(set(frame["model"])) == 1
    for (task, model), group in frame.groupby(["task", "model"], sort=False):
        yield (truncate(task) if alone else f"{truncate(task, 20)}, {truncate(model, 22)}"), group


def split_series(frame: pd.DataFrame) -> Iterator[Series]:
    """Yield each method and sparsity of a place, in the order of every legend."""
    for method in legend_order(list(frame["method"])):
        mine = frame[frame["method"] == method]
        sparsities = sorted(set(mine["sparsity"]))
        for turn, sparsity in enumerate(sparsities):
            label = truncate(method) if len(sparsities) == 1 else f"{truncate(method, 20)} {truncate(sparsity, 16)}"
            yield Series(label, replace(style_of(method), hollow=turn > 0), mine[mine["sparsity"] == sparsity])


def metrics(frame: pd.DataFrame) -> str:
    """Return a place's metrics in brackets, for the label of an axis; nothing if the frame names none."""
    if "metric" not in frame:
        return ""
    return f"({', '.join(truncate(metric) for metric in sorted(set(frame['metric'])))})"


def _lines(up: str, unit: str) -> str:
    """A vertical label that fits a panel's height."""
    return f"{up}\n{unit}" if len(up) + len(unit) > 34 else f"{up} {unit}".strip()
