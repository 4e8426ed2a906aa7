"""Differences from the best other arm for the money, beside the margin that they must not cross."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from workbench.evaluation.sentences import percent
from workbench.records import Claim, Rule
from workbench.rendering.table import Column, Interval, Table, number
from workbench.reports.figure import COLOURS, INK, NARROW, SMALL, WIDE, Canvas, Figure, build, fitted, text_width
from workbench.reports.scales import padded, pixel, ticks
from workbench.reports.views import status_words

_VERMILLION, _GREEN, _ORANGE = COLOURS[1], COLOURS[2], COLOURS[5]
STATUS_MARKS = {
    "holds": ("o", _GREEN), "identical": ("s", _GREEN), "broken": ("v", INK),
    "inconclusive": ("D", _ORANGE), "stale": ("v", _ORANGE), "error": ("P", _VERMILLION),
}  # fmt: skip
_MARGIN_LINE = {"color": _VERMILLION, "linewidth": 1.4, "linestyle": (0, (5, 3)), "clip_on": False}


def forest(claims: Sequence[Claim], rule: Rule) -> Figure:
    """Paired difference of each arm from the best other one for the money, with its bounds, beside the margin.

    An arm whose bar stays right of the margin line is good enough. Of a rate, where lower is better, the bar is the
    certificate's, and must stay left of alpha.
    """
    rate = rule.direction == "lower"
    what = (
        f"{rule.metric} as certified" if rate else f"Difference in {rule.metric} from the best other arm for the money"
    )
    data = Table(
        (
            Column("arm"), Column("rate" if rate else "difference", "interval", signed=not rate), Column("best other"),
            Column("status", "status"), Column("questions", "count"), Column("families", "count"),
        ),
        tuple(
            (c.arm, Interval(c.difference, c.low, c.high) if _drawn(c, rule) else None, c.best, status_words(c, rule),
             c.n_items, c.n_clusters)
            for c in claims
        ),
        what,
    )  # fmt: skip
    held = f"{sum(c.status in ('holds', 'identical') for c in claims)} of {len(claims)}"
    alt = (
        f"Forest plot, {len(claims)} arms: {what[0].lower()}{what[1:]}, with bounds at {percent(rule.confidence)} "
        f"confidence, {rule.limit_name} {number(rule.limit, 3)}. {held} {'keep alpha' if rate else 'are good enough'}: "
        + "; ".join(f"{c.arm} {number(c.difference, 3, signed=not rate)} {status_words(c, rule)}" for c in claims)
        + "."
    )
    caption = f"{what}, with bounds at {percent(rule.confidence)} confidence. "
    if rate:
        caption += "A bar wholly left of the dashed line keeps alpha."
    else:
        caption += (
            "They hold for all arms at once. An arm whose bar is wholly right of the dashed line is good enough: at "
            "most the margin below the best."
        )
    draw = partial(_draw_forest, claims, rule)
    return build(draw, kind="forest", alt=alt, caption=caption, data=data)


def _drawn(claim: Claim, rule: Rule) -> bool:
    """Whether there is something to draw: another arm to differ from, or a rate."""
    return bool(claim.best) or rule.direction == "lower"


def _name(claim: Claim, rule: Rule) -> str:
    """Name of an arm, which says where it is the one in use; of a rate the reference is only "no cache"."""
    in_use = claim.arm == rule.reference and rule.direction != "lower"
    return f"{claim.arm} (in use)" if in_use and status_words(claim, rule) != "in use" else claim.arm


def _draw_forest(claims: Sequence[Claim], rule: Rule, narrow: bool) -> Canvas:
    row, top = (48, 30) if narrow else (32, 30)
    canvas = Canvas(NARROW if narrow else WIDE, top + row * max(1, len(claims)) + 52)
    names = min(330.0, 12 + max([text_width(_name(c, rule)) for c in claims], default=0.0))
    left, right = (8.0, 8.0) if narrow else (names + 16, 320.0)
    height = row * max(1, len(claims))
    axes = canvas.axes(left, top, canvas.width - left - right, height)
    ends = [0.0, rule.limit]
    ends += [v for c in claims for v in (c.low, c.high, c.difference) if math.isfinite(v)]
    low, high = padded(min(ends), max(ends))
    axes.set(xlim=(low, high), ylim=(height, 0), yticks=[])
    ticks(axes.xaxis, low, high, 3 if narrow else 6, signed=rule.direction != "lower")
    worse = (rule.limit, high) if rule.direction == "lower" else (low, rule.limit)
    for i, claim in enumerate(claims):
        # on a phone the names stand above the bars: nothing is drawn behind them
        band = (row * i + 22 if narrow else row * i, row * (i + 1))
        axes.fill_betweenx(band, *worse, color=_VERMILLION, alpha=0.07, linewidth=0)
        axes.plot([0, 0], band, color=INK, linewidth=1.2, clip_on=False)
        axes.plot([rule.limit] * 2, band, **_MARGIN_LINE)
        _forest_row(canvas, axes, claim, (top, row, i), rule, narrow=narrow)
    _line_labels(canvas, axes, rule, top)
    metric = fitted(rule.metric, 160, SMALL)
    title = f"{metric} as certified" if rule.direction == "lower" else f"difference in {metric} from the best other arm"
    canvas.text(left + 2, canvas.height - 8, title, size=SMALL, alpha=0.75)
    return canvas


def _line_labels(canvas: Canvas, axes: Any, rule: Rule, top: float) -> None:
    """Name the lines away from each other: the left one on its left, the right one on its right."""
    zero, margin = (pixel(canvas, axes, value, 0.0)[0] for value in (0.0, rule.limit))
    name, at_zero = (
        f"{rule.limit_name} {number(rule.limit, 3)}",
        "none" if rule.direction == "lower" else "the best other",
    )
    style: dict[str, Any] = {"size": SMALL, "alpha": 0.85}
    if not rule.margin:
        canvas.text(zero, top - 9, at_zero, ha="center", **style)
        return
    left, right = sorted([(margin, name), (zero, at_zero)])
    if left[0] - text_width(left[1], SMALL) >= 0 and right[0] + text_width(right[1], SMALL) <= canvas.width:
        canvas.text(left[0] + 1, top - 9, left[1], ha="right", **style)
        canvas.text(right[0] - 1, top - 9, right[1], **style)
    else:
        x, align = (canvas.width, "right") if zero > canvas.width / 2 else (0.0, "left")
        canvas.text(x, top - 9, f"dashed: {name}; full: {at_zero}", ha=align, **style)


def _forest_row(
    canvas: Canvas, axes: Any, claim: Claim, at: tuple[float, float, int], rule: Rule, *, narrow: bool
) -> None:
    top, row, i = at
    y = row * i + (34 if narrow else row / 2)
    drawn, word = _drawn(claim, rule), status_words(claim, rule)
    marker, colour = STATUS_MARKS.get(claim.status, ("o", INK)) if drawn else ("o", INK)
    face = "none" if claim.status in ("inconclusive", "stale") or not drawn else colour
    shown = {"markersize": 8, "markerfacecolor": face, "markeredgecolor": colour, "markeredgewidth": 1.6}
    if drawn:
        axes.plot([claim.low, claim.high], [y, y], color=colour, linewidth=2.2, solid_capstyle="butt", clip_on=False)
        for end in (claim.low, claim.high):
            axes.plot([end, end], [y - 4, y + 4], color=colour, linewidth=1.6, clip_on=False)
        axes.plot([claim.difference], [y], marker=marker, clip_on=False, zorder=3, **shown)
    name, rate = _name(claim, rule), rule.direction == "lower"
    middle, low, high = (number(v, 3, signed=not rate) for v in (claim.difference, claim.low, claim.high))
    values = f"{middle} [{low}, {high}]" if drawn else ""
    if narrow:
        y_text = top + row * i + 11
        canvas.text(8, y_text, fitted(name, 240, 12.5), size=12.5)
        canvas.mark(256, y_text - 1, marker, **shown)
        canvas.text(265, y_text, word, size=SMALL)
        return
    axes.axhline(row * i, color=INK, alpha=0.1, linewidth=0.8)
    canvas.text(0, top + y, fitted(name, 330))
    canvas.text(canvas.width - 306, top + y, values)
    canvas.mark(canvas.width - 106, top + y, marker, **shown)
    canvas.text(canvas.width - 94, top + y, word)
