"""The routing experiment, which asks whether one model or a router is the cheapest that is good enough."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import polars as pl

from workbench.config import Settings, load_settings
from workbench.errors import ConfigError, EvalsetError
from workbench.evalset.evalset import Evalset, load_evalset
from workbench.evalset.outcomes import FILE as OUTCOMES_FILE
from workbench.evalset.outcomes import Outcomes, load_outcomes, outcomes_of
from workbench.evaluation.experiment import Experiment, Finalists, decision_path, open_experiment
from workbench.evaluation.power import plan
from workbench.evaluation.provenance import build_parameters, encoder_probe, parameter_inputs
from workbench.evaluation.summary import Summary, slice_rows
from workbench.inference.embedding import Embedder, check_embedder, load_embedder
from workbench.inference.prices import project_prices
from workbench.inference.recordings import FOLDER
from workbench.records import Decision
from workbench.rendering.table import Table
from workbench.reports.charts import forest, slices
from workbench.reports.ending import end_run
from workbench.reports.figure import Figure
from workbench.retrieval.ingest import VectorCache
from workbench.retrieval.tables import power_table
from workbench.routing.candidates import RoutedArm, ScoredRoutes, model_arms, policy_arms, route_all
from workbench.routing.policies import Policy, Router, check_policy, load_router, make_policy
from workbench.routing.recorded import recorded_outcomes
from workbench.routing.route import model_inputs
from workbench.routing.tables import (
    Study,
    contents_table,
    curve_figure,
    deferral_figure,
    opportunity_table,
    regression_table,
    study,
    study_table,
    summarise,
    within_table,
)
from workbench.telemetry.context import attributed

# Share of prompts that two arms answer differently well, for the power before any arm runs; its root is the spread.
DIFFERING = (0.04, 0.1, 0.25)
CURVES_SHOWN = 3


@dataclass(frozen=True, slots=True)
class RoutingParameters:
    """Parameters of ``02_routing``; the notebook's cell has the same names and defaults.

    ``dev_share`` is the share of clusters that routers learn on where the outcomes have no split, ``give_up`` the
    share of the margin that a threshold may lose on dev, ``min_saving`` the share of the strongest model's cost that
    a router must save to be worth its upkeep, ``draws`` the resamples behind each interval.
    """

    evalset: str = "docs_qa"
    policies: tuple[str, ...] = (
        "random",
        "by_feature",
        "length",
        "complexity",
        "boosting",
        "logistic_words",
        "knn_words",
        "logistic_embedding",
        "knn_embedding",
        "cascade",
    )
    embedder: str = "minilm"
    reference: str = ""
    dev_share: float = 0.5
    give_up: float = 0.0
    min_saving: float = 0.05
    draws: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.policies:
            check_policy(name)
        check_embedder(self.embedder)


@dataclass(frozen=True, slots=True)
class RoutingBench:
    """Steps of the routing notebook, in the order in which it calls them."""

    experiment: Experiment
    parameters: RoutingParameters
    outcomes: Outcomes
    policies: tuple[Policy, ...]
    accepted: dict[str, Router]

    @classmethod
    def start(cls, **given: object) -> Self:
        """Load everything that can be refused, before anything is computed."""
        settings, parameters = load_settings(), build_parameters(RoutingParameters, given)
        return cls.open(parameters, settings)

    @classmethod
    def open(cls, parameters: RoutingParameters, settings: Settings, *, embedder: Embedder | None = None) -> Self:
        """Begin with an encoder of your own, in place of the one that the parameters name."""
        evalset = load_evalset(parameters.evalset, settings=settings, seed=parameters.seed)
        outcomes, read = _load(evalset, parameters, settings)
        _check_splits(outcomes)
        policies, left_out = _choose(parameters.policies, outcomes)
        inputs = {
            **evalset.inputs,
            **parameter_inputs(parameters),
            **read,
            "prices": project_prices(settings.root).sha256,
        }
        if any(p.reads == "vectors" for p in policies):
            encoder = embedder or load_embedder(parameters.embedder, settings)
            inputs |= {"weights": encoder.encoder_id, "encoder probe": encoder_probe(encoder)}
            with attributed(purpose="eval"):
                vectors, _ = VectorCache(settings.cache / "vectors.sqlite").embed(outcomes.requests.prompts, encoder)
            outcomes = replace(outcomes, requests=replace(outcomes.requests, vectors=vectors))
        experiment = open_experiment(
            "routing",
            "Which model, or which router over models, is the cheapest that is good enough?",
            settings=settings,
            evalset=evalset,
            parameters=parameters,
            inputs=inputs,
            dev_items=outcomes.part("dev").prompt_ids,
        )
        outcomes = replace(outcomes, notes=(*outcomes.notes, *left_out))
        return cls(experiment, parameters, outcomes, tuple(policies), _routers(experiment))

    @property
    def config(self) -> Table:
        """Parameters and rule of this run."""
        return self.experiment.config

    def contents(self) -> Table:
        """Models on dev, cheapest first."""
        return contents_table(self.outcomes)

    def power(self) -> Table:
        """What the test split can show, before any arm is judged."""
        test, policy = self.outcomes.part("test"), self.experiment.policy
        clusters = len(set(test.clusters))
        plans = [plan(share**0.5, policy.margin, clusters, confidence=policy.confidence) for share in DIFFERING]
        return power_table(plans, len(test))

    def opportunity(self) -> Table:
        """Whether there is anything to route: the oracle against the hull of the single models, on dev."""
        return opportunity_table(self.outcomes.part("dev"), draws=self.parameters.draws, seed=self.parameters.seed)

    def fit(self) -> list[RoutedArm]:
        """Every single model, and every policy fitted on dev at the threshold that matches the reference there."""
        dev, p = self.outcomes.part("dev"), self.parameters
        reference = dev.models.index(p.reference) if p.reference in dev.models else int(dev.quality.mean(0).argmax())
        give_up = p.give_up * self.experiment.policy.margin
        models = model_arms(dev)
        learned = policy_arms(self.policies, dev, reference=reference, give_up=give_up, accepted=self.accepted)
        return [*models, *learned]

    def study(self, arms: Sequence[RoutedArm]) -> Study:
        """Curves and areas of every policy on dev, cross-fitted."""
        learned = [a for a in arms if not a.is_model]
        return study(self.outcomes.part("dev"), learned, draws=self.parameters.draws, seed=self.parameters.seed)

    def policies_table(self, found: Study) -> Table:
        """Which policies beat the hull of the single models beyond noise."""
        return study_table(found)

    def within(self, found: Study) -> Table:
        """Whether the gain survives inside a feature."""
        return within_table(found, draws=self.parameters.draws, seed=self.parameters.seed)

    def curves(self, found: Study) -> Figure:
        """Quality against cost of the best policies, the hull and the oracle."""
        return curve_figure(found, self._best(found))

    def deferral(self, found: Study) -> Figure | Table:
        """Quality against the share of requests that the strongest model answers."""
        return deferral_figure(found, self._best(found))

    def _best(self, found: Study) -> list[str]:
        return sorted(found.names, key=lambda n: -found.areas[n].value)[:CURVES_SHOWN]

    def score(self, arms: Sequence[RoutedArm], split: str) -> ScoredRoutes:
        """Route every prompt of one split, and look up what came of it."""
        return route_all(arms, self.outcomes.part(split), split)

    def candidates(self, dev: ScoredRoutes, found: Study) -> ScoredRoutes:
        """What may go to the test: models, and policies that beat the hull on dev and save enough for their upkeep.

        The accepted arms, the anchor, and one that you name as reference are always among them.

        Raises
        ------
        SplitError
            If a prompt is not of dev.
        """
        dev.outcomes.require_dev("picking candidates")
        cost = {f.name: f.cost_usd_per_1k for f in dev.facts}
        models = [a.name for a in dev.arms if a.is_model]
        reference = max(models, key=lambda m: self._quality(dev, m))
        enough = (1 - self.parameters.min_saving) * cost[reference]
        accepted = self.experiment.accepted
        kept = {*models, *(n for n in found.winners if cost[n] <= enough), self.parameters.reference}
        kept |= {self.experiment.anchor.arm} if self.experiment.anchor else set()
        return dev.only(kept | set(accepted.arms if accepted else ()))

    def _quality(self, dev: ScoredRoutes, model: str) -> float:
        return float(dev.outcomes.quality[:, dev.outcomes.models.index(model)].mean())

    def finalists(self, candidates: ScoredRoutes) -> Finalists:
        """Pick on dev alone: what is always tested, and the arms that dev cannot rule out."""
        return self.experiment.finalists(
            candidates.scores,
            candidates.facts,
            asked=self.parameters.reference,
            test_clusters=len(set(self.outcomes.part("test").clusters)),
            seed=self.parameters.seed,
        )

    def test(self, dev: ScoredRoutes, finalists: Finalists) -> ScoredRoutes:
        """Judge the finalists on the test prompts, with the routers as they were fitted on dev."""
        by_name = {a.name: a for a in dev.arms}
        if gone := [n for n in finalists.names if n not in by_name]:
            raise ConfigError(f"the accepted arms {', '.join(gone)} are not among this run's arms")
        return self.score([by_name[n] for n in finalists.names], "test")

    def decide(self, test: ScoredRoutes, finalists: Finalists) -> Decision:
        """Judge once on test, by the rule that was fixed on dev."""
        return self.experiment.decide(test.scores, test.facts, finalists, seed=self.parameters.seed)

    def forest(self, decision: Decision) -> Figure:
        """Paired differences from the best other arm for the money, with the margin."""
        return forest(decision.claims, decision.rule)

    def slices(self, test: ScoredRoutes) -> Figure:
        """Finalists by feature and tenant."""
        return slices(slice_rows(test.scores, [f.name for f in test.facts]), "correctness")

    def regressions(self, decision: Decision, test: ScoredRoutes) -> Table | None:
        """Prompts on which the decided arm loses most against what is in use, or the best other; None without one."""
        return regression_table(decision, test)

    def save(self, decision: Decision, dev: ScoredRoutes, test: ScoredRoutes, tables: Mapping[str, Table]) -> Summary:
        """Write what the report and the gate need, with the tables shown by title, and the routers that were tested."""
        summary = summarise(self.experiment, decision, dev, test, tables)
        scores = pl.concat([s.scores.with_columns(split=pl.lit(s.split)) for s in (dev, test)])
        self.experiment.save(decision, summary, scores)
        routers = {a.name: a.router.save() for a in test.arms if a.router.storable}
        (self.experiment.folder / "artefact.json").write_text(json.dumps(routers), encoding="utf-8")
        return summary

    def gate(self, decision: Decision, test: ScoredRoutes) -> None:
        """Say whether the accepted decision still holds; raises after everything is on disk."""
        invariants = {"routers that are not the accepted ones": self._changed_routers(test)}
        items = self.outcomes.part("test").prompt_ids
        gate = self.experiment.gate(decision, test.scores, invariants, items=items)
        end_run(self.experiment, decision, gate)

    def _changed_routers(self, test: ScoredRoutes) -> int:
        """Routers whose hash is not the one that the accepted decision names; only where it is checked again."""
        accepted = self.experiment.accepted
        if accepted is None or not self.experiment.rechecks:
            return 0
        before = {c.arm: c.parameters.get("sha256") for c in accepted.claims}
        return sum(before.get(a.name) != a.router.sha256 for a in test.arms)


def _load(evalset: Evalset, parameters: RoutingParameters, settings: Settings) -> tuple[Outcomes, Mapping[str, str]]:
    """Outcomes of the evalset's table, or else of its recorded answers; with the hashes of what was read."""
    seed, share = parameters.seed, parameters.dev_share
    if (evalset.path / OUTCOMES_FILE).is_file() or not (evalset.path / FOLDER).is_dir():
        outcomes = load_outcomes(evalset.path, seed=seed, dev_share=share)
        return outcomes, {"outcomes": outcomes.sha256}
    prices = project_prices(settings.root)
    frame, read, notes = recorded_outcomes(evalset, prices)
    outcomes = outcomes_of(frame, f"recordings of {evalset.name}", seed=seed, dev_share=share)
    return replace(outcomes, notes=(*outcomes.notes, *notes)), {**read, **model_inputs(outcomes.models, prices)}


def _check_splits(outcomes: Outcomes) -> None:
    sizes = {s: len(set(outcomes.clusters[outcomes.splits == s])) for s in ("dev", "test")}
    if empty := [s for s, n in sizes.items() if n < 2]:
        raise EvalsetError(f"the outcomes have {sizes} clusters; {' and '.join(empty)} needs some to learn or judge on")


def _choose(names: Sequence[str], outcomes: Outcomes) -> tuple[list[Policy], list[str]]:
    """Policies that these outcomes can feed, and a sentence for each that they cannot."""
    policies, left_out = [], []
    for name in names:
        policy = make_policy(name, outcomes.models)
        if policy.reads == "confidence" and outcomes.requests.confidence is None:
            left_out.append(f"{name} is left out: the outcomes have no confidence")
        elif name == "by_feature" and len(outcomes.features) < 2:
            left_out.append(f"{name} is left out: the outcomes have no two features")
        else:
            policies.append(policy)
    return policies, left_out


def _routers(experiment: Experiment) -> dict[str, Router]:
    """Routers of the accepted decision, where this run checks it again."""
    path = decision_path(experiment.evalset.path, "routing").with_suffix(".artefact")
    if not (experiment.accepted and experiment.rechecks and path.is_file()):
        return {}
    return {name: load_router(path, name) for name in json.loads(path.read_text(encoding="utf-8"))}
