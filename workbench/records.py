"""Values that cross layers: what is searched, what is asked, what is found, what was decided.

All are frozen; `workbench.codec` writes them to disk and reads them back.
"""

import datetime as dt
import hashlib
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self

from workbench.codec import from_json, from_plain, shown, to_json, to_plain
from workbench.errors import ConfigError

Verdict = Literal["chosen", "upgrade", "keep_reference", "none_meets_floor", "inconclusive", "provisional"]
GateStatus = Literal["holds", "identical", "broken", "inconclusive", "stale", "new", "not tested", "error"]
DEFAULT_TENANT = "default"


def content_hash(*parts: str | bytes) -> str:
    """sha256 (hex) of the parts, each prefixed by its length so that no two lists of parts collide."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode(errors="surrogatepass") if isinstance(part, str) else part
        digest.update(f"{len(data)}:".encode() + data)
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """sha256 (hex) of a file's bytes, as ``sha256sum`` prints it; `content_hash` of them is another."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_field_types(value: "Document | Query", name: object) -> None:
    """Refuse what would come to light far from whoever gave it, or never: text in place of names is its letters."""
    for told in fields(value):
        given = getattr(value, told.name)
        if told.type == tuple[str, ...]:
            expected = "a list of texts"
            if fits := isinstance(given, tuple | list) and all(isinstance(each, str) for each in given):
                object.__setattr__(value, told.name, tuple(given))
        elif told.type is str:
            expected, fits = "text", isinstance(given, str)
        else:
            expected, fits = "a date or None", given is None or type(given) is dt.date
        if not fits:
            raise ConfigError(
                f"{told.name} of {type(value).__name__} {shown(name)} must be {expected}, found {shown(given)}"
            )


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

    def __post_init__(self) -> None:
        """Refuse a field of another type, a missing value of a table among them.

        A list becomes a tuple, and a moment its day, as of a pandas ``Timestamp``.

        Raises
        ------
        ConfigError
            If a field is not what its type says.
        """
        if isinstance(self.date, dt.datetime) and self.date == self.date:  # NaT is not
            object.__setattr__(self, "date", self.date.date())
        _check_field_types(self, self.doc_id)

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

    def __post_init__(self) -> None:
        """Refuse a field of another type, a missing value of a table among them; a list becomes a tuple.

        Raises
        ------
        ConfigError
            If a field is not what its type says.
        """
        _check_field_types(self, self.query_id)


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

    Attributes
    ----------
    reference : str
        The arm in use: the accepted one, or the one that was named; "" where there is none yet.
    margin, floor : float
        In units of the metric.
    confidence : float
        Of the one-sided bounds, over all uses of the test split together.
    latency_limit_ms : float or None
        Limit of the 95th percentile.
    direction : {"higher", "lower"}
        Where the metric is better. Of a rate of wrong answers, where it is lower, the margin is alpha (a reference
        that serves none has rate 0).
    anchor : str
        The arm that was accepted first: no later one may lie more than the margin below it. "" where there is none.
    requests_per_month : int
        Volume at which money is told.
    least_saving_usd, least_saving_share : float
        Two arms cost the same unless they differ by both: so many dollars a month, and this share of the dearer one.
    point_usd : float or None
        Dollars a month that a hundredth of the metric is worth, None where nobody has said so.
    max_usd_per_1k : float or None
        What an arm may cost per 1,000 requests where none is in use yet.
    use : int
        How many different sets of arms have been judged on this test split, this one included.
    """

    metric: str
    objective: str
    reference: str
    margin: float
    confidence: float
    floor: float | None = None
    latency_limit_ms: float | None = None
    direction: Literal["higher", "lower"] = "higher"
    anchor: str = ""
    requests_per_month: int = 100_000
    least_saving_usd: float = 10.0
    least_saving_share: float = 0.05
    point_usd: float | None = None
    max_usd_per_1k: float | None = None
    use: int = 1

    @property
    def limit(self) -> float:
        """Difference that an arm must not cross to the worse side."""
        return self.margin if self.direction == "lower" else -self.margin

    @property
    def limit_name(self) -> str:
        """What the margin is called where it limits a rate."""
        return "alpha" if self.direction == "lower" else "margin"

    def monthly_usd(self, cost_usd_per_1k: float) -> float:
        """Dollars a month at the rule's volume."""
        return cost_usd_per_1k * self.requests_per_month / 1000

    def counts(self, cheap: float, dear: float) -> bool:
        """Whether the second cost (dollars per 1,000 requests) exceeds the first by a difference that counts.

        >>> rule = Rule("ndcg@10", "usd_per_1k_requests", "", 0.05, 0.95)
        >>> rule.counts(0.0002, 0.0004), rule.counts(1.0, 1.2), rule.counts(100.0, 100.2)
        (False, True, False)
        """
        saved = self.monthly_usd(dear - cheap)
        return saved > 0 and saved >= self.least_saving_usd and dear - cheap >= self.least_saving_share * dear


@dataclass(frozen=True, slots=True)
class PairedBounds:
    """A claim's arm against one other arm, on the same test items: difference, bounds, and status of the margin.

    ``low`` holds at once for all arms against this other one, ``high`` at once for all others against this arm.
    ``unseen`` is how far this arm may lie below the other although both score the same on every test item (the exact
    bound of no cluster that is worse); 0 where they differ, and in a file from before it was told.
    """

    other: str
    difference: float
    low: float
    high: float
    n_clusters_differ: int
    status: GateStatus
    unseen: float = 0.0

    def shown(self, margin: float) -> GateStatus:
        """What is shown of "at most ``margin`` below": the same scores on few items show less than the margin asks."""
        return "inconclusive" if self.status == "identical" and self.unseen > margin else self.status

    @property
    def better(self) -> bool:
        """Whether the arm is shown to be better than the other."""
        return self.status == "holds" and self.low > 0


@dataclass(frozen=True, slots=True)
class FlipPoint:
    """Until which value of one figure a decision stands, all else being as it was.

    Attributes
    ----------
    figure, unit : str
        Such as "margin" in "ndcg@10", or "price of MODEL" in "times today's".
    now : float or None
        The value that the decision was made at; None for a limit that is not set.
    stands : tuple of (float or None, float or None)
        Every interval in which the rule gives the same verdict and arm, both ends included; None is no end.
    below, above : str
        What the rule gives next to the interval around ``now``; "" where there is no end.
    """

    figure: str
    unit: str
    now: float | None
    stands: tuple[tuple[float | None, float | None], ...]
    below: str = ""
    above: str = ""

    def holds_at(self, value: float) -> bool:
        """Whether the decision stands at this value.

        >>> FlipPoint("margin", "", 0.03, ((0.02, None),), "inconclusive: a").holds_at(0.01)
        False
        """
        return any((low is None or low <= value) and (high is None or value <= high) for low, high in self.stands)

    @property
    def around(self) -> tuple[float | None, float | None]:
        """The interval that ``now`` lies in."""
        now = float("inf") if self.now is None else self.now
        mine = (s for s in self.stands if (s[0] is None or s[0] <= now) and (s[1] is None or now <= s[1]))
        return next(mine, (self.now, self.now))


@dataclass(frozen=True, slots=True)
class Claim:
    """One arm on the test split: its estimate, and how far it may lie below the best arm for the money.

    Attributes
    ----------
    status : GateStatus
        The gate's word for "at most the margin below the best of the arms tested that cost no more".
    estimate, estimate_low, estimate_high : float
        Mean with its two-sided 95 % interval.
    best : str
        The other arm that ``difference`` is from: of those that cost no more, the one that stands best against this
        one. "" for an arm that stands alone.
    difference, low, high : float
        Paired difference from the best other arm, with one-sided bounds at the rule's confidence.
    items_needed : tuple or None
        Fewest and most further items for 80 % power where the claim is open; the most is None where it has no end.
    spread : tuple of float or None
        Mean and standard deviation of the estimate over at least 8 rebuilds of the arm's index, where rebuilds differ.
        None where they do not, and where none were made: then the scores must be the same, item by item.
    pairs : tuple of PairedBounds
        The arm against every other one tested.
    amounts : dict of str to float
        What 1,000 requests use of each thing that has a price, such as tokens of a model; empty where not counted.
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
    items_needed: tuple[int, int | None] | None = None
    spread: tuple[float, float] | None = None
    note: str = ""
    best: str = ""
    pairs: tuple[PairedBounds, ...] = ()
    amounts: dict[str, float] = field(default_factory=dict)

    def against(self, other: str) -> PairedBounds | None:
        """Compare with another arm; None where the two were not compared."""
        return next((p for p in self.pairs if p.other == other), None)


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided, by which rule, on which evidence; ``decision.json``, committed once accepted.

    ``parameters`` build the chosen arm again, ``settings`` are those of the notebook's run. ``notes`` are what is told
    beside the verdict. ``chosen_share`` says how often each arm would be chosen if other questions of the same kind
    had been asked (200 resamples of question families): it informs, and is no confidence. ``rates`` are the prices of
    what the claims' amounts count, and ``flips`` say until when the decision stands; None in a file from before these
    were computed.
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
    items_needed: tuple[int, int | None] | None
    test_uses: int
    fingerprint: Fingerprint
    settings: dict[str, Any] = field(default_factory=dict)
    synthetic: bool = False
    notes: tuple[str, ...] = ()
    chosen_share: dict[str, float] = field(default_factory=dict)
    evalset: str = ""
    n_documents: int = 0
    n_dev_clusters: int = 0
    accepted_because: str = ""
    accepted_on: str = ""
    rates: dict[str, float] = field(default_factory=dict)
    flips: tuple[FlipPoint, ...] | None = None

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
        """Pretty JSON, stable in key order, so that a changed decision reads well in a diff.

        What was not computed is left out, so that a file from before flip points stays what it is; so is what ties do
        not show, of pairs that are none.
        """
        raw = to_plain(self)
        for pair in (pair for claim in raw["claims"] for pair in claim["pairs"]):
            if not pair["unseen"]:
                del pair["unseen"]
        if self.flips is None:
            raw = {name: value for name, value in raw.items() if name not in ("rates", "flips")}
            raw["claims"] = [{n: v for n, v in claim.items() if n != "amounts"} for claim in raw["claims"]]
        return to_json(raw)

    @classmethod
    def from_json(cls, text: str | bytes, source: str = "decision") -> Self:
        """Read a decision; unknown or missing fields are errors, never defaults.

        A file from before flip points has neither these nor what they are computed from.

        Raises
        ------
        ConfigError
            If the text is no JSON object, or its fields are not those of a decision: it names them all.
        """
        told = f"{source} is not a decision this version reads (restore it, or run and accept anew)"
        raw: Any = from_json(dict, text, told)
        claims = raw.get("claims")
        stated = [c for c in claims if isinstance(c, dict)] if isinstance(claims, list) else []
        for pairs in (claim.get("pairs") for claim in stated):
            for pair in pairs if isinstance(pairs, list) else ():
                if isinstance(pair, dict):
                    pair.setdefault("unseen", 0.0)
        if not {"rates", "flips"} & raw.keys():
            raw |= {"rates": {}, "flips": None}
            for claim in stated:
                claim.setdefault("amounts", {})
        return from_plain(cls, raw, told, whole=True)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a decision file."""
        return cls.from_json(path.read_bytes(), str(path))

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
    found: dict[str, Any] = to_plain(value, kinds=True)
    return found
