"""What ``workbench check`` found, for machines (``check.json``) and for a comment on a pull request."""

import json
from collections.abc import Sequence
from typing import Any

from workbench.extras import VERSION
from workbench.rendering.numbers import counted
from workbench.rendering.text import signed
from workbench.reports.brief import markdown_text
from workbench.runner.accept_and_check import Check, worst_exit_code

SCHEMA = 1
MARKER = "<!-- workbench check -->"  # by which a job finds its earlier comment
_CHANGED = 10  # items that are named
_COMMENT_LIMIT = 60_000  # characters; GitHub refuses comments above 65,536


def check_json(checks: Sequence[Check]) -> str:
    """Every decision with its gate, as JSON.

    ``{"schema": 1, "version", "exit_code", "decisions": [{"evalset", "notebook", "arm", "verdict", "status",
    "exit_code", "sentence", "claims": [{"kind", "arm", "status", "sentence", "changed"}], "run", "report"}]}``.
    ``arm`` and ``verdict`` are null for a notebook that decides nothing, ``report`` if none was drawn; ``status`` is
    ``error`` if the run left no gate.
    """
    plain = {
        "schema": SCHEMA,
        "version": VERSION,
        "exit_code": worst_exit_code(checks),
        "decisions": [_check_entry(found) for found in checks],
    }
    return json.dumps(plain, indent=1, ensure_ascii=False) + "\n"


def check_markdown(checks: Sequence[Check]) -> str:
    """A comment: one row per decision, the worst first, then the items that changed."""
    order = sorted(checks, key=lambda found: -_check_severity(found))
    fine = sum(found.exit_code == 0 for found in checks)
    lines = [
        MARKER,
        f"### {fine} of {counted(len(checks), 'accepted decision holds', 'accepted decisions hold')}"
        if fine < len(checks)
        else "### Every decision holds",
        "",
        "| | decision | what the check says |",
        "| --- | --- | --- |",
    ]
    for found in order:
        where = " / ".join(found.place) + (f": {found.decision.arm}" if found.decision else "")
        lines.append(
            f"| {signed(check_status(found))} | {markdown_text(where, 200)} | {markdown_text(check_sentence(found))} |"
        )
    for found in order:
        lines += _check_change_lines(found)
    text = "\n".join(lines) + "\n"
    return text if len(text) <= _COMMENT_LIMIT else text[:_COMMENT_LIMIT].rpartition("\n")[0] + "\n\n_cut off here_\n"


def check_status(found: Check) -> str:
    """Status of the gate; ``error`` where the run failed or left none."""
    return found.gate.status if found.gate and found.record.status == "done" else "error"


def check_sentence(found: Check) -> str:
    """What the gate says, or why there is none."""
    if found.gate and found.record.status == "done":
        return found.gate.sentence
    return found.record.error or f"the run is {found.record.status} and left no gate"


def _check_entry(found: Check) -> dict[str, Any]:
    claims = found.gate.claims if found.gate else ()
    return {
        "evalset": found.evalset,
        "notebook": found.record.notebook,
        "arm": found.decision.arm if found.decision else None,
        "verdict": found.decision.verdict if found.decision else None,
        "status": check_status(found),
        "exit_code": found.exit_code,
        "sentence": check_sentence(found),
        "claims": [
            {"kind": c.kind, "arm": c.arm, "status": c.status, "sentence": c.sentence, "changed": list(c.changed)}
            for c in claims
        ],
        "run": found.record.run_dir.name,
        "report": str(found.record.report) if found.record.report else None,
    }


def _check_severity(found: Check) -> int:
    return {3: 3, 1: 2, 2: 1}.get(found.exit_code, 0)


def _check_change_lines(found: Check) -> list[str]:
    lines = []
    for claim in found.gate.claims if found.gate else ():
        if claim.changed:
            named = ", ".join(f"`{markdown_text(item, 80)}`" for item in claim.changed[:_CHANGED])
            more = len(claim.changed) - _CHANGED
            where = f"{' / '.join(found.place)}: {claim.arm}"
            lines += ["", f"Scored otherwise, {markdown_text(where, 200)}: {named}{f' and {more:,} more' * (more > 0)}"]
    return lines
