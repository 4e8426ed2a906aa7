"""Choose retrieval, routing and caching by evidence, and keep the choice true in CI.

The public names are loaded when first used, so that ``import workbench`` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from workbench.extras import VERSION, extras_named

__version__ = VERSION

if TYPE_CHECKING:
    from typing import Literal, overload

    from workbench.caching.accepted_cache import load_semantic
    from workbench.caching.cache import ResponseCache, SemanticCache
    from workbench.caching.notebook import CachingExperiment
    from workbench.config import load_settings
    from workbench.costs.notebook import CostsExperiment
    from workbench.evalset.evalset import load_evalset
    from workbench.evaluation.start import start as begin
    from workbench.inference.budgets import Budget
    from workbench.inference.client import Client
    from workbench.inference.messages import CacheUse
    from workbench.orchestration.flows import Flows
    from workbench.orchestration.steps import flow, outside
    from workbench.pipeline.notebook import PipelineExperiment
    from workbench.quality.notebook import QualityExperiment
    from workbench.records import Decision, Document, Hit, Query
    from workbench.retrieval.notebook import RetrievalExperiment
    from workbench.routing.accepted_router import load_routed
    from workbench.routing.notebook import RoutingExperiment
    from workbench.stack.notebook import StackExperiment
    from workbench.telemetry.attribution import attributed
    from workbench.telemetry.traces import load_trace

    # `workbench.evaluation.start.start`, as a type checker and an editor see it: each name with its parameters.
    @overload
    def start(
        notebook: Literal["retrieval"],
        *,
        evalset: str = ...,
        chunkers: list[str] = ...,
        strategies: list[str] = ...,
        embedders: list[str] = ...,
        stores: list[str] = ...,
        systems: list[str] = ...,
        reference: str = ...,
        depth: int = ...,
        rebuilds: int = ...,
        scale_rows: int = ...,
        seed: int = ...,
    ) -> RetrievalExperiment: ...
    @overload
    def start(
        notebook: Literal["routing"],
        *,
        evalset: str = ...,
        policies: list[str] = ...,
        embedder: str = ...,
        reference: str = ...,
        dev_share: float = ...,
        give_up: float = ...,
        min_saving: float = ...,
        draws: int = ...,
        seed: int = ...,
    ) -> RoutingExperiment: ...
    @overload
    def start(
        notebook: Literal["caching"],
        *,
        evalset: str = ...,
        warmup: int = ...,
        embedder: str = ...,
        guard: list[str] = ...,
        verifiers: list[str] = ...,
        max_cost_usd: float = ...,
        call_usd: float = ...,
        false_hit_usd: float = ...,
        draws: int = ...,
        seed: int = ...,
    ) -> CachingExperiment: ...
    @overload
    def start(
        notebook: Literal["pipeline"],
        *,
        evalset: str = ...,
        models: list[str] = ...,
        contexts: list[str] = ...,
        checks: list[str] = ...,
        routes: list[str] = ...,
        rewrites: list[str] = ...,
        reference: str = ...,
        seed: int = ...,
    ) -> PipelineExperiment: ...
    @overload
    def start(
        notebook: Literal["quality"],
        *,
        evalset: str = ...,
        judges: list[str] = ...,
        overlap: list[str] = ...,
        labelled: float = ...,
        reference: str = ...,
        seed: int = ...,
        production: str = ...,
    ) -> QualityExperiment: ...
    @overload
    def start(
        notebook: Literal["costs"],
        *,
        since: str = ...,
        until: str = ...,
        before: str = ...,
        share_by: str = ...,
        instead: list[str] = ...,
        revenue: str = ...,
        good: str = ...,
        invoice: list[str] = ...,
        nameless_limit: float = ...,
        shown: int = ...,
        seed: int = ...,
    ) -> CostsExperiment: ...
    @overload
    def start(
        notebook: Literal["stack"],
        *,
        evalset: str = ...,
        contexts: list[str] = ...,
        routes: list[str] = ...,
        caches: list[str] = ...,
        warmup: int = ...,
        reference: str = ...,
        seed: int = ...,
        retrievals: list[str] = ...,
    ) -> StackExperiment: ...
    def start(
        notebook: str, **parameters: Any
    ) -> (
        RetrievalExperiment
        | RoutingExperiment
        | CachingExperiment
        | PipelineExperiment
        | QualityExperiment
        | CostsExperiment
        | StackExperiment
    ):
        """Begin the experiment of a notebook with its parameters."""
        found: (
            RetrievalExperiment
            | RoutingExperiment
            | CachingExperiment
            | PipelineExperiment
            | QualityExperiment
            | CostsExperiment
            | StackExperiment
        )
        found = begin(notebook, **parameters)
        return found


_HOMES = {
    "Budget": "workbench.inference.budgets",
    "CacheUse": "workbench.inference.messages",
    "Client": "workbench.inference.client",
    "Decision": "workbench.records",
    "Document": "workbench.records",
    "Flows": "workbench.orchestration.flows",
    "Hit": "workbench.records",
    "Query": "workbench.records",
    "ResponseCache": "workbench.caching.cache",
    "SemanticCache": "workbench.caching.cache",
    "attributed": "workbench.telemetry.attribution",
    "flow": "workbench.orchestration.steps",
    "load_evalset": "workbench.evalset.evalset",
    "load_routed": "workbench.routing.accepted_router",
    "load_semantic": "workbench.caching.accepted_cache",
    "load_settings": "workbench.config",
    "load_trace": "workbench.telemetry.traces",
    "outside": "workbench.orchestration.steps",
    "start": "workbench.evaluation.start",
}
__all__ = [
    "Budget",
    "CacheUse",
    "Client",
    "Decision",
    "Document",
    "Flows",
    "Hit",
    "Query",
    "ResponseCache",
    "SemanticCache",
    "attributed",
    "flow",
    "load_evalset",
    "load_routed",
    "load_semantic",
    "load_settings",
    "load_trace",
    "outside",
    "start",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'workbench' has no attribute {name!r}")
    with extras_named():
        return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
