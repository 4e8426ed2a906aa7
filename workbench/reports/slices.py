"""Means inside slices: where an arm that is good on average is not good."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from workbench.evaluation.summary import SliceRow
from workbench.rendering.table import Column, Interval, Table, number
from workbench.reports.figure import INK, NARROW, SMALL, WIDE, Canvas, Figure, arm_style, build, fitted, text_width
from workbench.reports.scales import padded, ticks

_STEP = 12.0  # from one arm to the next inside a slice, in pixels


def slices(rows: Sequence[SliceRow], metric: str = "mean", *, arms: Sequence[str] = ()) -> Figure:
    """Mean of each arm inside each slice as a dot with its interval, one shape and colour an arm."""
    order = list(dict.fromkeys([*arms, *(r.arm for r in rows)]))
    shown = [arm for arm in order if any(r.arm == arm for r in rows)]
    data = Table(
        (
            Column("slice"), Column("value"), Column("arm"), Column("items", "count"),
            Column(metric, "interval"),
        ),
        tuple(
            (r.slice, r.value, r.arm, r.n_items, None if r.mean is None else Interval(r.mean, r.low, r.high))
            for r in rows
        ),
        f"{metric} by slice",
    )  # fmt: skip
    known = [r for r in rows if r.mean is not None]
    count = len({(r.slice, r.value) for r in rows})
    alt = f"Dot plot of {metric} by slice for {len(shown)} arms, {count} slices."
    if known:
        worst, best = min(known, key=lambda r: r.mean or 0.0), max(known, key=lambda r: r.mean or 0.0)
        alt += "".join(
            f" {word} is {r.arm} in {r.slice} {r.value} with {number(r.mean or 0.0, 3)}."
            for word, r in (("Lowest", worst), ("Highest", best))
        )
    caption = f"{metric} inside each slice, with its interval where there are enough clusters for one."
    draw = partial(_draw_slices, rows, metric, order, shown)
    return build(draw, kind="slices", alt=alt, caption=caption, data=data)


def _draw_slices(
    rows: Sequence[SliceRow], metric: str, order: Sequence[str], shown: Sequence[str], narrow: bool
) -> Canvas:
    width = NARROW if narrow else WIDE
    left, title, name_line = (8.0, 26.0, 20.0) if narrow else (210.0, 34.0, 0.0)
    row = _STEP * len(shown) + 14 + name_line
    groups: dict[str, dict[str, list[SliceRow]]] = {}
    for r in rows:
        groups.setdefault(r.slice, {}).setdefault(r.value, []).append(r)
    key = _key_places(shown, width)
    top = (key[-1][1] if key else 0.0) + 22
    height = sum(title + len(values) * row for values in groups.values()) + 6
    canvas = Canvas(width, top + height + 46)
    axes = canvas.axes(left, top, width - left - 12, height)
    ends = [v for r in rows for v in (r.mean, r.low, r.high) if v is not None] or [0.0, 1.0]
    low, high = padded(min(ends), max(ends))
    axes.set(xlim=(low, high), ylim=(height, 0), yticks=[])
    axes.grid(axis="x", color=INK, alpha=0.12, linewidth=0.8)
    ticks(axes.xaxis, low, high, 4 if narrow else 7)
    canvas.text(width - 12, canvas.height - 8, fitted(metric, 300, SMALL), size=SMALL, alpha=0.75, ha="right")
    for arm, (x, y) in zip(shown, key, strict=True):
        colour, marker = arm_style(order.index(arm))
        canvas.mark(x + 6, y, marker, color=colour, markersize=8)
        canvas.text(x + 18, y, fitted(arm, width - 24))
    y = 0.0
    for group, values in groups.items():
        canvas.text(0, top + y + title / 2, fitted(group, width), weight="bold")
        y += title
        for members in values.values():
            axes.axhline(y, color=INK, alpha=0.12, linewidth=0.8)
            _value_name(canvas, members, top + y + (12 if narrow else row / 2), narrow=narrow)
            if all(r.mean is None for r in members):
                canvas.text(left + 4, top + y + name_line + 13, "too few to say", size=SMALL, alpha=0.75)
            _slice_dots(axes, members, order, shown, y + name_line + 13)
            y += row
    return canvas


def _value_name(canvas: Canvas, members: Sequence[SliceRow], y: float, *, narrow: bool) -> None:
    items = f"{max(r.n_items for r in members):,} items"
    canvas.text(8 if narrow else 0, y, fitted(members[0].value, 190 if narrow else 130))
    canvas.text(canvas.width - 12 if narrow else 196, y, items, size=SMALL, alpha=0.75, ha="right")


def _slice_dots(axes: Any, members: Sequence[SliceRow], order: Sequence[str], shown: Sequence[str], top: float) -> None:
    for row in members:
        if row.mean is None:
            continue
        y = top + _STEP * shown.index(row.arm)
        colour, marker = arm_style(order.index(row.arm))
        if row.low is not None and row.high is not None:
            axes.plot([row.low, row.high], [y, y], color=colour, linewidth=1.6, clip_on=False)
        axes.plot([row.mean], [y], marker=marker, color=colour, markersize=7.5, linestyle="none", clip_on=False)


def _key_places(names: Sequence[str], width: float) -> list[tuple[float, float]]:
    """Places of a key that wraps like text."""
    out, x, y = [], 0.0, 12.0
    for name in names:
        need = min(text_width(name) + 42, width)
        if x and x + need > width:
            x, y = 0.0, y + 22
        out.append((x, y))
        x += need
    return out
