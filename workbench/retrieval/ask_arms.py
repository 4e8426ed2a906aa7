"""Ask every candidate the questions of one split, and score what comes back: one row per arm, item and metric."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl

from workbench.errors import ConfigError, WorkbenchError
from workbench.evalset.evalset import Qrels, Split
from workbench.evaluation.compare import SCORES_SCHEMA
from workbench.evaluation.decision import ArmFacts
from workbench.evaluation.gate import rebuild_spread
from workbench.evaluation.run_summary import ItemCase, ScoredArms, item_cases
from workbench.inference.prices import DECLARED, project_prices
from workbench.records import Document, Hit, Query, parameters_of
from workbench.rendering.numbers import counted
from workbench.rendering.progress import Progress
from workbench.rendering.table import Column, Table, Value
from workbench.retrieval.fitted_arms import FittedArm
from workbench.retrieval.metrics import RUN_SCHEMA, measure, measure_all, ndcg_bounds, rank_hits, with_grades
from workbench.retrieval.reuse import FoundBefore, NotSearched
from workbench.retrieval.searcher import Searcher
from workbench.retrieval.strategies import Arm, Strategy
from workbench.retrieval.systems import SystemArm
from workbench.retrieval.tables import SHOWN_METRICS, retrieval_reading_notes, retrieval_score_table

SLICES = ("tenant_id", "feature", "style")
SHOWN_HITS = 5


@dataclass(frozen=True, slots=True, eq=False)
class ArmAnswers:
    """What one arm returned: a ranked run, and for each question its time or its error."""

    arm: str
    run: pl.DataFrame
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)

    @property
    def latency_p95_ms(self) -> float | None:
        """95th percentile over the questions that were timed."""
        return float(np.quantile(list(self.latency_ms.values()), 0.95)) if self.latency_ms else None


def ask_arm(
    arm: str,
    search: Callable[[Query], Iterable[Hit]],
    queries: Sequence[Query],
    *,
    shared_ms: Callable[[Query], float] | None = None,
    found: FoundBefore | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> ArmAnswers:
    """Put every question to an arm, one after the other, timed; an error is kept and the next question asked.

    ``shared_ms`` does what several arms need done once for a question, such as its embedding, and returns the
    milliseconds it took the first time: they count for every arm. So do those of the searches in ``found``.
    """
    rows: list[tuple[str, str, float]] = []
    latency, errors = {}, {}
    for i, query in enumerate(queries, 1):
        try:
            before = shared_ms(query) if shared_ms else 0.0
            saved = found.saved_ms if found else 0.0
            started = time.perf_counter()
            hits = list(search(query))
            took = time.perf_counter() - started
        except WorkbenchError as error:
            errors[query.query_id] = f"{type(error).__name__}: {error}"
        else:
            latency[query.query_id] = before + took * 1000 + (found.saved_ms - saved if found else 0.0)
            # The arm's own order counts: a strictly falling score keeps it through the tie rule.
            rows += [(query.query_id, hit.doc_id, -float(place)) for place, hit in enumerate(hits)]
        if on_progress:
            on_progress(i, len(queries))
    columns = {"query_id": pl.String, "doc_id": pl.String, "score": pl.Float64}
    run = rank_hits(pl.DataFrame(rows, schema=columns, orient="row")).cast(RUN_SCHEMA)  # type: ignore[arg-type]
    return ArmAnswers(arm, run, latency, errors)


def score_arm(
    answers: ArmAnswers,
    queries: Sequence[Query],
    qrels: Qrels,
    metrics: Sequence[str],
    *,
    cost_usd: float | None = None,
) -> pl.DataFrame:
    """Rows of `SCORES_SCHEMA` and one ``slice_*`` column for each of `SLICES`.

    An item that failed keeps its row, with ``error`` and a null value.
    """
    wanted = {q.query_id: qrels[q.query_id] for q in queries}
    values = measure_all(answers.run, wanted, metrics)
    frames = []
    for metric, column in values.items():
        rows = [
            (answers.arm, q.query_id, 0, metric, None if q.query_id in answers.errors else float(value),
             answers.errors.get(q.query_id), q.cluster or q.query_id, q.tenant_id,
             answers.latency_ms.get(q.query_id), cost_usd, q.tenant_id, q.feature, q.style)
            for q, value in zip(queries, column, strict=True)
        ]  # fmt: skip
        schema = SCORES_SCHEMA | {f"slice_{name}": pl.String for name in SLICES}
        frames.append(pl.DataFrame(rows, schema=schema, orient="row"))
    return pl.concat(frames)


WELL_JUDGED = 0.9
Candidate = Arm | FittedArm | SystemArm


def candidate_name(candidate: Candidate) -> str:
    """Name of an arm: ours, a fitted one, or a system of the user's."""
    return candidate.arm.name if isinstance(candidate, FittedArm) else candidate.name


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ScoredArmAnswers(ScoredArms):
    """Arms that were asked all questions of one split, with their answers.

    ``foreign`` counts hits that belong to another tenant than the question's; ``notes`` name the arms that returned the
    same for every question; ``unread`` says by question what encoder or full text cannot make words of. ``nearest``
    holds, by arm and question, what `Searcher.nearest` says of it without the relevant documents, for the arms whose
    own searches tell.
    """

    arms: tuple[Candidate, ...]
    part: Split
    answers: Mapping[str, ArmAnswers]
    foreign: int = 0
    notes: tuple[str, ...] = ()
    unread: Mapping[str, str] = field(default_factory=dict)
    nearest: Mapping[str, Mapping[str, tuple[float, float]]] = field(default_factory=dict)

    @property
    def table(self) -> Table:
        """Means of every arm; bounds instead where its top 10 is not judged well enough."""
        table = retrieval_score_table(self.scores, self.facts, self.split, self.bounds())
        return replace(table, caption=". ".join([table.caption, *self.notes]))

    @property
    def invariants(self) -> Mapping[str, int]:
        """Hits of another tenant."""
        return {"hits of another tenant": self.foreign}

    def bounds(self) -> dict[str, tuple[float, float]]:
        """Bounds of nDCG@10 of each arm under 0.9 judged@10, where the judgements were pooled."""
        out = {}
        for arm, answers in self.answers.items() if self.part.pooled else ():
            judged = with_grades(answers.run, self.part.qrels)
            found = judged.found[:, :10].sum()
            if found and judged.judged[:, :10].sum() / found < WELL_JUDGED:
                low, high = ndcg_bounds(judged, 10)
                out[arm] = (float(low.mean()), float(high.mean()))
        return out

    def against(self, metric: str) -> pl.DataFrame:
        """Scores as they count against other arms: one that is not judged well enough counts as good as it may be."""
        scores = self.of(metric)
        for arm in self.bounds() if metric == "ndcg@10" else ():
            judged = with_grades(self.answers[arm].run, self.part.qrels)
            best = pl.DataFrame({"item_id": judged.query_ids, "best": ndcg_bounds(judged, 10)[1]})
            joined = scores.join(best, on="item_id", how="left", maintain_order="left")
            value = pl.when(pl.col("arm") == arm).then("best").otherwise("value")
            scores = joined.with_columns(value=value).drop("best")
        return scores

    def cases(self, metric: str) -> Mapping[str, ItemCase]:
        """Every question with the documents that were expected, and the first that each arm returned."""
        returned: dict[str, dict[str, list[str]]] = {}
        for arm, answers in self.answers.items():
            top = answers.run.filter(pl.col("rank") <= SHOWN_HITS).sort("query_id", "rank")
            grouped = top.group_by("query_id", maintain_order=True).agg("doc_id")
            returned[arm] = dict(grouped.iter_rows())
        expected = {
            q: [d for d, g in sorted(grades.items(), key=lambda x: (-x[1], x[0])) if g > 0][:SHOWN_HITS]
            for q, grades in self.part.qrels.items()
        }
        cases = item_cases(self.of(metric), self.part.queries, expected=expected, returned=returned)
        return {name: replace(case, note=self.unread.get(name, "")) for name, case in cases.items()}


def ask_all_arms(
    candidates: Sequence[Candidate], part: Split, searcher: Searcher, *, depth: int, timed: bool = True
) -> ScoredArmAnswers:
    """Put every question of the split to every candidate, table by table: what arms find there is kept no longer.

    Unless ``timed``, searches for vectors are made many in one go, and an answer's time means nothing.
    """
    by_table: dict[tuple[str, str], list[Candidate]] = {}
    for candidate in candidates:
        arm = our_arm(candidate)
        by_table.setdefault((arm.store, searcher.table_name(arm)) if arm else ("", ""), []).append(candidate)
    asked: dict[str, ArmAnswers] = {}
    nearest: dict[str, Mapping[str, tuple[float, float]]] = {}
    for group in by_table.values():
        with searcher.found.shared():
            for candidate in () if timed else group:
                _search_together(candidate, part, searcher, depth)
            answered = {candidate_name(c): _ask_candidate(c, part, searcher, depth) for c in group}
            nearest |= _nearest_found([c for c in group if not answered[candidate_name(c)].errors], part, searcher)
        asked |= answered
    searcher.found.forget()
    answers = {name: asked[name] for name in map(candidate_name, candidates)}
    facts = tuple(_candidate_facts(c, i, answers[candidate_name(c)], part, searcher) for i, c in enumerate(candidates))
    frames = [
        score_arm(answers[f.name], part.queries, part.qrels, SHOWN_METRICS, cost_usd=f.cost_usd_per_1k / 1000)
        for f in facts
    ]
    notes = tuple(_agreeing_arms(candidates, answers, part.name, searcher))
    foreign = foreign_hits_of_arms(answers, part.queries, searcher.documents)
    read_by = [retrieval_reading_notes(part.queries, embedder) for embedder in searcher.embedders.values()]
    unread = {name: why for notes in reversed(read_by) for name, why in notes.items()}
    scores = pl.concat(frames)
    if unread:
        read = pl.when(pl.col("item_id").is_in(list(unread))).then(pl.lit("not read in full"))
        scores = scores.with_columns(slice_reading=read.otherwise(pl.lit("read in full")))
    return ScoredArmAnswers(part.name, tuple(candidates), scores, facts, part, answers, foreign, notes, unread, nearest)


def _nearest_found(
    group: Sequence[Candidate], part: Split, searcher: Searcher
) -> dict[str, Mapping[str, tuple[float, float]]]:
    """Nearest passages of every question by arm of one table, as far as their own searches have found them."""
    by_leg: dict[Any, dict[str, tuple[float, float]] | None] = {}
    out: dict[str, Mapping[str, tuple[float, float]]] = {}
    for arm in filter(None, map(our_arm, group)):
        if (leg := searcher.nearest_leg(arm)) not in by_leg:
            try:
                with searcher.found.without_searching():
                    near = {q.query_id: searcher.nearest(arm, q, part.relevant(q.query_id)) for q in part.queries}
            except NotSearched:
                near = None
            by_leg[leg] = near
        if (known := by_leg[leg]) is not None:
            out[arm.name] = known
    return out


def our_arm(candidate: Candidate) -> Arm | None:
    """Arm behind a candidate, None for a system that is not ours."""
    if isinstance(candidate, SystemArm):
        return None
    return candidate.arm if isinstance(candidate, FittedArm) else candidate


def _ask_candidate(candidate: Candidate, part: Split, searcher: Searcher, depth: int) -> ArmAnswers:
    name = candidate_name(candidate)
    bar = Progress(f"{part.name} questions to {name}", len(part.queries))
    search, arm = _candidate_search(candidate, part, searcher, depth), our_arm(candidate)
    shared = (lambda query: searcher.embedding_ms(arm, query)) if arm else None
    answers = ask_arm(
        name,
        search,
        part.queries,
        shared_ms=shared,
        found=searcher.found,
        on_progress=lambda done, total: bar.update(done),
    )
    bar.done(f"{name}: {len(part.queries)} {part.name} questions, {counted(len(answers.errors), 'error')}")
    stored = isinstance(candidate, SystemArm) and candidate.search is None
    return replace(answers, latency_ms={}) if stored else answers


def _search_together(candidate: Candidate, part: Split, searcher: Searcher, depth: int) -> None:
    """Make the searches of all questions for vectors beforehand; one with a second encoder searches once more."""
    if (arm := our_arm(candidate)) is not None and arm.strategy.uses_vectors:
        search = _candidate_search(candidate, part, searcher, depth)
        for _ in arm.embedders:
            searcher.found.search_together(search, part.queries)


def _candidate_search(
    candidate: Candidate, part: Split, searcher: Searcher, depth: int
) -> Callable[[Query], Sequence[Hit]]:
    if isinstance(candidate, SystemArm):
        call = candidate.search or _lookup(candidate.run, depth + 1)
        return lambda query: [hit for hit in call(query) if hit.doc_id != searcher.document_of(query)][:depth]
    if isinstance(candidate, FittedArm) and part.name == "dev":
        return _opened_candidate_search(
            candidate.arm, part, searcher, depth, lambda query: candidate.held_out[query.cluster]
        )
    arm = candidate.arm if isinstance(candidate, FittedArm) else candidate
    return _opened_candidate_search(arm, part, searcher, depth, lambda _: arm.strategy)


def _opened_candidate_search(
    arm: Arm, part: Split, searcher: Searcher, depth: int, strategy_for: Callable[[Query], Strategy]
) -> Callable[[Query], Sequence[Hit]]:
    """Search of an arm whose handles are open, so that the time of a question holds nothing but its search."""
    handles = {tenant: searcher.handle(arm, tenant) for tenant in {query.tenant_id for query in part.queries}}

    def search(query: Query) -> Sequence[Hit]:
        return strategy_for(query).search(handles[query.tenant_id], searcher.question(arm, query), depth)

    return search


def _candidate_facts(
    candidate: Candidate, order: int, answers: ArmAnswers, part: Split, searcher: Searcher
) -> ArmFacts:
    name, p95 = candidate_name(candidate), answers.latency_p95_ms
    if isinstance(candidate, SystemArm):
        cost = candidate.cost_usd_per_1k
        return ArmFacts(name, {"source": candidate.source}, cost, p95, order, amounts={f"{name}{DECLARED}": cost})
    arm = candidate.arm if isinstance(candidate, FittedArm) else candidate
    prices = project_prices(searcher.settings.root)
    cost = searcher.cost_usd_per_1k(arm, part.queries, prices)
    amounts = searcher.amounts(arm, part.queries, prices)
    return ArmFacts(name, parameters_of(arm), cost, p95, order, amounts=amounts)


PROBES = 2


def arm_spread_over_rebuilds(
    candidate: Candidate,
    part: Split,
    searcher: Searcher,
    *,
    answered: ArmAnswers,
    metric: str,
    depth: int,
    rebuilds: int,
) -> tuple[float, float] | None:
    """Mean and standard deviation of an arm's score over rebuilds of its index, None where rebuilds do not differ.

    LanceDB takes no seed: each build starts at random by itself. The index is built twice; if both builds answer every
    question as the first one did, hit by hit, no further build is paid for.

    Parameters
    ----------
    answered : Answers
        What the candidate returned for the questions of the split before its index was built again.
    metric : str
        The metric that decides, in [0, 1].
    depth : int
        Hits asked for.
    rebuilds : int
        Builds that the spread is taken over, at least `workbench.evaluation.gate.MIN_REBUILDS`; 0 makes none.
    """
    arm = our_arm(candidate)
    if arm is None or arm.strategy.index.deterministic or not rebuilds:
        return None
    runs = [_ask_rebuilt_arm(arm, part, searcher, depth) for _ in range(PROBES)]
    if all(run.equals(answered.run) for run in runs):
        return None
    bar = Progress(f"rebuilds of {arm.name}", rebuilds)
    for done in range(PROBES, rebuilds):
        bar.update(done)
        runs.append(_ask_rebuilt_arm(arm, part, searcher, depth))
    bar.done(f"{arm.name}: built {counted(rebuilds, 'time')} to see how far builds differ")
    return rebuild_spread([float(measure(with_grades(run, part.qrels, depth=depth), metric).mean()) for run in runs])


def _ask_rebuilt_arm(arm: Arm, part: Split, searcher: Searcher, depth: int) -> pl.DataFrame:
    """Run of an arm whose index was built again."""
    searcher.rebuild_index(arm)
    with searcher.found.shared():
        _search_together(arm, part, searcher, depth)
        return ask_arm(arm.name, _candidate_search(arm, part, searcher, depth), part.queries).run


def check_candidate_names(candidates: Sequence[Candidate]) -> None:
    """Refuse candidates of one name: their answers could not be told apart.

    Raises
    ------
    ConfigError
        If two have the same name.
    """
    names = [candidate_name(c) for c in candidates]
    if twice := [n for n in names if names.count(n) > 1]:
        raise ConfigError(f"two arms are called {twice[0]!r}; give your system a name of its own")


def foreign_hits_of_arms(
    answers: Mapping[str, ArmAnswers], queries: Sequence[Query], documents: Iterable[Document]
) -> int:
    """Count hits that belong to another tenant than the question's."""
    owner = {d.doc_id: d.tenant_id for d in documents}
    asked = {q.query_id: q.tenant_id for q in queries}
    return sum(
        owner.get(doc_id, asked[query_id]) != asked[query_id]
        for found in answers.values()
        for query_id, doc_id in found.run.select("query_id", "doc_id").iter_rows()
    )


def drop_twin_arms(
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
    probe, kept, why = _ArmTwinProbe(dev, searcher, depth), list[Candidate](), dict[str, str]()
    for candidate in candidates:
        name = candidate_name(candidate)
        twin = None if name in keep else next((k for k in kept if probe.twins(k, candidate)), None)
        if twin is None:
            kept.append(candidate)
        else:
            why[name] = f"what makes it differ from {candidate_name(twin)} has no effect on this corpus"
    return kept, why


@dataclass(frozen=True, slots=True)
class _ArmTwinProbe:
    """Asks two arms the dev questions one by one, as long as they answer alike: most differ at the first."""

    dev: Split
    searcher: Searcher
    depth: int
    _known: dict[tuple[str, str], tuple[Any, ...]] = field(default_factory=dict)
    _searches: dict[str, Callable[[Query], Sequence[Hit]]] = field(default_factory=dict)

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
        if key[0] not in self._searches:
            self._searches[key[0]] = _candidate_search(candidate, self.dev, self.searcher, self.depth)
        if key not in self._known:
            answers = ask_arm(key[0], self._searches[key[0]], [query])
            self._known[key] = (answers.run.rows(), tuple(answers.errors))
        return self._known[key]


def _agreeing_arms(
    candidates: Sequence[Candidate], answers: Mapping[str, ArmAnswers], split: str, searcher: Searcher
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
            rows.append((candidate_name(candidate), None, None, None, None, repr(candidate)))
            continue
        chunks, cut = searcher.chunk_counts(arm)
        used = (" + ".join(arm.embedders), cut / chunks) if arm.strategy.uses_vectors else (None, None)
        rows.append((arm.name, arm.store, chunks, *used, repr(arm)))
    columns = (
        *(Column("name"), Column("store"), Column("chunks", "count"), Column("embedder")),
        *(Column("cut off by the encoder", "share"), Column("arm")),
    )
    return Table(columns, tuple(rows), "Arms, simplest first")


def _lookup(run: pl.DataFrame | None, depth: int) -> Callable[[Query], list[Hit]]:
    table: dict[str, list[Hit]] = {}
    if run is not None:
        for query_id, doc_id, score in run.filter(pl.col("rank") <= depth).select("query_id", "doc_id", "score").rows():
            table.setdefault(query_id, []).append(Hit(doc_id, score))
    return lambda query: table.get(query.query_id, [])
