"""What the retrieval run leaves for its report: frontier, slices, cases, warnings, what would change it."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from workbench.bench.asking import WELL_JUDGED, Scored
from workbench.bench.experiment import Experiment, decision_path
from workbench.evaluation.evalset import Split
from workbench.evaluation.exploring import changed_cases, frontier_points, item_cases, slice_rows, worst_regressions
from workbench.evaluation.scoring import Answers
from workbench.evaluation.summary import ItemCase, Section, Summary
from workbench.records import Decision
from workbench.rendering.table import Interval, Table

SHOWN_HITS = 5


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


def summarise(experiment: Experiment, decision: Decision, dev: Scored, test: Scored) -> Summary:
    """Everything the report shows beside the decision."""
    rule, metric = decision.rule, decision.rule.metric
    on_dev = dev.scores.filter(pl.col("metric") == metric)
    on_test = test.scores.filter(pl.col("metric") == metric)
    names = [f.name for f in test.facts]
    cases = _cases(test, on_test)
    before = decision_path(experiment.evalset.path, "retrieval").with_suffix(".scores.parquet")
    accepted = pl.read_parquet(before) if before.is_file() else None
    return Summary(
        title="Retrieval: the cheapest strategy that is good enough",
        metric=metric,
        warnings=_warnings(experiment, test, metric),
        frontier=tuple(frontier_points(on_dev, dev.facts, reference=rule.reference, split="dev")),
        slices=tuple(slice_rows(on_test, names)),
        changed=changed_cases(accepted, on_test, names, cases),
        regressions=worst_regressions(cases, reference=rule.reference, arm=focus_of(decision)),
        would_change=_would_change(decision),
        sections=(_section(dev.table(), "All arms, on the questions they were tuned on."),
                  _section(test.table(), "Finalists, on questions nobody tuned on.")),
        cost_note="Cost is counted work (query embedding, searched rows, fusion) times a calibrated rate, without "
        "storage and ingestion; it is the same on every machine. Latency is measured on this one.",
    )  # fmt: skip


def _cases(test: Scored, scores: pl.DataFrame) -> dict[str, ItemCase]:
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


def _warnings(experiment: Experiment, test: Scored, metric: str) -> tuple[str, ...]:
    out = [*experiment.evalset.notes]
    if not test.split.pooled:
        out.append("The judgements name relevant documents only: whatever they do not name counts as not relevant.")
    for arm, answers in test.answers.items():
        if answers.errors:
            out.append(f"{arm}: {len(answers.errors)} questions failed and count against it.")
    for arm, (low, high) in test.bounds().items() if metric == "ndcg@10" else ():
        out.append(
            f"{arm}: less than {WELL_JUDGED:.0%} of its top 10 is judged; its nDCG@10 lies between {low:.3f} and "
            f"{high:.3f}. The pairs to judge are in to_judge.jsonl."
        )
    return tuple(out)


def _would_change(decision: Decision) -> tuple[str, ...]:
    rule, out = decision.rule, []
    for claim in decision.claims:
        if claim.arm == rule.reference:
            continue
        if claim.status in ("holds", "identical"):
            out.append(f"{claim.arm}: a margin under {max(-claim.low, 0):.3f} {rule.metric} would no longer hold.")
        elif claim.items_needed is None:
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


def focus_of(decision: Decision) -> str:
    """Arm whose losses are worth reading: the decided one, or where that is the reference, the first finalist."""
    others = [a for a in decision.arms if a != decision.rule.reference]
    return decision.arm if decision.arm != decision.rule.reference or not others else others[0]


def regression_table(decision: Decision, test: Scored) -> Table:
    """Questions on which the arm in focus loses most against the reference."""
    reference, arm = decision.rule.reference, focus_of(decision)
    cases = _cases(test, test.of(decision.rule.metric))
    rows = [
        (c.question, ", ".join(c.expected[:2]), ", ".join(c.returned[reference][:2]), ", ".join(c.returned[arm][:2]))
        for c in worst_regressions(cases, reference=reference, arm=arm)
    ]
    names = ("question", "expected", f"{reference} returned", f"{arm} returned")
    return Table.of(names, rows, f"Where {arm} loses most against {reference}")
