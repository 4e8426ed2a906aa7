"""Replay a query stream through a cache that serves within one tenant, feature and conversation: its hits, false ones.

*Shadow*: every earlier request is in the cache, so that one pass of nearest neighbours tells the outcome at every
threshold. *True replay*: a hit serves and inserts nothing, a miss is inserted, so that what the cache holds depends
on the threshold. Shadow overstates hits by some points; the chosen threshold is confirmed by true replay.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from workbench.caching.certify import GRID
from workbench.caching.verifiers import Allows, Checks
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
class Replay:
    """What one cache did with each request; arrays as in `ShadowHits`, ``entries`` is what it holds in the end.

    ``nearest`` is the position of the entry that was near enough, served or not, -1 for none.
    """

    hit: Bools
    exact: Bools
    false: Bools
    matched: Ints
    similarity: Floats
    entries: int
    nearest: Ints


Block = tuple[Ints, int, npt.NDArray[np.float32]]


def kept_blocks(stream: RequestStream, vectors: npt.NDArray[np.float32]) -> Sequence[Block] | None:
    """Cosines of all requests for any number of replays of them, or None where they take more than `BLOCK_BYTES`."""
    sizes = Counter(stream.scopes).values()
    return list(_blocks(stream, vectors)) if 4 * sum(n * n for n in sizes) <= BLOCK_BYTES else None


def shadow(stream: RequestStream, vectors: npt.NDArray[np.float32]) -> ShadowHits:
    """Nearest neighbour of every request among all earlier ones of its tenant and feature; memory stays at one block.

    Parameters
    ----------
    vectors : ndarray of float32, shape (requests, dimension)
        Unit vectors of the queries.
    """
    n = len(stream)
    similarity, matched = np.full(n, -1.0), np.full(n, -1)
    for members, start, block in _blocks(stream, vectors):
        later = np.triu_indices(len(block))
        block[:, start:][later] = -np.inf
        best = block.argmax(axis=1)
        rows = members[start : start + len(block)]
        similarity[rows] = block[np.arange(len(block)), best]
        matched[rows] = members[best]
    none = np.isneginf(similarity)
    similarity[none], matched[none] = -1.0, -1
    firsts = first_of(stream)
    exact = firsts >= 0
    matched[exact], similarity[exact] = firsts[exact], 1.0
    false = (matched >= 0) & (stream.answers != stream.answers[matched])
    return ShadowHits(np.clip(similarity, -1, 1), matched, exact, false, np.ones(n, dtype=bool))


def replay(
    stream: RequestStream,
    vectors: npt.NDArray[np.float32] | None,
    *,
    threshold: float = 2.0,
    guard: Allows | None = None,
    blocks: Iterable[Block] | None = None,
) -> Replay:
    """Walk the stream with a cache that serves at ``threshold``; above 1, or with no vectors, exact repeats alone.

    The exact key is looked up first; then the nearest entry is served where it is near enough and neither guard nor
    verifier, if any, objects. ``blocks`` are `kept_blocks` of the same stream and vectors.
    """
    n = len(stream)
    matched, similarity, exact = np.full(n, -1), np.full(n, -1.0), np.zeros(n, dtype=bool)
    seen: dict[tuple[str, str], int] = {}
    keys, nearest = _exact_keys(stream), np.full(n, -1)
    entries, held = np.zeros(n, dtype=np.int64), 0  # places of the scope's cached requests
    if blocks is None or threshold > 1:
        blocks = _blocks(stream, vectors if threshold <= 1 else None)
    for members, start, block in blocks:
        held = held if start else 0  # the next scope's cache is empty
        for place, row in enumerate(block, start):
            i = int(members[place])
            key = keys[i]
            if key in seen:
                matched[i], similarity[i], exact[i] = seen[key], 1.0, True
                continue
            if threshold <= 1 and held:
                near = row[entries[:held]]
                best = int(near.argmax())
                candidate = int(members[entries[best]])
                nearest[i] = candidate if near[best] >= threshold else -1
                if near[best] >= threshold and _passes(stream, guard, i, candidate):
                    matched[i], similarity[i] = candidate, min(float(near[best]), 1.0)
                    continue
            seen[key], entries[held] = i, place
            held += 1
    hit = matched >= 0
    false = hit & (stream.answers != stream.answers[matched])
    return Replay(hit, exact, false, matched, similarity, int((~hit).sum()), nearest)


def serve_nothing(stream: RequestStream) -> Replay:
    """What no cache does."""
    n = len(stream)
    never, nobody = np.zeros(n, dtype=bool), np.full(n, -1)
    return Replay(never, never, never, nobody, nobody.astype(float), 0, nobody)


def _passes(stream: RequestStream, guard: Allows | None, asked: int, cached: int) -> bool:
    return guard is None or guard.allows(stream.queries[asked], stream.queries[cached])


def first_of(stream: RequestStream) -> Ints:
    """Position of the first request of the same scope with the same text, -1 where the request is that one."""
    seen: dict[tuple[str, str], int] = {}
    out = np.full(len(stream), -1)
    for i, key in enumerate(_exact_keys(stream)):
        first = seen.setdefault(key, i)
        if first != i:
            out[i] = first
    return out


def oracle_hits(stream: RequestStream) -> Bools:
    """Requests whose answer was given before to the same tenant and feature: what no cache can exceed."""
    seen: set[tuple[str, int]] = set()
    out = np.zeros(len(stream), dtype=bool)
    for i, key in enumerate(zip(stream.scopes, stream.answers.tolist(), strict=True)):
        out[i] = key in seen
        seen.add(key)
    return out


def _exact_keys(stream: RequestStream) -> list[tuple[str, str]]:
    return list(zip(stream.scopes, (query.strip() for query in stream.queries), strict=True))


def _blocks(stream: RequestStream, vectors: npt.NDArray[np.float32] | None) -> Iterator[Block]:
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
