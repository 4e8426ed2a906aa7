"""Tables of a report, made from stored results: the same ones in HTML and in Markdown."""

import json
import re
from collections.abc import Mapping
from typing import Any

from workbench.evaluation.gate import Gate
from workbench.evaluation.summary import Section
from workbench.records import Claim, Decision
from workbench.rendering.table import Column, Interval, Table, Value, number, usd_digits

VERDICTS = {
    "chosen": "Chosen",
    "keep_reference": "Keep what you have",
    "none_meets_floor": "Nothing meets the floor",
    "inconclusive": "Cannot tell yet",
    "provisional": "Provisional",
}


def decision_table(decision: Decision) -> Table:
    """Every arm with its estimate, difference, status, cost, latency and coverage."""
    rule, claims = decision.rule, decision.claims
    columns = [
        Column("arm"), Column("role"), Column(rule.metric, "interval"),
        Column("difference", "interval", signed=True), Column("status", "status"),
        Column("cost per 1,000", "usd"), Column("p95 latency", "ms"), Column("coverage", "share"),
    ]  # fmt: skip
    rows: list[tuple[Value, ...]] = [
        (
            c.arm, _role(decision, c.arm), Interval(c.estimate, c.estimate_low, c.estimate_high),
            None if c.arm == rule.reference else Interval(c.difference, c.low, c.high),
            c.status, c.cost_usd_per_1k, c.latency_p95_ms, c.coverage,
        )
        for c in claims
    ]  # fmt: skip
    sizes = [(c.n_items, c.n_clusters) for c in claims]
    caption = f"Differences are from {rule.reference}"
    if len(set(sizes)) == 1:
        caption += f"; every arm on the same {sizes[0][0]:,} test items in {sizes[0][1]:,} clusters"
    else:
        columns += [Column("items", "count"), Column("clusters", "count")]
        rows = [(*row, *size) for row, size in zip(rows, sizes, strict=True)]
    mark = next((i for i, c in enumerate(claims) if c.arm == decision.arm), None)
    return Table(tuple(columns), tuple(rows), caption, mark=mark)


def gate_table(gate: Gate) -> Table:
    """Claims of the gate, one a row."""
    rows = tuple((c.arm, c.kind, c.status, c.sentence) for c in gate.claims)
    return Table((Column("arm"), Column("claim"), Column("status", "status"), Column("what was found")), rows)


def section_table(section: Section) -> Table:
    """Show a further table of the notebook."""
    return Table.of(section.columns, section.rows)


def pairs_table(pairs: Mapping[str, Any], caption: str) -> Table:
    """Names and values, nested values as JSON, hashes by their first 16 digits."""
    rows = tuple((name, _plain(value)) for name, value in pairs.items())
    return Table((Column("name"), Column("value", limit=2000)), rows, caption)


def key_facts(decision: Decision) -> list[tuple[str, str, str]]:
    """List what a reader wants to know of the decided arm: (name, value, remark)."""
    claim = next((c for c in decision.claims if c.arm == decision.arm), None)
    if claim is None:
        return []
    reference = next((c for c in decision.claims if c.arm == decision.rule.reference), None)
    facts = [(decision.rule.metric, number(claim.estimate, 3), _bounds(claim))]
    if reference is not None and reference is not claim:
        low, high = (number(v, 3, signed=True) for v in (claim.low, claim.high))
        change = number(claim.difference, 3, signed=True)
        facts.append(
            (
                "against the reference",
                change,
                f"{low} to {high}, {decision.rule.limit_name} {number(decision.rule.margin, 3)}",
            )
        )
    facts.append(("cost per 1,000 requests", _usd(claim.cost_usd_per_1k), _saving(claim, reference)))
    if claim.latency_p95_ms is not None:
        limit = decision.rule.latency_limit_ms
        over = "over the " if limit and claim.latency_p95_ms > limit else ""
        remark = f"{over}limit {limit:,.0f} ms" if limit else "no limit"
        facts.append(("p95 latency", f"{claim.latency_p95_ms:,.0f} ms", remark))
    return facts


def rule_pairs(decision: Decision) -> dict[str, Any]:
    """Name the rule, fixed before the test questions were looked at, in words."""
    rule = decision.rule
    accepted = f"{decision.accepted_on}: {decision.accepted_because}" if decision.accepted_on else "not yet"
    return {
        "quality": rule.metric, "objective": rule.objective, "reference": rule.reference,
        rule.limit_name: rule.margin, "floor": "none" if rule.floor is None else rule.floor,
        "confidence of one-sided bounds": f"{rule.confidence:.0%}",
        "p95 latency limit": "none" if rule.latency_limit_ms is None else f"{rule.latency_limit_ms:,.0f} ms",
        "profile": decision.profile, "arm sets judged on this test split": decision.test_uses,
        "synthetic inputs": decision.synthetic,
        "accepted": accepted,
    }  # fmt: skip


def _role(decision: Decision, arm: str) -> str:
    roles = ["reference"] if arm == decision.rule.reference else []
    if arm == decision.arm and decision.verdict != "none_meets_floor":
        roles.insert(0, "chosen" if decision.verdict in ("chosen", "provisional") else "kept")
    return ", ".join(roles)


def _bounds(claim: Claim) -> str:
    return f"{number(claim.estimate_low, 3)} to {number(claim.estimate_high, 3)}"


def _saving(claim: Claim, reference: Claim | None) -> str:
    if reference is None or reference is claim or not reference.cost_usd_per_1k:
        return ""
    change = claim.cost_usd_per_1k / reference.cost_usd_per_1k - 1
    return f"{number(100 * change, 0, signed=True)}% against {_usd(reference.cost_usd_per_1k)}"


def _usd(value: float) -> str:
    return number(value, usd_digits([value]), unit="$")


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return f"{text[:16]}…" if re.fullmatch("[0-9a-f]{40,}", text) else text
