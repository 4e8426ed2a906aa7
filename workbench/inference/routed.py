"""An accepted routing decision at work: which model, and which configuration of the prompt, answers a request."""

from dataclasses import dataclass, field

import numpy as np

from workbench.config import Settings
from workbench.errors import ConfigError
from workbench.inference.attempts import Books
from workbench.inference.embedding import Embedder, load_embedder
from workbench.inference.prices import PriceTable, project_prices
from workbench.inference.routing import Router, load_router
from workbench.inference.routing_features import Requests
from workbench.inference.weights import WEIGHTS
from workbench.records import Decision

PREFIX = "router/"


@dataclass(frozen=True, slots=True)
class Route:
    """A model to ask, with a configuration of the prompt where the decision is about those too."""

    model: str
    configuration: str = ""
    arm: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Routed:
    """A router that passed its test; ``embedder`` is None where its policy reads no vectors."""

    name: str
    router: Router
    embedder: Embedder | None = field(default=None, repr=False)

    @property
    def first(self) -> Route:
        """The cheapest arm, which a cascade always asks."""
        return self._route(0, "asked first")

    def pick(self, text: str, feature: str, *, confidence: float | None = None) -> Route:
        """Choose for one request.

        Parameters
        ----------
        text : str
            What the user wrote, as in the outcomes that the router learned on.
        confidence : float or None
            How sure the first arm's answer was, in [0, 1]; needed by a cascade.

        Raises
        ------
        ConfigError
            If the policy needs a confidence and there is none.
        """
        router, sure = self.router, None
        if router.cascade:
            if confidence is None:
                raise ConfigError(f"router {self.name!r} is a cascade: its first model must give token probabilities")
            sure = np.full((1, len(router.models)), confidence)
        vectors = self.embedder.embed([text]) if self.embedder else None
        picked = int(router.route(Requests((text,), (feature,), confidence=sure, vectors=vectors))[0])
        return self._route(picked, f"{router.policy} at {router.value_usd:g} USD a unit of quality")

    def _route(self, position: int, reason: str) -> Route:
        arm = self.router.models[position]
        model, _, configuration = arm.partition("@")
        return Route(model, configuration, arm, reason)


def load_routed(
    settings: Settings, evalset: str, *, accept_provisional: bool = False, books: Books | None = None
) -> Routed:
    """Router of an evalset's accepted routing decision; a hosted encoder is paid for as in `load_embedder`.

    Raises
    ------
    ConfigError
        If there is no such decision, its verdict names no arm to use, or it no longer fits: another router beside
        it, other prices, another encoder or other weights than those it was tested with.
    """
    path = settings.evalsets / evalset / "decisions" / "routing.json"
    if not path.is_file():
        raise ConfigError(f"no routing decision is accepted for {evalset!r} ({path}); run and accept one first")
    decision = Decision.load(path)
    if decision.verdict not in ("chosen", "keep_reference", "provisional"):
        raise ConfigError(f"the routing decision of {evalset!r} is {decision.verdict!r}: it names nothing to use")
    if decision.verdict == "provisional" and not accept_provisional:
        raise ConfigError(
            f"the routing decision of {evalset!r} is provisional, on synthetic data; pass accept_provisional=True to "
            "use it all the same"
        )
    router = load_router(path.with_suffix(".artefact"), decision.arm)
    embedder = load_embedder(decision.settings["embedder"], settings, books) if _reads_vectors(router) else None
    if changed := _changed(settings, decision, router, embedder):
        raise ConfigError(
            f"the routing decision of {evalset!r} was tested with another {', '.join(changed)}; check it again with: "
            "workbench check routing"
        )
    return Routed(evalset, router, embedder)


def model_inputs(models: tuple[str, ...], prices: PriceTable) -> dict[str, str]:
    """Prices of the models, and hashes of the weights of local ones: what a decision about them rests on."""
    out = {}
    for name in sorted({m.partition("@")[0] for m in models}):
        if (weights := WEIGHTS.get(name.removeprefix("local/"))) is not None:
            out[f"weights of {name}"] = weights.sha256
        if price := prices.models.get(name):
            out[f"price of {name}"] = ", ".join(f"{kind} {nanos}" for kind, nanos in sorted(price.items()))
    return out


def _changed(settings: Settings, decision: Decision, router: Router, embedder: Embedder | None) -> list[str]:
    prices = project_prices(settings.root)
    now = {"prices": prices.sha256, **model_inputs(router.models, prices)}
    if embedder:
        now["weights"] = embedder.encoder_id
    before = decision.fingerprint.inputs
    changed = [name for name, value in now.items() if name in before and before[name] != value]
    return changed + (["router"] if decision.parameters.get("sha256") != router.sha256 else [])


def _reads_vectors(router: Router) -> bool:
    features = getattr(router.predictor, "features", None)
    return type(features).__name__ == "Embedding"
