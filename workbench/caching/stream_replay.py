"""Replay a query stream through a cache that serves within one tenant, feature and conversation: its hits, false ones.

*Shadow*: every earlier request is in the cache, so that one pass of nearest neighbours tells the outcome at every
threshold. *True replay*: a hit serves and inserts nothing, a miss is inserted, so that what the cache holds depends
on the threshold. Shadow overstates hits by some points; the chosen threshold is confirmed by true replay. A verifier
that is asked later promotes the text that it was asked about: that holds the earlier answer from then on. What it says
is known here before the next request comes.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from workbench.caching.threshold_certificate import GRID
from workbench.caching.verifiers import Allows, Checks, LaterChecks
from workbench.evalset.traffic import RequestStream

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
BLOCK_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, eq=False)
class ShadowHits:
    """Nearest earlier request of the same tenant and feature, for each request.

    Attributes
    ----------
    similarity : ndarray of float, shape (requests,)
        Cosine to the nearest earlier request; 1 for an exact repeat, -1 where there is none.
    matched : ndarray of int
        Its position, -1 for none.
    exact : ndarray of bool
        Whether it is the same text, up to blanks at its ends.
    false : ndarray of bool
        Whether its answer is another one: serving it would be wrong.
    allowed : ndarray of bool
        Whether the guard lets it pass; exact repeats always do.
    """

    similarity: Floats
    matched: Ints
    exact: Bools
    false: Bools
    allowed: Bools

    def hits(self, threshold: float) -> Bools:
        """Requests that would be served at the threshold: exact repeats, and those near enough."""
        return self.exact | (self.allowed & (self.similarity >= threshold))

    def guarded(self, stream: RequestStream, guard: Allows) -> "ShadowHits":
        """Return the same with the objections of a guard or verifier: a nearest neighbour that it stops is a miss."""
        allowed, near = np.ones(len(stream), dtype=bool), np.flatnonzero(~self.exact & (self.similarity >= GRID[-1]))
        if isinstance(guard, Checks):
            guard.ask((stream.queries[i], stream.queries[self.matched[i]]) for i in near)
        for i in near:
            allowed[i] = guard.allows(stream.queries[i], stream.queries[self.matched[i]])
        return replace(self, allowed=allowed)


@dataclass(frozen=True, slots=True, eq=False)
class StreamReplay:
    """What one cache did with each request; arrays as in `ShadowHits`, ``entries`` is what it holds in the end.

    Attributes
    ----------
    matched : ndarray of int
        Position of the request that the served answer was given to, -1 for a miss.
    exact : ndarray of bool
        Whether that was to the same text. A text that was promoted has the answer of another one.
    checked : ndarray of bool
        Whether a verifier was asked, in line or later.
    promoted : int
        Entries that hold the answer of another text.
    """

    hit: Bools
    exact: Bools
    false: Bools
    matched: Ints
    similarity: Floats
    entries: int
    checked: Bools
    promoted: int = 0


Block = tuple[Ints, int, npt.NDArray[np.float32]]


def kept_stream_blocks(stream: RequestStream, vectors: npt.NDArray[np.float32]) -> Sequence[Block] | None:
    """Cosines of all requests for any number of replays of them, or None where they take more than `BLOCK_BYTES`."""
    sizes = Counter(stream.scopes).values()
    return list(_stream_blocks(stream, vectors)) if 4 * sum(n * n for n in sizes) <= BLOCK_BYTES else None


def shadow_hits(stream: RequestStream, vectors: npt.NDArray[np.float32]) -> ShadowHits:
    """Nearest neighbour of every request among all earlier ones of its tenant and feature; memory stays at one block.

    Parameters
    ----------
    vectors : ndarray of float32, shape (requests, dimension)
        Unit vectors of the queries.
    """
    n = len(stream)
    similarity, matched = np.full(n, -1.0), np.full(n, -1)
    for members, start, block in _stream_blocks(stream, vectors):
        later = np.triu_indices(len(block))
        block[:, start:][later] = -np.inf
        best = block.argmax(axis=1)
        rows = members[start : start + len(block)]
        similarity[rows] = block[np.arange(len(block)), best]
        matched[rows] = members[best]
    none = np.isneginf(similarity)
    similarity[none], matched[none] = -1.0, -1
    firsts = first_in_stream(stream)
    exact = firsts >= 0
    matched[exact], similarity[exact] = firsts[exact], 1.0
    false = (matched >= 0) & (stream.answers != stream.answers[matched])
    return ShadowHits(np.clip(similarity, -1, 1), matched, exact, false, np.ones(n, dtype=bool))


def replay_stream(
    stream: RequestStream,
    vectors: npt.NDArray[np.float32] | None,
    *,
    threshold: float = 2.0,
    guard: Allows | None = None,
    blocks: Iterable[Block] | None = None,
    fills: int | None = None,
) -> StreamReplay:
    """Walk the stream with a cache that serves at ``threshold``; above 1, or with no vectors, exact repeats alone.

    The exact key is looked up first; then the nearest entry is served where it is near enough and neither guard nor
    verifier, if any, objects. Of `LaterChecks` the guard decides, and what its verifier is asked about is a miss.
    ``blocks`` are `kept_stream_blocks` of the same stream and vectors. ``fills`` are the first requests whose answers
    are kept, by default all: those of a tier of curated answers, beside which nothing is kept but what is promoted.
    """
    walk = _StreamWalk(stream, threshold, guard)
    fills, keys = len(stream) if fills is None else fills, _exact_stream_keys(stream)
    seen = dict[tuple[str, str], int]()
    entries, held = np.zeros(len(stream), dtype=np.int64), 0  # places of the scope's cached requests
    if blocks is None or walk.least > 1:
        blocks = _stream_blocks(stream, vectors if walk.least <= 1 else None)
    for members, start, block in blocks:
        held = held if start else 0  # the next scope's cache is empty
        for place, row in enumerate(block, start):
            i = int(members[place])
            if (first := seen.get(keys[i])) is not None:
                walk.repeats(i, first)
                continue
            if walk.least <= 1 and held:
                near = row[entries[:held]]
                best = int(near.argmax())
                if walk.serves(i, int(members[entries[best]]), near[best]):
                    continue
            if i < fills or walk.roots[i] != i:
                seen[keys[i]], entries[held] = i, place
                held += 1
    return walk.done(len(seen))


class _StreamWalk:
    """What a replay has found so far; ``roots`` say whose answer a cached request holds, ``links`` their cosines."""

    def __init__(self, stream: RequestStream, threshold: float, guard: Allows | None) -> None:
        n = len(stream)
        self.stream, self.threshold, self.guard = stream, threshold, guard
        self.later = guard if isinstance(guard, LaterChecks) else None
        self.least = min(threshold, self.later.floor) if self.later else threshold
        self.matched, self.similarity, self.exact = np.full(n, -1), np.full(n, -1.0), np.zeros(n, dtype=bool)
        self.checked, self.roots, self.links = np.zeros(n, dtype=bool), np.arange(n), np.ones(n)
        self._judged = set[tuple[str, str, int]]()

    def repeats(self, i: int, first: int) -> None:
        """Serve a request whose text is cached."""
        root = int(self.roots[first])
        self.matched[i], self.similarity[i], self.exact[i] = root, self.links[first], root == first

    def serves(self, i: int, cached: int, cosine: np.float32) -> bool:
        """Whether the nearest entry is served; else the verifier may be asked later about the answer it holds."""
        q, root = self.stream.queries, int(self.roots[cached])
        if cosine >= self.threshold:
            self.checked[i] = isinstance(self.guard, Checks) and self.guard.asks(q[i], q[cached])
            if self._passes(q[i], q[cached], q[root]):
                self.matched[i], self.similarity[i] = root, min(float(cosine), 1.0)
                return True
        asked = self.stream.scopes[i], q[i].strip(), root
        if self.later and cosine >= self.later.floor and asked not in self._judged:
            self._judged.add(asked)
            self.checked[i] = self.later.checks.asks(q[i], q[root])
            if self.later.checks.allows(q[i], q[root]):
                self.roots[i], self.links[i] = root, min(float(cosine), 1.0)
        return False

    def _passes(self, asked: str, cached: str, answered: str) -> bool:
        """Whether it is served at once; where a promoted text is near, the guard of the verifier has a say too."""
        if self.guard is None:
            return True
        if not self.guard.allows(asked, cached):
            return False
        return answered == cached or self.later is None or self.later.checks.asks(asked, answered)

    def done(self, entries: int) -> StreamReplay:
        """All of it."""
        hit, promoted = self.matched >= 0, int((self.roots != np.arange(len(self.roots))).sum())
        false = hit & (self.stream.answers != self.stream.answers[self.matched])
        return StreamReplay(hit, self.exact, false, self.matched, self.similarity, entries, self.checked, promoted)


def replay_without_cache(stream: RequestStream) -> StreamReplay:
    """What no cache does."""
    n = len(stream)
    never, nobody = np.zeros(n, dtype=bool), np.full(n, -1)
    return StreamReplay(never, never, never, nobody, nobody.astype(float), 0, never)


def first_in_stream(stream: RequestStream) -> Ints:
    """Position of the first request of the same scope with the same text, -1 where the request is that one."""
    seen: dict[tuple[str, str], int] = {}
    out = np.full(len(stream), -1)
    for i, key in enumerate(_exact_stream_keys(stream)):
        first = seen.setdefault(key, i)
        if first != i:
            out[i] = first
    return out


def oracle_stream_hits(stream: RequestStream) -> Bools:
    """Requests whose answer was given before to the same tenant and feature: what no cache can exceed."""
    seen: set[tuple[str, int]] = set()
    out = np.zeros(len(stream), dtype=bool)
    for i, key in enumerate(zip(stream.scopes, stream.answers.tolist(), strict=True)):
        out[i] = key in seen
        seen.add(key)
    return out


def _exact_stream_keys(stream: RequestStream) -> list[tuple[str, str]]:
    return list(zip(stream.scopes, (query.strip() for query in stream.queries), strict=True))


def _stream_blocks(stream: RequestStream, vectors: npt.NDArray[np.float32] | None) -> Iterator[Block]:
    """Positions of a scope, and blocks of the cosines of its requests with those up to the block's end.

    Without vectors a block has a row for each request and no columns.
    """
    codes = np.unique(np.array(stream.scopes), return_inverse=True)[1]
    order = codes.argsort(kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1) if len(stream) else ():
        mine = np.zeros((len(members), 0), np.float32) if vectors is None else vectors[members]
        rows = max(1, BLOCK_BYTES // (4 * len(members)))
        for start in range(0, len(members), rows):
            end = min(start + rows, len(members))
            yield members, start, mine[start:end] @ mine[:end].T
