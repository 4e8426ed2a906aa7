"""The report in brief: Markdown for a build's summary and for a comment, JUnit for build servers."""

import html
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from pathlib import Path

from workbench.evaluation.gate import GateClaim
from workbench.evaluation.run_summary import ItemCase, Summary
from workbench.rendering.numbers import counted
from workbench.rendering.table import Table
from workbench.rendering.text import signed, visible
from workbench.reports.run import (
    Results,
    against_table,
    close_call_label,
    decision_table,
    gate_table,
    label_of,
    load_results,
    needed_table,
    scope_of,
    section_table,
)

# GitHub refuses a step summary above 1 MiB as a whole, so we stop well below
BYTES_LIMIT = 900_000
_ROWS = 60
_CASES = 20
# a character reference is text wherever it stands: no markup, table cell, mention or formula begins with one
_MARKUP = re.compile(r"[\\`*_\[\]<>#|~$@&]|://|www\.(?=\w)|^[-+=](?=[-+=\s]|$)|^\d{1,9}[.)](?=\s)")

_TAGS = re.compile(r"</?(?:details|summary)>|<br>")


def markdown_summary(run_dir: Path) -> str:
    """Verdict, gate, decision table and worst regressions of a run as GitHub Markdown, most important first.

    Whole parts are left out at the end, and counted, where the text would pass 900,000 bytes.

    Raises
    ------
    RunError
        If there is no such folder.
    """
    parts = list(_brief_parts(load_results(run_dir)))
    out, size = [], 0
    for position, part in enumerate(parts):
        size += len(part.encode()) + 2
        if size > BYTES_LIMIT:
            out.append(
                f"_{counted(len(parts) - position, 'further part is', 'further parts are')} left out here; the "
                "HTML report has them._"
            )
            break
        out.append(part)
    return "\n\n".join(out) + "\n"


def markdown_text(text: str, limit: int = 1000) -> str:
    r"""Text that Markdown and HTML show as it is, on one line.

    >>> markdown_text("a|b *c*")
    'a&#124;b &#42;c&#42;'
    """
    line = " ".join(visible(text, limit).split())
    return _MARKUP.sub(lambda found: "".join(f"&#{ord(c)};" for c in found[0]), line)


def terminal_text(markdown: str) -> str:
    r"""Markdown as a person reads it in a terminal: characters in place of references, no tags of our own.

    >>> terminal_text("<details><summary>2 of a&#124;b</summary>")
    '2 of a|b'
    """
    return "\n".join(visible(html.unescape(line)) for line in _TAGS.sub("", markdown).split("\n"))


def _brief_parts(results: Results) -> Iterator[str]:
    decision, gate, summary = results.decision, results.gate, results.summary
    state = gate.status if gate else results.status
    yield f"### {signed(markdown_text(state, 40))}: {markdown_text(results.title, 200)}"
    if results.problems:
        yield "> [!CAUTION]\n> " + "<br>\n> ".join(markdown_text(s, 2000) for s in results.problems)
    yield f"**{markdown_text(_verdict_words(results) + results.sentence, 3000)}**"
    if decision:
        yield markdown_text(" · ".join(scope_of(decision)))
    if gate:
        yield f"Gate: **{signed(markdown_text(gate.status, 40))}** {markdown_text(gate.sentence)}"
    yield from _beside_verdict(results)
    if gate and gate.claims:
        yield _markdown_table(gate_table(gate))
    if decision and decision.claims:
        tables = decision_table(decision, results.assumed), against_table(decision), needed_table(decision)
        yield from (_markdown_table(table) for table in tables if table)
    if summary:
        yield from _summary_parts(summary)


def _beside_verdict(results: Results) -> Iterator[str]:
    """What is told beside the verdict, and the warnings, folded."""
    if results.notes:
        yield "\n".join(f"- {markdown_text(note, 2000)}" for note in results.notes)
    if results.cautions:
        told = "\n".join(f"- {markdown_text(caution, 2000)}" for caution in results.cautions)
        yield f"<details><summary>Warnings: {len(results.cautions)}</summary>\n\n{told}\n\n</details>"


def _verdict_words(results: Results) -> str:
    if results.decision is None:
        return ""
    close = close_call_label(results.decision)
    return f"{label_of(results.decision)}{f' ({close})' if close else ''}. "


def _summary_parts(summary: Summary) -> Iterator[str]:
    if summary.cost_note:
        yield markdown_text(summary.cost_note)
    if summary.would_change:
        sentences = "\n".join(f"- {markdown_text(s)}" for s in summary.would_change)
        yield f"#### What would change the decision\n\n{sentences}"
    for title, cases in (("Items that changed", summary.changed), (summary.regressions_title, summary.regressions)):
        if cases:
            yield _cases(title, cases)
    for section in summary.sections:
        heading = markdown_text(section.title, 200)
        note = f"{markdown_text(section.note)}\n\n" if section.note else ""
        yield f"<details><summary>{heading}</summary>\n\n{note}{_markdown_table(section_table(section))}\n\n</details>"


def _markdown_table(table: Table) -> str:
    cells = [[markdown_text(c.name) for c in table.columns]]
    ends = ["---" if c.kind in ("text", "interval", "status") else "---:" for c in table.columns]
    for texts in table.cells()[:_ROWS]:
        shown = [signed(t) if c.kind == "status" else t for c, t in zip(table.columns, texts, strict=True)]
        cells.append([markdown_text(t, 400) for t in shown])
    rest = len(table.rows) - _ROWS
    lines = [f"| {' | '.join(row)} |" for row in (cells[0], ends, *cells[1:])]
    caption = f"{markdown_text(table.caption)}\n\n" if table.caption else ""
    return caption + "\n".join(lines) + (f"\n\n_{counted(rest, 'more row')}._" if rest > 0 else "")


def _cases(title: str, cases: tuple[ItemCase, ...]) -> str:
    rows = [f"<details><summary>{markdown_text(title, 200)}: {len(cases):,}</summary>\n"]
    for case in cases[:_CASES]:
        rows.append(f"- {markdown_text(case.question, 300)} (`{re.sub('[^A-Za-z0-9._:-]', '?', case.item_id)[:80]}`)")
        rows.append(f"  - expected: {markdown_text(', '.join(case.expected), 300)}")
        for arm, hits in case.returned.items():
            value = case.values.get(arm)
            score = "failed" if value is None else f"{value:.3f}"
            rows.append(f"  - {markdown_text(arm, 100)} {score}: {markdown_text(', '.join(hits[:5]), 300)}")
    rest = len(cases) - _CASES
    return "\n".join(rows) + (f"\n\n_{rest:,} more._" if rest > 0 else "") + "\n\n</details>"


_LIMIT = 2000


def junit_xml(runs: Mapping[str, Path]) -> str:
    """A suite for each named run folder: one test case for the run itself, and one a claim of its gate.

    ``broken`` fails and ``error`` errs. ``inconclusive`` and ``stale`` fail too, unless the policy made
    the gate's exit code 0: then they are skipped, so that the tests are never greener than the build. So are ``new``
    and ``not tested``, where nothing was checked.

    Raises
    ------
    RunError
        If there is no such folder.
    """
    root = ET.Element("testsuites")
    for name, run_dir in runs.items():
        _suite(root, _clean(name, 200), load_results(run_dir))
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _suite(root: ET.Element, name: str, results: Results) -> None:
    suite = ET.SubElement(root, "testsuite", {"name": f"workbench.{name}"})
    if results.run.get("started"):
        suite.set("timestamp", _clean(results.run["started"], 40))
    _run_case(suite, name, results)
    for claim in results.gate.claims if results.gate else ():
        _claim_case(suite, name, claim, softened=results.gate is not None and results.gate.exit_code == 0)
    for kind, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(kind, str(sum(1 for _ in suite.iter(tag))))


def _run_case(suite: ET.Element, name: str, results: Results) -> None:
    case = ET.SubElement(suite, "testcase", {"classname": f"workbench.{name}", "name": "run"})
    if results.seconds is not None:
        case.set("time", f"{results.seconds:.3f}")
    if results.problems:
        message = _clean(" ".join(results.problems), _LIMIT)
        ET.SubElement(case, "error", {"type": _clean(results.status, 40), "message": message})


def _claim_case(suite: ET.Element, name: str, claim: GateClaim, *, softened: bool) -> None:
    where = {"classname": f"workbench.{name}.{_clean(claim.kind, 80)}", "name": _clean(claim.arm, 200)}
    case = ET.SubElement(suite, "testcase", where)
    if claim.status in ("holds", "identical"):
        return
    tag = "error" if claim.status == "error" else "failure"
    if claim.status in ("new", "not tested") or (claim.status in ("inconclusive", "stale") and softened):
        tag = "skipped"
    said = {"type": _clean(claim.status, 40), "message": _clean(claim.sentence, _LIMIT)}
    ET.SubElement(case, tag, said if tag != "skipped" else {"message": said["message"]})


def _clean(text: object, limit: int) -> str:
    return visible(str(text), limit)
