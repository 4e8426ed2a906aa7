"""Forest, lines and slices: charts of a decision, each with its alt text and its numbers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from workbench.evaluation.run_summary import SliceRow, WeekRow
from workbench.records import Claim, Rule
from workbench.rendering.numbers import counted, number, percent
from workbench.rendering.table import Column, Interval, Table
from workbench.reports.figure import (
    COLOURS,
    INK,
    Figure,
    LegendItem,
    Look,
    arm_look,
    axis_label,
    build,
    draw_interval,
    label,
    set_scale,
)
from workbench.reports.run import status_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_VERMILLION, _GREEN, _ORANGE = COLOURS[1], COLOURS[2], COLOURS[5]
STATUS_LOOKS = {
    "holds": Look(_GREEN, "o"), "identical": Look(_GREEN, "s"), "broken": Look(INK, "v"),
    "inconclusive": Look(_ORANGE, "D", hollow=True), "stale": Look(_ORANGE, "v", hollow=True),
    "error": Look(_VERMILLION, "*"),
}  # fmt: skip
_DASHED: dict[str, Any] = {"linewidth": 1.4, "linestyle": (0, (5, 3))}


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
        f"Forest plot, {counted(len(claims), 'arm')}: {what[0].lower()}{what[1:]}, with bounds at "
        f"{percent(rule.confidence)} "
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
    entries = [_entry(claim, rule) for claim in claims]
    draw = partial(_draw_forest, claims, rule, [entry.look for entry in entries])
    height = 95 + 30 * max(1, len(claims))
    return build(draw, height, kind="forest", alt=alt, caption=caption, data=data, entries=entries, numbered=True)


def _drawn(claim: Claim, rule: Rule) -> bool:
    """Whether there is something to draw: another arm to differ from, or a rate."""
    return bool(claim.best) or rule.direction == "lower"


def _entry(claim: Claim, rule: Rule) -> LegendItem:
    """Status, name and difference of an arm; it says which is the one in use (of a rate that is only "no cache")."""
    rate, drawn, word = rule.direction == "lower", _drawn(claim, rule), status_words(claim, rule)
    name = f"{claim.arm} (in use)" if claim.arm == rule.reference and not rate and word != "in use" else claim.arm
    middle, low, high = (number(v, 3, signed=not rate) for v in (claim.difference, claim.low, claim.high))
    look = STATUS_LOOKS.get(claim.status, Look(INK, "o")) if drawn else Look(INK, "o", hollow=True)
    return LegendItem(look, name, f"{word} · {middle} [{low}, {high}]" if drawn else word)


def _draw_forest(claims: Sequence[Claim], rule: Rule, looks: Sequence[Look], axes: "Axes") -> None:
    rate, ends = rule.direction == "lower", [v for c in claims for v in (c.low, c.high, c.difference)]
    set_scale(axes, "x", [0.0, rule.limit, *filter(math.isfinite, ends)])
    low, high = axes.get_xlim()
    axes.axvspan(rule.limit if rate else low, high if rate else rule.limit, color=_VERMILLION, alpha=0.07, linewidth=0)
    axes.axvline(rule.limit, color=_VERMILLION, label=f"{rule.limit_name} {number(rule.limit, 3)}", **_DASHED)
    axes.axvline(0.0, color=INK, linewidth=1.2, label="none" if rate else "the best other")
    for row, (claim, look) in enumerate(zip(claims, looks, strict=True), start=1):
        if _drawn(claim, rule):  # to the edge, if a bound is infinite
            draw_interval(axes, look, row, claim.difference, (max(claim.low, low), min(claim.high, high)))
    axes.set_yticks(range(1, len(claims) + 1))
    axes.set_ylim(len(claims) + 0.6, 0.4)
    axes.grid(axis="y")
    axes.set_xlabel(axis_label(f"{rule.metric} as certified" if rate else f"difference in {rule.metric}"))
    axes.figure.legend(loc="outside upper left", ncols=2, borderpad=0.0)


Line = Sequence[tuple[float, float]]


def lines(
    series: Mapping[str, Line],
    x: str,
    y: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
    share_x: bool = False,
    limit: float | None = None,
    from_zero: bool = True,
) -> Figure:
    """Lines through (x, y) points, named in a list; ``limit`` draws the value that y should stay under.

    ``share_x`` writes x, in [0, 1], in per cent. ``from_zero`` keeps 0 on linear axes; without it the values fill the
    figure.

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
    if share_x:
        data = replace(data, columns=(data.columns[0], Column(x, "share"), data.columns[2]))
    told = percent if share_x else _figure_text
    over = [n for n, line in series.items() if limit is not None and any(v > limit for _, v in line)]
    alt = f"Line chart of {y} against {x}, {counted(len(series), 'line')}: " + "; ".join(
        f"{name} from " + " to ".join(f"{_figure_text(b)} at {told(a)}" for a, b in (line[0], line[-1]))
        for name, line in series.items()
        if line
    )
    alt += "." if limit is None else f". Over the limit of {_figure_text(limit)}: {', '.join(over) or 'none'}."
    caption = f"{y} against {x}" + (f"; dashed: the limit of {_figure_text(limit)}." if limit is not None else ".")
    entries = [LegendItem(arm_look(i), name) for i, (name, line) in enumerate(series.items()) if line]

    def draw(axes: "Axes") -> None:
        set_scale(axes, "x", [p[0] for p in points], log=log_x, zero=from_zero, share=share_x)
        height = [p[1] for p in points] + ([] if limit is None else [limit])
        set_scale(axes, "y", height, log=log_y, zero=from_zero)
        for entry in entries:
            axes.plot(*zip(*sorted(series[entry.name]), strict=True), **entry.look.line)
        if limit is not None:
            axes.axhline(limit, color=INK, alpha=0.7, label=f"limit {_figure_text(limit)}", **_DASHED)
            axes.figure.legend(loc="outside upper right", borderpad=0.0)
        axes.set_title(axis_label(y), loc="left")
        axes.set_xlabel(axis_label(x))
        axes.grid(axis="y")

    return build(draw, 320, kind="lines", alt=alt, caption=caption, data=data, entries=entries)


_ROW, _STEP = 22.0, 0.6  # height of a name in pixels, and of an arm in such rows


def _figure_text(value: float) -> str:
    """Write six significant digits, never with an exponent.

    >>> _figure_text(1e6), _figure_text(3081.6966), _figure_text(0.05), _figure_text(0)
    ('1,000,000', '3,081.7', '0.05', '0')
    """
    if not value or not math.isfinite(value):
        return f"{value:g}"
    text = f"{value:,.{max(0, 5 - math.floor(math.log10(abs(value))))}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


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
    alt = f"Dot plot of {metric} by slice for {counted(len(shown), 'arm')}, {counted(count, 'slice')}."
    if known:
        worst, best = min(known, key=lambda r: r.mean or 0.0), max(known, key=lambda r: r.mean or 0.0)
        alt += "".join(
            f" {word} is {r.arm} in {r.slice} {r.value} with {number(r.mean or 0.0, 3)}."
            for word, r in (("Lowest", worst), ("Highest", best))
        )
    caption = f"{metric} inside each slice, with its interval where there are enough clusters for one."
    entries = [LegendItem(arm_look(order.index(arm)), arm) for arm in shown]
    draw = partial(_draw_slices, rows, metric, entries)
    barred = len({(r.slice, r.value) for r in known})
    height = 70 + _ROW * (count + len({r.slice for r in rows}) + _STEP * len(shown) * barred)
    return build(draw, height, kind="slices", alt=alt, caption=caption, data=data, entries=entries)


def _draw_slices(rows: Sequence[SliceRow], metric: str, entries: Sequence[LegendItem], axes: "Axes") -> None:
    """Draw the names above the bars of each slice: beside them they would leave a phone no room for the bars."""
    set_scale(axes, "x", [v for r in rows for v in (r.mean, r.low, r.high) if v is not None])
    groups: dict[str, dict[str, list[SliceRow]]] = {}
    for row in rows:
        groups.setdefault(row.slice, {}).setdefault(row.value, []).append(row)
    names: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center_baseline"}
    y = 0.5
    for group, values in groups.items():
        axes.text(0, y, label(group), weight="bold", **names)
        for value, members in values.items():
            y += 1
            few = all(r.mean is None for r in members)
            items = f"{counted(max(r.n_items for r in members), 'item')}{', too few to say' if few else ''}"
            axes.axhline(y - 0.5, color=INK, alpha=0.12, linewidth=0.8)
            axes.text(0, y, label(value, 24), **names)
            axes.text(1, y, items, ha="right", alpha=0.75, **names)
            for place, entry in enumerate(entries):
                for row in members:
                    if row.arm == entry.name and row.mean is not None:
                        draw_interval(axes, entry.look, y + 0.7 + _STEP * place, row.mean, (row.low, row.high))
            y += 0 if few else _STEP * len(entries)
        y += 1
    axes.set(yticks=[], ylim=(y, 0), xlabel=axis_label(metric))
    axes.grid(axis="x")


WEEK_PANELS = 6  # groups that one figure shows


def weekly(rows: Sequence[WeekRow]) -> Figure:
    """Share of good calls by week, a panel a group: the first, those that dropped, and those of which most is known."""
    groups: dict[str, list[WeekRow]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    known = {name: some for name, weeks in groups.items() if (some := [w for w in weeks if _drawable(w)])}
    order = list(known)
    order[1:] = sorted(order[1:], key=lambda n: (not any(w.drop for w in known[n]), -sum(w.n for w in known[n])))
    shown = {name: known[name] for name in order[:WEEK_PANELS]}
    columns = (
        Column("group"), Column("week"), Column("graded", "count"), Column("stands for", "count"),
        Column("good", "interval"),
    )  # fmt: skip
    cells = tuple(
        (r.group, r.week, r.n, round(r.stands_for), None if r.mean is None else Interval(r.mean, r.low, r.high))
        for r in rows
    )
    told = [_course(name, weeks) for name, weeks in shown.items()]
    alt = (
        f"Share of good production calls by week, a panel for each of {len(shown)} of {counted(len(groups), 'group')}: "
    )
    alt += ("; ".join(told) or "too few graded calls to say") + "."
    caption = "Share of good production calls by week, weighted, with 95 % intervals. Weeks with too few graded calls "
    caption += "are left out. A dashed line marks where a drop most likely began."
    draw = partial(_draw_weeks, shown)
    data = Table(columns, cells, "Good production calls by week")
    return build(draw, 60 + 105 * max(len(shown), 1), kind="weeks", alt=alt, caption=caption, data=data, entries=())


def _drawable(week: WeekRow) -> bool:
    """Whether enough is known of a week, and its day is one: what was stored may have been written by others."""
    try:
        date.fromisoformat(week.week)
    except ValueError:
        return False
    return week.mean is not None


def _course(name: str, weeks: Sequence[WeekRow]) -> str:
    ends = [f"{number(w.mean or 0.0, 3)} in the week of {_day(w.week)}" for w in (weeks[0], weeks[-1])]
    drops = "".join(f", with a drop in that of {_day(w.week)}" for w in weeks if w.drop)
    return f"{name} from {ends[0]} to {ends[1]}{drops}"


def _draw_weeks(panels: Mapping[str, Sequence[WeekRow]], axes: "Axes") -> None:
    """Draw one panel below the other on the same scales, each under its group's name."""
    if not panels:
        axes.set_axis_off()
        axes.text(0, 0.5, "too few graded calls to say")
        return
    start = min(date.fromisoformat(w.week) for weeks in panels.values() for w in weeks)
    ends = [v for weeks in panels.values() for w in weeks for v in (w.low, w.high) if v is not None]
    figure = axes.figure.canvas.figure
    axes.remove()
    below = figure.subplots(len(panels), sharex=True, sharey=True, squeeze=False)[:, 0]
    for position, (part, name, weeks) in enumerate(zip(below, panels, panels.values(), strict=True)):
        look = arm_look(position)
        places = [(date.fromisoformat(w.week) - start).days // 7 for w in weeks]
        part.plot(places, [w.mean or 0.0 for w in weeks], color=look.colour, linewidth=1.2, alpha=0.6)
        for place, week in zip(places, weeks, strict=True):
            draw_interval(part, look, place, week.mean or 0.0, (week.low, week.high), up=True)
            if week.drop:
                part.axvline(place - 0.5, color=INK, **_DASHED)
        part.set_title(axis_label(name), loc="left")
        part.grid(axis="y")
    set_scale(below[-1], "y", ends)
    below[-1].locator_params(axis="y", nbins=3, steps=[1, 2, 5, 10])
    below[-1].locator_params(axis="x", nbins=5, integer=True)
    below[-1].xaxis.set_major_formatter(lambda place, _: _day(str(start + timedelta(weeks=int(place)))))
    below[-1].set_xlabel("share of good calls, week from")


def _day(iso: str) -> str:
    day = date.fromisoformat(iso)
    return f"{day.day} {day:%b}"
