"""A figure as a value: inline SVG in the page's colours, a list of what is drawn, alt text, the numbers behind it.

matplotlib draws, once for every width: what would need room (names, statuses, amounts) stands in the list, which is
HTML and wraps beside or below the drawing. What matplotlib writes is then made fit for a page: ink becomes
``currentColor``, the background is left out, fonts are the page's, ids are the figure's own, nothing depends on the
time, the machine, or the style that a notebook has set.
"""

import io
import math
import re
import textwrap
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from workbench.records import content_hash
from workbench.rendering.numbers import percent
from workbench.rendering.table import Table
from workbench.rendering.text import cell_html, escape, visible, visible_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette as matplotlib ships it, without yellow (unreadable on white) and black (invisible on
# black); the order keeps neighbours apart in lightness.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
# matplotlib's markers, and the same shapes as letters of the list, full and hollow
GLYPHS = {"o": "●○", "s": "■□", "^": "▲△", "D": "◆◇", "v": "▼▽", "*": "★☆", "<": "◄◅"}
INK = "#010203"  # stands for the page's text colour until the SVG is written
WIDTH = 390  # of a phone: what is legible there is legible when it is drawn larger
_FAMILY = re.compile("font-family: [^;]*(?:; )?")  # matplotlib names its own font; the page's is inherited
_STYLE = {
    "font.size": 12.5, "figure.dpi": 72, "text.parse_math": False, "text.color": INK, "axes.labelcolor": INK,
    "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.titlesize": "medium",
    "axes.spines.left": False, "axes.spines.right": False, "axes.spines.top": False, "ytick.major.size": 0,
    "legend.frameon": False, "legend.fontsize": "medium", "grid.color": INK, "grid.alpha": 0.12,
    "axes.axisbelow": True, "lines.markeredgewidth": 1.6, "lines.linewidth": 1.8, "errorbar.capsize": 4,
    "savefig.transparent": True, "svg.fonttype": "none", "path.simplify": False,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Look:
    """Colour and shape of what is drawn, one as good as the other to tell it by; hollow is a third sign."""

    colour: str
    marker: str
    hollow: bool = False

    @property
    def line(self) -> dict[str, Any]:
        """Keywords for matplotlib."""
        face = "none" if self.hollow else self.colour
        size = 11 if self.marker == "*" else 8  # a star is slim
        return {"color": self.colour, "marker": self.marker, "markersize": size, "markerfacecolor": face}

    def to_html(self) -> str:
        """Write the shape as a letter; screen readers have the name beside it."""
        ink = "currentColor" if self.colour == INK else self.colour
        return f'<span aria-hidden="true" style="color: {ink}">{GLYPHS[self.marker][self.hollow]}</span>'


def arm_look(position: int, *, hollow: bool = False) -> Look:
    """Look of the arm at ``position``: colour and shape together repeat only after 42 arms."""
    return Look(COLOURS[position % len(COLOURS)], tuple(GLYPHS)[position % len(GLYPHS)], hollow)


@dataclass(frozen=True, slots=True)
class LegendItem:
    """A line of the list beside a drawing."""

    look: Look
    name: str
    detail: str = ""

    def to_html(self) -> str:
        """``<li>`` with the mark, the name and the rest."""
        detail = f" <small>{escape(self.detail, 400)}</small>" if self.detail else ""
        return f"<li>{self.look.to_html()} <span>{escape(self.name, 400)}</span>{detail}</li>"


@dataclass(frozen=True, slots=True, repr=False)
class Figure:
    """A drawn figure; ``entries`` are listed beside it, by number where ``numbered``; ``data`` has the numbers."""

    svg: str
    entries: tuple[LegendItem, ...]
    alt: str
    caption: str
    data: Table
    numbered: bool = False

    def to_html(self) -> str:
        """``<figure>`` with the drawing, its list, its caption and its data."""
        # styles inline, because JupyterLab shows figures without our style sheet
        beside, bare = "display: flex; flex-wrap: wrap; gap: 0.75rem 2rem", "list-style: none; padding-left: 0"
        lines = "".join(entry.to_html() for entry in self.entries)
        if self.numbered:
            parts = f'{self.svg}<ol class="wb-key">{lines}</ol>'
        else:  # a list that only names colours is read first; where panels have their names there is none
            parts = (f'<ul class="wb-key" style="{bare}">{lines}</ul>' if lines else "") + self.svg
        return (
            f'<figure class="wb-figure"><div class="wb-drawn" style="{beside}">{parts}</div>\n'
            f"<figcaption>{escape(self.caption)}</figcaption>\n"
            f'<details class="wb-data"><summary>Numbers of this figure</summary>'
            f'<div class="wb-scroll" tabindex="0">{self.data.to_html()}</div></details></figure>'
        )

    def _repr_html_(self) -> str:
        return cell_html(self.to_html())

    def __repr__(self) -> str:
        return f"Figure({self.alt})"


def build(
    draw: Callable[["Axes"], None],
    height: float,
    *,
    kind: str,
    alt: str,
    caption: str,
    data: Table,
    entries: Sequence[LegendItem],
    numbered: bool = False,
) -> Figure:
    """Figure of a function that draws into axes; ``height`` in pixels where the drawing is 390 wide."""
    from matplotlib import style
    from matplotlib.figure import Figure as Drawing

    alt, caption, out = visible(alt, 1200), visible(caption, 1000), io.StringIO()
    key = content_hash(kind, alt, caption, data.to_text())[:10]
    with style.context(["default", _STYLE | {"svg.hashsalt": key}]), warnings.catch_warnings():
        # matplotlib draws no letter here: the page's fonts do, and they may well have what its own lacks
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        drawing = Drawing(figsize=(WIDTH / 72, height / 72), layout="constrained")
        draw(drawing.add_subplot())
        drawing.savefig(out, format="svg", metadata={"Date": None})
    return Figure(_svg(out.getvalue(), alt, f"wb{key}-"), tuple(entries), alt, caption, data, numbered)


def label(text: str, limit: int = 48) -> str:
    """Text for the drawing, on one line, cut to ``limit`` characters: 48 are as wide as the drawing."""
    line = visible_line(text[: 2 * limit])
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def axis_label(text: str) -> str:
    """Name of an axis on one line, or on two."""
    return "\n".join(textwrap.wrap(visible_line(text), 48, max_lines=2, placeholder="…", break_on_hyphens=False))


def draw_interval(
    axes: "Axes", look: Look, at: float, estimate: float, bounds: tuple[float | None, float | None], *, up: bool = False
) -> None:
    """Mark an estimate at row ``at`` with a bar from bound to bound, upright at column ``at`` if ``up``."""
    low, high = bounds
    if low is not None and high is not None:
        # around its middle: an estimate need not lie inside its bounds
        middle, half = (low + high) / 2, (high - low) / 2
        x, y = (at, middle) if up else (middle, at)
        axes.errorbar(x, y, half if up else None, None if up else half, fmt="none", ecolor=look.colour)
    axes.plot(*((at, estimate) if up else (estimate, at)), linestyle="none", zorder=3, **look.line)


def limits(values: Sequence[float]) -> tuple[float, float]:
    """Ends of an axis with a little room around the values; where they are all the same share, from 0 to 1."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    if high - low < 1e-9:
        low, high = (0.0, 1.0) if 0 <= low <= 1 else (low - abs(low) / 2, low + abs(low) / 2)
    room = 0.05 * (high - low)
    return low - room, high + room


def set_scale(
    axes: "Axes",
    name: Literal["x", "y"],
    values: Sequence[float],
    *,
    log: bool = False,
    zero: bool = False,
    unit: str = "",
    share: bool = False,
) -> None:
    """Scale an axis to the values, from 0 if ``zero``, few ticks; ``unit`` stands before each; ``share`` is in %."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    axis = getattr(axes, f"{name}axis")
    if log:
        low, high = min(values) / 1.5, max(values) * 1.5
        axes.set(**{f"{name}scale": "log", f"{name}lim": (low, high)})
        axis.set_major_locator(LogLocator(subs=(1, 3) if math.log10(high / low) < 3.5 else (1,)))
        axis.set_minor_locator(NullLocator())
    else:
        axes.set(**{f"{name}lim": limits([*values, 0.0] if zero else values)})
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    if share:
        axis.set_major_formatter(lambda value, _: percent(value))
    elif log or unit or max(map(abs, values), default=0.0) >= 1000:
        axis.set_major_formatter(lambda value, _: unit + plain(value))
    else:
        axes.ticklabel_format(axis=name, style="plain", useOffset=False)


def plain(value: float) -> str:
    """Write a tick of any size briefly: thousands as k, millions as M.

    >>> plain(100000.0), plain(2.5e6), plain(0.05)
    ('100k', '2.5M', '0.05')
    """
    size, letter = next(((s, n) for s, n in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if abs(value) >= s), (1.0, ""))
    return f"{value / size:.4g}{letter}"


Point = tuple[float, float]


def number_points(axes: "Axes", points: Sequence[Point], lines: Sequence[tuple[Point, Point]]) -> None:
    """Write 1, 2, ... beside points, each at the nearest place off the others and off ``lines``.

    Crowded points choose first; a thin line leads from a number to a point that is far from it.
    """
    import numpy as np

    axes.figure.canvas.figure.draw_without_rendering()  # places are pixels, and the layout decides where these are
    at = axes.transData.transform(np.reshape(points, (-1, 2)))
    ends = axes.transData.transform(np.reshape(lines, (-1, 2))).reshape(-1, 2, 1, 2)
    along = ends[:, 0] + np.linspace(0, 1, 40)[:, None] * (ends[:, 1] - ends[:, 0])
    taken = np.concatenate([at, along.reshape(-1, 2)])
    sizes = np.full(taken.shape, (12, 10))
    turns = [(math.cos(k * math.pi / 6), math.sin(k * math.pi / 6)) for k in range(12)]
    crowding = [float(np.hypot(*(at - place).T).clip(max=60).sum()) for place in at]
    for i in sorted(range(len(at)), key=lambda i: (crowding[i], i)):
        places = np.concatenate([at[i] + radius * np.array(turns) for radius in (15, 22, 32, 46, 64)])
        covered = (np.abs(places[:, None] - taken) < sizes).all(-1).sum(1)
        outside = np.array([not axes.bbox.padded(6).contains(*place) for place in places])
        best = places[int(np.argmin(covered + 1000 * outside))]
        # numbers cover each other last of all, and are wider than a mark
        taken = np.concatenate([taken, np.repeat([best], 20, axis=0)])
        sizes = np.concatenate([sizes, np.full((20, 2), (19, 14))])
        far = math.dist(best, at[i]) > 23
        axes.annotate(
            str(i + 1), points[i], best - at[i], textcoords="offset points", ha="center", va="center", size=11.5,
            in_layout=False,
            arrowprops={"arrowstyle": "-", "alpha": 0.4, "color": INK, "shrinkA": 0, "shrinkB": 6} if far else None,
        )  # fmt: skip


def _svg(drawn: str, alt: str, prefix: str) -> str:
    source = ET.fromstring(drawn.encode())
    root = ET.Element("svg", {
        "viewBox": source.attrib["viewBox"], "role": "img", "aria-label": alt,
        "style": "width: 100%; max-width: 28rem; height: auto; overflow: visible; stroke-linejoin: round",
    })  # fmt: skip
    ET.SubElement(root, "title").text = alt
    root.extend(_cleaned(child, prefix) for child in source if _local(child.tag) in ("defs", "g"))
    return ET.tostring(root, encoding="unicode")


def _cleaned(element: ET.Element, prefix: str) -> ET.Element:
    """Copy with the figure's own ids and the page's ink and font; no namespaces, clips or style sheets."""
    copy = ET.Element(_local(element.tag))
    copy.text = element.text if copy.tag == "text" else None
    for raw, value in element.attrib.items():
        name = _local(raw)
        if name == "style":
            copy.set(name, _FAMILY.sub("", value).replace(INK, "currentColor"))
        elif name == "id":
            copy.set(name, prefix + value)
        elif name != "clip-path":  # nothing is drawn outside its axes
            copy.set(name, f"#{prefix}{value[1:]}" if value.startswith("#") else value)
    copy.extend(_cleaned(c, prefix) for c in element if _local(c.tag) not in ("style", "clipPath"))
    return copy


def _local(name: str) -> str:
    return name.rpartition("}")[2]
