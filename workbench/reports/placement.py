"""Labels beside points without covering points, lines or each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

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
