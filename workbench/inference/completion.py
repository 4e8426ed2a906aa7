"""What a call of the client gives: the answer, where it came from and what it cost."""

from dataclasses import dataclass

from workbench.inference.cache_protocol import CacheHit, Route
from workbench.inference.messages import Response, Usage


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer with what it cost and where it came from.

    Attributes
    ----------
    source : str
        "model", "recording" or "cache".
    cost_nanos, saved_nanos : int
        1e-9 USD: charged over all attempts; and what an answer from the cache would have cost.
    attempts : int
        Requests that went to a provider.
    route : Route
        Model and configuration, and why where a router chose them.
    """

    response: Response
    call_id: str
    trace_id: str
    source: str
    route: Route
    cost_nanos: int = 0
    attempts: int = 0
    hit: CacheHit | None = None

    @property
    def text(self) -> str:
        """Text of the answer."""
        return self.response.text

    @property
    def usage(self) -> Usage | None:
        """Tokens of the answer, None where nobody counted."""
        return self.response.usage

    @property
    def cost_usd(self) -> float:
        """Dollars charged."""
        return self.cost_nanos / 1e9

    @property
    def saved_nanos(self) -> int:
        """What this answer would have cost, had it not been in the cache; 1e-9 USD."""
        return self.hit.saved_nanos if self.hit else 0
