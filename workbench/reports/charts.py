"""Forest, lines and slices: charts of a decision, each with its alt text and its numbers."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from workbench.evaluation.sentences import percent
from workbench.evaluation.summary import SliceRow
from workbench.records import Claim, Rule
from workbench.rendering.table import Column, Interval, Table, number
from workbench.reports.figure import (
    COLOURS,
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
    padded,
    pixel,
    plain,
    spread,
    text_width,
    ticks,
)
from workbench.reports.run import status_words

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


Line = Sequence[tuple[float, float]]


def lines(
    series: Mapping[str, Line],
    x: str,
    y: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
    limit: float | None = None,
    from_zero: bool = True,
) -> Figure:
    """Lines through (x, y) points, named at their ends; ``limit`` draws the value that y should stay under.

    ``from_zero`` keeps 0 on linear axes; without it the values fill the figure.

    Raises
    ------
    ValueError
        If an axis is logarithmic and a value on it is not above zero.
    """
    points = [point for line in series.values() for point in line]
    for log, name, axis in ((log_x, x, 0), (log_y, y, 1)):
        low = min((p[axis] for p in points), default=1.0)
        if log and low <= 0:
            raise ValueError(f"{name} has the value {low} on a logarithmic axis; draw it on a linear one")
    data = Table.of(("line", x, y), [(name, *point) for name, line in series.items() for point in line], f"{y} by {x}")
    over = [n for n, line in series.items() if limit is not None and any(v > limit for _, v in line)]
    alt = f"Line chart of {y} against {x}, {len(series)} lines: " + "; ".join(
        f"{name} from {line[0][1]:,.6g} at {line[0][0]:,.6g} to {line[-1][1]:,.6g} at {line[-1][0]:,.6g}"
        for name, line in series.items()
        if line
    )
    alt += "." if limit is None else f". Over the limit of {limit:,g}: {', '.join(over) or 'none'}."
    caption = f"{y} against {x}" + (f"; dashed: the limit of {limit:,g}." if limit is not None else ".")
    draw = partial(_draw_lines, series, x, y, log_x, log_y, limit, from_zero)
    return build(draw, kind="lines", alt=alt, caption=caption, data=data)


def _draw_lines(
    series: Mapping[str, Line],
    x: str,
    y: str,
    log_x: bool,
    log_y: bool,
    limit: float | None,
    from_zero: bool,
    narrow: bool,
) -> Canvas:
    key_height = 22 * len(series) if narrow else 0
    names = 0.0 if narrow else min(260.0, 24 + max((text_width(n) for n in series), default=0.0))
    left, top, height = 52, 30 + key_height, 240 if narrow else 320
    canvas = Canvas(NARROW if narrow else WIDE, top + height + 46)
    axes = canvas.axes(left, top, canvas.width - left - 14 - names, height)
    points = [p for line in series.values() for p in line] or [(1.0, 1.0)]
    _scale(axes, "x", [p[0] for p in points], log=log_x, zero=from_zero, narrow=narrow)
    _scale(
        axes, "y", [p[1] for p in points] + ([] if limit is None else [limit]), log=log_y, zero=from_zero, narrow=False
    )
    axes.grid(axis="y", color=INK, alpha=0.1, linewidth=0.8)
    canvas.text(0, 10 + key_height, fitted(y, 300, SMALL), size=SMALL, alpha=0.75)
    x_name = fitted(x, 300, SMALL)
    canvas.text(canvas.width - 14 - names, canvas.height - 8, x_name, size=SMALL, alpha=0.75, ha="right")
    drawn = [(name, sorted(line)) for name, line in series.items() if line]
    _draw_series(canvas, axes, drawn, names=names, narrow=narrow)
    if limit is not None:
        axes.axhline(limit, color=INK, alpha=0.7, linewidth=1.4, linestyle=(0, (5, 3)))
        _limit_label(canvas, axes, limit, [line for _, line in drawn])
    return canvas


def _draw_series(canvas: Canvas, axes: Any, drawn: Sequence[tuple[str, Line]], *, names: float, narrow: bool) -> None:
    ends = [pixel(canvas, axes, *line[-1]) for _, line in drawn]
    low, high = (pixel(canvas, axes, 1.0, edge)[1] for edge in reversed(axes.get_ylim()))
    at = spread([y for _, y in ends], gap=19, low=low, high=high)
    for i, ((name, line), (x_end, y_end), y_name) in enumerate(zip(drawn, ends, at, strict=True)):
        colour, marker = arm_style(i)
        look = {"color": colour, "marker": marker, "markersize": 6.5, "linewidth": 1.8}
        axes.plot(*zip(*line, strict=True), clip_on=False, **look)
        if narrow:
            canvas.mark(6, 10 + 22 * i, marker, color=colour, markersize=7.5)
            canvas.text(20, 10 + 22 * i, fitted(name, NARROW - 24))
        else:
            canvas.rule([x_end + 7, canvas.width - names - 4], [y_end, y_name], alpha=0.35, linewidth=0.8)
            canvas.text(canvas.width - names, y_name, fitted(name, names))


def _limit_label(canvas: Canvas, axes: Any, limit: float, series: Sequence[Line]) -> None:
    """Name the limit just above its line, where the fewest other lines pass."""
    text = f"limit {limit:,g}"
    taken = [box for line in series for box in along([pixel(canvas, axes, *p) for p in line])]
    (low, y), (high, _) = (pixel(canvas, axes, end, limit) for end in axes.get_xlim())
    width = text_width(text, SMALL)
    places = [low + 4 + (high - low - width - 8) * part / 8 for part in range(9)]
    x = min(places, key=lambda x: sum(Box(x, y - 17, x + width, y - 2).covers(box) for box in taken))
    canvas.text(x, y - 9, text, size=SMALL)


def _scale(axes: Any, name: str, values: Sequence[float], *, log: bool, zero: bool, narrow: bool) -> None:
    if log:
        log_scale(axes, name, values, plain, narrow=narrow)
        return
    low, high = padded(min(0.0, *values) if zero else min(values), max(values))
    axes.set(**{f"{name}lim": (low, high)})
    ticks(getattr(axes, f"{name}axis"), low, high, 3 if narrow else 6)


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
