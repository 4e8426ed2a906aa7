"""Differences from the reference beside the margin that they must not cross."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from workbench.records import Claim, Rule
from workbench.rendering.table import Column, Interval, Table, number
from workbench.reports.figure import COLOURS, INK, NARROW, SMALL, WIDE, Canvas, Figure, build, fitted, text_width
from workbench.reports.scales import padded, pixel, ticks

_VERMILLION, _GREEN, _ORANGE = COLOURS[1], COLOURS[2], COLOURS[5]
STATUS_MARKS = {
    "holds": ("o", _GREEN), "identical": ("s", _GREEN), "broken": ("X", _VERMILLION),
    "inconclusive": ("D", _ORANGE), "stale": ("v", _ORANGE), "error": ("P", _VERMILLION),
}  # fmt: skip
_MARGIN_LINE = {"color": _VERMILLION, "linewidth": 1.4, "linestyle": (0, (5, 3)), "clip_on": False}


def forest(claims: Sequence[Claim], rule: Rule) -> Figure:
    """Paired difference of each arm from the reference with its simultaneous bounds, beside the margin.

    An arm whose bar stays on the better side of the margin line holds: right of it, or left where lower is better.
    """
    data = Table(
        (
            Column("arm"), Column("difference", "interval", signed=True), Column("status", "status"),
            Column("items", "count"), Column("clusters", "count"),
        ),
        tuple(
            (
                c.arm, None if c.arm == rule.reference else Interval(c.difference, c.low, c.high), c.status,
                c.n_items, c.n_clusters,
            )
            for c in claims
        ),
        f"Difference in {rule.metric} from {rule.reference}",
    )  # fmt: skip
    held = sum(c.status in ("holds", "identical") for c in claims)
    alt = (
        f"Forest plot, {len(claims)} arms: difference in {rule.metric} from {rule.reference} with bounds at "
        f"{rule.confidence:.0%} confidence, {rule.limit_name} {number(rule.limit, 3)}. {held} of {len(claims)} hold: "
        + "; ".join(f"{c.arm} {number(c.difference, 3, signed=True)} {c.status}" for c in claims)
        + "."
    )
    caption = (
        f"Difference in {rule.metric} from the reference, {rule.reference}, with simultaneous bounds at "
        f"{rule.confidence:.0%}. A bar wholly {'left' if rule.direction == 'lower' else 'right'} of the dashed line is "
        f"not worse by more than {'alpha' if rule.direction == 'lower' else 'the margin'}."
    )
    draw = partial(_draw_forest, claims, rule)
    return build(draw, kind="forest", alt=alt, caption=caption, data=data)


def _draw_forest(claims: Sequence[Claim], rule: Rule, narrow: bool) -> Canvas:
    row, top = (48, 30) if narrow else (32, 30)
    canvas = Canvas(NARROW if narrow else WIDE, top + row * max(1, len(claims)) + 52)
    names = min(330.0, 12 + max([text_width(c.arm) for c in claims], default=0.0))
    left, right = (8.0, 8.0) if narrow else (names + 16, 320.0)
    height = row * max(1, len(claims))
    axes = canvas.axes(left, top, canvas.width - left - right, height)
    ends = [0.0, rule.limit]
    ends += [v for c in claims for v in (c.low, c.high, c.difference) if math.isfinite(v)]
    low, high = padded(min(ends), max(ends))
    axes.set(xlim=(low, high), ylim=(height, 0), yticks=[])
    ticks(axes.xaxis, low, high, 3 if narrow else 6, signed=True)
    worse = (rule.limit, high) if rule.direction == "lower" else (low, rule.limit)
    for i, claim in enumerate(claims):
        # on a phone the names stand above the bars: nothing is drawn behind them
        band = (row * i + 22 if narrow else row * i, row * (i + 1))
        axes.fill_betweenx(band, *worse, color=_VERMILLION, alpha=0.07, linewidth=0)
        axes.plot([0, 0], band, color=INK, linewidth=1.2, clip_on=False)
        axes.plot([rule.limit] * 2, band, **_MARGIN_LINE)
        _forest_row(canvas, axes, claim, (top, row, i), reference=claim.arm == rule.reference, narrow=narrow)
    _line_labels(canvas, axes, rule, top)
    title = f"difference in {fitted(rule.metric, 160, SMALL)}"
    canvas.text(left + 2, canvas.height - 8, title, size=SMALL, alpha=0.75)
    return canvas


def _line_labels(canvas: Canvas, axes: Any, rule: Rule, top: float) -> None:
    """Name the lines away from each other: the left one on its left, the right one on its right."""
    zero, margin = (pixel(canvas, axes, value, 0.0)[0] for value in (0.0, rule.limit))
    name = f"{rule.limit_name} {number(rule.limit, 3)}"
    style: dict[str, Any] = {"size": SMALL, "alpha": 0.85}
    if not rule.margin:
        canvas.text(zero, top - 9, "reference", ha="center", **style)
        return
    left, right = sorted([(margin, name), (zero, "reference")])
    if left[0] - text_width(left[1], SMALL) >= 0 and right[0] + text_width(right[1], SMALL) <= canvas.width:
        canvas.text(left[0] + 1, top - 9, left[1], ha="right", **style)
        canvas.text(right[0] - 1, top - 9, right[1], **style)
    else:
        x, align = (canvas.width, "right") if zero > canvas.width / 2 else (0.0, "left")
        canvas.text(x, top - 9, f"dashed: {name}; full: reference", ha=align, **style)


def _forest_row(
    canvas: Canvas, axes: Any, claim: Claim, at: tuple[float, float, int], *, reference: bool, narrow: bool
) -> None:
    top, row, i = at
    y = row * i + (34 if narrow else row / 2)
    marker, colour = ("o", INK) if reference else STATUS_MARKS.get(claim.status, ("o", INK))
    if not reference:
        axes.plot([claim.low, claim.high], [y, y], color=colour, linewidth=2.2, solid_capstyle="butt", clip_on=False)
        for end in (claim.low, claim.high):
            axes.plot([end, end], [y - 4, y + 4], color=colour, linewidth=1.6, clip_on=False)
    face = "none" if claim.status in ("inconclusive", "stale") or reference else colour
    shown = {"markersize": 8, "markerfacecolor": face, "markeredgecolor": colour, "markeredgewidth": 1.6}
    axes.plot([claim.difference], [y], marker=marker, clip_on=False, zorder=3, **shown)
    word = "reference" if reference else claim.status
    low, high = (number(v, 3, signed=True) for v in (claim.low, claim.high))
    values = "" if reference else f"{number(claim.difference, 3, signed=True)} [{low}, {high}]"
    if narrow:
        y_text = top + row * i + 11
        canvas.text(8, y_text, fitted(claim.arm, 256, 12.5), size=12.5)
        canvas.mark(272, y_text - 1, marker, **shown)
        canvas.text(281, y_text, word, size=SMALL)
        return
    axes.axhline(row * i, color=INK, alpha=0.1, linewidth=0.8)
    canvas.text(0, top + y, fitted(claim.arm, 330))
    canvas.text(canvas.width - 306, top + y, values)
    canvas.mark(canvas.width - 106, top + y, marker, **shown)
    canvas.text(canvas.width - 94, top + y, word)
