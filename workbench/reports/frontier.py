"""Quality against cost: which arms no other arm beats on both."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from workbench.evalset.gates import ASSUMED_REQUESTS
from workbench.evaluation.sentences import monthly
from workbench.evaluation.summary import FrontierPoint
from workbench.rendering.table import Column, Interval, Table, number
from workbench.reports.figure import (
    INK,
    NARROW,
    SMALL,
    WIDE,
    Box,
    Canvas,
    Figure,
    along,
    arm_style,
    build,
    fitted,
    log_scale,
    money,
    nice,
    padded,
    pixel,
    place,
    step_digits,
    text_width,
    ticks,
)

_KEY_ROW = 36  # from one name of the key to the next, in pixels


def frontier(
    points: Sequence[FrontierPoint],
    metric: str,
    *,
    arms: Sequence[str] = (),
    requests_per_month: int = ASSUMED_REQUESTS,
    assumed: bool = False,
) -> Figure:
    """Quality with its interval against dollars a month, and the line of the best for the money.

    Points are numbered, the best first, and listed below. Hollow marks are tied with the best. Costs that span more
    than 20 times are on a logarithmic axis. ``arms`` fixes which arm has which colour and shape, so that it is the same
    in every figure of a report; ``assumed`` says that nobody has set the volume.
    """
    volume = f"{requests_per_month:,} requests{' (assumed)' if assumed else ''}"
    ranked = [
        replace(p, cost_usd_per_1k=p.cost_usd_per_1k * requests_per_month / 1000)
        for p in sorted(points, key=lambda p: (-p.quality, p.cost_usd_per_1k))
    ]
    data = Table(
        (
            Column("number", "count"), Column("arm"), Column("split"), Column(metric, "interval"),
            Column(f"a month at {volume}"), Column("p95 latency", "ms"), Column("on the frontier"),
            Column("tied with the best"),
        ),
        tuple(
            (
                i, p.arm, p.split, Interval(p.quality, p.low, p.high), _dollars(p), p.latency_p95_ms, p.on_frontier,
                p.tied,
            )
            for i, p in enumerate(ranked, start=1)
        ),
        f"{metric} and cost of each arm",
    )  # fmt: skip
    best = sorted((p for p in ranked if p.on_frontier), key=lambda p: p.cost_usd_per_1k)
    alt = f"Scatter plot of {metric} against dollars a month at {volume}, {len(points)} arms."
    if ranked:
        qualities = [p.quality for p in ranked]
        cheap, dear = (end(ranked, key=lambda p: p.cost_usd_per_1k) for end in (min, max))
        alt += (
            f" {metric} from {number(min(qualities), 3)} to {number(max(qualities), 3)}, cost from "
            f"{_dollars(cheap)} to {_dollars(dear)}. On the frontier, cheapest first: "
            + "; ".join(f"{p.arm} {number(p.quality, 3)} at {_dollars(p)}" for p in best)
            + "."
        )
    caption = (
        f"{metric} with its interval against dollars a month at {volume}. The line joins the arms that "
        "no other beats on both; hollow marks are not shown to differ from the best."
    )
    order = list(dict.fromkeys([*arms, *(p.arm for p in points)]))
    draw = partial(_draw_frontier, ranked, metric, order)
    return build(draw, kind="frontier", alt=alt, caption=caption, data=data)


def _dollars(point: FrontierPoint) -> str:
    """Dollars a month of a point, whose cost is in them already."""
    return monthly(point.cost_usd_per_1k).removesuffix(" a month")


def _draw_frontier(points: Sequence[FrontierPoint], metric: str, order: Sequence[str], narrow: bool) -> Canvas:
    """Numbers beside the marks, and the names below in one or two columns: twenty names would cover each other."""
    height, left, top, columns = (250, 44, 30, 1) if narrow else (340, 56, 34, 2)
    rows = -(-len(points) // columns)
    canvas = Canvas(NARROW if narrow else WIDE, top + height + 62 + _KEY_ROW * rows)
    axes = canvas.axes(left, top, canvas.width - left - 12, height)
    _frontier_scales(axes, points, narrow=narrow)
    canvas.text(0, 10, fitted(metric, 300, SMALL), size=SMALL, alpha=0.75)
    log = ", logarithmic" if axes.get_xscale() == "log" else ""
    canvas.text(canvas.width - 12, top + height + 38, f"dollars a month{log}", size=SMALL, alpha=0.75, ha="right")
    best = sorted((p for p in points if p.on_frontier), key=lambda p: (p.cost_usd_per_1k, p.quality))
    line = [(p.cost_usd_per_1k, p.quality) for p in best]
    if len(line) > 1:
        axes.plot(*zip(*line, strict=True), color=INK, alpha=0.4, linewidth=1.4)
    for p in points:
        colour, marker = arm_style(order.index(p.arm))
        axes.plot([p.cost_usd_per_1k] * 2, [p.low, p.high], color=colour, linewidth=1.6)
        axes.plot([p.cost_usd_per_1k], [p.quality], marker=marker, **_mark(p, colour))
    pixels = [pixel(canvas, axes, x, y) for x, y in ((p.cost_usd_per_1k, p.quality) for p in points)]
    frame = Box(left, 16, canvas.width, top + height - 2)
    _number(canvas, pixels, taken=_taken(canvas, axes, points, line), frame=frame)
    _key(canvas, points, order, top=top + height + 66, columns=columns)
    return canvas


def _frontier_scales(axes: Any, points: Sequence[FrontierPoint], *, narrow: bool) -> None:
    costs = [p.cost_usd_per_1k for p in points] or [0.0, 1.0]
    values = [v for p in points for v in (p.low, p.high, p.quality)] or [0.0, 1.0]
    low, high = padded(min(values), max(values))
    axes.set_ylim(low, high)
    ticks(axes.yaxis, low, high, 5)
    axes.grid(axis="y", color=INK, alpha=0.1, linewidth=0.8)
    if min(costs) > 0 and max(costs) / min(costs) > 20:
        log_scale(axes, "x", costs, money, narrow=narrow)
    else:
        low, high = padded(min(0.0, *costs), max(costs))
        axes.set_xlim(low, high)
        marks = nice(low, high, 3 if narrow else 6)
        digits = max(2, step_digits(marks))
        axes.set_xticks(marks, [money(t, digits=digits) for t in marks])
    axes.set_axisbelow(True)


def _mark(point: FrontierPoint, colour: str) -> dict[str, Any]:
    face = "none" if point.tied else colour
    return {
        "markersize": 9, "markerfacecolor": face, "markeredgecolor": colour,
        "markeredgewidth": 1.8, "clip_on": False, "linestyle": "none",
    }  # fmt: skip


def _taken(
    canvas: Canvas, axes: Any, points: Sequence[FrontierPoint], line: Sequence[tuple[float, float]]
) -> list[Box]:
    """Places where no label may stand: marks, intervals, the frontier line."""
    boxes = []
    for p in points:
        x, y = pixel(canvas, axes, p.cost_usd_per_1k, p.quality)
        top, bottom = (pixel(canvas, axes, p.cost_usd_per_1k, v)[1] for v in (p.high, p.low))
        boxes += [Box(x - 7, y - 7, x + 7, y + 7), Box(x - 2, top - 1, x + 2, bottom + 1)]
    return boxes + along([pixel(canvas, axes, x, y) for x, y in line])


def _number(canvas: Canvas, pixels: Sequence[tuple[float, float]], *, taken: list[Box], frame: Box) -> None:
    """Write its number beside each point; a thin line leads to those that stand far off."""
    names = [str(i) for i in range(1, len(pixels) + 1)]
    sizes = [(text_width(name, SMALL) + 4, SMALL + 5) for name in names]
    for (x, y), name, box in zip(pixels, names, place(pixels, sizes, taken=taken, frame=frame), strict=True):
        edge, align = (box.right - 2, "right") if box.right <= x else (box.left + 2, "left")
        canvas.text(edge, box.top + (SMALL + 5) / 2, name, ha=align, size=SMALL)
        near = (min(max(x, box.left), box.right), min(max(y, box.top), box.bottom))
        if math.dist(near, (x, y)) > 14:
            canvas.rule([x, near[0]], [y, near[1]], alpha=0.35, linewidth=0.8)


def _key(canvas: Canvas, points: Sequence[FrontierPoint], order: Sequence[str], *, top: float, columns: int) -> None:
    """Number, mark, name and figures of each point, down the columns."""
    rows, width = -(-len(points) // columns), canvas.width / columns
    for i, p in enumerate(points):
        x, y = width * (i // rows), top + _KEY_ROW * (i % rows)
        colour, marker = arm_style(order.index(p.arm))
        canvas.text(x, y, f"{i + 1}", size=SMALL)
        canvas.mark(x + 26, y, marker, **_mark(p, colour))
        canvas.text(x + 42, y, fitted(p.arm, width - 50))
        parts = [number(p.quality, 3), _dollars(p), _note(p)]
        canvas.text(x + 42, y + 16, " · ".join(part for part in parts if part), size=SMALL, alpha=0.75)


def _note(point: FrontierPoint) -> str:
    latency = "" if point.latency_p95_ms is None else f"p95 {point.latency_p95_ms:,.0f} ms"
    split = "" if point.split == "test" else fitted(point.split, 80, SMALL)
    return " · ".join(part for part in (latency, "tied" if point.tied else "", split) if part)
