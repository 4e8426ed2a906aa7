"""Rules of vendors' prompt caches, as dated values: what is kept, how long, from which size on, and at which price."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal

from workbench.caching.calls import Segment
from workbench.errors import ConfigError

Matching = Literal["breakpoints", "newest", "prefix"]
MATCHINGS = ("breakpoints", "newest", "prefix")


@dataclass(frozen=True, slots=True)
class Split:
    """Input tokens of one call by what is paid for them; ``write_long`` is the part of ``write`` kept longer."""

    read: int
    write: int
    fresh: int
    write_long: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class VendorRules:
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
        if self.matching not in MATCHINGS:
            raise ConfigError(f"{self.model}: matching {self.matching!r} is none of {', '.join(MATCHINGS)}")
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
            found = f"{len(marked)} breakpoints, {self.model} takes at most {self.max_breakpoints}"
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

    def cost_usd(self, split: Split, output_tokens: int) -> float:
        """Dollars of one call.

        >>> round(load_vendors()["claude-sonnet-4-6"].cost_usd(Split(600, 300, 100), 10), 9)
        0.001755
        """
        write = split.write * (1.0 if self.write_ratio is None else self.write_ratio)
        if self.long_write_ratio is not None and self.write_ratio is not None:
            write += split.write_long * (self.long_write_ratio - self.write_ratio)
        paid = split.fresh + split.read * self.read_ratio + write
        return (paid * self.input_usd_per_mtok + output_tokens * self.output_usd_per_mtok) / 1e6


def load_vendors(path: Path | None = None) -> Mapping[str, VendorRules]:
    """Rules by model, of the package or of a file of the same form.

    Raises
    ------
    ConfigError
        If the file is no table of rules.
    """
    file = path or Path(__file__).with_name("vendors.toml")
    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8"))
        return {model: VendorRules(model=model, **row) for model, row in raw["models"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{file} is no table of prompt-cache rules: {error!r}") from error
