"""What every notebook tells in its report: what would change the decision, what is assumed, its tables as sections."""

from collections.abc import Collection, Mapping
from dataclasses import MISSING, fields, replace
from typing import Any

from workbench.evaluation.exploring import worst_regressions
from workbench.evaluation.policy import ASSUMED_REQUESTS, GatePolicy
from workbench.evaluation.summary import ItemCase, Section
from workbench.records import Claim, Decision, Rule
from workbench.rendering.table import Table


def would_change(decision: Decision) -> tuple[str, ...]:
    """Sentences on the margin, the questions or the floor at which the decision would be another."""
    rule = decision.rule
    out = [told for claim in decision.claims if (told := _would_change(claim, rule, decided=claim.arm == decision.arm))]
    if rule.floor is None:
        out.append("No floor is set in gates.toml: a quality that is too low for the product would not be noticed.")
    return tuple(out)


def _would_change(claim: Claim, rule: Rule, *, decided: bool) -> str:
    if claim.status in ("holds", "identical"):
        below = f"{-claim.low:.3f} {rule.metric}"
        return (
            f"{claim.arm}: under a margin of {below} it is no longer good enough." if decided and claim.low < 0 else ""
        )
    if claim.items_needed is not None:
        return ""  # the report has a table of these
    return f"{claim.arm}: a margin above {-claim.low:.3f} {rule.metric} would be needed."


def assumed_money(policy: GatePolicy) -> dict[str, str]:
    """A sentence for each figure of money that nobody has set, by the name of its setting."""
    if policy.requests_per_month is not None:
        return {}
    told = f"{ASSUMED_REQUESTS:,} requests a month are assumed: set requests_per_month in gates.toml to your own."
    return {"requests_per_month": told}


def is_default(parameters: Any, name: str) -> bool:
    """Whether a parameter has the value that it has when nobody asks for another."""
    (found,) = (f for f in fields(parameters) if f.name == name)
    return found.default is not MISSING and getattr(parameters, name) == found.default


def section_of(table: Table, note: str, *, title: str = "") -> Section:
    """Table of the notebook as a section of the report; its caption is the title where none is given."""
    as_text = [c.kind in ("interval", "share") for c in table.columns]
    rows: list[tuple[Any, ...]] = [
        tuple(text if shown else value for value, text, shown in zip(row, texts, as_text, strict=True))
        for row, texts in zip(table.rows, table.cells(), strict=True)
    ]
    return Section(title or table.caption, note, tuple(c.name for c in table.columns), tuple(rows))


def compared(decision: Decision, asked: Collection[str]) -> tuple[str, str] | None:
    """The decided arm, and the other one whose losses against are worth reading: what is in use, or the best other.

    None where the run has asked no such pair.
    """
    claim = next((c for c in decision.claims if c.arm == decision.arm), None)
    others = [decision.rule.reference, claim.best if claim else ""]
    other = next((o for o in others if o and o != decision.arm and o in asked), None)
    return (decision.arm, other) if other is not None and decision.arm in asked else None


def losses(cases: Mapping[str, ItemCase], pair: tuple[str, str] | None) -> tuple[ItemCase, ...]:
    """Questions on which the first arm of a pair loses most against the second, with what these two returned."""
    if pair is None:
        return ()
    found = worst_regressions(cases, reference=pair[1], arm=pair[0])
    return tuple(replace(c, returned={arm: hits for arm, hits in c.returned.items() if arm in pair}) for c in found)


def losses_title(pair: tuple[str, str] | None, *, any_found: bool) -> str:
    """Heading of the questions on which an arm loses against another.

    >>> losses_title(("text", "vector"), any_found=True)
    'Where text loses most against vector'
    """
    if pair is None:
        return ""
    arm, other = pair
    return f"Where {arm} loses most against {other}" if any_found else f"{arm} loses on no question against {other}"
