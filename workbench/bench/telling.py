"""What every notebook tells in its report: what would change the decision, and its tables as sections."""

from typing import Any

from workbench.evaluation.summary import Section
from workbench.records import Decision
from workbench.rendering.table import Table


def would_change(decision: Decision) -> tuple[str, ...]:
    """Sentences on the margin, the questions or the floor at which the decision would be another."""
    rule, out = decision.rule, []
    for claim in decision.claims:
        if claim.arm == rule.reference or claim.status == "identical":
            continue
        if claim.status == "holds":
            out.append(f"{claim.arm}: a margin under {max(-claim.low, 0):.3f} {rule.metric} would no longer hold.")
        elif claim.items_needed is None:
            out.append(f"{claim.arm}: a margin of at least {-claim.low:.3f} {rule.metric} would be needed.")
    if rule.floor is None:
        out.append("No floor is set in gates.toml: a quality that is too low for the product would not be noticed.")
    return tuple(out)


def section_of(table: Table, note: str, *, title: str = "") -> Section:
    """Table of the notebook as a section of the report; its caption is the title where none is given."""
    as_text = [c.kind in ("interval", "share") for c in table.columns]
    rows: list[tuple[Any, ...]] = [
        tuple(text if shown else value for value, text, shown in zip(row, texts, as_text, strict=True))
        for row, texts in zip(table.rows, table.cells(), strict=True)
    ]
    return Section(title or table.caption, note, tuple(c.name for c in table.columns), tuple(rows))


def focus_of(decision: Decision) -> str:
    """Arm whose losses are worth reading: the decided one, or where that is the reference, the first finalist."""
    others = [a for a in decision.arms if a != decision.rule.reference]
    return decision.arm if decision.arm != decision.rule.reference or not others else others[0]
