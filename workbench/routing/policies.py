"""Routing policies as plain values: fitted on recorded outcomes, they pick a model for each request.

A policy predicts how good every model's answer will be. One knob, what a unit of quality is worth in dollars, turns
the predictions into choices, so that every policy has a whole curve of quality against cost, and none has a
threshold of its own. What was fitted is stored as plain arrays: the router that was tested is the one that ships.
"""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np

from workbench.codec import from_kinds, to_plain
from workbench.errors import ConfigError, unknown_name
from workbench.evalset.outcomes import Requests
from workbench.evaluation.in_use import read_artefact
from workbench.inference.prices import embed_query, load_prices
from workbench.records import content_hash
from workbench.routing import predictors as rf
from workbench.routing import predictors as rm
from workbench.routing.predictors import Floats, Ints, Predictor

Learn = Callable[[Requests, Floats], Predictor]


@dataclass(frozen=True, slots=True)
class Policy:
    """How a router is learned; ``reads`` is what it needs beside the text: "vectors", "confidence" or nothing.

    A cascade always asks its first model, and pays for it also where it goes on. ``embed_usd`` are dollars of embedding
    one request, None for the rate of the default encoder.
    """

    name: str
    learn: Learn = field(repr=False)
    reads: str = ""
    cascade: bool = False
    embed_usd: float | None = field(default=None, repr=False)

    def fit(self, requests: Requests, quality: Floats, cost_usd: Floats, models: Sequence[str]) -> "Router":
        """Learn on recorded outcomes.

        Parameters
        ----------
        quality, cost_usd : ndarray of float, shape (n, models)
            In [0, 1], and dollars of each call.
        models : sequence of str
            Cheapest first: of equal choices the first is taken.
        """
        overhead = 0.0
        if self.reads == "vectors":
            overhead = load_prices().cost_usd([embed_query("minilm")]) if self.embed_usd is None else self.embed_usd
        predictor = self.learn(requests, quality)
        return Router(self.name, tuple(models), predictor, cost_usd.mean(0), self.cascade, overhead_usd=overhead)


@dataclass(frozen=True, slots=True, eq=False)
class Router:
    """A fitted policy with its knob, ready to route; `save` and `load` keep it bit for bit.

    Attributes
    ----------
    cost_usd : ndarray of float, shape (models,)
        Mean dollars of a call where it was fitted.
    value_usd : float
        The knob: dollars that a unit of quality is worth. 0 always takes the cheapest, infinity the best predicted.
    overhead_usd : float
        Dollars of routing one request.
    """

    policy: str
    models: tuple[str, ...]
    predictor: Predictor
    cost_usd: Floats
    cascade: bool = False
    value_usd: float = float("inf")
    overhead_usd: float = 0.0

    @property
    def reads(self) -> str:
        """What it needs beside the text, as its features say: "vectors", "confidence" or nothing."""
        part = getattr(self.predictor, "sure", self.predictor)
        return str(getattr(getattr(part, "features", None), "reads", ""))

    def route(self, requests: Requests) -> Ints:
        """Position in ``models`` of the one that answers each request, shape (n,)."""
        return self.pick(self.predictor.predict(requests))

    def pick(self, predicted: Floats, value_usd: float | None = None) -> Ints:
        """Choose by predicted quality, shape (n, models); of equals the cheaper."""
        value = self.value_usd if value_usd is None else value_usd
        cost = self.cost_usd + np.where(np.arange(len(self.models)) > 0, self.cost_usd[0], 0) * self.cascade
        picked: Ints = (predicted if np.isinf(value) else value * predicted - cost).argmax(1)
        return picked

    def spend(self, picked: Ints, per_call: Floats) -> Floats:
        """What each request takes of ``per_call`` (dollars or milliseconds), shape (n, models) to (n,)."""
        rows = np.arange(len(picked))
        total = per_call[rows, picked]
        return total + np.where(picked > 0, per_call[:, 0], 0.0) if self.cascade else total

    @property
    def storable(self) -> bool:
        """Whether all parts are ours; a user's own class is built again from its source."""
        return type(self.predictor) in _KINDS

    def save(self) -> dict[str, Any]:
        """Plain JSON values.

        Raises
        ------
        ConfigError
            If the predictor is a user's own class.
        """
        saved: dict[str, Any] = to_plain(self, kinds=_KINDS, leaf=_plain_arrays)
        return saved

    @classmethod
    def load(cls, raw: Mapping[str, Any]) -> Self:
        """Build what `save` gave.

        Raises
        ------
        ConfigError
            If the values are not those of a router of this version.
        """
        told = "not a router this version reads"
        try:
            found = from_kinds(_KINDS, raw, told, leaf=_arrays_back)
        except (KeyError, TypeError, ValueError) as error:  # an array that is none
            raise ConfigError(f"{told}: {error!r}") from error
        if not isinstance(found, cls):
            raise ConfigError(f"a router was expected, found {type(found).__name__}")
        return found

    @property
    def sha256(self) -> str:
        """Hash of everything that routes, "" for a user's own class."""
        return content_hash(json.dumps(self.save(), sort_keys=True)) if self.storable else ""


def load_router(path: Path, arm: str) -> Router:
    """Router of one arm from the file beside an accepted decision.

    Raises
    ------
    ConfigError
        If the file is missing, cannot be read or holds no such arm.
    """
    routers = read_artefact(path)
    if arm not in routers:
        raise ConfigError(f"{path}: {unknown_name('router', arm, sorted(routers))}")
    return Router.load(routers[arm])


def one_model(model: int, models: Sequence[str], cost_usd: Floats) -> Router:
    """Router that always takes the same model."""
    quality = np.zeros(len(models))
    quality[model] = 1.0
    return Router(models[model], tuple(models), rm.Constant(quality), cost_usd)


def _learned(kind: Any, features: Callable[[Requests], Any]) -> Learn:
    return lambda requests, quality: kind.fit(features(requests), requests, quality)


def _embedding(_: Requests) -> rf.Embedding:
    return rf.Embedding()


def _cascade(requests: Requests, quality: Floats) -> rm.Cascade:
    mean = quality.mean(0)
    sure = rm.Logistic.fit(rf.Confidence(0), requests, quality[:, :1], l2=1e-3)
    return rm.Cascade(sure, mean, int(mean[1:].argmax()) + 1)


POLICIES: Mapping[str, Policy] = MappingProxyType({p.name: p for p in (
    Policy("random", lambda requests, quality: rm.Lottery(quality.mean(0))),
    Policy("by_feature", rm.ByFeature.fit),
    Policy("length", _learned(rm.Logistic, partial(rf.Surface.fit, only_length=True))),
    Policy("complexity", _learned(rm.Logistic, rf.Surface.fit)),
    Policy("boosting", _learned(rm.Boosted, rf.Surface.fit)),
    Policy("logistic_words", _learned(rm.Logistic, rf.Tfidf.fit)),
    Policy("knn_words", _learned(rm.Neighbours, rf.Tfidf.fit)),
    Policy("logistic_embedding", _learned(rm.Logistic, _embedding), "vectors"),
    Policy("knn_embedding", _learned(rm.Neighbours, _embedding), "vectors"),
    Policy("cascade", _cascade, "confidence", cascade=True),
)})  # fmt: skip


def check_policy(name: str) -> None:
    """Refuse a name that `make_policy` would refuse whatever the models are; your own class is not loaded.

    Raises
    ------
    ConfigError
        If the name is of no known form.
    """
    if name.startswith("table:"):
        _models_by_feature(name)
    elif name not in POLICIES and ":" not in name:
        raise ConfigError(
            unknown_name("policy", name, sorted(POLICIES)) + ", table:FEATURE=MODEL;*=MODEL, module:Class"
        )


def make_policy(name: str, models: Sequence[str]) -> Policy:
    """Policy by name: one of `POLICIES`, ``table:FEATURE=MODEL;...;*=MODEL``, or your own ``module:Class``.

    Raises
    ------
    ConfigError
        If the name is none of these, or a table names a model that is not there.
    """
    check_policy(name)
    if name in POLICIES:
        return POLICIES[name]
    if name.startswith("table:"):
        return Policy(name, _by_feature(name, models))
    kind = rm.load_class(name)
    return Policy(name, lambda requests, quality: kind().fit(requests, quality))


def _models_by_feature(name: str) -> dict[str, str]:
    pairs = dict(part.split("=", 1) for part in name.removeprefix("table:").split(";") if "=" in part)
    if "*" not in pairs:
        raise ConfigError(f"policy {name!r} must end in *=MODEL, for features that it does not name")
    return pairs


def _by_feature(name: str, models: Sequence[str]) -> Learn:
    pairs = _models_by_feature(name)
    for model in pairs.values():
        if model not in models:
            raise ConfigError(f"policy {name!r}: {unknown_name('model', model, models)}")
    listed = (*(f for f in pairs if f != "*"), "*")
    chosen = np.stack([np.eye(len(models))[list(models).index(pairs[f])] for f in listed])
    return lambda requests, quality: rm.ByFeature(listed[:-1], chosen)


_KINDS: Sequence[type] = (
    Router, rm.Constant, rm.Lottery, rm.ByFeature, rm.Logistic, rm.Neighbours, rm.Boosted, rm.Cascade,
    rf.Surface, rf.Embedding, rf.Tfidf, rf.Confidence,
)  # fmt: skip


def _plain_arrays(value: Any) -> Any:
    """Arrays and infinity as plain values."""
    if isinstance(value, np.ndarray):
        data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
        return {"dtype": value.dtype.str, "shape": list(value.shape), "base64": data}
    if hasattr(value, "indptr"):
        parts = [_plain_arrays(part) for part in (value.data, value.indices, value.indptr)]
        return {"sparse": parts, "shape": list(value.shape)}
    if isinstance(value, float) and np.isinf(value):
        return "inf"
    if isinstance(value, str | int | float):
        return value
    raise ConfigError(f"{type(value).__name__} is not a part of this package, so it cannot be stored with the router")


def _arrays_back(raw: Any) -> Any:
    if raw == "inf":
        return float("inf")
    if not isinstance(raw, Mapping):
        return raw
    if "sparse" in raw:
        from scipy.sparse import csr_array

        return csr_array(tuple(_arrays_back(part) for part in raw["sparse"]), tuple(raw["shape"]))
    return np.frombuffer(base64.b64decode(raw["base64"]), raw["dtype"]).reshape(raw["shape"])
