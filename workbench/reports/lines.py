"""Plain lines: how a measure grows with a size."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from workbench.rendering.table import Table
from workbench.reports.figure import INK, NARROW, SMALL, WIDE, Canvas, Figure, arm_style, build, fitted, text_width
from workbench.reports.placement import Box, along, spread
from workbench.reports.scales import log_scale, padded, pixel, plain, ticks

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
