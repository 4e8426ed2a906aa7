"""What the client asks of a cache; `workbench.caching` answers it."""

from dataclasses import dataclass
from typing import Protocol

from workbench.inference.messages import Request, Response
from workbench.telemetry.context import Attribution


@dataclass(frozen=True, slots=True)
class CacheUse:
    """What a caller says about an answer, so that it can be kept and served again.

    Attributes
    ----------
    visibility : str
        Who may be served this answer: "user" for this user alone, "tenant" for everyone of the tenant, otherwise the
        name of a permission set, compared exactly.
    corpus_version : str
        Version of corpus and index that the answer rests on.
    intent : str or None
        What the user wants, in their own words; None to take the only user message. Nothing else is embedded.
    sources : tuple of str
        Documents that the answer cites: a change of one drops the entry.
    """

    visibility: str = "user"
    corpus_version: str = ""
    locale: str = ""
    intent: str | None = None
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CacheHit:
    """An answer from a cache, with everything needed to see why it was served."""

    response: Response
    kind: str
    similarity: float
    threshold: float
    entry_id: str
    scope: str
    saved_nanos: int


class Cache(Protocol):
    """A response cache or a semantic cache."""

    def find(self, request: Request, who: Attribution, use: CacheUse) -> CacheHit | None:
        """Cached answer for this request of this caller, None where anything is doubtful."""

    def keep(self, request: Request, response: Response, who: Attribution, use: CacheUse, *, cost_nanos: int) -> None:
        """Keep an answer that was paid for."""
