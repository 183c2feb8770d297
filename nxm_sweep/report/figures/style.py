"""How every picture looks: one colour, marker and hatch per method, ink that takes the page's colour, SVG without dates."""

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
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nxm_sweep.formatting import format_value
from nxm_sweep.report.labels import METHOD_ORDER, place_in

logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it reports on its font cache


INK = "#010203"  # stands for the colour of the surrounding text until the SVG is written
FAINT = "#040506"  # the same at half strength
WIDTH = 3.7  # inches: a panel fills a phone's width, and three fit on a desk
_NAME = 28  # characters of a name in a picture
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
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "lines.linewidth": 1.2,
    "lines.markersize": 5,
    "savefig.transparent": True,
    "svg.fonttype": "none",  # text stays text: small, selectable, in the page's font
    "text.color": INK,
    "text.parse_math": False,  # a name may hold a dollar
    "xtick.color": INK,
    "xtick.labelsize": 7,
    "ytick.color": INK,
    "ytick.labelsize": 7,
}


@dataclass(frozen=True, slots=True)
class Style:
    """How a method is drawn: never by colour alone."""

    color: str
    marker: str
    hatch: str
    line: str | tuple[int, tuple[float, ...]]
    hollow: bool = False  # of a method's second and later sparsity

    def marks(self) -> dict[str, Any]:
        """Return the keywords of a marker."""
        face = {"markerfacecolor": "none", "markeredgecolor": self.color} if self.hollow else {"markeredgecolor": INK}
        return {"color": self.color, "marker": self.marker, "markeredgewidth": 1.0 if self.hollow else 0.5, **face}


# The colours of Okabe and Ito (2008), which people with any colour vision tell apart; their black is the page's ink.
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


@dataclass(frozen=True, slots=True)
class Panel:
    """One drawing: an SVG element for a page, and in words what it shows."""

    svg: str
    alt: str

    def file(self) -> str:
        """Return the SVG of a file of its own: dark ink on white, wherever it is shown."""
        style = "<style>svg{color:#1a1a1a;background:#fff;font-family:sans-serif}</style>"
        head, body = self.svg.split(">", 1)
        width, height = re.findall(r"[\d.]+", head.partition("viewBox=")[2])[2:4]
        return f'{head} width="{width}pt" height="{height}pt">{style}{body}\n'


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of the report.

    Attributes:
        name: Of its file and of its place in the page.
        title: Of the whole.
        panels: Its drawings; empty when it was left out.
        words: What the drawings cannot say: why it was left out, what was cut, what follows from the rules alone.
    """

    name: str
    title: str
    panels: Sequence[Panel] = field(default=())
    words: str = ""


def style_of(method: str) -> Style:
    """Return how a method is drawn in every picture; methods of the user's own share three looks."""
    return _STYLES.get(method) or _OTHERS[sum(method.encode()) % len(_OTHERS)]


def legend_order(methods: Sequence[str]) -> list[str]:
    """Return the methods in the order of every legend: those known here first, then by name."""
    return sorted(set(methods), key=place_in(METHOD_ORDER))


def truncate(text: object, length: int = _NAME) -> str:
    """Return a name as a picture shows it: no control characters, its middle left out if it is long."""
    text = str(text)
    if len(text) > length:
        half = (length - 1) // 2
        text = f"{text[: length - 1 - half]}…{text[-half:]}"
    return "".join("\ufffd" if unicodedata.category(letter) in {"Cc", "Cs", "Cn"} else letter for letter in text)


@contextmanager
def open_figure(title: str, across: str, up: str, *, height: float = 2.7) -> Iterator[tuple[Figure, Axes]]:
    """Yield a figure with one pair of axes, labelled with what they measure, in this module's style."""
    with mpl.rc_context(_MATPLOTLIB_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the page's font has it
        figure = Figure(figsize=(WIDTH, height))
        axes = figure.add_axes((0.17, 0.25, 0.8, 0.65))  # about; panel() fits it
        axes.set_title(truncate(title, 48))
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        yield figure, axes


def render_panel(figure: Figure, name: str, alt: str) -> Panel:
    """Return the figure as SVG; the same figure gives the same text, and ``name`` makes its ids unique in a page.

    To be called inside :func:`drawing`.
    """
    _fit(figure)
    file = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return Panel(_embedded(file.getvalue(), alt), alt)


def _fit(figure: Figure) -> None:
    """Give the axes all room that their labels and the legend leave; more than a line of legend makes the figure higher.

    Matplotlib's own layouts do the same in several passes, which take longer than the drawing.
    """
    renderer = _ruler()
    (axes,) = figure.axes
    below = sum(legend.get_window_extent(renderer).height for legend in figure.legends)
    figure.set_figheight(figure.get_figheight() + max(0.0, below / figure.dpi - 0.22))
    inside = axes.get_window_extent(renderer)
    outside = axes.get_tightbbox(renderer, for_layout_only=True) or inside
    pad, width, height = 0.04 * figure.dpi, figure.bbox.width, figure.bbox.height
    left, bottom = inside.x0 - outside.x0 + pad, inside.y0 - outside.y0 + below + 2 * pad
    right, top = outside.x1 - inside.x1 + pad, outside.y1 - inside.y1 + pad
    size = (max(width - left - right, width / 4) / width, max(height - bottom - top, height / 8) / height)
    axes.set_position((left / width, bottom / height, *size))


@cache
def _ruler() -> RendererBase:
    """What texts are measured with. Matplotlib remembers sizes for each renderer, and pictures repeat their texts."""
    renderer: RendererBase = FigureCanvasAgg(Figure()).get_renderer()  # type: ignore[no-untyped-call]
    return renderer


def legend(axes: Axes) -> None:
    """Put a legend under the axes, if they have anything to name, in as many columns as its longest name leaves."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        columns = max(1, min(3, len(handles), 54 // (max(map(len, labels)) + 6)))
        axes.figure.legend(handles, labels, loc="lower left", ncols=columns, columnspacing=1.2, borderaxespad=0.2)


def log_ticks(axes: Axes, values: Sequence[float], which: str = "x") -> None:
    """Label a logarithmic axis at ``values``: 1e-4, 4e-3."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    if min(values) > 0:
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis.set_minor_locator(mpl.ticker.NullLocator())
    axis.set_major_locator(mpl.ticker.FixedLocator(list(values)))
    axis.set_major_formatter(mpl.ticker.FixedFormatter([format_value(value) for value in values]))


def _embedded(svg: str, alt: str) -> str:
    """The ``<svg>`` element for a page: named for screen readers, in the page's ink, without matplotlib's frame."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(
        r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", svg, count=1, flags=re.DOTALL
    )  # it would style the page
    box = re.search(r'viewBox="[^"]*"', svg)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {box[0] if box else ""}'
    body = re.sub(r"<[^>]*>", _tag, re.sub(r"\n\s*", "\n", svg.split(">", 1)[1]))
    body = re.sub(r"<g([^>]*)>\n((?:<use [^>]*/>\n)+)</g>", _marks, body)
    return f'{head} role="img" aria-label="{escape(alt)}">{body}'


def _marks(found: re.Match[str]) -> str:
    """Marks of one series: their style is said once, by their group, and not by each."""
    styles = set(re.findall(r' style="[^"]*"', found[2]))
    if len(styles) != 1:
        return found[0]
    (style,) = styles
    return f"<g{found[1]}{style}>\n{found[2].replace(style, '')}</g>"


def _tag(found: re.Match[str]) -> str:
    """A tag, and no text, for a page: its ink, no font, coordinates of two digits."""
    tag = re.sub(r'^<g id="[^"]*"', "<g", found[0])  # every figure's axes_1
    tag = re.sub(r"font-family: [^;\"]*(; )?", "", tag)
    tag = re.sub(r"(\.\d\d)\d+", r"\1", tag)
    return tag.replace(INK, "currentColor").replace(FAINT, "currentColor; stroke-opacity: 0.35")
