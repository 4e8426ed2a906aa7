"""The pipeline experiment from its recordings to a decision that holds when it is checked again."""

import json
from dataclasses import replace

import pytest

from tests.evalset.small_evalset import settings_in, write
from tests.pipeline.test_flow import PROMPTS, SMALL, STRONG
from workbench.config import SystemClock
from workbench.errors import ConfigError
from workbench.evalset.evalset import load_evalset
from workbench.evaluation.gate import Gate
from workbench.inference.messages import Response, Usage
from workbench.inference.recordings import FOLDER, Recordings
from workbench.pipeline.notebook import PipelineExperiment, PipelineParameters
from workbench.routing.recorded import asked_of, recording_file
from workbench.runner import accept

DEV, TEST = 12, 36


def right(query_id, model, context):
    """The small model answers half of the questions with context, the strong one most of them."""
    number = int(query_id[1:])
    if context == "bare":
        return False
    return number % 2 == 0 if model == SMALL else number % 8 != 7


@pytest.fixture
def project(tmp_path):
    """A project with questions whose recorded answers are right or wrong by rule."""
    ids = [f"q{i:02d}" for i in range(DEV + TEST)]
    documents = [
        {"_id": f"lib.fn_{q}", "text": f"fn_{q} does it.", "title": f"lib.fn_{q}", "metadata": {"tenant_id": "lib"}}
        for q in ids
    ]
    told = {"tenant_id": "lib", "feature": "answer"}
    queries = [
        {"_id": q, "text": f"how is {q} done", "metadata": {**told, "accept": [f"fn_{q}"], "cluster": q}} for q in ids
    ]
    judged = [f"{q}\tlib.fn_{q}\t1" for q in ids]
    folder = tmp_path / "evalsets" / "flows"
    write(folder, documents=documents, queries=queries, dev=judged[:DEV], test=judged[DEV:])
    (folder / "prompts.toml").write_text(PROMPTS.replace('["local/smollm2-135m"]', f'["{SMALL}", "{STRONG}"]'))
    (folder / "gates.toml").write_text("[pipeline]\nmargin = 0.3\n")
    (folder / FOLDER).mkdir()
    hits = [{"query_id": q, "doc_ids": [f"lib.fn_{q}", f"lib.fn_{ids[0]}"]} for q in ids]
    (folder / FOLDER / "hits.jsonl").write_text("".join(json.dumps(row) + "\n" for row in hits))
    settings = replace(settings_in(tmp_path), state_url=f"sqlite:///{tmp_path / 'state.sqlite'}")
    evalset = load_evalset("flows", settings=settings)
    kept = {model: Recordings(recording_file(evalset, model), live=True) for model in (SMALL, STRONG)}
    for asked in asked_of(evalset):
        if asked.feature == "answer":
            q, model = asked.query.query_id, asked.request.model
            text = f"Use `fn_{q}`." if right(q, model, asked.context) else "Use `no_such_thing`."
            kept[model].add(asked.request, asked.item_id, Response(text, model, Usage(100, 0, 0, 10)))
    return settings


def concluded(settings):
    run = PipelineExperiment(PipelineParameters("flows"), settings)
    dev = run.score(run.prepare(), "dev")
    finalists = run.finalists(dev)
    test = run.test(dev, finalists)
    decision = run.decide(test, finalists)
    lost = run.losses(test, decision.arm)
    run.save(decision, test, lost.table(), dev=dev)
    return run, dev, test, decision, lost


def test_an_evalset_of_another_folder_is_decided_as_one_of_the_project(project, monkeypatch, tmp_path):
    monkeypatch.delenv("WORKBENCH_RUN_DIR", raising=False)
    elsewhere = (tmp_path / "evalsets" / "flows").rename(tmp_path / "mine")
    run = PipelineExperiment(PipelineParameters(str(elsewhere)), project)
    scored = run.score(run.prepare()[:2], "dev")
    assert len(scored.scores) == 2 * DEV
    assert run.parameters.evalset.startswith("mine@"), "its path is another one on the next machine"


def test_a_run_is_decided_explained_accepted_and_holds(project, monkeypatch):
    monkeypatch.delenv("WORKBENCH_RUN_DIR", raising=False)
    run, dev, test, decision, lost = concluded(project)
    assert len(dev.names) == 12
    assert {"smollm2-135m@bare", "qwen2.5-coder-0.5b@top5 · checked"} <= set(dev.names)
    assert decision.arm.startswith(("qwen2.5-coder-0.5b@top", "smollm2-135m@top"))
    assert set(decision.parameters) >= {"model", "context", "check", "strong"}
    means = {claim.arm: claim.estimate for claim in decision.claims}
    assert lost.quality == pytest.approx(means[decision.arm])
    told = lost.table().rows
    assert sum(row[1] for row in told) == TEST
    assert run.worst(test, decision.arm).steps[0].name == "retrieve"
    assert "refused" in test.table.to_text()
    run.gate(decision, test)
    assert Gate.load(run.folder / "gate.json").status == "new"
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "wrong draft" in page
    accept(project, "pipeline", reason="the first", clock=SystemClock(), even_if=("inconclusive",))
    again, _, test, decision, _ = concluded(project)
    again.gate(decision, test)
    assert Gate.load(again.folder / "gate.json").status in ("holds", "identical")


def test_a_checked_flow_escalates_and_costs_what_its_drafts_cost(project, monkeypatch):
    monkeypatch.delenv("WORKBENCH_RUN_DIR", raising=False)
    run = PipelineExperiment(PipelineParameters("flows"), project)
    scored = run.score([arm for arm in run.prepare() if arm.name.startswith("smollm2-135m@top2")], "test")
    plain, checked = (scored.runs[name] for name in scored.names)
    hard = next(q for q in plain if not right(q, SMALL, "top2") and right(q, STRONG, "top5"))
    assert (plain[hard].result["status"], plain[hard].result["drafts"]) == ("answered", 1)
    assert (checked[hard].result["model"], checked[hard].result["drafts"]) == (STRONG, 3)
    small, strong = (run.prices.cost_nanos(m, Usage(100, 0, 0, 10)) for m in (SMALL, STRONG))
    assert run.cost_usd(checked[hard]) == pytest.approx((2 * small + strong) / 1e9)
    assert run.losses(scored, scored.names[1]).quality > run.losses(scored, scored.names[0]).quality


def test_what_cannot_be_used_is_refused_before_anything_is_scored(project):
    with pytest.raises(ConfigError, match="unknown context 'top3'"):
        PipelineExperiment(PipelineParameters("flows", contexts=("top3",)), project)
    with pytest.raises(ConfigError, match="unknown model 'local/other'"):
        PipelineExperiment(PipelineParameters("flows", models=("local/other",)), project)
    with pytest.raises(ConfigError, match="unknown check 'maybe'"):
        PipelineParameters("flows", checks=("maybe",))
    with pytest.raises(ConfigError, match="at least one value"):
        PipelineParameters("flows", models=())
    recording_file(load_evalset("flows", settings=project), SMALL).unlink()
    with pytest.raises(ConfigError, match="record them: workbench record flows"):
        PipelineExperiment(PipelineParameters("flows"), project)


def test_answers_that_were_recorded_twice_are_repeats_of_the_same_questions(project):
    once = PipelineExperiment(PipelineParameters("flows"), project)
    first = once.score(once.prepare()[:2], "dev")
    assert "flip rate" not in [c.name for c in first.table.columns]
    evalset = load_evalset("flows", settings=project)
    for model in (SMALL, STRONG):
        kept = Recordings(recording_file(evalset, model), live=True)
        for asked in [a for a in asked_of(evalset, models=[model]) if kept.count(a.request)]:
            name = f"fn_{asked.query.query_id}" if asked.context == "bare" else "no_such_thing"
            kept.add(asked.request, asked.item_id, Response(f"Use `{name}`.", model, Usage(100, output=10)))
    run = PipelineExperiment(PipelineParameters("flows"), project)
    twice = run.score(run.prepare()[:2], "dev")
    assert twice.scores.height == 2 * first.scores.height
    assert twice.scores.filter(repeat=0).equals(first.scores)
    columns = [c.name for c in twice.table.columns]
    shown = {row[0]: dict(zip(columns, row, strict=True)) for row in twice.table.rows}
    bare = shown["smollm2-135m@bare"]  # wrong at first, then right
    assert (bare["correctness"], bare["pass^2"], bare["flip rate"]) == (0.5, 0.0, 1.0)
