"""One stream, its pairs and its prices: caches are counted, replayed and priced here; and what the steps hand on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl

from workbench.caching.certify import CONFIRM_STEP, GRID, Certificate, Counts, count
from workbench.caching.claims import CacheArm, CacheResult, PairsServed, bounds_of_pairs, most_on_dev, rate_of
from workbench.caching.guard import GRAVE, Guard, make_guard
from workbench.caching.replay import Block, Replay, ShadowHits, replay, serve_nothing
from workbench.caching.verifiers import Allows, Checks, Later, LaterChecks, VerifierUsed, check_name
from workbench.codec import NEUTRAL, RANGE, Range
from workbench.evalset.evalset import require_dev
from workbench.evalset.gates import PairLimit
from workbench.evalset.traffic import Pair, RequestStream
from workbench.evaluation.flips import CALL, FALSE_HIT
from workbench.evaluation.provenance import SEED
from workbench.evaluation.summary import MAX_CASES, ItemCase, Regressions, ScoredArms, SliceRow, slice_rows
from workbench.inference.embedding import check_embedder
from workbench.inference.prices import PriceTable, embed_query
from workbench.records import Decision
from workbench.rendering.table import Shown, Table

# .01 apart, because each is a replay of the whole stream.
REPLAYED = GRID[::CONFIRM_STEP]


@dataclass(frozen=True, slots=True)
class CachingParameters:
    """Parameters of ``03_caching``; the notebook's cell has the same names and defaults.

    ``warmup`` requests fill the cache and are not judged; the rest is halved in time into calibration and test.
    ``call_usd`` is what one uncached request costs, ``false_hit_usd`` what one false hit does (0: not known).
    ``verifiers`` are arms beside the guard: ``fitted``, ``model:NAME``, ``module:function@USD``, and each of them off
    the path with ``later:`` before it; ``max_cost_usd`` is what asking models may cost, 0 where answers are recorded.
    """

    evalset: str = "docs_qa"
    warmup: int = field(default=500, metadata={RANGE: Range(0)})
    embedder: str = "minilm"
    guard: tuple[str, ...] = ("figures", "names", "code", "opposites", "direction", "wording", "signs")
    verifiers: tuple[str, ...] = field(default=(), metadata={NEUTRAL: ()})
    max_cost_usd: float = field(default=0.0, metadata={NEUTRAL: 0.0, RANGE: Range(0)})
    call_usd: float = field(default=0.002, metadata={RANGE: Range(0)})
    false_hit_usd: float = field(default=0.0, metadata={RANGE: Range(0)})
    draws: int = field(default=200, metadata={RANGE: Range(2, 100_000)})
    seed: int = field(default=0, metadata=SEED)

    def __post_init__(self) -> None:
        make_guard(self.guard)
        check_embedder(self.embedder)
        for name in self.verifiers:
            check_name(name)


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Semantic(Shown):
    """Every request's vector and its nearest earlier request, by way of matching; cosines of the labelled pairs.

    ``ways`` are what objects in each way of matching, ``blocks`` the cosines that all replays read, if kept. A way
    whose verifier is asked later has no shadow.
    """

    table: Table
    vectors: npt.NDArray[np.float32]
    shadows: dict[str, ShadowHits]
    pair_similarity: npt.NDArray[np.float64]
    ways: Mapping[str, Allows | None]
    blocks: Sequence[Block] | None = None

    def arm(self, way: str, threshold: float, encoder_id: str) -> CacheArm:
        """Arm that matches in this way."""
        found = self.ways[way]
        verified: VerifierUsed | None = None
        later: Later | None = None
        if isinstance(found, LaterChecks):
            verified, later, found = found.checks.verifier.used, found.later, found.guard
        elif isinstance(found, Checks):
            verified, found = found.verifier.used, found.guard
        guard = found if isinstance(found, Guard) else None
        return CacheArm("semantic", threshold, guard, encoder_id, verified, later)


@dataclass(frozen=True, slots=True, repr=False)
class Certified(Shown):
    """Arms with their certificates, simplest first; ``requests`` are those of the stream that certify them."""

    table: Table
    arms: tuple[tuple[CacheArm, Certificate | None], ...]
    requests: slice


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Replayed(ScoredArms):
    """What the true replay of each arm did on the test part.

    ``scores`` hold the hits that the arm's own claim is about, ``requests`` one row per request; ``false_hits`` are the
    requests that an arm served wrongly, nearest first.
    """

    table: Table
    results: tuple[CacheResult, ...]
    requests: pl.DataFrame
    false_hits: Mapping[str, Sequence[ItemCase]]

    @property
    def rows(self) -> pl.DataFrame:
        """Every request of the test part, served or not."""
        return self.requests

    def slice_rows(self, metric: str) -> list[SliceRow]:
        """False-hit rate of each arm by tenant and by age of the cache, over the hits of that arm alone."""
        arms = self.scores["arm"].unique(maintain_order=True).to_list()
        return [row for arm in arms for row in slice_rows(self.scores.filter(pl.col("arm") == arm), [arm])]

    def cases(self, metric: str) -> Mapping[str, ItemCase]:
        """Requests that any arm served wrongly."""
        return {case.item_id: case for found in self.false_hits.values() for case in found}

    def regressions(self, decision: Decision, cases: Mapping[str, ItemCase]) -> Regressions:
        """What the decided arm answered wrongly, or the last one that served."""
        focus = decision.arm if decision.arm in self.false_hits else next(reversed(list(self.false_hits)), "")
        wrong = tuple(self.false_hits.get(focus, ())[:MAX_CASES])
        return Regressions(f"What {focus} answered wrongly", (focus,) if focus else (), wrong)


@dataclass(frozen=True, slots=True)
class CacheStudy:
    """What every step of the notebook counts on; ``confidence`` is what is left for this use of the test part."""

    parameters: CachingParameters
    stream: RequestStream
    pairs: tuple[Pair, ...]
    must_differ_limit: PairLimit
    prices: PriceTable
    confidence: float

    @property
    def parts(self) -> dict[str, slice]:
        """Warm-up, calibration and test, in the order of time."""
        n, first = len(self.stream), self.parameters.warmup
        middle = first + (n - first) // 2
        return {"warm-up": slice(0, first), "calibration": slice(first, middle), "test": slice(middle, n)}

    @property
    def clusters(self) -> npt.NDArray[np.int64]:
        """Code of each request's cluster."""
        return np.unique(np.array(self.stream.clusters), return_inverse=True)[1]

    def counts(self, found: ShadowHits, part: slice) -> Counts:
        """Similarity hits by cluster on the grid; exact repeats are another tier's."""
        scores = np.where(found.exact | ~found.allowed, -np.inf, found.similarity)
        return count(scores[part], found.false[part], self.clusters[part], GRID)

    def served_counts(self, own: npt.NDArray[np.bool_], false: npt.NDArray[np.bool_], part: slice) -> Counts:
        """Count what one cache served, which is at one threshold only."""
        scores = np.where(own, 1.0, -np.inf)
        return count(scores[part], (false & own)[part], self.clusters[part], np.array([1.0]))

    def passes(self, guard: Allows | None) -> npt.NDArray[np.bool_]:
        """Which pairs a guard, or a verifier behind it, lets pass."""
        if isinstance(guard, Checks):
            guard.ask((p.query_b, p.query_a) for p in self.pairs)
        return np.array([guard is None or guard.allows(p.query_b, p.query_a) for p in self.pairs], dtype=bool)

    def pairs_let(
        self, way: Allows | None, semantic: Semantic, thresholds: Sequence[float]
    ) -> Iterator[tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]]:
        """Which pairs are near enough at each threshold, and which of them are served: also those promoted later."""
        sure, near = self.passes(way), semantic.pair_similarity
        agreed = np.zeros(len(self.pairs), dtype=bool)
        floor = np.inf
        if isinstance(way, LaterChecks):
            floor, agreed = way.floor, self.passes(way.checks)
        for threshold in thresholds:
            yield near >= min(threshold, floor), (sure & (near >= threshold)) | (agreed & (near >= floor))

    def replayed_counts(self, way: Allows | None, semantic: Semantic, part: slice, lowest: float) -> Counts:
        """Counts of true replays down to the lowest threshold: of what is promoted the shadow knows nothing."""
        thresholds = np.unique(np.r_[REPLAYED[lowest <= REPLAYED], min(lowest, 1.0)])[::-1]
        each = []
        for threshold in thresholds.tolist():
            walked = self.walk(way, threshold, semantic)
            each.append(self.served_counts(walked.hit & ~walked.exact, walked.false, part))
        hits, false = (np.hstack([getattr(c, name) for c in each]) for name in ("hits", "false"))
        return Counts(thresholds, hits, false, each[0].requests)

    def walk(self, way: Allows | None, threshold: float, semantic: Semantic) -> Replay:
        """True replay of one way of matching at one threshold."""
        return replay(self.stream, semantic.vectors, threshold=threshold, guard=way, blocks=semantic.blocks)

    def must_differ(self, split: str) -> npt.NDArray[np.bool_]:
        """Which pairs of a split need different answers."""
        return np.array([not p.same_answer and p.split == split for p in self.pairs], dtype=bool)

    def lowest(self, guard: Allows | None, semantic: Semantic) -> float:
        """Lowest threshold of the grid at which the dev pairs that must differ keep their limit.

        Where it is a share, none of a grave kind may be served at all, and so few of the others that the test pairs
        can be expected to show it.

        Raises
        ------
        SplitError
            If a pair is not of dev.
        """
        limit, chosen = self.must_differ_limit, self.must_differ("dev")
        labelled = (p.pair_id for p, used in zip(self.pairs, chosen, strict=True) if used)
        require_dev(labelled, {p.pair_id for p in self.pairs if p.split == "dev"}, "limiting a threshold by pairs")
        grave = chosen & np.array([p.kind in GRAVE and limit.share is not None for p in self.pairs], dtype=bool)
        most = most_on_dev(limit, int(chosen.sum()), int(self.must_differ("test").sum()), self.confidence)
        let = zip(GRID, self.pairs_let(guard, semantic, GRID.tolist()), strict=True)
        fits = [t for t, (_, served) in let if (chosen & served).sum() <= most and not (grave & served).any()]
        return float(min(fits, default=np.inf))

    def require_dev(self, certified: Certified) -> None:
        """Refuse thresholds that were certified on requests which the replay judges them on.

        Raises
        ------
        SplitError
            If a request of the certificates is not before the test part.
        """
        positions = np.arange(len(self.stream))
        used, before = positions[certified.requests], positions[: self.parts["test"].start]
        require_dev(map(str, used), set(map(str, before)), "certifying a threshold")

    def replay(self, arm: CacheArm, certificate: Certificate | None, semantic: Semantic) -> tuple[CacheResult, Replay]:
        """Walk the whole stream with one cache, and judge it on the test part."""
        part = self.parts["test"]
        if arm.kind == "off":
            walked = serve_nothing(self.stream)
        else:
            guard = semantic.ways[arm.way] if arm.kind == "semantic" else None
            walked = self.walk(guard, arm.threshold or 2.0, semantic)
        own = walked.hit & (walked.exact if arm.kind == "exact" else ~walked.exact)
        served = self.served_counts(own, walked.false, part)
        hit, error = float(walked.hit[part].mean()), float(walked.false[part].mean())
        pairs, checks = self.pairs_served(arm, semantic), float(walked.checked[part].mean())
        others = float((walked.hit & ~walked.exact)[part].mean())
        cost = self.cost(hit, error, arm, checks)
        return CacheResult(arm, certificate, served, hit, error, cost, pairs, checks, others), walked

    def pairs_served(self, arm: CacheArm, semantic: Semantic) -> PairsServed:
        """What an arm does with the labelled pairs of test."""
        test, differ = np.array([p.split == "test" for p in self.pairs], dtype=bool), self.must_differ("test")
        may = test & ~differ
        way = semantic.ways[arm.way] if arm.kind == "semantic" else None
        ((_, served),) = self.pairs_let(way, semantic, [arm.threshold or 2.0])
        share = bounds_of_pairs(served, differ, self.pairs, self.confidence)
        return PairsServed(
            must_differ=int((served & differ).sum()),
            of_must_differ=int(differ.sum()),
            low=share.low or 0.0,
            high=1.0 if share.high is None else share.high,
            may_share=int((served & may).sum()),
            of_may_share=int(may.sum()),
        )

    def shadow_rate(self, arm: CacheArm, semantic: Semantic) -> float | None:
        """False-hit rate of the same threshold on the test part, with every earlier request cached."""
        if arm.threshold is None or arm.way not in semantic.shadows:
            return None
        found, part = semantic.shadows[arm.way], self.parts["test"]
        near = (found.hits(arm.threshold) & ~found.exact)[part]
        return rate_of(found.false[part], near, self.clusters[part]).estimate if near.any() else None

    def cost(self, hit_rate: float, error_rate: float, arm: CacheArm, check_rate: float = 0.0) -> float:
        """USD per 1,000 requests: calls still made, the embedding of each question, checks, priced false hits.

        Looking up in memory is far below the embedding and left out.
        """
        p = self.parameters
        embedding = self.prices.cost_usd([embed_query(p.embedder)]) if arm.kind == "semantic" else 0.0
        checks = check_rate * arm.verifier.usd_per_check if arm.verifier else 0.0
        return 1000 * ((1 - hit_rate) * p.call_usd + embedding + checks + error_rate * p.false_hit_usd)

    def amounts(self, result: CacheResult) -> dict[str, float]:
        """What 1,000 requests use of each thing that has a price, as `cost` counts it."""
        embedding = self.prices.amounts([embed_query(self.parameters.embedder)])
        done = {name: 1000 * n for name, n in embedding.items()} if result.arm.kind == "semantic" else {}
        return {CALL: 1000 * (1 - result.hit_rate), FALSE_HIT: 1000 * result.error_rate} | done
