"""Ask every candidate the questions of one split: ours, those fitted on dev, and the user's own systems."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import polars as pl

from workbench.bench.fitting import FittedArm
from workbench.bench.retrieval_tables import SHOWN_METRICS, score_table
from workbench.bench.systems import SystemArm
from workbench.errors import ConfigError
from workbench.evaluation.claims import ArmFacts
from workbench.evaluation.evalset import Split
from workbench.evaluation.metrics import judge, measure, ndcg_bounds
from workbench.evaluation.scoring import Answers, ask, score
from workbench.inference.prices import project_prices
from workbench.records import Document, Hit, Query, Rule, parameters_of
from workbench.rendering.progress import Progress
from workbench.rendering.table import Column, Table, Value
from workbench.retrieval.searching import Searcher
from workbench.retrieval.strategies import Arm

WELL_JUDGED = 0.9
Candidate = Arm | FittedArm | SystemArm


def candidate_name(candidate: Candidate) -> str:
    """Name of an arm, whoever made it."""
    return candidate.arm.name if isinstance(candidate, FittedArm) else candidate.name


@dataclass(frozen=True, slots=True)
class Scored:
    """Arms that were asked all questions of one split: their answers, scores and facts.

    ``notes`` name the arms that returned the same for every question.
    """

    split: Split
    arms: tuple[Candidate, ...]
    answers: Mapping[str, Answers]
    scores: pl.DataFrame
    facts: tuple[ArmFacts, ...]
    notes: tuple[str, ...] = ()

    def of(self, metric: str) -> pl.DataFrame:
        """Rows of one metric."""
        return self.scores.filter(pl.col("metric") == metric)

    def _repr_html_(self) -> str:
        return self.table().to_html()

    def __repr__(self) -> str:
        return self.table().to_text()

    def table(self) -> Table:
        """Means of every arm; bounds instead where its top 10 is not judged well enough."""
        table = score_table(self.scores, self.facts, self.split.name, self.bounds())
        return replace(table, caption=". ".join([table.caption, *self.notes]))

    def bounds(self) -> dict[str, tuple[float, float]]:
        """Bounds of nDCG@10 of each arm under 0.9 judged@10, where the judgements were pooled."""
        out = {}
        for arm, answers in self.answers.items() if self.split.pooled else ():
            judged = judge(answers.run, self.split.qrels)
            found = judged.found[:, :10].sum()
            if found and judged.judged[:, :10].sum() / found < WELL_JUDGED:
                low, high = ndcg_bounds(judged, 10)
                out[arm] = (float(low.mean()), float(high.mean()))
        return out


def ask_all(candidates: Sequence[Candidate], part: Split, searcher: Searcher, *, depth: int) -> Scored:
    """Put every question of the split to every candidate, one after the other."""
    answers = {candidate_name(c): _ask(c, part, searcher, depth) for c in candidates}
    facts = tuple(_facts(c, i, answers[candidate_name(c)], part, searcher) for i, c in enumerate(candidates))
    frames = [
        score(answers[f.name], part.queries, part.qrels, SHOWN_METRICS, cost_usd=f.cost_usd_per_1k / 1000)
        for f in facts
    ]
    notes = tuple(_agreeing(candidates, answers, part.name, searcher))
    return Scored(part, tuple(candidates), answers, pl.concat(frames), facts, notes)


def our_arm(candidate: Candidate) -> Arm | None:
    """Arm behind a candidate, None for a system that is not ours."""
    if isinstance(candidate, SystemArm):
        return None
    return candidate.arm if isinstance(candidate, FittedArm) else candidate


def _ask(candidate: Candidate, part: Split, searcher: Searcher, depth: int) -> Answers:
    name = candidate_name(candidate)
    bar = Progress(f"{part.name} questions to {name}", len(part.queries))
    search, arm = _search_of(candidate, part, searcher, depth), our_arm(candidate)
    shared = (lambda query: searcher.embedding_ms(arm, query)) if arm else None
    answers = ask(name, search, part.queries, shared_ms=shared, on_progress=lambda done, total: bar.update(done))
    bar.done(f"{name}: {len(part.queries)} {part.name} questions, {len(answers.errors)} errors")
    stored = isinstance(candidate, SystemArm) and candidate.search is None
    return replace(answers, latency_ms={}) if stored else answers


def _search_of(candidate: Candidate, part: Split, searcher: Searcher, depth: int) -> Callable[[Query], Sequence[Hit]]:
    if isinstance(candidate, SystemArm):
        call = candidate.search or _lookup(candidate.run, depth)
        return lambda query: list(call(query))[:depth]
    if isinstance(candidate, FittedArm) and part.name == "dev":
        return lambda query: candidate.search(searcher, query, depth)
    arm = candidate.arm if isinstance(candidate, FittedArm) else candidate
    return lambda query: searcher.search(arm, query, depth)


def _facts(candidate: Candidate, order: int, answers: Answers, part: Split, searcher: Searcher) -> ArmFacts:
    name, p95 = candidate_name(candidate), answers.latency_p95_ms
    if isinstance(candidate, SystemArm):
        return ArmFacts(name, {"source": candidate.source}, candidate.cost_usd_per_1k, p95, order)
    arm = candidate.arm if isinstance(candidate, FittedArm) else candidate
    cost = searcher.cost_usd_per_1k(arm, part.queries, project_prices(searcher.settings.root))
    return ArmFacts(name, parameters_of(arm), cost, p95, order)


def spread_over_rebuilds(
    candidate: Candidate, part: Split, searcher: Searcher, *, metric: str, depth: int, rebuilds: int
) -> tuple[float, float] | None:
    """Lowest and highest mean over rebuilds of an index that is built at random, None for other arms."""
    arm = our_arm(candidate)
    if arm is None or arm.strategy.index.deterministic or not rebuilds:
        return None
    means = []
    for _ in range(rebuilds):
        searcher.rebuild_index(arm)
        again = ask(arm.name, lambda query: searcher.search(arm, query, depth), part.queries)
        means.append(float(measure(judge(again.run, part.qrels, depth=depth), metric).mean()))
    return min(means), max(means)


def optimistic(test: Scored, rule: Rule) -> pl.DataFrame:
    """Scores that count against other arms: one that is not judged well enough counts as good as it may be."""
    scores = test.scores
    for arm in test.bounds() if rule.metric == "ndcg@10" else ():
        judged = judge(test.answers[arm].run, test.split.qrels)
        best = pl.DataFrame({"item_id": judged.query_ids, "best": ndcg_bounds(judged, 10)[1]})
        mine = (pl.col("arm") == arm) & (pl.col("metric") == rule.metric)
        joined = scores.join(best, on="item_id", how="left", maintain_order="left")
        scores = joined.with_columns(value=pl.when(mine).then("best").otherwise("value")).drop("best")
    return scores


def check_names(candidates: Sequence[Candidate]) -> None:
    """Refuse candidates of one name: their answers could not be told apart.

    Raises
    ------
    ConfigError
        If two have the same name.
    """
    names = [candidate_name(c) for c in candidates]
    if twice := [n for n in names if names.count(n) > 1]:
        raise ConfigError(f"two arms are called {twice[0]!r}; give your system a name of its own")


def foreign_hits(scored: Scored, documents: Iterable[Document]) -> int:
    """Count hits that belong to another tenant than the question's."""
    owner = {d.doc_id: d.tenant_id for d in documents}
    asked = {q.query_id: q.tenant_id for q in scored.split.queries}
    return sum(
        owner.get(doc_id, asked[query_id]) != asked[query_id]
        for answers in scored.answers.values()
        for query_id, doc_id in answers.run.select("query_id", "doc_id").iter_rows()
    )


def drop_twins(
    candidates: Sequence[Candidate], dev: Split, searcher: Searcher, *, depth: int, keep: Collection[str] = ()
) -> tuple[list[Candidate], dict[str, str]]:
    """Leave out each of our arms that does what a simpler one does: what makes it differ has no effect here.

    Parameters
    ----------
    candidates : sequence of Arm, FittedArm or SystemArm
        Prepared, simplest first: the first of two twins stays.
    keep : collection of str
        Names of arms that stay whatever they do: those that are accepted or asked for.

    Returns
    -------
    list of Arm, FittedArm or SystemArm, and dict
        Candidates that stay, and by name why each of the others does not.
    """
    probe, kept, why = _Probe(dev, searcher, depth), list[Candidate](), dict[str, str]()
    for candidate in candidates:
        name = candidate_name(candidate)
        twin = None if name in keep else next((k for k in kept if probe.twins(k, candidate)), None)
        if twin is None:
            kept.append(candidate)
        else:
            why[name] = f"what makes it differ from {candidate_name(twin)} has no effect on this corpus"
    return kept, why


@dataclass(frozen=True, slots=True)
class _Probe:
    """Asks two arms the dev questions one by one, as long as they answer alike: most differ at the first."""

    dev: Split
    searcher: Searcher
    depth: int
    _known: dict[tuple[str, str], tuple[Any, ...]] = field(default_factory=dict)

    def twins(self, one: Candidate, other: Candidate) -> bool:
        """Whether two of our arms differ by a cut that is none, or return the same hits by the same plan.

        The plan names the build of a vector index: two that were built at random are no twins by their hits, which
        the next builds may not share.
        """
        first, second = our_arm(one), our_arm(other)
        if first is None or second is None:
            return False
        by_cut = isinstance(one, Arm) and replace(second, name=first.name, chunker=first.chunker) == one
        if by_cut and self.searcher.cut_alike(first, second):
            return True
        begin, rest = self.dev.queries[:1], self.dev.queries[1:]  # most pairs need no plan: that embeds a text
        if not self._agree(one, other, begin) or self.searcher.plan(first) != self.searcher.plan(second):
            return False
        return self._agree(one, other, rest)

    def _agree(self, one: Candidate, other: Candidate, queries: Iterable[Query]) -> bool:
        return all(self._answer(one, query) == self._answer(other, query) for query in queries)

    def _answer(self, candidate: Candidate, query: Query) -> tuple[Any, ...]:
        key = (candidate_name(candidate), query.query_id)
        if key not in self._known:
            answers = ask(key[0], _search_of(candidate, self.dev, self.searcher, self.depth), [query])
            self._known[key] = (answers.run.rows(), tuple(answers.errors))
        return self._known[key]


def _agreeing(
    candidates: Sequence[Candidate], answers: Mapping[str, Answers], split: str, searcher: Searcher
) -> Iterator[str]:
    """Tell which of our arms that were asked are twins on this split."""
    ours = [arm for arm in map(our_arm, candidates) if arm is not None]
    for one, other in combinations(ours, 2):
        if answers[one.name].run.equals(answers[other.name].run) and searcher.plan(one) == searcher.plan(other):
            yield (
                f"{one.name} and {other.name} returned the same hits for every {split} question by the same plan: "
                "what makes them differ had no effect"
            )


def arms_table(candidates: Sequence[Candidate], searcher: Searcher) -> Table:
    """Arms as they print themselves, with the chunks of their table and the share their encoder cuts off."""
    rows: list[tuple[Value, ...]] = []
    for candidate in candidates:
        arm = our_arm(candidate)
        if arm is None:
            rows.append((candidate_name(candidate), None, None, repr(candidate)))
            continue
        chunks, cut = searcher.chunk_counts(arm)
        rows.append((arm.name, chunks, cut / chunks if arm.strategy.uses_vectors else None, repr(arm)))
    columns = (Column("name"), Column("chunks", "count"), Column("cut off by the encoder", "share"), Column("arm"))
    return Table(columns, tuple(rows), "Arms, simplest first")


def _lookup(run: pl.DataFrame | None, depth: int) -> Callable[[Query], list[Hit]]:
    table: dict[str, list[Hit]] = {}
    if run is not None:
        for query_id, doc_id, score in run.filter(pl.col("rank") <= depth).select("query_id", "doc_id", "score").rows():
            table.setdefault(query_id, []).append(Hit(doc_id, score))
    return lambda query: table.get(query.query_id, [])
