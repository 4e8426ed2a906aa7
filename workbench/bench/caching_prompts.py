"""What vendors' prompt caches would save on an evalset's prompts, why they do not, and what would change that."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from workbench.bench.answers import Asked, asked_of, load_prompts
from workbench.caching.calls import CallRecord, Segment, call_of, mark_stable, volatile_last, with_ttl
from workbench.caching.prompt import breaks, savings, simulate
from workbench.caching.vendors import VendorRules, load_vendors
from workbench.evaluation.drift import DriftWatch, watch_trials
from workbench.evaluation.evalset import Evalset
from workbench.records import content_hash
from workbench.rendering.table import Column, Table, Value

BYTES_PER_TOKEN = 4
CALLS_PER_MINUTE = 20.0
RATE_MULTIPLES = (0.5, 1.0, 1.5, 2.0, 3.0, 5.0)


def prompt_tables(evalset: Evalset, *, seed: int = 0) -> list[Table]:
    """Saving, breaks and what-ifs of the evalset's own prompts, called at a constant rate; one sentence without any."""
    if not (evalset.path / "prompts.toml").is_file():
        return [Table((Column("prompts"),), (), f"{evalset.name} has no prompts.toml, so no prompt cache was tried")]
    prompts = load_prompts(evalset)
    fullest = max(prompts.contexts, key=lambda name: prompts.contexts[name].documents)
    every = asked_of(evalset, models=prompts.models[:1])
    asked = [a for a in every if a.context == fullest and a.feature == a.query.feature]
    calls = prompt_log(asked, poisson_times(len(asked), CALLS_PER_MINUTE, seed=seed))
    vendors = load_vendors()
    return [f(calls, vendors) for f in (prompt_cache_table, prompt_break_table, prompt_what_if_table)]


def approximate_tokens(text: str) -> int:
    """Tokens at four bytes each: about right for English; a vendor's own tokenizer is not at hand offline."""
    return -(-len(text.encode()) // BYTES_PER_TOKEN)


def poisson_times(calls: int, per_minute: float, *, seed: int = 0) -> list[float]:
    """Seconds at which so many calls arrive, independently and at a constant rate."""
    gaps = np.random.default_rng(seed).exponential(60 / per_minute, calls)
    times: list[float] = gaps.cumsum().tolist()
    return times


def prompt_log(
    asked: Sequence[Asked],
    at: Sequence[float],
    *,
    scope: str | None = None,
    count_tokens: Callable[[str], int] = approximate_tokens,
    output_tokens: int = 40,
    started_ms: float = 500.0,
) -> tuple[CallRecord, ...]:
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
        call_of(
            each.request, count_tokens, at=when, tenant_id=each.query.tenant_id, feature=each.feature, scope=scope,
            output_tokens=output_tokens, started_ms=started_ms,
        )
        for each, when in zip(asked, at, strict=True)
    ]  # fmt: skip
    return mark_stable(calls)


def longer_prefix(calls: Sequence[CallRecord], tokens: int) -> tuple[CallRecord, ...]:
    """What if all calls began with the same ``tokens`` of tools and instructions, with a breakpoint behind them."""
    added = Segment("tools", content_hash("what if", str(tokens)), tokens, breakpoint=True)
    return tuple(replace(call, segments=(added, *call.segments)) for call in calls)


def _under(calls: Sequence[CallRecord], rules: VendorRules) -> pl.DataFrame:
    """Every call, as if it had gone to this model."""
    return simulate([replace(call, model=rules.model) for call in calls], {rules.model: rules})


def prompt_cache_table(calls: Sequence[CallRecord], vendors: Mapping[str, VendorRules]) -> Table:
    """Saving by feature under each vendor's rules, from 0 on where the cache is best effort; one row if none saves."""
    simulated = {rules: _under(calls, rules) for rules in vendors.values()}
    read = sum(int(found["read"].sum()) for found in simulated.values())
    rows: list[tuple[Value, ...]] = []
    for rules, found in simulated.items():
        each = found if read else found.with_columns(feature=pl.lit("all"))
        for row in savings(each, ["feature"]).iter_rows(named=True):
            n = row["calls"]
            rows.append((
                rules.model, rules.vendor, row["feature"], n, row["input"] / n, rules.min_tokens,
                row["read"] / max(row["input"], 1), 1000 * row["uncached_usd"] / n,
                1000 * row["saved_usd_low"] / n, 1000 * row["saved_usd_high"] / n,
            ))  # fmt: skip
    columns = (
        Column("model"), Column("rules of"), Column("feature"), Column("calls", "count"),
        Column("tokens a prompt", "number", digits=0), Column("kept from", "count"), Column("of input read", "share"),
        Column("USD per 1,000 uncached", "usd", digits=3), Column("saved at least", "usd", digits=3, signed=True),
        Column("at most", "usd", digits=3, signed=True),
    )  # fmt: skip
    return Table(columns, tuple(rows), _verdict(calls, vendors, read))


def _verdict(calls: Sequence[CallRecord], vendors: Mapping[str, VendorRules], read: int) -> str:
    """The first thing to know: whether what these prompts begin with is long enough to be kept at all."""
    shown = f"Prompt caches by vendor, {len(calls):,} calls"
    if read:
        return shown
    stable = max(sum(s.tokens for s in call.segments if s.kind != "message") for call in calls)
    least = min(rules.min_tokens for rules in vendors.values())
    sizes = f"Tools and system prompt have at most {stable:,} tokens; the least kept is {least:,}"
    return f"{shown}: nothing is saved. {sizes}"


def prompt_break_table(calls: Sequence[CallRecord], vendors: Mapping[str, VendorRules]) -> Table:
    """What breaks the prefix from call to call of a feature, and which models keep what stands before it."""
    found = breaks(_under(calls, next(iter(vendors.values()))))
    rows: list[tuple[Value, ...]] = []
    for row in found.iter_rows(named=True):
        keep = [r.model for r in vendors.values() if r.min_tokens <= row["stable_tokens"]]
        shown = ", ".join(keep) or "none"
        rows.append((row["feature"], row["broken_by"], row["calls"], row["variants"], row["stable_tokens"], shown))
    columns = (
        Column("feature"), Column("first difference"), Column("calls", "count"), Column("variants", "count"),
        Column("tokens before it (median)", "number", digits=0), Column("kept by"),
    )  # fmt: skip
    return Table(columns, tuple(rows), "What differs first from the call before it of the same feature and account")


def prompt_what_if_table(
    calls: Sequence[CallRecord], vendors: Mapping[str, VendorRules], *, longer: Sequence[int] = (1024, 4096)
) -> Table:
    """Dollars of 1,000 calls under each vendor's rules, at best where the cache is best effort.

    A longer beginning is for tools and instructions that are needed anyway: the row without a cache above it tells
    what it costs, and the first row what there is to pay without it.
    """
    cases = {"as they are": tuple(calls), "what changes goes last": volatile_last(calls)}
    cases |= {f"{tokens:,} tokens that never change in front": longer_prefix(calls, tokens) for tokens in longer}
    rows: list[tuple[Value, ...]] = []
    for name, case in cases.items():
        found = [_under(case, rules) for rules in vendors.values()]
        if name != "what changes goes last":
            rows.append((name, "none", *(1000 * float(f["uncached_usd"].sum()) / f.height for f in found)))
        rows.append((name, "usual", *(1000 * float(f["usd"].sum()) / f.height for f in found)))
        rows.append((name, "longer", *(_kept_longer(case, rules) for rules in vendors.values())))
    columns = (Column("prompts"), Column("kept"), *(Column(model, "usd", digits=3) for model in vendors))
    caption = "What if: USD per 1,000 calls, at best; 'longer' is the dearer write where there is one"
    return Table(columns, tuple(rows), caption)


def _kept_longer(calls: Sequence[CallRecord], rules: VendorRules) -> float | None:
    if rules.long_ttl_s is None:
        return None
    found = _under(with_ttl(calls, rules.long_ttl_s), rules)
    return 1000 * float(found["usd"].sum()) / found.height


def drift_table(alpha: float, delta: float = 0.05, *, streams: int = 1000, looks: int = 2000, seed: int = 0) -> Table:
    """How soon the watch finds a rate above alpha, and how seldom it errs at alpha; beside a test made for one look."""
    rates = [m * alpha for m in RATE_MULTIPLES if m * alpha < 1]
    trials = watch_trials(alpha, rates, delta=delta, streams=streams, looks=looks, seed=seed)
    rows = tuple(
        ("holds" if t.rate <= alpha else "drifted", t.rate, t.alarmed, t.median if t.rate > alpha else None, t.naive)
        for t in trials
    )
    columns = (
        Column("the claim"), Column("true false-hit rate", "number", digits=4), Column("alarm", "share", digits=1),
        Column("labelled hits until then (median)", "count"),
        Column("alarm of a one-look test, made every time", "share", digits=1),
    )  # fmt: skip
    caption = (
        f"Watching alpha {alpha:g} at delta {delta:g}: {streams:,} streams, looked at after each of {looks:,} labels"
    )
    return Table(columns, rows, caption)


def watch_table(watch: DriftWatch) -> Table:
    """Where a watch stands."""
    measured = watch.false / watch.labelled if watch.labelled else None
    stands = f"drift, at label {watch.alarm_at}" if watch.alarm_at else "no drift shown"
    columns = (
        Column("labelled hits", "count"), Column("false", "count"), Column("rate", "number", digits=4),
        Column("alpha", "number", digits=4), Column("capital", "number", digits=2),
        Column("alarm at", "number", digits=0), Column("finding"),
    )  # fmt: skip
    row = (watch.labelled, watch.false, measured, watch.alpha, watch.capital, 1 / watch.delta, stands)
    return Table(columns, (row,), "Drift watch on labelled live hits")
