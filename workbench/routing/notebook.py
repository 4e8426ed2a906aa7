"""The routing experiment, which asks whether one model or a router is the cheapest that is good enough."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from workbench.codec import RANGE, Range
from workbench.config import Settings
from workbench.errors import EvalsetError
from workbench.evalset.evalset import Evalset
from workbench.evalset.outcomes import FILE as OUTCOMES_FILE
from workbench.evalset.outcomes import Outcomes, amount_matrices, load_outcomes, outcomes_of
from workbench.evaluation.experiment import PairedExperiment
from workbench.evaluation.in_use import decision_path, read_artefact
from workbench.evaluation.provenance import SEED, encoder_inputs
from workbench.evaluation.summary import Summary, is_default
from workbench.inference.embedding import Embedder, check_embedder, load_embedder
from workbench.inference.prices import PriceTable, embed_query
from workbench.records import Decision
from workbench.rendering.table import Table
from workbench.reports.ending import Notebook
from workbench.reports.figure import Figure
from workbench.retrieval.ingest import eval_vectors
from workbench.routing.candidates import RoutedArm, ScoredRoutes, model_arms, policy_arms, route_all
from workbench.routing.policies import Policy, Router, check_policy, load_router, make_policy
from workbench.routing.recorded import recorded_outcomes, require_recorded
from workbench.routing.route import PROMPTS, model_inputs
from workbench.routing.tables import (
    Study,
    contents_table,
    curve_figure,
    deferral_figure,
    opportunity_table,
    study,
    study_table,
    within_table,
)

_LEFT_OUT = " is left out: "  # says that a policy of the list cannot be fed by these outcomes
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
    dev_share: float = field(default=0.5, metadata={RANGE: Range(0, 1, ends=False)})
    give_up: float = field(default=0.0, metadata={RANGE: Range(0, 1)})
    min_saving: float = field(default=0.05, metadata={RANGE: Range(0, 1)})
    draws: int = field(default=2000, metadata={RANGE: Range(2, 100_000)})
    seed: int = field(default=0, metadata=SEED)

    def __post_init__(self) -> None:
        for name in self.policies:
            check_policy(name)
        check_embedder(self.embedder)


class RoutingExperiment(PairedExperiment[RoutingParameters, ScoredRoutes], Notebook[RoutingParameters, ScoredRoutes]):
    """Steps of the routing notebook, in the order in which it calls them.

    ``embedder`` stands in place of the one that the parameters name.
    """

    notebook = "routing"
    question = "Which model, or which router over models, is the cheapest that is good enough?"
    title = "Routing: the cheapest way to a good enough answer"
    parameters_class = RoutingParameters
    items = "prompts"
    spreads = tuple(share**0.5 for share in DIFFERING)
    cost_note = (
        "Cost is what the outcomes record or declare for each call, plus the counted work of routing; a cascade pays "
        "for both of its calls. Latency is that of the recorded calls."
    )

    def __init__(self, parameters: RoutingParameters, settings: Settings, *, embedder: Embedder | None = None) -> None:
        self._encoder = embedder
        super().__init__(parameters, settings)

    def examine(self) -> None:
        """Load outcomes and policies.

        Raises
        ------
        EvalsetError
            If there are no outcomes, or too few to learn or judge on.
        """
        p = self.parameters
        self.outcomes, self._read = _load_outcomes(self.evalset, p, self.prices)
        _check_splits(self.outcomes)
        self.policies, left_out = _choose(p.policies, self.outcomes)
        self.outcomes = replace(self.outcomes, notes=(*self.outcomes.notes, *left_out))
        if self.reads_vectors:
            embed_usd = self.prices.cost_usd([embed_query(p.embedder)])  # refused before an encoder is paid
            self.policies = [replace(policy, embed_usd=embed_usd) for policy in self.policies]

    def arm_names(self) -> Sequence[str]:
        """Single models, and policies that the outcomes can feed."""
        return [*self.outcomes.models, *(policy.name for policy in self.policies)]

    @property
    def reads_vectors(self) -> bool:
        """Whether any policy reads vectors of the prompts."""
        return any(policy.reads == "vectors" for policy in self.policies)

    def read(self) -> Mapping[str, str]:
        """Embed the prompts if a policy reads vectors."""
        p, settings = self.parameters, self.settings
        inputs = {**self.evalset.inputs, **self._read}
        if self.reads_vectors:
            encoder = self._encoder or load_embedder(p.embedder, settings)
            inputs |= encoder_inputs(encoder) | self.prices.rate_inputs([embed_query(p.embedder)])
            requests = self.outcomes.requests
            vectors = eval_vectors(requests.prompts, encoder, settings.cache, label="prompts")
            self.outcomes = replace(self.outcomes, requests=replace(requests, vectors=vectors))
        return inputs

    def clusters(self, split: str) -> Mapping[str, str]:
        """Cluster of each prompt of a split."""
        part = self.outcomes.part(split)
        return dict(zip(part.prompt_ids, part.clusters.tolist(), strict=True))

    def contents(self) -> Table:
        """Models on dev, cheapest first."""
        return contents_table(self.outcomes)

    def opportunity(self) -> Table:
        """Whether there is anything to route: the oracle against the hull of the single models, on dev."""
        return opportunity_table(self.outcomes.part("dev"), draws=self.parameters.draws, seed=self.parameters.seed)

    def fit(self) -> list[RoutedArm]:
        """Every single model, and every policy fitted on dev at the threshold that matches the reference there."""
        dev, p = self.outcomes.part("dev"), self.parameters
        reference = dev.models.index(p.reference) if p.reference in dev.models else int(dev.quality.mean(0).argmax())
        give_up = p.give_up * self.policy.margin
        models = model_arms(dev)
        learned = policy_arms(self.policies, dev, reference=reference, give_up=give_up, accepted=self.accepted_routers)
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
        scored = route_all(arms, self.outcomes.part(split), split)
        embed = {name: 1000 * n for name, n in self.prices.amounts([embed_query(self.parameters.embedder)]).items()}
        facts = (
            replace(f, amounts=f.amounts | (embed if arm.router.overhead_usd else {}))
            for arm, f in zip(scored.arms, scored.facts, strict=True)
        )
        return replace(scored, facts=tuple(facts))

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
        accepted = self.accepted
        kept = {*models, *(n for n in found.winners if cost[n] <= enough), self.parameters.reference}
        kept |= {self.anchor.arm} if self.anchor else set()
        return dev.only(kept | set(accepted.arms if accepted else ()))

    def _quality(self, dev: ScoredRoutes, model: str) -> float:
        return float(dev.outcomes.quality[:, dev.outcomes.models.index(model)].mean())

    @property
    def dev_note(self) -> str:
        """What the scores on dev are, and which policies are not among them."""
        told = "On the prompts they were tuned on; policies by routers that had not seen them."
        return " ".join([told, *(f"{note}." for note in self.outcomes.notes if _LEFT_OUT in note)])

    def warnings(self, test: ScoredRoutes, dev: ScoredRoutes | None) -> Sequence[str]:
        """What makes a pass mean less; of policies that nobody asked for by name it is told beside the scores."""
        asked = not is_default(self.parameters, "policies")
        out = [*self.evalset.notes, *(note for note in self.outcomes.notes if asked or _LEFT_OUT not in note)]
        own = [a.name for a in test.arms if not a.router.storable]
        return [*out, *(f"{name} is a class of your own: it is fitted again in every run." for name in own)]

    def invariants(self, decision: Decision, test: ScoredRoutes) -> Mapping[str, int | None]:
        """Routers that are not the accepted ones, if the accepted decision is checked again."""
        accepted = self.accepted if self.rechecks else None
        before = {c.arm: c.parameters.get("sha256") for c in accepted.claims} if accepted else {}
        changed = [a for a in test.arms if accepted and before.get(a.name) != a.router.sha256]
        return {"routers that are not the accepted ones": len(changed)}

    def save(self, decision: Decision, test: ScoredRoutes, *tables: Table, dev: ScoredRoutes | None = None) -> Summary:
        """Write what the report and the gate need, and the routers that were tested."""
        routers = {a.name: a.router.save() for a in test.arms if a.router.storable}
        (self.folder / "artefact.json").write_text(json.dumps(routers), encoding="utf-8")
        return super().save(decision, test, *tables, dev=dev)

    @property
    def accepted_routers(self) -> dict[str, Router]:
        """Routers of the accepted decision, if this run checks it again."""
        path = decision_path(self.evalset.path, self.notebook).with_suffix(".artefact")
        if not (self.accepted and self.rechecks and path.is_file()):
            return {}
        return {name: load_router(path, name) for name in read_artefact(path)}


def _load_outcomes(
    evalset: Evalset, parameters: RoutingParameters, prices: PriceTable
) -> tuple[Outcomes, Mapping[str, str]]:
    """Outcomes of the evalset's table, or else of its recorded answers; with the hashes of what was read."""
    seed, share = parameters.seed, parameters.dev_share
    if (evalset.path / OUTCOMES_FILE).is_file() or not (evalset.path / PROMPTS).is_file():
        outcomes = load_outcomes(evalset.path, seed=seed, dev_share=share)
        return outcomes, {"outcomes": outcomes.sha256}
    require_recorded(evalset)
    frame, read, notes = recorded_outcomes(evalset, prices)
    outcomes = outcomes_of(frame, f"recordings of {evalset.name}", seed=seed, dev_share=share)
    outcomes = replace(outcomes, notes=(*outcomes.notes, *notes), amounts=amount_matrices(frame, outcomes))
    return outcomes, {**read, **model_inputs(outcomes.models, prices)}


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
