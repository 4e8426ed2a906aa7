"""The report of a run as one page of HTML: tables laid out for it, and the executed notebook as a harmless appendix."""

import copy
import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from workbench.evaluation.run_summary import PRODUCTION, ItemCase, Section, Summary
from workbench.extras import without_iri_grammar
from workbench.records import Decision
from workbench.rendering.html import sanitize
from workbench.rendering.numbers import counted, number
from workbench.rendering.table import Column, Table
from workbench.rendering.text import signed, tone, unbroken_numbers, visible
from workbench.reports.charts import forest, slices, weekly
from workbench.reports.figure import Figure
from workbench.reports.frontier import frontier
from workbench.reports.run import (
    VOLUME,
    Results,
    against_table,
    close_call_label,
    decision_table,
    gate_table,
    key_facts,
    label_of,
    load_results,
    needed_table,
    pairs_table,
    rule_pairs,
    scope_of,
    section_table,
)

_TEXT_LIMIT = 20_000
_HTML_LIMIT = 2_000_000


def slowest_cells(notebook: dict[str, Any]) -> Table:
    """The five code cells that took longest, from the times that papermill stored; empty where it stored none."""
    timed = []
    for position, cell in enumerate(notebook.get("cells", []), start=1):
        seconds = cell.get("metadata", {}).get("papermill", {}).get("duration")
        if isinstance(seconds, int | float) and cell.get("cell_type") == "code":
            timed.append((float(seconds), position, cell))
    total = sum(seconds for seconds, _, _ in timed)
    rows = tuple(
        (position, _first_line(_joined(cell.get("source", ""))), seconds, seconds / total if total else 0.0)
        for seconds, position, cell in sorted(timed, key=lambda t: (-t[0], t[1]))[:5]
    )
    columns = (
        Column("cell", "count"), Column("first line", limit=100), Column("seconds", "number", digits=1),
        Column("share of all cells", "share", digits=0),
    )  # fmt: skip
    return Table(columns, rows)


def appendix(notebook: dict[str, Any]) -> str:
    """Render the notebook as HTML that loads nothing, runs nothing and cannot leave its place in the page.

    Cells tagged ``remove-cell`` and the code of cells tagged ``hide-input`` are left out.
    """
    with without_iri_grammar():
        import nbformat
        from nbconvert import HTMLExporter
        from traitlets.config import Config

    hidden = {"enabled": True, "remove_input_tags": {"hide-input"}, "remove_cell_tags": {"remove-cell"}}
    config = Config({"TagRemovePreprocessor": hidden})
    exporter = HTMLExporter(config=config, template_name="basic", exclude_anchor_links=True)
    # read, not built from the dictionary: on disk a text may be a list of lines
    html, _ = exporter.from_notebook_node(nbformat.reads(json.dumps(_bounded(notebook)), as_version=4))
    return sanitize(html, prefix="nb-", heading_shift=2)


def _bounded(notebook: dict[str, Any]) -> dict[str, Any]:
    """Copy whose outputs are cut to a length that a page can bear; what was cut is counted."""
    out = copy.deepcopy(notebook)
    for cell in out.get("cells", []):
        for output in cell.get("outputs", []):
            if "text" in output:
                output["text"] = _cut(_joined(output["text"]))
            data = output.get("data", {})
            if "text/plain" in data:
                data["text/plain"] = _cut(_joined(data["text/plain"]))
            size = len(_joined(data.get("text/html", "")))
            if size > _HTML_LIMIT:
                data["text/html"] = (
                    f"<p>An output of {counted(size, 'character')} is left out; open the notebook to see it.</p>"
                )
            # plain forms of these exist beside them, and nothing else could be shown without a script
            for mime in [m for m in data if "javascript" in m or "widget" in m or "bokeh" in m]:
                del data[mime]
    return out


def _cut(text: str) -> str:
    rest = len(text) - _TEXT_LIMIT
    return f"{text[:_TEXT_LIMIT]}\n… (+{counted(rest, 'character')})" if rest > 0 else text


def _joined(text: Any) -> str:
    return "".join(text) if isinstance(text, list) else str(text)


def _first_line(source: str) -> str:
    lines = [line.strip() for line in source.splitlines() if line.strip()]
    return next((line for line in lines if not line.startswith("#")), lines[0] if lines else "")


CASES_SHOWN = 50
SLICE_ARMS = 7
HEADLINE_LIMIT = 160
WORDY = 30  # characters of a cell from which its table is read as sentences


def write_report(run_dir: Path) -> Path:
    """Write ``report.html`` into a run folder, from what is stored there and nothing else.

    The page loads nothing and runs nothing, and a content security policy says so to the browser as well. The
    same folder gives the same bytes.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    RunError
        If there is no such folder. A run that failed has a report too: it says so first.
    """
    path = run_dir / "report.html"
    text = _report_templates().get_template("report.html.j2").render(_context(load_results(run_dir)))
    path.write_text(unbroken_numbers(text), encoding="utf-8")
    return path


@cache
def _report_templates() -> Environment:
    loader = PackageLoader("workbench.reports")
    env = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    env.filters |= {
        "text": _text,
        "signed": signed,
        "tone": tone,
        "number": lambda value: number(value, 3),
        "table": _scrolling_table,
        "breaks": _breaks,
        "layout": _layout,
        "figure": lambda figure: Markup(figure.to_html()),
    }
    env.globals["css"] = Markup(loader.get_source(env, "report.css")[0])
    return env


def _breaks(value: object, limit: int = 2000) -> str:
    """Text, to be escaped by the page; one long name is markup that may break after its dots and underscores alone."""
    shown = _text(value, limit)
    return Markup(re.sub(r"(?<=[._])(?=\w)", "<wbr>", shown)) if re.fullmatch(r"[\w.]{32,}", shown) else shown


def _layout(table: Table) -> str:
    """Class of a further table: one with sentences is stacked on a narrow screen, one of figures scrolls."""
    return "stack quiet" if any(len(text) > WORDY for row in table.cells() for text in row[1:]) else "quiet"


def _text(value: object, limit: int = 2000) -> str:
    return visible(str(value), limit)


def _scrolling_table(table: Table, kind: str = "", label: str = "") -> Markup:
    """Put a table into a box that scrolls on its own, so that the page never does; ``kind`` is its class."""
    return Markup('<div class="wb-scroll {}" role="region" aria-label="{}" tabindex="0">{}</div>').format(
        kind, visible(label or table.caption or "table"), Markup(table.to_html())
    )


def _context(results: Results) -> dict[str, Any]:
    decision, summary, notebook = results.decision, results.summary, results.notebook
    claims = decision.claims if decision else ()
    assumed = results.assumed
    return {
        "results": results,
        "verdict": label_of(decision) if decision else "No decision",
        "unsteady": close_call_label(decision) if decision else "",
        "scope": scope_of(decision) if decision else [],
        "headline": headline(results.sentence),
        "tone": "bad" if results.problems else tone(results.gate.status) if results.gate else "open",
        "facts": key_facts(decision, assumed) if decision else [],
        "gate_table": gate_table(results.gate) if results.gate and results.gate.claims else None,
        "decision_table": decision_table(decision, assumed) if claims and decision else None,
        "against_table": against_table(decision) if claims and decision else None,
        "needed_table": needed_table(decision) if decision else None,
        "arm_notes": [(c.arm, c.note) for c in claims if c.note],
        "differences": _differences_title(decision) if decision else "",
        "figures": _figures(results),
        "case_groups": _case_groups(results),
        "sections": [(s, section_table(s), _beside(s, summary)) for s in summary.sections] if summary else [],
        "settings": _run_settings(results),
        "slowest": slowest_cells(notebook) if notebook else Table((Column("cell"),), ()),
        "appendix": Markup(appendix(notebook)) if notebook else "",
    }


def _differences_title(decision: Decision) -> str:
    if decision.rule.direction == "lower":
        return "Certificates against alpha"
    return "Differences from the best other arm for the money"


def headline(sentence: str) -> tuple[str, str]:
    """Verdict in its first words, to be read at a glance, and the rest of the sentence.

    >>> headline("Use vector: shown to be near. It costs $5.00 a month.")
    ('Use vector:', 'shown to be near. It costs $5.00 a month.')
    >>> headline("Cannot tell yet whether " + "a long name, " * 20 + "b are good enough.")[0]
    'Cannot tell yet'
    """
    ends = [at + 1 for mark in (": ", ". ") if 0 < (at := sentence.find(mark)) <= HEADLINE_LIMIT]
    long = sentence.find(" whether ")  # before names of arms, which may be many
    cut = min(ends, default=long if 0 < long <= HEADLINE_LIMIT else len(sentence))
    return sentence[:cut], sentence[cut:].strip()


def _figures(results: Results) -> dict[str, Figure | None]:
    decision, summary = results.decision, results.summary
    order = decision.arms if decision else ()
    rows = summary.slices if summary else ()
    chosen = {decision.arm, decision.rule.reference} if decision else set()
    in_slices = sorted(dict.fromkeys(r.arm for r in rows), key=lambda arm: arm not in chosen)[:SLICE_ARMS]
    metric = summary.metric if summary else ""
    return {
        "forest": forest(decision.claims, decision.rule) if decision and decision.claims else None,
        "frontier": _frontier(summary, decision, results.assumed) if summary and summary.frontier else None,
        "slices": slices([r for r in rows if r.arm in in_slices], metric, arms=order) if rows else None,
    }


def _beside(section: Section, summary: Summary) -> Figure | None:
    """Figure that stands below the table of a section."""
    return weekly(summary.weeks) if section.title == PRODUCTION and summary.weeks else None


def _frontier(summary: Summary, decision: Decision | None, assumed: Sequence[str]) -> Figure:
    volume = {"requests_per_month": decision.rule.requests_per_month} if decision else {}
    arms = decision.arms if decision else ()
    return frontier(summary.frontier, summary.metric, arms=arms, assumed=VOLUME in assumed, **volume)


def _case_groups(results: Results) -> list[tuple[str, str, str, tuple[ItemCase, ...], int]]:
    if results.summary is None:
        return []
    groups = (
        ("changed", "Items that changed", "Questions whose result is not the accepted one.", results.summary.changed),
        ("regressions", results.summary.regressions_title, "", results.summary.regressions),
    )
    return [(key, title, note, cases[:CASES_SHOWN], len(cases)) for key, title, note, cases in groups if cases]


def _run_settings(results: Results) -> list[Table]:
    decision, run = results.decision, results.run
    parameters = run.get("parameters") or {}
    # the rest of the record is shown elsewhere on the page, or is for the runner alone
    names = ("status", "notebook", "profile", "seed", "started", "ended", "exit_reason", "gate")
    plain = {name: run[name] for name in names if run.get(name) not in (None, "")}
    # to the second, so that a phone need not break them
    plain |= {name: re.sub(r"(:\d\d)\.\d+", r"\1", str(plain[name])) for name in ("started", "ended") if name in plain}
    tables = [pairs_table({"folder": results.folder} | plain, "Run")]
    if parameters:
        tables.append(pairs_table(parameters, "Parameters of the run"))
    if decision:
        tables += [
            pairs_table(rule_pairs(decision, results.assumed), "Rule"),
            pairs_table({"arm": decision.arm} | decision.parameters, "Decided arm"),
            pairs_table(decision.fingerprint.inputs, "Inputs (a change makes the decision stale)"),
            pairs_table(decision.fingerprint.provenance, "Provenance (shown, never decides)"),
        ]
    return [table for table in tables if table.rows]
