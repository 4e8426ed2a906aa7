"""Which pairs of a stream are worth labelling: near repeats, which a semantic cache would serve, as a blind sheet.

A log does not say which requests may share an answer. Unlabelled, every near repeat counts as a wrong answer, so that
no semantic cache can be shown to be good enough. A certificate at a threshold rests on all near repeats from there up,
and needs a least number of them: pairs below the highest cosine from which there are so many need no label yet.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from workbench.caching.replay import Shadow, shadow
from workbench.caching.study import CachingParameters
from workbench.config import Settings
from workbench.errors import EvalsetError
from workbench.evalset.gates import default_policy, scan_gates
from workbench.evalset.imports.folder import Tell, writing
from workbench.evalset.imports.pair_labels import PAIR_SHEET, Key, filled_pairs, unordered
from workbench.evalset.traffic import Pair, RequestStream, load_pairs, load_stream
from workbench.inference.embedding import Embedder, load_embedder, unread
from workbench.records import content_hash
from workbench.retrieval.ingest import VectorCache
from workbench.telemetry.context import attributed

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
        return unordered(self.tenant_id, self.query_a, self.query_b)

    @property
    def pair_id(self) -> str:
        """Id in the sheet, which tells nothing of the rest."""
        return content_hash(*self.key)[:12]


@dataclass(frozen=True, slots=True)
class Worth:
    """From which cosine labels are worth their while.

    Attributes
    ----------
    needed, hits : int
        Near repeats that a certificate needs in the calibration part at least, and how many there are.
    least : float or None
        Highest cosine from which there are enough; None where there are not.
    """

    needed: int
    hits: int
    least: float | None


def draw_pairs(
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
        Cosine from which pairs are drawn; by default that of `Worth`, and all where no certificate is in reach.
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
    stream, (pairs, _) = load_stream(folder), load_pairs(folder)
    if stream.synthetic:
        raise EvalsetError(f"{folder} has made-up traffic, which knows its answers; labels are for a stream.parquet")
    labelled = {unordered(pair.tenant_id, pair.query_a, pair.query_b) for pair in pairs}
    if sheet.exists() and filled_pairs(sheet) - labelled:
        told = f"import them (workbench import judgements {sheet} --name {folder.name} --partly), or remove it"
        raise EvalsetError(f"{sheet} holds labels that the evalset has not; {told}")
    found = shadow(stream, _vectors(stream.queries, embedder or load_embedder(p.embedder, settings), settings))
    near = near_pairs(stream, found)
    open_pairs = [pair for pair in near if pair.key not in labelled]
    policy = scan_gates(folder / "gates.toml")[0].get("caching") or default_policy("caching")
    worth = worth_of(found, len(stream), p.warmup, alpha=policy.alpha, confidence=policy.confidence)
    start = least if least is not None else worth.least or BANDS[-1]
    wanted = [pair for pair in open_pairs if pair.cosine >= start]
    drawn = draw(wanted, limit)
    for line in (*_bands_told(near, open_pairs, pairs), *_worth_told(worth, open_pairs, policy.alpha)):
        tell(line)
    if not drawn:
        tell(f"no pair from cosine {start:.2f} is without a label: there is nothing to label")
        return None
    with writing(sheet):
        sheet.write_text("".join(f"{line}\n" for line in _sheet(drawn)), encoding="utf-8", newline="\n")
    tell(f"{sheet} holds {len(drawn):,} of {len(wanted):,} pairs from cosine {start:.2f}, blind to how near they are")
    return sheet


def _vectors(texts: Sequence[str], embedder: Embedder, settings: Settings) -> npt.NDArray[np.float32]:
    with attributed(purpose="eval"):
        vectors = VectorCache(settings.cache / "vectors.sqlite").embed(texts, embedder)[0]
    vectors[unread(embedder, texts, strict=True)] = 0  # near nothing, as in the cache
    return vectors


def near_pairs(stream: RequestStream, found: Shadow) -> list[NearPair]:
    """Pairs of near repeats that have different answer keys, each once, nearest first."""
    texts, cosines, served = dict[Key, tuple[str, str]](), dict[Key, float](), dict[Key, int]()
    for i in np.flatnonzero(~found.exact & (found.similarity >= BANDS[-1]) & found.false).tolist():
        one, other = stream.queries[found.matched[i]], stream.queries[i]
        key = unordered(stream.tenants[i], one, other)
        texts.setdefault(key, (one, other))
        cosines[key] = max(cosines.get(key, -1.0), float(found.similarity[i]))
        served[key] = served.get(key, 0) + 1
    out = [NearPair(key[0], *texts[key], cosines[key], served[key]) for key in texts]
    return sorted(out, key=lambda pair: (-pair.cosine, pair.key))


def worth_of(found: Shadow, requests: int, warmup: int, *, alpha: float, confidence: float) -> Worth:
    """Near repeats that a certificate needs, without a wrong one among them, and the cosine from which they are there.

    So many hits without a false one bound the rate by alpha (Clopper and Pearson 1934). That is the least: related
    requests count for less, and every false hit asks for more.
    """
    needed = math.ceil(math.log(1 - confidence) / math.log(1 - alpha))
    part = slice(min(warmup, requests), warmup + max(requests - warmup, 0) // 2)
    near = np.sort(found.similarity[part][~found.exact[part] & (found.similarity[part] >= BANDS[-1])])[::-1]
    return Worth(needed, len(near), float(near[needed - 1]) if len(near) >= needed else None)


def draw(pairs: Sequence[NearPair], limit: int) -> list[NearPair]:
    """As many pairs of each band as of every other, while it has them, in an order that tells nothing.

    >>> pairs = [NearPair("t", "a", f"b{i}", 0.96 if i < 9 else 0.7, 1) for i in range(12)]
    >>> sorted(pair.cosine for pair in draw(pairs, 6))
    [0.7, 0.7, 0.7, 0.96, 0.96, 0.96]
    """
    turns = dict[str, tuple[int, int]]()
    for place, band in enumerate(_by_band(pairs)):
        turns |= {pair.pair_id: (turn, place) for turn, pair in enumerate(sorted(band, key=lambda pair: pair.pair_id))}
    first = sorted(pairs, key=lambda pair: turns[pair.pair_id])[:limit]
    return sorted(first, key=lambda pair: pair.pair_id)


def _by_band(pairs: Iterable[NearPair]) -> list[list[NearPair]]:
    out: list[list[NearPair]] = [[] for _ in BANDS]
    for pair in pairs:
        out[next((i for i, low in enumerate(BANDS) if pair.cosine >= low), len(BANDS) - 1)].append(pair)
    return out


def _sheet(pairs: Iterable[NearPair]) -> Iterator[str]:
    """Rows to fill; which text comes first, and which pair, tells neither time nor cosine."""
    for pair in pairs:
        one, other = sorted((pair.query_a, pair.query_b), key=lambda text: content_hash(pair.pair_id, text))
        row = {"id": pair.pair_id, "query_a": one, "query_b": other, "same_answer": None, "judge": ""}
        yield json.dumps(row | {"tenant_id": pair.tenant_id}, ensure_ascii=False)


def _bands_told(near: Sequence[NearPair], left: Sequence[NearPair], pairs: Sequence[Pair]) -> Iterator[str]:
    """Near repeats by band: how many pairs, how many requests, how many have no label."""
    same = sum(pair.same_answer for pair in pairs)
    if pairs:
        yield f"labelled so far: {same:,} pairs that may share an answer, {len(pairs) - same:,} that must not"
    for low, band, free in zip(BANDS, _by_band(near), _by_band(left), strict=True):
        if band:
            served = sum(pair.requests for pair in band)
            told = f"{len(band):,} pairs of different answer keys, {len(free):,} without a label"
            yield f"cosine from {low:g}: {told}; {served:,} requests would be served by them"


def _worth_told(worth: Worth, left: Sequence[NearPair], alpha: float) -> Iterator[str]:
    """How many labels are worth their while, or why none is."""
    asked = f"a certificate of at most {alpha:.2%} wrong needs {worth.needed:,} near repeats in the calibration part"
    if worth.least is None:
        yield f"{asked} and there are {worth.hits:,}: labels alone cannot give one, more requests can"
    else:
        many = sum(pair.cosine >= worth.least for pair in left)
        yield f"{asked}; from cosine {worth.least:.2f} there are so many: {many:,} pairs are worth labelling"
