"""Pairs of a live answer and a challenger's, kept in the state database; and what they say, whenever somebody looks."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from workbench.codec import from_json, to_json, write_whole
from workbench.errors import ConfigError, EvalsetError, unknown_name
from workbench.evalset.cells import shown_cell
from workbench.evaluation.decision_sentences import signed
from workbench.inference.budgets import Budget, Budgets
from workbench.quality.labels import Label, read_label_sheet, write_label_sheet
from workbench.quality.monitoring import Found, MarginWatch, mean_bounds
from workbench.quality.sampling import sample_trace_fraction
from workbench.records import Claim, Fingerprint, Rule, content_hash
from workbench.rendering.numbers import cents, counted, percent, usd
from workbench.rendering.table import Table
from workbench.state import Batch, create_tables, execute, execute_insert, group_commit, reading_engine
from workbench.telemetry.attribution import Attribution
from workbench.telemetry.ledger import storable_text

COUNTS = ("offered", "drawn", "dropped", "refused", "lost")
LABEL = "label"  # the metric of pairs that people score
FOLDER = "shadow"  # in decisions/ of an evalset
EXIT_CODES = {"holds": 0, "broken": 1, "inconclusive": 2}


@dataclass(frozen=True, slots=True)
class ShadowPlan:
    """What a shadow asks; but for the budget it never changes, since a margin that is set after a look is none."""

    challenger: str
    metric: str
    margin: float
    confidence: float
    only: Mapping[str, str] = field(default_factory=dict)
    budget_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class ShadowPair:
    """One live call and what the challenger made of it.

    Attributes
    ----------
    live_score, score : float or None
        In [0, 1]; None where nobody could tell. A challenger that failed (``error``) has 0.
    scored : str
        ISO time at which it became evidence; empty while it waits for a label.
    live_nanos, nanos : int
        What the answers cost, 1e-9 USD.
    question, live_text, text : str
        Kept for labelling alone.
    """

    shadow: str
    call_id: str
    at: str
    live_model: str
    live_score: float | None
    score: float | None
    scored: str
    live_nanos: int
    nanos: int
    latency_ms: float
    error: str = ""
    question: str = ""
    live_text: str = ""
    text: str = ""

    def side(self) -> int:
        """Place of the challenger on a sheet, 1 or 2: drawn, so that a person cannot know."""
        return 1 + (sample_trace_fraction(self.call_id, "side") < 0.5)


_METADATA = sa.MetaData()
_PLANS = sa.Table(
    "wb_shadow", _METADATA, sa.Column("name", sa.Text, primary_key=True), sa.Column("plan", sa.Text, nullable=False),
    *(sa.Column(name, sa.BigInteger, nullable=False) for name in COUNTS),
)  # fmt: skip
_KINDS: Mapping[Any, Any] = {str: sa.Text, int: sa.BigInteger, float: sa.Float, float | None: sa.Float}
_PAIRS = sa.Table(
    "wb_shadow_pair",
    _METADATA,
    *(
        sa.Column(f.name, _KINDS[f.type], primary_key=f.name in ("shadow", "call_id"), nullable=f.type == float | None)
        for f in fields(ShadowPair)
    ),
)
_COUNT = f"UPDATE wb_shadow SET {', '.join(f'{name} = {name} + ?' for name in COUNTS)} WHERE name = ?"


@dataclass(frozen=True, slots=True)
class ShadowVerdict:
    """What the pairs of a shadow say, in the parts of a decision: ``decisions/shadow/NAME.json`` of an evalset.

    ``status`` is the gate's word for "the challenger lies at most the margin below what is in use"; ``counts`` are
    calls: offered, drawn, dropped (full queue), refused (decided, or no money), lost, failed, unscored, waiting.
    """

    name: str
    status: Found
    sentence: str
    rule: Rule
    claim: Claim | None
    decided_at: int | None
    counts: dict[str, int]
    spent_usd: float
    budget_usd: float
    first: str
    last: str
    fingerprint: Fingerprint

    @classmethod
    def load(cls, path: Path) -> "ShadowVerdict":
        """Read a file that `write` wrote."""
        return from_json(cls, path.read_bytes(), f"{path} is no verdict of a shadow", whole=True)

    def write(self, evalset: Path) -> Path:
        """Write it beside the decisions of an evalset; returns where."""
        path = evalset / "decisions" / FOLDER / f"{self.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, to_json(self))
        return path


class ShadowEvidence:
    """The pairs of all shadows of one state database; any number of processes add to them."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        create_tables(engine, _PLANS, _PAIRS)

    def begin(self, name: str, plan: ShadowPlan) -> None:
        """Keep the plan of a shadow, or go on with the one that is there.

        Raises
        ------
        ConfigError
            If pairs were collected under this name for another question.
        """

        def keep(connection: sa.Connection) -> None:
            told = connection.execute(sa.select(_PLANS.c.plan).where(_PLANS.c.name == name)).scalar()
            before = _shadow_plan(told, name) if told else plan
            if changed := [f.name for f in fields(ShadowPlan)[:-1] if getattr(before, f.name) != getattr(plan, f.name)]:
                was = ", ".join(f"{n}={getattr(before, n)!r}, now {getattr(plan, n)!r}" for n in changed)
                raise ConfigError(f"shadow {name!r} collected its pairs for another question ({was}); give a new name")
            if told is None:
                connection.execute(_PLANS.insert(), {"name": name, "plan": to_json(plan), **dict.fromkeys(COUNTS, 0)})
            else:
                connection.execute(_PLANS.update().where(_PLANS.c.name == name).values(plan=to_json(plan)))

        group_commit(self._engine).alone(keep)

    def add(self, name: str, counts: Mapping[str, int], pair: ShadowPair | None = None) -> None:
        """Add a pair, and what was counted since the last time, in one transaction."""
        group_commit(self._engine).run(_ADD, (name, tuple(counts.get(n, 0) for n in COUNTS), pair))

    def names(self) -> list[str]:
        """Names of the shadows."""
        with reading_engine(self._engine).begin() as connection:
            return list(connection.execute(sa.select(_PLANS.c.name).order_by(_PLANS.c.name)).scalars())

    def pairs(self, name: str) -> list[ShadowPair]:
        """Pairs of a shadow, in the order in which they became evidence; those that wait for a label come first."""
        query = sa.select(_PAIRS).where(_PAIRS.c.shadow == name).order_by(_PAIRS.c.scored, _PAIRS.c.call_id)
        with reading_engine(self._engine).begin() as connection:
            return [ShadowPair(**row) for row in connection.execute(query).mappings()]

    def plan(self, name: str) -> tuple[ShadowPlan, dict[str, int]]:
        """Plan of a shadow and its counts.

        Raises
        ------
        ConfigError
            If there is no such shadow.
        """
        with reading_engine(self._engine).begin() as connection:
            row = connection.execute(sa.select(_PLANS).where(_PLANS.c.name == name)).mappings().one_or_none()
        if row is None:
            raise ConfigError(unknown_name("shadow", name, self.names()))
        return _shadow_plan(row["plan"], name), {n: row[n] for n in COUNTS}

    def verdict(self, name: str) -> ShadowVerdict:
        """``ShadowEvidence(open_engine(settings.state_url)).verdict("nano")``: may be asked as often as one likes.

        Raises
        ------
        ConfigError
            If there is no such shadow.
        """
        (plan, counts), found = self.plan(name), self.pairs(name)
        pairs = [p for p in found if p.scored]
        low, high = shadow_differences(pairs)
        watch = MarginWatch(plan.margin, 1 - plan.confidence).add(low, high)
        models = sorted({p.live_model for p in pairs})
        rule = Rule(plan.metric, "usd_per_1k_requests", " + ".join(models) or "what is in use", plan.margin,
                    plan.confidence)  # fmt: skip
        claim = _shadow_claim(plan, watch, pairs, low, high) if pairs else None
        spent = self._spent_usd(name)
        counts |= {"failed": sum(bool(p.error) for p in pairs), "waiting": len(found) - len(pairs),
                   "unscored": sum(None in (p.live_score, p.score) for p in pairs)}  # fmt: skip
        inputs = {"plan": content_hash(to_json(plan)), "pairs": content_hash(*(str(astuple(p)) for p in pairs))}
        return ShadowVerdict(
            name, watch.verdict, _shadow_sentence(plan, rule, watch, claim, spent), rule, claim, watch.decided_at,
            counts, spent, plan.budget_usd, pairs[0].at if pairs else "", pairs[-1].at if pairs else "",
            Fingerprint(inputs),
        )  # fmt: skip

    def watch(self, name: str) -> MarginWatch:
        """Evidence of all pairs so far, to go on with."""
        plan, _ = self.plan(name)
        scored = shadow_differences([p for p in self.pairs(name) if p.scored])
        return MarginWatch(plan.margin, 1 - plan.confidence).add(*scored)

    def _spent_usd(self, name: str) -> float:
        scope = shadow_budget(name, 0.0).scope(Attribution())
        rows = Budgets(self._engine, ()).table().to_dicts()
        spent: int = sum(row["spent_nanos"] for row in rows if row["scope"] == scope)
        return spent / 1e9

    def sheet(self, name: str, path: Path) -> int:
        """Write a sheet of what waits for a label, two rows a pair, which does not say whose answer is whose.

        Returns how many pairs it holds.
        """
        self.plan(name)
        waiting = [p for p in self.pairs(name) if not p.scored]
        rows = []
        for pair in waiting:
            texts = (pair.live_text, pair.text)[:: 1 if pair.side() == 2 else -1]
            rows += [{"item_id": f"{pair.call_id}:{n}", "question": pair.question, "answer": text}
                     for n, text in enumerate(texts, 1)]  # fmt: skip
        write_label_sheet(path, rows)
        return len(waiting)

    def label(self, name: str, path: Path, *, rater: str, rubric: str, at: str) -> int:
        """Take the labels of a filled-in sheet; pairs of which one answer has none go on waiting. Returns how many.

        An answer that failed has 0 whatever its label, which tells that somebody has looked at the pair.

        Raises
        ------
        ConfigError
            If there is no such shadow.
        EvalsetError
            With every row whose value is no number in [0, 1], or if rows are of no pair of this shadow.
        """
        self.plan(name)
        labels, pairs = read_label_sheet(path, LABEL, rater=rater, rubric=rubric, at=at), self.pairs(name)
        said: dict[str, Label] = {label.item_id: label for label in labels}
        if foreign := sorted(said.keys() - {f"{pair.call_id}:{n}" for pair in pairs for n in (1, 2)}):
            of = counted(len(foreign), "row")
            told = f"{of} of {path} without a pair of shadow {name!r}, such as {shown_cell(foreign[0])}"
            raise EvalsetError(f"{told}; label a sheet that was written of it: workbench shadow sheet {name} PATH")
        done = []
        for pair in (p for p in pairs if not p.scored):
            mine, other = (said.get(f"{pair.call_id}:{n}") for n in (pair.side(), 3 - pair.side()))
            if mine and other:
                done.append((other.value, 0.0 if pair.error else mine.value, at, name, pair.call_id))
        text = "UPDATE wb_shadow_pair SET live_score = ?, score = ?, scored = ? WHERE shadow = ? AND call_id = ?"
        group_commit(self._engine).alone(lambda connection: execute(connection, text, done))
        return len(done)


def shadow_differences(pairs: Sequence[ShadowPair]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Challenger less live, at least and at most: a score that nobody could tell may be anything in [0, 1]."""
    scores = np.array([(p.score, p.live_score) for p in pairs], dtype=np.float64).reshape(-1, 2)
    least, most = np.nan_to_num(scores, nan=0.0), np.nan_to_num(scores, nan=1.0)
    return least[:, 0] - most[:, 1], most[:, 0] - least[:, 1]


def shadow_budget(name: str, limit_usd: float) -> Budget:
    """The one budget of a shadow: for ever, so that it outlives the process."""
    return Budget(limit_usd, "total", name=f"shadow {name}")


def shadows_table(evidence: ShadowEvidence) -> Table:
    """One row a shadow: what it says now, and what it cost."""
    found = [(v, v.claim) for v in map(evidence.verdict, evidence.names())]
    rows = [(v.name, v.status, c.arm if c else "", v.rule.reference, c.n_items if c else 0, c.difference if c else None,
             c.low if c else None, c.high if c else None, v.spent_usd, v.budget_usd) for v, c in found]  # fmt: skip
    names = ("shadow", "status", "challenger", "in use", "pairs", "difference", "at least", "at most", "spent USD",
             "budget USD")  # fmt: skip
    return Table.of(names, rows, "Shadows: may be looked at at any time")


def _add_shadow_pair(
    connection: sa.Connection, asked: Sequence[tuple[str, tuple[int, ...], ShadowPair | None]]
) -> list[None]:
    execute(connection, _COUNT, [(*counts, name) for name, counts, _ in asked])
    execute_insert(
        connection, _PAIRS, [tuple(map(storable_text, astuple(pair))) for _, _, pair in asked if pair], new=True
    )
    return [None for _ in asked]


_ADD = Batch(4, _add_shadow_pair)


def _shadow_plan(told: str, name: str) -> ShadowPlan:
    return from_json(ShadowPlan, told, f"the plan of shadow {name!r} is not one this version reads", whole=True)


def _shadow_claim(
    plan: ShadowPlan,
    watch: MarginWatch,
    pairs: Sequence[ShadowPair],
    low: npt.NDArray[np.float64],
    high: npt.NDArray[np.float64],
) -> Claim:
    """The challenger's claim; its bounds hold at all times at once, and never contradict a verdict that stands."""
    delta, live = watch.delta, [p.live_nanos for p in pairs]
    least, most = mean_bounds(low, high, plan.margin, delta)
    least = max(least, -plan.margin) if watch.verdict == "holds" else least
    most = min(most, -plan.margin) if watch.verdict == "broken" else most
    known = [(p.score or 0.0, 1.0 if p.score is None else p.score) for p in pairs]
    scores = np.array(known, dtype=np.float64)
    bounds = np.clip(mean_bounds(scores[:, 0], scores[:, 1], plan.margin, delta / 2), 0, 1)
    return Claim(
        arm=plan.challenger, parameters={}, status=watch.verdict, estimate=float(scores.mean()),
        estimate_low=float(bounds[0]), estimate_high=float(bounds[1]), difference=float((low + high).mean() / 2),
        low=least, high=most, cost_usd_per_1k=float(np.mean([p.nanos for p in pairs])) / 1e6,
        latency_p95_ms=float(np.quantile([p.latency_ms for p in pairs], 0.95)), coverage=float((low == high).mean()),
        n_items=len(pairs), n_clusters=len(pairs), n_clusters_differ=int(((low != 0) | (high != 0)).sum()),
        best=" + ".join(sorted({p.live_model for p in pairs})),
        note=f"what is in use cost {usd(float(np.mean(live)) / 1e6)} per 1,000 of these calls",
    )  # fmt: skip


def _shadow_sentence(plan: ShadowPlan, rule: Rule, watch: MarginWatch, claim: Claim | None, spent_usd: float) -> str:
    by = f"the margin of {plan.margin:g} of {plan.metric}"
    said = {
        "holds": f"{plan.challenger} is non-inferior to {rule.reference} by {by}",
        "broken": f"{plan.challenger} is worse than {rule.reference} by more than {by}",
        "inconclusive": f"nobody can tell yet whether {plan.challenger} is non-inferior to {rule.reference} by {by}",
    }[watch.verdict]
    if claim:
        since = f", decided at pair {watch.decided_at:,}" if watch.decided_at else ""
        said += (
            f": {signed(claim.difference)} over {counted(claim.n_items, 'pair')}{since}, at least "
            f"{signed(claim.low)} and at "
            f"most {signed(claim.high)}, each at {percent(plan.confidence)}"
        )
    return f"{said}; may be looked at at any time; spent {usd(spent_usd)} of {cents(plan.budget_usd)}."
