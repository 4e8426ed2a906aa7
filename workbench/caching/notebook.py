"""The caching experiment, which asks whether to cache, and how closely questions must match."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from workbench.caching.canaries import CANARY_TEXTS, KnownVectors, Scopes, try_scopes
from workbench.caching.certify import Certificate, Counts, certify, simulate
from workbench.caching.claims import METRIC, CacheArm, make_claim, sentence_of
from workbench.caching.guard import Guard
from workbench.caching.prompt_tables import prompt_tables
from workbench.caching.replay import Replay, replay, shadow
from workbench.caching.study import CacheStudy, CachingParameters, Certified, Replayed, Semantic, make_guard
from workbench.caching.tables import (
    break_even_table,
    certificate_table,
    contents_table,
    curve,
    exact_table,
    item_id,
    pairs_table,
    prospects_table,
    replay_table,
    score_replays,
    semantic_table,
    trials_table,
    would_change_rates,
)
from workbench.config import Settings
from workbench.errors import ConfigError
from workbench.evalset.traffic import load_pairs, load_stream
from workbench.evaluation.compare import spent
from workbench.evaluation.decision import decide
from workbench.evaluation.experiment import MONEY_SHOWN
from workbench.evaluation.provenance import encoder_inputs
from workbench.evaluation.summary import is_default
from workbench.inference.embedding import Embedder, load_embedder, unread
from workbench.inference.prices import embed_query
from workbench.records import Decision, Rule
from workbench.rendering.progress import Progress
from workbench.rendering.table import Table
from workbench.reports.charts import lines
from workbench.reports.ending import Notebook
from workbench.reports.figure import Figure
from workbench.retrieval.ingest import VectorCache
from workbench.telemetry.context import attributed

STEP = 512
OFF = "off"
SYNTHETIC = "The stream is made up: drawn from traffic.toml; hit rates and savings follow from its plan."
UNREAD = (
    "{:,} of {:,} requests have pieces that the encoder does not know, or more than a third of characters that it "
    "drops or spells: they are near no other, and served as exact repeats alone. First: {!r}"
)
FOLLOW_UPS = (
    "{:,} of {:,} requests read as follow-ups (first: {!r}), and their earlier turns are not given: they are misses. "
    "Import the turns as a column of the stream, and they are matched after the same turns"
)
RULE_SHOWN = (
    "metric", "alpha", "confidence", "must_differ_limit", "min_coverage", *MONEY_SHOWN[:3], "on_inconclusive",
    "on_stale",
)  # fmt: skip


class CachingExperiment(Notebook[CachingParameters, Replayed]):
    """Steps of the caching notebook, in the order in which it calls them.

    Its arms are certified on the calibration part and replayed on the test part, each on hits of its own; so they are
    not compared pair by pair. ``embedder`` stands in place of the one that the parameters name.
    """

    notebook = "caching"
    question = "Should answers be cached, and how closely must questions match?"
    title = "Caching: whether to cache, and how closely questions must match"
    parameters_class = CachingParameters
    items = "requests"
    rule_shown = RULE_SHOWN
    cost_note = (
        "The rate is that of the hits which similarity decided: false hits by hits. Differences are those of the "
        "certificate, on the calibration part; the rate beside them is the true replay on the later test part. Cost is "
        "calls still made, and the embedding of each question."
    )

    def __init__(self, parameters: CachingParameters, settings: Settings, *, embedder: Embedder | None = None) -> None:
        self._encoder = embedder
        super().__init__(parameters, settings)
        # known before anything is certified: the confidence that is left depends on it
        self.use = self.count_test_use([OFF, "exact", "semantic", repr(self.guard), self.embedder.encoder_id])
        confidence, limit = spent(self.policy.confidence, self.use), self.policy.pair_limit
        self.study = CacheStudy(parameters, self._stream, self._pairs, limit, self.prices, confidence)

    def read(self) -> Mapping[str, str]:
        """Load stream, pairs and encoder.

        Raises
        ------
        ConfigError
            If nothing is left to judge, or ``gates.toml`` asks for another metric.
        """
        p, evalset = self.parameters, self.evalset
        self.guard = make_guard(p.guard)
        self._stream, (self._pairs, pairs_sha256) = load_stream(evalset.path), load_pairs(evalset.path)
        if self._stream.synthetic:
            self.evalset = replace(evalset, synthetic=True, notes=(*evalset.notes, SYNTHETIC))
        if len(self._stream) - p.warmup < 2:
            raise ConfigError(f"warmup {p.warmup} leaves nothing of {len(self._stream)} requests to judge")
        if self.policy.metric != METRIC or self.policy.floor is not None:
            raise ConfigError(f"[caching] in gates.toml goes by {METRIC} and alpha; leave out metric and floor")
        self.prices.cost_usd([embed_query(p.embedder)])  # refused before an encoder is paid
        self.embedder = self._encoder or load_embedder(p.embedder, self.settings)
        asked = self._stream.queries
        blind = np.flatnonzero(unread(self.embedder, asked, strict=True)).tolist()
        for told, places in ((UNREAD, blind), (FOLLOW_UPS, sorted(self._stream.follow_ups))):
            if places:
                note = told.format(len(places), len(asked), asked[places[0]][:60])
                self.evalset = replace(self.evalset, notes=(*self.evalset.notes, note))
        guarded = {"guard": self.guard.sha256((x.query_b, x.query_a) for x in self._pairs)} if self.guard else {}
        read = {"stream": self._stream.sha256, "pairs": pairs_sha256}
        rates = self.prices.rate_inputs([embed_query(p.embedder)])
        return {**read, **encoder_inputs(self.embedder), **rates, **guarded}

    def clusters(self, split: str) -> Mapping[str, str]:
        """Cluster of each request of a part: test, or calibration as dev."""
        part = self.study.parts[{"dev": "calibration"}.get(split, split)]
        places = range(len(self._stream))[part]
        return {item_id(i): self._stream.clusters[i] for i in places}

    def rule(self, reference: str = OFF) -> Rule:
        """False-hit rate at most alpha, lower is better, against no cache."""
        base, alpha = super().rule(reference), self.policy.alpha
        return replace(
            base, margin=alpha, floor=None, latency_limit_ms=None, direction="lower", anchor="", use=self.use
        )

    def contents(self) -> Table:
        """What the stream and the pairs hold."""
        table = contents_table(self.study.stream, self.study.pairs, list(self.study.parts.items()))
        return replace(table, caption=". ".join([table.caption, *self.evalset.notes]))

    def prospects(self) -> Table:
        """Is there anything to cache? Exact repeats, what no cache can exceed, and the dollars of both."""
        return prospects_table(self.study.stream, self.study.parameters.warmup, self.study.parameters.call_usd)

    def exact(self) -> Table:
        """What exact repeats alone would serve, tenant by tenant, and how often a repeat has another answer."""
        return exact_table(self.study.stream, self.study.parameters.warmup)

    def semantic(self) -> Semantic:
        """Embed the questions once, and find the nearest earlier one of the same tenant for each."""
        pairs, n = self.study.pairs, len(self.study.stream)
        texts = [*self.study.stream.queries, *(p.query_a for p in pairs), *(p.query_b for p in pairs)]
        vectors, *sides = np.split(self._embed(texts), [n, n + len(pairs)])
        shadows = {"similarity": shadow(self.study.stream, vectors)}
        if self.guard:
            shadows["similarity + guard"] = shadows["similarity"].guarded(self.study.stream, self.guard)
        table = semantic_table(shadows, self.study.clusters, self.study.parts["calibration"])
        return Semantic(table, vectors, shadows, np.clip((sides[0] * sides[1]).sum(1), -1, 1).astype(float))

    def curve(self, semantic: Semantic) -> Figure | Table:
        """False-hit rate against hit rate: the curve of precision and cache-hit ratio, seen from the error."""
        part = self.study.parts["calibration"]
        series = {name: curve(found, part) for name, found in semantic.shadows.items()}
        if not any(series.values()):
            told = "none: of the calibration part, no request but exact repeats has an earlier one to be near to"
            return Table.of(("curve",), [(told,)])
        return lines(series, "cache-hit ratio", "false-hit rate", limit=self.rule().margin)

    def simulate(self, semantic: Semantic) -> Table:
        """What the usual rule and the certificates promise and keep, on draws from this very traffic."""
        counts = self.study.counts(semantic.shadows["similarity"], slice(self.study.parameters.warmup, None))
        rule, p = self.rule(), self.study.parameters
        return trials_table(
            simulate(counts, rule.margin, self.study.confidence, draws=p.draws, seed=p.seed), rule.margin
        )

    def certify(self, semantic: Semantic) -> Certified:
        """Certify a threshold for each way of matching, on the calibration part alone; simultaneous over the ways."""
        rule, part = self.rule(), self.study.parts["calibration"]
        confidence = 1 - (1 - self.study.confidence) / len(semantic.shadows)
        every = semantic.shadows["similarity"]
        exact = certify(self.study.served_counts(every.exact, every.false, part), rule.margin, self.study.confidence)
        arms: list[tuple[CacheArm, Certificate | None]] = [(CacheArm("off"), None), (CacheArm("exact"), exact)]
        for name, found in semantic.shadows.items():
            guard = self.guard if name != "similarity" else None

            def confirm(threshold: float, guard: Guard | None = guard) -> Counts:
                walked = replay(self.study.stream, semantic.vectors, threshold=threshold, guard=guard)
                return self.study.served_counts(walked.hit & ~walked.exact, walked.false, part)

            counts, lowest = self.study.counts(found, part), self.study.lowest(guard, semantic)
            certificate = certify(counts, rule.margin, confidence, lowest=lowest, confirm=confirm)
            arms.append((CacheArm("semantic", certificate.threshold, guard, self.embedder.encoder_id), certificate))
        shown = [(arm.name, certificate) for arm, certificate in arms if arm.kind == "semantic" and certificate]
        return Certified(certificate_table(shown, rule.margin), tuple(arms), part)

    def must_differ(self, certified: Certified, semantic: Semantic) -> Table:
        """Test pairs that the certified arms would serve, by kind: which wordings are not told apart."""
        arms = [(a, c) for a, c in certified.arms if a.kind == "semantic" and c]
        shown = [a for a, c in arms if c.certified] or [a for a, _ in arms]
        near = [semantic.pair_similarity >= (a.threshold or 0.0) for a in shown]
        cases = [(a.name, n, self.study.passes(a.guard)) for a, n in zip(shown, near, strict=True)]
        return pairs_table(self.study.pairs, cases)

    def replay(self, certified: Certified, semantic: Semantic) -> Replayed:
        """Walk the whole stream with each cache as it would fill, and judge it on the test part.

        Raises
        ------
        SplitError
            If a threshold was certified on a request of the test part.
        """
        self.study.require_dev(certified)
        results, replays, shown = [], dict[str, Replay](), []
        bar = Progress("caches replayed", len(certified.arms))
        for place, (arm, certificate) in enumerate(certified.arms, start=1):
            result, walked = self.study.replay(arm, certificate, semantic)
            bar.update(place)
            results.append(result)
            shown.append(("arm", result, walked.entries, self.study.shadow_rate(arm, semantic)))
            if arm.kind != "off":
                replays[arm.name] = walked
            for step in (0.0025, -0.0025) if arm.threshold and certificate and certificate.certified else ():
                near = replace(arm, threshold=round((arm.threshold or 0) + step, 4))
                neighbour, walked = self.study.replay(near, certificate, semantic)
                shown.append(("neighbour", neighbour, walked.entries, self.study.shadow_rate(near, semantic)))
        bar.done(f"{len(certified.arms)} caches replayed over {len(self.study.stream):,} requests")
        return score_replays(self.study, results, replays, replay_table(shown))

    def scopes(self, semantic: Semantic) -> Scopes:
        """Send canaries, and requests in words that several tenants use, through the caches themselves."""
        texts = [*self.study.stream.queries, *CANARY_TEXTS]
        vectors = np.concatenate([semantic.vectors, self._embed(CANARY_TEXTS)])
        return try_scopes(self.study.stream, KnownVectors.of(self.embedder, texts, vectors))

    def decide(self, replayed: Replayed) -> Decision:
        """Choose the cheapest cache that is shown to be good enough and saves what counts.

        A semantic cache whose wording nobody has tried on pairs that must differ is provisional at most.
        """
        rule, results = self.rule(), list(replayed.results)
        claims = tuple(make_claim(r, rule, must_differ_limit=self.policy.pair_limit) for r in results)
        order = {f.name: f.order for f in replayed.facts}
        worth = [c for c in claims if c.arm == OFF or rule.counts(c.cost_usd_per_1k, claims[0].cost_usd_per_1k)]
        outcome = decide(worth, rule, order=order, synthetic=self.evalset.synthetic)
        chosen = next(r for r in results if r.arm.name == outcome.arm)
        if outcome.verdict == "chosen" and chosen.arm.kind == "semantic" and not chosen.pairs.of_must_differ:
            untried = "No test pair that must not share an answer was tried: label some (workbench import pairs)."
            outcome = replace(outcome, verdict="provisional", notes=(*outcome.notes, untried))
        sentence = sentence_of(outcome, results, claims, rule)
        return self.conclude(claims, rule, replace(outcome, sentence=sentence))

    def break_even(self, replayed: Replayed) -> Table:
        """What a false hit may cost before a tier loses money."""
        return break_even_table(replayed.results, self.study.parameters.call_usd)

    def prompt_caches(self) -> list[Table]:
        """What vendors' prompt caches would save on this evalset's prompts, what breaks them, and what would help."""
        return prompt_tables(self.evalset, seed=self.study.parameters.seed)

    @property
    def assumed(self) -> dict[str, str]:
        """A sentence for each figure of money that nobody has set: also what a request costs."""
        if not is_default(self.parameters, "call_usd"):
            return super().assumed
        usd = f"${self.parameters.call_usd:g}"
        told = f"A request that is not served from the cache is assumed to cost {usd}: set call_usd."
        return super().assumed | {"call_usd": told}

    def would_change(self, decision: Decision) -> Sequence[str]:
        """Sentences on what would make the decision another."""
        return would_change_rates(decision)

    def invariants(self, decision: Decision, test: Replayed) -> Mapping[str, int | None]:
        """Pairs that must differ and are served above the limit."""
        chosen = next(r for r in test.results if r.arm.name == decision.arm)
        most = self.policy.pair_limit.most(chosen.pairs.of_must_differ)
        served = max(chosen.pairs.must_differ - most, 0) if chosen.pairs.of_must_differ else None
        return {"must-differ pairs served above the limit": served}

    def _embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        cache, bar = VectorCache(self.settings.cache / "vectors.sqlite"), Progress("questions", len(texts))
        out, fresh = [np.zeros((0, self.embedder.dimension), np.float32)], 0
        for start in range(0, len(texts), STEP):
            with attributed(purpose="eval"):
                part, new = cache.embed(texts[start : start + STEP], self.embedder)
            out.append(part)
            fresh += new
            bar.update(start + len(part))
        bar.done(f"{len(texts):,} questions, {fresh:,} embedded now")
        vectors = np.concatenate(out)
        vectors[unread(self.embedder, texts, strict=True)] = 0  # near nothing, as in the cache
        return vectors
