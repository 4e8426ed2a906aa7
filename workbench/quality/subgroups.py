"""No customer left worse: non-inferiority for every tenant and every feature at once.

A mean can hold while one customer of twenty loses. Each group has its own claim, by the same test as every decision
(`workbench.evaluation.compare`), at a confidence that holds for all of them together (Bonferroni: groups by tenant and
by feature overlap). A group with too few questions has no claim, and is told by name.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from workbench.errors import ConfigError
from workbench.evaluation.compare import DRAWS, MIN_CLUSTERS, item_clusters, item_values, pairwise
from workbench.evaluation.power import clusters_needed
from workbench.records import GateStatus
from workbench.rendering.numbers import counted
from workbench.rendering.table import Column, Interval, Table


@dataclass(frozen=True, slots=True)
class GroupClaim:
    """One group: whether the arm is at most the margin worse there.

    Attributes
    ----------
    too_few : bool
        Fewer than 30 clusters, so that nothing is said; the status is then inconclusive.
    clusters_needed : int or None
        In all, to be told in 4 of 5 cases if nothing differs; None where the claim is decided.
    """

    by: str
    group: str
    difference: float
    low: float
    high: float
    status: GateStatus
    n_items: int
    n_clusters: int
    too_few: bool
    clusters_needed: int | None


@dataclass(frozen=True, slots=True)
class NobodyWorse:
    """All groups at once: ``status`` is the worst of theirs."""

    arm: str
    reference: str
    margin: float
    claims: tuple[GroupClaim, ...]

    @property
    def status(self) -> GateStatus:
        """``broken`` where any group is shown worse, ``holds`` where every group is shown not to be."""
        found = {c.status for c in self.claims}
        order: tuple[GateStatus, ...] = ("broken", "inconclusive", "holds")
        return next((s for s in order if s in found), "identical")

    @property
    def sentence(self) -> str:
        """What is shown, in words."""
        worse = [f"{c.by} {c.group}" for c in self.claims if c.status == "broken"]
        few = [f"{c.by} {c.group}" for c in self.claims if c.too_few]
        undecided = [f"{c.by} {c.group}" for c in self.claims if c.status == "inconclusive" and not c.too_few]
        n = len(self.claims)
        if worse:
            return f"{self.arm} is worse by more than {self.margin:g} for {', '.join(worse)}"
        told = [f"cannot tell for {', '.join(undecided)}"] if undecided else []
        told += [f"too few questions for {', '.join(few)}"] if few else []
        shown = f"no more than {self.margin:g} worse for {n - len(undecided) - len(few)} of {counted(n, 'group')}"
        return "; ".join([f"{self.arm} is shown to be {shown}", *told])

    @property
    def table(self) -> Table:
        """One row a group."""
        columns = (
            Column("by"), Column("group"), Column("questions", "count"), Column("clusters", "count"),
            Column("difference", "interval", signed=True), Column("status", "status"),
            Column("clusters needed", "count"),
        )  # fmt: skip
        rows = tuple(
            (
                c.by, c.group, c.n_items, c.n_clusters, Interval(c.difference, c.low, c.high),
                c.status if not c.too_few else "not tested", c.clusters_needed,
            )
            for c in self.claims
        )  # fmt: skip
        return Table(columns, rows, f"Is anybody left worse? {self.sentence}")


def nobody_worse(
    scores: pl.DataFrame,
    arm: str,
    reference: str,
    *,
    margin: float,
    by: Sequence[str] = ("tenant_id",),
    confidence: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> NobodyWorse:
    """``nobody_worse(scores, "hybrid", "vector", margin=0.03).status``: paired, group by group, all at once.

    Parameters
    ----------
    scores : DataFrame
        Rows of one metric and one split (columns of `SCORES_SCHEMA`), value in [0, 1], higher is better; failures
        count against the arm.
    by : sequence of str
        Columns whose values are groups.
    confidence : float
        Of all bounds of one side together.
    draws, seed : int
        Resamples of each group, and their seed.

    Raises
    ------
    ConfigError
        If the margin is not positive, an arm has no scores, or a column is not there.
    """
    known = set(scores["arm"])
    if margin <= 0 or not {arm, reference} <= known:
        raise ConfigError(
            f"a margin above 0 and two arms of these scores are needed, found {margin}, {arm!r} and {reference!r}; "
            f"there are {', '.join(sorted(known))}"
        )
    if gone := [column for column in by if column not in scores.columns]:
        raise ConfigError(f"the scores have no column {gone[0]!r} to group by; they have {', '.join(scores.columns)}")
    groups = [(column, str(value), part) for column in by for (value,), part in scores.group_by(column)]
    groups.sort(key=lambda g: g[:2])
    sizes = [part["cluster"].n_unique() for *_, part in groups]
    testable = sum(size >= MIN_CLUSTERS for size in sizes)
    level = 1 - (1 - confidence) / max(testable, 1)
    claims = [
        _subgroup_claim(column, value, part, (arm, reference), margin, level, draws, seed)
        for column, value, part in groups
    ]
    return NobodyWorse(arm, reference, margin, tuple(claims))


def _subgroup_claim(
    by: str, group: str, part: pl.DataFrame, arms: tuple[str, str], margin: float, level: float, draws: int, seed: int
) -> GroupClaim:
    items, codes = item_clusters(part)
    worst, best = (np.stack([item_values(part, arm, items, missing=value) for arm in arms]) for value in (0.0, 1.0))
    found = pairwise(worst, best, codes, confidence=level, draws=draws, seed=seed)
    n, differ = found.n_clusters, int(found.differ[0, 1])
    status = found.status(0, 1, margin) if n >= MIN_CLUSTERS else "inconclusive"
    if status == "identical" and found.unseen > margin:  # the same scores on few questions show less than the margin
        status = "inconclusive"
    needed = None
    if status == "inconclusive":
        sd = float(found.se[0, 1]) * n**0.5
        alike = int(np.ceil(np.log(1 - level) / np.log1p(-min(margin, 0.99))))  # of which none is worse
        needed = clusters_needed(sd, margin, confidence=level, differing=differ / n) if sd else alike
        needed = max(needed, n + 1)
    low, high = max(float(found.low[0, 1]), -1.0), min(float(found.high[0, 1]), 1.0)
    return GroupClaim(
        by, group, float(found.mean[0, 1]), low, high, status, len(items), n, n < MIN_CLUSTERS, needed
    )  # fmt: skip
