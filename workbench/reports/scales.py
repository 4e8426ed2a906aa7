"""Ranges and ticks of axes, with labels that are plain numbers."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from workbench.rendering.table import number
from workbench.reports.figure import Canvas


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
