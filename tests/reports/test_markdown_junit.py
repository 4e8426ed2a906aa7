import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from tests.reports import samples
from tests.reports.test_html import HOSTILE, spoiled
from workbench.reports.brief import BYTES_LIMIT, junit_xml, markdown_summary, markdown_text


def suite_of(run_dir: Path) -> ET.Element:
    (suite,) = ET.fromstring(junit_xml({"docs_qa.retrieval": run_dir}))
    return suite


GITHUB = MarkdownIt("commonmark").enable(["table", "strikethrough"])
_TAGS = "h3 h4 p blockquote strong em br code table thead tbody tr th td ul li details summary"
KNOWN = frozenset(_TAGS.split())


def test_markdown_opens_with_the_verdict_and_shows_the_table(tmp_path: Path) -> None:
    text = markdown_summary(samples.write_run(tmp_path))
    assert text.startswith("### ✓ holds: Which retrieval strategy?")
    order = ["**Use (a close call: chosen in 64 % of 200 resamples). Use whole", "evalset docs&#95;qa",
             "- With other questions", "2 of 300 questions", "| arm | role |"]  # fmt: skip
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    html = GITHUB.render(text)
    assert html.count("<table>") == 6
    assert "<th>nDCG@10</th>" in html.replace("&#64;", "@")


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_makes_no_markup_in_markdown(tmp_path: Path, text: str) -> None:
    run = samples.write_run(
        tmp_path,
        run=samples.run_record() | {"status": "failed", "error": text},
        decided=spoiled(samples.decision(), text.replace("\ud83d", "")),
        summed=spoiled(samples.summary(), text.replace("\ud83d", "")),
    )
    html = GITHUB.render(markdown_summary(run))
    tags = {tag.lower() for tag in re.findall(r"<([A-Za-z]\w*)", html)}
    assert tags <= KNOWN


def test_line_starts_links_and_mentions_stay_text() -> None:
    for text in ("- item", "1. item", "+ item", "=== x", "# head", "> quote", "@user https://x.y www.x.y <b>"):
        html = GITHUB.render(markdown_text(text))
        assert set(re.findall(r"<(\w+)", html)) == {"p"}, html


def test_markdown_leaves_out_whole_parts_above_the_limit(tmp_path: Path) -> None:
    sections = tuple(
        replace(samples.summary().sections[0], rows=tuple(("é" * 400, i, 0.5) for i in range(60))) for _ in range(40)
    )
    text = markdown_summary(samples.write_run(tmp_path, summed=replace(samples.summary(), sections=sections)))
    assert BYTES_LIMIT / 2 < len(text.encode()) < 1_000_000
    assert re.search(r"_\d+ further parts are left out here", text)


def test_markdown_of_a_failed_run_says_so_first(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(samples.run_record() | {"status": "failed", "error": "boom"}))
    text = markdown_summary(tmp_path)
    assert text.startswith("### ✕ failed: 01")
    assert text.index("The run failed: boom") < text.index("No verdict")


def test_junit_has_a_case_for_the_run_and_for_each_claim(tmp_path: Path) -> None:
    suite = suite_of(samples.write_run(tmp_path))
    assert [suite.get(k) for k in ("tests", "failures", "errors", "skipped")] == ["4", "0", "0", "0"]
    assert [case.get("name") for case in suite][1:] == [c["arm"] for c in samples.gate()["claims"]]
    assert suite[0].get("time") == "67.000"
    assert suite[0].get("classname") == "workbench.docs_qa.retrieval"


@pytest.mark.parametrize(
    ("status", "exit_code", "tag"),
    [
        ("holds", 0, None), ("identical", 0, None), ("broken", 1, "failure"), ("error", 3, "error"),
        ("inconclusive", 2, "failure"), ("inconclusive", 0, "skipped"),
        ("stale", 2, "failure"), ("stale", 0, "skipped"), ("new", 0, "skipped"), ("not tested", 0, "skipped"),
    ],
)  # fmt: skip
def test_a_claim_is_never_greener_than_the_build(tmp_path: Path, status: str, exit_code: int, tag: str | None) -> None:
    claim = {"kind": "generalisation", "arm": "a", "status": status, "sentence": "Because."}
    gate = {"status": status, "exit_code": exit_code, "sentence": "", "claims": [claim]}
    case = suite_of(samples.write_run(tmp_path, gated=gate))[1]
    assert [child.tag for child in case] == ([tag] if tag else [])
    assert all(child.get("message") == "Because." for child in case)


def test_junit_of_a_run_without_a_gate_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(samples.run_record() | {"status": "interrupted", "ended": None}))
    suite = suite_of(tmp_path)
    assert suite.get("errors") == "1"
    assert "no gate result" in suite[0][0].get("message", "")
    assert suite[0].get("time") is None


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_leaves_junit_readable(tmp_path: Path, text: str) -> None:
    claim = {"kind": "sameness", "arm": text, "status": "broken", "sentence": text}
    gate = {"status": "broken", "exit_code": 1, "sentence": text, "claims": [claim]}
    xml = junit_xml({text: samples.write_run(tmp_path, gated=gate)})
    root = ET.fromstring(xml.encode())
    assert {element.tag for element in root.iter()} == {"testsuites", "testsuite", "testcase", "failure"}
    assert len(xml) < 20_000
