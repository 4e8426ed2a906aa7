"""Values that cross layers: what is searched, what is asked, what is found, what was decided.

All are frozen; those that are written to disk are read back by their own ``from_json``.
"""

import datetime as dt
import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Self

from workbench.errors import ConfigError

Verdict = Literal["chosen", "keep_reference", "none_meets_floor", "inconclusive", "provisional"]
GateStatus = Literal["holds", "identical", "broken", "inconclusive", "stale", "error"]
DEFAULT_TENANT = "default"


def content_hash(*parts: str | bytes) -> str:
    """sha256 (hex) of the parts, each prefixed by its length so that no two lists of parts collide."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode(errors="surrogatepass") if isinstance(part, str) else part
        digest.update(f"{len(data)}:".encode() + data)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Document:
    """One thing that can be found; ``doc_id`` is what judgements refer to."""

    doc_id: str
    text: str
    title: str = ""
    tenant_id: str = DEFAULT_TENANT
    document_type: str = "document"
    date: dt.date | None = None
    aliases: tuple[str, ...] = ()

    @property
    def full_text(self) -> str:
        """Title and text, as they are indexed."""
        return f"{self.title}\n{self.text}" if self.title else self.text

    @property
    def content_hash(self) -> str:
        """Hash of everything that an index row is made from."""
        return content_hash(self.title, self.text, self.tenant_id, self.document_type, str(self.date or ""))


@dataclass(frozen=True, slots=True)
class Query:
    """One question of one tenant; ``cluster`` names its family, the unit that is resampled."""

    query_id: str
    text: str
    tenant_id: str = DEFAULT_TENANT
    cluster: str = ""
    feature: str = ""
    style: str = ""
    accept: tuple[str, ...] = ()
    reference: str = ""


@dataclass(frozen=True, slots=True)
class Hit:
    """One document found; hits stand in rank order, ``score`` is higher for closer."""

    doc_id: str
    score: float


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a result rests on: ``inputs`` decide whether it is stale, ``provenance`` is only shown."""

    inputs: dict[str, str] = field(default_factory=dict)
    provenance: dict[str, str] = field(default_factory=dict)

    def changed(self, other: Self) -> list[str]:
        """Names of the inputs that differ, sorted."""
        names = self.inputs.keys() | other.inputs.keys()
        return sorted(n for n in names if self.inputs.get(n) != other.inputs.get(n))


@dataclass(frozen=True, slots=True)
class Rule:
    """How a decision is made; fixed before the test split is looked at.

    ``margin`` and ``floor`` are in units of the metric; ``confidence`` is that of the one-sided bounds;
    ``latency_limit_ms`` is for the 95th percentile, None for no limit. ``direction`` is where the metric is better:
    of a rate of wrong answers, where it is lower, the margin is alpha (a reference that serves none has rate 0).
    """

    metric: str
    objective: str
    reference: str
    margin: float
    confidence: float
    floor: float | None = None
    latency_limit_ms: float | None = None
    direction: Literal["higher", "lower"] = "higher"

    @property
    def limit(self) -> float:
        """Difference from the reference that an arm must not cross to the worse side."""
        return self.margin if self.direction == "lower" else -self.margin

    @property
    def limit_name(self) -> str:
        """What the margin is called where it limits a rate."""
        return "alpha" if self.direction == "lower" else "margin"


@dataclass(frozen=True, slots=True)
class Claim:
    """One arm on the test split: its estimate, and the paired difference from the reference with its bounds.

    ``low`` and ``high`` are simultaneous one-sided bounds of ``difference`` at the rule's confidence;
    ``status`` is the gate's word for "not worse than the reference by more than the margin". ``spread`` is the
    lowest and highest estimate over rebuilds of an index that is built at random, None for other arms.
    """

    arm: str
    parameters: dict[str, Any]
    status: GateStatus
    estimate: float
    estimate_low: float
    estimate_high: float
    difference: float
    low: float
    high: float
    cost_usd_per_1k: float
    latency_p95_ms: float | None
    coverage: float
    n_items: int
    n_clusters: int
    n_clusters_differ: int
    items_needed: int | None = None
    spread: tuple[float, float] | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided, by which rule, on which evidence; ``decision.json``, committed once accepted.

    ``parameters`` build the chosen arm again, ``settings`` are those of the notebook's run.
    """

    notebook: str
    question: str
    profile: str
    rule: Rule
    verdict: Verdict
    arm: str
    parameters: dict[str, Any]
    sentence: str
    claims: tuple[Claim, ...]
    n_items: int
    n_clusters: int
    items_needed: int | None
    test_uses: int
    fingerprint: Fingerprint
    settings: dict[str, Any] = field(default_factory=dict)
    synthetic: bool = False
    accepted_because: str = ""
    accepted_on: str = ""

    def claim(self, arm: str) -> Claim:
        """Claim of one arm.

        Raises
        ------
        KeyError
            If the decision has no such arm.
        """
        found = next((c for c in self.claims if c.arm == arm), None)
        if found is None:
            raise KeyError(f"no arm {arm!r} in the decision; it has {', '.join(self.arms)}")
        return found

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the arms that were judged on the test split."""
        return tuple(c.arm for c in self.claims)

    def to_json(self) -> str:
        """Pretty JSON, stable in key order, so that a changed decision reads well in a diff."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str = "decision") -> Self:
        """Read a decision; unknown or missing fields are errors, never defaults.

        Raises
        ------
        ConfigError
            If the text is no JSON object or its fields are not those of a decision.
        """
        try:
            raw = json.loads(text)
            raw["rule"] = Rule(**raw["rule"])
            raw["claims"] = tuple(_claim(claim) for claim in raw["claims"])
            raw["fingerprint"] = Fingerprint(**raw["fingerprint"])
            return cls(**raw)
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ConfigError(f"{source} is not a decision this version reads: {error}") from error

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a decision file."""
        return cls.from_json(path.read_text(encoding="utf-8"), str(path))

    @classmethod
    def accepted(cls, evalset: Path, notebook: str) -> Self:
        """Accepted decision of a notebook, in the folder of an evalset.

        Raises
        ------
        ConfigError
            If there is none.
        """
        path = evalset / "decisions" / f"{notebook}.json"
        if not path.is_file():
            raise ConfigError(
                f"no {notebook} decision is accepted for {evalset.name!r} ({path}); run and accept one first"
            )
        return cls.load(path)


def _claim(raw: dict[str, Any]) -> Claim:
    spread = raw.pop("spread")
    return Claim(**raw, spread=tuple(spread) if spread else None)


class ShortRepr:
    """Prints a dataclass (with ``repr=False``) by the fields that differ from their defaults: it builds it again.

    >>> @dataclass(repr=False)
    ... class Graph(ShortRepr):
    ...     m: int = 20
    >>> Graph(), Graph(m=8)
    (Graph(), Graph(m=8))
    """

    __slots__ = ()

    def __repr__(self) -> str:
        shown = []
        for f in fields(self):  # type: ignore[arg-type]
            item = getattr(self, f.name)
            if f.default is MISSING:
                shown.append(repr(item))
            elif item != f.default:
                shown.append(f"{f.name}={item!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


def parameters_of(value: Any) -> dict[str, Any]:
    """Fields of a frozen value as plain JSON types, with the name of its class: enough to build it again."""
    return {"kind": type(value).__name__} | {f.name: _plain(getattr(value, f.name)) for f in fields(value)}


def _plain(item: Any) -> Any:
    if is_dataclass(item):
        return parameters_of(item)
    if isinstance(item, tuple | list):
        return [_plain(i) for i in item]
    if isinstance(item, Mapping):
        return {str(k): _plain(v) for k, v in item.items()}
    return item.isoformat() if isinstance(item, dt.date) else item
