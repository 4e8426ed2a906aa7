"""What the retrieval run leaves for its report: frontier, slices, cases, warnings, what would change it."""

from collections.abc import Mapping, Sequence

import polars as pl

from workbench.bench.asking import WELL_JUDGED, Scored
from workbench.bench.experiment import Experiment
from workbench.bench.telling import assumed_money, compared, is_default, losses, losses_title, section_of, would_change
from workbench.evaluation.evalset import Split
from workbench.evaluation.exploring import changed_cases, frontier_points, item_cases, slice_rows
from workbench.evaluation.scoring import Answers
from workbench.evaluation.summary import ItemCase, Summary
from workbench.records import Decision
from workbench.rendering.table import Table

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


def summarise(
    experiment: Experiment, decision: Decision, dev: Scored, test: Scored, *, left_out: Sequence[str]
) -> Summary:
    """Everything the report shows beside the decision; ``left_out`` says which arms were, and why.

    Of arms that nobody asked for by name it is told beside the scores, and is no warning.
    """
    metric, p = decision.rule.metric, experiment.parameters
    on_dev = dev.scores.filter(pl.col("metric") == metric)
    on_test = test.scores.filter(pl.col("metric") == metric)
    names = [f.name for f in test.facts]
    cases, pair = _cases(test, on_test), compared(decision, names)
    lost = losses(cases, pair)
    asked = not (is_default(p, "strategies") and is_default(p, "chunkers"))
    absent = " ".join(f"{why}." for why in left_out)
    return Summary(
        title="Retrieval: the cheapest strategy that is good enough",
        metric=metric,
        warnings=(
            *_warnings(experiment, test, metric),
            *(f"{why}." for why in left_out if asked),
            *(f"{why}." for why in (*dev.notes, *test.notes)),
        ),
        frontier=tuple(frontier_points(on_dev, dev.facts, split="dev")),
        slices=tuple(slice_rows(on_test, names)),
        changed=changed_cases(experiment.accepted_scores, on_test, names, cases),
        regressions=lost,
        regressions_title=losses_title(pair, any_found=bool(lost)),
        would_change=would_change(decision),
        sections=(section_of(dev.table(), f"All arms, on the questions they were tuned on. {absent}".strip()),
                  section_of(test.table(), "Finalists, on questions nobody tuned on.")),
        cost_note="Cost is counted work (query embedding, searched rows, fusion) times a calibrated rate, without "
        "storage and ingestion; it is the same on every machine. Latency is measured on this one.",
        assumed=assumed_money(experiment.policy),
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


def regression_table(decision: Decision, test: Scored) -> Table | None:
    """Questions on which the decided arm loses most against what is in use, or the best other; None without one."""
    pair = compared(decision, list(test.answers))
    if pair is None:
        return None
    (arm, other), found = pair, losses(_cases(test, test.of(decision.rule.metric)), pair)
    rows = [
        (c.question, ", ".join(c.expected[:2]), ", ".join(c.returned[other][:2]), ", ".join(c.returned[arm][:2]))
        for c in found
    ]
    names = ("question", "expected", f"{other} returned", f"{arm} returned")
    return Table.of(names, rows, losses_title(pair, any_found=bool(rows)))
