"""Canaries: one question, asked again with one thing around it changed, through both caches as the client asks them.

An answer that is served where something differs has crossed a scope. It stands beside the caches because it knows what
a scope holds: a field that is added to `Scope` needs its change here.

The replays of the notebook compute each scope apart and could not see it.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from workbench.caching.cache import ResponseCache, SemanticCache
from workbench.caching.threshold_certificate import GRID
from workbench.evalset.traffic import RequestStream
from workbench.inference.embedding import Embedder
from workbench.inference.messages import Cache, CacheUse, Request, Response, Usage
from workbench.rendering.table import Column, Shown, Table
from workbench.state import open_engine
from workbench.telemetry.attribution import Attribution
from workbench.temporary_folders import temporary_folder

QUESTION, NEAR = "how do I reset my password", "how do I reset my password, please"
AUDIENCES = ("user", "tenant", "analysts")  # the user alone, everyone of the tenant, a named permission set
TEMPLATE = "Answer in one sentence: "
Kind = Literal["exact", "semantic"]
KINDS: tuple[Kind, ...] = ("exact", "semantic")


@dataclass(frozen=True, slots=True)
class CanaryRequest:
    """The question with everything around it that a scope tells apart."""

    visibility: str
    tenant_id: str = "acme"
    user_id: str = "ann"
    feature: str = "answer"
    model: str = "local/one"
    system: str = "You help."
    earlier: str = ""
    turns: tuple[str, ...] = ()
    max_tokens: int = 100
    seed: int = 0
    stop: str = "###"
    schema: str = "answer"
    tools: str = ""
    corpus_version: str = "corpus 1"
    prompt_version: str = "prompt 1"
    configuration: str = "top2"
    encoder: str = ""
    locale: str = "en"

    @property
    def who(self) -> Attribution:
        """Caller."""
        return Attribution(self.tenant_id, self.user_id, self.feature)

    def use(self, question: str) -> CacheUse:
        """What the caller says of the answer."""
        return CacheUse(
            self.visibility,
            self.corpus_version,
            self.locale,
            intent=question,
            prompt_version=self.prompt_version,
            configuration=self.configuration,
            turns=self.turns,
        )

    def request(self, question: str) -> Request:
        """Request with the question inside its template."""
        turns = [{"role": "system", "content": self.system}]
        turns += [{"role": "assistant", "content": self.earlier}] if self.earlier else []
        return Request(
            self.model,
            (*turns, {"role": "user", "content": TEMPLATE + question}),
            max_tokens=self.max_tokens,
            seed=self.seed,
            stop=(self.stop,),
            tools=({"name": self.tools},) if self.tools else (),
            schema={"title": self.schema},
        )


@dataclass(frozen=True, slots=True, eq=False)
class CanaryChange:
    """One thing that differs, in words, and the field of the scope that keeps the answers apart."""

    name: str
    field: str
    given: Mapping[str, Any]


ANOTHER_USER = CanaryChange("another user", "visibility", {"user_id": "ben"})
CHANGES = (
    CanaryChange("another tenant", "tenant_id", {"tenant_id": "dune"}),
    ANOTHER_USER,
    CanaryChange("another permission set", "visibility", {"visibility": "auditors"}),
    CanaryChange("another feature", "feature", {"feature": "search"}),
    CanaryChange("another model", "model", {"model": "local/two"}),
    CanaryChange("another length of answers", "parameters", {"max_tokens": 101}),
    CanaryChange("another seed", "parameters", {"seed": 1}),
    CanaryChange("another end of answers", "parameters", {"stop": "---"}),
    CanaryChange("another schema of answers", "parameters", {"schema": "reply"}),
    CanaryChange("another system prompt", "prompt", {"system": "You help pirates."}),
    CanaryChange("an earlier turn", "prompt", {"earlier": "You are locked out."}),
    CanaryChange("an earlier turn that the prompt tells", "prompt", {"turns": ("You are locked out.",)}),
    CanaryChange("a tool", "tools", {"tools": "delete_account"}),
    CanaryChange("another version of corpus or index", "corpus_version", {"corpus_version": "corpus 2"}),
    CanaryChange("another version of the prompt", "prompt_version", {"prompt_version": "prompt 2"}),
    CanaryChange("another configuration of the prompt", "configuration", {"configuration": "top5"}),
    CanaryChange("another encoder", "encoder", {"encoder": "another encoder"}),
    CanaryChange("another language", "locale", {"locale": "de"}),
)


@dataclass(frozen=True, slots=True)
class CanaryCrossing:
    """What came of one change in one cache, over all audiences.

    Attributes
    ----------
    crossed : int
        Answers that were served although something differs; must be 0.
    unserved : int
        Own answers that were kept and not served again; must be 0, since a cache that serves nobody shows nothing.
    """

    change: CanaryChange
    kind: Kind
    asked: int
    crossed: int
    unserved: int


def send_canaries(embedder: Embedder, *, threshold: float) -> tuple[CanaryCrossing, ...]:
    """Send every change through a response cache and a semantic one, in a database of their own that is then deleted.

    Whoever differs asks, keeps an answer where none is served, and asks again when all have asked. Only where an answer
    is for the whole tenant or for a permission set, another user must be served what was kept for the first.

    Parameters
    ----------
    embedder : Embedder
        Embeds two texts: the question, and one that is nearly the same.
    threshold : float
        Least cosine of a semantic hit; a low one leaves nothing but the scope between the answers. There is no guard.
    """
    found = [
        crossing
        for audience in AUDIENCES
        for kind in KINDS
        for crossing in _walk_canaries(kind, audience, embedder, threshold)
    ]
    out = []
    for kind in KINDS:
        for change in CHANGES:
            mine = [c for c in found if c.kind == kind and c.change == change]
            counts = (sum(getattr(c, name) for c in mine) for name in ("asked", "crossed", "unserved"))
            out.append(CanaryCrossing(change, kind, *counts))
    return tuple(out)


@contextmanager
def canary_engine() -> Iterator[sa.Engine]:
    """State database that is deleted afterwards, so that nothing is read from the project's or left in it."""
    with temporary_folder("workbench-canaries-") as folder:
        engine = open_engine(f"sqlite:///{folder / 'state.sqlite'}")

        @sa.event.listens_for(engine, "connect")
        def _hurry(dbapi: Any, _record: Any) -> None:
            dbapi.execute("PRAGMA synchronous=OFF")  # nothing here has to outlive a crash

        try:
            yield engine
        finally:
            engine.dispose()


def canary_answer(text: str) -> Response:
    """An answer as a model would have given it."""
    return Response(text, "local/one", Usage(10, 0, 0, 5))


def ask_canary(cache: Cache, request: Request, who: Attribution, use: CacheUse, own: str) -> str | None:
    """Text that the cache serves; where it serves none, the answer ``own`` is kept, as the client does after a call."""
    since = cache.moment()
    hit = cache.find(request, who, use)
    if hit is None:
        cache.keep(request, canary_answer(own), who, use, cost_nanos=1, since=since)
    return None if hit is None else hit.response.text


@dataclass(frozen=True, slots=True)
class _RenamedEncoder:
    """The same vectors under another name, so that nothing but the name keeps entries apart."""

    embedder: Embedder
    name: str

    @property
    def encoder_id(self) -> str:
        return f"{self.embedder.encoder_id} {self.name}".strip()

    @property
    def dimension(self) -> int:
        return self.embedder.dimension

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return self.embedder.embed(texts)


def _walk_canaries(kind: Kind, audience: str, embedder: Embedder, threshold: float) -> list[CanaryCrossing]:
    first = CanaryRequest(audience)
    others = {c: replace(first, **c.given) for c in CHANGES if kind == "semantic" or c.field != "encoder"}
    with canary_engine() as engine:
        caches = {
            name: ResponseCache(engine)
            if kind == "exact"
            else SemanticCache(engine, embedder=_RenamedEncoder(embedder, name), threshold=threshold)
            for name in sorted({asked.encoder for asked in others.values()})
        }
        _canary_answers(caches[first.encoder], first, "of the first")
        early = {c: _canary_answers(caches[asked.encoder], asked, f"of {c.name}") for c, asked in others.items()}
        late = {c: _canary_answers(caches[asked.encoder], asked, "too late") for c, asked in others.items()}
    return [_judge_crossing(change, kind, audience, early[change], late[change]) for change in others]


def _canary_answers(cache: Cache, asked: CanaryRequest, own: str) -> list[str | None]:
    """Answers to the near question, which only a semantic cache is asked and which is not kept, and to the question."""
    out: list[str | None] = []
    if isinstance(cache, SemanticCache):
        near = cache.find(asked.request(NEAR), asked.who, asked.use(NEAR))
        out.append(None if near is None else near.response.text)
    return [*out, ask_canary(cache, asked.request(QUESTION), asked.who, asked.use(QUESTION), own)]


def _judge_crossing(
    change: CanaryChange, kind: Kind, audience: str, early: Sequence[str | None], late: Sequence[str | None]
) -> CanaryCrossing:
    own = "of the first" if change is ANOTHER_USER and audience != "user" else f"of {change.name}"
    crossed = sum(text not in (None, own) for text in (*early, *late))
    serves = kind == "exact" or change.field != "tools"  # a semantic cache serves nothing where tools are in play
    return CanaryCrossing(change, kind, len(early) + len(late), crossed, late.count(None) if serves else 0)


LEAST_THRESHOLD = float(GRID[-1])  # of all that a decision can choose: the most is near enough
CANARY_TEXTS = (QUESTION, NEAR)
MOST_REQUESTS = 1000


@dataclass(frozen=True, slots=True, repr=False)
class Scopes(Shown):
    """What came of the canaries, and of the requests in shared words.

    Attributes
    ----------
    shared : int
        Requests in words that another tenant uses too, sent through both caches.
    foreign : int
        How many of them got what was kept for another tenant.
    """

    table: Table
    crossings: tuple[CanaryCrossing, ...]
    shared: int
    foreign: int

    @property
    def invariants(self) -> dict[str, int]:
        """Counts that must be 0; the fields of the scope that leak stand in the name."""
        leaking = dict.fromkeys(c.change.field for c in self.crossings if c.crossed)
        named = f" ({', '.join(leaking)})" if leaking else ""
        return {
            f"hits across scopes{named}": sum(c.crossed for c in self.crossings),
            "canaries not served in their own scope": sum(c.unserved for c in self.crossings),
            "hits of another tenant": self.foreign,
        }


@dataclass(frozen=True, slots=True, eq=False)
class KnownVectors:
    """An encoder whose vectors are there already, by text."""

    encoder_id: str
    vectors: dict[str, npt.NDArray[np.float32]]

    @classmethod
    def of(cls, embedder: Embedder, texts: Sequence[str], vectors: npt.NDArray[np.float32]) -> "KnownVectors":
        """Vectors of these texts, shape (texts, dimension), up to blanks at their ends."""
        return cls(embedder.encoder_id, dict(zip((text.strip() for text in texts), vectors, strict=True)))

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return len(next(iter(self.vectors.values())))

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Vectors of the texts."""
        return np.array([self.vectors[text.strip()] for text in texts], np.float32)


def requests_shared_by_tenants(stream: RequestStream) -> list[int]:
    """Positions of the requests whose text another tenant asks too, up to blanks at its ends; the first 1,000."""
    tenants = defaultdict(set)
    for text, tenant in zip(stream.queries, stream.tenants, strict=True):
        tenants[text.strip()].add(tenant)
    return [i for i, text in enumerate(stream.queries) if len(tenants[text.strip()]) > 1][:MOST_REQUESTS]


def foreign_cache_hits(stream: RequestStream, positions: Sequence[int], embedder: Embedder) -> int:
    """Requests that either cache answers with what was kept for another tenant; answers are for the whole tenant."""
    use, out = CacheUse(visibility="tenant"), 0
    with canary_engine() as engine:
        for cache in (ResponseCache(engine), SemanticCache(engine, embedder=embedder, threshold=LEAST_THRESHOLD)):
            for i in positions:
                request = Request("local/one", ({"role": "user", "content": stream.queries[i]},))
                who = Attribution(stream.tenants[i], feature=stream.features[i] if stream.features else "")
                answer = ask_canary(cache, request, who, use, str(i))
                out += answer is not None and stream.tenants[int(answer)] != stream.tenants[i]
    return out


def try_cache_scopes(stream: RequestStream, embedder: Embedder) -> Scopes:
    """Send everything through both caches, each in a database of its own; ``embedder`` knows all texts."""
    crossings = send_canaries(embedder, threshold=LEAST_THRESHOLD)
    positions = requests_shared_by_tenants(stream)
    foreign = foreign_cache_hits(stream, positions, embedder)
    return Scopes(_crossings_table(crossings, len(positions), foreign), crossings, len(positions), foreign)


def _crossings_table(crossings: Sequence[CanaryCrossing], shared: int, foreign: int) -> Table:
    rows: list[tuple[str | int, ...]] = []
    for change in CHANGES:
        mine = [c for c in crossings if c.change is change]
        counts = (sum(getattr(c, name) for c in mine) for name in ("asked", "crossed", "unserved"))
        rows.append((change.name, change.field, *counts))
    rows.append(("words that another tenant uses too", "tenant_id", 2 * shared, foreign, 0))
    columns = (
        Column("what differs"),
        Column("field of the scope"),
        Column("asked", "count"),
        Column("hits across", "count"),
        Column("own answers not served", "count"),
    )
    caption = (
        "Hits across scopes. Both caches as they serve, at the lowest threshold and without a guard; every count but "
        "the first must be 0"
    )
    return Table(columns, tuple(rows), caption)
