"""What vendors' prompt caches would save on an evalset's prompts, why they do not, and what would change that."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from workbench.caching.prompt_cache import (
    PromptCacheRules,
    load_prompt_cache_rules,
    prefix_breaks,
    prompt_cache_savings,
    simulate_prompt_cache,
)
from workbench.caching.prompt_calls import (
    CALLS,
    PromptCallRecord,
    Segment,
    approximate_prompt_tokens,
    mark_stable_prefix,
    prompt_call_of,
    prompt_calls_with_ttl,
    read_prompt_calls,
    volatile_segments_last,
)
from workbench.evalset.evalset import Evalset
from workbench.records import content_hash
from workbench.rendering.numbers import counted
from workbench.rendering.table import Column, Table, Value
from workbench.routing.prompts import load_prompts
from workbench.routing.recorded_outcomes import RecordedRequest, recorded_requests_of

CALLS_PER_MINUTE, OUTPUT_TOKENS, STARTED_MS = 20.0, 40, 500.0  # where nothing is logged
UNBILLED = (
    "not known: none of these calls was billed by one of these vendors; log your own with CallLog "
    "(workbench/caching/prompt_calls.py)"
)


def prompt_tables(evalset: Evalset, *, seed: int = 0) -> list[Table]:
    """Saving, breaks and what-ifs of the logged calls, else of the evalset's own prompts, and whether bills agree."""
    vendors, log = load_prompt_cache_rules(), evalset.path / CALLS
    if log.is_file():
        logged = read_prompt_calls(log)
        marked = any(s.breakpoint for call in logged for s in call.segments)
        calls, compared = logged if marked else mark_stable_prefix(logged), billed_prompts_table(logged, vendors)
    elif (evalset.path / "prompts.toml").is_file():
        prompts = load_prompts(evalset)
        fullest = max(prompts.contexts, key=lambda name: prompts.contexts[name].documents)
        every = recorded_requests_of(evalset, models=prompts.models[:1])
        asked = [a for a in every if a.context == fullest and a.feature == a.query.feature]
        calls = prompt_log(asked, prompt_arrival_times(len(asked), CALLS_PER_MINUTE, seed=seed))
        compared = billed_prompts_table((), vendors)
    else:
        why = f"not tried: {evalset.name} has neither {CALLS} nor prompts.toml"
        return [Table((Column("prompt caches"),), ((why,),), "What vendors' prompt caches save")]
    return [*(f(calls, vendors) for f in (prompt_cache_table, prompt_break_table, prompt_what_if_table)), compared]


def billed_prompts_table(calls: Sequence[PromptCallRecord], vendors: Mapping[str, PromptCacheRules]) -> Table:
    """Tokens and dollars as simulated beside those billed, by model; a sentence where no bill is known."""
    own = [replace(call, model=call.model.rpartition("/")[2]) for call in calls]  # litellm's names have a prefix
    found = prompt_cache_billed_error(simulate_prompt_cache([call for call in own if call.model in vendors], vendors))
    columns = (
        Column("model"), Column("billed calls", "count"), Column("tokens read", "count"),
        Column("read, billed", "count"), Column("tokens written", "count"), Column("written, billed", "count"),
        Column("mean error of a call's cost", "share", digits=1),
    )  # fmt: skip
    caption = "Simulated against billed. Tokens and cost of the logged calls, beside what the vendor charged"
    if found.is_empty():
        return Table((Column("compared with a bill"),), ((UNBILLED,),), caption)
    return Table(columns, tuple(found.iter_rows()), caption)


def prompt_arrival_times(calls: int, per_minute: float, *, seed: int = 0) -> list[float]:
    """Seconds at which so many calls arrive, independently and at a constant rate."""
    gaps = np.random.default_rng(seed).exponential(60 / per_minute, calls)
    times: list[float] = gaps.cumsum().tolist()
    return times


def prompt_log(
    asked: Sequence[RecordedRequest], at: Sequence[float], *, scope: str | None = None
) -> tuple[PromptCallRecord, ...]:
    """Log of these requests at these times, with the breakpoint behind the system prompt that one would set first.

    Leave out calls that a response cache would serve: what is repeated word for word would be saved twice.

    Parameters
    ----------
    at : sequence of float
        Seconds, one a request.
    scope : str, optional
        The one account that calls for all tenants; by default each tenant has its own.
    """
    calls = [
        prompt_call_of(
            each.request, approximate_prompt_tokens, at=when, tenant_id=each.query.tenant_id, feature=each.feature,
            scope=scope, output_tokens=OUTPUT_TOKENS, started_ms=STARTED_MS,
        )
        for each, when in zip(asked, at, strict=True)
    ]  # fmt: skip
    return mark_stable_prefix(calls)


def with_longer_prefix(calls: Sequence[PromptCallRecord], tokens: int) -> tuple[PromptCallRecord, ...]:
    """What if all calls began with the same ``tokens`` of tools and instructions, with a breakpoint behind them."""
    added = Segment("tools", content_hash("what if", str(tokens)), tokens, breakpoint=True)
    return tuple(replace(call, segments=(added, *call.segments)) for call in calls)


def _prompts_under_vendor(calls: Sequence[PromptCallRecord], rules: PromptCacheRules) -> pl.DataFrame:
    """Every call, as if it had gone to this model; a lifetime that it does not have becomes the usual one."""
    known = (None, rules.ttl_s, rules.long_ttl_s)
    moved = []
    for call in calls:
        segments = tuple(s if s.ttl_s in known else replace(s, ttl_s=None) for s in call.segments)
        moved.append(replace(call, model=rules.model, segments=segments))
    return simulate_prompt_cache(moved, {rules.model: rules})


def prompt_cache_table(calls: Sequence[PromptCallRecord], vendors: Mapping[str, PromptCacheRules]) -> Table:
    """Saving by feature under each vendor's rules, from 0 on where the cache is best effort; one row if none saves."""
    simulated = {rules: _prompts_under_vendor(calls, rules) for rules in vendors.values()}
    read = sum(int(found["read"].sum()) for found in simulated.values())
    rows: list[tuple[Value, ...]] = []
    for rules, found in simulated.items():
        each = found if read else found.with_columns(feature=pl.lit("all"))
        for row in prompt_cache_savings(each).iter_rows(named=True):
            n = row["calls"]
            rows.append((
                rules.model, rules.vendor, row["feature"], n, round(row["input"] / n), rules.min_tokens,
                row["read"] / max(row["input"], 1), 1000 * row["uncached_usd"] / n,
                1000 * row["saved_usd_low"] / n, 1000 * row["saved_usd_high"] / n,
            ))  # fmt: skip
    columns = (
        Column("model"), Column("rules of"), Column("feature"), Column("calls", "count"),
        Column("tokens a prompt", "count"), Column("kept from", "count"), Column("of input read", "share"),
        Column("USD per 1,000 uncached", "usd", digits=3), Column("USD saved at least", "usd", digits=3, signed=True),
        Column("USD saved at most", "usd", digits=3, signed=True),
    )  # fmt: skip
    return Table(columns, tuple(rows), _prompt_cache_verdict(calls, vendors, read))


def _prompt_cache_verdict(calls: Sequence[PromptCallRecord], vendors: Mapping[str, PromptCacheRules], read: int) -> str:
    """The first thing to know: whether what these prompts begin with is long enough to be kept at all."""
    if read:
        return f"What vendors' prompt caches save. {counted(len(calls), 'call')}"
    stable = max(sum(s.tokens for s in call.segments if s.kind != "message") for call in calls)
    least = min(rules.min_tokens for rules in vendors.values())
    sizes = f"tools and system prompt have at most {counted(stable, 'token')}; the least kept is {least:,}"
    return f"Vendors' prompt caches save nothing. {counted(len(calls), 'call')}; {sizes}"


def prompt_break_table(calls: Sequence[PromptCallRecord], vendors: Mapping[str, PromptCacheRules]) -> Table:
    """What breaks the prefix from call to call of a feature, and which models keep what stands before it."""
    found = prefix_breaks(_prompts_under_vendor(calls, next(iter(vendors.values()))))
    rows: list[tuple[Value, ...]] = []
    for row in found.iter_rows(named=True):
        keep = [r.model for r in vendors.values() if r.min_tokens <= row["stable_tokens"]]
        shown = ", ".join(keep) or "none"
        rows.append(
            (row["feature"], row["broken_by"], row["calls"], row["variants"], round(row["stable_tokens"]), shown)
        )
    columns = (
        Column("feature"), Column("first difference"), Column("calls", "count"), Column("variants", "count"),
        Column("tokens before it (median)", "count"), Column("kept by"),
    )  # fmt: skip
    return Table(
        columns,
        tuple(rows),
        "What breaks the prefix. First difference from the call before it of the same feature and account",
    )


def prompt_what_if_table(
    calls: Sequence[PromptCallRecord], vendors: Mapping[str, PromptCacheRules], *, longer: Sequence[int] = (1024, 4096)
) -> Table:
    """Dollars of 1,000 calls under each vendor's rules, at best where the cache is best effort.

    A longer beginning is for tools and instructions that are needed anyway: the row without a cache above it tells
    what it costs, and the first row what there is to pay without it.
    """
    cases = {"as they are": tuple(calls), "what changes goes last": volatile_segments_last(calls)}
    cases |= {
        f"{counted(tokens, 'token')} that never change in front": with_longer_prefix(calls, tokens) for tokens in longer
    }
    rows: list[tuple[Value, ...]] = []
    for name, case in cases.items():
        found = [_prompts_under_vendor(case, rules) for rules in vendors.values()]
        dearer = [
            _prompts_under_vendor(prompt_calls_with_ttl(case, rules.long_ttl_s), rules) if rules.long_ttl_s else None
            for rules in vendors.values()
        ]
        if name != "what changes goes last":
            rows.append((name, "not at all", *(_prompts_usd_per_1k(f, "uncached_usd") for f in found)))
        rows.append((name, "as usual", *(_prompts_usd_per_1k(f, "usd") for f in found)))
        rows.append((name, "longer", *(None if f is None else _prompts_usd_per_1k(f, "usd") for f in dearer)))
    columns = (Column("prompts"), Column("kept"), *(Column(model, "usd", digits=3) for model in vendors))
    caption = "What if. USD per 1,000 calls, at best; 'longer' is the dearer write where there is one"
    return Table(columns, tuple(rows), caption)


def _prompts_usd_per_1k(frame: pl.DataFrame, column: str) -> float:
    return 1000 * float(frame[column].sum()) / frame.height


def prompt_cache_billed_error(frame: pl.DataFrame) -> pl.DataFrame:
    """Tokens of `simulate`'s rows beside those billed, by model, over the calls of which that is known.

    ``error`` is the mean over calls of the error of what the call cost, relative to its bill.
    """
    off = (pl.col("usd") - pl.col("billed_usd")).abs() / pl.col("billed_usd")
    sums = pl.col("read", "billed_read", "write", "billed_write").sum()
    known = frame.filter(pl.col("billed_read").is_not_null())
    error = off.fill_nan(0.0).mean().alias("error")
    return known.group_by("model").agg(pl.len().alias("calls"), sums, error).sort("model")
