"""Arms by name: the grid of chunkers and strategies that a notebook's parameters spell out."""

from collections.abc import Mapping, Sequence
from typing import Any

from workbench.codec import from_kinds, shown
from workbench.errors import ConfigError, unknown_name
from workbench.inference.embedding import MINILM_MAX_TOKENS
from workbench.retrieval.chunking import ByStructure, Chunker, FixedTokens, WholeDocument
from workbench.retrieval.indexing import Exact, FullTextIndex, HnswSq, IvfPq
from workbench.retrieval.rerank import CrossEncoderRanker, LearnedRanker
from workbench.retrieval.strategies import RRF, Arm, FullText, Hybrid, Strategy, Vector, Weighted
from workbench.retrieval.tenant import OneOf

CHUNKERS: Mapping[str, Chunker] = {
    "whole": WholeDocument(),
    "tokens": FixedTokens(size=MINILM_MAX_TOKENS),
    "structure": ByStructure(max_tokens=MINILM_MAX_TOKENS),
}
# In order of simplicity, which breaks ties of cost.
STRATEGIES: Mapping[str, Strategy] = {
    "full_text": FullText(),
    "full_text_exact_words": FullText(),
    "full_text_ngram": FullText(),
    "vector": Vector(Exact()),
    "vector_ivf_pq": Vector(IvfPq(), refine_factor=10),
    "vector_hnsw_sq": Vector(HnswSq()),
    "hybrid_rrf": Hybrid(fusion=RRF()),
    "hybrid_rrf_shallow": Hybrid(fusion=RRF(), depth=20),
    "hybrid_callables": Hybrid(fusion=RRF(), where=OneOf("document_type", ("class", "function", "method"))),
}
# Other words than those of `FullTextIndex()`; the last is for scripts that put no blanks between words.
TEXT_INDICES: Mapping[str, FullTextIndex] = {
    "full_text_exact_words": FullTextIndex(stem=False, remove_stop_words=False),
    "full_text_ngram": FullTextIndex(stem=False, remove_stop_words=False, tokenizer="ngram"),
}
# Fitted on dev before they can be searched with, see `workbench.retrieval.notebook`.
FITTED = ("hybrid_weighted", "reranked")
CROSS_ENCODER = "cross_encoder:"


def make_arms(chunkers: Sequence[str], strategies: Sequence[str], *, embedder: str = "minilm") -> list[Arm]:
    """Arms of the grid, simplest first; names in `FITTED` are left to be fitted.

    >>> [arm.name for arm in make_arms(["whole"], ["vector", "full_text"])]
    ['whole · vector', 'whole · full_text']

    Raises
    ------
    ConfigError
        If a chunker or strategy is not known, or one is named twice.
    """
    models = [s for s in strategies if s.startswith(CROSS_ENCODER) and s != CROSS_ENCODER]
    ready = {**STRATEGIES, **{m: CrossEncoderRanker(m.removeprefix(CROSS_ENCODER)) for m in models}}
    known = [*ready, *FITTED]
    for kind, names, allowed in (("chunker", chunkers, list(CHUNKERS)), ("strategy", strategies, known)):
        for name in names:
            if name not in allowed:
                raise ConfigError(unknown_name(kind, name, allowed))
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"{kind} names must be at least one and all different, found {list(names)}")
    return [
        make_arm(chunker, name, ready[name], embedder=embedder)
        for name in strategies
        if name not in FITTED
        for chunker in chunkers
    ]


def make_arm(chunker: str, name: str, strategy: Strategy, *, embedder: str) -> Arm:
    """One arm, called after its chunker, its embedder where that is not the default, and its strategy."""
    index = TEXT_INDICES.get(name, FullTextIndex())
    middle = [] if embedder == "minilm" or not strategy.uses_vectors else [embedder]
    return Arm(" · ".join([chunker, *middle, name]), strategy, CHUNKERS[chunker], embedder, index)


def build_arm(parameters: Mapping[str, Any]) -> Arm:
    """Arm of the parameters that a decision holds.

    >>> from workbench.records import parameters_of
    >>> arm = make_arms(["whole"], ["hybrid_rrf"])[0]
    >>> build_arm(parameters_of(arm)) == arm
    True

    Raises
    ------
    ConfigError
        If a part is not one of ours.
    """
    arm = from_kinds(_PARTS, parameters, f"the arm {shown(parameters.get('name'))} cannot be built again")
    if not isinstance(arm, Arm):
        raise ConfigError(f"these are no parameters of a retrieval arm: {shown(dict(parameters))}")
    return arm


_PARTS: Sequence[type] = (
    Arm, FullText, Vector, Hybrid, LearnedRanker, CrossEncoderRanker, RRF, Weighted, Exact, IvfPq, HnswSq,
    FullTextIndex, WholeDocument, FixedTokens, ByStructure, OneOf,
)  # fmt: skip
