"""The pipeline experiment: which configuration of the answer flow is the cheapest that is good enough, end to end."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

import numpy as np
import polars as pl

from workbench.codec import from_plain
from workbench.errors import ConfigError, EvalsetError, unknown_name
from workbench.evaluation.compare import SCORES_SCHEMA
from workbench.evaluation.decision import ArmFacts
from workbench.evaluation.experiment import PairedExperiment
from workbench.evaluation.repeats import scores_columns
from workbench.evaluation.summary import ItemCase, ScoredArms, item_cases, mean_by_arm
from workbench.inference.attempt import Books
from workbench.inference.client import Client
from workbench.inference.messages import Completion, Usage
from workbench.inference.prices import MS_PER_HOUR
from workbench.inference.recordings import FOLDER, Recordings
from workbench.orchestration.steps import FlowRun, rehearse
from workbench.pipeline.flow import AnswerPlan, Library, Shelf, answer
from workbench.pipeline.losses import Losses, is_right, loss_of
from workbench.records import Query, content_hash, parameters_of
from workbench.rendering.progress import Progress
from workbench.rendering.table import Column, Table
from workbench.reports.ending import Notebook
from workbench.routing.prompts import load_prompts
from workbench.routing.recorded import (
    changed_since,
    recorded_rows,
    recording_file,
    require_recorded,
    retrieval_amounts,
    retrieval_usd,
)
from workbench.routing.route import HITS

METRIC = "correctness"
CHECKS = ("off", "on")
SLICES = ("tenant_id", "feature", "style")


@dataclass(frozen=True, slots=True)
class PipelineParameters:
    """Parameters of ``04_pipeline``; the notebook's cell has the same names and defaults.

    ``models`` come cheapest first: the last is what a checked flow escalates to. ``contexts`` are names in the
    evalset's ``prompts.toml``, the narrowest first: the last is what a draft gets that is made again.
    """

    evalset: str = "docs_qa"
    models: tuple[str, ...] = ("local/smollm2-135m", "local/qwen2.5-coder-0.5b")
    contexts: tuple[str, ...] = ("bare", "top2", "top5")
    checks: tuple[str, ...] = CHECKS
    reference: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        for check in self.checks:
            if check not in CHECKS:
                raise ConfigError(unknown_name("check", check, CHECKS))
        if not (self.models and self.contexts and self.checks):
            raise ConfigError("models, contexts and checks each need at least one value")


@dataclass(frozen=True, slots=True)
class FlowArm:
    """One configuration of the flow, with its place among the arms, simplest first."""

    plan: AnswerPlan
    order: int

    @property
    def name(self) -> str:
        """Model, context, and what follows a check."""
        model = self.plan.model.rpartition("/")[2]
        checked = " · checked" if self.plan.check else ""
        return f"{model}@{self.plan.context}{checked}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ScoredFlows(ScoredArms):
    """What the arms answered to the questions of one split, run by run; ``runs`` are those of the first repeat."""

    words: ClassVar[tuple[str, str, str]] = ("question", "right", "answers")
    arms: tuple[FlowArm, ...]
    queries: Sequence[Query]
    runs: Mapping[str, Mapping[str, FlowRun]]

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
        more, cells = scores_columns(self.scores, self.names)
        told = tuple((*row, *cells[row[0]]) for row in rows)
        return Table((*columns, *more), told, f"Configurations of the flow, on {self.split}")

    def cases(self, metric: str) -> Mapping[str, ItemCase]:
        """Questions with what is right, and what each arm answered or why it refused."""
        expected = {q.query_id: q.accept for q in self.queries}
        returned = {
            arm: {query_id: [_told(run.result)] for query_id, run in self.runs[arm].items()} for arm in self.names
        }
        return item_cases(self.of(metric), self.queries, expected=expected, returned=returned)


def _told(result: Mapping[str, Any]) -> str:
    if result["status"] == "answered":
        return str(result["answer"])
    return "refused: " + "; ".join(", ".join(reasons) for reasons in result["reasons"])


class _RecordedClients:
    """Answers of several models from their recordings, each given once; nothing is asked."""

    def __init__(self, clients: Mapping[str, Client]) -> None:
        self._clients = clients

    def complete(self, messages: Any, *, model: str, **given: Any) -> Completion:
        """Recorded answer of the model."""
        return self._clients[model].complete(messages, model=model, **given)


class PipelineExperiment(
    PairedExperiment[PipelineParameters, ScoredFlows], Notebook[PipelineParameters, ScoredFlows]
):  # fmt: skip
    """Steps of the pipeline notebook, in the order in which it calls them."""

    notebook = "pipeline"
    question = "Which configuration of the answer flow is the cheapest that is good enough, end to end?"
    title = "Pipeline: from a question to a right answer"
    parameters_class = PipelineParameters
    spreads = (0.2, 0.35, 0.5)
    cost_note = (
        "Cost is that of every draft that was made, by its tokens at declared prices, and of retrieving once where a "
        "draft is shown documents. Latency of local models is counted processor time."
    )

    def examine(self) -> None:
        """Load documents, recorded hits and recorded answers, and refuse what cannot be used.

        Raises
        ------
        ConfigError
            If a model or a context is none of ``prompts.toml``, or no answer of a model is recorded.
        EvalsetError
            If the recorded hits no longer fit the corpus, the questions or the accepted retrieval.
        """
        p, prompts = self.parameters, load_prompts(self.evalset)
        for kind, given, known in (("model", p.models, prompts.models), ("context", p.contexts, [*prompts.contexts])):
            if strange := [name for name in given if name not in known]:
                raise ConfigError(unknown_name(kind, strange[0], known))
        require_recorded(self.evalset, p.models)
        if changed := changed_since(self.evalset):
            raise EvalsetError(
                f"the recorded hits and answers of {self.evalset.name} are from before the {', '.join(changed)} "
                f"changed; record them anew with: workbench record {self.evalset.name}"
            )
        hits = {row["query_id"]: row["doc_ids"] for row in recorded_rows(self.evalset, HITS)}
        found = {(q.text, q.tenant_id): hits[q.query_id] for q in self.evalset.queries if q.query_id in hits}
        self.retrieval = retrieval_amounts(self.evalset)
        self.library = Library(self.settings, lambda query: found[query.text, query.tenant_id])

    def read(self) -> Mapping[str, str]:
        """Hash what was read."""
        self.shelf: Shelf = self.library.add(self.parameters.evalset, self.evalset)
        folder = self.evalset.path
        files = {f"recordings of {m}": recording_file(self.evalset, m) for m in self.parameters.models}
        files |= {"prompts": folder / "prompts.toml", HITS: folder / FOLDER / HITS}
        return {**self.evalset.inputs, **{name: content_hash(path.read_bytes()) for name, path in files.items()}}

    def prepare(self) -> list[FlowArm]:
        """Every configuration, simplest first: unchecked ones, then those that check, widen and escalate."""
        p, arms = self.parameters, list[FlowArm]()
        for check, model, context in product(sorted(p.checks, key=CHECKS.index), p.models, p.contexts):
            checked = check == "on"
            strong = p.models[-1] if checked and model != p.models[-1] else ""
            plan = AnswerPlan(p.evalset, model, strong, context, p.contexts[-1], check=checked)
            arms.append(FlowArm(plan, len(arms)))
        return arms

    def score(self, arms: Sequence[FlowArm], split: str) -> ScoredFlows:
        """Run every configuration on every question of one split, from the recordings."""
        part, rows, facts = self.evalset.split(split), list[tuple[Any, ...]](), list[ArmFacts]()
        runs, repeats = dict[str, dict[str, FlowRun]](), self._repeats()
        bar = Progress(f"{split} questions", len(arms) * len(part.queries) * repeats)
        for arm in arms:
            tools = {"library": self.library, "client": self._client()}
            plan, runs[arm.name] = arm.plan.to_plain(), {}
            costs, used = [], Counter[str]()
            for repeat, query in product(range(repeats), part.queries):
                run = rehearse(answer, tools, query.text, tenant_id=query.tenant_id, plan=plan)
                runs[arm.name].setdefault(query.query_id, run)
                cost = self.cost_usd(run)
                right = float(is_right(run.result["answer"], query.accept))
                rows.append(_row(arm, query, repeat, right, cost))
                costs.append(cost)
                used.update(self.amounts(run))
                bar.update(len(rows))
            p95 = float(np.quantile(np.array(costs) / self.prices.usd_per_vcpu_hour * MS_PER_HOUR, 0.95))
            amounts = {name: 1000 * n / len(costs) for name, n in used.items()}
            usd_per_1k = 1000 * float(np.mean(costs))
            facts.append(ArmFacts(arm.name, parameters_of(arm.plan), usd_per_1k, p95, arm.order, amounts=amounts))
        bar.done(f"{len(arms)} configurations answered {len(part.queries)} {split} questions")
        schema = SCORES_SCHEMA | {f"slice_{name}": pl.String for name in SLICES}
        scores = pl.DataFrame(rows, schema=schema, orient="row")
        return ScoredFlows(split, tuple(arms), scores, tuple(facts), part.queries, runs)

    def _recordings(self) -> dict[str, Recordings]:
        return {model: Recordings(recording_file(self.evalset, model)) for model in self.parameters.models}

    def _repeats(self) -> int:
        """How often every recorded request was answered, by each model."""
        return max(min(recordings.repeats for recordings in self._recordings().values()), 1)

    def _client(self) -> _RecordedClients:
        books = Books(self.prices)
        return _RecordedClients({m: Client({}, books, recordings=r) for m, r in self._recordings().items()})

    def cost_usd(self, run: FlowRun) -> float:
        """Dollars of one run: the tokens of all its drafts, and one retrieval where one of them is shown documents."""
        drafts = [step.output for step in run.steps if step.name == "draft"]
        nanos = sum(self.prices.cost_nanos(d["model"], from_plain(Usage, d["usage"], "usage")) for d in drafts)
        return nanos / 1e9 + (retrieval_usd(self.evalset) if any(d["shown"] for d in drafts) else 0.0)

    def amounts(self, run: FlowRun) -> dict[str, float]:
        """What one run uses of each thing that has a price, as `cost_usd` counts it."""
        drafts, out = [step.output for step in run.steps if step.name == "draft"], Counter[str]()
        for d in drafts:
            out.update(self.prices.token_amounts(d["model"], from_plain(Usage, d["usage"], "usage")))
        if any(d["shown"] for d in drafts):
            out.update(self.retrieval)
        return dict(out)

    def losses(self, scored: ScoredFlows, arm: str) -> Losses:
        """What lost each answer of one arm."""
        grades = self.evalset.split(scored.split).qrels
        return Losses(
            [
                loss_of(
                    scored.runs[arm][q.query_id], q, grades[q.query_id], self.shelf,
                    cost_usd=self.cost_usd(scored.runs[arm][q.query_id]),
                )
                for q in scored.queries
            ]
        )  # fmt: skip

    def worst(self, scored: ScoredFlows, arm: str) -> FlowRun:
        """The dearest run of an arm that came to no right answer, step by step."""
        wrong = [
            scored.runs[arm][q.query_id]
            for q in scored.queries
            if not is_right(scored.runs[arm][q.query_id].result["answer"], q.accept)
        ]
        return max(wrong or [*scored.runs[arm].values()], key=self.cost_usd)


def _row(arm: FlowArm, query: Query, repeat: int, right: float, cost_usd: float) -> tuple[Any, ...]:
    slices = (query.tenant_id, query.feature, query.style)
    return (arm.name, query.query_id, repeat, METRIC, right, None, query.cluster or query.query_id, query.tenant_id,
            None, cost_usd, *slices)  # fmt: skip
