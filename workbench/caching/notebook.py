"""The caching experiment, which asks whether to cache, and how closely questions must match."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from workbench.caching.cache_claims import METRIC, CacheArm, cache_sentence, make_cache_claim
from workbench.caching.cache_study import CacheStudy, CachingParameters, Certified, Replayed, Semantic
from workbench.caching.canaries import CANARY_TEXTS, KnownVectors, Scopes, try_cache_scopes
from workbench.caching.fitted_verifier import FittedVerifier, fit_verifier, made_pairs_sha256
from workbench.caching.guard import make_guard
from workbench.caching.prompt_cache_tables import prompt_tables
from workbench.caching.stream_replay import StreamReplay, kept_stream_blocks, replay_stream, shadow_hits
from workbench.caching.tables import (
    cache_item_id,
    cache_pairs_table,
    cache_replay_table,
    certificate_table,
    certificate_trials_table,
    exact_repeats_table,
    false_hit_break_even_table,
    false_hit_curve,
    repeat_prospects_table,
    score_cache_replays,
    semantic_cache_table,
    stream_contents_table,
    verifier_gain_table,
    would_change_cache_rates,
)
from workbench.caching.threshold_certificate import (
    HitCounts,
    ThresholdCertificate,
    certify_threshold,
    simulate_certificates,
)
from workbench.caching.verifiers import (
    FITTED,
    LATER,
    MODEL,
    Allows,
    Checks,
    FittedCheck,
    LaterChecks,
    ModelVerifier,
    Verifier,
    load_callable_verifier,
    model_check_usd,
    verifier_asked,
    verifier_question,
)
from workbench.config import Settings
from workbench.errors import ConfigError
from workbench.evalset.traffic import load_traffic_pairs, load_traffic_stream
from workbench.evaluation.compare import spent_confidence
from workbench.evaluation.decision import decide
from workbench.evaluation.experiment import MONEY_SHOWN
from workbench.evaluation.fingerprint import fingerprint_of_encoder
from workbench.evaluation.flip_points import CALL, FALSE_HIT
from workbench.evaluation.run_summary import Summary, is_default
from workbench.inference.batch import estimate_batch
from workbench.inference.client import Client
from workbench.inference.embedding import Embedder, load_embedder, unread_by_embedder
from workbench.inference.prices import price_of_query_embedding
from workbench.inference.recordings import FOLDER, Recordings
from workbench.records import Decision, Rule, file_hash
from workbench.rendering.numbers import cents, counted, usd
from workbench.rendering.progress import Progress, waiting
from workbench.rendering.table import Table
from workbench.reports.charts import lines
from workbench.reports.ending import Notebook
from workbench.reports.figure import Figure
from workbench.retrieval.ingest import eval_vectors

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
RECORDED = "verifiers.jsonl"
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
    items_last = False  # requests are named by their places
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
        arms = [OFF, "exact", "semantic", repr(self.guard), self.embedder.encoder_id, *parameters.verifiers]
        self.use = self.count_test_use(arms)
        confidence, limit = spent_confidence(self.policy.confidence, self.use), self.policy.pair_limit
        self.study = CacheStudy(parameters, self._stream, self._pairs, limit, self.prices, confidence)
        self.fitted: FittedVerifier | None = None
        self._checks = dict[str, Checks]()

    def examine(self) -> None:
        """Load stream and pairs, and verifiers of your own.

        Raises
        ------
        ConfigError
            If nothing is left to judge, or ``gates.toml`` asks for another metric.
        """
        p, evalset = self.parameters, self.evalset
        self.guard = make_guard(p.guard)
        self._asked = tuple(dict.fromkeys(map(verifier_asked, p.verifiers)))
        self._callables = {
            x: load_callable_verifier(x, self.settings) for x in self._asked if "@" in x and not x.startswith(MODEL)
        }
        self._stream, (self._pairs, self._pairs_sha256) = (
            load_traffic_stream(evalset.path),
            load_traffic_pairs(evalset.path),
        )
        if self._stream.synthetic:
            self.evalset = replace(evalset, synthetic=True, notes=(*evalset.notes, SYNTHETIC))
        if len(self._stream) - p.warmup < 2:
            raise ConfigError(f"warmup {p.warmup} leaves nothing of {counted(len(self._stream), 'request')} to judge")
        if self.policy.metric != METRIC or self.policy.floor is not None:
            raise ConfigError(f"[caching] in gates.toml goes by {METRIC} and alpha; leave out metric and floor")
        self.prices.cost_usd([price_of_query_embedding(p.embedder)])  # refused before an encoder is paid
        for name in self._asked:
            if name.startswith(MODEL):
                self._refuse_unasked(name)

    def _refuse_unasked(self, name: str) -> None:
        """Refuse a model whose verdicts on the labelled pairs are neither recorded nor paid for."""
        path, most = self.evalset.path / FOLDER / RECORDED, self.parameters.max_cost_usd
        asked = [(x.query_b, x.query_a) for x in self._pairs]
        pairs = [pair for pair in dict.fromkeys(asked) if self.guard is None or self.guard.allows(*pair)]
        requests, recordings = [verifier_question(name.removeprefix(MODEL), pair) for pair in pairs], Recordings(path)
        lacking = [request for request in requests if not recordings.count(request)]
        ahead = estimate_batch(lacking or requests[:1], self.prices)  # an unknown price is refused in any case
        if lacking and (most == 0 or ahead.worst_usd > most):
            raise ConfigError(
                f"verifier {name!r} lacks recorded verdicts on {len(lacking):,} of "
                f"{counted(len(pairs), 'labelled pair')} "
                f"({path}); asking for them costs at most {usd(ahead.worst_usd, up=True)}, found "
                f"max_cost_usd={most:g}. Give "
                "at least that, and more for near requests of the stream, or leave the verifier out"
            )

    def read(self) -> Mapping[str, str]:
        """Load the encoder, and tell what it does not read."""
        p = self.parameters
        self.embedder = self._encoder or load_embedder(p.embedder, self.settings)
        asked = self._stream.queries
        blind = np.flatnonzero(unread_by_embedder(self.embedder, asked, strict=True)).tolist()
        for told, places in ((UNREAD, blind), (FOLLOW_UPS, sorted(self._stream.follow_ups))):
            if places:
                note = told.format(len(places), len(asked), asked[places[0]][:60])
                self.evalset = replace(self.evalset, notes=(*self.evalset.notes, note))
        guarded = {"guard": self.guard.sha256((x.query_b, x.query_a) for x in self._pairs)} if self.guard else {}
        read = {"stream": self._stream.sha256, "pairs": self._pairs_sha256}
        rates = self.prices.rate_inputs([price_of_query_embedding(p.embedder)])
        return {**read, **fingerprint_of_encoder(self.embedder), **rates, **guarded, **self._verifier_inputs()}

    def _verifier_inputs(self) -> Mapping[str, str]:
        """What the verifiers rest on beside pairs and prices."""
        told = {f"verifier {name}": each.sha256 for name, each in self._callables.items()}
        if FITTED in self._asked:
            told["verifier fitted"] = made_pairs_sha256()
        for name in self._asked:
            if name.startswith(MODEL):
                file = self.evalset.path / FOLDER / RECORDED
                told["verifier recordings"] = file_hash(file) if file.is_file() else ""
        return told

    def _ways(self) -> dict[str, Allows | None]:
        """What objects in each way of matching; a fitted verifier stands in place of the guard's check ``wording``."""
        ways: dict[str, Allows | None] = {"similarity": None}
        if self.guard:
            ways["similarity + guard"] = self.guard
        for name in self._asked:
            guard = replace(self.guard, wording=False) if self.guard and name == FITTED else self.guard
            self._checks[name] = Checks(guard, self._verifier(name))
            if name in self.parameters.verifiers:
                used = self._checks[name].verifier.used
                ways[CacheArm("semantic", 1.0, guard, verifier=used).way] = self._checks[name]
        return ways

    def _later(self, semantic: Semantic) -> dict[str, Allows | None]:
        """Ways whose verifier is asked off the path, from the cosine on at which pairs of dev keep their limit."""
        ways: dict[str, Allows | None] = {}
        for name in self.parameters.verifiers:
            if name.startswith(LATER):
                checks = self._checks[verifier_asked(name)]
                semantic.shadows["similarity"].guarded(self.study.stream, checks)  # most of what replays ask, at once
                way = LaterChecks(self.guard, checks, min(self.study.lowest(checks, semantic), 1.0))
                arm = CacheArm("semantic", 1.0, self.guard, verifier=checks.verifier.used, later=way.later)
                ways[arm.way] = way
        return ways

    def _verifier(self, name: str) -> Verifier:
        p, settings = self.parameters, self.settings
        if name in self._callables:
            return self._callables[name]
        if name.startswith(MODEL):
            recordings = Recordings(self.evalset.path / FOLDER / RECORDED, live=p.max_cost_usd > 0)
            client, model = Client.open(settings, recordings=recordings), name.removeprefix(MODEL)
            usd = model_check_usd(model, self.prices, [(x.query_b, x.query_a) for x in self._pairs[:200]] or [("", "")])
            return ModelVerifier(client, model, usd_per_check=usd, max_cost_usd=p.max_cost_usd)
        guard = replace(self.guard, wording=False) if self.guard else None
        limit, encoder_id = self.policy.pair_limit, self.embedder.encoder_id
        fit = fit_verifier(self._pairs, limit, encoder_id, self._vectors, guard=guard)
        self.fitted = fit.verifier
        families = {x.cluster: fit.fold_of[x.query_a] for x in self._pairs if x.split == "dev"}
        asked = zip(self._stream.queries, self._stream.clusters, strict=True)
        folds = {text: families[cluster] for text, cluster in asked if cluster in families}
        usd = self.prices.cost_usd(
            [price_of_query_embedding(p.embedder)]
        )  # the words of a question are embedded as one text is
        return FittedCheck(fit.verifier, self._vectors, usd, fit, folds)

    def _vectors(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return eval_vectors(texts, self.embedder, self.settings.cache, label="texts of pairs")

    def clusters(self, split: str) -> Mapping[str, str]:
        """Cluster of each request of a part: test, or calibration as dev."""
        part = self.study.parts[{"dev": "calibration"}.get(split, split)]
        places = range(len(self._stream))[part]
        return {cache_item_id(i): self._stream.clusters[i] for i in places}

    def rule(self, reference: str = OFF) -> Rule:
        """False-hit rate at most alpha, lower is better, against no cache."""
        base, alpha = super().rule(reference), self.policy.alpha
        return replace(
            base, margin=alpha, floor=None, latency_limit_ms=None, direction="lower", anchor="", use=self.use
        )

    def contents(self) -> Table:
        """What the stream and the pairs hold."""
        table = stream_contents_table(self.study.stream, self.study.pairs, list(self.study.parts.items()))
        return replace(table, caption=". ".join([table.caption, *self.evalset.notes]))

    def prospects(self) -> Table:
        """Is there anything to cache? Exact repeats, what no cache can exceed, and the dollars of both."""
        return repeat_prospects_table(self.study.stream, self.study.parameters.warmup, self.study.parameters.call_usd)

    def exact(self) -> Table:
        """What exact repeats alone would serve, tenant by tenant, and how often a repeat has another answer."""
        return exact_repeats_table(self.study.stream, self.study.parameters.warmup)

    def semantic(self) -> Semantic:
        """Embed the questions once, and find the nearest earlier one of the same tenant for each."""
        pairs, n = self.study.pairs, len(self.study.stream)
        texts = [*self.study.stream.queries, *(p.query_a for p in pairs), *(p.query_b for p in pairs)]
        vectors, *sides = np.split(self._embed(texts), [n, n + len(pairs)])
        with waiting(f"nearest earlier requests of {n:,}"):
            plain, ways = shadow_hits(self.study.stream, vectors), self._ways()
            shadows = {way: plain.guarded(self.study.stream, check) if check else plain for way, check in ways.items()}
        table = semantic_cache_table(shadows, self.study.clusters, self.study.parts["calibration"])
        near = np.clip((sides[0] * sides[1]).sum(1), -1, 1).astype(float)
        found = Semantic(table, vectors, shadows, near, ways, kept_stream_blocks(self.study.stream, vectors))
        return replace(found, ways={**ways, **self._later(found)})

    def curve(self, semantic: Semantic) -> Figure | Table:
        """False-hit rate against hit rate: the curve of precision and cache-hit ratio, seen from the error."""
        part = self.study.parts["calibration"]
        series = {name: false_hit_curve(found, part) for name, found in semantic.shadows.items()}
        if not any(series.values()):
            told = "none: of the calibration part, no request but exact repeats has an earlier one to be near to"
            return Table.of(("curve",), [(told,)])
        return lines(series, "cache-hit ratio", "false-hit rate", limit=self.rule().margin)

    @waiting("draws of calibration sets")
    def simulate(self, semantic: Semantic) -> Table:
        """What the usual rule and the certificates promise and keep, on draws from this very traffic."""
        counts = self.study.counts(semantic.shadows["similarity"], slice(self.study.parameters.warmup, None))
        rule, p = self.rule(), self.study.parameters
        return certificate_trials_table(
            simulate_certificates(counts, rule.margin, self.study.confidence, draws=p.draws, seed=p.seed), rule.margin
        )

    @waiting("thresholds certified")
    def certify(self, semantic: Semantic) -> Certified:
        """Certify a threshold for each way of matching, on the calibration part alone; simultaneous over the ways."""
        rule, part = self.rule(), self.study.parts["calibration"]
        ways = dict(semantic.shadows)
        if self.parameters.verifiers and self.guard:
            del ways["similarity"]  # few arms: each costs the others confidence
        put_off = {name: way for name, way in semantic.ways.items() if isinstance(way, LaterChecks)}
        confidence = 1 - (1 - self.study.confidence) / (len(ways) + len(put_off))
        every = semantic.shadows["similarity"]
        exact = certify_threshold(
            self.study.served_counts(every.exact, every.false, part), rule.margin, self.study.confidence
        )
        arms: list[tuple[CacheArm, ThresholdCertificate | None]] = [(CacheArm("off"), None), (CacheArm("exact"), exact)]
        for name, found in ways.items():
            guard = semantic.ways[name]

            def confirm(threshold: float, guard: Allows | None = guard) -> HitCounts:
                walked = replay_stream(
                    self.study.stream, semantic.vectors, threshold=threshold, guard=guard, blocks=semantic.blocks
                )
                return self.study.served_counts(walked.hit & ~walked.exact, walked.false, part)

            counts, lowest = self.study.counts(found, part), self.study.lowest(guard, semantic)
            certificate = certify_threshold(counts, rule.margin, confidence, lowest=lowest, confirm=confirm)
            arms.append((semantic.arm(name, certificate.threshold, self.embedder.encoder_id), certificate))
        for name, way in put_off.items():
            certificate = self._certify_later(way, semantic, part, confidence)
            arms.append((semantic.arm(name, certificate.threshold, self.embedder.encoder_id), certificate))
        shown = [(arm.name, certificate) for arm, certificate in arms if arm.kind == "semantic" and certificate]
        return Certified(certificate_table(shown, rule.margin), tuple(arms), part)

    def _certify_later(
        self, way: LaterChecks, semantic: Semantic, part: slice, confidence: float
    ) -> ThresholdCertificate:
        """Certify by true replays alone; not where dev pairs that must differ would be promoted at every cosine."""
        lowest = max(self.study.lowest(way, semantic), way.floor) if way.floor < 1 else np.inf
        counts = self.study.replayed_counts(way, semantic, part, lowest)
        return certify_threshold(counts, self.rule().margin, confidence, lowest=lowest)

    def must_differ(self, certified: Certified, semantic: Semantic) -> Table:
        """Test pairs that the certified arms would serve, by kind: which wordings are not told apart."""
        arms = [(a, c) for a, c in certified.arms if a.kind == "semantic" and c]
        shown = [a for a, c in arms if c.certified] or [a for a, _ in arms]
        let = [next(self.study.pairs_let(semantic.ways[a.way], semantic, [a.threshold or 0.0])) for a in shown]
        cases = [(a.name, *found) for a, found in zip(shown, let, strict=True)]
        return cache_pairs_table(self.study.pairs, cases, confidence=self.study.confidence)

    def replay(self, certified: Certified, semantic: Semantic) -> Replayed:
        """Walk the whole stream with each cache as it would fill, and judge it on the test part.

        Raises
        ------
        SplitError
            If a threshold was certified on a request of the test part.
        """
        self.study.require_dev(certified)
        results, replays, shown = [], dict[str, StreamReplay](), []
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
        bar.done(f"{counted(len(certified.arms), 'cache')} replayed over {counted(len(self.study.stream), 'request')}")
        return score_cache_replays(self.study, results, replays, cache_replay_table(shown))

    def scopes(self, semantic: Semantic) -> Scopes:
        """Send canaries, and requests in words that several tenants use, through the caches themselves."""
        texts = [*self.study.stream.queries, *CANARY_TEXTS]
        vectors = np.concatenate([semantic.vectors, self._embed(CANARY_TEXTS)])
        return try_cache_scopes(self.study.stream, KnownVectors.of(self.embedder, texts, vectors))

    def decide(self, replayed: Replayed) -> Decision:
        """Choose the cheapest cache that is shown to be good enough and saves what counts.

        A semantic cache whose wording nobody has tried on pairs that must differ is provisional at most.
        """
        rule, results = self.rule(), list(replayed.results)
        limit = self.policy.pair_limit
        claims = tuple(
            make_cache_claim(r, rule, must_differ_limit=limit, amounts=self.study.amounts(r)) for r in results
        )
        order = {f.name: f.order for f in replayed.facts}
        outcome = decide(claims, rule, order=order, synthetic=self.evalset.synthetic)
        chosen = next(r for r in results if r.arm.name == outcome.arm)
        if outcome.verdict == "chosen" and chosen.arm.kind == "semantic" and not chosen.pairs.of_must_differ:
            untried = "No test pair that must not share an answer was tried: label some (workbench import pairs)."
            outcome = replace(outcome, verdict="provisional", notes=(*outcome.notes, untried))
        sentence = cache_sentence(outcome, results, claims, rule)
        return self.conclude(claims, rule, replace(outcome, sentence=sentence))

    def break_even(self, replayed: Replayed) -> Table:
        """What a false hit may cost before a tier loses money."""
        return false_hit_break_even_table(replayed.results, self.study.parameters.call_usd)

    def verifiers(self, replayed: Replayed) -> Table:
        """What each verifier costs per 1,000 requests, beside the hits it adds."""
        return verifier_gain_table(replayed.results)

    def save(self, decision: Decision, test: Replayed, *tables: Table, dev: Replayed | None = None) -> Summary:
        """Write what the report and the gate need, and the verifier that was fitted."""
        if self.fitted:
            text = json.dumps({FITTED: self.fitted.save()})
            (self.folder / "artefact.json").write_text(text, encoding="utf-8")
        return super().save(decision, test, *tables, dev=dev)

    def prompt_caches(self) -> list[Table]:
        """What vendors' prompt caches would save on this evalset's prompts, what breaks them, and what would help."""
        return prompt_tables(self.evalset, seed=self.study.parameters.seed)

    @property
    def assumed(self) -> dict[str, str]:
        """A sentence for each figure of money that nobody has set: also what a request costs."""
        if not is_default(self.parameters, "call_usd"):
            return super().assumed
        told = (
            "A request that is not served from the cache is assumed to cost "
            f"{cents(self.parameters.call_usd)}: set call_usd."
        )
        return super().assumed | {"call_usd": told}

    def would_change(self, decision: Decision) -> Sequence[str]:
        """Sentences on what would make the decision another."""
        return would_change_cache_rates(decision)

    def rate(self, name: str) -> float:
        """Dollars of one unit: of a call and of a false hit those of the parameters."""
        p = self.study.parameters
        return {CALL: p.call_usd, FALSE_HIT: p.false_hit_usd}[name] if name in (CALL, FALSE_HIT) else super().rate(name)

    def invariants(self, decision: Decision, test: Replayed) -> Mapping[str, int | None]:
        """Pairs that must differ and are served above the limit."""
        chosen = next(r for r in test.results if r.arm.name == decision.arm)
        most = self.policy.pair_limit.most(chosen.pairs.of_must_differ)
        served = max(chosen.pairs.must_differ - most, 0) if chosen.pairs.of_must_differ else None
        return {"must-differ pairs served above the limit": served}

    def _embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        vectors = eval_vectors(texts, self.embedder, self.settings.cache, label="questions")
        vectors[unread_by_embedder(self.embedder, texts, strict=True)] = 0  # near nothing, as in the cache
        return vectors
