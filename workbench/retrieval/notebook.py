"""The retrieval experiment, which asks for the cheapest strategy that is good enough on a corpus."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import product
from statistics import median

import polars as pl

from workbench.codec import NEUTRAL, RANGE, Range
from workbench.config import Settings
from workbench.errors import ConfigError
from workbench.evalset.evalset import Split
from workbench.evalset.findings import known_answers
from workbench.evalset.imports.judgement_sheets import SHEET, judgement_sheet_note, write_judgement_sheet
from workbench.evaluation.experiment import PairedExperiment
from workbench.evaluation.finalists import Finalists
from workbench.evaluation.fingerprint import FORMERLY, SEED, fingerprint_of_encoder
from workbench.evaluation.gate import MIN_REBUILDS
from workbench.evaluation.run_summary import Summary, is_default
from workbench.inference.embedding import Embedder, load_embedder
from workbench.inference.encoders import MiniLM
from workbench.inference.prices import price_of_query_embedding
from workbench.records import Decision, content_hash
from workbench.rendering.numbers import counted, percent, price
from workbench.rendering.progress import Progress, advance
from workbench.rendering.table import Table
from workbench.reports.ending import Notebook
from workbench.reports.figure import Figure
from workbench.retrieval.arms import FITTED, make_arm, make_arms
from workbench.retrieval.ask_arms import (
    WELL_JUDGED,
    Candidate,
    ScoredArmAnswers,
    arm_spread_over_rebuilds,
    arms_table,
    ask_all_arms,
    check_candidate_names,
    drop_twin_arms,
    our_arm,
)
from workbench.retrieval.chunking import Tokenizer
from workbench.retrieval.fitted_arms import LEAST_TO_FIT, FittedArm, fit_arms
from workbench.retrieval.passages import (
    LOST,
    UNANSWERABLE,
    Nearest,
    calibrate_passages,
    passage_evidence_of,
    passages_table,
)
from workbench.retrieval.postgres_server import pgvector_url
from workbench.retrieval.scale import COMMITTED, STEPS, Scale, measure_scale, scale_figure
from workbench.retrieval.searcher import Searcher
from workbench.retrieval.strategies import Arm, Hybrid
from workbench.retrieval.systems import load_systems, system_inputs
from workbench.retrieval.tables import evalset_contents_table, retrieval_script_notes, retrieval_stores_table


def to_judge(scored: ScoredArmAnswers, k: int = 10) -> pl.DataFrame:
    """Documents in the top ``k`` of any arm that nobody has judged, with the arms that returned them."""
    runs = [a.run.filter(pl.col("rank") <= k).with_columns(arm=pl.lit(a.arm)) for a in scored.answers.values()]
    judged = pl.DataFrame(
        [(q, d) for q, grades in scored.part.qrels.items() for d in grades],
        schema={"query_id": pl.String, "doc_id": pl.String},
        orient="row",
    )
    open_pairs = pl.concat(runs).join(judged, on=["query_id", "doc_id"], how="anti")
    return open_pairs.group_by("query_id", "doc_id").agg(pl.col("arm").sort()).sort("query_id", "doc_id")


# Standard deviation per question family of a paired nDCG difference, before any arm has run: in the middle what
# hybrids and their legs show on public collections.
ASSUMED_SD = (0.1, 0.2, 0.3)


@dataclass(frozen=True, slots=True)
class RetrievalParameters:
    """Parameters of ``01_retrieval``; the notebook's cell has the same names and defaults.

    ``depth`` is how many hits are scored. ``rebuilds`` is how often an index that is built at random is built to show
    its spread: 8 or more, or 0 for no rebuilds; then a check asks for the same score of every item. ``scale_rows`` is
    up to how many synthetic rows search is timed (0: show the committed measurement).
    """

    evalset: str = "docs_qa"
    chunkers: tuple[str, ...] = ("whole", "structure")
    strategies: tuple[str, ...] = (
        "full_text",
        "full_text_exact_words",
        "vector",
        "vector_ivf_pq",
        "vector_hnsw_sq",
        "hybrid_rrf",
        "hybrid_rrf_shallow",
        "hybrid_weighted",
        "reranked",
    )
    embedders: tuple[str, ...] = field(default=("minilm", "wordllama"), metadata={FORMERLY: "embedder"})
    stores: tuple[str, ...] = field(default=("lance",), metadata={NEUTRAL: ("lance",)})
    systems: tuple[str, ...] = ()
    reference: str = ""
    depth: int = field(default=100, metadata={RANGE: Range(10, 10_000)})
    rebuilds: int = field(default=MIN_REBUILDS, metadata={RANGE: Range(MIN_REBUILDS, 1000, or_zero=True)})
    scale_rows: int = field(default=0, metadata={RANGE: Range(STEPS[0], STEPS[-1], or_zero=True)})
    seed: int = field(default=0, metadata=SEED)

    def __post_init__(self) -> None:
        make_arms(self.chunkers, self.strategies, embedders=self.embedders, stores=self.stores)


class RetrievalExperiment(
    PairedExperiment[RetrievalParameters, ScoredArmAnswers], Notebook[RetrievalParameters, ScoredArmAnswers]
):
    """Steps of the retrieval notebook, in the order in which it calls them.

    ``embedder`` stands in place of all that the parameters name, and ``tokenizer`` of MiniLM's.
    """

    notebook = "retrieval"
    question = "Which retrieval strategy is the cheapest that is good enough on this corpus?"
    title = "Retrieval: the cheapest strategy that is good enough"
    parameters_class = RetrievalParameters
    spreads = ASSUMED_SD
    cost_note = (
        "Cost is counted work (query embedding, searched rows, fusion) times a calibrated rate, without storage and "
        "ingestion; it is the same on every machine. Latency is that of the machine that made the decision."
    )

    def __init__(
        self,
        parameters: RetrievalParameters,
        settings: Settings,
        *,
        embedder: Embedder | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        self._encoder = embedder, tokenizer
        self._dropped: dict[str, str] = {}  # found by `prepare`
        super().__init__(parameters, settings)

    def examine(self) -> None:
        """Load systems; refuse an evalset without questions, and work that has no price."""
        p, settings = self.parameters, self.settings
        self.evalset.require_questions()
        self._work = [w for arm in self._searched() for w in arm.work(0)]
        self.prices.cost_usd(self._work)  # refused before an encoder is paid
        if "postgres" in p.stores:
            pgvector_url(settings)
        self.systems = tuple(load_systems(p.systems, settings))

    def arm_names(self) -> Sequence[str]:
        """Arms of the grid, those that are fitted on dev, and your own systems."""
        return [*(arm.name for arm in self._grid(*self.parameters.strategies)), *self._fitted_names, *self.own_systems]

    @property
    def _fitted_names(self) -> list[str]:
        p = self.parameters
        grid = product(p.chunkers, [name for name in p.strategies if name in FITTED], p.embedders, p.stores)
        return [make_arm(c, name, Hybrid(), embedder=e, store=s).name for c, name, e, s in grid]

    def read(self) -> Mapping[str, str]:
        """Load encoders."""
        p, settings, evalset = self.parameters, self.settings, self.evalset
        given, tokenizer = self._encoder
        embedders = {name: given or load_embedder(name, settings) for name in p.embedders}
        if tokenizer is None:
            found = embedders.get("minilm")
            tokenizer = found if isinstance(found, MiniLM) else MiniLM(settings.cache / "weights")
        notes = [
            note for embedder in embedders.values() for note in retrieval_script_notes(evalset, embedder, p.strategies)
        ]
        self.evalset = replace(evalset, notes=(*evalset.notes, *dict.fromkeys(notes)))
        manifest = evalset.inputs.get("corpus") or content_hash(evalset.name)
        self.searcher = Searcher(evalset.documents, manifest, settings, embedders, tokenizer)
        inputs = {**evalset.inputs, **system_inputs(self.systems), **self.prices.rate_inputs(self._work)}
        for place, (name, embedder) in enumerate(embedders.items()):
            inputs |= fingerprint_of_encoder(embedder, name if place else "")
        return inputs

    def _searched(self) -> list[Arm]:
        """Arms that are asked, with those whose legs the fitted ones fuse."""
        p = self.parameters
        legs = ["hybrid_rrf"] if set(FITTED) & set(p.strategies) else []
        return self._grid(*legs, *p.strategies)

    def _grid(self, *strategies: str) -> list[Arm]:
        p = self.parameters
        return make_arms(p.chunkers, [*dict.fromkeys(strategies)], embedders=p.embedders, stores=p.stores)

    @property
    def own_systems(self) -> Sequence[str]:
        """Names of the arms that are the user's own."""
        return [s.name for s in self.systems]

    def contents(self) -> Table:
        """What the evalset holds, tenant by tenant."""
        return evalset_contents_table(self.evalset)

    def prepare(self) -> list[Candidate]:
        """Ingest, index and fit every arm, simplest first; of arms that do the same the simplest stays.

        Arms that are accepted, the anchor, or named as the reference, stay in any case: they are judged by their names.
        """
        p, dev = self.parameters, self.evalset.split("dev")
        queries = [*dev.queries, *self.evalset.split("test").queries]
        self.searcher.embed(self._searched(), queries, as_before=self.rechecks)
        arms = []
        for arm in self._grid(*p.strategies):
            bar = Progress(f"chunks of {arm.name}", 1)
            self.searcher.on_progress = partial(advance, bar)
            if why := self.searcher.unfit(arm):
                bar.done(f"{arm.name} is left out: {why}")
                continue
            if report := self.searcher.prepare(arm):
                bar.done(f"{arm.name}: {counted(report.chunks, 'chunk')} written, {report.embedded:,} embedded")
            arms.append(arm)
        learned, unfitted = self._fitted(dev)
        candidates: list[Candidate] = [*arms, *learned, *self.systems]
        if not candidates:
            raise ConfigError(f"no arm can be asked on this corpus: {'; '.join(self.left_out)}")
        check_candidate_names(candidates)
        accepted = self.accepted
        keep = {p.reference, self.rule().anchor, *(accepted.arms if accepted else ())}
        candidates, twins = drop_twin_arms(candidates, dev, self.searcher, depth=p.depth, keep=keep)
        self.searcher.rest()  # documents may have been embedded
        self._dropped.clear()
        self._dropped.update(unfitted | twins)
        for name, why in self._dropped.items():
            Progress(f"hits of {name}", 1).done(f"{name} is left out: {why}")
        return candidates

    def _fitted(self, dev: Split) -> tuple[list[FittedArm], dict[str, str]]:
        """Arms fitted on dev for each store and embedder, and by name why each of the others cannot be."""
        p, families = self.parameters, len(set(dev.clusters.values()))
        fitted = [name for name in p.strategies if name in FITTED]
        if families < LEAST_TO_FIT:
            why = f"fitting needs at least {LEAST_TO_FIT} question families on dev, found {families}"
            return [], dict.fromkeys(self._fitted_names, why)
        learned, unfitted = list[FittedArm](), dict[str, str]()
        for store, embedder in product(p.stores, p.embedders):
            more, why_not = fit_arms(
                self.searcher, p.chunkers, fitted, dev, embedder=embedder, store=store, timed=not self.rechecks
            )
            learned += more
            unfitted |= why_not
        return learned, unfitted

    @property
    def left_out(self) -> tuple[str, ...]:
        """Arms that find nothing here, that cannot be fitted, or that do what a simpler one does, with the reason."""
        arms = self._grid(*self.parameters.strategies)
        reasons = {arm.name: why for arm in arms if (why := self.searcher.unfit(arm))} | self._dropped
        return tuple(f"{name} is left out: {why}" for name, why in reasons.items())

    def arms_table(self, arms: Sequence[Candidate]) -> Table:
        """Arms as they print themselves, with their rows and what their encoder cuts off, and what encoders take."""
        table = arms_table(arms, self.searcher)
        return replace(table, caption=". ".join([table.caption, *self._encoders_told(arms), *self.left_out]))

    def _encoders_told(self, arms: Sequence[Candidate]) -> Iterator[str]:
        """Of each encoder that arms use, the length of its vectors, and what one dev question takes on average."""
        ours, queries = [arm for arm in map(our_arm, arms) if arm is not None], self.evalset.split("dev").queries
        first = {arm.embedder: arm for arm in reversed(ours) if arm.strategy.uses_vectors}
        for name in self.parameters.embedders if queries else ():
            if name in first:
                ms = median(self.searcher.embedding_ms(first[name], query) for query in queries)
                usd = price(self.prices.cost_usd([price_of_query_embedding(name)]), "question")
                length = self.searcher.encoder(first[name]).dimension
                yield f"{name}: vectors of {length}, {ms:.1f} ms a question, {usd}"

    def score(self, arms: Sequence[Candidate], split: str) -> ScoredArmAnswers:
        """Ask every question of one split, arm by arm, and score what comes back."""
        part, depth = self.evalset.split(split), self.parameters.depth
        return ask_all_arms(arms, part, self.searcher, depth=depth, timed=not self.rechecks)

    def test(self, dev: ScoredArmAnswers, finalists: Finalists) -> ScoredArmAnswers:
        """Judge the finalists on the test questions, and measure the spread of indices built at random."""
        scored, p = super().test(dev, finalists), self.parameters
        spreads = [
            arm_spread_over_rebuilds(
                arm,
                scored.part,
                self.searcher,
                answered=scored.answers[name],
                metric=finalists.rule.metric,
                depth=p.depth,
                rebuilds=p.rebuilds,
            )
            for name, arm in zip(scored.names, scored.arms, strict=True)
        ]
        facts = (replace(f, spread=spread) for f, spread in zip(scored.facts, spreads, strict=True))
        return replace(scored, facts=tuple(facts))

    def scale(self) -> Figure:
        """Up to how many rows and requests a second each store meets the limit; measured, or as committed."""
        p, policy, settings = self.parameters, self.policy, self.settings
        if p.scale_rows:
            places = {s: pgvector_url(settings) if s == "postgres" else settings.cache / "scale" for s in p.stores}
            scale = measure_scale(p.scale_rows, places)
            scale.save(self.folder / "scale.json")
        else:
            scale = Scale.load(COMMITTED)
        rows = max(Counter(d.tenant_id for d in self.evalset.documents).values())
        return scale_figure(
            scale, limit_ms=policy.latency_p95_ms, rows=rows, requests_per_month=policy.requests_per_month
        )

    def passages(
        self,
        decision: Decision,
        dev: ScoredArmAnswers,
        test: ScoredArmAnswers,
        *,
        lost: float = LOST,
        unanswerable: float = UNANSWERABLE,
    ) -> Table:
        """How many documents of the decided arm go to the model, and when none is good enough to answer from.

        Both limits are set on dev and shown on test; the run keeps them, and `Searcher.passages` serves by them.

        Parameters
        ----------
        lost : float
            Share of a family's questions that each limit may lose, on average.
        unanswerable : float
            Share of the questions asked that the documents do not answer.
        """
        arms = dict(zip(test.names, test.arms, strict=True))
        if decision.arm not in arms:
            return Table.of(("passages",), [], f"{decision.arm} was not asked in this run")
        arm, tokens = our_arm(arms[decision.arm]), cache(self.searcher.tokens)
        on_dev, on_test = (
            passage_evidence_of(scored.answers[decision.arm].run, scored.part, self._nearest_in(scored, arm), tokens)
            for scored in (dev, test)
        )
        limits = calibrate_passages(on_dev, decision.arm, lost=lost, unanswerable=unanswerable)
        limits.save(self.folder)
        return passages_table(on_dev, on_test, limits, unanswerable=unanswerable)

    def _nearest_in(self, scored: ScoredArmAnswers, arm: Arm | None) -> Nearest | None:
        """Look the nearest passages up among what the arm found; search for those of an arm that searched otherwise."""
        if arm is None:
            return None
        if (known := scored.nearest.get(arm.name)) is None:
            return partial(self.searcher.nearest, arm)
        return lambda query, _: known[query.query_id]

    @property
    def dev_note(self) -> str:
        """What the scores on dev are, and which arms are not among them."""
        return " ".join([super().dev_note, *(f"{why}." for why in self.left_out)])

    def warnings(self, test: ScoredArmAnswers, dev: ScoredArmAnswers | None) -> Sequence[str]:
        """What makes a pass mean less; of arms that nobody asked for by name it is told beside the scores."""
        p = self.parameters
        out = [*self.evalset.notes]
        if not test.part.pooled and not known_answers(test.part.qrels, test.split):  # which is a note already
            out.append("The judgements name relevant documents only: whatever they do not name counts as not relevant.")
        for arm, answers in test.answers.items():
            if answers.errors:
                out.append(f"{arm}: {counted(len(answers.errors), 'question')} failed and count against it.")
        for arm, (low, high) in test.bounds().items() if self.policy.metric == "ndcg@10" else ():
            out.append(
                f"{arm}: less than {percent(WELL_JUDGED)} of its top 10 is judged; its nDCG@10 lies between {low:.3f} "
                f"and {high:.3f}."
            )
        if unjudged := len(to_judge(test)):
            out.append(judgement_sheet_note(unjudged, self.folder.name, self.evalset.name))
        out += [note for system in self.systems for note in system.notes]
        asked = not (all(is_default(p, name) for name in ("strategies", "chunkers", "embedders", "stores")))
        told = [*(self.left_out if asked else ()), *(dev.notes if dev else ()), *test.notes]
        return [*out, *(f"{why}." for why in told)]

    def save(
        self, decision: Decision, test: ScoredArmAnswers, *tables: Table, dev: ScoredArmAnswers | None = None
    ) -> Summary:
        """Write everything the report and the gate need; what is unjudged goes to ``to_judge.jsonl``."""
        unjudged = to_judge(test)
        if len(unjudged):
            pairs = unjudged.select("query_id", "doc_id").rows()
            write_judgement_sheet(self.folder / SHEET, pairs, self.evalset.queries, self.evalset.documents)
        if dev is not None and len(self.parameters.stores) > 1:
            rule = decision.rule
            tables += (retrieval_stores_table(dev.scores, dev.facts, rule.metric, rule.requests_per_month),)
        return super().save(decision, test, *tables, dev=dev)
