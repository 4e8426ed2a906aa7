"""Text of others at each place where a report shows it: each place has its own case, so that a failure names it."""

import json
import re
from dataclasses import fields
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.reports import samples
from tests.reports.hostile import bare_run, defect_of, evil, hostile_run, hostile_spans
from tests.reports.reading import ALLOWED
from tests.telemetry.test_waterfall import Read
from workbench.rendering.html import sanitize
from workbench.rendering.progress import Progress
from workbench.rendering.table import Column, Table
from workbench.reports.brief import junit_xml, markdown_summary
from workbench.reports.charts import lines
from workbench.reports.page import appendix, write_report
from workbench.runner import RunRecord

STATUS = '<span class="wb-status wb-open">· '
HEAD, CELL = r'<th scope="row"[^>]*>', r'<td data-label="{}"[^>]*>'
VALUE = CELL.format("value")
# what stands between the caption of a table and one of its rows
AGAINST, OPEN = (f"{caption}(?s:.{{1,1500}}?)" for caption in ("against each other arm", "What is open"))

# Document, place: what stands just before the text, and the field of the run that it is.
PLACES = {
    ("page", "title"): ("<title>", "title"),
    ("page", "notebook"): ("<span>", "notebook"),
    ("page", "profile"): ("<span>", "profile"),
    ("page", "status of the run"): (STATUS, "run-status"),
    ("page", "heading"): ("<h1>", "title"),
    ("page", "question of the notebook"): ('<p class="lead">', "purpose"),
    ("page", "scope: evalset"): ('<p class="scope"><span>evalset ', "decided-evalset"),
    ("page", "why the run ended"): ("how the run ended: ", "exit-reason"),
    ("page", "error message"): ("; ", "error"),
    ("page", "warning of the card"): ("</b> <span>", "warning"),
    ("page", "decision sentence: its first words"): ('<p class="sentence"><b>', "headline"),
    ("page", "decision sentence: the rest"): (":</b> ", "sentence"),
    ("page", "decided arm"): ('<p class="of">', "arm"),
    ("page", "metric among the facts"): ("<div><dt>", "metric"),
    ("page", "best other arm among the facts"): ("margin 0.02; ", "best"),
    ("page", "arm in use among the facts"): ("in use</dt><dd>.{1,60}; ", "reference"),
    ("page", "note on the decision"): ("<li>", "decision-note"),
    ("page", "what is assumed"): ("<li>", "assumed"),
    ("page", "sentence of the gate"): ("</span> <span>", "gate-sentence"),
    ("page", "gate: arm of a claim"): (HEAD, "claim-arm"),
    ("page", "gate: sentence of a claim"): (CELL.format("what was found"), "claim-sentence"),
    ("page", "decision table: label for screen readers"): ('aria-label="3 arms tested[^"]{1,120}', "metric"),
    ("page", "decision table: caption"): ("<caption>3 arms tested.{1,120}", "metric"),
    ("page", "decision table: metric as heading"): (r'<th scope="col"[^>]*>', "metric"),
    ("page", "decision table: metric as label of a cell"): ('<td data-label="', "metric"),
    ("page", "decision table: reference"): (HEAD, "reference"),
    ("page", "decision table: arm"): (HEAD, "arm"),
    ("page", "decision table: open arm"): (HEAD, "other"),
    ("page", "decision table: best other arm"): (CELL.format("that other"), "best"),
    ("page", "note on the cost"): ('<p class="note">', "cost-note"),
    ("page", "arm of a note"): ('<p class="note"><b>', "arm"),
    ("page", "reference of a note"): ('<p class="note"><b>', "reference"),
    ("page", "open arm of a note"): ('<p class="note"><b>', "other"),
    ("page", "note on an arm"): ("</b> ", "note"),
    ("page", "note on an open arm"): ("</b> ", "open-note"),
    ("page", "arm against each: label for screen readers"): ('aria-label="', "arm"),
    ("page", "arm against each: metric in the label"): ('aria-label="[^"]{1,60} against each other arm, in ', "metric"),
    ("page", "arm against each: caption"): ("<caption>", "arm"),
    ("page", "arm against each: metric in the caption"): ("<caption>.{1,60} against each other arm, in ", "metric"),
    ("page", "arm against each: reference"): (f"<caption>.{{1,60}} {AGAINST}{HEAD}", "reference"),
    ("page", "arm against each: other arm"): (f"<caption>.{{1,60}} {AGAINST}{HEAD}", "other"),
    ("page", "what would change the decision"): ("<li>", "would-change"),
    ("page", "more questions: reference"): (f"<caption>{OPEN}{HEAD}", "reference"),
    ("page", "more questions: arm"): (f"<caption>{OPEN}{HEAD}", "arm"),
    ("page", "more questions: open arm"): (f"<caption>{OPEN}{HEAD}", "other"),
    ("page", "more questions: note in their place"): (CELL.format("more questions needed"), "open-note"),
    ("page", "case: title"): ('<h2 id="regressions">', "regressions-title"),
    ("page", "case: question"): ('<span class="question">', "question"),
    ("page", "case: item id"): ("<code>", "item"),
    ("page", "case: note"): ('<p class="muted">', "case-note"),
    ("page", "case: expected document"): ('<span class="hit">', "expected"),
    ("page", "case: arm"): ("<div><dt>", "case-arm"),
    ("page", "case: document id"): ('<span class="hit">', "document"),
    ("page", "section: title"): ("<h2>", "section"),
    ("page", "section: note"): ('<p class="note">', "section-note"),
    ("page", "section: label for screen readers"): ('aria-label="', "section"),
    ("page", "section: first heading"): (r'<th scope="col"[^>]*>', "first-column"),
    ("page", "section: heading"): (r'<th scope="col"[^>]*>', "column"),
    ("page", "section: head of a row"): (HEAD, "row-head"),
    ("page", "section: label of a cell"): ('<td data-label="', "column"),
    ("page", "section: cell"): (r'<td data-label="[^>]{1,80}"[^>]*>', "cell"),
    ("page", "run: folder"): (VALUE, "folder"),
    ("page", "run: seed"): (VALUE, "seed"),
    ("page", "run: when it began"): (VALUE, "started"),
    ("page", "run: when it ended"): (VALUE, "ended"),
    ("page", "folder in the last line"): ("<code>", "folder"),
    ("page", "run: status"): (VALUE, "run-status"),
    ("page", "run: notebook"): (VALUE, "notebook"),
    ("page", "run: profile"): (VALUE, "profile"),
    ("page", "run: why it ended"): (VALUE, "exit-reason"),
    ("page", "run: gate"): (VALUE, "run-gate"),
    ("page", "parameters: evalset name"): (VALUE, "evalset"),
    ("page", "parameters: name"): (HEAD, "parameter-name"),
    ("page", "parameters: value"): (VALUE, "parameter"),
    ("page", "parameters: source of a system, in a list"): (VALUE + r"\[&quot;", "system"),
    ("page", "rule: metric"): (VALUE, "metric"),
    ("page", "rule: objective"): (VALUE, "objective"),
    ("page", "rule: reference"): (VALUE, "reference"),
    ("page", "rule: anchor"): (VALUE, "anchor"),
    ("page", "rule: profile"): (VALUE, "decision-profile"),
    ("page", "rule: when it was accepted"): (VALUE, "accepted-on"),
    ("page", "rule: why it was accepted"): (VALUE + ".{1,60}: ", "reason"),
    ("page", "decided arm: name"): (VALUE, "arm"),
    ("page", "decided arm: name of a parameter"): (HEAD, "arm-parameter-name"),
    ("page", "decided arm: parameter"): (VALUE, "arm-parameter"),
    ("page", "fingerprint: name of an input"): (HEAD, "input-name"),
    ("page", "fingerprint: input"): (VALUE, "input"),
    ("page", "provenance: name"): (HEAD, "provenance-name"),
    ("page", "provenance: value"): (VALUE, "provenance"),
    ("page", "slowest cells: first line"): (CELL.format("first line"), "source"),
    ("markdown", "heading"): (": ", "title"),
    ("markdown", "why the run ended"): ("how the run ended: ", "exit-reason"),
    ("markdown", "error message"): ("; ", "error"),
    ("markdown", "warning of the card"): (r"Warnings: 1</summary>\n\n- ", "warning"),
    ("markdown", "decision sentence: its first words"): (r"\. ", "headline"),
    ("markdown", "decision sentence: the rest"): (": ", "sentence"),
    ("markdown", "scope: evalset"): ("\nevalset ", "decided-evalset"),
    ("markdown", "note on the decision"): ("\n- ", "decision-note"),
    ("markdown", "what is assumed"): ("\n- ", "assumed"),
    ("markdown", "sentence of the gate"): (r"\*\* ", "gate-sentence"),
    ("markdown", "gate: arm of a claim"): (r"\| ", "claim-arm"),
    ("markdown", "gate: sentence of a claim"): (r"\| ", "claim-sentence"),
    ("markdown", "decision table: caption"): ("3 arms tested.{1,120}", "metric"),
    ("markdown", "decision table: metric as heading"): (r"\| ", "metric"),
    ("markdown", "decision table: reference"): (r"\| ", "reference"),
    ("markdown", "decision table: arm"): (r"\| ", "arm"),
    ("markdown", "decision table: open arm"): (r"\n\| ", "other"),
    ("markdown", "decision table: best other arm"): (r"\| ", "best"),
    ("markdown", "arm against each: caption"): (r"\n\n", "arm"),
    ("markdown", "arm against each: metric in the caption"): (" against each other arm, in ", "metric"),
    ("markdown", "arm against each: reference"): (AGAINST + r"\n\| ", "reference"),
    ("markdown", "arm against each: other arm"): (AGAINST + r"\n\| ", "other"),
    ("markdown", "more questions: reference"): (OPEN + r"\n\| ", "reference"),
    ("markdown", "more questions: arm"): (OPEN + r"\n\| ", "arm"),
    ("markdown", "more questions: open arm"): (OPEN + r"\n\| ", "other"),
    ("markdown", "more questions: note in their place"): (OPEN + r"\| ", "open-note"),
    ("markdown", "note on the cost"): (r"\n\n", "cost-note"),
    ("markdown", "what would change the decision"): ("- ", "would-change"),
    ("markdown", "case: title"): ("<summary>", "regressions-title"),
    ("markdown", "case: question"): (r"\n- ", "question"),
    ("markdown", "case: expected document"): ("  - expected: ", "expected"),
    ("markdown", "case: arm"): ("  - ", "case-arm"),
    ("markdown", "case: document id"): (r"0\.500: ", "document"),
    ("markdown", "section: title"): ("<summary>", "section"),
    ("markdown", "section: note"): (r"\n\n", "section-note"),
    ("markdown", "section: first heading"): (r"\n\| ", "first-column"),
    ("markdown", "section: heading"): (r" \| ", "column"),
    ("markdown", "section: head of a row"): (r"\n\| ", "row-head"),
    ("markdown", "section: cell"): (r" \| ", "cell"),
    ("junit", "name of the suite"): (r'<testsuite name="workbench\.', "suite"),
    ("junit", "class of a test"): (r'classname="workbench\.', "suite"),
    ("junit", "when the run began"): (' timestamp="', "started"),
    ("junit", "status of the run"): ('<error type="', "run-status"),
    ("junit", "why the run ended"): ("how the run ended: ", "exit-reason"),
    ("junit", "error message"): ("; ", "error"),
    ("junit", "name of a test: arm of a claim"): (' name="', "claim-arm"),
    ("junit", "sentence of a claim"): (' message="', "claim-sentence"),
    ("text table", "caption"): ("^", "caption"),
    ("text table", "heading"): (r"\n", "heading"),
    ("text table", "cell"): (r"\n", "cell"),
    ("progress", "label"): ("<label>", "label"),
    ("progress as text", "label"): ("^", "label"),
    ("page of rates", "heading"): ("<h1>", "title"),
    ("page of rates", "decision table: metric as heading"): (r'<th scope="col"[^>]*>', "metric"),
    ("page of rates", "best other arm among the facts"): ("alpha 0.02; ", "best"),
    ("markdown of rates", "decision sentence: its first words"): (r"\. ", "headline"),
    ("markdown of rates", "decision table: metric as heading"): (r"\| ", "metric"),
    ("bare page", "title"): ("<title>", "folder"),
    ("bare page", "heading"): ("<h1>", "folder"),
    ("bare page", "decision that cannot be read"): ("decision.json cannot be read .{1,400}", "strange-field"),
    ("bare page", "where it stands"): ("decision.json cannot be read .{1,200}", "folder"),
    ("bare page", "where the summary stands"): ("summary.json cannot be read .{1,200}", "folder"),
    ("bare page", "summary that cannot be read"): ("summary.json cannot be read .{1,200}", "foreign-field"),
    ("bare page", "sentence of the gate as the verdict"): ('<p class="sentence"><b>', "gate-sentence"),
    ("bare markdown", "heading"): (": ", "folder"),
    ("bare markdown", "decision that cannot be read"): ("decision.json cannot be read .{1,400}", "strange-field"),
    ("bare markdown", "where it stands"): ("decision.json cannot be read .{1,200}", "folder"),
    ("bare markdown", "where the summary stands"): ("summary.json cannot be read .{1,200}", "folder"),
    ("bare markdown", "summary that cannot be read"): ("summary.json cannot be read .{1,200}", "foreign-field"),
    ("bare markdown", "sentence of the gate as the verdict"): (r"\n\*\*", "gate-sentence"),
    ("bare junit", "decision that cannot be read"): ("decision.json cannot be read .{1,400}", "strange-field"),
    ("bare junit", "where it stands"): ("decision.json cannot be read .{1,200}", "folder"),
    ("bare junit", "where the summary stands"): ("summary.json cannot be read .{1,200}", "folder"),
    ("bare junit", "summary that cannot be read"): ("summary.json cannot be read .{1,200}", "foreign-field"),
    ("sanitized", "text"): ("<p>", "words"),
    ("sanitized attribute", "value"): ('<p title="', "attribute"),
    ("sanitized", "address of a link"): (r"there \(", "address"),
    ("appendix", "comment in code"): (r'<span class="c1"># ', "comment"),
    ("appendix", "printed text"): ("<pre>printed: ", "printed"),
    ("appendix", "plain value"): ("<pre>plain: ", "plain"),
    ("appendix", "error"): ("<pre>raised: ", "raised"),
    ("appendix", "HTML value"): ("<p>HTML: ", "html"),
    ("appendix", "Markdown"): ("<p>Markdown: ", "markdown"),
}  # fmt: skip
# Documents that have the places of another one too, and some of their own.
LIKE = {
    "page of rates": "page", "markdown of rates": "markdown", "bare page": "page", "bare markdown": "markdown",
    "bare junit": "junit",
}  # fmt: skip
# What no text of others may hold as it is. JUnit's XML has attributes in double quotes alone.
UNSAFE = {
    "markdown": "<>[]|*", "junit": '<>"', "text table": "", "progress as text": "",
    # what a browser would write: a quote is nothing in text, nor a single one within double ones
    "sanitized": "<>", "sanitized attribute": '<>"', "appendix": "<>",
}  # fmt: skip
HTML = "<>\"'"


@cache
def sources() -> dict[str, str]:
    """Every document as text, made once from three hostile runs."""
    with TemporaryDirectory() as folder:
        run = hostile_run(Path(folder) / evil("folder"))
        rates = hostile_run(Path(folder) / "rates" / evil("folder"), of_rates=True)
        bare = bare_run(Path(folder) / "bare" / evil("folder"))
        page, figures = _page(run)
        page_of_rates, figures_of_rates = _page(rates)
        progress = Progress(evil("label"), 3)
        return {
            "page": page,
            "page of rates": page_of_rates,
            "bare page": _page(bare)[0],
            **dict(zip(("forest", "frontier", "slices", "weeks"), figures, strict=False)),
            "forest of rates": figures_of_rates[0],
            "lines": lines({evil("line"): [(1.0, 2.0)]}, evil("across"), evil("up"), limit=1.0).to_html(),
            "markdown": markdown_summary(run),
            "markdown of rates": markdown_summary(rates),
            "bare markdown": markdown_summary(bare),
            "junit": junit_xml({evil("suite"): run}),
            "bare junit": junit_xml({evil("suite"): bare}),
            "text table": Table((Column(evil("heading")),), ((evil("cell"),),), evil("caption")).to_text(),
            "progress": progress._repr_mimebundle_()["text/html"],
            "progress as text": repr(progress),
            "sanitized": sanitize(_foreign(), prefix="x-"),
            "sanitized attribute": sanitize(f'<p title="{_as_text("attribute")}">x</p>', prefix="x-"),
            "appendix": appendix(_notebook()),
        }


def _page(run: Path) -> tuple[str, list[str]]:
    """Report of a run without its figures, and these; the notebook's own ones come last."""
    page = write_report(run).read_text(encoding="utf-8")
    figures = "<figure.*?</figure>"
    return re.sub(figures, "", page, flags=re.DOTALL), re.findall(figures, page, re.DOTALL)


def _as_text(name: str) -> str:
    return evil(name).replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")


def _foreign() -> str:
    words, address = map(_as_text, ("words", "address"))
    return f'<p>{words}</p><a href="{address}">there</a>'


def _notebook() -> dict[str, object]:
    book = samples.notebook()
    book["cells"][0]["source"] = f"Markdown: {_as_text('markdown')}".replace("*", "&#42;")
    book["cells"][2]["source"] = f"# {evil('comment')}"
    shown = [
        {"output_type": "stream", "name": "stdout", "text": f"printed: {evil('printed')}"},
        {"output_type": "display_data", "metadata": {}, "data": {"text/plain": f"plain: {evil('plain')}"}},
        {"output_type": "display_data", "metadata": {}, "data": {"text/html": f"<p>HTML: {_as_text('html')}</p>"}},
        {"output_type": "error", "ename": "E", "evalue": "", "traceback": [f"raised: {evil('raised')}"]},
    ]
    book["cells"][2]["outputs"] = shown
    return book


@pytest.mark.parametrize(("document", "place"), PLACES, ids=[": ".join(place) for place in PLACES])
def test_text_of_others_is_shown_and_is_nothing_but_text(document: str, place: str) -> None:
    before, field = PLACES[document, place]
    found = hostile_spans(sources()[document], field, before)
    assert found, f"{field} is not shown there"
    defects = [defect_of(match["shown"], field, UNSAFE.get(LIKE.get(document, document), HTML)) for match in found]
    assert not any(defects), defects


@pytest.mark.parametrize("document", dict.fromkeys(document for document, _ in PLACES))
def test_every_place_has_its_case(document: str) -> None:
    source = sources()[document]
    cases = [case for (name, _), case in PLACES.items() if name in (document, LIKE.get(document))]
    found = [(match, field) for before, field in cases for match in hostile_spans(source, field, before)]
    held = {match.start("shown") for match, _ in found}
    missed = [source[max(m.start() - 60, 0) : m.end()] for m in hostile_spans(source) if m.start() not in held]
    assert missed == []
    # places that the document shares with another one are shown as safely here
    defects = [
        defect_of(match["shown"], field, UNSAFE.get(LIKE.get(document, document), HTML)) for match, field in found
    ]
    assert not any(defects), defects


# Of the sample's values: words of which only ours are read, a day, and the number that a note stands for.
STATUSES = {f"claims.{i}.{what}" for i in range(3) for what in ("status", "pairs.0.status", "pairs.1.status")}
OURS = {
    "decision.json": {"verdict", "rule.direction", "claims.2.items_needed", *STATUSES},
    "gate.json": {"status", "claims.0.kind", "claims.0.status"},
    "summary.json": {"sections.1.title", "weeks.0.week"},
}


@pytest.mark.parametrize("name", ["run.json", "decision.json", "gate.json", "summary.json"])
def test_every_text_that_a_run_stores_is_hostile_in_the_sample(name: str, tmp_path: Path) -> None:
    stored = json.loads((hostile_run(tmp_path / "run") / name).read_text(encoding="utf-8"))
    assert {field.name for field in fields(RunRecord)} - {"run_dir"} <= stored.keys() or name != "run.json"
    assert tame(stored) == OURS.get(name, set())


def tame(value: object, path: str = "") -> set[str]:
    """Paths of the texts, lists and objects of a JSON value that are harmless or empty."""
    if isinstance(value, dict | list) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {found for name, item in items for found in tame(item, f"{path}.{name}".lstrip("."))}
    return set() if isinstance(value, int | float) or (isinstance(value, str) and "\u202e" in value) else {path}


FIGURES = {
    "forest": "metric reference arm other best",
    "forest of rates": "metric reference arm other best",
    "frontier": "metric point s",
    "slices": "metric slice slice-arm tenant",
    "lines": "line across up",
    "weeks": "group week",
}
PARTS = {
    "alt text": 'aria-label="([^"]*)"',
    "title": "<title>(.*?)</title>",
    "drawn text": "<text[^>]*>(.*?)</text>",
    "list": "(?:<span>|<small>)(.*?)</(?:span|small)>",
    "caption": "<figcaption>(.*?)</figcaption>",
    "numbers": "(?:<caption>|<th [^>]*>|<td[^>]*>(?:<span[^>]*>)?)(.*?)</(?:caption|th|td|span)>",
}

LEFT_OUT = {
    ("forest", "alt text"): "best", ("forest", "title"): "best", ("forest", "list"): "metric best",
    ("forest", "drawn text"): "reference arm other best",
    ("forest", "caption"): "reference arm other best", ("frontier", "alt text"): "s", ("frontier", "title"): "s",
    ("frontier", "caption"): "point s", ("frontier", "drawn text"): "point s", ("frontier", "list"): "metric",
    ("lines", "caption"): "line", ("lines", "drawn text"): "line", ("lines", "list"): "across up",
    ("slices", "caption"): "slice slice-arm tenant", ("slices", "drawn text"): "slice-arm",
    ("slices", "list"): "metric slice tenant",
    ("weeks", "alt text"): "week", ("weeks", "title"): "week", ("weeks", "drawn text"): "week",
    ("weeks", "list"): "group week", ("weeks", "caption"): "group week",
}  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("figure", FIGURES)
def test_names_in_a_figure_are_shown_and_are_nothing_but_text(figure: str, part: str) -> None:
    texts = re.findall(PARTS[part], sources()[figure], re.DOTALL)
    wanted = set(FIGURES[figure].split()) - set(LEFT_OUT.get((figure.removesuffix(" of rates"), part), "").split())
    assert not [text for text in texts if "<" in text or "\u202e" in text]
    # a drawn name may be cut to its width, but not before it is told apart
    assert wanted <= set(re.findall(r"&lt;b\[U\+202E\] ([a-z-]+)", " ".join(texts)))


OUTPUTS = {
    "printed text": {"output_type": "stream", "name": "stdout", "text": "{}"},
    "HTML": {"output_type": "display_data", "metadata": {}, "data": {"text/html": "{}"}},
    "plain text": {"output_type": "display_data", "metadata": {}, "data": {"text/plain": "{}"}},
    "Markdown": {"output_type": "display_data", "metadata": {}, "data": {"text/markdown": "{}"}},
    "LaTeX": {"output_type": "display_data", "metadata": {}, "data": {"text/latex": "{}"}},
    "SVG": {"output_type": "display_data", "metadata": {}, "data": {"image/svg+xml": "<svg onload=x>{}</svg>"}},
    "script": {
        "output_type": "display_data",
        "metadata": {},
        "data": {"application/javascript": "{}", "text/plain": "{}"},
    },
    "error": {"output_type": "error", "ename": "{}", "evalue": "{}", "traceback": ["{}"]},
}
ATTACK = "</details><script>alert(1)</script><img src=//x onerror=alert(1)><style>*{}</style><a href=javascript:x>x</a>"


@pytest.mark.parametrize("kind", OUTPUTS)
def test_an_output_of_the_notebook_brings_nothing_that_runs_or_loads(kind: str) -> None:
    book = samples.notebook()
    book["cells"][2]["outputs"] = [_filled(OUTPUTS[kind])]
    html = appendix(book)
    read = Read(html)
    assert set(read.tags) <= ALLOWED
    assert not [name for name in read.attributes if name.startswith("on")]
    assert not re.findall(r'<[^>]* (?:href|src)="(?!#|data:image/)', html)


def _filled(value: object) -> object:
    if isinstance(value, dict):
        return {name: _filled(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_filled(item) for item in value]
    return value.replace("{}", ATTACK) if isinstance(value, str) else value
