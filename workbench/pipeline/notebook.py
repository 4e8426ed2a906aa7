"""The pipeline experiment: which configuration of the answer flow is the cheapest that is good enough, end to end."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl

from workbench.codec import NEEDED, NEUTRAL, from_plain
from workbench.errors import ConfigError, EvalsetError, unknown_name
from workbench.evaluation.compare import SCORES_SCHEMA
from workbench.evaluation.decision import ArmFacts
from workbench.evaluation.experiment import PairedExperiment
from workbench.evaluation.fingerprint import SEED
from workbench.evaluation.repeats import repeat_score_columns
from workbench.evaluation.run_summary import ItemCase, ScoredArms, item_cases, mean_by_arm
from workbench.inference.call_attempt import Books
from workbench.inference.client import Client
from workbench.inference.messages import PREFIX, Completion, Usage
from workbench.inference.prices import MS_PER_HOUR
from workbench.inference.recordings import FOLDER, Recordings
from workbench.orchestration.replay import ShownReplay, diff, shown_replay
from workbench.orchestration.steps import Flow, FlowRun, rehearse
from workbench.pipeline.flow import AnswerPlan, Library, Shelf, answer, is_function
from workbench.pipeline.losses import Losses, is_right_answer, loss_of
from workbench.pipeline.rewrites import OFF, Rewriting, check_rewrite, load_rewriting, rewritten_file
from workbench.pipeline.routes import check_route, refuse_unrecorded_routes, routes_asked, serve_routes
from workbench.records import Decision, Query, content_hash, parameters_of
from workbench.rendering.numbers import counted
from workbench.rendering.progress import Progress
from workbench.rendering.table import Column, Table
from workbench.reports.ending import Notebook
from workbench.routing.accepted_router import HITS
from workbench.routing.prompts import Prompts, load_prompts
from workbench.routing.recorded_hits import hits_changed_since, recorded_hit_rows, retrieval_amounts, retrieval_usd
from workbench.routing.recorded_outcomes import recording_file, require_recorded

METRIC = "correctness"
CHECKS = ("off", "on")
SLICES = ("tenant_id", "feature", "style")


@dataclass(frozen=True, slots=True)
class PipelineParameters:
    """Parameters of ``04_pipeline``; the notebook's cell has the same names and defaults.

    ``models`` come cheapest first: the last is what a checked flow escalates to. ``contexts`` are names in the
    evalset's ``prompts.toml``, the narrowest first: the last is what a draft gets that is made again. ``routes`` stand
    beside the models: ``accepted`` is the evalset's routing decision, any other a policy that is fitted on dev.
    ``rewrites`` say who makes search queries of vague questions: ``off``, a model, or ``module:function`` of your own.
    """

    evalset: str = "docs_qa"
    models: tuple[str, ...] = field(default=("local/smollm2-135m", "local/qwen2.5-coder-0.5b"), metadata={NEEDED: True})
    contexts: tuple[str, ...] = field(default=("bare", "top2", "top5"), metadata={NEEDED: True})
    checks: tuple[str, ...] = field(default=CHECKS, metadata={NEEDED: True})
    routes: tuple[str, ...] = field(default=(), metadata={NEUTRAL: ()})
    rewrites: tuple[str, ...] = field(default=(OFF,), metadata={NEUTRAL: (OFF,), NEEDED: True})
    reference: str = ""
    seed: int = field(default=0, metadata=SEED)

    def __post_init__(self) -> None:
        for route in self.routes:
            check_route(route)
        for by in self.rewrites:
            check_rewrite(by)
        for check in self.checks:
            if check not in CHECKS:
                raise ConfigError(unknown_name("check", check, CHECKS))


@dataclass(frozen=True, slots=True)
class FlowArm:
    """One configuration of the flow, with its place among the arms, simplest first."""

    plan: AnswerPlan
    order: int

    @property
    def name(self) -> str:
        """Model and context, or the route that picks both; who rewrites; and what follows a check."""
        plan = self.plan
        if plan.model.startswith(PREFIX):
            begin = f"router {plan.model.removeprefix(PREFIX)}"
        else:
            begin = f"{plan.model.rpartition('/')[2]}@{plan.context}"
        rewritten = f" · rewritten by {str(plan.rewrite).rpartition('/')[2]}" if plan.rewrite else ""
        return f"{begin}{rewritten}{' · checked' if plan.check else ''}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ScoredFlows(ScoredArms):
    """What the arms answered to the questions of one split, run by run; ``runs`` are those of the first repeat."""

    words: ClassVar[tuple[str, str, str]] = ("question", "right", "answers")
    arms: tuple[FlowArm, ...]
    queries: Sequence[Query]
    runs: Mapping[str, Mapping[str, FlowRun]]

    def shown(self, arm: str) -> str:
        """The arm itself if it was run, else the one that was right most often: what stands as accepted has no runs."""
        means = mean_by_arm(self.scores, METRIC)
        return arm if arm in self.runs else max(self.names, key=lambda name: means[name])

    @property
    def table(self) -> Table:
        """Quality, cost, latency, and how each arm ended: refused, and drafts made per question."""
        means = mean_by_arm(self.scores, METRIC)
        rows = []
        for f in sorted(self.facts, key=lambda f: -means[f.name]):
            results = [run.result for run in self.runs[f.name].values()]
            refused = sum(result["status"] == "refused" for result in results) / len(results)
            drafts = sum(result["drafts"] for result in results) / len(results)
            rows.append((f.name, means[f.name], f.cost_usd_per_1k, f.latency_p95_ms, refused, drafts))
        columns = (
            Column("arm"), Column("correctness", "number"), Column("USD per 1,000", "usd"),
            Column("p95", "ms"), Column("refused", "share"), Column("drafts per question", "number", digits=2),
        )  # fmt: skip
        more, cells = repeat_score_columns(self.scores, self.names)
        told = tuple((*row, *cells[row[0]]) for row in rows)
        return Table((*columns, *more), told, f"Configurations of the flow, on {self.split}")

    def cases(self, metric: str) -> Mapping[str, ItemCase]:
        """Questions with what is right, and what each arm answered or why it refused."""
        expected = {q.query_id: q.accept for q in self.queries}
        returned = {
            arm: {query_id: [_flow_answer_told(run.result)] for query_id, run in self.runs[arm].items()}
            for arm in self.names
        }
        return item_cases(self.of(metric), self.queries, expected=expected, returned=returned)


def _flow_answer_told(result: Mapping[str, Any]) -> str:
    if result["status"] == "answered":
        return str(result["answer"])
    return "refused: " + "; ".join(", ".join(reasons) for reasons in result["reasons"])


class PipelineExperiment(
    PairedExperiment[PipelineParameters, ScoredFlows], Notebook[PipelineParameters, ScoredFlows]
):  # fmt: skip
    """Steps of the pipeline notebook, in the order in which it calls them.

    Attributes
    ----------
    flow : Flow
        What is run; a subclass may name one of your own that takes and returns what `workbench.pipeline.flow.answer`
        does, with steps ``retrieve`` and ``draft``.
    """

    flow: ClassVar[Flow] = answer
    notebook = "pipeline"
    question = "Which configuration of the answer flow is the cheapest that is good enough, end to end?"
    title = "Pipeline: from a question to a right answer"
    parameters_class = PipelineParameters
    spreads = (0.2, 0.35, 0.5)
    cost_note = (
        "Cost is that of every draft and written query, by its tokens at declared prices, of retrieving once where a "
        "draft is shown documents, and of routing. Latency of local models is counted processor time."
    )

    def examine(self) -> None:
        """Load documents, recorded hits and recorded answers, and refuse what cannot be used.

        Raises
        ------
        ConfigError
            If a model or a context is none of ``prompts.toml``, no answer of a model is recorded, or a route cannot
            be served.
        EvalsetError
            If the recorded hits no longer fit the corpus, the questions or the accepted retrieval.
        RecordingMiss
            If a configuration needs answers that are not recorded, or a route may choose such, with what records them.
        """
        p, evalset, prompts = self.parameters, self.evalset, load_prompts(self.evalset)
        models = [*p.models, *self._rewriters]
        for kind, given, known in (("model", models, prompts.models), ("context", p.contexts, [*prompts.contexts])):
            if strange := [name for name in given if name not in known]:
                raise ConfigError(unknown_name(kind, strange[0], known))
        require_recorded(evalset, models)
        if changed := hits_changed_since(evalset):
            raise EvalsetError(
                f"the recorded hits and answers of {evalset.name} are from before the {', '.join(changed)} "
                f"changed; record them anew with: workbench record {evalset.name}"
            )
        hits = {row["query_id"]: row["doc_ids"] for row in recorded_hit_rows(evalset, HITS)}
        found = {(q.text, q.tenant_id): hits[q.query_id] for q in evalset.queries if q.query_id in hits}
        self.retrieval, self.retrieval_usd = retrieval_amounts(evalset), retrieval_usd(evalset)
        self.asked = tuple(dict.fromkeys(models))
        self._refuse_unrecorded(product(p.models, p.contexts), hits)
        self.rewriting = {by: self._rewriting(by, hits, prompts) for by in p.rewrites if by != OFF}
        for rewriting in self.rewriting.values():
            found |= rewriting.searched
        self.library = Library(self.settings, lambda query: found[query.text, query.tenant_id])
        routed = routes_asked(p.routes, evalset, self.settings, self.prices, models=p.models, contexts=p.contexts)
        self.asked = tuple(dict.fromkeys([*self.asked, *(model for model, _ in routed)]))
        require_recorded(evalset, self.asked)
        again = [(model, p.contexts[-1]) for model, _ in routed if "on" in p.checks]
        self._refuse_unrecorded([*routed, *again], hits)

    def arm_names(self) -> Sequence[str]:
        """Every configuration."""
        return [arm.name for arm in self.prepare()]

    def read(self) -> Mapping[str, str]:
        """Make the routes, some of which read vectors, and hash what was read."""
        p, evalset = self.parameters, self.evalset
        self.shelf: Shelf = self.library.add(p.evalset, evalset)
        self.routes = serve_routes(p.routes, evalset, self.settings, self.prices, models=p.models, contexts=p.contexts)
        files = {f"recordings of {model}": recording_file(evalset, model) for model in self.asked}
        files |= {path.name: path for path in self._rewritten}
        files |= {"prompts": evalset.path / "prompts.toml", HITS: evalset.path / FOLDER / HITS}
        inputs = {name: content_hash(path.read_bytes()) for name, path in files.items()}
        for more in (*(one.inputs for one in self.rewriting.values()), *(one.inputs for one in self.routes.values())):
            inputs |= more
        return {**evalset.inputs, **inputs}

    def _refuse_unrecorded(self, needed: Iterable[tuple[str, str]], hits: Mapping[str, Sequence[str]]) -> None:
        recordings = {model: Recordings(recording_file(self.evalset, model)) for model in self.asked}
        refuse_unrecorded_routes(self.evalset, load_prompts(self.evalset), hits, needed, recordings)

    @property
    def _rewriters(self) -> list[str]:
        """Models among those that write search queries."""
        return [by for by in self.parameters.rewrites if by != OFF and not is_function(by)]

    @property
    def _rewritten(self) -> list[Path]:
        """Files of what was asked because questions are rewritten; none where they are not."""
        if not self.rewriting:
            return []
        return [path for model in self.asked if (path := rewritten_file(self.evalset, model)).is_file()]

    def _rewriting(self, by: str, hits: Mapping[str, Sequence[str]], prompts: Prompts) -> Rewriting:
        """What one rewriter makes of the questions, with every answer to it recorded."""
        p, evalset = self.parameters, self.evalset
        recordings = {
            model: Recordings(rewritten_file(evalset, model), also=[recording_file(evalset, model)])
            for model in self.asked
        }
        rewriting = load_rewriting(by, evalset, self.settings, hits, recordings.get(by))
        needed = [(m, c) for m, c in product(p.models, p.contexts) if prompts.contexts[c].documents]
        command = f"workbench record {evalset.name} --rewrites {by}"
        refuse_unrecorded_routes(evalset, prompts, rewriting.found, needed, recordings, command=command)
        return rewriting

    def prepare(self) -> list[FlowArm]:
        """Every configuration, simplest first: unchecked ones, then those that check, widen and escalate."""
        p, arms = self.parameters, list[tuple[str, str, str, bool]]()
        shown = [name for name in p.contexts if load_prompts(self.evalset).contexts[name].documents]
        for check in sorted(p.checks, key=CHECKS.index):
            for by in p.rewrites:  # without documents nothing comes of another search
                arms += [(m, c, by, check == "on") for m, c in product(p.models, p.contexts if by == OFF else shown)]
            arms += [(f"{PREFIX}{route}", p.contexts[-1], OFF, check == "on") for route in p.routes]
        return [FlowArm(self._plan(*arm), order) for order, arm in enumerate(arms)]

    def _plan(self, model: str, context: str, by: str, checked: bool) -> AnswerPlan:
        p = self.parameters
        strong = p.models[-1] if checked and model != p.models[-1] else ""
        rewrite = False if by == OFF else by
        return AnswerPlan(p.evalset, model, strong, context, p.contexts[-1], rewrite, check=checked)

    def score(self, arms: Sequence[FlowArm], split: str) -> ScoredFlows:
        """Run every configuration on every question of one split, from the recordings."""
        part, rows, facts = self.evalset.split(split), list[tuple[Any, ...]](), list[ArmFacts]()
        runs, repeats, recordings = dict[str, dict[str, FlowRun]](), self._repeats(), self._recordings()
        bar = Progress(f"{split} questions", len(arms) * len(part.queries) * repeats)
        for arm in arms:
            tools = {"library": self.library, "client": self._client(recordings)}
            plan, runs[arm.name] = arm.plan.to_plain(), {}
            costs, used = [], Counter[str]()
            for repeat, query in product(range(repeats), part.queries):
                run = rehearse(self.flow, tools, query.text, tenant_id=query.tenant_id, plan=plan)
                runs[arm.name].setdefault(query.query_id, run)
                cost = self.cost_usd(run)
                right = float(is_right_answer(run.result["answer"], query.accept))
                rows.append(_flow_score_row(arm, query, repeat, right, cost))
                costs.append(cost)
                used.update(self.amounts(run))
                bar.update(len(rows))
            p95 = float(np.quantile(np.array(costs) / self.prices.usd_per_vcpu_hour * MS_PER_HOUR, 0.95))
            amounts = {name: 1000 * n / len(costs) for name, n in used.items()}
            usd_per_1k = 1000 * float(np.mean(costs))
            facts.append(ArmFacts(arm.name, parameters_of(arm.plan), usd_per_1k, p95, arm.order, amounts=amounts))
        bar.done(f"{counted(len(arms), 'configuration')} answered {len(part.queries)} {split} questions")
        schema = SCORES_SCHEMA | {f"slice_{name}": pl.String for name in SLICES}
        scores = pl.DataFrame(rows, schema=schema, orient="row")
        return ScoredFlows(split, tuple(arms), scores, tuple(facts), part.queries, runs)

    def _files(self) -> list[Path]:
        """Files of all recorded answers that the configurations may be given."""
        return [*(recording_file(self.evalset, model) for model in self.asked), *self._rewritten]

    def _repeats(self) -> int:
        """How often every recorded request was answered, by each model."""
        return max(min(Recordings(path).repeats for path in self._files()), 1)

    def _recordings(self) -> Recordings:
        first, *rest = self._files()
        return Recordings(first, also=rest)

    def _client(self, recordings: Recordings) -> Client:
        """Client that gives each recorded answer once, and asks nothing."""
        routers = {name: route.routes for name, route in self.routes.items()}
        return Client({}, Books(self.prices), recordings=recordings.unused(), routers=routers)

    def cost_usd(self, run: FlowRun) -> float:
        """Dollars of one run: the tokens of its query and drafts, routing, and a retrieval if a draft is shown any."""
        nanos = sum(self.prices.cost_nanos(model, usage) for model, usage in _flow_models_asked(run))
        routing = sum(self.routes[name].overhead_usd for name in _flow_routes_picked(run))
        return nanos / 1e9 + routing + (self.retrieval_usd if _flow_shows_documents(run) else 0.0)

    def amounts(self, run: FlowRun) -> dict[str, float]:
        """What one run uses of each thing that has a price, as `cost_usd` counts it."""
        out = Counter[str]()
        for model, usage in _flow_models_asked(run):
            out.update(self.prices.token_amounts(model, usage))
        if _flow_shows_documents(run):
            out.update(self.retrieval)
        for name in _flow_routes_picked(run):
            out.update(self.routes[name].amounts)
        return dict(out)

    def losses(self, scored: ScoredFlows, arm: str) -> Losses:
        """What lost each answer of one arm; of the best that was run, if that arm stands as accepted and was not."""
        grades, shown = self.evalset.split(scored.split).qrels, scored.shown(arm)
        runs = scored.runs[shown]
        return Losses(
            [
                loss_of(runs[q.query_id], q, grades[q.query_id], self.shelf, cost_usd=self.cost_usd(runs[q.query_id]))
                for q in scored.queries
            ],
            shown if shown != arm else "",
        )

    def worst(self, scored: ScoredFlows, arm: str) -> FlowRun:
        """The dearest run that came to no right answer, step by step, of the arm that `losses` tells of."""
        runs = scored.runs[scored.shown(arm)]
        wrong = [
            runs[q.query_id] for q in scored.queries if not is_right_answer(runs[q.query_id].result["answer"], q.accept)
        ]
        return max(wrong or [*runs.values()], key=self.cost_usd)

    def replay(self, scored: ScoredFlows, arm: str) -> ShownReplay:
        """The run that `worst` shows, done again from its record with models and network refused, and compared."""
        arm = scored.shown(arm)
        run = self.worst(scored, arm)
        tools = {"library": self.library, "client": Client({}, Books(self.prices))}
        return shown_replay(self.flow, run, tools, title=f"{self._question(scored, arm, run)}, {arm}")

    def diff(self, decision: Decision, scored: ScoredFlows) -> Table:
        """What differs between that run and the same question by the arm in use, or by the best other that was tested.

        Without any other arm it says so.
        """
        arm = scored.shown(decision.arm)
        best = next((c.best for c in decision.claims if c.arm == arm), "")
        others = (decision.rule.reference, best, *scored.names)
        other = next((name for name in others if name != arm and name in scored.runs), "")
        if not other:
            return Table.of(("step", "what"), [], f"No other configuration was tested beside {arm}")
        run = self.worst(scored, arm)
        query_id = self._question(scored, arm, run)
        beside = scored.runs[other][query_id]
        return diff(beside, run, names=(other, arm), title=f"{query_id}, {run.asking.args[0]} - ")

    def _question(self, scored: ScoredFlows, arm: str, run: FlowRun) -> str:
        return next(query_id for query_id, one in scored.runs[arm].items() if one is run)


def _flow_models_asked(run: FlowRun) -> Iterator[tuple[str, Usage]]:
    """Model and tokens of the query that was written, if one was, and of each draft."""
    for step in run.steps:
        if step.name == "draft":
            yield step.output["model"], from_plain(Usage, step.output["usage"], "usage")
        elif step.name == "find":
            for place in step.calls:
                done = from_plain(Completion, run.calls[place].done, "the call of a query")
                yield done.route.model, done.usage or Usage()


def _flow_shows_documents(run: FlowRun) -> bool:
    """Whether a draft is shown documents."""
    return any(step.output["shown"] for step in run.steps if step.name == "draft")


def _flow_routes_picked(run: FlowRun) -> list[str]:
    """Route that picked each draft that a route picked."""
    asked = (step.inputs["kwargs"]["model"] for step in run.steps if step.name == "draft")
    return [model.removeprefix(PREFIX) for model in asked if model.startswith(PREFIX)]


def _flow_score_row(arm: FlowArm, query: Query, repeat: int, right: float, cost_usd: float) -> tuple[Any, ...]:
    slices = (query.tenant_id, query.feature, query.style)
    return (arm.name, query.query_id, repeat, METRIC, right, None, query.cluster or query.query_id, query.tenant_id,
            None, cost_usd, *slices)  # fmt: skip
