"""The quality notebook on a small evalset: no judge gates by being constant, and a good one does."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from tests.quality.test_production import write_production
from tests.reports.hostile import evil
from tests.retrieval.tiny import project
from workbench.config import SystemClock
from workbench.errors import ConfigError, EvalsetError
from workbench.evalset.evalset import load_evalset
from workbench.evaluation.gate import Gate
from workbench.inference.call_attempt import Books
from workbench.inference.client import Client
from workbench.inference.messages import Usage
from workbench.inference.prices import load_prices
from workbench.inference.recordings import FOLDER, Recordings
from workbench.quality.feedback import FILE as CANDIDATES
from workbench.quality.feedback import Candidate
from workbench.quality.judges import JudgedAnswers, answers_to_judge, ask_judge, judge_verdict_file, judges_of
from workbench.quality.labels import write_label_sheet
from workbench.quality.notebook import ConstantJudge, QualityExperiment
from workbench.routing.recorded_outcomes import ANSWER, recorded_requests_of, recording_file
from workbench.runner import accept_decision
from workbench.testing import ScriptedModel

MODEL = "openai/gpt-5.4-nano"
PROMPTS = f"""
models = ["{MODEL}"]
[feature.answer]
system = "Answer for {{tenant}}."
max_tokens = 20
[context.bare]
"""
JUDGES = f"""
[answers]
model = "{MODEL}"
context = "bare"
feature = "answer"
metric = "correct"
rubric = "names an accepted name"
[judge.good]
model = "{MODEL}"
prompt = "Good judge: <answer>{{answer}}</answer>"
[judge.coin]
model = "{MODEL}"
prompt = "Coin: <answer>{{answer}}</answer>"
"""


def judged_project(root):
    """Tiny evalset whose recorded answers name the accepted name in half of the cases, with two recorded judges."""
    settings = project(root)
    folder = settings.evalsets / "tiny"
    lines = [json.loads(line) for line in (folder / "queries.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in lines:
        row["metadata"] |= {"feature": ANSWER, "accept": ["merge"], "reference": "Use merge with a key."}
    (folder / "queries.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines), encoding="utf-8")
    (folder / "gates.toml").write_text("[quality]\nmargin = 0.2\nfloor = 0.5\n", encoding="utf-8")
    (folder / "prompts.toml").write_text(PROMPTS, encoding="utf-8")
    (folder / "judges.toml").write_text(JUDGES, encoding="utf-8")
    (folder / FOLDER).mkdir()
    hits = "".join(json.dumps({"query_id": r["_id"], "doc_ids": []}) + "\n" for r in lines)
    (folder / FOLDER / "hits.jsonl").write_text(hits, encoding="utf-8")
    evalset, rng = load_evalset("tiny", settings=settings), np.random.default_rng(0)

    def client(path, script):
        model = ScriptedModel(script, usage=Usage(100, output=2))
        return Client({"": model}, Books(load_prices()), recordings=Recordings(path, live=True))

    answers = client(recording_file(evalset, MODEL), lambda _: "Use merge." if rng.random() < 0.5 else "Use concat.")
    for asked in recorded_requests_of(evalset, models=[MODEL]):
        answers.complete(asked.request.messages, model=MODEL, max_tokens=20, item_id=asked.item_id)
    what = JudgedAnswers.load(evalset)
    items = answers_to_judge(evalset, what, load_prices()).items

    def say(request):
        text = request.messages[0]["content"]
        right = "merge" in text if text.startswith("Good") else rng.random() < 0.5
        return "yes" if right != (rng.random() < (0.08 if text.startswith("Good") else 0)) else "no"

    for judge in judges_of(evalset, what):
        ask_judge(judge, items, client(judge_verdict_file(evalset, judge), say), max_cost_usd=1.0, tell=lambda _: None)
    return settings


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_ROOT", str(tmp_path))
    for name in ("WORKBENCH_CACHE", "WORKBENCH_RUNS", "WORKBENCH_RUN_DIR"):
        monkeypatch.delenv(name, raising=False)
    return judged_project(tmp_path)


def start(**given):
    return QualityExperiment.start(evalset="tiny", **given)


def steps(run):
    dev = run.score(run.prepare(), "dev")
    finalists = run.finalists(dev)
    test = run.test(dev, finalists)
    decision = run.decide(test, finalists)
    shown = (run.saved(test), run.left_worse(), run.production(), run.candidates())
    run.save(decision, test, run.licences_table(run.licences(test)), *shown, dev=dev)
    return dev, test, decision


def test_the_good_judge_is_chosen_and_its_decision_holds_when_checked_again(settings):
    run = start(overlap=[])
    dev, test, decision = steps(run)
    assert dev.names[0] in ("always no", "always yes")
    assert dev.names[1:] == ("good", "coin")
    assert (decision.verdict, decision.arm) == ("chosen", "good")
    licences = {(found.judge, found.slice): found for found in run.licences(run.score(run.prepare(), "test"))}
    assert {kind for kind, _ in licences["good", "all"].reasons} <= {"inform only"}  # too few to be shown more
    assert licences["good", "all"].truth == "code"
    assert [kind for kind, _ in licences["coin", "all"].reasons] == ["chance"]
    assert "its own family" in licences["good", "all"].warnings[-1]
    assert next(f for f in test.facts if f.name == "good").cost_usd_per_1k > 0
    run.gate(decision, test, dev)
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "What each judge may do" in page
    assert "no person labelled the answers" in page
    accept_decision(settings, "quality", reason="the first", clock=SystemClock())
    again = start(overlap=[])
    dev, test, decision = steps(again)
    again.gate(decision, test, dev)
    assert Gate.load(again.folder / "gate.json").status == "holds"


def test_the_truth_and_the_verdicts_are_inputs_of_the_decision(settings):
    run = start(overlap=["token_f1"])
    assert {"judges.toml", "verdicts of good", f"answers of {MODEL}"} <= run.inputs.keys()
    path = settings.evalsets / "tiny" / "judges.toml"
    path.write_text(path.read_text(encoding="utf-8") + "# moved\n", encoding="utf-8")
    other = start(overlap=["token_f1"])
    assert [n for n in run.inputs if run.inputs[n] != other.inputs[n]] == ["judges.toml"]


def test_judges_that_are_not_there_and_shares_that_are_none_are_refused(settings):
    with pytest.raises(ConfigError, match="did you mean 'good'"):
        start(judges=["god"])
    with pytest.raises(ConfigError, match="did you mean 'token_f1'"):
        start(overlap=["token_f"])
    with pytest.raises(ConfigError, match=r"labelled = 1\.0: a number above 0 and below 1"):
        start(labelled=1.0)


def test_what_a_judge_saves_is_told_with_an_interval(settings):
    run = start(overlap=[], labelled=0.9)
    test = run.score(run.prepare(), "test")
    rows = {row[0]: row for row in run.saved(test).rows}
    assert rows["good"][3] < rows["coin"][3]
    hour = run.next_hour(test)
    reach = (rows["good"][2].high - rows["good"][2].low) / 2
    assert hour.rows[0][3] == pytest.approx(reach * (1 - hour.rows[0][4]))
    assert hour.rows[0][3] < reach
    assert f"Now {rows['good'][1]} of {len(test.verdicts) // len(test.arms)} answers have a label" in hour.caption
    assert run.next_hour(run.score(run.prepare()[:1], "dev")).rows == ()
    right = dict(run.answers.truth.frame.rows())
    truth = np.mean([right[item] for item in run.clusters("test")])
    assert rows["good"][2].low < truth < rows["good"][2].high
    assert ConstantJudge(True).name == "always yes"


def test_production_is_shown_beside_the_decision_and_is_no_part_of_it(settings):
    write_production(settings.root / "graded.jsonl", drop=6)
    bare, run = start(overlap=[]), start(overlap=[], production="graded.jsonl")
    assert run.inputs == bare.inputs
    dev, test, decision = steps(run)
    assert decision.settings["production"] == ""
    assert [row[0] for row in run.production().rows][:2] == ["all", "feature answer"]
    assert len(run.weeks()) == 1
    run.gate(decision, test, dev)
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert page.count("<h2>Production week by week</h2>") == 1
    assert "a panel for each of 5 of 6 groups" in page
    assert "of graded.jsonl, which stand for" in page
    assert bare.weeks() == ()
    assert "workbench quality draw production.jsonl" in bare.production().caption
    assert bare.label_sheet() == ()
    write_label_sheet(settings.root / "production.jsonl", [{"item_id": "i", "question": "q", "answer": "a"}])
    write_label_sheet(
        settings.root / "june.jsonl", [{"item_id": f"i{k}", "question": "q", "answer": "a"} for k in range(2)]
    )
    (settings.root / "graded.jsonl").rename(settings.root / "june.graded.jsonl")
    for given, name, items in (("", "production.jsonl", 1), ("june.graded.jsonl", "june.jsonl", 2)):
        (table,) = start(overlap=[], production=given).label_sheet()
        assert table.rows == ((name, items, 0, items),)
    with pytest.raises(EvalsetError, match=r"gone\.jsonl"):
        start(production="gone.jsonl")
    with pytest.raises(ConfigError, match="0 traces have feedback"):
        start(production="feedback")


def test_candidates_wait_as_text_and_what_may_name_a_person_is_kept_back(settings):
    assert "0 wait for a person" in start().candidates().caption

    def candidate(number, **given):
        told = {"question": evil("question"), "comment": evil("comment"), "tenant_id": evil("tenant")} | given
        return asdict(Candidate(f"c{number}", f"t{number}", answer="", feature="answer", at="2026-06-01", **told))

    found = [candidate(k) for k in range(7)]
    found[1] = candidate(1, question="I am jane@example.com", flags=("personal data: e-mail address",))
    found[2] |= {"status": "rejected"}
    path = settings.evalsets / "tiny" / CANDIDATES
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    table = start().candidates()
    assert table.caption.startswith("What users found bad. 6 wait for a person")
    assert [row[0] for row in table.rows] == ["c0", "c1", "c3", "c4", "c5"]
    html = table.to_html()
    assert "jane" not in html
    assert "<b" not in html
    assert html.count("kept back") == 2
    path.write_text("{}\n", encoding="utf-8")
    with pytest.raises(EvalsetError, match="is no candidate"):
        start()
