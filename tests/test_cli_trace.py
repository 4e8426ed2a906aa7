"""``workbench trace``, as a user calls it."""

import html
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.telemetry.trace_samples import QUESTION
from workbench.cli import app
from workbench.config import load_settings
from workbench.quality import feedback
from workbench.state import open_engine
from workbench.telemetry.attribution import attributed
from workbench.telemetry.spans import Tracing

HOSTILE = "<script>alert(1)</script>\u202e"


@pytest.fixture
def trace_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("WORKBENCH_STATE_URL", f"sqlite:///{tmp_path / 'state.sqlite'}")
    tracing = Tracing(open_engine(load_settings().state_url))
    with attributed(tenant_id="acme"), tracing.span("invoke_workflow answer", "invoke_workflow") as root:
        asked = [{"role": "user", "content": QUESTION + HOSTILE}]
        with tracing.span("chat m", "chat", {"gen_ai.input.messages": asked, "gen_ai.usage.input_tokens": 12}):
            pass
    tracing.close()
    return root.trace_id


def test_trace_is_shown_as_text_and_written_as_a_page(trace_id: str, tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["trace", trace_id[:10]])
    assert shown.exit_code == 0
    assert f"user: {QUESTION}" in shown.stdout
    assert "\u202e" not in shown.stdout
    path = tmp_path / "trace.html"
    assert CliRunner().invoke(app, ["trace", trace_id, "--html", str(path)]).stdout == f"written: {path}\n"
    written = path.read_text(encoding="utf-8")
    assert "Content-Security-Policy" in written
    assert "<script" not in written
    assert QUESTION in html.unescape(written)


def test_without_an_id_the_latest_traces_are_listed(trace_id: str) -> None:
    head, row = CliRunner().invoke(app, ["trace"]).stdout.splitlines()
    assert head.split()[:3] == ["trace", "started", "name"]
    assert row.startswith(trace_id)
    assert row.split()[-1] == "acme"


def test_the_list_is_narrowed_and_only_the_list(trace_id: str) -> None:
    feedback.record(trace_id, 0.25, settings=load_settings())

    def listed(*options: str) -> str:
        done = CliRunner().invoke(app, ["trace", *options])
        assert done.exit_code == 0, done.output
        return done.stdout

    for fits in (["--tenant", "acme", "--feature", "", "--limit", "1"], ["--max-score", "0.25"]):
        assert trace_id in listed(*fits)
    for fails in (
        ["--tenant", "acm"],
        ["--feature", "find"],
        ["--error"],
        ["--min-cost-usd", "1"],
        ["--max-score", "0.2"],
    ):
        assert listed(*fails) == "no trace is like this\n"
    for odd in ("nan", "inf", "-1", "1e300"):
        assert CliRunner().invoke(app, ["trace", f"--min-cost-usd={odd}"]).exit_code == 2, odd
    refused = CliRunner().invoke(app, ["trace", trace_id, "--error"])
    assert (refused.exit_code, "for the list alone" in refused.stderr) == (3, True)


def test_unknown_id_is_an_error_that_names_the_latest(trace_id: str) -> None:
    done = CliRunner().invoke(app, ["trace", "f" * 32])
    assert done.exit_code == 3
    assert f"no trace '{'f' * 32}'; the latest are:\n  {trace_id}" in done.stderr


def test_page_that_cannot_be_written_and_an_empty_database_are_said(
    trace_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = CliRunner().invoke(app, ["trace", trace_id, "--html", str(tmp_path / "state.sqlite" / "x.html")])
    assert (done.exit_code, "cannot be written" in done.stderr) == (3, True)
    monkeypatch.setenv("WORKBENCH_STATE_URL", f"sqlite:///{tmp_path / 'other.sqlite'}")
    assert CliRunner().invoke(app, ["trace"]).stdout == "no trace is stored yet\n"


def test_trace_shows_itself_in_a_notebook(trace_id: str) -> None:
    from workbench.telemetry.traces import load_trace

    trace = load_trace(open_engine(load_settings().state_url), trace_id)
    assert '<section class="wb-trace"' in trace._repr_html_()
    assert QUESTION in repr(trace)


def test_traces_are_forgotten_up_to_a_moment_that_is_past(trace_id: str) -> None:
    def forget(*more: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["trace", "--forget-before", *more])
        return done.exit_code, done.output

    said = "forgotten: 0 traces with 0 spans, ended before 2026-01-01 00:00:00 UTC\n"
    assert forget("2026-01-01") == (0, said)
    for refused, why in ((["2999-01-01"], "in the future"), (["2026-01-01", trace_id], "give it no trace")):
        code, output = forget(*refused)
        assert (code, why in output) == (3, True)
    assert trace_id in CliRunner().invoke(app, ["trace"]).stdout
    time.sleep(1.05)  # the moment is given in whole seconds
    assert forget(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}")[1].startswith("forgotten: 1 trace with 2 spans")
    assert CliRunner().invoke(app, ["trace"]).stdout == "no trace is stored yet\n"
