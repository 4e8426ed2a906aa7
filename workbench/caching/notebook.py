"""The caching experiment, which asks whether to cache, and how closely questions must match."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt
import polars as pl

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
    regression_cases,
    replay_table,
    request_rows,
    score_rows,
    semantic_table,
    slice_rows_of,
    summarise,
    trials_table,
)
from workbench.config import Settings, load_settings
from workbench.errors import ConfigError
from workbench.evalset.evalset import load_evalset
from workbench.evalset.traffic import load_pairs, load_stream
from workbench.evaluation.compare import spent
from workbench.evaluation.decision import decide
from workbench.evaluation.experiment import MONEY_SHOWN, Experiment, open_experiment
from workbench.evaluation.provenance import build_parameters, encoder_probe, parameter_inputs
from workbench.evaluation.summary import Summary
from workbench.inference.embedding import Embedder, load_embedder
from workbench.inference.prices import project_prices
from workbench.records import Decision, Rule
from workbench.rendering.progress import Progress
from workbench.rendering.table import Table
from workbench.reports.charts import forest, lines, slices
from workbench.reports.ending import end_run
from workbench.reports.figure import Figure
from workbench.retrieval.ingest import VectorCache
from workbench.telemetry.context import attributed

STEP = 512
OFF = "off"
SYNTHETIC = "The stream is made up: drawn from traffic.toml; hit rates and savings follow from its plan."
RULE_SHOWN = (
    "metric", "alpha", "confidence", "must_differ_limit", "min_coverage", *MONEY_SHOWN[:3], "on_inconclusive",
    "on_stale",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class CachingBench:
    """Steps of the caching notebook, in the order in which it calls them."""

    experiment: Experiment
    lab: CacheStudy
    embedder: Embedder
    guard: Guard | None
    use: int

    @classmethod
    def start(cls, **given: object) -> Self:
        """Load everything that can be refused, before anything is computed."""
        settings, parameters = load_settings(), build_parameters(CachingParameters, given)
        return cls.open(parameters, settings, embedder=load_embedder(parameters.embedder, settings))

    @classmethod
    def open(cls, parameters: CachingParameters, settings: Settings, *, embedder: Embedder) -> Self:
        """Begin as `start` does, with an encoder that is already there."""
        guard = make_guard(parameters.guard)
        evalset = load_evalset(parameters.evalset, settings=settings, seed=parameters.seed)
        stream, (pairs, pairs_sha256) = load_stream(evalset.path), load_pairs(evalset.path)
        if stream.synthetic:
            evalset = replace(evalset, synthetic=True, notes=(*evalset.notes, SYNTHETIC))
        if len(stream) - parameters.warmup < 2:
            raise ConfigError(f"warmup {parameters.warmup} leaves nothing of {len(stream)} requests to judge")
        policy = evalset.policy("caching")
        if policy.metric != METRIC or policy.floor is not None:
            raise ConfigError(f"[caching] in gates.toml goes by {METRIC} and alpha; leave out metric and floor")
        prices = project_prices(settings.root)
        inputs = {
            "stream": stream.sha256,
            "pairs": pairs_sha256,
            "gates": evalset.inputs.get("gates", ""),
            **parameter_inputs(parameters),
            "weights": embedder.encoder_id,
            "encoder probe": encoder_probe(embedder),
            "prices": prices.sha256,
        }
        if guard:
            inputs["guard"] = guard.sha256((p.query_b, p.query_a) for p in pairs)
        experiment = open_experiment(
            "caching",
            "Should answers be cached, and how closely must questions match?",
            settings=settings,
            evalset=evalset,
            parameters=parameters,
            inputs=inputs,
            rule_shown=RULE_SHOWN,
        )
        # known before anything is certified: the confidence that is left depends on it
        use = experiment.count_test_use(["off", "exact", "semantic", repr(guard), embedder.encoder_id])
        confidence = spent(policy.confidence, use)
        lab = CacheStudy(parameters, stream, pairs, policy.pair_limit, prices, confidence)
        return cls(experiment, lab, embedder, guard, use)

    @property
    def config(self) -> Table:
        """Parameters and rule of this run."""
        return self.experiment.config

    @property
    def rule(self) -> Rule:
        """False-hit rate at most alpha, lower is better, against no cache."""
        p = self.experiment.policy
        base = self.experiment.rule(OFF)
        use = self.experiment.count_test_use(["off", "exact", "semantic", repr(self.guard), self.embedder.encoder_id])
        return replace(base, margin=p.alpha, floor=None, latency_limit_ms=None, direction="lower", anchor="", use=use)

    def contents(self) -> Table:
        """What the stream and the pairs hold."""
        return contents_table(self.lab.stream, self.lab.pairs, list(self.lab.parts.items()))

    def prospects(self) -> Table:
        """Is there anything to cache? Exact repeats, what no cache can exceed, and the dollars of both."""
        return prospects_table(self.lab.stream, self.lab.parameters.warmup, self.lab.parameters.call_usd)

    def exact(self) -> Table:
        """What exact repeats alone would serve, tenant by tenant, and how often a repeat has another answer."""
        return exact_table(self.lab.stream, self.lab.parameters.warmup)

    def semantic(self) -> Semantic:
        """Embed the questions once, and find the nearest earlier one of the same tenant for each."""
        pairs, n = self.lab.pairs, len(self.lab.stream)
        texts = [*self.lab.stream.queries, *(p.query_a for p in pairs), *(p.query_b for p in pairs)]
        vectors, *sides = np.split(self._embed(texts), [n, n + len(pairs)])
        shadows = {"similarity": shadow(self.lab.stream, vectors)}
        if self.guard:
            shadows["similarity + guard"] = shadows["similarity"].guarded(self.lab.stream, self.guard)
        table = semantic_table(shadows, self.lab.clusters, self.lab.parts["calibration"])
        return Semantic(table, vectors, shadows, np.clip((sides[0] * sides[1]).sum(1), -1, 1).astype(float))

    def curve(self, semantic: Semantic) -> Figure:
        """False-hit rate against hit rate: the curve of precision and cache-hit ratio, seen from the error."""
        part = self.lab.parts["calibration"]
        series = {name: curve(found, part) for name, found in semantic.shadows.items()}
        return lines(series, "cache-hit ratio", "false-hit rate", limit=self.rule.margin)

    def simulate(self, semantic: Semantic) -> Table:
        """What the usual rule and the certificates promise and keep, on draws from this very traffic."""
        counts = self.lab.counts(semantic.shadows["similarity"], slice(self.lab.parameters.warmup, None))
        rule, p = self.rule, self.lab.parameters
        return trials_table(simulate(counts, rule.margin, self.lab.confidence, draws=p.draws, seed=p.seed), rule.margin)

    def certify(self, semantic: Semantic) -> Certified:
        """Certify a threshold for each way of matching, on the calibration part alone; simultaneous over the ways."""
        rule, part = self.rule, self.lab.parts["calibration"]
        confidence = 1 - (1 - self.lab.confidence) / len(semantic.shadows)
        every = semantic.shadows["similarity"]
        exact = certify(self.lab.served_counts(every.exact, every.false, part), rule.margin, self.lab.confidence)
        arms: list[tuple[CacheArm, Certificate | None]] = [(CacheArm("off"), None), (CacheArm("exact"), exact)]
        for name, found in semantic.shadows.items():
            guard = self.guard if name != "similarity" else None

            def confirm(threshold: float, guard: Guard | None = guard) -> Counts:
                walked = replay(self.lab.stream, semantic.vectors, threshold=threshold, guard=guard)
                return self.lab.served_counts(walked.hit & ~walked.exact, walked.false, part)

            counts, lowest = self.lab.counts(found, part), self.lab.lowest(guard, semantic)
            certificate = certify(counts, rule.margin, confidence, lowest=lowest, confirm=confirm)
            arms.append((CacheArm("semantic", certificate.threshold, guard, self.embedder.encoder_id), certificate))
        shown = [(arm.name, certificate) for arm, certificate in arms if arm.kind == "semantic" and certificate]
        return Certified(certificate_table(shown, rule.margin), tuple(arms), part)

    def must_differ(self, certified: Certified, semantic: Semantic) -> Table:
        """Test pairs that the certified arms would serve, by kind: which wordings are not told apart."""
        arms = [(a, c) for a, c in certified.arms if a.kind == "semantic" and c]
        shown = [a for a, c in arms if c.certified] or [a for a, _ in arms]
        near = [semantic.pair_similarity >= (a.threshold or 0.0) for a in shown]
        cases = [(a.name, n, self.lab.passes(a.guard)) for a, n in zip(shown, near, strict=True)]
        return pairs_table(self.lab.pairs, cases)

    def replay(self, certified: Certified, semantic: Semantic) -> Replayed:
        """Walk the whole stream with each cache as it would fill, and judge it on the test part.

        Raises
        ------
        SplitError
            If a threshold was certified on a request of the test part.
        """
        self.lab.require_dev(certified)
        results, replays, shown = [], dict[str, Replay](), []
        bar = Progress("caches replayed", len(certified.arms))
        for place, (arm, certificate) in enumerate(certified.arms, start=1):
            result, walked = self.lab.replay(arm, certificate, semantic)
            bar.update(place)
            results.append(result)
            shown.append(("arm", result, walked.entries, self.lab.shadow_rate(arm, semantic)))
            if arm.kind != "off":
                replays[arm.name] = walked
            for step in (0.0025, -0.0025) if arm.threshold and certificate and certificate.certified else ():
                near = replace(arm, threshold=round((arm.threshold or 0) + step, 4))
                neighbour, walked = self.lab.replay(near, certificate, semantic)
                shown.append(("neighbour", neighbour, walked.entries, self.lab.shadow_rate(near, semantic)))
        bar.done(f"{len(certified.arms)} caches replayed over {len(self.lab.stream):,} requests")
        return Replayed(replay_table(shown), tuple(results), replays)

    def scopes(self, semantic: Semantic) -> Scopes:
        """Send canaries, and requests in words that several tenants use, through the caches themselves."""
        texts = [*self.lab.stream.queries, *CANARY_TEXTS]
        vectors = np.concatenate([semantic.vectors, self._embed(CANARY_TEXTS)])
        return try_scopes(self.lab.stream, KnownVectors.of(self.embedder, texts, vectors))

    def decide(self, replayed: Replayed) -> Decision:
        """Choose the cheapest cache that is shown to be good enough and saves what counts.

        A semantic cache whose wording nobody has tried on pairs that must differ is provisional at most.
        """
        rule, results = self.rule, list(replayed.results)
        claims = tuple(make_claim(r, rule, must_differ_limit=self.experiment.policy.pair_limit) for r in results)
        order = {r.arm.name: i for i, r in enumerate(results)}
        worth = [c for c in claims if c.arm == OFF or rule.counts(c.cost_usd_per_1k, claims[0].cost_usd_per_1k)]
        outcome = decide(worth, rule, order=order, synthetic=self.experiment.evalset.synthetic)
        chosen = next(r for r in results if r.arm.name == outcome.arm)
        if outcome.verdict == "chosen" and chosen.arm.kind == "semantic" and not chosen.pairs.of_must_differ:
            untried = "No test pair that must not share an answer was tried: label some (workbench import pairs)."
            outcome = replace(outcome, verdict="provisional", notes=(*outcome.notes, untried))
        sentence = sentence_of(outcome, results, claims, rule)
        return self.experiment.conclude(claims, rule, replace(outcome, sentence=sentence))

    def forest(self, decision: Decision) -> Figure:
        """False-hit rates of the certificates with their bounds, beside alpha."""
        return forest(decision.claims, decision.rule)

    def break_even(self, replayed: Replayed) -> Table:
        """What a false hit may cost before a tier loses money."""
        return break_even_table(replayed.results, self.lab.parameters.call_usd)

    def slices(self, replayed: Replayed) -> Figure:
        """False-hit rate by tenant and by quarter of the test part."""
        return slices(slice_rows_of(self._scores(replayed)), METRIC)

    def prompt_caches(self) -> list[Table]:
        """What vendors' prompt caches would save on this evalset's prompts, what breaks them, and what would help."""
        return prompt_tables(self.experiment.evalset, seed=self.lab.parameters.seed)

    def save(self, decision: Decision, replayed: Replayed, *tables: Table) -> Summary:
        """Write everything the report and the gate need."""
        scores = self._scores(replayed)
        cases = regression_cases(self.lab.stream, replayed.replays, self.lab.parts["test"])
        summary = summarise(self.experiment, decision, scores, cases, tables)
        self.experiment.save(decision, summary, scores)
        return summary

    def gate(self, decision: Decision, replayed: Replayed, scopes: Scopes) -> None:
        """Say whether the accepted decision still holds; raises after everything is on disk."""
        chosen = next(r for r in replayed.results if r.arm.name == decision.arm)
        most = self.experiment.policy.pair_limit.most(chosen.pairs.of_must_differ)
        served = max(chosen.pairs.must_differ - most, 0) if chosen.pairs.of_must_differ else None
        invariants = {**scopes.invariants, "must-differ pairs served above the limit": served}
        rows = request_rows(self.lab.stream, replayed.replays, self.lab.parts["test"])
        items = [item_id(i) for i in range(len(self.lab.stream))[self.lab.parts["test"]]]
        gate = self.experiment.gate(decision, self._scores(replayed), invariants, items=items, rows=rows)
        end_run(self.experiment, decision, gate)

    def _embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        cache, bar = VectorCache(self.experiment.settings.cache / "vectors.sqlite"), Progress("questions", len(texts))
        out, fresh = [np.zeros((0, self.embedder.dimension), np.float32)], 0
        for start in range(0, len(texts), STEP):
            with attributed(purpose="eval"):
                part, new = cache.embed(texts[start : start + STEP], self.embedder)
            out.append(part)
            fresh += new
            bar.update(start + len(part))
        bar.done(f"{len(texts):,} questions, {fresh:,} embedded now")
        return np.concatenate(out)

    def _scores(self, replayed: Replayed) -> pl.DataFrame:
        return score_rows(self.lab.stream, replayed.replays, self.lab.parts["test"])
