"""A figure as a value: inline SVG in the page's colours, alt text, and the numbers behind it.

matplotlib draws; what it writes is then made fit for a page: ink becomes ``currentColor``, the background is
left out, fonts are the page's, ids are the figure's own, nothing depends on the time or the machine.
"""

import io
import math
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

from workbench.records import content_hash
from workbench.rendering.table import Table, number
from workbench.rendering.text import escape, visible

_DIRECTIONS = ((1, 0), (-1, 0), (1, -1), (1, 1), (-1, -1), (-1, 1), (0, -1), (0, 1))
_DISTANCES = (9.0, 18.0, 30.0, 44.0, 62.0, 84.0, 110.0, 140.0)


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels, y downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def covers(self, other: "Box") -> float:
        """Area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return width * height if width > 0 and height > 0 else 0.0


def place(
    points: Sequence[tuple[float, float]], sizes: Sequence[tuple[float, float]], *, taken: Sequence[Box], frame: Box
) -> list[Box]:
    """One box a point, as near as possible, inside ``frame`` and off everything ``taken``.

    Greedy, crowded points first; where no free place is found the one that covers least is taken.
    """
    crowding = [sum(abs(x - a) + abs(y - b) < 120 for a, b in points) for x, y in points]
    placed: dict[int, Box] = {}
    for i in sorted(range(len(points)), key=lambda i: (-crowding[i], i)):
        blocked = [*taken, *placed.values()]
        best, least = None, float("inf")
        for box in _candidates(points[i], sizes[i]):
            cost = sum(box.covers(other) for other in blocked) + 20 * _outside(box, frame)
            if cost < least:
                best, least = box, cost
            if not cost:
                break
        placed[i] = best if best is not None else frame
    return [placed[i] for i in range(len(points))]


def along(line: Sequence[tuple[float, float]], steps: int = 40) -> list[Box]:
    """Small boxes that cover a line through pixels, so that labels keep off it."""
    boxes = []
    for (a, b), (c, d) in pairwise(line):
        for step in range(steps + 1):
            x, y = a + (c - a) * step / steps, b + (d - b) * step / steps
            boxes.append(Box(x - 4, y - 2, x + 4, y + 2))
    return boxes


def spread(wanted: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Positions near ``wanted`` in the same order, ``gap`` apart or more, inside [low, high] if they fit."""
    order = sorted(range(len(wanted)), key=lambda i: (wanted[i], i))
    out = [0.0] * len(wanted)
    last = low - gap
    for i in order:
        last = out[i] = max(wanted[i], last + gap)
    limit = high + gap
    for i in reversed(order):
        limit = out[i] = min(out[i], limit - gap)
    return out


def _candidates(point: tuple[float, float], size: tuple[float, float]) -> list[Box]:
    (x, y), (width, height) = point, size
    boxes = []
    for distance in _DISTANCES:
        for dx, dy in _DIRECTIONS:
            left = x + dx * distance - (width if dx < 0 else width / 2 if not dx else 0)
            top = y + dy * distance - (height if dy < 0 else height / 2 if not dy else 0)
            boxes.append(Box(left, top, left + width, top + height))
    return boxes


def _outside(box: Box, frame: Box) -> float:
    return (
        max(0.0, frame.left - box.left) + max(0.0, box.right - frame.right)
        + max(0.0, frame.top - box.top) + max(0.0, box.bottom - frame.bottom)
    )  # fmt: skip


# Okabe and Ito's palette as matplotlib ships it, without yellow (unreadable on white) and black (invisible on
# black); the order keeps neighbours apart in lightness.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
SHAPES = ("o", "s", "^", "D", "v", "P", "X")
INK = "#010203"  # stands for the page's text colour until the SVG is written
SIZE, SMALL = 13.0, 11.5
WIDE, NARROW = 1008, 350  # the widths of the text in the report on a desk and on a phone


@dataclass(frozen=True, slots=True, repr=False)
class Figure:
    """A drawn figure; ``svg_narrow`` is the same one laid out for a phone, ``data`` the numbers behind it."""

    svg: str
    svg_narrow: str
    alt: str
    caption: str
    data: Table

    def to_html(self, *, narrow: bool = True) -> str:
        """``<figure>`` with the drawing, its caption and its data; the page's style sheet picks the width."""
        both = f'<div class="wb-wide">{self.svg}</div><div class="wb-narrow">{self.svg_narrow}</div>'
        drawings = both if narrow else self.svg
        return (
            f'<figure class="wb-figure">{drawings}\n<figcaption>{escape(self.caption)}</figcaption>\n'
            f'<details class="wb-data"><summary>Numbers of this figure</summary>'
            f'<div class="wb-scroll" tabindex="0">{self.data.to_html()}</div></details></figure>'
        )

    def _repr_html_(self) -> str:
        return self.to_html(narrow=False)

    def __repr__(self) -> str:
        return f"Figure({self.alt})"


class Canvas:
    """A matplotlib figure measured in CSS pixels from the top left, so that layouts can be plain sums."""

    def __init__(self, width: float, height: float) -> None:
        from matplotlib.figure import Figure as Drawing

        self.width, self.height = width, height
        self.drawing = Drawing(figsize=(width / 72, height / 72), dpi=72)
        self.drawing.patch.set_visible(False)

    def axes(self, left: float, top: float, width: float, height: float) -> Any:
        """Axes with only a quiet frame; nothing in them is clipped."""
        box = (left / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height)
        axes = self.drawing.add_axes(box)
        axes.patch.set_visible(False)
        for side, spine in axes.spines.items():
            spine.set_visible(side == "bottom")
            spine.set(color=INK, alpha=0.45, linewidth=1)
        axes.tick_params(colors=INK, labelcolor=INK, length=4, width=0.8, labelsize=SMALL, pad=5)
        axes.tick_params(axis="y", length=0)
        return axes

    def text(self, x: float, y: float, text: str, **style: Any) -> None:
        """Write text centred on ``y`` unless ``va`` says otherwise, cut where the canvas is narrower."""
        given: dict[str, Any] = {"size": SIZE, "color": INK, "va": "center_baseline"} | style
        shown = fitted(text, self.width, given["size"])
        self.drawing.text(x / self.width, 1 - y / self.height, shown, parse_math=False, **given)

    def mark(self, x: float, y: float, marker: str, **style: Any) -> None:
        """One marker at a pixel, on top of everything."""
        from matplotlib.lines import Line2D

        given: dict[str, Any] = {"marker": marker, "linestyle": "none"} | style
        line = Line2D([x / self.width], [1 - y / self.height], **given)
        line.set_transform(self.drawing.transFigure)
        self.drawing.add_artist(line)

    def rule(self, xs: Sequence[float], ys: Sequence[float], **style: Any) -> None:
        """Draw a line through pixels."""
        from matplotlib.lines import Line2D

        points = [x / self.width for x in xs], [1 - y / self.height for y in ys]
        given: dict[str, Any] = {"color": INK, "linewidth": 1, "transform": self.drawing.transFigure} | style
        self.drawing.add_artist(Line2D(*points, **given))


def arm_style(position: int) -> tuple[str, str]:
    """Colour and shape of the arm at ``position``: pairs repeat only after 42 arms."""
    return COLOURS[position % len(COLOURS)], SHAPES[position % len(SHAPES)]


def text_width(text: str, size: float = SIZE) -> float:
    """Upper estimate of the drawn width in pixels: readers' fonts differ, so no font is measured."""
    return sum(1.05 if ord(c) > 0x2E80 else 0.3 if c in " .,·:;|il'[]" else 0.6 for c in text) * size


def fitted(text: str, width: float, size: float = SIZE) -> str:
    """Text cut to ``width`` pixels, with an ellipsis where something is missing."""
    text = visible(text).replace("\n", " ")
    if text_width(text, size) <= width:
        return text
    while text and text_width(text + "…", size) > width:
        text = text[: min(len(text) - 1, int(width / size / 0.3))]
    return text.rstrip() + "…"


def build(draw: Callable[[bool], Canvas], *, kind: str, alt: str, caption: str, data: Table) -> Figure:
    """Figure of a function that draws it wide (``draw(False)``) and narrow (``draw(True)``)."""
    alt, caption = visible(alt, 1200), visible(caption, 1000)
    svg = partial(_svg, alt=alt, key=content_hash(kind, alt, caption, data.to_text())[:10])
    return Figure(svg(draw(False), letter="w"), svg(draw(True), letter="n"), alt, caption, data)


def _svg(canvas: Canvas, *, alt: str, key: str, letter: str) -> str:
    from matplotlib import rc_context

    out = io.StringIO()
    settings = {"svg.fonttype": "none", "svg.hashsalt": key, "path.simplify": False}
    with rc_context(settings), warnings.catch_warnings():
        # matplotlib draws no letter here: the page's fonts do, and they may well have what its own lacks
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        canvas.drawing.savefig(out, format="svg", metadata={"Date": None})
    source = ET.fromstring(out.getvalue().encode())
    used = set(re.findall(r"#(\w+)", " ".join(v for e in source.iter() for v in e.attrib.values())))
    root = ET.Element("svg", {
        "viewBox": f"0 0 {canvas.width:g} {canvas.height:g}", "width": f"{canvas.width:g}", "role": "img",
        "aria-label": alt, "style": "max-width: 100%; height: auto; stroke-linejoin: round",
    })  # fmt: skip
    ET.SubElement(root, "title").text = alt
    root.extend(_cleaned(child, used, f"wb{key}{letter}-") for child in source if _local(child.tag) in ("defs", "g"))
    return ET.tostring(root, encoding="unicode")


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _cleaned(element: ET.Element, used: set[str], prefix: str) -> ET.Element:
    """Copy without namespaces, unused ids, clips, style sheets and named fonts."""
    copy = ET.Element(_local(element.tag))
    copy.text = element.text if copy.tag == "text" else None
    for raw, value in element.attrib.items():
        name = _local(raw)
        if name == "id":
            if value in used:
                copy.set("id", prefix + value)
        elif name == "style":
            copy.set("style", _page_style(value, copy))
        elif name != "clip-path":  # nothing is drawn outside its axes
            copy.set(name, f"#{prefix}{value[1:]}" if value.startswith("#") else value)
    copy.extend(_cleaned(c, used, prefix) for c in element if _local(c.tag) not in ("style", "clipPath"))
    return copy


def _page_style(style: str, element: ET.Element) -> str:
    # matplotlib names its own font; the page's is inherited instead, only size and weight are kept
    kept = []
    for declaration in style.split("; "):
        if declaration.startswith("font"):
            if size := re.search(r"([\d.]+)px", declaration):
                element.set("font-size", size[1])
            if re.search(r"\b(?:bold|[6-9]00)\b", declaration):
                element.set("font-weight", "600")
        else:
            kept.append(declaration)
    return "; ".join(kept).replace(INK, "currentColor")


def padded(low: float, high: float) -> tuple[float, float]:
    """Give the range a little room on both sides; a range of nothing becomes one around its value."""
    room = 0.06 * (high - low) or max(abs(high), 1.0) * 0.1
    return low - room, high + room


def nice(low: float, high: float, count: int) -> list[float]:
    """About ``count`` round values inside [low, high]."""
    from matplotlib.ticker import MaxNLocator

    values = MaxNLocator(count, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [float(v) for v in values if low <= v <= high]


def step_digits(values: list[float]) -> int:
    """Digits after the point that tell neighbouring ticks apart."""
    step = min((b - a for a, b in pairwise(values)), default=1.0)
    return next((d for d in range(9) if abs(round(step, d) - step) < 1e-9 * max(1.0, abs(step))), 9)


def ticks(axis: Any, low: float, high: float, count: int, *, signed: bool = False) -> None:
    """Put round ticks on one axis."""
    values = nice(low, high, count)
    digits = step_digits(values)
    axis.set_ticks(values, [number(v, digits, signed=signed) for v in values])


def log_scale(axes: Any, name: str, values: Sequence[float], label: Callable[[float], str], *, narrow: bool) -> None:
    """Make axis "x" or "y" logarithmic, with ticks at 1, 2 and 5 times powers of ten, fewer where room is less."""
    low, high = min(values) / 1.5, max(values) * 1.5
    axis = getattr(axes, f"{name}axis")
    axes.set(**{f"{name}scale": "log", f"{name}lim": (low, high)})
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps: tuple[float, ...] = (1, 3) if len(decades) > 3 or narrow else (1, 2, 5)
    if len(decades) > 5 or (narrow and len(decades) > 3):
        steps = (1,)
    values = [s * 10.0**d for d in decades for s in steps if low <= s * 10.0**d <= high]
    axis.set_ticks(values, [label(v) for v in values])
    axis.set_ticks([], minor=True)


def money(value: float, *, digits: int | None = None) -> str:
    """Dollars; without ``digits`` as many as a round tick needs.

    >>> money(0.002), money(20.0), money(0.5, digits=2)
    ('$0.002', '$20', '$0.50')
    """
    if digits is None:
        digits = max(0, -math.floor(math.log10(value) + 1e-9)) if value > 0 else 0
    return number(value, digits, unit="$")


def plain(value: float) -> str:
    """Write a tick of any size briefly: thousands as k, millions as M.

    >>> plain(100000.0), plain(2.5e6), plain(0.05)
    ('100k', '2.5M', '0.05')
    """
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def pixel(canvas: Canvas, axes: Any, x: float, y: float) -> tuple[float, float]:
    """Where a value lies on the canvas, in pixels from the top left."""
    across, up = axes.transData.transform((x, y))
    return float(across), canvas.height - float(up)
