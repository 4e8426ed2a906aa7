"""Vendors' prompt caches: their dated rules, and what they would save on a log of calls.

A vendor keeps prefixes of prompts for some minutes and charges less for reading than for computing them. A call reads
the longest prefix that is kept; one can be read from the moment on when the answer of the call that wrote it began,
so that calls sent at once each write their own. Every use begins the time that a prefix is kept anew, for all
prefixes within the one that is read; after a call all that it wanted kept is kept.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import polars as pl

from workbench.caching.prompt_calls import PromptCallRecord, Segment
from workbench.codec import from_plain, from_toml
from workbench.errors import ConfigError, unknown_name
from workbench.records import content_hash
from workbench.rendering.numbers import counted

Matching = Literal["breakpoints", "newest", "prefix"]


@dataclass(frozen=True, slots=True)
class PromptTokenSplit:
    """Input tokens of one call by what is paid for them; ``write_long`` is the part of ``write`` kept longer."""

    read: int
    write: int
    fresh: int
    write_long: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptCacheRules:
    """How one model's prompt cache works.

    Attributes
    ----------
    matching : str
        Where prefixes are kept and found: at ``breakpoints`` that the caller marks; at the end of the ``newest``
        message too; or at any common ``prefix``, seen here at the ends of segments: a lower bound inside one.
    min_tokens, step_tokens : int
        Shorter prefixes are not kept, without a word; longer ones are read in whole steps from the minimum on.
    ttl_s, long_ttl_s, max_age_s : int
        Seconds that a prefix is kept after its last use, the longer choice, and the most after its writing.
    read_ratio, write_ratio, long_write_ratio : float
        Prices over the input price; ``write_ratio`` None where writing is free and not reported.
    lookback : int or None
        Segments up to a breakpoint, it included, at whose ends an earlier write is found.
    promised : bool
        Whether the vendor says what is kept; else the cache is best effort and may save nothing.
    """

    model: str
    vendor: str
    matching: Matching
    min_tokens: int
    ttl_s: int
    read_ratio: float
    promised: bool
    input_usd_per_mtok: float
    output_usd_per_mtok: float
    source: str
    read_on: date
    step_tokens: int = 1
    long_ttl_s: int | None = None
    max_age_s: int | None = None
    write_ratio: float | None = None
    long_write_ratio: float | None = None
    max_breakpoints: int = 4
    lookback: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.read_ratio <= 1 or min(self.min_tokens, self.step_tokens, self.ttl_s) < 1:
            raise ConfigError(f"{self.model}: read_ratio must be in [0, 1]; tokens and seconds at least 1")

    def kept(self, segments: Sequence[Segment]) -> dict[int, int]:
        """Places at whose end the prefix is kept, with the seconds for which it is.

        Raises
        ------
        ConfigError
            If the vendor would refuse these breakpoints: too many, an unknown lifetime, a long one after a short.
        """
        if self.matching == "prefix":
            return dict.fromkeys(range(len(segments)), self.ttl_s)
        marked = [i for i, s in enumerate(segments) if s.breakpoint]
        if self.matching == "newest":  # the latest ones are kept, of more the vendor says nothing
            newest = max((i for i, s in enumerate(segments) if s.kind == "message"), default=len(segments) - 1)
            marked = sorted({*marked[1 - self.max_breakpoints :], newest})
        elif len(marked) > self.max_breakpoints:
            found = f"{counted(len(marked), 'breakpoint')}, {self.model} takes at most {self.max_breakpoints}"
            raise ConfigError(f"a call of the log has {found}; correct the log, the vendor refuses such a call")
        lifetimes = {i: self._lifetime(segments[i]) for i in marked}
        ordered = list(lifetimes.values())
        if ordered != sorted(ordered, reverse=True):
            raise ConfigError(f"a call of the log keeps a prefix longer than one before it: {self.model} refuses that")
        return lifetimes

    def _lifetime(self, segment: Segment) -> int:
        if segment.ttl_s in (None, self.ttl_s):
            return self.ttl_s
        if segment.ttl_s == self.long_ttl_s:
            return segment.ttl_s
        known = ", ".join(str(t) for t in (self.ttl_s, self.long_ttl_s) if t)
        raise ConfigError(f"{self.model} cannot keep a prefix for {segment.ttl_s} s; it has {known}")

    def readable(self, tokens: int) -> int:
        """How many tokens of a common prefix are read: whole steps, none below the minimum."""
        steps = (tokens - self.min_tokens) // self.step_tokens
        return self.min_tokens + steps * self.step_tokens if steps >= 0 else 0

    def cost_usd(self, split: PromptTokenSplit, output_tokens: int) -> float:
        """Dollars of one call.

        >>> round(load_prompt_cache_rules()["claude-sonnet-4-6"].cost_usd(PromptTokenSplit(600, 300, 100), 10), 9)
        0.001755
        """
        write = split.write * (1.0 if self.write_ratio is None else self.write_ratio)
        if self.long_write_ratio is not None and self.write_ratio is not None:
            write += split.write_long * (self.long_write_ratio - self.write_ratio)
        paid = split.fresh + split.read * self.read_ratio + write
        return (paid * self.input_usd_per_mtok + output_tokens * self.output_usd_per_mtok) / 1e6


@dataclass(frozen=True, slots=True)
class _PromptCacheVendors:
    """What a table of rules holds."""

    models: Mapping[str, dict[str, Any]]
    version: str = ""


def load_prompt_cache_rules(path: Path | None = None) -> Mapping[str, PromptCacheRules]:
    """Rules by model, of the package or of a file of the same form.

    Raises
    ------
    ConfigError
        If the file is no table of rules.
    """
    file, what = path or Path(__file__).with_name("vendors.toml"), "is no table of prompt-cache rules"
    rows = from_toml(_PromptCacheVendors, file, what).models
    return from_plain(dict[str, PromptCacheRules], {m: {"model": m} | row for m, row in rows.items()}, f"{file} {what}")


@dataclass(slots=True)
class _PromptCopy:
    """One written prefix."""

    readable_at: float
    written_at: float
    used_at: float
    ttl_s: int


class _PromptCache:
    """What one vendor keeps for one scope and model."""

    def __init__(self, rules: PromptCacheRules) -> None:
        self.rules = rules
        self._copies: dict[str, list[_PromptCopy]] = defaultdict(list)

    def take(self, call: PromptCallRecord) -> PromptTokenSplit:
        """Bill one call; calls come in the order of time."""
        rules, segments = self.rules, call.segments
        kept = rules.kept(segments)
        sizes = list(accumulate(s.tokens for s in segments))
        keys = list(accumulate((s.kind + s.sha256 for s in segments), content_hash, initial=""))[1:]
        live = [self._live(key, call.at) for key in keys]
        found = max((i for i in _reachable_breakpoints(rules, kept) if live[i]), default=-1)
        for copies in live[: found + 1]:
            for copy in copies:
                copy.used_at = call.at
        ends = {i: ttl_s for i, ttl_s in kept.items() if sizes[i] >= rules.min_tokens}
        for i, ttl_s in ends.items():
            if not live[i]:
                started = call.at + call.started_ms / 1000
                self._copies[keys[i]].append(_PromptCopy(started, call.at, call.at, ttl_s))
        read = rules.readable(sizes[found]) if found >= 0 else 0
        if rules.write_ratio is None:
            return PromptTokenSplit(read, 0, sizes[-1] - read)
        write = max(max((sizes[i] for i in ends), default=0) - read, 0)
        long = [sizes[i] for i, ttl_s in ends.items() if ttl_s == rules.long_ttl_s]
        return PromptTokenSplit(read, write, sizes[-1] - read - write, max(max(long, default=0) - read, 0))

    def _live(self, key: str, now: float) -> list[_PromptCopy]:
        """Copies that can be read now; those whose time is over are forgotten."""
        if key not in self._copies:
            return []
        oldest = now - (self.rules.max_age_s or float("inf"))
        copies = [c for c in self._copies[key] if now <= c.used_at + c.ttl_s and c.written_at >= oldest]
        self._copies[key] = copies
        return [c for c in copies if c.readable_at <= now]


def _reachable_breakpoints(rules: PromptCacheRules, kept: Mapping[int, int]) -> set[int]:
    """Places at whose end an earlier write can be found."""
    if rules.lookback is None:
        return set(range(max(kept, default=-1) + 1))
    return {i for place in kept for i in range(max(0, place - rules.lookback + 1), place + 1)}


def simulate_prompt_cache(calls: Sequence[PromptCallRecord], rules: Mapping[str, PromptCacheRules]) -> pl.DataFrame:
    """One row per call, in the order of time: tokens read, written and fresh, dollars, and what broke the prefix.

    Parameters
    ----------
    rules : mapping of model to VendorRules
        For every model of the log.

    Returns
    -------
    DataFrame
        ``read + write + fresh`` is the whole input. ``usd`` is the price with the cache as simulated, ``uncached_usd``
        that without one. ``saved_usd_low`` and ``saved_usd_high`` enclose what is saved: equal where the vendor says
        what is kept; from 0 on where the cache is best effort. ``stable_tokens`` are those that the call shares with
        the one before it of the same scope, model and feature; ``broken_by`` and ``broken_sha256`` name the first
        segment that differs, by kind, place and hash; both are empty where one call continues the other.

    Raises
    ------
    ConfigError
        If a model has no rules: never taken for free. If the vendor would refuse a call.
    """
    caches: dict[tuple[str, str], _PromptCache] = {}
    before: dict[tuple[str, str, str], tuple[Segment, ...]] = {}
    rows = []
    for call in sorted(calls, key=lambda c: c.at):
        if (of_model := rules.get(call.model)) is None:
            raise ConfigError(f"{unknown_name('model', call.model, list(rules))}. Add its prompt-cache rules")
        split = caches.setdefault((call.scope, call.model), _PromptCache(of_model)).take(call)
        group = (call.scope, call.model, call.feature)
        rows.append(_prompt_cache_row(call, of_model, split, before.get(group)))
        before[group] = call.segments
    return pl.DataFrame(rows, schema=_SCHEMA, orient="row")


_SCHEMA = {
    "at": pl.Float64, "scope": pl.String, "tenant_id": pl.String, "feature": pl.String, "model": pl.String,
    "input": pl.Int64, "read": pl.Int64, "write": pl.Int64, "fresh": pl.Int64, "output": pl.Int64,
    "uncached_usd": pl.Float64, "usd": pl.Float64, "saved_usd_low": pl.Float64, "saved_usd_high": pl.Float64,
    "stable_tokens": pl.Int64, "broken_by": pl.String, "broken_sha256": pl.String,
    "billed_read": pl.Int64, "billed_write": pl.Int64, "billed_usd": pl.Float64,
}  # fmt: skip


def _prompt_cache_row(
    call: PromptCallRecord, rules: PromptCacheRules, split: PromptTokenSplit, before: tuple[Segment, ...] | None
) -> tuple[str | float | int | None, ...]:
    size, out = call.input_tokens, call.output_tokens
    uncached, usd = rules.cost_usd(PromptTokenSplit(0, 0, size), out), rules.cost_usd(split, out)
    low = uncached - usd if rules.promised else min(0.0, uncached - usd)
    broken = None if before is None else _first_prefix_break(before, call.segments)
    stable = None if before is None else sum(s.tokens for s, _ in _common_segments(before, call.segments))
    billed = None
    if call.billed_read is not None:
        written = call.billed_write or 0
        rest = size - call.billed_read - written
        billed = rules.cost_usd(PromptTokenSplit(call.billed_read, written, rest, call.billed_write_long), out)
    return (
        call.at, call.scope, call.tenant_id, call.feature, call.model, size, split.read, split.write, split.fresh, out,
        uncached, usd, low, uncached - usd, stable, *(broken or (None, None)), call.billed_read, call.billed_write,
        billed,
    )  # fmt: skip


def _common_segments(before: Sequence[Segment], after: Sequence[Segment]) -> Iterator[tuple[Segment, Segment]]:
    for pair in zip(before, after, strict=False):
        if (pair[0].kind, pair[0].sha256) != (pair[1].kind, pair[1].sha256):
            return
        yield pair


def _first_prefix_break(before: Sequence[Segment], after: Sequence[Segment]) -> tuple[str, str] | None:
    """Name and hash of the first segment that differs; None where one prompt continues the other."""
    place = len(list(_common_segments(before, after)))
    if place in (len(before), len(after)):
        return None
    number = sum(s.kind == after[place].kind for s in after[: place + 1])
    return f"{after[place].kind} {number}", after[place].sha256


def prompt_cache_savings(frame: pl.DataFrame) -> pl.DataFrame:
    """Tokens and dollars of `simulate_prompt_cache`'s rows by feature."""
    sums = ("input", "read", "write", "fresh", "uncached_usd", "usd", "saved_usd_low", "saved_usd_high")
    return frame.group_by("feature").agg(pl.len().alias("calls"), pl.col(*sums).sum()).sort("feature")


def prefix_breaks(frame: pl.DataFrame) -> pl.DataFrame:
    """Which segment broke the prefix how often between consecutive calls, and how many tokens stood before it."""
    return (
        frame.filter(pl.col("broken_by").is_not_null())
        .group_by("feature", "broken_by")
        .agg(
            pl.len().alias("calls"),
            pl.col("broken_sha256").n_unique().alias("variants"),
            pl.col("stable_tokens").median().alias("stable_tokens"),
        )
        .sort("feature", "calls", "broken_by", descending=[False, True, False])
    )
