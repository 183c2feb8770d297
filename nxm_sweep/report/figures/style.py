"""Style of every picture: a colour, marker and hatch per method, ink in the page's colour, SVG without dates."""

from __future__ import annotations

import io
import logging
import re
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nxm_sweep.formatting import format_value
from nxm_sweep.report.labels import METHOD_ORDER, place_in

logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it logs about its font cache


INK = "#010203"  # replaced by the colour of the surrounding text when the SVG is written
FAINT = "#040506"  # the same at half strength
WIDTH = 3.7  # inches: one panel fits a phone's width, three a desktop's
_NAME = 28  # most characters of a name in a picture
_MATPLOTLIB_STYLE: dict[Any, Any] = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "grid.color": FAINT,
    "grid.linewidth": 0.3,
    "hatch.color": INK,
    "hatch.linewidth": 0.4,
    "lines.linewidth": 1.2,
    "lines.markersize": 5,
    "savefig.transparent": True,
    "svg.fonttype": "none",  # text stays text: small, selectable, in the page's font
    "text.color": INK,
    "text.parse_math": False,  # a name may contain a dollar
    "xtick.color": INK,
    "xtick.labelsize": 7,
    "ytick.color": INK,
    "ytick.labelsize": 7,
}


@dataclass(frozen=True, slots=True)
class Style:
    """Style of a method, never colour only."""

    color: str
    marker: str
    hatch: str
    line: str | tuple[int, tuple[float, ...]]
    hollow: bool = False  # for a method's second and later sparsity

    def marks(self) -> dict[str, Any]:
        """Return Matplotlib's marker keywords."""
        face = {"markerfacecolor": "none", "markeredgecolor": self.color} if self.hollow else {"markeredgecolor": INK}
        return {"color": self.color, "marker": self.marker, "markeredgewidth": 1.0 if self.hollow else 0.5, **face}


# Colours of Okabe and Ito (2008), distinct with any colour vision; their black is the page's ink.
_STYLES = {
    "dense": Style(INK, "o", "", (0, (1, 1.2))),
    "asp": Style("#E69F00", "s", "//", (0, (5, 1.5))),
    "nxm": Style("#0072B2", "^", "", "solid"),
    "admm_unstructured": Style("#009E73", "D", "\\\\", (0, (5, 1.5, 1, 1.5))),
    "nxm_refit": Style("#56B4E9", "v", "xx", (0, (8, 1.5))),
    "sr_ste": Style("#D55E00", "P", "..", (0, (3, 1.2, 1, 1.2, 1, 1.2))),
    "gradual": Style("#CC79A7", "X", "--", (0, (2.5, 1.2))),
    "warmup_asp": Style("#F0E442", "*", "++", (0, (1, 3))),
    "nxm_paper": Style("#999999", "h", "||", (0, (6, 3))),
}
_OTHERS = (
    Style("#999999", "<", "oo", (0, (3, 3))),
    Style("#666666", ">", "**", (0, (4, 2, 1, 2))),
)

_COLOR_NAMES = {style.color.lower(): f"--{method.replace('_', '-')}" for method, style in _STYLES.items()}
_COLOR = re.compile("|".join(name for name in _COLOR_NAMES if name != INK), re.IGNORECASE)
_VARIABLE = re.compile(r"var\(--[a-z-]+, (#[0-9a-f]{6})\)", re.IGNORECASE)
_SWATCH = (0.36, 0.14)  # inches of a mark beside its label


@dataclass(frozen=True, slots=True)
class Swatch:
    """An entry of a legend: a mark as an SVG element, and its label."""

    svg: str
    label: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One drawing: an SVG element for a page, and its alternative text."""

    svg: str
    alt: str

    def file(self, legend: Sequence[Swatch] = ()) -> str:
        """Return a standalone SVG file with its legend: dark ink on white in any viewer."""
        style = "<style>svg{color:#1a1a1a;background:#fff;font-family:sans-serif}</style>"
        head, body = self.svg.split(">", 1)
        width, height = map(float, re.findall(r"[\d.]+", head.partition("viewBox=")[2])[2:4])
        below, added = _stack_legend(legend, width, height)
        box = f'viewBox="0 0 {width:g} {height + added:g}"'
        head = re.sub(r'viewBox="[^"]*"', box, head)
        body = f"{body.removesuffix('</svg>').rstrip()}{below}</svg>"
        text = f'{head} width="{width:g}pt" height="{height + added:g}pt">{style}{body}\n'
        return _VARIABLE.sub(r"\1", text)


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of the report.

    Attributes:
        name: Of its file and its anchor in the page.
        title: Its title.
        panels: Its drawings; empty where there is no data.
        words: Text beside the drawings: what was cut, what the rules imply; without a drawing the reason.
        legend: Marks of all its panels.
    """

    name: str
    title: str
    panels: Sequence[Panel] = field(default=())
    words: str = ""
    legend: Sequence[Swatch] = field(default=())


def style_of(method: str) -> Style:
    """Return the style of a method in every picture; user-defined methods share two styles."""
    return _STYLES.get(method) or _OTHERS[sum(method.encode()) % len(_OTHERS)]


def legend_order(methods: Sequence[str]) -> list[str]:
    """Return the methods in legend order: known methods first, others by name."""
    return sorted(set(methods), key=place_in(METHOD_ORDER))


def truncate(text: object, length: int = _NAME) -> str:
    """Return a name for a picture: control characters replaced, the middle of a long name cut."""
    text = str(text)
    if len(text) > length:
        half = (length - 1) // 2
        text = f"{text[: length - 1 - half]}…{text[-half:]}"
    return "".join("\ufffd" if unicodedata.category(letter) in {"Cc", "Cs", "Cn"} else letter for letter in text)


@contextmanager
def open_figure(title: str, across: str, up: str, *, height: float = 2.4) -> Iterator[tuple[Figure, Axes]]:
    """Yield a figure with one pair of labelled axes, in this module's style."""
    with mpl.rc_context(_MATPLOTLIB_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the page's font has the glyph
        figure = Figure(figsize=(WIDTH, height))
        axes = figure.add_axes((0.17, 0.25, 0.8, 0.65))  # approximate; render_panel() fits it
        axes.set_title(truncate(title, 48))
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        yield figure, axes


def render_panel(figure: Figure, name: str, alt: str) -> Panel:
    """Render a figure as SVG, deterministically; ``name`` makes its ids unique in a page.

    Call inside :func:`open_figure`.
    """
    _fit_axes(figure)
    file = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return Panel(_embed(file.getvalue(), alt), alt)


def _fit_axes(figure: Figure) -> None:
    """Give the axes all room left by labels. Matplotlib's own layouts need several passes, longer than the drawing.

    Axes of another size may have other ticks, so there are two passes.
    """
    renderer = _get_renderer()
    (axes,) = figure.axes
    pad, width, height = 0.04 * figure.dpi, figure.bbox.width, figure.bbox.height
    for _ in range(2):
        inside = axes.get_window_extent(renderer)
        outside = axes.get_tightbbox(renderer, for_layout_only=True) or inside
        left, bottom = inside.x0 - outside.x0 + pad, inside.y0 - outside.y0 + pad
        right, top = outside.x1 - inside.x1 + pad, outside.y1 - inside.y1 + pad
        size = (max(width - left - right, width / 4) / width, max(height - bottom - top, height / 8) / height)
        axes.set_position((left / width, bottom / height, *size))


@cache
def _get_renderer() -> RendererBase:
    """Return the renderer that measures texts: Matplotlib caches sizes per renderer, and pictures repeat texts."""
    renderer: RendererBase = FigureCanvasAgg(Figure()).get_renderer()  # type: ignore[no-untyped-call]
    return renderer


class Legend:
    """The marks of a picture's panels, each label once."""

    def __init__(self) -> None:
        self._handles: dict[str, Line2D] = {}

    def add(self, axes: Axes) -> None:
        """Add what the axes have labels for."""
        handles: list[Artist]
        handles, labels = axes.get_legend_handles_labels()
        for handle, label in zip(handles, labels, strict=True):
            if isinstance(handle, Line2D):
                self._handles.setdefault(label, handle)

    def swatches(self, name: str) -> tuple[Swatch, ...]:
        """Return the entries; ``name`` makes their ids unique in a page. One mark alone needs no legend."""
        if len(self._handles) < 2:
            return ()
        return tuple(
            Swatch(_draw_swatch(handle, f"{name}-{index}"), label)
            for index, (label, handle) in enumerate(self._handles.items())
        )


def _draw_swatch(handle: Line2D, name: str) -> str:
    with mpl.rc_context({**_MATPLOTLIB_STYLE, "svg.hashsalt": f"legend-{name}"}):
        figure = Figure(figsize=_SWATCH)
        line = Line2D([], [])
        line.update_from(handle)
        across = [0.5] if line.get_linestyle() in {"None", "none"} else [0.02, 0.5, 0.98]
        line.set_data(across, [0.5] * len(across))
        line.set(transform=figure.transFigure, markevery=[len(across) // 2], alpha=None, markersize=5, clip_on=False)
        figure.add_artist(line)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return _embed(file.getvalue(), "").replace('role="img" aria-label=""', 'aria-hidden="true"')


def _stack_legend(legend: Sequence[Swatch], width: float, top: float) -> tuple[str, float]:
    """Return the legend below a panel as SVG, and its height in points."""
    if not legend:
        return "", 0.0
    columns = max(1, min(3, 54 // (max(len(one.label) for one in legend) + 6)))
    wide, high = (72 * side for side in _SWATCH)
    parts = []
    for index, one in enumerate(legend):
        row, column = divmod(index, columns)
        x, y = 4 + column * (width - 4) / columns, top + 3 + 12 * row
        swatch = one.svg.replace("<svg ", f'<svg x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{high:.1f}" ', 1)
        label = f'<text x="{x + wide + 4:.1f}" y="{y + 7.5:.1f}" font-size="7" fill="currentColor">{escape(one.label)}</text>'
        parts.append(f"{swatch}{label}\n")
    return "".join(parts), 12.0 * (-(-len(legend) // columns)) + 5.0


def log_ticks(axes: Axes, values: Sequence[float], which: str = "x") -> None:
    """Label a logarithmic axis at ``values``: 1e-4, 4e-3."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    if min(values) > 0:
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis.set_minor_locator(mpl.ticker.NullLocator())
    axis.set_major_locator(mpl.ticker.FixedLocator(list(values)))
    axis.set_major_formatter(mpl.ticker.FixedFormatter([format_value(value) for value in values]))


def _embed(svg: str, alt: str) -> str:
    """Return the ``<svg>`` element: labelled for screen readers, in the page's ink, without Matplotlib's frame."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(
        r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", svg, count=1, flags=re.DOTALL
    )  # it would style the page
    box = re.search(r'viewBox="[^"]*"', svg)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {box[0] if box else ""}'
    body = re.sub(r"<[^>]*>", _clean_tag, re.sub(r"\n\s*", "\n", svg.split(">", 1)[1]))
    body = re.sub(r"<g([^>]*)>\n((?:<use [^>]*/>\n)+)</g>", _group_style, body)
    return f'{head} role="img" aria-label="{escape(alt)}">{body}'


def _group_style(match: re.Match[str]) -> str:
    """Move the common style of a series' marks to their group."""
    styles = set(re.findall(r' style="[^"]*"', match[2]))
    if len(styles) != 1:
        return match[0]
    (style,) = styles
    return f"<g{match[1]}{style}>\n{match[2].replace(style, '')}</g>"


def _clean_tag(match: re.Match[str]) -> str:
    """Clean a tag, but no text: the page's ink, no font, coordinates of two digits."""
    tag = re.sub(r'^<g id="[^"]*"', "<g", match[0])  # axes_1 is in every figure
    tag = re.sub(r"font-family: [^;\"]*(; )?", "", tag)
    tag = re.sub(r"(\.\d\d)\d+", r"\1", tag)
    tag = tag.replace(INK, "currentColor").replace(FAINT, "currentColor; stroke-opacity: 0.35")
    return _COLOR.sub(lambda color: f"var({_COLOR_NAMES[color[0].lower()]}, {color[0]})", tag)
