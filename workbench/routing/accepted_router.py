"""An accepted routing decision at work: which model, and which configuration of the prompt, answers a request."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from workbench.codec import from_json
from workbench.config import Settings
from workbench.errors import ConfigError
from workbench.evalset.outcomes import Requests
from workbench.evaluation.consistency import require_served
from workbench.inference.call_attempt import Books
from workbench.inference.embedding import Embedder, load_embedder, wake_embedder
from workbench.inference.messages import LOCAL, Route
from workbench.inference.prices import PriceTable, project_prices
from workbench.inference.recordings import FOLDER
from workbench.inference.weights import WEIGHTS
from workbench.records import Decision, content_hash
from workbench.routing.policies import Router, load_router

PROMPTS, HITS, FOUND_WITH = "prompts.toml", "hits.jsonl", "found_with.json"


@dataclass(frozen=True, slots=True)
class Routed:
    """A router that passed its test; ``embedder`` is None where its policy reads no vectors."""

    name: str
    router: Router
    embedder: Embedder | None = field(default=None, repr=False)

    @property
    def models(self) -> tuple[str, ...]:
        """Arms of the router, cheapest first."""
        return tuple(self.router.models)

    @property
    def cascade(self) -> bool:
        """Whether the first arm is always asked."""
        return self.router.cascade

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
        router = self.router
        if router.cascade and confidence is None:
            raise ConfigError(f"router {self.name!r} is a cascade: its first model must give token probabilities")
        picked = int(router.route(self._asked(text, feature, confidence))[0])
        return self._route(picked, f"{router.policy} at {router.value_usd:g} USD a unit of quality")

    def instead(self, text: str, feature: str) -> Route:
        """Choose the arm that is predicted to answer best beside the first, which gave no answer."""
        predicted = self.router.predictor.predict(self._asked(text, feature, 0.0))
        return self._route(int(predicted[0, 1:].argmax()) + 1, f"{self.models[0]} was asked first and gave no answer")

    def _asked(self, text: str, feature: str, confidence: float | None) -> Requests:
        sure = np.full((1, len(self.models)), confidence) if self.cascade else None
        vectors = self.embedder.embed([text]) if self.embedder else None
        return Requests((text,), (feature,), confidence=sure, vectors=vectors)

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
        it, other prices, prompts, hits, accepted retrieval, encoder or weights than those it was tested with, or
        nothing written about one of them.
    """
    decision, router = _router_in_use(settings, evalset, accept_provisional)
    embedder = load_embedder(decision.settings["embedder"], settings, books) if router.reads == "vectors" else None
    _require_fit_router(settings, evalset, decision, router, embedder)
    wake_embedder(embedder)
    return Routed(evalset, router, embedder)


def accepted_router(settings: Settings, evalset: str) -> Router:
    """Router of an evalset's accepted routing decision, checked as `load_routed` does but for an encoder's weights.

    Raises
    ------
    ConfigError
        If there is none, its verdict names no arm to use, or it no longer fits.
    """
    decision, router = _router_in_use(settings, evalset, accept_provisional=False)
    _require_fit_router(settings, evalset, decision, router, None)
    return router


def _router_in_use(settings: Settings, evalset: str, accept_provisional: bool) -> tuple[Decision, Router]:
    folder = settings.evalsets / evalset
    decision = Decision.accepted(folder, "routing")
    if decision.verdict not in ("chosen", "upgrade", "keep_reference", "provisional"):
        raise ConfigError(f"the routing decision of {evalset!r} is {decision.verdict!r}: it names nothing to use")
    if decision.verdict == "provisional" and not accept_provisional:
        raise ConfigError(
            f"the routing decision of {evalset!r} is provisional, on synthetic data; pass accept_provisional=True to "
            "use it all the same"
        )
    require_served(decision, folder)
    return decision, load_router(folder / "decisions" / "routing.artefact", decision.arm)


def _require_fit_router(
    settings: Settings, evalset: str, decision: Decision, router: Router, embedder: Embedder | None
) -> None:
    folder = settings.evalsets / evalset
    now = _router_inputs_now(settings, folder, decision, router, embedder)
    if missing := [name for name in now if name not in decision.fingerprint.inputs]:
        wrong = f"does not say with which {', '.join(missing)} it was tested"
    elif changed := _changed_router_inputs(folder, decision, router, now):
        wrong = f"was tested with another {', '.join(changed)}"
    else:
        return
    raise ConfigError(f"the routing decision of {evalset!r} {wrong}; check it again with: workbench check routing")


def router_model_inputs(models: tuple[str, ...], prices: PriceTable) -> dict[str, str]:
    """Prices of the models, and hashes of the weights of local ones: what a decision about them rests on."""
    out = {}
    for name in sorted({m.partition("@")[0] for m in models}):
        if (weights := WEIGHTS.get(name.removeprefix(LOCAL))) is not None:
            out[f"weights of {name}"] = weights.sha256
        if price := prices.models.get(name):
            out[f"price of {name}"] = ", ".join(f"{kind} {nanos}" for kind, nanos in sorted(price.items()))
    return out


def retrieval_arm(folder: Path) -> str:
    """Hash of the arm that the accepted retrieval decision of an evalset names, of nothing where there is none."""
    path = folder / "decisions" / "retrieval.json"
    return content_hash(json.dumps(Decision.load(path).parameters, sort_keys=True) if path.is_file() else "")


def _router_inputs_now(
    settings: Settings, folder: Path, decision: Decision, router: Router, embedder: Embedder | None
) -> dict[str, str]:
    """What a decision must have been tested with, as it is now, by the names of its fingerprint."""
    prices = project_prices(settings.root)
    now = {"prices": prices.sha256} | ({"weights": embedder.encoder_id} if embedder else {})
    if "outcomes" in decision.fingerprint.inputs:  # a table with answers and costs: no prompt was made here
        return now
    files = {"prompts": folder / PROMPTS, HITS: folder / FOLDER / HITS}
    hashes = {name: content_hash(path.read_bytes()) if path.is_file() else "" for name, path in files.items()}
    return now | hashes | router_model_inputs(router.models, prices)


def _changed_router_inputs(folder: Path, decision: Decision, router: Router, now: dict[str, str]) -> list[str]:
    before, noted = decision.fingerprint.inputs, folder / FOLDER / FOUND_WITH
    changed = [name for name, value in now.items() if before[name] != value]
    changed += [n for n in before if n.startswith(("price of ", "weights of ")) and n not in now]
    if HITS in before and noted.is_file():
        found_with = from_json(dict, noted.read_bytes(), f"{noted} cannot be read")
        changed += ["retrieval arm"] if found_with.get("retrieval arm") != retrieval_arm(folder) else []
    return changed + (["router"] if decision.parameters.get("sha256") != router.sha256 else [])
