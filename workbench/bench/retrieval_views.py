"""What the retrieval notebook shows: tables of its evalset, arms and scores, and the summary for the report."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from workbench.bench.experiment import Experiment, decision_path
from workbench.bench.systems import SystemArm
from workbench.errors import ConfigError
from workbench.evaluation.decision import ArmFacts
from workbench.evaluation.evalset import Evalset, Split
from workbench.evaluation.exploring import (
    changed_cases,
    frontier_points,
    item_cases,
    mean_by_arm,
    slice_rows,
    worst_regressions,
)
from workbench.evaluation.metrics import judge, ndcg_bounds
from workbench.evaluation.power import Power
from workbench.evaluation.scoring import Answers
from workbench.evaluation.summary import ItemCase, Section, Summary
from workbench.records import Decision, Hit, Query
from workbench.rendering.table import Column, Interval, Table
from workbench.retrieval.searching import Searcher

if TYPE_CHECKING:
    from workbench.bench.retrieval import Candidate, Scored

SHOWN_METRICS = ("ndcg@10", "recall@10", "recall@100", "precision@10", "mrr@10", "map@100", "judged@10")
SHOWN_HITS = 5


def profile_name() -> str:
    """Profile of this run: the runner's, or the notebook's own defaults, which are those of ``ci``."""
    return os.environ.get("WORKBENCH_PROFILE", "ci")


def contents_table(evalset: Evalset) -> Table:
    """Documents, questions and families of each tenant."""
    dev, test = evalset.split("dev"), evalset.split("test")
    rows = []
    for tenant in evalset.tenants:
        mine = [[q for q in part.queries if q.tenant_id == tenant] for part in (dev, test)]
        documents = sum(d.tenant_id == tenant for d in evalset.documents)
        families = [len({q.cluster for q in part}) for part in mine]
        rows.append((tenant, documents, len(mine[0]), families[0], len(mine[1]), families[1]))
    total = ("all", *(sum(r[i] for r in rows) for i in range(1, 6)))
    names = ("tenant", "documents", "dev questions", "dev families", "test questions", "test families")
    return Table.of(names, [*rows, total], f"What {evalset.name} holds")


def power_table(plans: Sequence[Power], n_items: int) -> Table:
    """What the test split can show at the margin, for some spreads of the paired difference."""
    columns = (
        Column("spread per family (sd)", "number", digits=2),
        Column("chance that an equal arm is shown to be one", "share"),
        Column("families needed for 80 %", "count"),
        Column("margin that can be shown", "number", digits=3),
    )
    rows = tuple((p.sd, p.power, p.clusters_needed, p.detectable) for p in plans)
    first = plans[0]
    caption = f"Power of {n_items} test questions in {first.n_clusters} families, margin {first.margin:g}"
    return Table(columns, rows, caption)


def arms_table(arms: Sequence["Candidate"], searcher: Searcher) -> Table:
    """Arms as they print themselves, with the chunks of their table and the share their encoder cuts off."""
    rows = []
    for candidate in arms:
        arm = getattr(candidate, "arm", candidate)
        if isinstance(arm, SystemArm):
            rows.append((arm.name, None, None, repr(arm)))
            continue
        chunks, cut = searcher.chunk_counts(arm)
        rows.append((arm.name, chunks, cut / chunks if arm.strategy.uses_vectors else None, repr(arm.strategy)))
    columns = (
        Column("arm"),
        Column("chunks", "count"),
        Column("cut off by the encoder", "share"),
        Column("strategy"),
    )
    return Table(columns, tuple(rows), "Arms, simplest first")


def score_table(scores: pl.DataFrame, facts: Sequence[ArmFacts], split: str) -> Table:
    """Means of every metric, arm by arm, with coverage, cost and latency."""
    means = {m: mean_by_arm(scores, m) for m in SHOWN_METRICS}
    first = scores.filter(pl.col("metric") == SHOWN_METRICS[0])
    coverage = {a: float(v) for a, v in first.group_by("arm").agg(pl.col("value").is_not_null().mean()).iter_rows()}
    rows = tuple(
        (f.name, *(means[m][f.name] for m in SHOWN_METRICS), coverage[f.name], f.cost_usd_per_1k, f.latency_p95_ms)
        for f in sorted(facts, key=lambda f: -means[SHOWN_METRICS[0]][f.name])
    )
    columns = (
        Column("arm"),
        *(Column(m, "number", digits=3) for m in SHOWN_METRICS),
        Column("coverage", "share"),
        Column("USD per 1,000", "usd"),
        Column("p95", "ms"),
    )
    return Table(columns, rows, f"Scores on {split}, best first")


def check_knobs(arms: Sequence["Candidate"], answers: Mapping[str, Answers], searcher: Searcher) -> None:
    """Refuse a sweep in which two of our arms do the same thing: one of their knobs had no effect.

    Raises
    ------
    ConfigError
        If two arms that differ in name returned the same hits for every question, by the same query plan.
    """
    ours = [getattr(a, "arm", a) for a in arms if not isinstance(a, SystemArm)]
    for i, one in enumerate(ours):
        for other in ours[:i]:
            if answers[one.name].run.equals(answers[other.name].run) and searcher.plan(one) == searcher.plan(other):
                raise ConfigError(
                    f"arms {other.name!r} and {one.name!r} returned the same hits for every question by the same plan: "
                    "what makes them differ had no effect here; leave one out"
                )


def lookup(run: pl.DataFrame | None, depth: int) -> Callable[[Query], list[Hit]]:
    """Search function over a stored run."""
    table: dict[str, list[Hit]] = {}
    if run is not None:
        for query_id, doc_id, score in run.filter(pl.col("rank") <= depth).select("query_id", "doc_id", "score").rows():
            table.setdefault(query_id, []).append(Hit(doc_id, score))
    return lambda query: table.get(query.query_id, [])


def to_judge(answers: Mapping[str, Answers], split: Split, k: int = 10) -> pl.DataFrame:
    """Documents in the top ``k`` of any arm that nobody has judged, with the arms that returned them."""
    runs = [a.run.filter(pl.col("rank") <= k).with_columns(arm=pl.lit(a.arm)) for a in answers.values()]
    judged = pl.DataFrame(
        [(q, d) for q, grades in split.qrels.items() for d in grades],
        schema={"query_id": pl.String, "doc_id": pl.String},
        orient="row",
    )
    open_pairs = pl.concat(runs).join(judged, on=["query_id", "doc_id"], how="anti")
    return open_pairs.group_by("query_id", "doc_id").agg(pl.col("arm").sort()).sort("query_id", "doc_id")


def summarise(experiment: Experiment, decision: Decision, dev: "Scored", test: "Scored") -> Summary:
    """Everything the report shows beside the decision."""
    rule, metric = decision.rule, decision.rule.metric
    on_dev = dev.scores.filter(pl.col("metric") == metric)
    on_test = test.scores.filter(pl.col("metric") == metric)
    names = [f.name for f in test.facts]
    cases = _cases(test, on_test)
    before = decision_path(experiment.evalset.path, "retrieval").with_suffix(".scores.parquet")
    accepted = pl.read_parquet(before) if before.is_file() else None
    candidates = [n for n in names if n != rule.reference]
    focus = decision.arm if decision.arm != rule.reference else (candidates or [rule.reference])[0]
    dev_reference = rule.reference
    return Summary(
        title="Retrieval: the cheapest strategy that is good enough",
        metric=metric,
        warnings=_warnings(experiment, test, metric),
        frontier=(
            *frontier_points(on_dev, dev.facts, reference=dev_reference, split="dev"),
            *frontier_points(on_test, test.facts, reference=rule.reference, split="test"),
        ),
        slices=tuple(slice_rows(on_test, names)),
        changed=changed_cases(accepted, on_test, names, cases),
        regressions=worst_regressions(cases, reference=rule.reference, arm=focus),
        would_change=_would_change(decision),
        sections=(_section(score_table(dev.scores, dev.facts, "dev"), "All arms, on the questions they were tuned on."),
                  _section(score_table(test.scores, test.facts, "test"), "The finalists, on questions nobody tuned on.")),
        cost_note="Cost is counted work (query embedding, searched rows, fusion) times a calibrated rate, without "
        "storage and ingestion; it is the same on every machine. Latency is measured on this one.",
    )  # fmt: skip


def _cases(test: "Scored", scores: pl.DataFrame) -> dict[str, ItemCase]:
    returned: dict[str, dict[str, list[str]]] = {}
    for arm, answers in test.answers.items():
        top = answers.run.filter(pl.col("rank") <= SHOWN_HITS).sort("query_id", "rank")
        grouped = top.group_by("query_id", maintain_order=True).agg("doc_id")
        returned[arm] = dict(grouped.iter_rows())
    expected = {
        q: [d for d, g in sorted(grades.items(), key=lambda x: (-x[1], x[0])) if g > 0][:SHOWN_HITS]
        for q, grades in test.split.qrels.items()
    }
    return item_cases(scores, test.split.queries, expected=expected, returned=returned)


def _warnings(experiment: Experiment, test: "Scored", metric: str) -> tuple[str, ...]:
    out = [*experiment.evalset.notes]
    for arm, answers in test.answers.items():
        if answers.errors:
            out.append(f"{arm}: {len(answers.errors)} questions failed and count against it.")
        judged = judge(answers.run, test.split.qrels)
        found = judged.found[:, :10].sum()
        share = judged.judged[:, :10].sum() / found if found else 1.0
        if share < 0.9 and metric == "ndcg@10":
            low, high = (float(np.mean(v)) for v in ndcg_bounds(judged, 10))
            out.append(
                f"{arm}: only {share:.0%} of its top 10 is judged; its nDCG@10 lies between {low:.3f} and {high:.3f}. "
                "The pairs to judge are in to_judge.jsonl."
            )
    return tuple(out)


def _would_change(decision: Decision) -> tuple[str, ...]:
    rule, out = decision.rule, []
    for claim in decision.claims:
        if claim.arm == rule.reference:
            continue
        if claim.status in ("holds", "identical"):
            out.append(f"{claim.arm}: a margin under {max(-claim.low, 0):.3f} {rule.metric} would no longer hold.")
        elif claim.items_needed:
            out.append(f"{claim.arm}: about {claim.items_needed:,} more questions would settle it at this difference.")
        else:
            out.append(f"{claim.arm}: a margin of at least {-claim.low:.3f} {rule.metric} would be needed.")
    if rule.floor is None:
        out.append("No floor is set in gates.toml: a quality that is too low for the product would not be noticed.")
    return tuple(out)


def _section(table: Table, note: str) -> Section:
    names = tuple(c.name for c in table.columns)
    rows: list[tuple[Any, ...]] = [tuple(_cell(v) for v in row) for row in table.rows]
    return Section(table.caption, note, names, tuple(rows))


def _cell(value: Any) -> Any:
    return value.estimate if isinstance(value, Interval) else value
