"""What the caching notebook shows, and what its run leaves for the report."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from workbench.caching.cache_claims import METRIC, CacheResult, false_hit_rate, pairs_served_bounds
from workbench.caching.cache_study import CacheStudy, Replayed
from workbench.caching.stream_replay import (
    ShadowHits,
    StreamReplay,
    oracle_stream_hits,
    replay_stream,
    replay_without_cache,
)
from workbench.caching.threshold_certificate import (
    CertificateTrial,
    ThresholdCertificate,
    korn_graubard,
    sweep_thresholds,
)
from workbench.evalset.traffic import Pair, RequestStream
from workbench.evaluation.compare import SCORES_SCHEMA
from workbench.evaluation.decision import ArmFacts
from workbench.evaluation.run_summary import ItemCase
from workbench.records import Decision, parameters_of
from workbench.rendering.numbers import cents, counted, percent
from workbench.rendering.table import Column, Interval, Table, Value
from workbench.reports.run import needed_words

Bools = npt.NDArray[np.bool_]
SHOWN_THRESHOLDS = (0.98, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
CURVE_POINTS = 40


def cache_pairs_table(
    pairs: Sequence[Pair], arms: Sequence[tuple[str, Bools, Bools]], *, confidence: float = 0.95
) -> Table:
    """Test pairs by kind, and by batch if there are several: those near enough for each arm, and those that it serves.

    Parameters
    ----------
    arms : sequence of (name, near enough, let through by the guard)
        Both of shape (pairs,).
    confidence : float
        Of the bound of the share that is served.
    """
    test = np.array([p.split == "test" for p in pairs], dtype=bool)
    same = np.array([p.same_answer for p in pairs], dtype=bool)
    kinds = np.array([p.kind or "unnamed" for p in pairs])
    batches = np.array([f"batch {p.batch or 'first'}" for p in pairs])
    columns = [Column("kind"), Column("label"), Column("pairs", "count")]
    for name, *_ in arms:
        columns += [Column(f"near enough for {name}", "count"), Column("stopped by the guard", "share")]
        columns += [Column("served", "count"), Column("served at most", "share")]
    rows: list[tuple[Value, ...]] = []
    for label, mine in (("must differ", test & ~same), ("may share", test & same)):
        found = sorted(set(kinds[mine]))
        written = sorted(set(batches[mine]))
        for kind in [*found, *["all"] * (len(found) > 1), *written * (len(written) > 1)]:
            of = mine & ((kinds == kind) | (batches == kind) | (kind == "all"))
            row: list[Value] = [kind, label, int(of.sum())]
            for _, near, passed in arms:
                close, served = int((near & of).sum()), int((near & passed & of).sum())
                high = (
                    pairs_served_bounds(near & passed, of, pairs, confidence).high if label == "must differ" else None
                )
                row += [close, 1 - served / close if close else None, served, high]
            rows.append(tuple(row))
    bound = percent(confidence, 0 if round(100 * confidence, 6).is_integer() else 2)
    caption = f"Labelled test pairs by kind. Served at most: {bound} bound of the share of all such pairs"
    return Table(tuple(columns), tuple(rows), caption if pairs else "No pairs.jsonl, so that no wording was tried")


def stream_contents_table(stream: RequestStream, pairs: Sequence[Pair], parts: Sequence[tuple[str, slice]]) -> Table:
    """Requests, texts, tenants and clusters of each part of the stream, and the pairs."""
    rows: list[tuple[Value, ...]] = []
    for name, part in (*parts, ("all", slice(None))):
        asked = list(zip(stream.tenants[part], stream.queries[part], strict=True))
        rows.append(
            (name, len(asked), len(set(asked)), len(set(stream.tenants[part])), len(set(stream.clusters[part])))
        )
    names = ("part", "requests", "distinct texts", "tenants", "clusters")
    kept = [p for p in pairs if p.split != "spent"]
    differ, spent = sum(not p.same_answer for p in kept), len(pairs) - len(kept)
    what = "The synthetic stream (drawn from traffic.toml, asked by no one)" if stream.synthetic else "The stream"
    further = f"; {spent:,} more are spent: a guard was changed after they were seen" if spent else ""
    told = f"{what}, and {counted(len(kept), 'labelled pair')} of which {differ:,} must differ{further}"
    return Table.of(names, rows, told)


def semantic_cache_table(shadows: dict[str, ShadowHits], clusters: np.ndarray, part: slice) -> Table:
    """Hits and both rates at some thresholds, with every earlier request cached."""
    rows: list[tuple[Value, ...]] = []
    codes = clusters[part]
    for name, found in shadows.items():
        for threshold in SHOWN_THRESHOLDS:
            hit, exact, false = found.hits(threshold)[part], found.exact[part], found.false[part]
            near, everything = hit & ~exact, np.ones(len(hit), dtype=bool)
            error = false_hit_rate(false & hit, everything, codes)
            rows.append((name, threshold, hit.mean(), near.mean(), false_hit_rate(false, near, codes), error))
    columns = (
        Column("matching"), Column("threshold", "number", digits=2), Column("hit rate", "share"),
        Column("of it by similarity", "share"), Column("false-hit rate", "interval"), Column("error rate", "interval"),
    )  # fmt: skip
    caption = "What similarity adds. Calibration part, every earlier request cached"
    return Table(columns, tuple(rows), caption)


def false_hit_curve(found: ShadowHits, part: slice) -> list[tuple[float, float]]:
    """False-hit rate against hit rate over all distinct scores, thinned for drawing; empty if nothing is near."""
    near = found.allowed[part] & ~found.exact[part] & (found.matched[part] >= 0)
    if not near.any():
        return []
    swept = sweep_thresholds(found.similarity[part][near], found.false[part][near])
    keep = np.unique(np.linspace(min(50, len(swept.hits) - 1), len(swept.hits) - 1, CURVE_POINTS).astype(int))
    share = (swept.hits[keep] + found.exact[part].sum()) / len(near)
    return [(float(x), float(y)) for x, y in zip(share, swept.false[keep] / swept.hits[keep], strict=True)]


def certificate_trials_table(trials: Sequence[CertificateTrial], alpha: float) -> Table:
    """How often each rule's promise is broken."""
    columns = (
        Column("rule"), Column("drawn by"), Column("broken", "share"), Column("certifies", "share"),
        Column("mean hit rate", "share"),
    )  # fmt: skip
    rows = tuple((t.method, t.design, t.broken, t.certified, t.hit_rate) for t in trials)
    draws = trials[0].draws if trials else 0
    caption = (
        f"What rules promise and keep. {counted(draws, 'draw')}; broken: certified, but the true rate is "
        f"above {alpha:g}"
    )
    return Table(columns, rows, caption)


def certificate_table(found: Sequence[tuple[str, ThresholdCertificate]], alpha: float) -> Table:
    """Thresholds that are certified, and what the others lack."""
    columns = (
        Column("arm"), Column("certified"), Column("hits", "count"), Column("false", "count"),
        Column("at most, of new intents", "number", digits=4), Column("at most, of these alone", "number", digits=4),
        Column("clusters", "count"), Column("effective", "number", digits=0), Column("note"),
    )  # fmt: skip
    rows = tuple(
        (
            name,
            c.certified,
            c.hits,
            c.false,
            c.high,
            c.exact_high,
            c.clusters,
            c.effective_clusters,
            c.note,
        )
        for name, c in found
    )
    asked = f"Is the false-hit rate of the calibration part shown to be at most {alpha:g}?"
    return Table(columns, rows, f"Certificates. {asked} Effective: clusters of equal size that would tell as much.")


def cache_replay_table(results: Sequence[tuple[str, CacheResult, int, float | None]]) -> Table:
    """True replay on the test part: role, result, entries in the end, and the shadow's rate of each cache."""
    columns = (
        Column("cache"), Column("role"), Column("hit rate", "share"), Column("hits judged", "count"),
        Column("false-hit rate", "interval"), Column("95 % bound", "number", digits=3),
        Column("shadow rate", "number", digits=3), Column("error rate", "number", digits=4),
        Column("entries", "count"), Column("USD per 1,000", "usd"),
    )  # fmt: skip
    caption = "True replay on the test part. Hits judged: by similarity; shadow rate: with every earlier request cached"
    rows: list[tuple[Value, ...]] = []
    for role, r, entries, beside in results:
        hits = int(r.served.hits.sum())
        bound = float(korn_graubard(r.served)[1][0]) if hits else None
        rate = Interval(r.rate, *r.interval) if hits else None
        rows.append((r.arm.name, role, r.hit_rate, hits, rate, bound, beside, r.error_rate, entries, r.cost_usd_per_1k))
    return Table(columns, tuple(rows), caption)


def verifier_gain_table(results: Sequence[CacheResult]) -> Table:
    """What each verifier costs, beside the hits that it adds to the best cache without one that is certified.

    One that is asked later adds no hit where answers to misses are kept, but answers from entries of earlier texts.
    """
    plain = max((r.hit_rate for r in results if not r.arm.verifier and _cache_arm_serves(r)), default=0.0)
    columns = (
        Column("cache"), Column("asked"), Column("certified"), Column("least probability", "number", digits=3),
        Column("checks per 1,000 requests", "number", digits=0), Column("USD of checks per 1,000 requests", "usd"),
        Column("hit rate", "share"), Column("added to the best without a verifier", "share"),
        Column("answered from another text's entry", "share"),
    )  # fmt: skip
    rows: list[tuple[Value, ...]] = []
    for r in results:
        if used := r.arm.verifier:
            added = r.hit_rate - plain if _cache_arm_serves(r) else None
            usd = 1000 * r.check_rate * used.usd_per_check
            when, each = "later" if r.arm.later else "in line", 1000 * r.check_rate
            rows.append(
                (r.arm.name, when, _cache_arm_serves(r), used.least, each, usd, r.hit_rate, added, r.others_rate)
            )
    return Table(columns, tuple(rows), "Verifiers. What a check costs, beside the hits it adds on the test part")


def _cache_arm_serves(result: CacheResult) -> bool:
    return result.arm.kind == "exact" or bool(result.certificate and result.certificate.certified)


def false_hit_break_even_table(results: Sequence[CacheResult], call_usd: float) -> Table:
    """What a false hit may cost at most before the tier loses money: saving of a hit by false-hit rate."""
    columns = (
        Column("cache"), Column("USD saved per hit", "usd"), Column("false-hit rate", "number", digits=4),
        Column("certified at most", "number", digits=4), Column("USD a false hit may cost", "usd", digits=3),
        Column("USD at the certified rate", "usd", digits=3),
    )  # fmt: skip
    rows: list[tuple[Value, ...]] = []
    for r in results:
        if r.arm.kind == "semantic" and r.certificate and r.served.hits.any():
            high = r.certificate.high
            at_rate = call_usd / r.rate if r.rate else None
            rows.append((r.arm.name, call_usd, r.rate, high, at_rate, call_usd / high if high else None))
    return Table(
        columns,
        tuple(rows),
        "Break-even. Enable only where a false hit costs you less than this; no number: there was no false hit",
    )


def repeat_prospects_table(stream: RequestStream, warmup: int, call_usd: float) -> Table:
    """Shares of the judged requests that repeat a text, and that any cache could serve, with what that saves."""
    exact = replay_stream(stream, None).hit[warmup:].mean()
    most = oracle_stream_hits(stream)[warmup:].mean()
    shares = {
        "repeat a text exactly": exact,
        "need an answer given before (no cache can exceed this)": most,
        "are left for the semantic tier": most - exact,
    }
    rows = tuple((name, share, share * 1000 * call_usd) for name, share in shares.items())
    columns = (Column("requests that"), Column("share", "share"), Column("saved USD per 1,000", "usd"))
    return Table(columns, rows, f"What there is to save, at {cents(call_usd)} a call")


def exact_repeats_table(stream: RequestStream, warmup: int) -> Table:
    """Exact repeats among the judged requests, tenant by tenant, and how often a repeat has another answer."""
    found, tenants, rows = replay_stream(stream, None), np.array(stream.tenants)[warmup:], list[tuple[Value, ...]]()
    for tenant in [*sorted(set(tenants)), "all"]:
        mine = (tenants == tenant) | (tenant == "all")
        hit, false = found.hit[warmup:] & mine, found.false[warmup:] & mine
        rows.append((tenant, int(mine.sum()), hit.sum() / mine.sum(), int(false.sum())))
    columns = (
        Column("tenant"), Column("requests", "count"), Column("exact repeats", "share"),
        Column("with another answer", "count"),
    )  # fmt: skip
    return Table(columns, tuple(rows), "The exact cache")


QUARTERS = 4


def cache_score_rows(stream: RequestStream, replays: Mapping[str, StreamReplay], part: slice) -> pl.DataFrame:
    """One row per arm and test request it served: 1 where the answer was another one, else 0.

    Of a semantic arm these are the hits that similarity decided.
    """
    places = np.arange(len(stream))[part]
    quarter = {int(i): int(QUARTERS * k / max(len(places), 1)) + 1 for k, i in enumerate(places)}
    rows = []
    for arm, found in replays.items():
        own = found.hit & (found.exact if arm == "exact" else ~found.exact)
        rows += [
            (arm, cache_item_id(i), 0, METRIC, float(found.false[i]), None, stream.clusters[i], stream.tenants[i], None,
             None, stream.tenants[i], f"quarter {quarter[i]}")
            for i in places[own[places]].tolist()
        ]  # fmt: skip
    schema = SCORES_SCHEMA | {"slice_tenant_id": pl.String, "slice_age of the cache": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def cache_request_rows(stream: RequestStream, replays: Mapping[str, StreamReplay], part: slice) -> pl.DataFrame:
    """One row per arm and test request, served or not: the error rate, 1 where a false hit was served.

    With them it is told that every request was replayed; the scores of the deciding rate hold hits alone.
    """
    frames = []
    for arm, found in {"off": replay_without_cache(stream), **replays}.items():
        places = np.arange(len(found.hit))[part]
        values = {"item_id": [cache_item_id(i) for i in places.tolist()], "value": found.false[places].astype(float)}
        told = {"arm": arm, "repeat": 0, "metric": "error_rate"}
        frames.append(pl.DataFrame(values).with_columns(**{name: pl.lit(value) for name, value in told.items()}))
    return pl.concat(frames)


def cache_item_id(position: int) -> str:
    """Name of a request."""
    return f"request-{position:06d}"


def cache_regression_cases(
    stream: RequestStream, replays: Mapping[str, StreamReplay], part: slice
) -> dict[str, list[ItemCase]]:
    """Test requests that each arm served wrongly, nearest first."""
    out = {}
    places = np.arange(len(stream))[part]
    for arm, found in replays.items():
        wrong = sorted(places[found.false[places]].tolist(), key=lambda i: (-found.similarity[i], i))
        out[arm] = [_cache_regression_case(stream, arm, found, i) for i in wrong]
    return out


def _cache_regression_case(stream: RequestStream, arm: str, found: StreamReplay, i: int) -> ItemCase:
    match = int(found.matched[i])
    return ItemCase(
        item_id=cache_item_id(i),
        question=stream.queries[i],
        expected=(stream.answer_keys[i],),
        returned={arm: (stream.answer_keys[match],)},
        values={arm: float(found.similarity[i])},
        note=f"Similarity {found.similarity[i]:.3f} to: {stream.queries[match]}",
    )


def score_cache_replays(
    study: CacheStudy, results: Sequence[CacheResult], replays: Mapping[str, StreamReplay], table: Table
) -> Replayed:
    """Score what was replayed on the test part, in the order of the results; ``replays`` has all that serve."""
    part = study.parts["test"]
    facts = tuple(ArmFacts(r.arm.name, parameters_of(r.arm), r.cost_usd_per_1k, None, i) for i, r in enumerate(results))
    return Replayed(
        split="test",
        arms=tuple(r.arm for r in results),
        scores=cache_score_rows(study.stream, replays, part),
        facts=facts,
        table=table,
        results=tuple(results),
        requests=cache_request_rows(study.stream, replays, part),
        false_hits=cache_regression_cases(study.stream, replays, part),
    )


def would_change_cache_rates(decision: Decision) -> tuple[str, ...]:
    """Sentences on the alpha, or the labelled hits, at which the decision would be another."""
    out = []
    for claim in decision.claims:
        if claim.status == "holds":
            out.append(f"{claim.arm}: an alpha under {claim.high:.3f} would no longer be certified.")
        elif claim.status == "inconclusive" and claim.items_needed:
            out.append(f"{claim.arm}: {needed_words(claim)} more labelled hits would settle it at this rate.")
        elif claim.status in ("inconclusive", "broken"):
            out.append(f"{claim.arm}: {claim.note}.")
    return tuple(out)
