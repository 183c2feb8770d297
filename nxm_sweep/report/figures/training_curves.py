"""Pictures of training: residual and scores by epoch, residual and flips by group of matrices, where the kept weights lie."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from nxm_sweep.formatting import constraint_text
from nxm_sweep.report.figures.panels import PANELS, Sheet, make_figure, split_series
from nxm_sweep.report.figures.style import Panel, Picture, legend, open_figure, render_panel, style_of, truncate
from nxm_sweep.report.frames import CELL, Report

_KEY = ["folder", "identity"]
_ROLES = ("dense", "asp", "nxm", "admm_unstructured", "nxm_refit", "sr_ste", "gradual")  # whose looks roles borrow
_BEST = "Each cell's best trial."


def curves(report: Report, trials: pd.DataFrame) -> tuple[list[Picture], list[Picture]]:
    """Return the pictures by epoch, and those by matrix; ``trials`` gives the order of the panels."""
    best = trials.loc[trials["rank"] == 1, [*CELL, *_KEY, "metric"]]
    epochs = best.merge(report.epochs, on=_KEY)
    epochs = epochs.assign(**{name: 100 * epochs[name].astype(float) for name in ("selected", "unpruned")})
    iterations = best.merge(report.iterations, on=_KEY)
    by_epoch = [residual(epochs), pruned_and_unpruned(epochs)]
    by_matrix = [
        plot_kept_weights(best.merge(report.matrices, on=_KEY)),
        by_group(iterations, "distance", "Relative residual by group of matrices", "||W - P(W)|| / ||W|| (ratio)"),
        by_group(iterations, "support_flips", "Support flips by group of matrices", "flipped since before (share)"),
    ]
    return by_epoch, by_matrix


def residual(epochs: pd.DataFrame) -> Picture:
    """Draw how far each epoch left the weights from the pattern."""
    up = "||W - P(W)|| / ||W|| (ratio)"
    sheet = Sheet("residual", "Convergence of the relative residual", "epoch", up)
    epochs = epochs.dropna(subset=["residual"]).drop(columns="metric")
    if epochs.empty:
        return sheet.without("no trial measured its distance to a pattern")

    def mark(axes: Axes, group: pd.DataFrame) -> str:
        said = []
        for row in split_series(group):
            line = row.frame.sort_values("epoch")
            axes.plot(line["epoch"], line["residual"], label=row.label, linestyle=row.style.line, **row.style.marks())
            said.append(f"{row.label} {line['residual'].iloc[0]:.3f} to {line['residual'].iloc[-1]:.3f}")
        axes.set_ylim(bottom=0)
        _whole(axes)
        return "; ".join(said)

    return sheet.draw(epochs, mark, f"{_BEST} At 0 the last hard prune cuts nothing.")


def pruned_and_unpruned(epochs: pd.DataFrame) -> Picture:
    """Draw each epoch's score of the pruned model against that of the unpruned one."""
    sheet = Sheet("pruned-and-unpruned", "Pruned against unpruned score by epoch", "epoch", "score times 100")
    epochs = epochs.dropna(subset=["selected"])
    if epochs.empty:
        return sheet.without("no trial has an epoch's score")

    def mark(axes: Axes, group: pd.DataFrame) -> str:
        said = []
        for row in split_series(group):
            line = row.frame.sort_values("epoch")
            axes.plot(line["epoch"], line["selected"], label=row.label, linestyle="solid", **row.style.marks())
            said.append(f"{row.label} {line['selected'].iloc[-1]:.1f}")
            if line["unpruned"].notna().any() and not line["unpruned"].equals(line["selected"]):
                hollow = {**row.style.marks(), "markerfacecolor": "none", "linestyle": (0, (3, 2))}
                axes.plot(line["epoch"], line["unpruned"], **hollow)
                said[-1] += f" (unpruned {line['unpruned'].iloc[-1]:.1f})"
        _whole(axes)
        return f"after the last epoch {'; '.join(said)}"

    return sheet.draw(
        epochs,
        mark,
        f"{_BEST} Solid lines: pruned; broken lines with hollow marks: unpruned, where it was measured too.",
    )


def by_group(iterations: pd.DataFrame, value: str, title: str, across: str) -> Picture:
    """Draw where the last iteration left each group of matrices: a panel per task, a mark per method."""
    name = value.replace("_", "-") + "-by-group"
    groups = iterations[iterations["group"] != "all"].dropna(subset=[value])
    if groups.empty:
        why = "no record holds its iterations by group of matrices"
        return Picture(name, title, words=f"Left out: {why}.")
    last = groups[groups["step"] == groups.groupby(_KEY)["step"].transform("max")]
    names = list(dict.fromkeys(last["group"]))[:24]

    def mark(axes: Axes, group: pd.DataFrame) -> str:
        rows = list(split_series(group))
        for place, row in enumerate(rows):
            mine = row.frame[row.frame["group"].isin(names)]
            at = mine["group"].map(names.index) + (place - (len(rows) - 1) / 2) * 0.6 / len(rows)
            axes.plot(mine[value], at, linestyle="none", label=row.label, **row.style.marks())
        axes.set_yticks(range(len(names)), [_role(name) for name in names])
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlim(left=0)
        worst = group.sort_values(value).iloc[-1]
        return f"largest {worst[value]:.3f}, {_role(worst['group'])}, {truncate(worst['method'])}"

    return Sheet(name, title, across, "").draw(
        last.drop(columns="metric"), mark, f"{_BEST} At its last ADMM iteration."
    )


def plot_kept_weights(matrices: pd.DataFrame) -> Picture:
    """Draw the share of weights that each layer keeps; say it in words where the pattern fixes it."""
    name, title = "kept", "Where the kept weights lie"
    matrices = matrices.dropna(subset=["zeros"])
    if matrices.empty:
        return Picture(name, title, words="Left out: no trial pruned a matrix.")
    shares = 100.0 * (1.0 - matrices["zeros"] / (matrices["rows"] * matrices["columns"]))
    matrices = matrices.assign(
        share=shares.astype(float), layer=_layers(matrices["matrix"]), role=_roles(matrices["matrix"])
    )
    spread = matrices.groupby(_KEY)["share"].transform(lambda share: share.max() - share.min())
    uneven = matrices[(spread > 0.1) & matrices["layer"].notna()]
    fixed = matrices[spread <= 0.1]
    words = "" if fixed.empty else _fixed(fixed)
    if uneven.empty:
        return Picture(name, title, words=f"Not drawn. {words}")
    cells = [group for _, group in uneven.groupby(CELL, sort=False)]
    panels: list[Panel] = []
    for group in cells[:PANELS]:
        first = group.iloc[0]
        heading = f"{truncate(first['task'], 20)}: {truncate(first['method'], 20)}"
        with open_figure(heading, "layer", "kept (% of the weights)") as (figure, axes):
            axes.grid()
            for place, (role, mine) in enumerate(group.groupby("role", sort=False)):
                style = style_of(_ROLES[place % len(_ROLES)])
                line = mine.sort_values("layer")
                axes.plot(line["layer"], line["share"], label=truncate(role, 18), linestyle=style.line, **style.marks())
            _whole(axes)
            legend(axes)
            said = f"from {group['share'].min():.1f}% to {group['share'].max():.1f}%"
            panels.append(render_panel(figure, f"{name}-{len(panels)}", f"{title}, {heading}: {said}."))
    return make_figure(name, title, panels, len(cells), f"{_BEST} {words}".strip())


def _fixed(matrices: pd.DataFrame) -> str:
    shares = matrices.groupby("constraint")["share"].median()
    said = ", ".join(
        f"{share:.1f}% ({truncate(constraint_text(str(constraint)))})" for constraint, share in shares.items()
    )
    count = matrices.groupby(_KEY)["matrix"].count().max()
    return (
        f"Every one of a model's {count} pruned matrices, in every layer, keeps the same share, {said}, because the "
        "constraint fixes it; where training left a choice is which entries stay inside a group."
    )


def _layers(names: pd.Series[str]) -> pd.Series[float]:
    return pd.to_numeric(names.str.extract(r"\.(\d+)\.", expand=False))


def _roles(names: pd.Series[str]) -> pd.Series[str]:
    return names.map(_role)


def _role(name: str) -> str:
    """``attention.self.query`` of ``bert.encoder.layer.*.attention.self.query.weight``."""
    parts = name.removesuffix(".weight").split(".")
    places = [place for place, part in enumerate(parts) if part == "*" or part.isdigit()]
    return truncate(".".join(parts[places[-1] + 1 :] if places else parts), 26)


def _whole(axes: Axes) -> None:
    """Ticks at whole numbers."""
    axes.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]
