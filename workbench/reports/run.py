"""What a run folder holds, read for its report, and the tables of a decision that HTML and Markdown show."""

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from workbench.errors import ConfigError, RunError
from workbench.evaluation.compare import MIN_CLUSTERS
from workbench.evaluation.decision import MIN_DEV_CLUSTERS
from workbench.evaluation.finalists import RESAMPLES, STEADY
from workbench.evaluation.gate import Gate
from workbench.evaluation.run_summary import Section, Summary
from workbench.records import Claim, Decision, PairedBounds, Rule
from workbench.rendering.numbers import counted, monthly, number, percent, usd
from workbench.rendering.table import Column, Interval, Table, Value
from workbench.rendering.text import verdict_label

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Results:
    """Everything stored of one run; ``problems`` say what is not there or did not end well."""

    folder: str
    run: dict[str, Any]
    decision: Decision | None
    gate: Gate | None
    summary: Summary | None
    notebook: dict[str, Any] | None
    problems: tuple[str, ...]

    @property
    def title(self) -> str:
        """Title for people."""
        return self.summary.title if self.summary else str(self.run.get("notebook", self.folder))

    @property
    def status(self) -> str:
        """Status of the run: running, done, failed, interrupted, or unknown."""
        return str(self.run.get("status", "unknown"))

    @property
    def started(self) -> str:
        """When the run began, for people, in UTC."""
        began = _iso_moment(self.run.get("started"))
        return f"{began:%Y-%m-%d %H:%M} UTC" if began else ""

    @property
    def seconds(self) -> float | None:
        """How long the run took; a run that was killed has no end, and then no duration."""
        began, ended = _iso_moment(self.run.get("started")), _iso_moment(self.run.get("ended"))
        return (ended - began).total_seconds() if began and ended else None

    @property
    def sentence(self) -> str:
        """The verdict, or, without one, what the gate said, or that there is nothing."""
        if self.decision:
            return self.decision.sentence
        if self.gate:
            return self.gate.sentence
        return "No verdict: the run stored no decision and no gate result."

    @property
    def cautions(self) -> tuple[str, ...]:
        """What makes the verdict mean less, weightiest first; to be folded below it."""
        out = [*(self.summary.warnings if self.summary else ())]
        if self.decision and (self.decision.synthetic or self.decision.verdict == "provisional"):
            out.insert(0, "Rests on synthetic traffic or pairs: it shows the method, not what users will see.")
        return tuple(out)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is told beside the verdict: the decision's own notes, and which figures of money are assumed."""
        assumed = self.summary.assumed.values() if self.summary else ()
        return (*(self.decision.notes if self.decision else ()), *assumed)

    @property
    def assumed(self) -> tuple[str, ...]:
        """Names of the figures that nobody has set."""
        return tuple(self.summary.assumed) if self.summary else ()


def load_results(run_dir: Path) -> Results:
    """Read a run folder.

    Raises
    ------
    RunError
        If there is no such folder.
    """
    if not run_dir.is_dir():
        raise RunError(f"no run folder {run_dir}; a run writes one below the runs folder", str(run_dir))
    broken: list[str] = []
    run = _load_part(run_dir / "run.json", _object, broken) or {}
    decision = _load_part(run_dir / "decision.json", Decision.load, broken)
    gate = _load_part(run_dir / "gate.json", Gate.load, broken)
    summary = _load_part(run_dir / "summary.json", Summary.load, broken)
    notebook = _load_part(run_dir / "executed.ipynb", _object, broken)
    problems = [*_ending_problems(run), *broken, *_absent(run_dir, run, gate)]
    return Results(run_dir.name, run, decision, gate, summary, notebook, tuple(problems))


def _load_part(path: Path, load: Callable[[Path], T], broken: list[str]) -> T | None:
    if not path.exists():
        return None
    try:
        return load(path)
    except (ConfigError, ValueError, KeyError, TypeError, AttributeError) as error:
        # a half-written file is what a killed run leaves: the report of that run must still be made
        broken.append(f"{path.name} cannot be read ({type(error).__name__}: {error}).")
        return None


def _iso_moment(value: object) -> datetime | None:
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


def _object(path: Path) -> dict[str, Any]:
    raw = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(raw, dict):
        raise TypeError(f"a JSON object was expected, found {type(raw).__name__}")
    return raw


def _ending_problems(run: dict[str, Any]) -> list[str]:
    status = run.get("status", "unknown")
    if status == "done":
        return []
    said = {"failed": "The run failed", "interrupted": "The run was interrupted", "running": "The run has not ended"}
    why = "; ".join(str(run[key]) for key in ("exit_reason", "error") if run.get(key))
    return [f"{said.get(status, 'It is not known how the run ended')}{': ' + why if why else '.'}"]


def _absent(run_dir: Path, run: dict[str, Any], gate: Gate | None) -> list[str]:
    wanted = {"run.json": "run record", "decision.json": "decision", "gate.json": "gate result"}
    wanted["summary.json"] = "summary"
    if run.get("status") == "done" and gate is not None:
        del wanted["decision.json"]  # a notebook of hard invariants alone decides nothing
    absent = [what for name, what in wanted.items() if not (run_dir / name).exists()]
    return [f"The run stored no {', no '.join(absent)}."] if absent else []


VOLUME = "requests_per_month"  # name of the volume among what is assumed
DIFFERENCE = "difference from the best other for the money"
_STATUS_WORDS = {"holds": "good enough", "identical": "the same", "broken": "too far below"}
_RATE_WORDS = {"holds": "certified", "identical": "none wrong", "broken": "too many wrong"}
_DECIDED = {"chosen": "chosen", "provisional": "chosen", "upgrade": "upgrade", "keep_reference": "kept"}


def status_words(claim: Claim, rule: Rule) -> str:
    """Status of a claim as a reader says it: an arm that is merely worse than another is not "broken".

    The arm in use is "in use" where nothing tells it from the best; of a rate, the words are those of certificates.
    """
    if claim.status == "identical" and rule.direction == "higher" and (claim.arm == rule.reference or not claim.best):
        return "in use" if claim.arm == rule.reference else "not compared"
    words = _RATE_WORDS if rule.direction == "lower" else _STATUS_WORDS
    return words.get(claim.status, "cannot tell" if claim.status == "inconclusive" else claim.status)


def label_of(decision: Decision) -> str:
    """Verdict in a few words."""
    return verdict_label(decision.verdict, decision.rule.reference)


def close_call_label(decision: Decision) -> str:
    """What stands beside the verdict where other questions might have led to another arm, else ""."""
    share = decision.chosen_share.get(decision.arm, 0.0)
    if not decision.chosen_share or decision.verdict not in ("chosen", "upgrade", "provisional") or share >= STEADY:
        return ""
    return f"a close call: chosen in {percent(share)} of {RESAMPLES} resamples"


def scope_of(decision: Decision) -> list[str]:
    """On what was decided: evalset, documents, questions and families, as far as the decision says."""
    asked = "requests" if decision.rule.direction == "lower" else "test questions"
    out = [f"evalset {decision.evalset}"] if decision.evalset else []
    out += [f"{counted(decision.n_documents, 'document')}"] if decision.n_documents else []
    out.append(f"{decision.n_items:,} {asked} in {counted(decision.n_clusters, 'family')}")
    return out + ([f"{counted(decision.n_dev_clusters, 'dev family')}"] if decision.n_dev_clusters else [])


def month_column(rule: Rule, assumed: Collection[str] = ()) -> str:
    """Name of a column of dollars a month, with the volume that they are told at."""
    return f"a month at {counted(rule.requests_per_month, 'request')}{' (assumed)' if VOLUME in assumed else ''}"


def month_usd(usd_per_1k: float, rule: Rule) -> str:
    """Dollars a month at the rule's volume, as the sentences say them."""
    return monthly(rule.monthly_usd(usd_per_1k)).removesuffix(" a month")


def decision_table(decision: Decision, assumed: Collection[str] = ()) -> Table:
    """Every arm with its estimate, its difference from the best other one for the money, status, cost and latency."""
    rule, claims = decision.rule, decision.claims
    rate, shares = rule.direction == "lower", decision.chosen_share
    parts: list[tuple[Column, list[Value]]] = [
        (Column("arm"), [c.arm for c in claims]),
        (Column("role"), [_role(decision, c.arm) for c in claims]),
        (Column(rule.metric, "interval"), [Interval(c.estimate, c.estimate_low, c.estimate_high) for c in claims]),
        (Column("as certified" if rate else DIFFERENCE, "interval", signed=not rate),
         [Interval(c.difference, c.low, c.high) if c.best or rate else None for c in claims]),
        (Column("that other"), [c.best for c in claims]),
        (Column("status", "status"), [status_words(c, rule) for c in claims]),
        (Column(month_column(rule, assumed), "written"), [month_usd(c.cost_usd_per_1k, rule) for c in claims]),
        (Column("p95 latency", "ms"), [c.latency_p95_ms for c in claims]),
        (Column("coverage", "share"), [c.coverage for c in claims]),
        (Column("how often chosen", "share", digits=0), [shares.get(c.arm, 0.0) for c in claims] if shares else []),
        (Column("questions", "count"), [c.n_items for c in claims]),
        (Column("families", "count"), [c.n_clusters for c in claims]),
    ]  # fmt: skip
    same_size = len({(c.n_items, c.n_clusters) for c in claims}) == 1
    kept = [(column, cells) for column, cells in parts if _says_something(column, cells, same_size=same_size)]
    mark = next((i for i, c in enumerate(claims) if c.arm == decision.arm), None)
    rows = tuple(zip(*(cells for _, cells in kept), strict=True))
    return Table(tuple(column for column, _ in kept), rows, _caption(decision, same_size=same_size), mark=mark)


def _says_something(column: Column, cells: list[Value], *, same_size: bool) -> bool:
    if column.name in ("questions", "families"):
        return not same_size
    if column.name == "coverage":
        return any(cell != 1.0 for cell in cells)
    return column.name not in ("that other", "how often chosen", "p95 latency") or any(
        c not in (None, "") for c in cells
    )


def _caption(decision: Decision, *, same_size: bool) -> str:
    rule, (first, *_) = decision.rule, decision.claims
    asked = "requests" if rule.direction == "lower" else "questions"
    out = ["1 arm tested" if len(decision.claims) == 1 else f"{counted(len(decision.claims), 'arm')} tested"]
    if same_size:
        out[0] += f", each on the same {first.n_items:,} {asked} in {counted(first.n_clusters, 'family')}"
    if all(c.coverage == 1.0 for c in decision.claims):
        out[0] += ", all of them scored"
    if rule.direction == "higher":
        out.append(
            f"Good enough: at most {rule.margin:g} {rule.metric} below the best other arm for the money, shown at "
            f"{percent(rule.confidence)} confidence for all arms at once"
        )
    if decision.chosen_share:
        none = decision.chosen_share.get("", 0.0)
        out.append(
            f"How often chosen: in {RESAMPLES} resamples of question families, which informs and is no confidence"
        )
        out[-1] += f"; in {percent(none)} of them no arm could be chosen" if none else ""
    return ". ".join(out)


def against_table(decision: Decision) -> Table | None:
    """The decided arm beside every other one: paired difference and dollars a month; None where nothing was paired."""
    rule, found = decision.rule, _claim_of(decision, decision.arm)
    if found is None or not found.pairs:
        return None
    rows: list[tuple[Value, ...]] = []
    for pair in found.pairs:
        other = decision.claim(pair.other)
        words = _pair_words(pair, other.against(found.arm))
        money = change_words(other.cost_usd_per_1k, found.cost_usd_per_1k, rule)
        difference = Interval(pair.difference, pair.low, pair.high)
        rows.append((pair.other, _role(decision, pair.other), difference, words, money, _price(found, other)))
    columns = (
        Column("other arm"), Column("role"), Column("difference from it", "interval", signed=True),
        Column("what the test shows", "status"), Column("a month, against it"),
        Column("a further good answer of it costs"),
    )  # fmt: skip
    keep = [i for i, c in enumerate(columns) if c.name != columns[-1].name or any(row[i] for row in rows)]
    shown = tuple(tuple(row[i] for i in keep) for row in rows)
    return Table(tuple(columns[i] for i in keep), shown, f"{decision.arm} against each other arm, in {rule.metric}")


def _pair_words(pair: PairedBounds, back: PairedBounds | None) -> str:
    if pair.status == "identical":
        return "the same"
    if pair.better:
        return "shown better"
    return "shown worse" if back is not None and back.better else "not told apart"


def change_words(before_usd: float, now_usd: float, rule: Rule) -> str:
    """How much less or more a month one cost is than another, what share a saving is of it, and whether it counts."""
    if before_usd == now_usd:
        return "the same"
    less = now_usd < before_usd
    change = monthly(abs(rule.monthly_usd(now_usd - before_usd))).removesuffix(" a month")
    told = f"{change} {'less' if less else 'more'}"
    if not rule.counts(min(before_usd, now_usd), max(before_usd, now_usd)):
        return f"{told}, too little to count"
    return f"{told}, {percent(1 - now_usd / before_usd)}" if less else told


def _price(found: Claim, other: Claim) -> str:
    """Dollars for each further good answer of a dearer arm that is shown better, with its range."""
    pair, extra = other.against(found.arm), other.cost_usd_per_1k - found.cost_usd_per_1k
    if pair is None or not pair.better or extra <= 0:
        return ""
    each, most, least = (usd(extra / 1000 / gain) for gain in (pair.difference, pair.low, pair.high))
    return f"{each} ({least} to {most})"


def needed_table(decision: Decision) -> Table | None:
    """Open claims with the questions that would settle them, and the margin that today's can show; None without any."""
    rule = decision.rule
    rows = tuple(
        (c.arm, needed_words(c) or c.note or None, -c.low if c.low < -rule.margin else None)
        for c in decision.claims
        if c.status == "inconclusive" or c.items_needed is not None
    )
    columns = (
        Column("arm"), Column("more questions needed"), Column("margin that today's can show", "number", digits=3)
    )  # fmt: skip
    told = f"What is open at a margin of {rule.margin:g}; the range is that of the spread, which is itself uncertain"
    return Table(columns, rows, told) if rows and rule.direction == "higher" else None


def needed_words(claim: Claim) -> str:
    """How many further questions an open claim needs."""
    if claim.items_needed is None:
        return ""
    few, many = claim.items_needed
    if few == many:
        return f"{few:,}"
    return f"{few:,} to {many:,}" if many else f"at least {few:,}"


def gate_table(gate: Gate) -> Table:
    """Claims of the gate, one a row; arms are a column where there are any."""
    arms = any(c.arm for c in gate.claims)
    rows = tuple((*([c.arm] if arms else []), c.kind, c.status, c.sentence) for c in gate.claims)
    found = Column("what was found", limit=4000)
    return Table((*([Column("arm")] if arms else []), Column("claim"), Column("status", "status"), found), rows)


def section_table(section: Section) -> Table:
    """Show a further table of the notebook."""
    return Table.of(section.columns, section.rows)


def pairs_table(pairs: Mapping[str, Any], caption: str) -> Table:
    """Names and values, nested values as JSON, hashes by their first 16 digits."""
    rows = tuple((name, _shown_value(value)) for name, value in pairs.items())
    return Table((Column("name"), Column("value", limit=2000)), rows, caption)


def key_facts(decision: Decision, assumed: Collection[str] = ()) -> list[tuple[str, str, str]]:
    """List what a reader wants to know of the decided arm: (name, value, remark)."""
    rule, claim = decision.rule, _claim_of(decision, decision.arm)
    if claim is None:
        return []
    in_use = _claim_of(decision, rule.reference)
    facts = [
        (rule.metric, number(claim.estimate, 3), f"{number(claim.estimate_low, 3)} to {number(claim.estimate_high, 3)}")
    ]
    rate = rule.direction == "lower"
    if claim.best or (rate and claim.status != "identical"):
        ends = " to ".join(number(v, 3, signed=not rate) for v in (claim.low, claim.high))
        of = f"; {claim.best}" if claim.best else ""
        name = "against the best other" if claim.best else "as certified"
        facts.append(
            (name, number(claim.difference, 3, signed=not rate), f"{ends}, {rule.limit_name} {rule.margin:g}{of}")
        )
    pair = claim.against(in_use.arm) if in_use else None
    if pair is not None and pair.other != claim.best:
        ends = " to ".join(number(v, 3, signed=True) for v in (pair.low, pair.high))
        facts.append(("against what is in use", number(pair.difference, 3, signed=True), f"{ends}; {pair.other}"))
    facts.append((month_column(rule, assumed), month_usd(claim.cost_usd_per_1k, rule), _instead(claim, in_use, rule)))
    if claim.latency_p95_ms is not None:
        limit = rule.latency_limit_ms
        over = "over the " if limit and claim.latency_p95_ms > limit else ""
        facts.append(
            ("p95 latency", f"{claim.latency_p95_ms:,.0f} ms", f"{over}limit {limit:,.0f} ms" if limit else "no limit")
        )
    return facts


def _instead(claim: Claim, in_use: Claim | None, rule: Rule) -> str:
    if in_use is None or in_use is claim:
        return ""
    change = change_words(in_use.cost_usd_per_1k, claim.cost_usd_per_1k, rule)
    return f"instead of {month_usd(in_use.cost_usd_per_1k, rule)}, {change}"


def rule_pairs(decision: Decision, assumed: Collection[str] = ()) -> dict[str, Any]:
    """Name the rule, fixed before the test questions were looked at, in words."""
    rule = decision.rule
    accepted = f"{decision.accepted_on}: {decision.accepted_because}" if decision.accepted_on else "not yet"
    volume = f"{rule.requests_per_month:,}{' (assumed)' if VOLUME in assumed else ''}"
    counts = f"{monthly(rule.least_saving_usd)} and {percent(rule.least_saving_share)}"
    return {
        "quality": rule.metric, "objective": rule.objective, "in use": rule.reference or "nothing yet",
        "anchor": rule.anchor or "none yet",
        rule.limit_name: rule.margin, "floor": "none" if rule.floor is None else rule.floor,
        "confidence of one-sided bounds": percent(rule.confidence),
        "p95 latency limit": "none" if rule.latency_limit_ms is None else f"{rule.latency_limit_ms:,.0f} ms",
        "requests a month": volume, "a saving counts from": counts,
        "worth of a hundredth": "not said" if rule.point_usd is None else monthly(rule.point_usd),
        "cost limit": "none" if rule.max_usd_per_1k is None else monthly(rule.monthly_usd(rule.max_usd_per_1k)),
        "families needed": f"{MIN_CLUSTERS} in test, {MIN_DEV_CLUSTERS} in dev",
        "profile": decision.profile, "arm sets judged on this test split": decision.test_uses,
        "synthetic inputs": decision.synthetic,
        "accepted": accepted,
    }  # fmt: skip


def _claim_of(decision: Decision, arm: str) -> Claim | None:
    return next((c for c in decision.claims if c.arm == arm), None)


def _role(decision: Decision, arm: str) -> str:
    rule, roles = decision.rule, list[str]()
    if arm == decision.arm:
        open_word = "kept meanwhile" if arm == rule.reference else "best so far"
        roles += [_DECIDED.get(decision.verdict, open_word if decision.verdict == "inconclusive" else "")]
    if arm == rule.reference:
        roles.append("no cache" if rule.direction == "lower" else "in use")
    roles += ["anchor"] if arm == rule.anchor else []
    return ", ".join(role for role in roles if role)


def _shown_value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return f"{text[:16]}…" if re.fullmatch("[0-9a-f]{40,}", text) else text
