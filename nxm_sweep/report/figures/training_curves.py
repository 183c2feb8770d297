"""Pictures of training: residual and scores by epoch, residual and flips by group of matrices, kept weights."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from nxm_sweep.formatting import constraint_text, display_name
from nxm_sweep.report.figures.limits import name_clipped, robust_limits
from nxm_sweep.report.figures.panels import PANELS, Sheet, make_figure, split_series
from nxm_sweep.report.figures.style import Legend, Panel, Picture, open_figure, render_panel, style_of, truncate
from nxm_sweep.report.frames import CELL, Report

_KEY = ["folder", "identity"]
ROLES = ("dense", "asp", "nxm", "admm_unstructured", "nxm_refit", "sr_ste", "gradual")  # whose styles the roles borrow
_BEST = "Each cell's best trial."


def curves(report: Report, trials: pd.DataFrame) -> tuple[list[Picture], list[Picture]]:
    """Return the pictures by epoch and by matrix; ``trials`` gives the order of the panels."""
    best = trials.loc[trials["rank"] == 1, [*CELL, *_KEY, "metric"]]
    epochs = best.merge(report.epochs, on=_KEY)
    epochs = epochs.assign(**{name: 100 * epochs[name].astype(float) for name in ("selected", "unpruned")})
    iterations = best.merge(report.iterations, on=_KEY)
    by_epoch = [residual(epochs), pruned_and_unpruned(epochs)]
    by_matrix = [
        plot_kept_weights(best.merge(report.matrices, on=_KEY)),
        by_group(iterations, "distance", "Which matrices are far from the pattern?", "||W - P(W)|| / ||W|| (ratio)"),
        by_group(iterations, "support_flips", "Where does the support still change?", "flipped since before (share)"),
    ]
    return by_epoch, by_matrix


def residual(epochs: pd.DataFrame) -> Picture:
    """Draw the distance of the weights to the pattern by epoch."""
    up = "||W - P(W)|| / ||W|| (ratio)"
    sheet = Sheet("residual", "Do the weights reach the pattern?", "epoch", up)
    epochs = epochs.dropna(subset=["residual"]).drop(columns="metric")
    if epochs.empty:
        return sheet.without("no trial measured its distance to a pattern")

    def mark(axes: Axes, group: pd.DataFrame) -> str:
        parts = []
        for row in split_series(group):
            line = row.frame.sort_values("epoch")
            axes.plot(line["epoch"], line["residual"], label=row.label, linestyle=row.style.line, **row.style.marks())
            parts.append(f"{row.label} {line['residual'].iloc[0]:.3f} to {line['residual'].iloc[-1]:.3f}")
        axes.set_ylim(bottom=0)
        set_whole_ticks(axes)
        return "; ".join(parts)

    return sheet.draw(epochs, mark, f"{_BEST} At 0 the last hard prune cuts nothing.")


def pruned_and_unpruned(epochs: pd.DataFrame) -> Picture:
    """Draw the scores of the pruned and the unpruned model by epoch."""
    sheet = Sheet("pruned-and-unpruned", "What does pruning cost after each epoch?", "epoch", "score times 100")
    epochs = epochs.dropna(subset=["selected"])
    if epochs.empty:
        return sheet.without("no trial has an epoch's score")

    def mark(axes: Axes, group: pd.DataFrame) -> str:
        parts, lowest = [], {}
        axes.set_ylim(*robust_limits([*group["selected"], *group["unpruned"].astype(float)]))
        for row in split_series(group):
            line = row.frame.sort_values("epoch")
            axes.plot(line["epoch"], line["selected"], label=row.label, linestyle="solid", **row.style.marks())
            lowest[row.label] = line["selected"].min()
            parts.append(f"{row.label} {line['selected'].iloc[-1]:.1f}")
            if line["unpruned"].notna().any() and not line["unpruned"].equals(line["selected"]):
                hollow = {**row.style.marks(), "markerfacecolor": "none", "linestyle": (0, (3, 2))}
                axes.plot(line["epoch"], line["unpruned"], **hollow)
                parts[-1] += f" (unpruned {line['unpruned'].iloc[-1]:.1f})"
        set_whole_ticks(axes)
        name_clipped(axes, lowest)
        return f"after the last epoch {'; '.join(parts)}"

    return sheet.draw(
        epochs,
        mark,
        f"{_BEST} Solid lines: pruned; broken lines with hollow marks: unpruned, where it was measured too. Lines "
        "that leave a panel are named in its corner with their lowest score.",
    )


def by_group(iterations: pd.DataFrame, value: str, title: str, across: str) -> Picture:
    """Draw ``value`` of each group of matrices at the last iteration: a panel per task, a mark per method."""
    name = value.replace("_", "-") + "-by-group"
    groups = iterations[iterations["group"] != "all"].dropna(subset=[value])
    if groups.empty:
        why = "no record holds its iterations by group of matrices"
        return Picture(name, title, words=why)
    last = groups[groups["step"] == groups.groupby(_KEY)["step"].transform("max")]
    names = list(dict.fromkeys(last["group"]))[:24]

    def mark(axes: Axes, group: pd.DataFrame) -> str:
        rows = list(split_series(group))
        for index, row in enumerate(rows):
            shown = row.frame[row.frame["group"].isin(names)]
            at = shown["group"].map(names.index) + (index - (len(rows) - 1) / 2) * 0.6 / len(rows)
            axes.plot(shown[value], at, linestyle="none", label=row.label, **row.style.marks())
        axes.set_yticks(range(len(names)), [parse_role(name) for name in names])
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlim(left=0)
        worst = group.sort_values(value).iloc[-1]
        return f"largest {worst[value]:.3f}, {parse_role(worst['group'])}, {truncate(display_name('method', worst['method']))}"

    return Sheet(name, title, across, "").draw(
        last.drop(columns="metric"), mark, f"{_BEST} At its last ADMM iteration."
    )


def plot_kept_weights(matrices: pd.DataFrame) -> Picture:
    """Draw the share of weights that each layer keeps; give it as text where the pattern fixes it."""
    name, title = "kept", "Where do the kept weights lie?"
    matrices = add_shares(matrices)
    if matrices.empty:
        return Picture(name, title, words="no trial pruned a matrix")
    spread = matrices.groupby(_KEY)["share"].transform(lambda share: share.max() - share.min())
    uneven = matrices[(spread > 0.1) & matrices["layer"].notna()]
    fixed = matrices[spread <= 0.1]
    fixed_text = "" if fixed.empty else _describe_fixed(fixed)
    if uneven.empty:
        return Picture(name, title, words=fixed_text)
    cells = [group for _, group in uneven.groupby(CELL, sort=False)]
    panels: list[Panel] = []
    legend = Legend()
    for group in cells[:PANELS]:
        first = group.iloc[0]
        task, method = display_name("task", first["task"]), display_name("method", first["method"])
        heading = f"{truncate(task, 20)}: {truncate(method, 20)}"
        with open_figure(heading, "layer", "kept (% of the weights)") as (figure, axes):
            axes.grid()
            for index, (role, rows) in enumerate(group.groupby("role", sort=False)):
                style = style_of(ROLES[index % len(ROLES)])
                line = rows.sort_values("layer")
                axes.plot(line["layer"], line["share"], label=truncate(role, 18), linestyle=style.line, **style.marks())
            set_whole_ticks(axes)
            legend.add(axes)
            text = f"from {group['share'].min():.1f}% to {group['share'].max():.1f}%"
            panels.append(render_panel(figure, f"{name}-{len(panels)}", f"{title} {heading}: {text}."))
    words = f"{_BEST} {fixed_text}".strip()
    return make_figure(name, title, panels, len(cells), words, legend=legend.swatches(name))


def add_shares(matrices: pd.DataFrame) -> pd.DataFrame:
    """Add ``share`` (kept, in percent), ``layer`` (NaN: none) and ``role`` to matrices whose zeros are known."""
    matrices = matrices.dropna(subset=["zeros"])
    shares = 100.0 * (1.0 - matrices["zeros"] / (matrices["rows"] * matrices["columns"]))
    layers, roles = _parse_layers(matrices["matrix"]), _parse_roles(matrices["matrix"])
    return matrices.assign(share=shares.astype(float), layer=layers, role=roles)


def _describe_fixed(matrices: pd.DataFrame) -> str:
    shares = matrices.groupby("constraint")["share"].median()
    kept = ", ".join(
        f"{share:.1f}% ({truncate(display_name('pattern', constraint_text(str(constraint))))})"
        for constraint, share in shares.items()
    )
    count = matrices.groupby(_KEY)["matrix"].count().max()
    return (
        f"Every one of a model's {count} pruned matrices, in every layer, keeps the same share, {kept}, because the "
        "constraint fixes it; where training left a choice is which entries stay inside a group."
    )


def _parse_layers(names: pd.Series[str]) -> pd.Series[float]:
    return pd.to_numeric(names.astype(str).str.extract(r"\.(\d+)\.", expand=False))


def _parse_roles(names: pd.Series[str]) -> pd.Series[str]:
    return names.map(parse_role)


def parse_role(name: str) -> str:
    """Return ``attention.self.query`` of ``bert.encoder.layer.*.attention.self.query.weight``."""
    parts = name.removesuffix(".weight").split(".")
    indices = [index for index, part in enumerate(parts) if part == "*" or part.isdigit()]
    return truncate(".".join(parts[indices[-1] + 1 :] if indices else parts), 26)


def set_whole_ticks(axes: Axes) -> None:
    """Put ticks at whole epochs and layers."""
    axes.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]
