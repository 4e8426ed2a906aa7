"""The numbers of an accepted decision, computed again from what is committed: no model, no store, no encoder.

From the raw answers or outcomes to scores, from scores to claims, from claims to the verdict. What one of these steps
needs and is not committed is told, never passed over.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from workbench.caching.cache_claims import CacheArm, CacheResult
from workbench.caching.cache_study import CacheStudy, CachingParameters
from workbench.caching.stream_replay import replay_stream
from workbench.caching.tables import cache_item_id
from workbench.codec import from_plain, to_plain
from workbench.evalset.corpus import count_locked_documents
from workbench.evalset.evalset import Evalset
from workbench.evalset.outcomes import DEV_SHARE, STORED_SCHEMA, Outcomes, load_outcomes, outcomes_of
from workbench.evalset.outcomes import FILE as OUTCOMES
from workbench.evalset.traffic import load_traffic_pairs, load_traffic_stream
from workbench.evaluation.accepted_decision import anchor_path, read_artefact
from workbench.evaluation.compare import spent_confidence
from workbench.evaluation.decision import ArmFacts, Outcome, decide, make_claims
from workbench.evaluation.decision_sentences import sentence_now
from workbench.evaluation.experiment import KEPT, OBJECTIVE
from workbench.evaluation.finalists import beside_verdict, verdict_note_now
from workbench.evaluation.flip_points import CALL, FALSE_HIT, flip_points, former_units
from workbench.evaluation.gate import account
from workbench.inference.messages import Request
from workbench.inference.prices import PriceTable
from workbench.inference.recordings import FOLDER, Recorded, Recordings, is_recorded_copy, recordings_sha256
from workbench.records import Claim, Decision
from workbench.rendering.numbers import counted
from workbench.routing.policies import load_router
from workbench.routing.prompts import load_prompts
from workbench.routing.recorded_hits import SEARCHES, recorded_hit_rows, retrieval_usd
from workbench.routing.recorded_outcomes import RecordedRequest, recorded_outcome_row, recorded_quality, recording_file
from workbench.routing.routed_arms import RoutedArm, model_arms, route_all_prompts

Status = Literal["verified", "contradicted", "not verified"]
SAME = 1e-9
ROUNDED = 1e-4  # of a cost: calls are counted in whole nano-dollars, rounded up
# Notebooks that judge a part of the split: which part follows from what was recorded, or from the stream.
OF_A_PART = ("quality", "stack")
UNSEEN = ({"role": "user", "content": "(the prompt, which is not built here)"},)
ASK_AGAIN = "workbench check {} computes it again"


@dataclass(frozen=True, slots=True)
class RecomputedPart:
    """One thing that was looked at: what, how it stands, and the values that say so."""

    name: str
    status: Status
    told: str


def judge_recomputed(name: str, found: object, stated: object, of: str) -> RecomputedPart:
    """Compare what was computed with what the decision states; numbers to nine decimals."""
    if _recomputed_same(found, stated):
        return RecomputedPart(name, "verified", f"{of}: {_recomputed_short(stated)}")
    return RecomputedPart(
        name, "contradicted", f"the decision says {_recomputed_short(stated)}, {of} {_recomputed_short(found)}"
    )


def _recomputed_same(a: Any, b: Any) -> bool:
    if isinstance(a, int) and isinstance(b, int):  # exact, and of any length
        return a == b
    if isinstance(a, float | int) and isinstance(b, float | int):
        return bool(abs(a - b) <= SAME * max(1.0, abs(a), abs(b)))
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(_recomputed_same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def _recomputed_short(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 160 else f"{text[:160]}..."


@dataclass(frozen=True, slots=True, eq=False)
class AcceptedEvidence:
    """A decision with what lies beside it: its evalset, its committed scores, prices, and of routing its outcomes."""

    decision: Decision
    path: Path
    evalset: Evalset
    scores: pl.DataFrame
    prices: PriceTable
    raw: "RawOutcomes | None" = None


@dataclass(frozen=True, slots=True, eq=False)
class RawOutcomes:
    """Outcomes of an evalset; by model, the hashes that its recordings may have."""

    outcomes: Outcomes
    hashes: Mapping[str, Sequence[str]]


def raw_outcomes(evalset: Evalset, prices: PriceTable, settings: Mapping[str, Any]) -> RawOutcomes:
    """Outcomes as 02_routing reads them, from the table or from the items that recorded answers name.

    That a recorded answer is one to the prompt of today is not looked at: for that the corpus has to be built.
    """
    how = {"seed": settings.get("seed", 0), "dev_share": settings.get("dev_share", DEV_SHARE)}
    if (evalset.path / OUTCOMES).is_file():
        return RawOutcomes(load_outcomes(evalset.path, **how), {})
    prompts, extra_usd = load_prompts(evalset), retrieval_usd(evalset)
    searches = {(r["tenant_id"], r["query"]): r["doc_ids"] for r in recorded_hit_rows(evalset, SEARCHES)}
    asked = {q.query_id: (split, q) for split in ("dev", "test") for q in evalset.split(split).queries}
    rows, used, hashes = [], dict[str, dict[str, list[tuple[int, Recorded]]]](), dict[str, tuple[str, ...]]()
    for model in prompts.models:
        placed = Recordings(recording_file(evalset, model)).placed()
        used[model] = {}
        for place, recorded in placed:
            used[model].setdefault(recorded.item_id, []).append((place, recorded))
        hashes[model] = (recordings_sha256(placed),)
        for item, found in used[model].items():
            prompt_id, _, context = item.rpartition(":")
            feature, _, query_id = prompt_id.partition(":")
            if query_id in asked and context in prompts.contexts:
                one = RecordedRequest(asked[query_id][1], asked[query_id][0], feature, context, Request(model, UNSEEN))
                retrieved = extra_usd if prompts.contexts[context].documents else 0.0
                answers = [recorded.response for _, recorded in found]
                fresh = [response for place, response in enumerate(answers) if not is_recorded_copy(answers, place)]
                for repeat, response in enumerate(fresh):
                    if (quality := recorded_quality(one, response, evalset, searches)) is not None:
                        rows.append((*recorded_outcome_row(one, response, quality, prices, retrieved), repeat))
    frame = pl.DataFrame(rows, schema=STORED_SCHEMA, orient="row")
    asked_with = pl.struct("model", "config").n_unique().over("prompt_id")
    whole = frame.filter(asked_with == len(prompts.models) * len(prompts.contexts))
    kept, shown = set(whole["prompt_id"]), set(prompts.contexts)
    strange = any(item.rpartition(":")[2] not in shown for by_item in used.values() for item in by_item)
    if strange or whole.height < frame.height:  # then a part of the answers may have been read
        for model, by_item in used.items():
            mine = [
                one
                for item, found in by_item.items()
                if item.rpartition(":")[0] in kept and item.rpartition(":")[2] in shown
                for one in found
            ]
            hashes[model] += (recordings_sha256(mine),)
    return RawOutcomes(outcomes_of(whole, f"recordings of {evalset.name}", **how), hashes)


def recompute_decision(accepted: AcceptedEvidence) -> Iterator[RecomputedPart]:
    """Compute claims, verdict and counts again, and compare them with the decision."""
    d = accepted.decision
    yield from _recompute_arms(accepted)
    yield from _recompute_prices(d)
    if d.notebook == "caching":
        yield from _recompute_cache_rates(accepted)
        return
    if accepted.raw is not None:
        yield from _recompute_routers(accepted, accepted.raw)
    clusters = {
        split: _recompute_clusters(d.notebook, accepted.evalset, accepted.raw, split) for split in ("dev", "test")
    }
    yield from _recompute_paired(accepted, clusters)


def _recompute_arms(accepted: AcceptedEvidence) -> Iterator[RecomputedPart]:
    """Whether decision and scores speak of the same arms."""
    stated, there = set(accepted.decision.arms), set(accepted.scores["arm"])
    kept = {c.arm for c in accepted.decision.claims if c.note == KEPT}
    if accepted.decision.notebook == "caching":
        kept |= {"off"} | {c.arm for c in accepted.decision.claims if not c.estimate_high or c.estimate_high == 1.0}
    if strange := sorted(there - stated):
        yield RecomputedPart(
            "arms", "contradicted", f"there are scores of {', '.join(strange)}, and no claim: dropped?"
        )
    if missing := sorted(stated - there - kept):
        yield RecomputedPart("arms", "contradicted", f"there is a claim about {', '.join(missing)}, and no score")
    if accepted.decision.arm not in stated:
        yield RecomputedPart("arms", "contradicted", f"the decided arm {accepted.decision.arm} is none of those tested")
    if not strange and not missing:
        yield RecomputedPart("arms", "verified", f"{counted(len(stated), 'arm')}, of which there are scores and claims")


def _recompute_prices(d: Decision) -> Iterator[RecomputedPart]:
    """Whether what each arm costs is what it uses at the decision's own rates."""
    used = [c for c in d.claims if c.amounts]
    for c in used:
        usd = sum(n * d.rates.get(name, math.nan) for name, n in c.amounts.items())
        fits = math.isclose(usd, c.cost_usd_per_1k, rel_tol=ROUNDED)
        told = f"${c.cost_usd_per_1k:.6g} per 1,000 requests; what it uses, at the decision's rates, costs ${usd:.6g}"
        yield RecomputedPart(f"cost of {c.arm}", "verified" if fits else "contradicted", told)


def _recompute_clusters(notebook: str, evalset: Evalset, raw: RawOutcomes | None, split: str) -> dict[str, str]:
    """Cluster of each item of a split: a prompt of the outcomes, or a question, also as FEATURE:QUESTION."""
    if raw is not None:
        part = raw.outcomes.part(split)
        return dict(zip(part.prompt_ids, part.clusters.tolist(), strict=True))
    if notebook == "stack":
        return {f"{i:05d}": cluster for i, cluster in enumerate(load_traffic_stream(evalset.path).clusters)}
    return dict(evalset.split(split).clusters) if split in evalset.qrels else {}


def _recompute_paired(
    accepted: AcceptedEvidence, clusters: Mapping[str, Mapping[str, str]]
) -> Iterator[RecomputedPart]:
    """Claims by paired differences, and the verdict from them."""
    d, name, scores = accepted.decision, accepted.evalset.name, accepted.scores
    of_item = {i: clusters["test"].get(i) or clusters["test"].get(i.partition(":")[2]) for i in set(scores["item_id"])}
    if strange := sorted(i for i, cluster in of_item.items() if cluster is None):
        yield RecomputedPart(
            "claims",
            "contradicted",
            f"{counted(len(strange), 'scored item is', 'scored items are')} not of test, first {strange[0]!r}",
        )
        return
    families = {item: str(cluster) for item, cluster in of_item.items()}
    whole = d.notebook not in OF_A_PART and families.keys() & clusters["test"].keys()
    yield from _recompute_rows_complete(accepted, clusters["test"] if whole else families)
    kept = [c.arm for c in d.claims if c.note == KEPT]
    before = _recompute_as_accepted(accepted, kept)
    if gone := sorted(set(kept) - set(before["arm"])):
        told = f"{', '.join(gone)} was judged by its scores of an earlier decision, which are not here any more"
        yield RecomputedPart("claims", "not verified", told)
        return
    pairs = {"item_id": list(families), "cluster": list(families.values())}
    scores = pl.concat([scores, before], how="diagonal_relaxed").join(pl.DataFrame(pairs), on="item_id")
    against = scores.with_columns(value=pl.coalesce("against", "value")) if "against" in scores.columns else None
    facts = [
        ArmFacts(c.arm, c.parameters, c.cost_usd_per_1k, c.latency_p95_ms, i, c.spread, amounts=c.amounts)
        for i, c in enumerate(d.claims)
    ]
    told = f"the scores, with the families of {name}, give"
    claims = make_claims(scores, facts, d.rule, against=against, seed=int(d.settings.get("seed", 0)))
    for found in claims:
        yield from _recompute_claim_fields(found, d.claim(found.arm), told)
    n_dev, order = len(set(clusters["dev"].values())), {f.name: f.order for f in facts}
    if d.notebook in OF_A_PART:
        n_dev = d.n_dev_clusters or 0
        yield RecomputedPart(
            "items", "not verified", f"which items are judged is drawn; {ASK_AGAIN.format(d.notebook)}"
        )
    else:
        yield judge_recomputed("families in dev", n_dev, d.n_dev_clusters, f"{name} has")
    outcome = decide(claims, d.rule, order=order, synthetic=accepted.evalset.synthetic, n_dev_clusters=n_dev)
    yield from _recompute_outcome(d, outcome, told)
    notes = [*outcome.notes, *beside_verdict(claims, d.rule, outcome, d.chosen_share)]
    stated = {verdict_note_now(note, d.rule) for note in d.notes}
    yield judge_recomputed(
        "notes", [note for note in notes if note not in stated], [], f"of {counted(len(notes), 'note')} it lacks"
    )
    if further := sorted(stated - set(notes)):
        told = (
            f"{counted(len(further), 'note rests', 'notes rest')} on more than the scores that are kept, "
            f"first: {further[0][:80]!r}"
        )
        yield RecomputedPart("further notes", "not verified", f"{told}; {ASK_AGAIN.format(d.notebook)}")


def recompute_beside_claims(accepted: AcceptedEvidence) -> Iterator[RecomputedPart]:
    """What a decision says beside its claims: counts, prices of what they use, shares, and until when it stands."""
    d, evalset = accepted.decision, accepted.evalset
    first = d.claims[0]
    yield judge_recomputed("n_items", first.n_items, d.n_items, "its first claim has")
    yield judge_recomputed("n_clusters", first.n_clusters, d.n_clusters, "its first claim has")
    yield judge_recomputed("objective", OBJECTIVE, d.rule.objective, "the rule goes by")
    n_documents = 0
    if d.notebook != "caching":
        built = (evalset.path / "corpus.toml").is_file()
        n_documents = count_locked_documents(evalset.path) if built else len(evalset.documents)
    yield judge_recomputed("n_documents", n_documents, d.n_documents, f"the corpus of {evalset.name} holds")
    yield _recompute_shares(d)
    own = {name: float(d.settings[setting]) for name, setting in _SET.items() if setting in d.settings}
    names = dict.fromkeys(name for c in d.claims for name in c.amounts)
    rates = {name: own[name] if name in own else accepted.prices.rate(name) for name in names}
    yield judge_recomputed("rates", sorted(rates.items()), sorted(d.rates.items()), "prices and settings give")
    yield from _recompute_flips(replace(d, rates=rates))


MEASURED = "repeat rate"  # a figure of the stack that its caches give
_SET = {CALL: "call_usd", FALSE_HIT: "false_hit_usd"}  # rates that are settings of a notebook


def _recompute_shares(d: Decision) -> RecomputedPart:
    """Whether shares of resamples are shares: what they are rests on dev scores."""
    known, whole = {*d.arms, ""}, math.fsum(d.chosen_share.values())
    told = ", ".join(f"{arm or 'none'} {share:.6g}" for arm, share in d.chosen_share.items()) or "none"
    if d.notebook == "caching":
        return judge_recomputed("chosen_share", {}, d.chosen_share, "a cache has")
    sound = math.isclose(whole, 1, abs_tol=SAME) and all(0 <= share <= 1 for share in d.chosen_share.values())
    if sound and d.chosen_share.keys() <= known:
        return RecomputedPart("chosen_share", "verified", f"shares of the arms that sum to 1: {told}")
    rule = "shares of the arms tested lie in [0, 1] and sum to 1"
    return RecomputedPart("chosen_share", "contradicted", f"{rule}, found {told}")


def _recompute_flips(d: Decision) -> Iterator[RecomputedPart]:
    """Until when it stands, but for what is measured by the notebook itself."""
    if d.flips is None:
        yield RecomputedPart(
            "flips", "not verified", f"it was accepted before there were any; {ASK_AGAIN.format(d.notebook)}"
        )
        return
    now, formerly = {f.figure: f for f in flip_points(d)}, former_units(d)
    before = {f.figure: f.unit for f in d.flips if f.unit == formerly.get(f.figure)}
    now |= {name: replace(now[name], unit=unit) for name, unit in before.items() if name in now}
    found, stated = ({f.figure: [*to_plain(f).items()] for f in flips} for flips in (now.values(), d.flips))
    measured = sorted((stated.keys() - found.keys()) & {MEASURED}) if d.notebook == "stack" else []
    for name in [n for n in {**found, **stated} if n not in measured]:
        yield judge_recomputed(f"flips of {name}", found.get(name), stated.get(name), "its claims give")
    if measured:
        told = f"the flips of {', '.join(measured)} rest on what the run measured"
        yield RecomputedPart("flips", "not verified", f"{told}; {ASK_AGAIN.format(d.notebook)}")


def _recompute_rows_complete(accepted: AcceptedEvidence, items: Mapping[str, str]) -> Iterator[RecomputedPart]:
    """Whether every arm has one row for each item, of those that this run asked."""
    d = accepted.decision
    asked = replace(d, claims=tuple(c for c in d.claims if c.note != KEPT))
    rows = accepted.scores.with_columns(metric=pl.lit(d.rule.metric))
    for found in account(rows, asked, items, min_coverage=accepted.evalset.policy(d.notebook).min_coverage):
        yield RecomputedPart("rows", "contradicted" if found.status == "error" else "verified", found.sentence)


def _recompute_as_accepted(accepted: AcceptedEvidence, kept: Sequence[str]) -> pl.DataFrame:
    """Scores of arms that were judged as they had been accepted: those of the anchor lie beside the decision."""
    path = anchor_path(accepted.evalset.path, accepted.decision.notebook).with_suffix(".scores.parquet")
    if not (kept and path.is_file()):
        return accepted.scores.clear()
    return pl.read_parquet(path).filter(pl.col("arm").is_in(kept))


def _recompute_claim_fields(found: Claim, stated: Claim, told: str) -> Iterator[RecomputedPart]:
    """One claim, field by field; what was put in is not compared with itself."""
    given = ("arm", "parameters", "cost_usd_per_1k", "latency_p95_ms", "spread", "pairs", "amounts")
    named = [f.name for f in fields(Claim) if f.name not in given and not (f.name == "note" and stated.note == KEPT)]
    wrong = [n for n in named if not _recomputed_same(getattr(found, n), getattr(stated, n))]
    for name in wrong:
        yield judge_recomputed(f"{name} of {found.arm}", getattr(found, name), getattr(stated, name), told)
    pairs = {p.other: p for p in stated.pairs}
    for pair in found.pairs:
        mine = pairs.pop(pair.other, None)
        numbers = ("difference", "low", "high", "n_clusters_differ", "status")
        if mine is None or not all(_recomputed_same(getattr(pair, n), getattr(mine, n)) for n in numbers):
            wrong.append(pair.other)
            both = f"{told} {pair}, the decision says {mine}"
            yield RecomputedPart(f"{found.arm} against {pair.other}", "contradicted", both)
    if pairs:
        wrong += pairs
        yield RecomputedPart(
            f"{found.arm} against {', '.join(pairs)}", "contradicted", "no such arm was tested: dropped?"
        )
    if not wrong:
        what = f"{told} {found.estimate:.6f} [{found.estimate_low:.6f}, {found.estimate_high:.6f}], at least "
        what += f"{found.low:+.6f} against {found.best or 'no other'}, and {counted(len(found.pairs), 'paired bound')}"
        yield RecomputedPart(f"claim of {found.arm}", "verified", what)


def _recompute_outcome(d: Decision, outcome: Outcome, told: str) -> Iterator[RecomputedPart]:
    stated = {n: getattr(d, n) for n in ("verdict", "arm", "sentence", "items_needed")}
    if d.arm in d.arms:
        stated["sentence"] = sentence_now(d.sentence, d.claim(d.arm), d.rule)
    for name, value in stated.items():
        yield judge_recomputed({"arm": "chosen arm"}.get(name, name), getattr(outcome, name), value, told)


def _recompute_routers(accepted: AcceptedEvidence, raw: RawOutcomes) -> Iterator[RecomputedPart]:
    """Scores, cost and latency of every router that reads no vectors: routed anew over the raw outcomes."""
    part, beside_it = raw.outcomes.part("test"), accepted.path.with_suffix(".artefact")
    names = read_artefact(beside_it)
    routers = {arm.name: arm.router for arm in model_arms(raw.outcomes.part("dev"))}
    routers |= {name: load_router(beside_it, name) for name in names}
    where, unseen = OUTCOMES if not raw.hashes else f"{FOLDER}/", list[str]()
    for claim in accepted.decision.claims:
        if claim.spread is not None:
            yield judge_recomputed(
                f"spread of {claim.arm}", None, claim.spread, "no index is built for a router, which has"
            )
        router = routers.get(claim.arm)
        if router is not None and claim.arm in names:
            stated = claim.parameters.get("sha256")
            yield judge_recomputed(f"router {claim.arm}", router.sha256, stated, f"{beside_it.name} has")
        if router is None or router.reads == "vectors":
            unseen.append(claim.arm)
            continue
        scored = route_all_prompts([RoutedArm(router, 0)], part, "test")
        yield from _recompute_same_scores(
            accepted, claim, dict(scored.scores.select("item_id", "value").iter_rows()), where
        )
        usd, p95 = scored.facts[0].cost_usd_per_1k, scored.facts[0].latency_p95_ms
        yield judge_recomputed(f"cost of {claim.arm}", usd, claim.cost_usd_per_1k, f"{where} at these prices gives")
        yield judge_recomputed(f"latency of {claim.arm}", p95, claim.latency_p95_ms, f"{where} gives")
    if unseen:
        again = (
            f"what {', '.join(unseen)} chose, with costs and latencies: a router reads vectors, or is your own class"
        )
        yield RecomputedPart("routers", "not verified", f"{again}; {ASK_AGAIN.format('routing')}")


def _recompute_same_scores(
    accepted: AcceptedEvidence, claim: Claim, found: Mapping[str, float], where: str
) -> Iterator[RecomputedPart]:
    """Committed scores of one arm against those that were found anew, item by item."""
    mine = dict(accepted.scores.filter(pl.col("arm") == claim.arm).select("item_id", "value").iter_rows())
    moved = sorted(item for item, value in found.items() if not _recomputed_same(mine.get(item), value))
    told = (
        f"{len(moved)} of {counted(len(found), 'score is', 'scores are')} not those of {where}, first {moved[0]}"
        if moved
        else ""
    )
    done = f"{counted(len(found), 'score is', 'scores are')} those of {where}"
    yield RecomputedPart(f"scores of {claim.arm}", "contradicted" if moved else "verified", told or done)


def _recompute_cache_rates(accepted: AcceptedEvidence) -> Iterator[RecomputedPart]:
    """Rates and counts of caches from the committed hits; the exact one from the stream itself."""
    d, evalset = accepted.decision, accepted.evalset
    parameters = from_plain(CachingParameters, d.settings, "settings of the decision")
    stream, (pairs, _) = load_traffic_stream(evalset.path), load_traffic_pairs(evalset.path)
    limit, confidence = evalset.policy("caching").pair_limit, spent_confidence(d.rule.confidence, d.rule.use)
    study = CacheStudy(parameters, stream, pairs, limit, accepted.prices, confidence)
    part = study.parts["test"]
    places = {cache_item_id(i): i for i in range(len(stream))[part]}
    if strange := sorted(set(accepted.scores["item_id"]) - places.keys()):
        yield RecomputedPart(
            "claims",
            "contradicted",
            f"{counted(len(strange), 'scored request is', 'scored requests are')} not of test, first {strange[0]}",
        )
        return
    exact = replay_stream(stream, None)
    for claim in d.claims:
        own, false = np.zeros(len(stream), bool), np.zeros(len(stream), bool)
        for item, value in accepted.scores.filter(pl.col("arm") == claim.arm).select("item_id", "value").iter_rows():
            own[places[item]], false[places[item]] = True, value > 0
        counts = study.served_counts(own, false, part)
        low, high = CacheResult(CacheArm("off"), None, counts, 0, 0, 0).interval if own.any() else (0.0, 1.0)
        found = {
            "estimate": float(counts.rate[0]), "estimate_low": low,
            "estimate_high": high if claim.arm != "off" else 0.0,
            "n_items": int(counts.requests.sum()), "n_clusters": int((counts.requests > 0).sum()),
            "n_clusters_differ": int((counts.false[:, 0] > 0).sum()),
        }  # fmt: skip
        for name, value in found.items():
            yield judge_recomputed(
                f"{name} of {claim.arm}", value, getattr(claim, name), "the stream and the committed hits give"
            )
        if claim.arm in ("off", "exact"):
            hit, wrong = (exact.hit, exact.false) if claim.arm == "exact" else (own, own)
            if claim.arm == "exact":
                same = bool((hit[part] == own[part]).all() and ((hit & wrong)[part] == false[part]).all())
                yield judge_recomputed("hits of exact", same, True, "replayed on the stream they are those committed:")
            usd = study.cost(float(hit[part].mean()), float(wrong[part].mean()), CacheArm("exact"))  # embeds nothing
            yield judge_recomputed(
                f"cost of {claim.arm}", usd, claim.cost_usd_per_1k, "the stream at this price of a call gives"
            )
    yield from _recompute_cache_verdict(d, evalset.synthetic or stream.synthetic)


def _recompute_cache_verdict(d: Decision, synthetic: bool) -> Iterator[RecomputedPart]:
    off = d.claim("off").cost_usd_per_1k
    worth = [c for c in d.claims if c.arm == "off" or d.rule.counts(c.cost_usd_per_1k, off)]
    if over := [c.arm for c in d.claims if c.status == "holds" and max(c.high, c.estimate) > d.rule.margin]:
        told = f"{', '.join(over)} is said to hold, and its own bound or rate is above {d.rule.margin:g}"
        yield RecomputedPart("claims", "contradicted", told)
    order = {c.arm: i for i, c in enumerate(d.claims)}
    outcome = decide(worth, d.rule, order=order, synthetic=synthetic)
    verdict = d.verdict if (outcome.verdict, d.verdict) == ("chosen", "provisional") else outcome.verdict
    yield judge_recomputed("verdict", verdict, d.verdict, "its claims and its rule give")
    yield judge_recomputed("chosen arm", outcome.arm, d.arm, "its claims and its rule give")
    again = ASK_AGAIN.format("caching")
    told = "thresholds, certificates, which hits similarity decides, what they cost and pairs served need the encoder"
    told += (
        "; so do the sentence, notes, items needed, and of each claim its status, its difference from the best other "
    )
    told += "arm with the bounds low and high, its coverage and its spread"
    yield RecomputedPart("certificates", "not verified", f"{told}; {again}")
