"""Which pairs of a stream are worth labelling: near repeats, which a semantic cache would serve, as a blind sheet.

A log does not say which requests may share an answer. Unlabelled, every near repeat counts as a wrong answer, so that
no semantic cache can be shown to be good enough. A certificate at a threshold rests on all near repeats from there up.
So pairs are worth a label from the highest cosine at which a certificate would be given if every near repeat without a
label were right; where there is no such cosine, labels alone cannot give one, and more requests are needed.
"""

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from workbench.caching.cache_claims import pair_families_needed
from workbench.caching.cache_study import CachingParameters
from workbench.caching.stream_replay import ShadowHits, shadow_hits
from workbench.caching.threshold_certificate import GRID, certify_threshold, count_hits, hits_to_start
from workbench.config import Settings
from workbench.errors import EvalsetError
from workbench.evalset.folder import Tell, writing_evalset_files
from workbench.evalset.gates import default_gate_policy, scan_gates
from workbench.evalset.imports.pairs_and_streams import DEV_ONE_IN, PAIR_SHEET, Key, filled_pairs, unordered_pair
from workbench.evalset.traffic import Pair, RequestStream, load_traffic_pairs, load_traffic_stream
from workbench.evaluation.compare import spent_confidence
from workbench.inference.embedding import Embedder, load_embedder, unread_by_embedder
from workbench.records import content_hash
from workbench.rendering.numbers import counted, percent
from workbench.rendering.progress import waiting
from workbench.retrieval.ingest import eval_vectors

WAYS = 2  # similarity alone and with the guard: the notebook certifies both at a time
BANDS = (0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)  # lower ends, nearest first


@dataclass(frozen=True, slots=True)
class NearPair:
    """Two texts of one tenant of which a cache would serve the answer of one to the other.

    ``cosine`` is in [-1, 1]; ``requests`` are those that it would serve so.
    """

    tenant_id: str
    query_a: str
    query_b: str
    cosine: float
    requests: int

    @property
    def key(self) -> Key:
        """The same for both orders of the texts."""
        return unordered_pair(self.tenant_id, self.query_a, self.query_b)

    @property
    def pair_id(self) -> str:
        """Id in the sheet, which tells nothing of the rest."""
        return content_hash(*self.key)[:12]


@dataclass(frozen=True, slots=True)
class NearRepeatsWorth:
    """From which cosine labels are worth their while.

    Attributes
    ----------
    least : float or None
        Highest cosine from which a certificate would be given if every near repeat without a label were right; None
        where there is none.
    hits, clusters : int
        Near repeats of the calibration part from there up, and the families that they are of.
    note : str
        Where there is none, what a certificate lacks even so.
    """

    least: float | None
    hits: int
    clusters: int
    note: str


def draw_near_repeats(
    folder: Path,
    settings: Settings,
    *,
    limit: int,
    tell: Tell,
    least: float | None = None,
    parameters: CachingParameters | None = None,
    embedder: Embedder | None = None,
) -> Path | None:
    """Write the sheet of near repeats that nobody has labelled; gives its path, or None if there is nothing to label.

    Parameters
    ----------
    folder : Path
        Evalset with a ``stream.parquet``.
    limit : int
        Pairs in the sheet at most; every band of cosines gives the same number, where it has so many.
    tell : callable
        Takes lines: near repeats by band, and how many pairs are worth a label.
    least : float, optional
        Cosine from which pairs are drawn; by default that of `NearRepeatsWorth`, and none where no certificate is in
        reach.
    parameters : CachingParameters, optional
        Whose embedder and warm-up count; those of the notebook by default.
    embedder : Embedder, optional
        In place of the one that the parameters name.

    Raises
    ------
    EvalsetError
        If there is no stream, or a sheet holds labels that are not imported yet.
    """
    p, sheet = parameters or CachingParameters(), folder / PAIR_SHEET
    stream, (pairs, _) = load_traffic_stream(folder), load_traffic_pairs(folder)
    if stream.synthetic:
        raise EvalsetError(f"{folder} has made-up traffic, which knows its answers; labels are for a stream.parquet")
    labelled = {unordered_pair(pair.tenant_id, pair.query_a, pair.query_b): pair.same_answer for pair in pairs}
    differ = {key for key, same in labelled.items() if not same}
    if sheet.exists() and filled_pairs(sheet) - labelled.keys():
        told = f"import them (workbench import judgements {sheet} --name {folder.name} --partly), or remove it"
        raise EvalsetError(f"{sheet} holds labels that the evalset has not; {told}")
    encoder = embedder or load_embedder(p.embedder, settings)
    vectors = _near_repeat_vectors(stream.queries, encoder, settings)
    with waiting(f"nearest earlier requests of {len(stream):,}"):
        found = shadow_hits(stream, vectors)
    near = near_pairs(stream, found)
    open_pairs = [pair for pair in near if pair.key not in labelled]
    policy = scan_gates(folder / "gates.toml")[0].get("caching") or default_gate_policy("caching")
    each = 1 - (1 - policy.confidence) / WAYS
    with waiting("thresholds tried"):
        worth = near_repeats_worth(stream, found, differ, p.warmup, alpha=policy.alpha, confidence=each)
    parts = near_repeats_stream_told(len(stream), p.warmup)
    for line in (
        *_near_bands_told(near, open_pairs, pairs),
        *_near_repeats_worth_told(worth, open_pairs, policy.alpha, parts),
    ):
        tell(line)
    if (start := worth.least if least is None else least) is None:
        tell(f"nothing was drawn; pairs for another reason: workbench evalset pairs {folder.name} --least 0.9")
        return None
    wanted = [pair for pair in open_pairs if pair.cosine >= start]
    needed = pair_families_needed(policy.pair_limit, spent_confidence(policy.confidence, 1))
    negatives = near_negatives_told(pairs, _labelled_cosines(pairs, encoder, settings), wanted, start, needed)
    if not (drawn := draw_near_pairs(wanted, limit)):
        tell(f"no pair from cosine {start:.2f} is without a label: there is nothing to label")
        tell(negatives)
        return None
    with writing_evalset_files(sheet):
        sheet.write_text("".join(f"{line}\n" for line in _near_pair_sheet(drawn)), encoding="utf-8", newline="\n")
    tell(
        f"{sheet} holds {len(drawn):,} of {counted(len(wanted), 'pair')} from cosine {start:.2f}, blind to how "
        "near they are"
    )
    tell(negatives)
    return sheet


def _near_repeat_vectors(texts: Sequence[str], embedder: Embedder, settings: Settings) -> npt.NDArray[np.float32]:
    vectors = eval_vectors(texts, embedder, settings.cache, label="requests")
    vectors[unread_by_embedder(embedder, texts, strict=True)] = 0  # near nothing, as in the cache
    return vectors


def _labelled_cosines(pairs: Sequence[Pair], embedder: Embedder, settings: Settings) -> npt.NDArray[np.float64]:
    """Cosine of each labelled pair, as 03_caching counts it."""
    if not pairs:
        return np.zeros(0)
    sides = [
        _near_repeat_vectors([getattr(pair, name) for pair in pairs], embedder, settings)
        for name in ("query_a", "query_b")
    ]
    found: npt.NDArray[np.float64] = np.clip((sides[0] * sides[1]).sum(1), -1, 1).astype(float)
    return found


def near_negatives_told(
    pairs: Sequence[Pair], cosines: npt.NDArray[np.float64], left: Sequence[NearPair], least: float, needed: int
) -> str:
    """Say between which cosines pairs that must differ are still to be labelled, and about how many.

    A certificate is tried on those of the test split at cosines where its threshold may lie: further down none would
    be served at any threshold, and "none was served" says nothing of them. Families count, each where its nearest pair
    lies, and each band from ``least`` up is to hold as many as every other of the ``needed`` ones.

    Parameters
    ----------
    cosines : array of float, shape (pairs,)
    left : sequence of NearPair
        Pairs from ``least`` up that nobody has labelled.
    """
    edges = [least, *(low for low in reversed(BANDS) if low > least)]
    families = dict[str, float]()
    for pair, cosine in zip(pairs, cosines.tolist(), strict=True):
        if not pair.same_answer and pair.split == "test" and cosine >= least:
            families[pair.cluster] = max(families.get(pair.cluster, -1.0), cosine)
    there = Counter(bisect_right(edges, cosine) - 1 for cosine in families.values())
    each = -(-needed // len(edges))
    short = {place: each - there[place] for place in range(len(edges)) if there[place] < each}
    found = f"{counted(len(families), 'family')} of the test split from cosine {least:.2f} up"
    if not short:
        return f"pairs that must differ are enough: {found}, where a threshold may lie; {needed:,} are needed"
    low, high = edges[min(short)], [*edges[1:], 1.0][max(short)]
    more = -(-sum(short.values()) * DEV_ONE_IN // (DEV_ONE_IN - 1))
    told = (
        f"label about {counted(more, 'more pair')} that must differ between cosine {low:.2f} and {high:.2f}: "
        "03_caching needs "
    )
    told += f"{counted(needed, 'family')} of them in the test split where a threshold may lie, and has {found}"
    inside = [pair.same_answer for pair, c in zip(pairs, cosines.tolist(), strict=True) if low <= c <= high]
    unlabelled = sum(low <= pair.cosine <= high for pair in left)
    told += f"; {counted(unlabelled, 'pair there has', 'pairs there have')} no label"
    if negatives := inside.count(False):
        share = negatives / len(inside)
        told += f", and {percent(share)} of the labelled ones there must differ, so that it takes some "
        told += f"{more / share:,.0f}"
    return told


def near_pairs(stream: RequestStream, found: ShadowHits) -> list[NearPair]:
    """Pairs of near repeats that have different answer keys, each once, nearest first."""
    texts, cosines, served = dict[Key, tuple[str, str]](), dict[Key, float](), dict[Key, int]()
    for i in np.flatnonzero(~found.exact & (found.similarity >= BANDS[-1]) & found.false).tolist():
        one, other = stream.queries[found.matched[i]], stream.queries[i]
        key = unordered_pair(stream.tenants[i], one, other)
        texts.setdefault(key, (one, other))
        cosines[key] = max(cosines.get(key, -1.0), float(found.similarity[i]))
        served[key] = served.get(key, 0) + 1
    out = [NearPair(key[0], *texts[key], cosines[key], served[key]) for key in texts]
    return sorted(out, key=lambda pair: (-pair.cosine, pair.key))


def near_repeats_worth(
    stream: RequestStream, found: ShadowHits, differ: Collection[Key], warmup: int, *, alpha: float, confidence: float
) -> NearRepeatsWorth:
    """Try one cosine after the other, the highest first, as if every near repeat were right that is not in ``differ``.

    What would share an answer would be one family too, as in a stream that is labelled.
    """
    n = len(stream)
    part = slice(min(warmup, n), warmup + max(n - warmup, 0) // 2)
    near = np.where(found.exact | (found.similarity < BANDS[-1]), -np.inf, found.similarity)
    pairs = zip(stream.tenants, stream.queries, found.matched.tolist(), strict=True)
    wrong = np.array(
        [m >= 0 and unordered_pair(tenant, stream.queries[m], text) in differ for tenant, text, m in pairs]
    )
    families = NearFamilies(stream.clusters)
    order = [int(i) for i in np.argsort(-near, kind="stable") if np.isfinite(near[i])]
    best, at = None, 0
    for least in np.arange(0.99, BANDS[-1] - 1e-9, -0.01).round(2):
        while at < len(order) and near[order[at]] >= least:
            if not wrong[order[at]]:
                families.join(stream.clusters[order[at]], stream.clusters[found.matched[order[at]]])
            at += 1
        if (near[part] >= least).sum() >= hits_to_start(alpha, confidence) or least in BANDS:
            grid = GRID[least <= GRID]
            certificate = certify_threshold(
                count_hits(near[part], wrong[part], families.codes()[part], grid), alpha, confidence
            )
            if certificate.certified:
                return NearRepeatsWorth(float(least), certificate.hits, certificate.clusters, "")
            best = max(best or certificate, certificate, key=lambda each: each.effective_clusters)
    hits = int(np.isfinite(near[part]).sum())
    return NearRepeatsWorth(None, hits, best.clusters, best.note) if best else NearRepeatsWorth(None, hits, 0, "")


class NearFamilies:
    """Clusters of requests, of which more and more are joined."""

    def __init__(self, clusters: Sequence[str]) -> None:
        self._clusters, self._home = clusters, {name: name for name in clusters}

    def _root(self, name: str) -> str:
        while (home := self._home[name]) != name:
            self._home[name] = self._home[home]
            name = home
        return name

    def join(self, one: str, other: str) -> None:
        """Make one family of two."""
        self._home[self._root(one)] = self._root(other)

    def codes(self) -> npt.NDArray[np.int64]:
        """Code of the family of each request."""
        return np.unique([self._root(name) for name in self._clusters], return_inverse=True)[1]


def draw_near_pairs(pairs: Sequence[NearPair], limit: int) -> list[NearPair]:
    """As many pairs of each band as of every other, while it has them, in an order that tells nothing.

    >>> pairs = [NearPair("t", "a", f"b{i}", 0.96 if i < 9 else 0.7, 1) for i in range(12)]
    >>> sorted(pair.cosine for pair in draw_near_pairs(pairs, 6))
    [0.7, 0.7, 0.7, 0.96, 0.96, 0.96]
    """
    turns = dict[str, tuple[int, int]]()
    for place, band in enumerate(_near_pairs_by_band(pairs)):
        turns |= {pair.pair_id: (turn, place) for turn, pair in enumerate(sorted(band, key=lambda pair: pair.pair_id))}
    first = sorted(pairs, key=lambda pair: turns[pair.pair_id])[:limit]
    return sorted(first, key=lambda pair: pair.pair_id)


def _near_pairs_by_band(pairs: Iterable[NearPair]) -> list[list[NearPair]]:
    out: list[list[NearPair]] = [[] for _ in BANDS]
    for pair in pairs:
        out[next((i for i, low in enumerate(BANDS) if pair.cosine >= low), len(BANDS) - 1)].append(pair)
    return out


def _near_pair_sheet(pairs: Iterable[NearPair]) -> Iterator[str]:
    """Rows to fill; which text comes first, and which pair, tells neither time nor cosine."""
    for pair in pairs:
        one, other = sorted((pair.query_a, pair.query_b), key=lambda text: content_hash(pair.pair_id, text))
        row = {"id": pair.pair_id, "query_a": one, "query_b": other, "same_answer": None, "judge": ""}
        yield json.dumps(row | {"tenant_id": pair.tenant_id}, ensure_ascii=False)


def _near_bands_told(near: Sequence[NearPair], left: Sequence[NearPair], pairs: Sequence[Pair]) -> Iterator[str]:
    """Near repeats by band: how many pairs, how many requests, how many have no label."""
    same = sum(pair.same_answer for pair in pairs)
    if pairs:
        yield f"labelled so far: {counted(same, 'pair')} that may share an answer, {len(pairs) - same:,} that must not"
    for high, low, band, free in zip(
        (None, *BANDS), BANDS, _near_pairs_by_band(near), _near_pairs_by_band(left), strict=False
    ):
        if band:
            served = sum(pair.requests for pair in band)
            told = f"{counted(len(band), 'pair')} of different answer keys, {len(free):,} without a label"
            upper = "up" if high is None else f"to {high:g}"
            yield f"cosine from {low:g} {upper}: {told}; {counted(served, 'request')} would be served by them"


def near_repeats_stream_told(n: int, warmup: int) -> str:
    """Say what the requests of a stream are for, and what a smaller warm-up would change.

    >>> near_repeats_stream_told(600, 500)
    'of 600 requests, 500 only fill the cache (--warmup, and -p warmup of 03_caching), 50 calibrate, 50 test'
    """
    filling, rest = min(warmup, n), max(n - warmup, 0)
    fills = f"{filling:,} only fill the cache (--warmup, and -p warmup of 03_caching)"
    return f"of {counted(n, 'request')}, {fills}, {rest // 2:,} calibrate, {rest - rest // 2:,} test"


def _near_repeats_worth_told(
    worth: NearRepeatsWorth, left: Sequence[NearPair], alpha: float, parts: str
) -> Iterator[str]:
    """How many labels are worth their while, or why none is."""
    asked = f"a certificate of at most {percent(alpha, 2)} wrong"
    if worth.least is None:
        told = (
            f"{counted(worth.hits, 'near repeat')} in the calibration part cannot give {asked}, even if all were right"
        )
        yield f"no pair is worth labelling yet: {told}; {worth.note}"
        yield parts
    else:
        many = sum(pair.cosine >= worth.least for pair in left)
        from_there = (
            f"from cosine {worth.least:.2f} {counted(worth.hits, 'near repeat')} in {counted(worth.clusters, 'family')}"
        )
        yield f"{counted(many, 'pair is', 'pairs are')} worth labelling: {from_there} give {asked}, if all are right"
