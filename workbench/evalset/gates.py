"""``gates.toml``: per notebook the metric, margin and limits, and what an open question does to CI."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, Self

from workbench.codec import Range, from_plain, shown
from workbench.errors import ConfigError, Defect, unknown_name
from workbench.evalset.files import read_text
from workbench.records import GateStatus, content_hash

Softness = Literal["fail", "warn", "pass"]
# The one list of notebooks: `workbench.start` takes these names, and the files NN_<name>.ipynb have them, in order.
NOTEBOOKS = ("retrieval", "routing", "caching", "pipeline", "quality", "costs", "stack")
UNDECIDED = ("costs",)  # decide nothing: their gate counts what must be 0
_METRICS = {"retrieval": "ndcg@10", "caching": "false_hit_rate", "quality": "agreement"}
# A judge that says the same of everything agrees with as many labels as one kind of answer has: without a floor the
# cheapest judge would be that one.
_FLOORS = {"quality": 0.9}
_HUGE = 1e12
_RANGES: Mapping[str, Range] = {
    "margin": Range(0, 1, ends=False),
    "confidence": Range(0.5, 1, ends=False),
    "floor": Range(0, 1),
    "alpha": Range(0, 1, ends=False),
    "latency_p95_ms": Range(0, ends=False),
    "least_saving_usd": Range(0),
    "least_saving_share": Range(0, 1),
    "point_usd": Range(0, ends=False),
    "max_usd_per_1k": Range(0, ends=False),
    "requests_per_month": Range(0, ends=False),
    "min_coverage": Range(0, 1),
}
ASSUMED_REQUESTS = 100_000


@dataclass(frozen=True, slots=True)
class PairLimit:
    """How many of the pairs that need different answers a cache may serve: a count of them or a share, never both.

    Attributes
    ----------
    count : int or None
        At most so many.
    share : float or None
        At most this share, in (0, 1); the upper bound of the share that was found must keep to it.
    """

    count: int | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        if (self.count is None) == (self.share is None):
            raise ValueError(f"a limit of pairs is a count or a share, found {self.count!r} and {self.share!r}")

    @classmethod
    def of(cls, value: float) -> Self:
        """Limit that a number means, whatever its type: whole numbers are counts.

        >>> PairLimit.of(1) == PairLimit.of(1.0) == PairLimit(count=1), PairLimit.of(0.02)
        (True, PairLimit(count=None, share=0.02))
        """
        return cls(count=int(value)) if value == int(value) else cls(share=float(value))

    def most(self, of: int) -> int:
        """How many of so many pairs may be served.

        >>> PairLimit(count=1).most(400), PairLimit(share=0.02).most(400)
        (1, 8)
        """
        return self.count if self.count is not None else int((self.share or 0) * of)

    def __str__(self) -> str:
        return f"{self.count if self.share is None else self.share:g}"


@dataclass(frozen=True, slots=True)
class GatePolicy:
    """What one notebook must show, fixed before the test split is looked at.

    Attributes
    ----------
    metric : str
        The one quality metric that decides.
    margin : float
        How much worse than the reference is still "as good", in units of the metric, in (0, 1). The default
        of 0.02 is a convention, not a finding: say what a lost point costs you and set your own.
    confidence : float
        Of the one-sided bounds, in (0.5, 1).
    floor : float or None
        What the metric must reach at all.
    latency_p95_ms : float or None
        Limit of the 95th percentile, milliseconds.
    alpha : float
        Caching: the accepted share of wrong answers among cache hits.
    must_differ_limit : float
        Caching: how many pairs that need different answers may be served from the cache: a whole number is a count
        of them; between 0 and 1 it is a share, whose upper bound must keep to it. `pair_limit` says which.
    requests_per_month : int or None
        Volume at which money is told and weighed; 100,000 is assumed, and called so, until it is set.
    least_saving_usd, least_saving_share : float
        Two arms cost the same unless they differ by both: so many dollars a month, and this share of the dearer one.
        The defaults, $10 and 5 %, are what a change is hardly worth making for: set your own.
    point_usd : float or None
        Dollars a month that a hundredth of the metric is worth to you; without it a dearer arm is told, not chosen.
    max_usd_per_1k : float or None
        What an arm may cost per 1,000 requests while none is in use yet.
    min_coverage : float
        Share of the test items that every arm must have been scored on, in [0, 1]; below it the gate is ``error``.
        What failed counts as the metric's worst value in every claim, so that a claim is honest at any coverage; but
        where more than one item in ten (the default) failed, it speaks of the failures and not of the arm, and the
        run is to be repeated.
    on_inconclusive, on_stale : {"fail", "warn", "pass"}
        What a claim that can be neither confirmed nor refuted, or that rests on changed inputs, does to CI:
        "fail" leaves its exit code 2, the others make it 0.
    """

    metric: str = "ndcg@10"
    margin: float = 0.02
    confidence: float = 0.95
    floor: float | None = None
    latency_p95_ms: float | None = None
    alpha: float = 0.01
    must_differ_limit: float = 0
    requests_per_month: int | None = None
    least_saving_usd: float = 10.0
    least_saving_share: float = 0.05
    point_usd: float | None = None
    max_usd_per_1k: float | None = None
    min_coverage: float = 0.9
    on_inconclusive: Softness = "fail"
    on_stale: Softness = "fail"

    @property
    def sha256(self) -> str:
        """Hash of all that is set, by name: comments, order and what is asked of other notebooks leave it as it is."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return content_hash(*(f"{name}={value!r}" for name, value in sorted(found.items()) if value is not None))

    @property
    def pair_limit(self) -> PairLimit:
        """``must_differ_limit`` as what it means."""
        return PairLimit.of(self.must_differ_limit)

    @property
    def soft(self) -> tuple[GateStatus, ...]:
        """Statuses that do not fail CI; they are shown all the same."""
        found: dict[GateStatus, Softness] = {"inconclusive": self.on_inconclusive, "stale": self.on_stale}
        return tuple(status for status, what in found.items() if what != "fail")


def unknown_parameter(name: str, known: Sequence[str]) -> str:
    """Sentence for a name that is no parameter of a notebook; what ``gates.toml`` sets is told to be there.

    >>> unknown_parameter("margin", ["seed"])
    "'margin' is no parameter: it is in gates.toml of the evalset, below the name of the notebook"
    """
    if name in {f.name for f in fields(GatePolicy)}:
        return f"{name!r} is no parameter: it is in gates.toml of the evalset, below the name of the notebook"
    return unknown_name("parameter", name, known)


def default_gate_policy(notebook: str) -> GatePolicy:
    """Policy of a notebook that ``gates.toml`` does not mention: the defaults, with its own metric.

    >>> default_gate_policy("retrieval").metric, default_gate_policy("routing").metric
    ('ndcg@10', 'correctness')
    """
    return GatePolicy(metric=_METRICS.get(notebook, "correctness"), floor=_FLOORS.get(notebook))


def scan_gates(path: Path) -> tuple[dict[str, GatePolicy], list[Defect]]:
    """Policies of a ``gates.toml`` by notebook, and everything in it that cannot be used, with its line."""
    text, defects = read_text(path)
    try:
        raw = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        at = re.search(r"at line (\d+)", str(error))
        return {}, [Defect(str(path), int(at[1]) if at else 0, f"not TOML: {error}")]
    policies: dict[str, GatePolicy] = {}
    for notebook, table in raw.items():
        problems = _gate_section_problems(notebook, table)
        defects += [Defect(str(path), _gate_line_of(text, notebook, key), why) for key, why in problems.items()]
        if not problems:
            policies[notebook] = replace(default_gate_policy(notebook), **table)
    return policies, defects


def _gate_section_problems(notebook: str, table: Any) -> dict[str, str]:
    """Everything wrong with one section, by key; the key "" means the section itself."""
    if notebook not in NOTEBOOKS:
        return {"": unknown_name("notebook", notebook, NOTEBOOKS)}
    if not isinstance(table, dict):
        return {"": f"[{notebook}] must be a section, found {type(table).__name__}"}
    found = {key: _gate_value_problem(notebook, key, value) for key, value in table.items()}
    return {key: why for key, why in found.items() if why}


def _gate_value_problem(notebook: str, key: str, value: Any) -> str:
    try:
        from_plain(GatePolicy, {key: value}, f"[{notebook}]", noun="gate setting")
    except ConfigError as error:
        return str(error)
    asked = f"[{notebook}] {key} = {shown(value)}: "
    if key == "metric":
        return "" if value else asked + "a metric's name is expected"
    if key == "must_differ_limit":
        fits = 0 < value < 1 or (0 <= value < _HUGE and value == int(value))
        return "" if fits else asked + "a whole number from 0, or a share above 0 and below 1, is expected"
    problem = _RANGES[key].problem(value) if key in _RANGES else ""
    return problem and asked + problem


def _gate_line_of(text: str, section: str, key: str) -> int:
    """Line of a key inside a section, or of the section's head; 0 where it is written in another way."""
    inside, head = False, 0
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith("["):
            inside = line.strip().split("]")[0].strip("[ \"'") == section
            head = head or (number if inside else 0)
        if (inside and key and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line)) or (
            not key and re.match(rf"\s*{re.escape(section)}\s*=", line)
        ):
            return number
    return head
