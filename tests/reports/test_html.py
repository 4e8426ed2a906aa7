import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, fields, is_dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.reports import samples
from tests.reports.drawn import drawn
from tests.reports.reading import Page
from workbench.errors import RunError
from workbench.evaluation.gate import check_gate
from workbench.evaluation.run_summary import Summary
from workbench.records import Decision, Fingerprint, Rule
from workbench.rendering.table import Column, Table
from workbench.reports.brief import markdown_summary
from workbench.reports.page import _breaks, _layout, write_report

HOSTILE = {
    "markup": "<script>alert(1)</script>\"><img src=x onerror=alert(1)>'><svg/onload=alert(1)>",
    "ending first": "</details></section></style></textarea></title>--></svg><script src=//x></script>",
    "templates": "{{ 7 * 7 }}{% for x in y %}{% endfor %} $\\frac{1}{0}$ **b** `c` | d [x](javascript:f)",
    "invisible": "a\x00b\x1b[31mc\x7f\x85d \u202egnp.exe\u2066 \ud83d שלום 日本語",
    "long": "x" * 100_000,
}


RULE = Rule("ndcg@10", "usd_per_1k_requests", "plain", 0.05, 0.95)
NAMES = ("plain", "cheap", "rich")
DECIDED: dict[str, Callable[[], Decision]] = {
    "chosen": lambda: drawn(RULE, [0.6, 0.6, 0.3], [2.0, 0.1, 0.1], names=NAMES),
    "upgrade": lambda: drawn(replace(RULE, point_usd=50.0), [0.6, 0.3, 0.8], [0.1, 0.1, 1.2], names=NAMES),
    "keep_reference": lambda: drawn(RULE, [0.6, 0.3, 0.3], [0.1, 0.1, 0.1], names=NAMES),
    "inconclusive": lambda: drawn(RULE, [0.6, 0.6, 0.6], [0.1, 0.1, 0.1], names=NAMES, n_clusters=8),
    "none_meets_floor": lambda: drawn(replace(RULE, floor=0.9), [0.6, 0.3, 0.3], [0.1, 0.1, 0.1], names=NAMES),
}


def spoiled(value: Any, text: str) -> Any:
    """A stored value with every free text in it replaced."""
    if is_dataclass(value):
        fixed = {"status", "verdict"}
        return replace(
            value, **{f.name: spoiled(getattr(value, f.name), text) for f in fields(value) if f.name not in fixed}
        )
    if isinstance(value, dict):
        kept = {"status", "exit_code", "kind", "claims"}
        return {
            k if k in kept or not v else k + text[:2000]: v if k in kept else spoiled(v, text) for k, v in value.items()
        }
    if isinstance(value, tuple | list):
        return type(value)(spoiled(v, text) for v in value)
    return text if isinstance(value, str) else value


def spoiled_notebook(text: str) -> dict[str, Any]:
    book = samples.notebook()
    svg = f"<svg onload='alert(1)'>{text}</svg>"
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": text},
        {"output_type": "display_data", "metadata": {}, "data": {"text/html": text, "text/plain": text}},
        {
            "output_type": "display_data",
            "metadata": {},
            "data": {"application/javascript": "alert(1)", "text/plain": text},
        },
        {"output_type": "display_data", "metadata": {}, "data": {"text/markdown": text}},
        {"output_type": "display_data", "metadata": {}, "data": {"text/latex": text}},
        {"output_type": "display_data", "metadata": {}, "data": {"image/svg+xml": svg}},
        {"output_type": "error", "ename": text, "evalue": text, "traceback": [text]},
    ]
    safe = json.loads(json.dumps(outputs).replace("\\ud83d", ""))  # a notebook file is UTF-8: no lone surrogates
    book["cells"][2]["outputs"] = safe
    book["cells"][0]["source"] = safe[0]["text"]
    book["cells"][3]["source"] = safe[0]["text"]
    return book


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(write_report(samples.write_run(tmp_path_factory.mktemp("runs") / "run")))


def test_the_verdict_stands_first_and_what_weakens_it_right_below(page: Page) -> None:
    wanted = [
        "evalset docs_qa", "5,948 documents", "300 test questions in 104 families", "40 dev families",
        samples.decision().sentence, "The accepted decision still holds", samples.decision().notes[0],
        "100,000 requests a month are assumed", "1 warning", "2 of 300 questions failed", "Decision table",
        "Cost is counted tokens", "Differences from the best other arm for the money", "Against each other arm",
        "Quality against cost",
        "What would change the decision", "Slices", "Items that changed", f"Where {samples.CHOSEN} loses most against",
        "Power before the arms ran",
        "Parameters, rule and fingerprint", "Slowest cells", "The executed notebook",
    ]  # fmt: skip
    places = [page.text.index(part) for part in wanted]
    assert places == sorted(places)


def test_warnings_are_folded_and_notes_are_not(page: Page) -> None:
    folded = page.source.partition('<details class="warnings">')[2].partition("</details>")[0]
    assert "2 of 300 questions failed" in folded
    assert samples.decision().notes[0] not in folded


def test_the_headline_says_where_another_arm_was_nearly_chosen(tmp_path: Path) -> None:
    said = "a close call: chosen in 64 % of 200 resamples"
    assert said in Page(write_report(samples.write_run(tmp_path / "a"))).text
    steady = replace(samples.decision(), chosen_share={samples.CHOSEN: 0.8, "": 0.2})
    assert "a close call" not in Page(write_report(samples.write_run(tmp_path / "b", decided=steady))).text


def test_money_is_told_a_month_and_an_assumed_volume_is_called_assumed(tmp_path: Path) -> None:
    run = samples.write_run(tmp_path / "a")
    page = Page(write_report(run))
    assert "a month at 100,000 requests (assumed) $4.12" in page.text
    assert not re.search(r"\de-\d", page.text)
    set_by_us = replace(samples.summary(), assumed={})
    told = Page(write_report(samples.write_run(tmp_path / "b", summed=set_by_us))).text
    assert "a month at 100,000 requests" in told
    assert "assumed" not in told.partition("The executed notebook")[0]


def test_it_is_one_file_that_loads_and_runs_nothing(page: Page) -> None:
    page.assert_harmless()
    assert page.count("script") == page.count("link") == page.count("iframe") == 0
    assert len(page.source) < 400_000


def test_one_h1_and_no_skipped_level(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_every_figure_has_alt_text_and_its_numbers(page: Page) -> None:
    drawings = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert len(drawings) == 3 + 1  # and the notebook's own
    assert all(attrs["role"] == "img" and len(attrs["aria-label"]) > 40 for attrs in drawings)
    assert page.source.count("Numbers of this figure") == page.count("figure") == 4


def test_no_id_stands_twice_and_every_reference_has_its_target(page: Page) -> None:
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {attrs["href"][1:] for tag, attrs in page.tags if tag == "use"} <= set(ids)


def test_the_same_folder_gives_the_same_bytes(tmp_path: Path) -> None:
    run = samples.write_run(tmp_path / "run")
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first
    shutil.copytree(run, tmp_path / "elsewhere" / "run")
    assert write_report(tmp_path / "elsewhere" / "run").read_bytes() == first


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_in_every_field_stays_text(tmp_path: Path, text: str) -> None:
    plain = text.replace("\ud83d", "")
    run = samples.write_run(
        tmp_path / "run",
        run={**spoiled(samples.run_record(), text), "status": "failed", "error": text, "notebook": text},
        decided=spoiled(samples.decision(), plain),
        gated=spoiled(samples.gate(), text) | {"claims": [spoiled(c, text) for c in samples.gate()["claims"]]},
        summed=spoiled(samples.summary(), plain),
        executed=spoiled_notebook(text),
    )
    page = Page(write_report(run))
    page.assert_harmless()
    assert text[0] != "{" or "{{ 7 * 7 }}" in page.text
    assert not set("\x00\x1b\x7f\x85\u202e\u2066") & set(page.source)
    assert len(page.source) < 3_000_000


def test_a_failed_run_says_so_first(tmp_path: Path) -> None:
    failed = samples.run_record() | {"status": "failed", "error": "KeyError: 'k'", "exit_reason": "cell 7 raised"}
    (tmp_path / "run.json").write_text(json.dumps(failed))
    page = Page(write_report(tmp_path))
    page.assert_harmless()
    assert page.text.index("The run failed: cell 7 raised; KeyError: 'k'") < page.text.index("No verdict")
    assert "The run stored no decision, no gate result, no summary." in page.text
    assert page.count("figure") == 0


@pytest.mark.parametrize(
    ("status", "said"),
    [("interrupted", "The run was interrupted."), ("running", "The run has not ended."), ("?", "It is not known how")],
)
def test_a_run_that_did_not_end_well_says_so_above_its_verdict(tmp_path: Path, status: str, said: str) -> None:
    page = Page(write_report(samples.write_run(tmp_path, run=samples.run_record() | {"status": status})))
    assert page.text.index(said) < page.text.index(samples.decision().sentence)


def test_half_written_files_are_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    run = samples.write_run(tmp_path)
    (run / "decision.json").write_text('{"notebook": ')
    (run / "summary.json").write_text("[]")
    (run / "executed.ipynb").write_text("")
    text = Page(write_report(run)).text
    assert "decision.json cannot be read" in text
    assert "summary.json cannot be read" in text
    assert "executed.ipynb cannot be read" in text
    assert "The accepted decision still holds" in text


def test_a_run_of_invariants_alone_needs_no_decision(tmp_path: Path) -> None:
    run = samples.write_run(tmp_path)
    (run / "decision.json").unlink()
    text = Page(write_report(run)).text
    assert "stored no" not in text
    assert "The accepted decision still holds" in text


def test_synthetic_inputs_are_said_below_the_verdict(tmp_path: Path) -> None:
    decided = replace(samples.decision(), verdict="provisional", synthetic=True)
    text = Page(write_report(samples.write_run(tmp_path, decided=decided))).text
    assert text.index(decided.sentence) < text.index("2 warnings") < text.index("synthetic traffic")


def test_an_empty_summary_and_a_notebook_of_nothing_make_a_page(tmp_path: Path) -> None:
    executed = {"cells": [], "nbformat": 4, "nbformat_minor": 5, "metadata": {}}
    run = samples.write_run(tmp_path, summed=Summary("Empty", "accuracy"), executed=executed)
    assert "Empty" in Page(write_report(run)).text


def test_an_arm_that_is_only_kept_is_not_called_chosen(tmp_path: Path) -> None:
    decided = replace(
        samples.decision(), verdict="inconclusive", arm=samples.REFERENCE, sentence="Cannot tell.", chosen_share={},
        notes=(),
    )  # fmt: skip
    page = Page(write_report(samples.write_run(tmp_path, decided=decided)))
    assert "kept meanwhile, in use" in page.text
    assert "chosen" not in page.text.partition("Differences from the best other")[0]
    assert "over the limit 150 ms" in page.text


def test_a_run_that_did_not_end_well_is_never_shown_as_good(tmp_path: Path) -> None:
    run = samples.run_record() | {"status": "interrupted"}
    assert 'class="verdict bad"' in Page(write_report(samples.write_run(tmp_path, run=run))).source


def test_a_first_decision_says_start_with_and_how_to_accept_it(tmp_path: Path) -> None:
    rule = replace(samples.RULE, reference="")
    decided = replace(samples.decision(), rule=rule, sentence=f"Start with {samples.CHOSEN}: shown to be near.")
    how = "No decision is accepted yet. To accept this one: workbench accept retrieval --reason TEXT"
    gated = {"status": "new", "exit_code": 0, "sentence": how, "claims": []}
    page = Page(write_report(samples.write_run(tmp_path, decided=decided, gated=gated)))
    assert 'class="verdict neutral"' in page.source
    assert page.text.index("Start with") < page.text.index("○ new") < page.text.index(how)
    assert "in use nothing yet" in page.text
    assert "against what is in use" not in page.text


def test_an_arm_that_stands_alone_is_compared_with_nothing(tmp_path: Path) -> None:
    rule = Rule("ndcg@10", "usd_per_1k_requests", "", 0.05, 0.95)
    decided = drawn(rule, [0.6], [1.0], names=["alone"])
    page = Page(write_report(samples.write_run(tmp_path, decided=decided)))
    assert "Against each other arm" not in page.text
    assert "alone loses" not in page.text
    assert "not compared" in page.text


@pytest.mark.parametrize("verdict", ["chosen", "upgrade", "keep_reference", "inconclusive", "none_meets_floor"])
def test_every_verdict_has_a_page(tmp_path: Path, verdict: str) -> None:
    decided = DECIDED[verdict]()
    assert decided.verdict == verdict
    page = Page(write_report(samples.write_run(tmp_path, decided=decided)))
    page.assert_harmless()
    assert decided.sentence in page.text
    assert all(note in page.text for note in decided.notes)


def test_hidden_cells_stay_out_and_a_failed_gate_shows_its_exit_code(tmp_path: Path) -> None:
    executed = samples.notebook()
    executed["cells"][1]["metadata"]["tags"] = ["hide-input"]
    executed["cells"][4]["metadata"]["tags"] = ["remove-cell"]
    gate = samples.gate() | {"status": "broken", "exit_code": 1}
    page = Page(write_report(samples.write_run(tmp_path, executed=executed, gated=gate)))
    notebook = page.text.partition("Show the notebook")[2].replace(" ", "")  # highlighting splits the words
    assert "k:int" not in notebook
    assert "bench.scale" not in notebook
    assert "comparison.table" in notebook
    assert "Exit code 1." in page.text


def test_no_folder_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no run folder .*absent"):
        write_report(tmp_path / "absent")


def test_a_first_run_of_the_smoke_profile_says_that_it_is_shown_only(tmp_path: Path) -> None:
    """A newcomer's first run rests on other inputs than the accepted decision, and that is nobody's fault."""
    other = Fingerprint({"queries": "0" * 64})
    now = replace(samples.decision(), profile="smoke", fingerprint=other)
    invariants = {"hits of another tenant": 0}
    gate = check_gate(samples.decision(), now, accepted_scores=None, scores=pl.DataFrame(), invariants=invariants)
    run = samples.write_run(tmp_path, decided=now, gated=asdict(gate), run=samples.run_record() | {"profile": "smoke"})
    page = Page(write_report(run))
    opened = page.text.partition("Decision table")[0]
    assert "The profile smoke is shown only." in opened
    assert "to check it: workbench check 01_retrieval" in opened
    assert 'class="verdict neutral"' in page.source
    for told in (opened, markdown_summary(run)):
        assert not re.search("stale|Exit code|exit code|other inputs", told)


# Words of some elements that a line break cuts.
CUT = """([elements, word]) => [...document.querySelectorAll(elements)].flatMap(element => {
  const out = [], walk = document.createTreeWalker(element, NodeFilter.SHOW_TEXT), range = document.createRange();
  for (let node = walk.nextNode(); node; node = walk.nextNode())
    for (const found of node.textContent.matchAll(new RegExp(word, 'g'))) {
      range.setStart(node, found.index); range.setEnd(node, found.index + found[0].length);
      if (new Set([...range.getClientRects()].map(box => Math.round(box.top))).size > 1) out.push(found[0]);
    }
  return out;
})"""
WORDS, NAMES_OF_ROWS = ("main table, .wb-key", r"[^\s/·-]+"), (".stack tbody th", r"\S+")
NUMBERS = ("main :is(p, li, dd, td, th, span)", r"[+\u2212]?\d[\d.,]*\s%|\[[^\[\]]*\d\.\d[^\[\]]*\]")
SMALL = "[...document.querySelectorAll('.wb-figure text')].filter(e => e.getBoundingClientRect().height < 10).length"
LONG = ("local/qwen2.5-coder-0.5b@top2", "structure · hybrid_rrf_shallow + reranker", "local/smollm2-135m@top5")


@pytest.mark.slow
@pytest.mark.parametrize("width", [1200, 700, 390, 320])
def test_no_width_cuts_a_word_of_a_table_or_makes_a_figure_too_small_to_read(tmp_path: Path, width: int) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on the path")
    decided = drawn(replace(RULE, reference=LONG[0]), [0.6, 0.6, 0.3], [2.0, 0.1, 0.1], names=LONG)
    report = write_report(samples.write_run(tmp_path / "run", decided=decided))
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.goto(report.as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
        cut = [page.evaluate(CUT, list(where)) for where in (WORDS, NAMES_OF_ROWS, NUMBERS)]
        small = page.evaluate(SMALL)
        shown = page.evaluate("document.querySelectorAll('.wb-figure text').length")
        browser.close()
    assert cut == [[], [], []]
    assert (small, shown > 40) == (0, True)


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 1200), ("light", 390), ("dark", 320)])
def test_a_browser_shows_it_without_error_request_or_sideways_scroll(tmp_path: Path, scheme: str, width: int) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on the path")
    report = write_report(samples.write_run(tmp_path / "run"))
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800}).new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if not request.url.startswith("file:") else None)
        page.goto(report.as_uri())
        box = page.locator(".verdict .sentence").bounding_box()
        assert box is not None
        assert box["y"] + box["height"] < 800, "the verdict is read without scrolling"
        tables = page.evaluate("[...document.querySelectorAll('.wide')].map(e => [e.scrollWidth, e.clientWidth])")
        assert all(inner <= outer for inner, outer in tables) or width < 700, tables
        cells = page.evaluate("[...document.querySelectorAll('.stack td')].map(e => e.scrollWidth - e.clientWidth)")
        assert max(cells) <= 0, "no number is cut off beside its label"
        page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        colours = page.evaluate(
            "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
        )
        browser.close()
    assert not said
    light = sum(int(c) for c in colours[1].removeprefix("rgb(").removesuffix(")").split(",")) > 380
    assert light == (scheme == "light")


def test_percentages_and_intervals_of_sentences_are_unbroken_and_those_of_code_stay(tmp_path: Path) -> None:
    sentence = "Nothing [0.0 %, 2.4 %] or +0.3 % of 5 items, [1, 2] or [0.250, 0.750]."
    source = write_report(samples.write_run(tmp_path / "run", decided=replace(samples.decision(), sentence=sentence)))
    page = source.read_text(encoding="utf-8")
    unbroken = "[0.0&nbsp;%,&nbsp;2.4&nbsp;%] or +0.3&nbsp;% of 5 items, [1, 2] or [0.250,&nbsp;0.750]."
    assert unbroken in page
    assert not re.search(r"\d %", re.sub(r"(?s)<(pre|code|style|svg)\b.*?</\1>|<[^>]*>", "", page))
    assert sentence in (tmp_path / "run" / "decision.json").read_text(encoding="utf-8")


def test_on_a_narrow_screen_numbers_alone_stand_to_the_right(tmp_path: Path) -> None:
    page = write_report(samples.write_run(tmp_path / "run")).read_text(encoding="utf-8")
    (narrow,) = re.findall(r"@media \(max-width: 900px\) \{(.*?)\n\}", page, re.S)
    right = [rule.split("{")[0] for rule in narrow.splitlines() if re.search(r"text-align: right", rule)]
    assert [selector.strip() for selector in right] == ['.stack td.wb-number, .stack td[style*="right"]']
    cells = re.findall(r'<td data-label="([^"]*)"( class="wb-number")? style="text-align:(left|right)">', page)
    assert {number for label, number, _ in cells if label in ("what was found", "role", "that other")} == {""}
    assert {label for label, number, to in cells if to == "right" and not number} == set()
    months = {(number != "", to) for label, number, to in cells if label.startswith("a month at")}
    assert (True, "right") in months


def test_a_table_with_sentences_is_stacked_on_a_narrow_screen_and_one_of_figures_is_not() -> None:
    columns = (Column("judge"), Column("why"))
    assert _layout(Table(columns, (("a", "too few labels: 39 in 25 clusters"),))) == "stack quiet"
    assert _layout(Table(columns, (("a long name in the first column", "few"),))) == "quiet"


def test_a_long_name_may_break_after_its_dots_and_stays_escaped() -> None:
    assert _breaks("pyarrow.csv.ConvertOptions.include_columns").count("<wbr>") == 4
    assert _breaks("short.name") == "short.name"
    assert not hasattr(_breaks("<img src=x.y_z onerror=alert(1)>" * 3), "__html__"), "the page escapes it"
