"""The retrieval experiment, which asks for the cheapest strategy that is good enough on a corpus."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import polars as pl

from workbench.config import Settings, load_settings
from workbench.errors import ConfigError
from workbench.evalset.evalset import Split, load_evalset
from workbench.evalset.imports.judgements import SHEET, sheet_note, write_sheet
from workbench.evaluation.experiment import Experiment, Finalists, open_experiment
from workbench.evaluation.gate import MIN_REBUILDS
from workbench.evaluation.power import plan
from workbench.evaluation.provenance import build_parameters, encoder_probe, parameter_inputs
from workbench.evaluation.summary import (
    ItemCase,
    Summary,
    assumed_money,
    changed_cases,
    compared,
    frontier_points,
    is_default,
    item_cases,
    losses,
    losses_title,
    section_of,
    slice_rows,
    would_change,
)
from workbench.inference.embedding import Embedder, MiniLM, check_embedder, load_embedder
from workbench.inference.prices import project_prices
from workbench.records import Decision, content_hash
from workbench.rendering.progress import Progress
from workbench.rendering.table import Table
from workbench.reports.charts import forest, slices
from workbench.reports.ending import end_run
from workbench.reports.figure import Figure
from workbench.reports.frontier import frontier
from workbench.retrieval.arms import FITTED, make_arms
from workbench.retrieval.ask import (
    WELL_JUDGED,
    Answers,
    Candidate,
    Scored,
    arms_table,
    ask_all,
    candidate_name,
    check_names,
    drop_twins,
    foreign_hits,
    optimistic,
    spread_over_rebuilds,
)
from workbench.retrieval.chunking import Tokenizer
from workbench.retrieval.fitting import LEAST_TO_FIT, fit_arms
from workbench.retrieval.scale import scale_figure
from workbench.retrieval.searcher import Searcher
from workbench.retrieval.systems import SystemArm, load_systems, system_inputs
from workbench.retrieval.tables import contents_table, power_table

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
            *(note for arm in dev.arms if isinstance(arm, SystemArm) for note in arm.notes),
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
            f"{high:.3f}."
        )
    if unjudged := len(to_judge(test.answers, test.split)):
        out.append(sheet_note(unjudged, experiment.folder.name, experiment.evalset.name))
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


# Standard deviation per question family of a paired nDCG difference, before any arm has run: the middle of what
# hybrids and their legs show on public collections.
ASSUMED_SD = 0.2


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
    embedder: str = "minilm"
    systems: tuple[str, ...] = ()
    reference: str = ""
    depth: int = 100
    rebuilds: int = MIN_REBUILDS
    scale_rows: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        make_arms(self.chunkers, self.strategies)
        check_embedder(self.embedder)
        _check_rebuilds(self.rebuilds)


@dataclass(frozen=True, slots=True)
class RetrievalBench:
    """Steps of the retrieval notebook, in the order in which it calls them."""

    experiment: Experiment
    parameters: RetrievalParameters
    searcher: Searcher
    systems: tuple[SystemArm, ...]
    _dropped: dict[str, str] = field(default_factory=dict, repr=False, compare=False)  # found by `prepare`

    @classmethod
    def start(cls, **given: object) -> Self:
        """Load everything that can be refused, before anything is computed."""
        settings = load_settings()
        parameters = build_parameters(RetrievalParameters, given)
        embedder = load_embedder(parameters.embedder, settings)
        tokenizer = embedder if isinstance(embedder, MiniLM) else MiniLM(settings.cache / "weights")
        return cls.open(parameters, settings, embedder=embedder, tokenizer=tokenizer)

    @classmethod
    def open(
        cls, parameters: RetrievalParameters, settings: Settings, *, embedder: Embedder, tokenizer: Tokenizer
    ) -> Self:
        """Begin with an encoder and a tokenizer of your own, in place of those that the parameters name."""
        systems = tuple(load_systems(parameters.systems, settings))
        evalset = load_evalset(parameters.evalset, settings=settings, seed=parameters.seed)
        inputs = {
            **evalset.inputs,
            **parameter_inputs(parameters),
            **system_inputs(systems),
            "weights": embedder.encoder_id,
            "encoder probe": encoder_probe(embedder),
            "prices": project_prices(settings.root).sha256,
        }
        experiment = open_experiment(
            "retrieval",
            "Which retrieval strategy is the cheapest that is good enough on this corpus?",
            settings=settings,
            evalset=evalset,
            parameters=parameters,
            inputs=inputs,
            dev_items=evalset.qrels.get("dev", {}),
        )
        manifest = evalset.inputs.get("corpus") or content_hash(evalset.name)
        searcher = Searcher(evalset.documents, manifest, settings, embedder, tokenizer)
        return cls(experiment, parameters, searcher, systems)

    @property
    def config(self) -> Table:
        """Parameters and rule of this run."""
        return self.experiment.config

    def contents(self) -> Table:
        """What the evalset holds, tenant by tenant."""
        return contents_table(self.experiment.evalset)

    def power(self) -> Table:
        """What the test split can show, before any arm has run."""
        test, policy = self.experiment.evalset.split("test"), self.experiment.policy
        families = len(set(test.clusters.values()))
        plans = [plan(sd, policy.margin, families, confidence=policy.confidence) for sd in (0.1, ASSUMED_SD, 0.3)]
        return power_table(plans, len(test.queries))

    def prepare(self) -> list[Candidate]:
        """Ingest, index and fit every arm, simplest first; of arms that do the same the simplest stays.

        Arms that are accepted, the anchor, or named as the reference, stay in any case: they are judged by their names.
        """
        p, dev = self.parameters, self.experiment.evalset.split("dev")
        arms = []
        for arm in make_arms(p.chunkers, p.strategies, embedder=p.embedder):
            bar = Progress(f"chunks of {arm.name}", 1)
            self.searcher.on_progress = lambda done, total, bar=bar: _advance(bar, done, total)
            if why := self.searcher.unfit(arm):
                bar.done(f"{arm.name} is left out: {why}")
                continue
            if report := self.searcher.prepare(arm):
                bar.done(f"{arm.name}: {report.chunks:,} chunks written, {report.embedded:,} embedded")
            arms.append(arm)
        fitted, families = [name for name in p.strategies if name in FITTED], len(set(dev.clusters.values()))
        unfitted = {}
        if families < LEAST_TO_FIT:
            why = f"fitting needs at least {LEAST_TO_FIT} question families on dev, found {families}"
            unfitted = {f"{chunker} · {name}": why for chunker in p.chunkers for name in fitted}
            fitted = []
        learned = fit_arms(self.searcher, p.chunkers, fitted, dev, embedder=p.embedder)
        candidates: list[Candidate] = [*arms, *learned, *self.systems]
        if not candidates:
            raise ConfigError(f"no arm can be asked on this corpus: {'; '.join(self.left_out)}")
        check_names(candidates)
        accepted = self.experiment.accepted
        keep = {p.reference, self.experiment.rule().anchor, *(accepted.arms if accepted else ())}
        candidates, twins = drop_twins(candidates, dev, self.searcher, depth=p.depth, keep=keep)
        self._dropped.clear()
        self._dropped.update(unfitted | twins)
        for name, why in self._dropped.items():
            Progress(f"hits of {name}", 1).done(f"{name} is left out: {why}")
        return candidates

    @property
    def left_out(self) -> tuple[str, ...]:
        """Arms that find nothing here, that cannot be fitted, or that do what a simpler one does, with the reason."""
        p = self.parameters
        arms = make_arms(p.chunkers, p.strategies, embedder=p.embedder)
        reasons = {arm.name: why for arm in arms if (why := self.searcher.unfit(arm))} | self._dropped
        return tuple(f"{name} is left out: {why}" for name, why in reasons.items())

    def arms_table(self, arms: Sequence[Candidate]) -> Table:
        """Arms as they print themselves, with their rows and what their encoder cuts off."""
        table = arms_table(arms, self.searcher)
        return replace(table, caption=". ".join([table.caption, *self.left_out]))

    def score(self, arms: Sequence[Candidate], split: str) -> Scored:
        """Ask every question of one split, arm by arm, and score what comes back."""
        return ask_all(arms, self.experiment.evalset.split(split), self.searcher, depth=self.parameters.depth)

    def finalists(self, dev: Scored) -> Finalists:
        """Pick on dev alone: what is always tested, and the arms that dev cannot rule out."""
        experiment, p = self.experiment, self.parameters
        return experiment.finalists(
            dev.of(experiment.policy.metric),
            dev.facts,
            asked=p.reference,
            test_clusters=len(set(experiment.evalset.split("test").clusters.values())),
            systems=[s.name for s in self.systems],
            seed=p.seed,
        )

    def test(self, dev: Scored, finalists: Finalists) -> Scored:
        """Judge the finalists on the test questions, and measure the spread of indices built at random."""
        by_name = {candidate_name(a): a for a in dev.arms}
        if gone := [n for n in finalists.names if n not in by_name]:
            raise ConfigError(f"the accepted arms {', '.join(gone)} are not among this run's arms")
        scored = self.score([by_name[n] for n in finalists.names], "test")
        order = {f.name: f.order for f in dev.facts}
        facts = []
        for fact in scored.facts:
            spread = spread_over_rebuilds(
                by_name[fact.name],
                scored.split,
                self.searcher,
                answered=scored.answers[fact.name],
                metric=finalists.rule.metric,
                depth=self.parameters.depth,
                rebuilds=self.parameters.rebuilds,
            )
            facts.append(replace(fact, order=order[fact.name], spread=spread))
        return replace(scored, facts=tuple(facts))

    def decide(self, test: Scored, finalists: Finalists) -> Decision:
        """Judge once on test, by the rule that was fixed on dev."""
        return self.experiment.decide(
            test.scores,
            test.facts,
            finalists,
            against=optimistic(test, finalists.rule),
            seed=self.parameters.seed,
            n_documents=len(self.experiment.evalset.documents),
        )

    def forest(self, decision: Decision) -> Figure:
        """Paired differences from the best other arm for the money, with the margin."""
        return forest(decision.claims, decision.rule)

    def frontier(self, finalists: Finalists, dev: Scored) -> Figure:
        """Every arm by cost and quality on dev, with the frontier; tied arms are drawn as tied."""
        rule, assumed = finalists.rule, self.experiment.policy.requests_per_month is None
        points = frontier_points(dev.of(rule.metric), dev.facts, split="dev")
        return frontier(points, rule.metric, requests_per_month=rule.requests_per_month, assumed=assumed)

    def slices(self, decision: Decision, test: Scored) -> Figure:
        """Finalists by tenant, feature and style."""
        return slices(slice_rows(test.of(decision.rule.metric), [f.name for f in test.facts]))

    def regressions(self, decision: Decision, test: Scored) -> Table | None:
        """Questions on which the decided arm loses most against what is in use, or the best other; None without one."""
        return regression_table(decision, test)

    def scale(self) -> Figure:
        """At which number of rows exact search stops meeting the limit; measured, or the committed measurement."""
        experiment, rows = self.experiment, self.parameters.scale_rows
        limit = experiment.policy.latency_p95_ms
        return scale_figure(experiment.settings, rows, folder=experiment.folder, limit_ms=limit)

    def leaks(self, *scored: Scored) -> int:
        """Count hits that belong to another tenant than the question's; must be 0."""
        return sum(foreign_hits(s, self.experiment.evalset.documents) for s in scored)

    def save(self, decision: Decision, dev: Scored, test: Scored) -> Summary:
        """Write everything the report and the gate need; what is unjudged goes to ``to_judge.jsonl``."""
        experiment = self.experiment
        unjudged = to_judge(test.answers, test.split)
        if len(unjudged):
            pairs, evalset = unjudged.select("query_id", "doc_id").rows(), experiment.evalset
            write_sheet(experiment.folder / SHEET, pairs, evalset.queries, evalset.documents)
        summary = summarise(experiment, decision, dev, test, left_out=self.left_out)
        scores = pl.concat([s.scores.with_columns(split=pl.lit(s.split.name)) for s in (dev, test)])
        experiment.save(decision, summary, scores)
        return summary

    def gate(self, decision: Decision, dev: Scored, test: Scored) -> None:
        """Say whether the accepted decision still holds; raises after everything is on disk."""
        invariants = {"hits of another tenant": self.leaks(dev, test)}
        items = self.experiment.evalset.split("test").qrels
        gate = self.experiment.gate(decision, test.scores, invariants, items=items)
        end_run(self.experiment, decision, gate)


def _check_rebuilds(rebuilds: int) -> None:
    if rebuilds and rebuilds < MIN_REBUILDS:
        raise ConfigError(
            f"the spread of an index that is built at random needs at least {MIN_REBUILDS} rebuilds, found "
            f"rebuilds={rebuilds}; give {MIN_REBUILDS} or more, or 0 for none"
        )


def _advance(bar: Progress, done: int, total: int) -> None:
    bar.total = total
    bar.update(done)
