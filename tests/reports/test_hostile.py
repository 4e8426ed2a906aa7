"""Text of others at each place where a report shows it: each place has its own case, so that a failure names it."""

import re
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.rendering.test_waterfall import Read
from tests.reports import samples
from tests.reports.hostile import defect_of, evil, hostile_run, hostile_spans
from tests.reports.reading import ALLOWED
from workbench.rendering.progress import Progress
from workbench.rendering.sanitize import sanitize
from workbench.rendering.table import Column, Table
from workbench.reports.figures import lines
from workbench.reports.html import write_report
from workbench.reports.junit import junit_xml
from workbench.reports.markdown import markdown_summary
from workbench.reports.notebook import appendix

STATUS = '<span class="wb-status wb-open">· '
HEAD, CELL = r'<th scope="row"[^>]*>', r'<td data-label="{}"[^>]*>'
VALUE = CELL.format("value")

# Document, place: what stands just before the text, and the field of the run that it is.
PLACES = {
    ("page", "title"): ("<title>", "title"),
    ("page", "title: verdict"): ("<title>.{1,90}: ", "verdict"),
    ("page", "notebook"): ("<span>", "notebook"),
    ("page", "profile"): ("<span>", "profile"),
    ("page", "status of the run"): (STATUS, "run-status"),
    ("page", "heading"): ("<h1>", "title"),
    ("page", "question of the notebook"): ('<p class="lead">', "purpose"),
    ("page", "why the run ended"): ("how the run ended: ", "exit-reason"),
    ("page", "error message"): ("; ", "error"),
    ("page", "warning of the card"): ("</b> <span>", "warning"),
    ("page", "verdict"): ('<p class="label">', "verdict"),
    ("page", "decision sentence"): ('<p class="sentence"><b>', "sentence"),
    ("page", "evalset in the head"): ("<span>evalset ", "evalset-name"),
    ("page", "note beside the verdict"): ("<li>", "beside"),
    ("page", "what is assumed"): ("<li>", "assumed"),
    ("page", "decided arm"): ('<p class="of">', "arm"),
    ("page", "metric among the facts"): ("<div><dt>", "metric"),
    ("page", "status of the gate"): (STATUS, "gate-status"),
    ("page", "sentence of the gate"): ("</span> <span>", "gate-sentence"),
    ("page", "gate: arm of a claim"): (HEAD, "claim-arm"),
    ("page", "gate: kind of a claim"): (CELL.format("claim"), "claim-kind"),
    ("page", "gate: status of a claim"): (STATUS, "claim-status"),
    ("page", "gate: sentence of a claim"): (CELL.format("what was found"), "claim-sentence"),
    ("page", "decision table: label for screen readers"): (r'aria-label="[^"]*at most 0\.02 ', "metric"),
    ("page", "decision table: caption"): (r"<caption>[^<]*at most 0\.02 ", "metric"),
    ("page", "decision table: best other arm"): (CELL.format("that other"), "arm"),
    ("page", "decision table: best other reference"): (CELL.format("that other"), "reference"),
    ("page", "best other among the facts"): (r"<small>[^<]*margin 0\.02; ", "reference"),
    ("page", "against each other: caption"): ("<caption>", "arm"),
    ("page", "against each other: metric in its caption"): ("other arm, in ", "metric"),
    ("page", "against each other: label for screen readers"): ('aria-label="', "arm"),
    ("page", "against each other: heading"): (r'<th scope="col"[^>]*>', "arm"),
    ("page", "against each other: label of a cell"): ('<td data-label="', "arm"),
    ("page", "decision table: metric as heading"): (r'<th scope="col"[^>]*>', "metric"),
    ("page", "decision table: metric as label of a cell"): ('<td data-label="', "metric"),
    ("page", "decision table: reference"): (HEAD, "reference"),
    ("page", "decision table: arm"): (HEAD, "arm"),
    ("page", "decision table: status"): (STATUS, "status"),
    ("page", "note on the cost"): ('<p class="note">', "cost-note"),
    ("page", "arm of a note"): ('<p class="note"><b>', "arm"),
    ("page", "reference of a note"): ('<p class="note"><b>', "reference"),
    ("page", "note on an arm"): ("</b> ", "note"),
    ("page", "what would change the decision"): ("<li>", "would-change"),
    ("page", "heading of the losses"): ('<h2 id="regressions">', "losses"),
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
    ("page", "rule: why it was accepted"): (VALUE + "2026-11-20: ", "reason"),
    ("page", "decided arm: name"): (VALUE, "arm"),
    ("page", "decided arm: name of a parameter"): (HEAD, "arm-parameter-name"),
    ("page", "decided arm: parameter"): (VALUE, "arm-parameter"),
    ("page", "fingerprint: name of an input"): (HEAD, "input-name"),
    ("page", "fingerprint: input"): (VALUE, "input"),
    ("page", "provenance: name"): (HEAD, "provenance-name"),
    ("page", "provenance: value"): (VALUE, "provenance"),
    ("page", "slowest cells: first line"): (CELL.format("first line"), "source"),
    ("markdown", "status"): ("### · ", "gate-status"),
    ("markdown", "heading"): (": ", "title"),
    ("markdown", "why the run ended"): ("how the run ended: ", "exit-reason"),
    ("markdown", "error message"): ("; ", "error"),
    ("markdown", "warning of the card"): (r"\n- ", "warning"),
    ("markdown", "evalset"): (r"\n\nevalset ", "evalset-name"),
    ("markdown", "note beside the verdict"): (r"\n- ", "beside"),
    ("markdown", "what is assumed"): (r"\n- ", "assumed"),
    ("markdown", "heading of the losses"): ("<summary>", "losses"),
    ("markdown", "verdict"): (r"\n\*\*", "verdict"),
    ("markdown", "decision sentence"): (r"\. ", "sentence"),
    ("markdown", "status of the gate"): (r"Gate: \*\*· ", "gate-status"),
    ("markdown", "sentence of the gate"): (r"\*\* ", "gate-sentence"),
    ("markdown", "gate: arm of a claim"): (r"\| ", "claim-arm"),
    ("markdown", "gate: kind of a claim"): (r"\| ", "claim-kind"),
    ("markdown", "gate: status of a claim"): (r"\| · ", "claim-status"),
    ("markdown", "gate: sentence of a claim"): (r"\| ", "claim-sentence"),
    ("markdown", "decision table: caption"): (r"at most 0\.02 ", "metric"),
    ("markdown", "against each other: caption"): (r"\n\n", "arm"),
    ("markdown", "against each other: metric in its caption"): ("other arm, in ", "metric"),
    ("markdown", "against each other: heading"): (r" \| ", "arm"),
    ("markdown", "decision table: metric as heading"): (r"\| ", "metric"),
    ("markdown", "decision table: reference"): (r"\| ", "reference"),
    ("markdown", "decision table: arm"): (r"\| ", "arm"),
    ("markdown", "decision table: status"): (r"\| · ", "status"),
    ("markdown", "note on the cost"): (r"\n\n", "cost-note"),
    ("markdown", "what would change the decision"): ("- ", "would-change"),
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
    ("junit", "kind of a claim in its class"): (r"\.", "claim-kind"),
    ("junit", "name of a test: arm of a claim"): (' name="', "claim-arm"),
    ("junit", "status of a claim"): ('<failure type="', "claim-status"),
    ("junit", "sentence of a claim"): (' message="', "claim-sentence"),
    ("text table", "caption"): ("^", "caption"),
    ("text table", "heading"): (r"\n", "heading"),
    ("text table", "cell"): (r"\n", "cell"),
    ("progress", "label"): ("<label>", "label"),
    ("sanitized", "text"): ("<p>", "words"),
    ("sanitized", "attribute"): ('<p title="', "attribute"),
    ("sanitized", "address of a link"): (r"there \(", "address"),
    ("appendix", "comment in code"): (r'<span class="c1"># ', "comment"),
    ("appendix", "printed text"): ("<pre>printed: ", "printed"),
    ("appendix", "plain value"): ("<pre>plain: ", "plain"),
    ("appendix", "error"): (r"<pre>\nraised: ", "raised"),
    ("appendix", "HTML value"): ("<p>HTML: ", "html"),
    ("appendix", "Markdown"): ("<p>Markdown: ", "markdown"),
}  # fmt: skip
# What no text of others may hold as it is. JUnit's XML has attributes in double quotes alone.
UNSAFE = {"markdown": "<>[]|*", "junit": '<>"', "text table": ""}
HTML = "<>\"'"


@cache
def sources() -> dict[str, str]:
    """Every document as text, made once from one hostile run."""
    with TemporaryDirectory() as folder:
        run = hostile_run(Path(folder) / evil("folder"))
        page = write_report(run).read_text(encoding="utf-8")
        figures = re.findall("<figure.*?</figure>", page, re.DOTALL)  # the notebook's own ones come last
        return {
            "page": re.sub("<figure.*?</figure>", "", page, flags=re.DOTALL),
            **dict(zip(("forest", "frontier", "slices"), figures, strict=False)),
            "lines": lines({evil("line"): [(1.0, 2.0)]}, evil("across"), evil("up"), limit=1.0).to_html(),
            "markdown": markdown_summary(run),
            "junit": junit_xml({evil("suite"): run}),
            "text table": Table((Column(evil("heading")),), ((evil("cell"),),), evil("caption")).to_text(),
            "progress": Progress(evil("label"), 3)._repr_mimebundle_()["text/html"],
            "sanitized": sanitize(_foreign(), prefix="x-"),
            "appendix": appendix(_notebook()),
        }


def _as_text(name: str) -> str:
    return evil(name).replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")


def _foreign() -> str:
    attribute, words, address = map(_as_text, ("attribute", "words", "address"))
    return f'<p title="{attribute}">x</p><p>{words}</p><a href="{address}">there</a>'


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
    defects = [defect_of(match["shown"], field, UNSAFE.get(document, HTML)) for match in found]
    assert not any(defects), defects


@pytest.mark.parametrize("document", dict.fromkeys(document for document, _ in PLACES))
def test_every_place_has_its_case(document: str) -> None:
    source = sources()[document]
    cases = [case for (name, _), case in PLACES.items() if name == document]
    held = {match.start("shown") for before, field in cases for match in hostile_spans(source, field, before)}
    missed = [source[max(m.start() - 60, 0) : m.end()] for m in hostile_spans(source) if m.start() not in held]
    assert missed == []


FIGURES = {
    "forest": "metric reference arm status",
    "frontier": "metric point",
    "slices": "metric slice slice-arm tenant",
    "lines": "line across up",
}
PARTS = {
    "alt text": 'aria-label="([^"]*)"',
    "title": "<title>(.*?)</title>",
    "drawn text": "<text[^>]*>(.*?)</text>",
    "caption": "<figcaption>(.*?)</figcaption>",
    "numbers": "(?:<caption>|<th [^>]*>|<td[^>]*>(?:<span[^>]*>)?)(.*?)</(?:caption|th|td|span)>",
}
LEFT_OUT = {("forest", "caption"): "arm status reference", ("frontier", "caption"): "point",
            ("lines", "caption"): "line", ("slices", "caption"): "slice slice-arm tenant"}  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("figure", FIGURES)
def test_names_in_a_figure_are_shown_and_are_nothing_but_text(figure: str, part: str) -> None:
    texts = re.findall(PARTS[part], sources()[figure], re.DOTALL)
    wanted = set(FIGURES[figure].split()) - set(LEFT_OUT.get((figure, part), "").split())
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
