"""Arms by name: the grid of chunkers and strategies that a notebook's parameters spell out."""

from collections.abc import Mapping, Sequence
from typing import Any

from workbench.codec import from_kinds, shown
from workbench.errors import ConfigError, unknown_name
from workbench.inference.embedding import check_embedder
from workbench.inference.encoders import MINILM_MAX_TOKENS
from workbench.retrieval.chunking import ByStructure, Chunker, FixedTokens, WholeDocument
from workbench.retrieval.filters import OneOf
from workbench.retrieval.index_kinds import Exact, FullTextIndex, Hnsw, HnswSq, IvfPq
from workbench.retrieval.rerank import CrossEncoderRanker, LearnedRanker
from workbench.retrieval.strategies import RRF, Arm, FullText, Hybrid, Rescored, Strategy, Vector, Weighted

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
    "vector_hnsw": Vector(Hnsw()),
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
CROSS_ENCODER, RESCORED = "cross_encoder:", "rescored:"
STORES = ("lance", "postgres")
# Stores that have an index of the kind; `Exact` is of every store.
_INDEXED_BY: Mapping[str, str] = {IvfPq.name: "lance", HnswSq.name: "lance", Hnsw.name: "postgres"}


def make_arms(
    chunkers: Sequence[str],
    strategies: Sequence[str],
    *,
    embedders: Sequence[str] = ("minilm",),
    stores: Sequence[str] = ("lance",),
) -> list[Arm]:
    """Arms of the grid, simplest first; names in `FITTED` are left to be fitted.

    Full text has no arm per embedder, because it reads none. An approximate index is compared on the first embedder
    alone, in the stores that have it.

    >>> [arm.name for arm in make_arms(["whole"], ["full_text", "vector"], embedders=["minilm", "wordllama"])]
    ['whole · full_text', 'whole · vector', 'whole · wordllama · vector']

    Raises
    ------
    ConfigError
        If a name is not known, is given twice, or no store has the index of a strategy.
    """
    models = [s for s in strategies if s.startswith(CROSS_ENCODER) and s != CROSS_ENCODER]
    ready = {**STRATEGIES, **{m: CrossEncoderRanker(m.removeprefix(CROSS_ENCODER)) for m in models}}
    ready |= {s: Rescored(s.removeprefix(RESCORED)) for s in strategies if s.removeprefix(RESCORED) in embedders}
    known = [*ready, *FITTED, *(f"{RESCORED}{name}" for name in embedders)]
    for kind, names, allowed in (
        ("chunker", chunkers, list(CHUNKERS)),
        ("strategy", strategies, known),
        ("store", stores, list(STORES)),
        ("embedder", embedders, None),
    ):
        for name in names:
            if allowed is None:
                check_embedder(name)
            elif name not in allowed:
                raise ConfigError(unknown_name(kind, name, allowed))
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"{kind} names must be at least one and all different, found {list(names)}")
    if without := [name for name in strategies if name in ready and not _arm_stores(name, ready[name], stores)]:
        told = f"strategy {without[0]!r} needs an index that none of the stores {list(stores)} has"
        left = [name for name in strategies if name not in without]
        ask = (
            f"give strategies too, without {', '.join(without)}: strategies={left}"
            if left
            else "add a store that has it"
        )
        raise ConfigError(f"{told}; {ask}")
    return [
        make_arm(chunker, name, ready[name], embedder=embedder, store=store)
        for name in strategies
        if name not in FITTED
        for store in _arm_stores(name, ready[name], stores)
        for chunker in chunkers
        for embedder in (embedders if _is_arm_per_embedder(ready[name]) else embedders[:1])
        if name != f"{RESCORED}{embedder}"
    ]


def named_arm(name: str) -> Arm:
    """Arm of the grid by its name.

    >>> named_arm("whole · full_text") == make_arms(["whole"], ["full_text"])[0]
    True

    Raises
    ------
    ConfigError
        If no arm of the grid is called so, or the arm is fitted on dev: its name does not say with which weights.
    """
    chunker, *rest = name.split(" · ")
    store = rest.pop() if rest and rest[-1] in STORES else "lance"
    strategy, embedder = rest[-1] if rest else "", rest[0] if len(rest) == 2 else "minilm"
    if is_fitted(name):
        raise ConfigError(f"arm {name!r} is fitted on dev; name one that its name alone describes, such as "
                          f"'{chunker} · full_text'")  # fmt: skip
    embedders = [embedder, *([strategy.removeprefix(RESCORED)] if strategy.startswith(RESCORED) else [])]
    found = [a for a in make_arms([chunker], [strategy], embedders=embedders, stores=[store]) if a.name == name]
    if not found:
        raise ConfigError(f"no arm of 01_retrieval is called {name!r}; they are called like 'whole · full_text'")
    return found[0]


def is_fitted(name: str) -> bool:
    """Whether an arm of this name is fitted on dev, so that its name does not say with which weights."""
    return any(part in FITTED for part in name.split(" · "))


def _arm_stores(name: str, strategy: Strategy, stores: Sequence[str]) -> list[str]:
    of_lance = TEXT_INDICES.get(name, FullTextIndex()).tokenizer == "ngram"
    wanted = "lance" if of_lance else _INDEXED_BY.get(strategy.index.name)
    return [store for store in stores if wanted in (None, store)]


def _is_arm_per_embedder(strategy: Strategy) -> bool:
    return strategy.uses_vectors and isinstance(strategy.index, Exact)


def make_arm(chunker: str, name: str, strategy: Strategy, *, embedder: str, store: str = "lance") -> Arm:
    """One arm, called after its chunker, its strategy, and its embedder and store where they are not the defaults."""
    index = TEXT_INDICES.get(name, FullTextIndex())
    middle = [] if embedder == "minilm" or not strategy.uses_vectors else [embedder]
    end = [] if store == "lance" else [store]
    return Arm(" · ".join([chunker, *middle, name, *end]), strategy, CHUNKERS[chunker], embedder, index, store)


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
    Arm, FullText, Vector, Rescored, Hybrid, LearnedRanker, CrossEncoderRanker, RRF, Weighted, Exact, IvfPq, HnswSq,
    Hnsw, FullTextIndex, WholeDocument, FixedTokens, ByStructure, OneOf,
)  # fmt: skip
