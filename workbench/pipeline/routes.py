"""Routing policies as arms of the answer flow: the accepted routing decision, or a policy that is fitted on dev."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl

from workbench.config import Settings
from workbench.errors import ConfigError, EvalsetError, RecordingMiss
from workbench.evalset.evalset import Evalset
from workbench.evalset.outcomes import Outcomes, outcomes_of
from workbench.evaluation.accepted_decision import decision_path
from workbench.evaluation.fingerprint import fingerprint_of_encoder
from workbench.inference.embedding import load_embedder
from workbench.inference.messages import Request, Route, Routes
from workbench.inference.prices import PriceTable, price_of_query_embedding
from workbench.inference.recordings import Recordings, record_command
from workbench.records import Decision, Document
from workbench.retrieval.ingest import IngestVectorCache
from workbench.routing.accepted_router import HITS, accepted_router, load_routed
from workbench.routing.policies import POLICIES, Router, check_policy, load_router, make_policy
from workbench.routing.prompts import Prompts
from workbench.routing.recorded_outcomes import ANSWER, recorded_outcomes
from workbench.routing.routed_arms import policy_arms
from workbench.telemetry.attribution import attributed

ACCEPTED = "accepted"
EMBEDDER = "minilm"  # of policies that read vectors, where no routing decision names another


@dataclass(frozen=True, slots=True)
class PolicyRoutes:
    """What a policy picks for each question of an evalset, as the client asks for it.

    For questions of dev these are the picks of routers that had not seen them.

    Attributes
    ----------
    picks : mapping of str to int
        Position in ``models`` by question.
    """

    router: Router = field(repr=False)
    picks: Mapping[str, int] = field(repr=False)
    cascade: bool = False

    @property
    def name(self) -> str:
        """Policy."""
        return self.router.policy

    @property
    def models(self) -> tuple[str, ...]:
        """Arms of the router, cheapest first."""
        return self.router.models

    @property
    def first(self) -> Route:
        """The cheapest arm."""
        return self._route(0)

    def pick(self, text: str, feature: str, *, confidence: float | None = None) -> Route:
        """Choose for one question of the evalset.

        Raises
        ------
        ConfigError
            If it is none of its questions.
        """
        if text not in self.picks:
            raise ConfigError(f"policy {self.name!r} was fitted to pick for the questions of one evalset, not: {text}")
        return self._route(self.picks[text])

    def instead(self, text: str, feature: str) -> Route:
        """Choose as `pick` does: no arm is asked before it."""
        return self.pick(text, feature)

    def _route(self, position: int) -> Route:
        arm = self.models[position]
        model, _, configuration = arm.partition("@")
        return Route(model, configuration, arm, f"{self.name} at {self.router.value_usd:g} USD a unit of quality")


@dataclass(frozen=True, slots=True)
class ServedRoute:
    """A route that is an arm: what the client asks, what routing once takes, and inputs of the fingerprint."""

    routes: Routes
    overhead_usd: float = 0.0
    amounts: Mapping[str, float] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)


def check_route(name: str) -> None:
    """Refuse a name that is no route, and a policy that asks two models for one answer.

    Raises
    ------
    ConfigError
        Saying which there are.
    """
    if name == ACCEPTED:
        return
    check_policy(name)
    if name == "cascade":
        raise ConfigError(_CASCADE.format(name))


_CASCADE = (
    "route {!r} is a cascade, which asks one model before another for the same draft; here each draft is one call that "
    "is counted. Leave it out of routes; a checked configuration escalates by itself"
)


def routes_asked(
    names: Sequence[str], evalset: Evalset, settings: Settings, prices: PriceTable, *,
    models: Sequence[str], contexts: Sequence[str],
) -> list[tuple[str, str]]:  # fmt: skip
    """Models with the contexts that routes may choose; what could not be served is refused, without an encoder.

    Raises
    ------
    ConfigError
        If there is no accepted routing decision, it no longer fits or names nothing to use, or a route is a cascade.
    EvalsetError
        If there are fewer than two arms to choose from.
    """
    arms = list[str]()
    if ACCEPTED in names:
        router = accepted_router(settings, str(evalset.path))
        if router.cascade:
            raise ConfigError(_CASCADE.format(ACCEPTED))
        arms += router.models
    if fitted := [name for name in names if name != ACCEPTED]:
        outcomes = _route_outcomes(evalset, prices, models, contexts)
        for name in fitted:
            make_policy(name, outcomes.models)
        arms += outcomes.models
    parts = (arm.partition("@") for arm in dict.fromkeys(arms))
    return [(model, context) for model, _, context in parts]


def serve_routes(
    names: Sequence[str], evalset: Evalset, settings: Settings, prices: PriceTable, *,
    models: Sequence[str], contexts: Sequence[str],
) -> dict[str, ServedRoute]:  # fmt: skip
    """Make what each route is served by; policies are fitted on dev's recorded answers of these models and contexts.

    Raises
    ------
    ConfigError
        If the accepted routing decision was tested with other weights of its encoder; the rest `routes_asked` refuses.
    EvalsetError
        If there are too few families on dev to fit on.
    """
    if not names:
        return {}
    embedder = _route_embedder(evalset)
    fitted = [name for name in names if name != ACCEPTED]
    outcomes = _route_outcomes(evalset, prices, models, contexts) if fitted else None
    served = dict[str, ServedRoute]()
    for name in names:
        if outcomes is None or name == ACCEPTED:
            routed = load_routed(settings, str(evalset.path))
            inputs = {"route accepted": routed.router.sha256}
            served[name] = _served_route(routed, routed.router, prices, embedder, inputs)
        else:
            served[name] = _fitted_route_policy(name, outcomes, settings, prices, embedder)
    return served


def _route_embedder(evalset: Evalset) -> str:
    path = decision_path(evalset.path, "routing")
    return str(Decision.load(path).settings.get("embedder", EMBEDDER) if path.is_file() else EMBEDDER)


def embedder_of_routes(names: Sequence[str], evalset: Evalset) -> str:
    """Encoder that these routes read vectors of, "" where none does."""
    if any(name in POLICIES and POLICIES[name].reads == "vectors" for name in names):
        return _route_embedder(evalset)
    path = decision_path(evalset.path, "routing")
    if ACCEPTED in names and path.is_file():
        router = load_router(path.with_suffix(".artefact"), Decision.load(path).arm)
        return _route_embedder(evalset) if router.reads == "vectors" else ""
    return ""


def _fitted_route_policy(
    name: str, outcomes: Outcomes, settings: Settings, prices: PriceTable, embedder: str
) -> ServedRoute:
    """A policy fitted on dev, with its picks for the questions of both splits."""
    policy, inputs = make_policy(name, outcomes.models), dict[str, str]()
    if policy.reads == "vectors":
        policy = replace(policy, embed_usd=prices.cost_usd([price_of_query_embedding(embedder)]))
        outcomes, inputs = _route_vectors(outcomes, embedder, settings)
    dev, test = outcomes.part("dev"), outcomes.part("test")
    best = int(dev.quality.mean(0).argmax())
    (arm,) = policy_arms([policy], dev, reference=best, give_up=0.0, accepted={})
    assert arm.held_out is not None  # a fitted policy has them
    picks = dict(zip(dev.requests.prompts, arm.router.pick(arm.held_out).tolist(), strict=True))
    picks |= dict(zip(test.requests.prompts, arm.router.route(test.requests).tolist(), strict=True))
    return _served_route(PolicyRoutes(arm.router, picks), arm.router, prices, embedder, inputs)


def _served_route(
    routes: Routes, router: Router, prices: PriceTable, embedder: str, inputs: Mapping[str, str]
) -> ServedRoute:
    reads = router.reads == "vectors"
    amounts = prices.amounts([price_of_query_embedding(embedder)]) if reads else {}
    return ServedRoute(routes, router.overhead_usd, amounts, inputs)


def _route_outcomes(evalset: Evalset, prices: PriceTable, models: Sequence[str], contexts: Sequence[str]) -> Outcomes:
    """Recorded answers to every question as the flow asks it."""
    frame, _, _ = recorded_outcomes(evalset, prices)
    mine = pl.col("feature").eq(ANSWER) & pl.col("model").is_in(list(models)) & pl.col("config").is_in(list(contexts))
    return outcomes_of(frame.filter(mine), f"recordings of {evalset.name}")


def _route_vectors(outcomes: Outcomes, embedder: str, settings: Settings) -> tuple[Outcomes, dict[str, str]]:
    encoder, requests = load_embedder(embedder, settings), outcomes.requests
    with attributed(purpose="eval"):
        vectors, _ = IngestVectorCache(settings.cache / "vectors.sqlite").embed(requests.prompts, encoder)
    return replace(outcomes, requests=replace(requests, vectors=np.asarray(vectors))), fingerprint_of_encoder(encoder)


def _route_documents(
    query_id: str, hits: Mapping[str, Sequence[str]], documents: Mapping[str, Document], evalset: Evalset
) -> list[Document]:
    try:
        return [documents[doc_id] for doc_id in hits[query_id]]
    except KeyError as error:
        raise EvalsetError(f"{HITS} does not fit the corpus and questions of {evalset.name}: {error}") from error


def refuse_unrecorded_routes(
    evalset: Evalset, prompts: Prompts, hits: Mapping[str, Sequence[str]], needed: Iterable[tuple[str, str]],
    recordings: Mapping[str, Recordings], *, command: str = "",
) -> None:  # fmt: skip
    """Refuse, before anything is run, configurations that would ask for an answer that is not recorded.

    Parameters
    ----------
    needed : iterable of (str, str)
        Models with the contexts that they may be asked with.
    recordings : mapping of str to Recordings
        Of each of these models.
    command : str
        What records them, by default as for any answer.

    Raises
    ------
    RecordingMiss
        Saying how many answers of which model and context, and what records them.
    EvalsetError
        If a question has no recorded hits, or a hit is no document of the corpus.
    """
    documents, lacking = {d.doc_id: d for d in evalset.documents}, dict[tuple[str, str], list[str]]()
    queries = [q for split in ("dev", "test") for q in evalset.split(split).queries]
    limit = prompts.features[ANSWER].max_tokens
    for model, context in dict.fromkeys(needed):
        for query in queries:
            shown = _route_documents(query.query_id, hits, documents, evalset)
            messages = prompts.messages(
                ANSWER, context, tenant_id=query.tenant_id, question=query.text, documents=shown
            )
            if not recordings[model].count(Request(model, messages, max_tokens=limit, **prompts.sampling)):
                lacking.setdefault((model, context), []).append(query.query_id)
    if not lacking:
        return
    (model, _), items = next(iter(lacking.items()))
    told = "; ".join(f"{len(ids)} of {len(queries)} of {m} with {c}" for (m, c), ids in lacking.items())
    command = command or record_command(recordings[model].path, model)
    raise RecordingMiss(
        f"configurations of the flow need answers that are not recorded for {evalset.name}: {told}; first of question "
        f"{items[0]!r}. Nothing was run. Record them with: {command}",
        item_id=items[0],
        command=command,
    )
