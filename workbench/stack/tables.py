"""The factorial in tables: every cell, what parts of the stack save together, and what is left to a router."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from workbench.evaluation.compare import item_clusters, item_values, mean_interval, ratio_interval
from workbench.evaluation.run_summary import ScoredArms
from workbench.rendering.numbers import usd_digits
from workbench.rendering.table import Column, Interval, Table, Value

FACTORS = {
    "context": "retrieval",
    "route": "routing",
    "cache": "cache",
}  # fields of `StackCell`, and what they are called


@dataclass(frozen=True, slots=True)
class StackCell:
    """One combination of the factorial: what is shown to a model, which model answers, what serves in its place.

    ``context`` is the level of retrieval: how much is shown of what an arm found.
    """

    context: str
    route: str
    cache: str

    @property
    def name(self) -> str:
        """Name of the arm."""
        return f"{self.context} · {self.route.rpartition('/')[2]} · {self.cache}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ScoredStack(ScoredArms):
    """What every cell did with the requests of one half; ``misses`` says by arm which ones no cache served."""

    words: ClassVar[tuple[str, str, str]] = ("request", "right", "answers")
    misses: Mapping[str, npt.NDArray[np.bool_]]
    _by_arm: dict[tuple[str, str], npt.NDArray[np.float64]] = field(default_factory=dict)
    _items: list[tuple[list[str], npt.NDArray[np.int64]]] = field(default_factory=list)

    @property
    def codes(self) -> npt.NDArray[np.int64]:
        """Code of the family of each request, in the order of their ids."""
        return self._clusters()[1]

    def _clusters(self) -> tuple[list[str], npt.NDArray[np.int64]]:
        if not self._items:
            self._items.append(item_clusters(self.scores))
        return self._items[0]

    @property
    def table(self) -> Table:
        """All cells with intervals: quality, cost, latency and hits."""
        codes = self.codes
        rows: list[tuple[Value, ...]] = []
        for f in self.facts:
            mean, low, high = mean_interval(self.values(f.name), codes)
            costs = 1000 * self.costs(f.name)
            usd = Interval(*ratio_interval(costs, np.ones(len(costs)), codes))
            rows.append(
                (f.name, Interval(mean, low, high), usd, f.latency_p95_ms, 1 - float(self.misses[f.name].mean()))
            )
        digits = usd_digits(1000 * float(self.costs(f.name).mean()) for f in self.facts)
        columns = (
            Column("cell"), Column("correctness", "interval"),
            Column("USD per 1,000", "interval", digits=digits),
            Column("p95", "ms"), Column("served from the cache", "share"),
        )  # fmt: skip
        return Table(columns, tuple(rows), f"Cells of the stack, on {self.split}, with 95 % intervals over families")

    @property
    def all_cells(self) -> Table:
        """The same under the title that it has in the report, beside the cells that were tested."""
        return replace(self.table, caption="What does every cell do on the held-out half?")

    def values(self, arm: str) -> npt.NDArray[np.float64]:
        """Correctness of each request, in the order of their ids."""
        if (key := ("values", arm)) not in self._by_arm:
            self._by_arm[key] = item_values(self.scores, arm, self._clusters()[0], missing=0.0)
        return self._by_arm[key]

    def costs(self, arm: str) -> npt.NDArray[np.float64]:
        """Dollars of each request, in the order of their ids."""
        if (key := ("costs", arm)) not in self._by_arm:
            self._by_arm[key] = self.scores.filter(arm=arm).sort("item_id")["cost_usd"].to_numpy()
        return self._by_arm[key]


def stack_effects_table(dev: ScoredStack, held_out: ScoredStack, plain: StackCell, *, seed: int = 0) -> Table:
    """What parts of the stack save, one by one, in pairs and all together; the overlap is told on both halves.

    ``plain`` is the cell that savings are shares of. Two parts that each save a share of what the other leaves save
    less together than the sum: 31 % and 22 % make 46 %, if neither changes what the other does.
    """
    rows: list[tuple[Value, ...]] = []
    cells = {arm.cell for arm in dev.arms}
    for cell in sorted(cells - {plain}, key=lambda c: (len(_stack_changes(c, plain)), c.name)):
        parts = [replace(plain, **{name: getattr(cell, name)}) for name in _stack_changes(cell, plain)]
        if not cells.issuperset(parts):
            continue
        alone = [_stack_saving(held_out, {part: 1.0}, plain, seed).estimate for part in parts]
        weights = {**dict.fromkeys(parts, 1.0), cell: -1.0}
        overlap = (
            [_stack_saving(half, weights, plain, seed) for half in (dev, held_out)] if len(parts) > 1 else [None, None]
        )
        name = " + ".join(_changed_stack_part(part, plain) for part in parts)
        saved, gained = _stack_saving(held_out, {cell: 1.0}, plain, seed), _stack_cell_gain(held_out, cell, plain, seed)
        rows.append((name, len(parts), sum(alone), saved, *overlap, gained))
    columns = (
        Column("parts"), Column("parts changed", "count"), Column("sum of what each saves alone", "number", digits=3),
        Column("saved together", "interval"), Column("overlap, choosing half", "interval"),
        Column("overlap, held out", "interval"), Column("correctness against plain", "interval", signed=True),
    )  # fmt: skip
    caption = (
        f"What do parts of the stack save together? Shares of the cost of {plain.name}, on the held-out half; the "
        "overlap is the sum less what they save together."
    )
    return Table(columns, tuple(rows), caption)


def stack_marginals_table(dev: ScoredStack, held_out: ScoredStack, plain: StackCell, *, seed: int = 0) -> Table:
    """What each level of retrieval, routing and cache does against the plain one, on average over the other factors.

    Savings are shares of what the plain cell costs. A part that saves much alone and little on average is one that
    others make needless.
    """
    rows: list[tuple[Value, ...]] = []
    cells = [arm.cell for arm in held_out.arms]
    for name, factor in FACTORS.items():
        for level in dict.fromkeys(getattr(cell, name) for cell in cells):
            if level == getattr(plain, name):
                continue
            mine = [cell for cell in cells if getattr(cell, name) == level]
            pairs = [(cell, base) for cell in mine if (base := replace(cell, **{name: getattr(plain, name)})) in cells]
            alone = _stack_saving(held_out, {replace(plain, **{name: level}): 1.0}, plain, seed)
            average = [_mean_stack_effect(half, pairs, plain, seed) for half in (dev, held_out)]
            (chosen, _), (saved, gained) = average
            rows.append((factor, _stack_level(name, level), len(pairs), alone, chosen, saved, gained))
    columns = (
        Column("factor"), Column("level"), Column("combinations of the others", "count"),
        Column("saved alone", "interval"), Column("saved on average, choosing half", "interval"),
        Column("saved on average, held out", "interval"), Column("correctness on average", "interval", signed=True),
    )  # fmt: skip
    caption = (
        f"What does each part do on average over the others? Against its level in {plain.name}, as shares of the cost "
        "of that cell."
    )
    return Table(columns, tuple(rows), caption)


def stack_joint_table(dev: ScoredStack, held_out: ScoredStack, plain: StackCell, arm: str, *, seed: int = 0) -> Table:
    """What a cell does on both halves: its saving, the sum of what its parts save alone, and its correctness.

    It has no rows if the arm is no cell of this run, such as one that was accepted with other contexts or caches.
    """
    cell = next((scored.cell for scored in held_out.arms if scored.name == arm), plain)
    halves = [(dev, "choosing"), (held_out, "held out")] if arm in held_out.names else []
    parts = [replace(plain, **{name: getattr(cell, name)}) for name in _stack_changes(cell, plain)]
    rows: list[tuple[Value, ...]] = []
    for half, told in halves:
        codes = half.codes
        alone = sum(_stack_saving(half, {part: 1.0}, plain, seed).estimate for part in parts)
        mean = Interval(*mean_interval(half.values(arm), codes))
        rows.append((told, len(half.values(arm)), _stack_saving(half, {cell: 1.0}, plain, seed), alone, mean,
                     _stack_cell_gain(half, cell, plain, seed)))  # fmt: skip
    columns = (
        Column("half"), Column("requests", "count"), Column("saved together", "interval"),
        Column("sum of what each part saves alone", "number", digits=3), Column("correctness", "interval"),
        Column("correctness against plain", "interval", signed=True),
    )  # fmt: skip
    caption = f"What does {arm} do on the half that did not choose it? Savings are shares of the cost of {plain.name}."
    return Table(columns, tuple(rows), caption)


def stack_misses_table(held_out: ScoredStack, plain: StackCell, *, seed: int = 0) -> Table:
    """What a route saves against the plain one, of all requests without a cache and of those that miss each cache."""
    rows: list[tuple[Value, ...]] = []
    codes = held_out.codes
    cells = {arm.cell for arm in held_out.arms}
    for arm in held_out.arms:
        base = replace(plain, cache=arm.cell.cache)
        if arm.cell == base or replace(base, route=arm.cell.route) != arm.cell or base not in cells:
            continue
        missed = held_out.misses[arm.name]
        if not missed.any():
            continue
        left = np.unique(codes[missed], return_inverse=True)[1]
        routed, usual, of = (held_out.costs(cell.name) for cell in (arm.cell, base, plain))
        on_misses = _stack_shares(routed[missed], usual[missed], left, seed)
        of_all = _stack_shares(of - (usual - routed), of, codes, seed)
        rows.append((arm.cell.route, arm.cell.cache, float(missed.mean()), on_misses, of_all))
    columns = (
        Column("route"), Column("cache"), Column("requests that miss", "share"),
        Column("saved of what misses cost", "interval"), Column("saved of the plain stack", "interval"),
    )  # fmt: skip
    caption = f"What is left to a router? Savings against {plain.route.rpartition('/')[2]}, with {plain.context}."
    return Table(columns, tuple(rows), caption)


def _stack_changes(cell: StackCell, plain: StackCell) -> list[str]:
    return [f.name for f in fields(StackCell) if getattr(cell, f.name) != getattr(plain, f.name)]


def _changed_stack_part(cell: StackCell, plain: StackCell) -> str:
    """The one part in which a cell differs."""
    (name,) = _stack_changes(cell, plain)
    return _stack_level(name, getattr(cell, name))


def _stack_level(name: str, level: str) -> str:
    """Level of a factor in a table: a model without its vendor."""
    return level.rpartition("/")[2] if name == "route" else level


def _stack_saving(part: ScoredStack, weights: Mapping[StackCell, float], plain: StackCell, seed: int) -> Interval:
    """Weighted sum of the shares that cells save of the plain one's cost, with its 95 % interval over families."""
    codes, base = part.codes, part.costs(plain.name)
    saved = sum(weight * (base - part.costs(cell.name)) for cell, weight in weights.items())
    return Interval(*ratio_interval(np.asarray(saved), base, codes, seed=seed))


def _mean_stack_effect(
    part: ScoredStack, pairs: Sequence[tuple[StackCell, StackCell]], plain: StackCell, seed: int
) -> tuple[Interval, Interval]:
    """Mean saving and gain of cells over their bases, with 95 % intervals; shares as in `_stack_saving`."""
    codes, of = part.codes, part.costs(plain.name)
    saved = sum(part.costs(base.name) - part.costs(cell.name) for cell, base in pairs) / len(pairs)
    moved = sum(part.values(cell.name) - part.values(base.name) for cell, base in pairs) / len(pairs)
    gained = Interval(*ratio_interval(np.asarray(moved), np.ones(len(of)), codes, seed=seed))
    return Interval(*ratio_interval(np.asarray(saved), of, codes, seed=seed)), gained


def _stack_cell_gain(part: ScoredStack, cell: StackCell, plain: StackCell, seed: int) -> Interval:
    codes = part.codes
    moved = part.values(cell.name) - part.values(plain.name)
    return Interval(*ratio_interval(moved, np.ones(len(moved)), codes, seed=seed))


def _stack_shares(
    routed: npt.NDArray[np.float64], usual: npt.NDArray[np.float64], codes: np.ndarray, seed: int
) -> Interval:
    return Interval(*ratio_interval(usual - routed, usual, codes, seed=seed))
