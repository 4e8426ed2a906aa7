"""Quality against cost: which arms no other arm beats on both."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from workbench.evaluation.summary import FrontierPoint
from workbench.rendering.table import Column, Interval, Table, number, usd_digits
from workbench.reports.figure import (
    INK,
    NARROW,
    SIZE,
    SMALL,
    WIDE,
    Canvas,
    Figure,
    arm_style,
    build,
    fitted,
    text_width,
)
from workbench.reports.placement import Box, along, place
from workbench.reports.scales import log_scale, money, nice, padded, pixel, step_digits, ticks


def frontier(points: Sequence[FrontierPoint], metric: str, *, arms: Sequence[str] = ()) -> Figure:
    """Quality with its interval against the cost of 1,000 requests, and the line of the best for the money.

    Hollow marks are tied with the reference. Costs that span more than 20 times are on a logarithmic axis.
    ``arms`` fixes which arm has which colour and shape, so that it is the same in every figure of a report.
    """
    data = Table(
        (
            Column("arm"), Column("split"), Column(metric, "interval"), Column("cost per 1,000", "usd"),
            Column("p95 latency", "ms"), Column("on the frontier"), Column("tied with the reference"),
        ),
        tuple(
            (
                p.arm, p.split, Interval(p.quality, p.low, p.high), p.cost_usd_per_1k, p.latency_p95_ms,
                p.on_frontier, p.tied,
            )
            for p in points
        ),
        f"{metric} and cost of each arm",
    )  # fmt: skip
    best = sorted((p for p in points if p.on_frontier), key=lambda p: p.cost_usd_per_1k)
    dollars = partial(money, digits=usd_digits(p.cost_usd_per_1k for p in points))
    alt = f"Scatter plot of {metric} against cost per 1,000 requests, {len(points)} arms."
    if points:
        qualities, costs = [p.quality for p in points], [p.cost_usd_per_1k for p in points]
        alt += (
            f" {metric} from {number(min(qualities), 3)} to {number(max(qualities), 3)}, cost from "
            f"{dollars(min(costs))} to {dollars(max(costs))}. On the frontier, cheapest first: "
            + "; ".join(f"{p.arm} {number(p.quality, 3)} at {dollars(p.cost_usd_per_1k)}" for p in best)
            + "."
        )
    caption = (
        f"{metric} with its interval against the cost of 1,000 requests. The line joins the arms that "
        "no other beats on both; hollow marks are not shown to differ from the reference."
    )
    order = list(dict.fromkeys([*arms, *(p.arm for p in points)]))
    draw = partial(_draw_frontier, points, metric, order)
    return build(draw, kind="frontier", alt=alt, caption=caption, data=data)


def _draw_frontier(points: Sequence[FrontierPoint], metric: str, order: Sequence[str], narrow: bool) -> Canvas:
    height, left, top = (250, 44, 30) if narrow else (380, 56, 34)
    key_row = 36
    canvas = Canvas(NARROW if narrow else WIDE, top + height + 50 + (key_row * len(points) + 8 if narrow else 0))
    axes = canvas.axes(left, top, canvas.width - left - 12, height)
    _frontier_scales(axes, points, narrow=narrow)
    canvas.text(0, 10, fitted(metric, 300, SMALL), size=SMALL, alpha=0.75)
    log = ", logarithmic" if axes.get_xscale() == "log" else ""
    x_label = f"USD per 1,000 requests{log}"
    canvas.text(canvas.width - 12, top + height + 38, x_label, size=SMALL, alpha=0.75, ha="right")
    best = sorted((p for p in points if p.on_frontier), key=lambda p: (p.cost_usd_per_1k, p.quality))
    line = [(p.cost_usd_per_1k, p.quality) for p in best]
    if len(line) > 1:
        axes.plot(*zip(*line, strict=True), color=INK, alpha=0.4, linewidth=1.4)
    for p in points:
        colour, marker = arm_style(order.index(p.arm))
        axes.plot([p.cost_usd_per_1k] * 2, [p.low, p.high], color=colour, linewidth=1.6)
        axes.plot([p.cost_usd_per_1k], [p.quality], marker=marker, **_mark(p, colour))
    pixels = [pixel(canvas, axes, x, y) for x, y in ((p.cost_usd_per_1k, p.quality) for p in points)]
    taken = _taken(canvas, axes, points, line)
    frame = Box(left, 16, canvas.width, top + height - 2)
    if narrow:  # names do not fit beside the marks: a number there, the names below
        _label(canvas, pixels, [(str(i), "") for i in range(1, len(points) + 1)], SMALL, taken=taken, frame=frame)
        _key(canvas, points, order, top=top + height + 66)
    else:
        _label(canvas, pixels, [(fitted(p.arm, 330), _note(p)) for p in points], SIZE, taken=taken, frame=frame)
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


def _label(
    canvas: Canvas,
    pixels: Sequence[tuple[float, float]],
    labels: Sequence[tuple[str, str]],
    size: float,
    *,
    taken: list[Box],
    frame: Box,
) -> None:
    """Write a name, and a note below it, beside each point; a thin line leads to the names that stand far off."""
    sizes = [(max(text_width(n, size), text_width(s, SMALL)) + 4, 32.0 if s else size + 5) for n, s in labels]
    boxes = place(pixels, sizes, taken=taken, frame=frame)
    for (x, y), (name, note), box in zip(pixels, labels, boxes, strict=True):
        edge, align = (box.right - 2, "right") if box.right <= x else (box.left + 2, "left")
        canvas.text(edge, box.top + (size + 5) / 2, name, ha=align, size=size)
        canvas.text(edge, box.top + 24, note, ha=align, size=SMALL, alpha=0.75)
        near = (min(max(x, box.left), box.right), min(max(y, box.top), box.bottom))
        if math.dist(near, (x, y)) > 20:
            canvas.rule([x, near[0]], [y, near[1]], alpha=0.35, linewidth=0.8)


def _key(canvas: Canvas, points: Sequence[FrontierPoint], order: Sequence[str], *, top: float) -> None:
    digits = usd_digits(p.cost_usd_per_1k for p in points)
    for i, p in enumerate(points):
        y = top + 36 * i
        colour, marker = arm_style(order.index(p.arm))
        canvas.text(0, y, f"{i + 1}", size=SMALL)
        canvas.mark(26, y, marker, **_mark(p, colour))
        canvas.text(42, y, fitted(p.arm, NARROW - 46))
        parts = [number(p.quality, 3), money(p.cost_usd_per_1k, digits=digits), _note(p)]
        canvas.text(42, y + 16, " · ".join(part for part in parts if part), size=SMALL, alpha=0.75)


def _note(point: FrontierPoint) -> str:
    latency = "" if point.latency_p95_ms is None else f"p95 {point.latency_p95_ms:,.0f} ms"
    split = "" if point.split == "test" else fitted(point.split, 80, SMALL)
    return " · ".join(part for part in (latency, "tied" if point.tied else "", split) if part)
