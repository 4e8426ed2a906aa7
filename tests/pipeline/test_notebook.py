"""The pipeline experiment from its recordings to a decision that holds when it is checked again."""

import json
from dataclasses import replace

import pytest

from tests.evalset.small_evalset import settings_in, write
from tests.pipeline.test_flow import PROMPTS, SMALL, STRONG
from workbench.config import SystemClock
from workbench.errors import ConfigError, EvalsetError, RecordingMiss
from workbench.evalset.evalset import load_evalset
from workbench.evaluation.fingerprint import build_parameters
from workbench.evaluation.gate import Gate
from workbench.evaluation.run_summary import mean_by_arm
from workbench.inference.client import Client
from workbench.inference.messages import Response, Usage
from workbench.inference.recordings import FOLDER, Recordings
from workbench.orchestration.steps import flow
from workbench.pipeline import routes
from workbench.pipeline.flow import Library, draft, retrieve
from workbench.pipeline.notebook import PipelineExperiment, PipelineParameters
from workbench.records import Decision
from workbench.routing.accepted_router import load_routed
from workbench.routing.curves import cross_predict
from workbench.routing.notebook import RoutingExperiment, RoutingParameters
from workbench.routing.policies import POLICIES
from workbench.routing.recorded_outcomes import recorded_requests_of, recording_file
from workbench.runner import accept_decision

DEV, TEST = 12, 36


def right(query_id, model, context):
    """The small model answers half of the questions with context, the strong one most of them."""
    number = int(query_id[1:])
    if context == "bare":
        return False
    return number % 2 == 0 if model == SMALL else number % 8 != 7


def says(query_id):
    """What a question says of how hard it is, from which a policy may learn."""
    return "an easy one" if right(query_id, SMALL, "top2") else "hard"


@pytest.fixture
def project(tmp_path):
    """A project with questions whose recorded answers are right or wrong by rule."""
    return recorded_project(tmp_path)


def recorded_project(tmp_path):
    ids = [f"q{i:02d}" for i in range(DEV + TEST)]
    documents = [
        {"_id": f"lib.fn_{q}", "text": f"fn_{q} does it.", "title": f"lib.fn_{q}", "metadata": {"tenant_id": "lib"}}
        for q in ids
    ]
    told = {"tenant_id": "lib", "feature": "answer"}
    queries = [
        {"_id": q, "text": f"how is {q} done, {says(q)}", "metadata": {**told, "accept": [f"fn_{q}"], "cluster": q}}
        for q in ids
    ]
    judged = [f"{q}\tlib.fn_{q}\t1" for q in ids]
    folder = tmp_path / "evalsets" / "flows"
    write(folder, documents=documents, queries=queries, dev=judged[:DEV], test=judged[DEV:])
    (folder / "prompts.toml").write_text(PROMPTS.replace('["local/smollm2-135m"]', f'["{SMALL}", "{STRONG}"]'))
    (folder / "gates.toml").write_text("[pipeline]\nmargin = 0.3\n")
    (folder / FOLDER).mkdir()
    hits = [{"query_id": q, "doc_ids": [f"lib.fn_{q}", f"lib.fn_{ids[0]}"]} for q in ids]
    (folder / FOLDER / "hits.jsonl").write_text("".join(json.dumps(row) + "\n" for row in hits))
    (folder / FOLDER / "searches.jsonl").write_text("")
    settings = replace(settings_in(tmp_path), state_url=f"sqlite:///{tmp_path / 'state.sqlite'}")
    evalset = load_evalset("flows", settings=settings)
    kept = {model: Recordings(recording_file(evalset, model), live=True) for model in (SMALL, STRONG)}
    for asked in recorded_requests_of(evalset):
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
    accept_decision(project, "pipeline", reason="the first", clock=SystemClock(), even_if=("inconclusive",))
    again, _, test, decision, _ = concluded(project)
    again.gate(decision, test)
    assert Gate.load(again.folder / "gate.json").status in ("holds", "identical")


def test_where_the_arm_in_use_cannot_be_run_what_was_lost_is_told_of_the_best_that_was(project):
    run = PipelineExperiment(PipelineParameters("flows", checks=["off"]), project)
    scored = run.score(run.prepare(), "dev")
    gone, means = "qwen2.5-coder-0.5b@top5 · checked", mean_by_arm(scored.scores, "correctness")
    best = max(scored.names, key=lambda name: means[name])
    lost = run.losses(scored, gone)
    assert lost.quality == pytest.approx(means[best])
    assert f"of {best}, since the arm in use was not run here" in lost.table().caption
    assert "was not run" not in run.losses(scored, best).table().caption
    assert run.worst(scored, gone) is run.worst(scored, best)
    assert best in run.replay(scored, gone).table.caption


def test_the_worst_run_is_repeated_from_its_record_and_set_beside_the_other_arm(project, monkeypatch):
    monkeypatch.delenv("WORKBENCH_RUN_DIR", raising=False)
    run, _, test, decision, _ = concluded(project)
    for arm in test.names:
        repeated = run.replay(test, arm)
        assert repeated.equal, repeated
        worst = run.worst(test, arm)
        assert [row[1] for row in repeated.table.rows[:-1]] == [step.name for step in worst.steps]
        calls = {row[1]: row[3] for row in repeated.table.rows}
        assert (calls["retrieve"], calls["draft"]) == (0, 1)
    worst = run.worst(test, decision.arm)
    asked = next(q for q, one in test.runs[decision.arm].items() if one is worst)
    table = run.diff(decision, test)
    best = decision.claim(decision.arm).best
    assert [column.name for column in table.columns] == ["step", "what", best, decision.arm]
    assert asked in table.caption
    assert {what for where, what, *_ in table.rows if where == "asked"} <= {
        "kwargs.plan.model", "kwargs.plan.context", "kwargs.plan.check", "kwargs.plan.strong",
    }  # fmt: skip
    for other in [name for name in test.names if name != decision.arm]:
        named = replace(decision, rule=replace(decision.rule, reference=other))
        assert run.diff(named, test).columns[2].name == other


def test_a_step_that_differs_is_shown_in_the_notebook_and_stops_nothing(project):
    run = PipelineExperiment(PipelineParameters("flows"), project)
    scored = run.score(run.prepare()[1:2], "dev")
    (arm,) = scored.names
    worst = run.worst(scored, arm)
    query_id = next(q for q, one in scored.runs[arm].items() if one is worst)
    steps = [replace(s, output={**s.output, "text": "<b>"}) if s.name == "draft" else s for s in worst.steps]
    changed = {arm: scored.runs[arm] | {query_id: replace(worst, steps=steps)}}
    found = run.replay(replace(scored, runs=changed), arm)
    assert not found.equal
    assert "draft differs" in found.table.caption
    assert "<b>" not in found._repr_html_()


def test_with_one_arm_there_is_nothing_to_set_beside_it(project):
    parameters = PipelineParameters("flows", models=(SMALL,), contexts=("top2",), checks=("off",))
    run = PipelineExperiment(parameters, project)
    dev = run.score(run.prepare(), "dev")
    finalists = run.finalists(dev)
    test = run.test(dev, finalists)
    table = run.diff(run.decide(test, finalists), test)
    assert (table.rows, "No other configuration was tested" in table.caption) == ((), True)
    assert run.replay(test, test.names[0]).equal


def bare_answer(step, question, *, tenant_id, plan):
    found = step(retrieve, question, tenant_id, plan["evalset"])
    drafted = step(draft, question, tenant_id, found, plan, model=plan["model"], context=plan["context"])
    return {"status": "answered", "answer": drafted["text"], "reasons": [], "documents": drafted["shown"],
            "model": drafted["model"], "drafts": 1, "cost_nanos": 0}  # fmt: skip


class OwnPipeline(PipelineExperiment):
    """The notebook with a flow of the user's own."""

    flow = flow(tools={"library": Library, "client": Client.open})(bare_answer)


def test_a_flow_of_the_user_s_own_is_measured_repeated_and_compared(project):
    run = OwnPipeline(PipelineParameters("flows", checks=("off",)), project)
    scored = run.score(run.prepare(), "dev")
    worst = run.worst(scored, scored.names[0])
    assert worst.asking.flow.endswith(":bare_answer")
    assert run.replay(scored, scored.names[0]).equal
    same = PipelineExperiment(PipelineParameters("flows", checks=("off",)), project)
    assert same.score(same.prepare(), "dev").scores.equals(scored.scores)


def routed(settings, *routes, **given):
    run = PipelineExperiment(PipelineParameters("flows", routes=routes, **given), settings)
    arms = [arm for arm in run.prepare() if arm.name.startswith("router")]
    return run, arms


def test_a_policy_is_an_arm_that_picks_model_and_context_for_each_question(project):
    run, arms = routed(project, "logistic_words", checks=("off",))
    assert [arm.name for arm in arms] == ["router logistic_words"]
    assert [arm.order for arm in run.prepare()] == list(range(7))
    scored = run.score(run.prepare(), "test")
    runs = scored.runs["router logistic_words"]
    served = run.routes["logistic_words"].routes
    for query in scored.queries:
        drafted = next(s.output for s in runs[query.query_id].steps if s.name == "draft")
        picked = served.pick(query.text, "answer")
        assert (drafted["model"], drafted["context"]) == (picked.model, picked.configuration)
        fixed = scored.runs[f"{picked.model.partition('/')[2]}@{picked.configuration}"][query.query_id]
        assert fixed.result["answer"] == runs[query.query_id].result["answer"]
        assert run.cost_usd(fixed) == pytest.approx(run.cost_usd(runs[query.query_id]))
    assert len({served.pick(q.text, "answer").arm for q in scored.queries}) > 1
    assert run.replay(scored, "router logistic_words").equal


def test_on_dev_a_policy_picks_by_routers_that_had_not_seen_the_question(project):
    run, _ = routed(project, "knn_words", checks=("off",))
    served = run.routes["knn_words"].routes
    dev = run.evalset.split("dev").queries
    outcomes = routes._route_outcomes(run.evalset, run.prices, run.parameters.models, run.parameters.contexts).part(
        "dev"
    )
    held_out = served.router.pick(cross_predict(POLICIES["knn_words"], outcomes))
    assert {q.text: served.picks[q.text] for q in dev} == dict(
        zip(outcomes.requests.prompts, held_out.tolist(), strict=True)
    )
    with pytest.raises(ConfigError, match="fitted to pick for the questions of one evalset"):
        served.pick("another question", "answer")


def test_a_checked_router_tries_the_model_that_it_picked_again_with_wider_context(project):
    run, arms = routed(project, f"table:*={SMALL}@top2", checks=("on",))
    scored = run.score(arms, "test")
    hard = next(one for q, one in scored.runs[arms[0].name].items() if not right(q, SMALL, "top2"))
    asked = [(s.inputs["kwargs"]["model"], s.output["model"], s.output.get("context"))
             for s in hard.steps if s.name == "draft"]  # fmt: skip
    assert asked == [
        (f"router/table:*={SMALL}@top2", SMALL, "top2"),
        (SMALL, SMALL, None),
        (STRONG, STRONG, None),
    ]
    assert [s.inputs["kwargs"]["context"] for s in hard.steps if s.name == "draft"][1:] == ["top5", "top5"]
    lost = run.losses(scored, arms[0].name)
    assert sum(row[1] for row in lost.table().rows) == TEST


def test_what_a_router_picks_is_not_asked_twice(project):
    run, arms = routed(project, f"table:*={STRONG}@top5", checks=("on",))
    scored = run.score(arms, "test")
    refused = [one for one in scored.runs[arms[0].name].values() if one.result["status"] == "refused"]
    assert refused
    assert {one.result["drafts"] for one in refused} == {1}  # it was the strongest with the widest context


def test_the_accepted_routing_decision_is_an_arm(project):
    evalset = load_evalset("flows", settings=project)
    (evalset.path / "gates.toml").write_text("[pipeline]\nmargin = 0.3\n[routing]\nmargin = 0.3\n")
    for begin in (PipelineExperiment, PipelineExperiment.examined):  # a dry run refuses it too
        with pytest.raises(ConfigError, match="routing"):
            begin(PipelineParameters("flows", routes=("accepted",)), project)
    routing = RoutingExperiment(RoutingParameters("flows", policies=("length",)), project)
    arms = routing.fit()
    dev = routing.score(arms, "dev")
    finalists = routing.finalists(dev)
    test = routing.test(dev, finalists)
    decision = routing.decide(test, finalists)
    routing.save(decision, test, dev=dev)
    routing.gate(decision, test)
    accept_decision(project, "routing", reason="the first", clock=SystemClock(), even_if=("inconclusive",))
    path = evalset.path / "decisions" / "routing.json"
    if decision.verdict == "inconclusive":
        with pytest.raises(ConfigError, match="names nothing to use"):
            routed(project, "accepted")
        path.write_text(replace(Decision.load(path), verdict="keep_reference").to_json())
    run, (arm, *_) = routed(project, "accepted")
    scored = run.score([arm], "test")
    served = load_routed(project, "flows")
    for query in scored.queries:
        drafted = next(s.output for s in scored.runs[arm.name][query.query_id].steps if s.name == "draft")
        assert drafted["model"] == served.pick(query.text, "answer").model
    assert run.inputs["route accepted"] == served.router.sha256


def test_a_parameter_that_nobody_gives_is_no_input_of_the_fingerprint(project):
    without = PipelineExperiment(PipelineParameters("flows"), project)
    assert not [name for name in without.inputs if "route" in name]
    run, _ = routed(project, "length")
    assert run.inputs["parameter routes"] == "('length',)"


def test_a_route_that_cannot_be_served_is_refused_before_anything_is_scored(project):
    with pytest.raises(ConfigError, match="unknown policy 'lengths'; did you mean 'length'"):
        PipelineParameters("flows", routes=("lengths",))
    with pytest.raises(ConfigError, match="route 'cascade' is a cascade"):
        PipelineParameters("flows", routes=("cascade",))
    with pytest.raises(EvalsetError, match="1 model; routing needs at least two"):
        routed(project, "length", models=(SMALL,), contexts=("top2",))


def test_answers_that_a_configuration_needs_and_that_are_not_recorded_are_told_before_anything_is_run(project):
    evalset = load_evalset("flows", settings=project)
    path = recording_file(evalset, STRONG)
    lines = path.read_text().splitlines(keepends=True)
    kept = [line for line in lines if '"answer:q20:top5"' not in line]
    assert len(kept) == len(lines) - 1
    path.write_text("".join(kept))
    with pytest.raises(RecordingMiss) as missed:
        PipelineExperiment(PipelineParameters("flows"), project)
    told = str(missed.value)
    assert f"1 of {DEV + TEST} of {STRONG} with top5; first of question 'q20'" in told
    assert f"workbench record flows --model {STRONG}" in told
    PipelineExperiment(PipelineParameters("flows", contexts=("bare", "top2")), project)  # needs none of them
    path.write_text("".join(line for line in lines if ":q20:" not in line))
    with pytest.raises(RecordingMiss, match="with bare; 1 of 48 of"):
        routed(project, "length", contexts=("bare", "top2"))


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
        build_parameters(PipelineParameters, {"models": []})
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
        for asked in [a for a in recorded_requests_of(evalset, models=[model]) if kept.count(a.request)]:
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
