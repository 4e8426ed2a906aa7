"""What the client asks of a cache and of a router; `workbench.caching` and `workbench.routing` answer it."""

from dataclasses import dataclass
from typing import Protocol

from workbench.inference.messages import Request, Response
from workbench.telemetry.context import Attribution

PREFIX = "router/"


@dataclass(frozen=True, slots=True)
class Route:
    """A model to ask, with a configuration of the prompt where the decision is about those too."""

    model: str
    configuration: str = ""
    arm: str = ""
    reason: str = ""


class Routes(Protocol):
    """An accepted routing decision, as the client asks it; ``models`` may name a configuration behind an @."""

    @property
    def name(self) -> str:
        """Name behind ``router/``."""

    @property
    def models(self) -> tuple[str, ...]:
        """Arms, cheapest first."""

    @property
    def cascade(self) -> bool:
        """Whether the first arm is always asked, and the others by how sure it was."""

    @property
    def first(self) -> Route:
        """The cheapest arm."""

    def pick(self, text: str, feature: str, *, confidence: float | None = None) -> Route:
        """Choose for one request; ``confidence`` is that of the first arm's answer, in [0, 1]."""


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
        What the user wants, in their own words, as they stand in the last message; None to take all of the only user
        message. Nothing else is embedded.
    prompt_version : str
        Version of what the last message says around the intent: a template, an instruction. Without it the semantic
        cache is not asked where there is something around it.
    sources : tuple of str
        Documents that the answer cites: a change of one drops the entry.
    configuration : str
        Configuration of the prompt that a router chose; the client says it.
    """

    visibility: str = "user"
    corpus_version: str = ""
    locale: str = ""
    intent: str | None = None
    prompt_version: str = ""
    sources: tuple[str, ...] = ()
    configuration: str = ""


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

    def moment(self) -> int:
        """Count of the invalidations so far: taken before `find`, it tells `keep` what the answer may rest on."""

    def find(self, request: Request, who: Attribution, use: CacheUse) -> CacheHit | None:
        """Cached answer for this request of this caller, None where anything is doubtful."""

    def keep(
        self, request: Request, response: Response, who: Attribution, use: CacheUse, *, cost_nanos: int, since: int
    ) -> None:
        """Keep an answer that was paid for, unless a document that it cites was invalidated ``since`` that moment."""
