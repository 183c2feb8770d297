"""Pictures of one trial: scores and training loss by epoch, residuals and support flips by kind of matrix."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
from matplotlib.axes import Axes

from nxm_sweep.report.figures.limits import robust_limits
from nxm_sweep.report.figures.panels import break_label, make_figure
from nxm_sweep.report.figures.style import Legend, Panel, Picture, open_figure, render_panel, style_of
from nxm_sweep.report.figures.training_curves import ROLES, parse_role, set_whole_ticks

_GROUPS = 12  # most kinds of matrices in a panel
_DISTANCE = "||W - P(W)|| / ||W|| (ratio)"


def trial_pictures(epochs: pd.DataFrame, iterations: pd.DataFrame, method: str, metric: str) -> list[Picture]:
    """Return the pictures that the trial has data for.

    Args:
        epochs: The trial's rows of :attr:`~nxm_sweep.report.frames.Report.epochs`.
        iterations: Its rows of :attr:`~nxm_sweep.report.frames.Report.iterations`.
        method: Its method, whose style the curves have.
        metric: Display name of the metric.
    """
    epochs = epochs.sort_values("epoch")
    groups = iterations[iterations["group"] != "all"] if (iterations["group"] != "all").any() else iterations
    pictures = [_by_epoch(epochs, method, metric), _by_group(groups)]
    return [picture for picture in pictures if picture.panels]


def _by_epoch(epochs: pd.DataFrame, method: str, metric: str) -> Picture:
    """Draw the pruned and the unpruned score, the training loss and the residual by epoch."""
    name, title, legend, panels = "epochs", "How did the training go?", Legend(), list[Panel]()

    def add(column: str, up: str, draw: Callable[[Axes], object]) -> None:
        if epochs[column].notna().any():
            panels.append(
                _draw(f"{name}-{len(panels)}", f"{title} {' '.join(up.split())} by epoch.", ("epoch", up), draw, legend)
            )

    marks = style_of(method).marks()
    hollow = {**marks, "markerfacecolor": "none", "linestyle": (0, (3, 2))}

    def draw_scores(axes: Axes) -> None:
        selected, unpruned = (100 * epochs[column].astype(float) for column in ("selected", "unpruned"))
        axes.set_ylim(*robust_limits([*selected, *unpruned]))
        is_pruned = unpruned.notna().any() and not unpruned.equals(selected)
        axes.plot(epochs["epoch"], selected, label="pruned" if is_pruned else "score", **marks)
        if is_pruned:
            axes.plot(epochs["epoch"], unpruned, label="unpruned", **hollow)

    add("selected", break_label("score times 100", f"({metric})"), draw_scores)
    add("training_loss", "training loss", lambda axes: axes.plot(epochs["epoch"], epochs["training_loss"], **marks))
    add("residual", _DISTANCE, lambda axes: axes.plot(epochs["epoch"], epochs["residual"], **marks))
    return make_figure(
        name, title, panels, len(panels), "By epoch, on the rows that select.", legend=legend.swatches(name)
    )


def _by_group(iterations: pd.DataFrame) -> Picture:
    """Draw the residuals and the support flips of each kind of matrix by optimizer step."""
    name, title, legend, panels = "residuals", "Which matrices reach the pattern?", Legend(), list[Panel]()
    kinds = list(dict.fromkeys(iterations["group"]))[:_GROUPS]
    for column, up in (
        ("distance", _DISTANCE),
        ("primal", "primal residual (ratio)"),
        ("dual", "dual residual (ratio)"),
        ("support_flips", "support flips (share)"),
    ):
        repeats = column == "primal" and iterations["primal"].equals(iterations["distance"])
        if repeats or iterations[column].isna().all():
            continue

        def draw(axes: Axes, column: str = column) -> None:
            for index, kind in enumerate(kinds):
                rows = iterations[iterations["group"] == kind].sort_values("step")
                style = style_of(ROLES[index % len(ROLES)])
                marks = {**style.marks(), "markersize": 3.5, "linestyle": style.line, "linewidth": 1.0}
                axes.plot(rows["step"], rows[column], label=parse_role(kind), **marks)
            axes.set_ylim(bottom=0)

        panels.append(_draw(f"{name}-{len(panels)}", f"{title} {up} by step.", ("optimizer step", up), draw, legend))
    words = "By ADMM iteration and kind of matrix, over all layers."
    return make_figure(name, title, panels, len(panels), words, legend=legend.swatches(name))


def _draw(name: str, alt: str, labels: tuple[str, str], draw: Callable[[Axes], object], legend: Legend) -> Panel:
    with open_figure("", *labels) as (figure, axes):
        axes.grid()
        draw(axes)
        set_whole_ticks(axes)
        legend.add(axes)
        return render_panel(figure, name, alt)
