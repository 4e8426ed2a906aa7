import json
import shutil
from dataclasses import fields, is_dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.reports import samples
from tests.reports.reading import Page
from workbench.errors import RunError
from workbench.evaluation.summary import Summary
from workbench.reports.html import write_report

HOSTILE = {
    "markup": "<script>alert(1)</script>\"><img src=x onerror=alert(1)>'><svg/onload=alert(1)>",
    "ending first": "</details></section></style></textarea></title>--></svg><script src=//x></script>",
    "templates": "{{ 7 * 7 }}{% for x in y %}{% endfor %} $\\frac{1}{0}$ **b** `c` | d [x](javascript:f)",
    "invisible": "a\x00b\x1b[31mc\x7f\x85d \u202egnp.exe\u2066 \ud83d שלום 日本語",
    "long": "x" * 100_000,
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


def test_the_verdict_stands_before_the_evidence_and_cautions_before_the_verdict(page: Page) -> None:
    wanted = [
        "2 of 300 questions failed", samples.decision().sentence, "The accepted decision still holds",
        "Decision table",
        "Cost is counted tokens", "Differences from the reference",
        "Quality against cost",
        "What would change the decision", "Slices", "Items that changed", "Worst regressions",
        "Power before the arms ran",
        "Parameters, rule and fingerprint", "Slowest cells", "The executed notebook",
    ]  # fmt: skip
    places = [page.text.index(part) for part in wanted]
    assert places == sorted(places)


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
    assert len(drawings) == 3 * 2 + 1  # wide and narrow, and the notebook's own
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


def test_a_synthetic_or_often_used_test_split_is_said_above_the_verdict(tmp_path: Path) -> None:
    decided = replace(samples.decision(), verdict="provisional", synthetic=True, test_uses=12)
    text = Page(write_report(samples.write_run(tmp_path, decided=decided))).text
    assert text.index("synthetic traffic") < text.index("12 sets of arms") < text.index(decided.sentence)


def test_an_empty_summary_and_a_notebook_of_nothing_make_a_page(tmp_path: Path) -> None:
    executed = {"cells": [], "nbformat": 4, "nbformat_minor": 5, "metadata": {}}
    run = samples.write_run(tmp_path, summed=Summary("Empty", "accuracy"), executed=executed)
    assert "Empty" in Page(write_report(run)).text


def test_an_arm_that_is_only_kept_is_not_called_chosen(tmp_path: Path) -> None:
    decided = replace(samples.decision(), verdict="inconclusive", arm=samples.REFERENCE, sentence="Cannot tell.")
    page = Page(write_report(samples.write_run(tmp_path, decided=decided)))
    assert "kept, reference" in page.text
    assert "chosen" not in page.text.partition("Differences from the reference")[0]
    assert "over the limit 150 ms" in page.text


def test_a_run_that_did_not_end_well_is_never_shown_as_good(tmp_path: Path) -> None:
    run = samples.run_record() | {"status": "interrupted"}
    assert 'class="verdict bad"' in Page(write_report(samples.write_run(tmp_path, run=run))).source


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
        page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        colours = page.evaluate(
            "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
        )
        browser.close()
    assert not said
    light = sum(int(c) for c in colours[1].removeprefix("rgb(").removesuffix(")").split(",")) > 380
    assert light == (scheme == "light")
