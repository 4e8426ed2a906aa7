"""What the retrieval notebook shows before and between its figures: its evalset, its power, its scores."""

from collections.abc import Mapping, Sequence

import polars as pl

from workbench.evalset.evalset import Evalset
from workbench.evalset.texts import spaceless
from workbench.evaluation.decision import ArmFacts
from workbench.evaluation.run_summary import mean_by_arm
from workbench.inference.embedding import Embedder, unread_by_embedder, unread_share_of_embedder
from workbench.records import Query
from workbench.rendering.numbers import counted, percent
from workbench.rendering.table import Column, Table

SHOWN_METRICS = ("ndcg@10", "recall@10", "recall@100", "precision@10", "mrr@10", "map@100", "judged@10")


def evalset_contents_table(evalset: Evalset) -> Table:
    """Documents, questions and families of each tenant."""
    dev, test = evalset.split("dev"), evalset.split("test")
    rows: list[tuple[str, int, int, int, int, int]] = []
    for tenant in evalset.tenants:
        mine = [[q for q in part.queries if q.tenant_id == tenant] for part in (dev, test)]
        documents = sum(d.tenant_id == tenant for d in evalset.documents)
        families = [len({q.cluster for q in part}) for part in mine]
        rows.append((tenant, documents, len(mine[0]), families[0], len(mine[1]), families[1]))
    total: tuple[str | int, ...] = ("all", *(sum(column) for column in zip(*(row[1:] for row in rows), strict=True)))
    names = ("tenant", "documents", "dev questions", "dev families", "test questions", "test families")
    return Table.of(names, [*rows, total], ". ".join([f"What {evalset.name} holds", *evalset.notes]))


NGRAM_STRATEGY = "full_text_ngram"
MANY = 0.1  # of the documents
SCRIPT_SAMPLE = 200  # characters of a document that say which script it is in


def retrieval_script_notes(evalset: Evalset, embedder: Embedder, strategies: Sequence[str] = ()) -> list[str]:
    """What the encoder and the full-text index cannot read of these questions and documents, in sentences.

    ``strategies`` are those that are compared: the one for such questions is named where it is not among them.
    """
    out = []
    asked = [q.text for q in evalset.queries]
    for what, texts in (("questions", asked), ("documents", [d.full_text[:SCRIPT_SAMPLE] for d in evalset.documents])):
        if (blind := int(unread_by_embedder(embedder, texts).sum())) and (
            what == "questions" or blind > MANY * len(texts)
        ):
            out.append(
                f"{blind:,} of {len(texts):,} {what} have more than a third of characters that the encoder "
                f"{embedder.encoder_id} does not know, drops or spells: vectors tell them apart badly, or not at all"
            )
    if blank := sum(map(spaceless, asked)):
        out.append(
            f"{blank:,} of {counted(len(asked), 'question is', 'questions are')} in a script without blanks "
            "between words: the full-text index, "
            "which cuts at blanks, finds whole phrases of them alone"
            + ("" if NGRAM_STRATEGY in strategies else f"; add {NGRAM_STRATEGY} to strategies")
        )
    return out


def retrieval_reading_notes(queries: Sequence[Query], embedder: Embedder) -> dict[str, str]:
    """What keeps arms from finding an answer to a question in words of its own, by id; questions without are left out.

    >>> from workbench.testing import HashEmbedder
    >>> retrieval_reading_notes([Query("1", "如何开启深色模式"), Query("2", "dark mode")], HashEmbedder())
    {'1': 'no blanks between words, full text finds whole phrases alone'}
    """
    texts, out = [q.text for q in queries], dict[str, str]()
    told = zip(queries, unread_by_embedder(embedder, texts), unread_share_of_embedder(embedder, texts), strict=True)
    for query, blind, share in told:
        why = [f"{embedder.encoder_id} does not read {percent(share)} of it"] if blind else []
        why += ["no blanks between words, full text finds whole phrases alone"] if spaceless(query.text) else []
        out |= {query.query_id: "; ".join(why)} if why else {}
    return out


def retrieval_score_table(
    scores: pl.DataFrame, facts: Sequence[ArmFacts], split: str, bounds: Mapping[str, tuple[float, float]]
) -> Table:
    """Means of every metric, arm by arm, with coverage, cost and latency; a question that failed counts 0 in each.

    ``bounds`` are those of nDCG@10 of the arms whose top 10 is not judged well enough for a mean: theirs is left out,
    and two more columns say between what it lies. Every column of a metric holds numbers.
    """
    first, *others = SHOWN_METRICS
    means = {m: mean_by_arm(scores, m) for m in SHOWN_METRICS}
    deciding = scores.filter(pl.col("metric") == first)
    coverage = {a: float(v) for a, v in deciding.group_by("arm").agg(pl.col("value").is_not_null().mean()).iter_rows()}
    rows = tuple(
        (
            f.name,
            None if f.name in bounds else means[first][f.name],
            *(bounds.get(f.name, (None, None)) if bounds else ()),
            *(means[m][f.name] for m in others),
            coverage[f.name],
            f.cost_usd_per_1k,
            f.latency_p95_ms,
        )
        for f in sorted(facts, key=lambda f: -means[first][f.name])
    )
    limits = (f"{first} at least", f"{first} at most") if bounds else ()
    columns = (
        Column("arm"),
        *(Column(m, "number", digits=3) for m in (first, *limits, *others)),
        Column("coverage", "share"),
        Column("USD per 1,000", "usd"),
        Column("p95 ms", "number", digits=0),
    )
    failed = ", a question that failed counts 0" if any(share < 1 for share in coverage.values()) else ""
    return Table(columns, rows, f"Scores on {split}, best first{failed}")


def retrieval_stores_table(dev: pl.DataFrame, facts: Sequence[ArmFacts], metric: str, requests: int) -> Table:
    """Each arm that two stores have, side by side: the mean on dev, dollars a month, and latency."""
    means, by_name = mean_by_arm(dev, metric), {f.name: f for f in facts}
    rows = []
    for f in facts:
        if f.name.endswith(" · postgres") and (ours := by_name.get(f.name.removesuffix(" · postgres"))):
            pair = (ours, f)
            costs = (x.cost_usd_per_1k * requests / 1000 for x in pair)
            rows.append((ours.name, *(means[x.name] for x in pair), *costs, *(x.latency_p95_ms for x in pair)))
    columns = (
        Column("arm"),
        *(Column(f"{metric}, {store}", "number", digits=3) for store in ("lance", "postgres")),
        *(Column(f"USD a month, {store}", "usd") for store in ("lance", "postgres")),
        *(Column(f"p95 ms, {store}", "number", digits=0) for store in ("lance", "postgres")),
    )
    told = (
        f"The same arms in two stores on dev, at {counted(requests, 'request')} a month; no rent of a server, no disk"
    )
    return Table(columns, tuple(rows), told)
