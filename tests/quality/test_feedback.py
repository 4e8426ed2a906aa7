"""Feedback: a thumbs-down becomes a candidate with its trace, and a question only when a person says so."""

import json

import pytest
from typer.testing import CliRunner

from tests.retrieval.tiny import project
from workbench.cli import app
from workbench.errors import ConfigError, EvalsetError
from workbench.evalset.evalset import load_evalset
from workbench.inference.call_attempt import Books
from workbench.inference.client import Client
from workbench.inference.prices import load_prices
from workbench.quality import feedback
from workbench.state import open_engine
from workbench.telemetry.spans import Tracing
from workbench.testing import FakeClock, ScriptedModel

HOSTILE = "<script>alert(1)</script>\x1b[31m\u202e"


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_ROOT", str(tmp_path))
    monkeypatch.setenv("WORKBENCH_STATE_URL", f"sqlite:///{tmp_path}/state.sqlite")
    found = project(tmp_path)
    return type(found)(found.root, found.cache, found.runs, f"sqlite:///{tmp_path}/state.sqlite")


@pytest.fixture
def ask(settings):
    """Answer questions through a traced client; gives trace ids."""

    def ask_all(*questions, answer="an answer"):
        engine = open_engine(settings.state_url)
        tracing = Tracing(engine)
        client = Client({"": ScriptedModel(lambda _: answer)}, Books(load_prices(), tracing=tracing, clock=FakeClock()))
        done = [
            client.complete(
                [{"role": "user", "content": q}], model="openai/gpt-5.4-nano", tenant_id="acme", feature="answer"
            ).trace_id
            for q in questions
        ]
        tracing.close()
        engine.dispose()
        return done

    return ask_all


def candidates(settings):
    return feedback.load_feedback_candidates(settings.evalsets / "tiny")


def say(settings, trace_id, score=0, comment="", user_id="u1"):
    return feedback.record(trace_id, score, comment, user_id=user_id, settings=settings, clock=FakeClock())


def test_a_thumbs_down_becomes_a_candidate_with_its_trace_and_nothing_more(settings, ask):
    before = (settings.evalsets / "tiny" / "queries.jsonl").read_bytes()
    bad, good = ask("how do I do a cross join?", "how do I sort?")
    say(settings, bad, 0, "not what I asked")
    say(settings, good, 1, "thanks")
    assert feedback.collect_feedback_candidates("tiny", settings) == (1, ())
    (found,) = candidates(settings)
    assert (found.trace_id, found.question, found.answer) == (bad, "how do I do a cross join?", "an answer")
    assert (found.tenant_id, found.feature, found.comment) == ("acme", "answer", "not what I asked")
    assert (found.status, found.flags) == ("open", ())
    assert feedback.collect_feedback_candidates("tiny", settings) == (0, ())
    assert (settings.evalsets / "tiny" / "queries.jsonl").read_bytes() == before


def test_the_last_word_of_a_user_on_a_trace_counts(settings, ask):
    (trace_id,) = ask("how do I do a cross join?")
    say(settings, trace_id, 0)
    say(settings, trace_id, 1)
    assert feedback.collect_feedback_candidates("tiny", settings) == (0, ())
    say(settings, trace_id, 0, user_id="u2")
    assert feedback.collect_feedback_candidates("tiny", settings) == (1, ())
    with pytest.raises(ConfigError, match=r"in \[0, 1\]"):
        say(settings, trace_id, 5)
    with pytest.raises(ConfigError, match="on ''"):
        say(settings, "", 0)


def test_duplicates_and_personal_data_are_flagged_and_not_approved_as_they_are(settings, ask):
    known = load_evalset("tiny", settings=settings).queries[0].text
    ids = ask(known.upper() + "?", "call me at +49 170 1234567, or jane@example.com", "new one", "New one!")
    for trace_id in ids:
        say(settings, trace_id)
    say(settings, "f" * 32)
    assert feedback.collect_feedback_candidates("tiny", settings) == (4, ("f" * 32,))
    flags = {c.trace_id: c.flags for c in candidates(settings)}
    assert flags[ids[0]][0].startswith("same question as question ")
    assert set(flags[ids[1]]) == {"personal data: e-mail address", "personal data: telephone number"}
    assert [bool(flags[i]) for i in ids[2:]].count(True) == 1
    flagged = next(c for c in candidates(settings) if c.trace_id == ids[1])
    with pytest.raises(ConfigError, match="is flagged: personal data"):
        feedback.approve_feedback_candidate("tiny", flagged.candidate_id, settings, by="ann", accept=["x"])
    feedback.approve_feedback_candidate(
        "tiny", flagged.candidate_id, settings, by="ann", accept=["x"], question="How do I export?"
    )
    text = (settings.evalsets / "tiny" / "queries.jsonl").read_text(encoding="utf-8")
    assert "jane@example.com" not in text


def test_what_a_person_approves_joins_dev_with_its_provenance_and_is_a_new_version(settings, ask):
    before = load_evalset("tiny", settings=settings)
    (trace_id,) = ask("how do I do a cross join?")
    say(settings, trace_id)
    feedback.collect_feedback_candidates("tiny", settings)
    (found,) = candidates(settings)
    document = before.documents[0]
    with pytest.raises(ConfigError, match="needs what is right"):
        feedback.approve_feedback_candidate("tiny", found.candidate_id, settings, by="ann")
    with pytest.raises(ConfigError, match="say who"):
        feedback.approve_feedback_candidate("tiny", found.candidate_id, settings, by=" ", accept=["cross"])
    feedback.approve_feedback_candidate(
        "tiny", found.candidate_id, settings, by="ann", relevant=[document.doc_id], accept=["cross"], clock=FakeClock()
    )
    after = load_evalset("tiny", settings=settings)
    query = next(q for q in after.queries if q.query_id == f"feedback-{found.candidate_id}")
    assert query.text == "how do I do a cross join?"
    assert query.query_id in after.qrels["dev"]
    assert query.query_id not in after.qrels["test"]
    assert after.inputs["queries"] != before.inputs["queries"]
    assert after.inputs["qrels/test"] == before.inputs["qrels/test"]
    last = json.loads((settings.evalsets / "tiny" / "queries.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert last["metadata"]["provenance"] == {
        "trace_id": trace_id,
        "approved_by": "ann",
        "approved_on": "2026-01-01",
    }
    (decided,) = candidates(settings)
    assert (decided.status, decided.by) == ("approved", "ann")
    with pytest.raises(ConfigError, match="approved already, by ann"):
        feedback.reject_feedback_candidate("tiny", found.candidate_id, settings, by="bob", reason="late")


def test_what_was_rejected_is_not_proposed_again(settings, ask):
    (trace_id,) = ask("what is love?")
    say(settings, trace_id)
    feedback.collect_feedback_candidates("tiny", settings)
    (found,) = candidates(settings)
    feedback.reject_feedback_candidate("tiny", found.candidate_id, settings, by="ann", reason="off topic")
    assert feedback.collect_feedback_candidates("tiny", settings) == (0, ())
    assert candidates(settings)[0].status == "rejected"
    with pytest.raises(ConfigError, match="no candidate 'nothing'; there are"):
        feedback.reject_feedback_candidate("tiny", "nothing", settings, by="ann", reason="")


def test_what_users_and_models_wrote_runs_nowhere(settings, ask):
    (trace_id,) = ask(HOSTILE + " question", answer=HOSTILE)
    say(settings, trace_id, 0, HOSTILE + "x" * 1_000_000)
    feedback.collect_feedback_candidates("tiny", settings)
    table = feedback.feedback_candidates_table(candidates(settings))
    assert "<script" not in table.to_html()
    for seen in (table.to_html(), table.to_text()):
        assert "\x1b" not in seen
        assert "\u202e" not in seen
        assert len(seen) < 20_000


def test_a_secret_in_a_comment_is_not_kept(settings, ask):
    said = say(settings, "a" * 32, 0, "my key is sk-abcdefghijklmnopqrstuvwxyz")
    assert "sk-abc" not in said.comment


def test_a_line_that_is_no_candidate_is_named(settings):
    (settings.evalsets / "tiny" / feedback.FILE).write_text('{"candidate_id": "x"}\n', encoding="utf-8")
    with pytest.raises(EvalsetError, match=r"candidates.jsonl:1 is no candidate"):
        candidates(settings)


def test_the_commands_do_the_same(settings, ask):
    (trace_id,) = ask("how do I do a cross join?")
    run = CliRunner().invoke
    assert (
        run(app, ["feedback", "record", trace_id, "0", "--comment", "bad"]).output
        == f"kept: thumbs down on {trace_id}\n"
    )
    assert run(app, ["feedback", "collect", "tiny"]).output == "1 new candidate\n"
    shown = run(app, ["feedback", "list", "tiny"]).output
    assert "cross join" in shown
    (found,) = candidates(settings)
    done = run(app, ["feedback", "approve", "tiny", found.candidate_id, "--by", "ann", "--accept", "cross"])
    assert done.output.startswith(f"approved: feedback-{found.candidate_id} joins tiny")
    assert run(app, ["feedback", "list", "tiny"]).output == "no candidate waits\n"
    again = run(app, ["feedback", "reject", "tiny", found.candidate_id, "--by", "ann", "--reason", "no"])
    assert again.exit_code == 3
