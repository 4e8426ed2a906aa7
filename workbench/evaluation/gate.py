"""Does an accepted decision still hold? Two kinds of claim, never mixed: sameness and generalisation."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

import numpy as np
import polars as pl

from workbench.codec import from_json, to_json
from workbench.errors import GateFailed
from workbench.evaluation.decision import good_enough
from workbench.evaluation.decision_sentences import signed
from workbench.records import Decision, GateStatus
from workbench.rendering.numbers import counted

SAME = 1e-9
NAMED = 3
# A new build lies further than four standard deviations of eight builds from their mean in 0.7 % of cases, where means
# are normal: (x - mean) / (sd * sqrt(1 + 1/8)) has Student's t-distribution with 7 degrees of freedom.
MIN_REBUILDS = 8
REBUILD_DEVIATIONS = 4
# Mildest first: a gate has the status of its worst claim.
EXIT_CODES: dict[GateStatus, int] = {
    "not tested": 0, "identical": 0, "holds": 0, "new": 0, "stale": 2, "inconclusive": 2, "broken": 1, "error": 3
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class GateClaim:
    """One thing the gate looked at; ``changed`` lists the items whose score moved."""

    kind: Literal["sameness", "generalisation", "invariant"]
    arm: str
    status: GateStatus
    sentence: str
    changed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Gate:
    """What the gate says: the worst of its claims, as a status and an exit code."""

    status: GateStatus
    exit_code: int
    sentence: str
    claims: tuple[GateClaim, ...]

    def to_json(self) -> str:
        """Pretty JSON."""
        return to_json(self)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read ``gate.json``.

        Raises
        ------
        ConfigError
            If it is no gate: it names everything that is wrong.
        """
        return from_json(cls, path.read_bytes(), f"{path} is not a gate this version reads")

    @property
    def failed(self) -> bool:
        """Whether the decision is broken or could not be checked."""
        return self.status in ("broken", "error")

    def enforce(self) -> None:
        """Raise where the decision is broken or could not be checked.

        Raises
        ------
        GateFailed
            If the status is ``broken`` or ``error``; other statuses are for the reader and the exit code.
        """
        if self.failed:
            raise GateFailed(self.sentence, status=self.status, exit_code=self.exit_code)


def check_gate(
    accepted: Decision | None,
    now: Decision,
    *,
    accepted_scores: pl.DataFrame | None,
    scores: pl.DataFrame,
    invariants: Mapping[str, int | None],
    accounts: Sequence[GateClaim] = (),
    soft: Collection[GateStatus] = (),
    run: str = "",
    differs: Sequence[str] = (),
) -> Gate:
    """Compare a run with the accepted decision.

    Parameters
    ----------
    accepted, now : Decision
        The committed decision, None where there is none yet, and this run's.
    accepted_scores, scores : DataFrame
        Test rows of the rule's metric, of the accepted run and of this one (columns arm, item_id, value).
    invariants : mapping of str to int or None
        Counts that must be 0, by name; None where nothing was there to be counted.
    accounts : sequence of GateClaim
        What `account` found: a run whose items are not all there is an ``error`` whatever else holds.
    soft : collection of {"inconclusive", "stale"}
        Statuses for which the policy asks for exit code 0; they are shown all the same.
    run : str
        Folder name of this run, for the command that accepts it.
    differs : sequence of str
        What the accepted decision says otherwise than this run found; it counts where inputs and scores are the same.
    """
    claims = [*(_invariant(name, n) for name, n in invariants.items()), *accounts]
    if accepted is None:
        claims.append(_nothing_accepted(now, run))
    elif accepted.profile != now.profile:
        shown = f"The profile {now.profile} is shown only. The accepted decision is one of the profile "
        shown += f"{accepted.profile}; to check it: workbench check {now.notebook}"
        claims.append(GateClaim("generalisation", now.arm, "new", shown))
    elif changed := accepted.fingerprint.changed(now.fingerprint):
        other = (
            f"The accepted decision rests on other inputs ({', '.join(changed[:8])} changed); this run is shown, and "
            "can only be accepted as a new decision."
        )
        claims.append(GateClaim("generalisation", now.arm, "stale", other))
    else:
        same = _sameness(accepted, now, accepted_scores, scores)
        claims += [*same, _generalisation(accepted, now)]
        if differs and all(c.status in ("identical", "holds") for c in same):
            claims.append(_edited(accepted, differs))
    return _worst(claims, soft)


def _edited(accepted: Decision, differs: Sequence[str]) -> GateClaim:
    """The file of the decision does not say what its own inputs and scores give."""
    more = f"; and {len(differs) - NAMED} more" if len(differs) > NAMED else ""
    told = "The file of the accepted decision says otherwise than its inputs and scores give: "
    told += f"{'; '.join(differs[:NAMED])}{more}. Restore it as it was accepted, or accept a run anew. To see all that "
    told += f"is wrong: workbench verify {accepted.evalset}/{accepted.notebook}"
    return GateClaim("sameness", accepted.arm, "broken", told)


def gate_of_counts(counts: Mapping[str, int | None]) -> Gate:
    """Gate of a notebook that decides nothing: counts that must be 0, None where nothing was there to be counted."""
    found = _worst([_invariant(name, n) for name, n in counts.items()], ())
    wrong = [f"{name}: {n}" for name, n in counts.items() if n]
    told = f"Not 0, as it must be: {'; '.join(wrong)}." if wrong else "Every count that must be 0 is 0."
    return replace(found, sentence="There was nothing to count." if found.status == "not tested" else told)


def _invariant(name: str, n: int | None) -> GateClaim:
    if n is None:
        return GateClaim("invariant", "", "not tested", f"{name}: there was nothing to count")
    return GateClaim("invariant", "", "broken" if n else "holds", f"{name}: {n} (must be 0)")


def _nothing_accepted(now: Decision, run: str) -> GateClaim:
    """Nothing to hold yet: how to accept this run, or why there is nothing to accept."""
    if now.verdict == "inconclusive":
        return GateClaim("generalisation", now.arm, "inconclusive", now.sentence)
    how = f"workbench accept {now.notebook}{f' --run {run}' if run else ''} --reason TEXT"
    return GateClaim("generalisation", now.arm, "new", f"No decision is accepted yet. To accept this one: {how}")


def account(rows: pl.DataFrame, decision: Decision, items: Collection[str], *, min_coverage: float) -> list[GateClaim]:
    """Say whether every arm has one row for each item, repeat and metric, and was scored on enough of them.

    Parameters
    ----------
    rows : DataFrame
        Rows of the test split (columns as `workbench.evaluation.compare.SCORES_SCHEMA`), of all metrics and of
        every arm of the decision; a failed item or repeat keeps its row, with a null value.
    items : collection of str
        Every item of the test split.
    min_coverage : float
        Share of an arm's rows that must have a value.

    Returns
    -------
    list of GateClaim
        An ``error`` for each thing that does not add up, which names the arm and the numbers; or one that holds.
    """
    n, repeats, metrics = len(set(items)), rows["repeat"].n_unique(), rows["metric"].n_unique()
    told = f"{counted(n, 'item')} x {counted(repeats, 'repeat')} x {counted(metrics, 'metric')}"
    wrong = []
    for claim in decision.claims:
        mine = rows.filter(pl.col("arm") == claim.arm)
        problems = (
            _rows_problem(mine, items, n * repeats * metrics, told),
            _coverage_problem(claim.coverage, min_coverage, "its claim"),
            _coverage_problem(
                mine["value"].fill_nan(None).count() / max(n * repeats * metrics, 1), min_coverage, "its rows"
            ),
            "" if claim.n_items == n else f"its claim counts {claim.n_items} of {counted(n, 'item')}",
        )
        wrong += [GateClaim("invariant", claim.arm, "error", f"{claim.arm}: {p}.") for p in problems if p]
    return wrong or [
        GateClaim("invariant", "", "holds", f"test rows: {counted(len(decision.claims), 'arm')} x {told}, all there.")
    ]


def _rows_problem(mine: pl.DataFrame, items: Collection[str], expected: int, told: str) -> str:
    """What is wrong with the rows of one arm, "" where each item has its own."""
    if unknown := sorted(set(mine["item_id"]).difference(items)):
        return f"{counted(len(unknown), 'item that is', 'items that are')} not of the test split, first {unknown[0]!r}"
    distinct = mine.select("item_id", "repeat", "metric").n_unique() if mine.height else 0
    if mine.height == distinct == expected:
        return ""
    twice = f", {mine.height - distinct} of them twice" if mine.height > distinct else ""
    missing = sorted(set(items).difference(mine["item_id"]))
    first = f", first missing {missing[0]!r}" if missing else ""
    return (
        f"{counted(mine.height, 'row')}{twice}, {expected:,} are expected ({told}{first}); a failed item must "
        "keep its row"
    )


def _coverage_problem(coverage: float, least: float, of: str) -> str:
    """What is wrong with a share of scored items, "" where it is in [least, 1]."""
    if coverage > 1 + SAME:
        return f"coverage {coverage:.3f} of {of} is above 1: more was scored than there is"
    if coverage < least - SAME or math.isnan(coverage):
        return f"coverage {coverage:.3f} of {of} is below min_coverage {least:g}; mend what fails and run again"
    return ""


def _sameness(accepted: Decision, now: Decision, before: pl.DataFrame | None, scores: pl.DataFrame) -> list[GateClaim]:
    """Replayed scores against the accepted ones: exact, or near the mean of rebuilds where these differ."""
    if before is None:
        return [GateClaim("sameness", accepted.arm, "error", "The accepted scores are missing beside the decision.")]
    out = []
    for claim in accepted.claims:
        if claim.arm not in now.arms:
            out.append(GateClaim("sameness", claim.arm, "broken", "The accepted arm was not run."))
        elif claim.spread is not None:
            out.append(_within_spread(claim.arm, claim.spread, accepted.rule.margin, now.claim(claim.arm).estimate))
        else:
            changed = changed_items(before, scores, claim.arm)
            n = len(changed)
            sentence = (
                f"{n:,} of {counted(claim.n_items, 'item')} scored otherwise" if n else "every item scored the same"
            )
            out.append(GateClaim("sameness", claim.arm, "broken" if n else "identical", f"{sentence}.", tuple(changed)))
    return out


def rebuild_spread(means: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation of the estimates that one arm had over rebuilds of its index.

    >>> mean, sd = rebuild_spread([0.60, 0.61, 0.62, 0.61, 0.60, 0.61, 0.62, 0.61])
    >>> round(mean, 4), round(sd, 4)
    (0.61, 0.0076)

    Raises
    ------
    ValueError
        If there are fewer than `MIN_REBUILDS`: their standard deviation says too little.
    """
    if len(means) < MIN_REBUILDS:
        raise ValueError(f"the spread of rebuilds needs at least {MIN_REBUILDS} of them, found {len(means)}")
    return float(np.mean(means)), float(np.std(means, ddof=1))


def rebuild_reach(spread: tuple[float, float], margin: float) -> float:
    """How far a new build may lie from the mean of rebuilds: four of their standard deviations, or half a margin.

    The half margin keeps apart what matters from what does not, where rebuilds differ in hits and hardly in scores.

    >>> rebuild_reach((0.61, 0.01), margin=0.02), rebuild_reach((0.61, 0.001), margin=0.02)
    (0.04, 0.01)
    """
    return max(REBUILD_DEVIATIONS * spread[1], margin / 2)


def _within_spread(arm: str, spread: tuple[float, float], margin: float, mean: float) -> GateClaim:
    centre, reach = spread[0], rebuild_reach(spread, margin)
    inside = abs(mean - centre) <= reach + SAME
    wide = "half a margin" if reach > REBUILD_DEVIATIONS * spread[1] else "four standard deviations"
    where = "inside" if inside else "outside"
    sentence = f"mean {mean:.4f} lies {where} {centre:.4f} +- {reach:.4f}: the mean of its rebuilds and {wide}."
    return GateClaim("sameness", arm, "holds" if inside else "broken", sentence)


def changed_items(before: pl.DataFrame, after: pl.DataFrame, arm: str) -> list[str]:
    """Items of one arm whose value moved by more than 1e-9, appeared, vanished, or failed in one of the two."""
    sides = [
        f.filter(pl.col("arm") == arm).group_by("item_id").agg(pl.col("value").fill_nan(-1).fill_null(-1).mean())
        for f in (before, after)
    ]
    both = sides[0].join(sides[1], on="item_id", how="full", coalesce=True).fill_null(-2)
    moved = both.filter((pl.col("value") - pl.col("value_right")).abs() > SAME)
    return sorted(moved["item_id"])


def _generalisation(accepted: Decision, now: Decision) -> GateClaim:
    """The interval claim on the test questions; a "no" or "cannot tell" holds when it is given again.

    Latency was a constraint when the decision was made; measured again on another machine it is information.
    """
    if accepted.verdict not in ("chosen", "upgrade", "provisional"):
        same = (accepted.verdict, accepted.arm) == (now.verdict, now.arm)
        if same:
            return GateClaim("generalisation", accepted.arm, "holds", f"The same verdict again. {now.sentence}")
        other = f"Another verdict than the accepted one, which was: {accepted.sentence} Now: {now.sentence}"
        return GateClaim("generalisation", accepted.arm, "broken", other)
    if accepted.arm not in now.arms:
        return GateClaim("generalisation", accepted.arm, "error", f"{accepted.arm} was not run.")
    claim, rule = now.claim(accepted.arm), accepted.rule
    status = claim.status
    if status in ("holds", "identical") and not good_enough(claim, rule):
        status = "broken" if rule.floor is not None and claim.estimate_high < rule.floor else "inconclusive"
    sentence = (
        f"{accepted.arm} against {claim.best or rule.reference}: {signed(claim.difference)} {rule.metric}, between "
        f"{signed(claim.low)} and {signed(claim.high)}; {rule.limit_name} {rule.margin:g}."
    )
    return GateClaim("generalisation", accepted.arm, status, sentence)


def _worst(claims: Sequence[GateClaim], soft: Collection[GateStatus]) -> Gate:
    severity = list(EXIT_CODES)
    worst = max(claims, key=lambda c: severity.index(c.status))
    code = 0 if worst.status in soft else EXIT_CODES[worst.status]
    alike = ("holds", "identical") if worst.status == "holds" else (worst.status,)
    said = next((c for c in claims if c.kind == "generalisation" and c.status in alike), worst)
    return Gate(worst.status, code, said.sentence, tuple(claims))
