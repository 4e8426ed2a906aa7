"""The stack from recordings and a stream: what parts save alone and together, and a decision that holds again."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.pipeline import test_notebook as pipeline
from tests.pipeline.test_notebook import SMALL, STRONG, project  # noqa: F401  a fixture
from workbench.caching import guard
from workbench.config import SystemClock, load_settings
from workbench.errors import ConfigError, EvalsetError
from workbench.evalset.evalset import load_evalset
from workbench.evaluation.gate import Gate
from workbench.inference.messages import Response, Usage
from workbench.inference.prices import load_prices
from workbench.inference.recordings import Recordings
from workbench.records import Decision
from workbench.routing.recorded import ArmHits, asked_of, recording_file
from workbench.routing.retrieval_levels import found_with, write_hits
from workbench.runner import Job, accept, run_all
from workbench.stack.notebook import StackExperiment, StackParameters
from workbench.stack.tables import Cell
from workbench.testing import HashEmbedder

GIVEN = StackParameters("flows", ("bare", "top2"), (SMALL, STRONG), ("off", "exact"), warmup=0)
OFTEN = 4  # times that each question is asked, in the same words
PLAIN, NARROW = "qwen2.5-coder-0.5b", "smollm2-135m"


@pytest.fixture
def settings(monkeypatch, request):
    """The pipeline's project with 80 questions, each asked several times; the last request names another answer."""
    monkeypatch.setattr(pipeline, "TEST", 68)
    monkeypatch.delenv("WORKBENCH_RUN_DIR", raising=False)
    settings = request.getfixturevalue("project")
    ids = [f"q{i:02d}" for i in range(80)]
    rows = [
        (q, f"How is {q} done, {pipeline.says(q)}", q)
        for q in np.random.default_rng(0).permutation(OFTEN * ids).tolist()
    ]
    rows += [("q03", f"How is q03 done, {pipeline.says('q03')}", "another"), ("unknown", "what else?", "unknown")]
    columns = {
        "pos": range(len(rows)), "query": [text for _, text, _ in rows], "answer_key": [key for *_, key in rows],
        "tenant_id": ["lib"] * len(rows), "cluster": [q for q, *_ in rows],
    }  # fmt: skip
    (settings.evalsets / "flows" / "recordings" / "searches.jsonl").write_text("")
    pl.DataFrame(columns).write_parquet(settings.evalsets / "flows" / "stream.parquet")
    (settings.evalsets / "flows" / "gates.toml").write_text("[stack]\nmargin = 0.3\nleast_saving_usd = 0\n")
    return settings


def concluded(settings):
    run = StackExperiment(GIVEN, settings)
    arms = run.prepare()
    dev, held_out = run.score(arms, "dev"), run.score(arms, "test")
    finalists = run.finalists(dev)
    test = run.test(dev, finalists)
    decision = run.decide(test, finalists)
    told = (run.joint(decision, dev, held_out), run.marginals(dev, held_out), run.effects(dev, held_out))
    tables = (*told, run.misses(held_out), held_out.all_cells)
    run.save(decision, test, *tables, dev=dev)
    return run, dev, test, decision, held_out


def test_savings_do_not_add_up_by_exactly_what_the_cache_leaves_the_router(settings):
    run, _, test, decision, held_out = concluded(settings)
    assert "1 of 322 are left out" in run.contents().caption
    assert len(held_out.names) == 8
    prices = load_prices().models
    usd = {m: 100 * prices[m]["input"] + 10 * prices[m]["output"] for m in (SMALL, STRONG)}
    routed = 1 - float(usd[SMALL] / usd[STRONG])
    effects = run.effects(held_out, held_out)
    cached = 1 - float(held_out.misses[f"top2 · {PLAIN} · exact"].mean())
    assert cached == pytest.approx(1 - 1 / OFTEN, abs=0.01)
    saved = {row[0]: row[2:] for row in effects.rows}
    # each answer is charged whole nano-dollars
    assert saved[NARROW][1].estimate == pytest.approx(routed, rel=1e-4)
    assert saved["exact"][1].estimate == pytest.approx(cached)
    alone, together, _, overlap, _ = saved[f"{NARROW} + exact"]
    assert alone == pytest.approx(routed + cached, rel=1e-4)
    assert together.estimate == pytest.approx(1 - (1 - routed) * (1 - cached), rel=1e-4)
    assert overlap.estimate == pytest.approx(routed * cached, rel=1e-4)
    assert overlap.low <= overlap.estimate <= overlap.high
    assert f"bare + {NARROW} + exact" in saved
    (left,) = [r for r in run.misses(held_out).rows if r[:2] == (SMALL, "exact")]
    assert left[3].estimate == pytest.approx(routed, rel=1e-4)
    assert left[4].estimate == pytest.approx(routed * (1 - cached), rel=1e-4)
    assert decision.verdict == "chosen"
    assert decision.claim(decision.arm).cost_usd_per_1k == pytest.approx(1000 * float(test.costs(decision.arm).mean()))


def test_a_hit_gets_what_was_answered_before_and_is_wrong_where_another_answer_is_needed(settings):
    run = StackExperiment(GIVEN, settings)
    arms = [a for a in run.prepare() if a.cell == Cell("top2", STRONG, "exact")]
    found = pl.concat(run.score(arms, split).scores for split in ("dev", "test"))
    values = dict(found.select("item_id", "value").iter_rows())
    assert values["00320"] == 0.0  # q03 is answered rightly, but this request needs another answer
    right = [i for i, q in enumerate(run.stream.clusters[:320]) if int(q[1:]) % 8 != 7]
    assert all(values[f"{i:05d}"] == 1.0 for i in right)
    assert sum(values.values()) == len(right)


def test_what_a_part_does_on_average_over_the_others_is_the_mean_over_their_levels(settings):
    run, dev, _, decision, held_out = concluded(settings)
    plain = f"top2 · {PLAIN} · off"
    usd = {name: float(held_out.costs(name).sum()) for name in held_out.names}
    right = {name: float(held_out.values(name).mean()) for name in held_out.names}
    found = {(row[0], row[1]): row for row in run.marginals(dev, held_out).rows}
    assert found.keys() == {("retrieval", "bare"), ("routing", NARROW), ("cache", "exact")}
    for (_, level), row in found.items():
        instead = {"bare": "top2", NARROW: PLAIN, "exact": "off"}[level]
        pairs = [(n, n.replace(level, instead)) for n in held_out.names if level in n.split(" · ")]
        assert len(pairs) == row[2] == 4
        saved = sum(usd[base] - usd[name] for name, base in pairs) / 4 / usd[plain]
        assert row[5].estimate == pytest.approx(saved)
        assert row[6].estimate == pytest.approx(sum(right[name] - right[base] for name, base in pairs) / 4, abs=1e-12)
    assert found["routing", NARROW][5].estimate < found["routing", NARROW][3].estimate
    choosing, left = run.joint(decision, dev, held_out).rows
    assert (choosing[0], left[0]) == ("choosing", "held out")
    assert left[2].estimate == pytest.approx(1 - usd[decision.arm] / usd[plain])
    assert left[4].estimate == pytest.approx(right[decision.arm])
    elsewhere = replace(decision, arm="top9 · gone · off")  # accepted with other contexts
    assert run.joint(elsewhere, dev, held_out).rows == ()
    assert [
        s.title
        for s in run.save(decision, held_out, run.joint(elsewhere, dev, held_out), dev=dev).sections
        if not s.rows
    ] == []


def answer_rightly(evalset, retrieved, settings):
    """Both models answer every prompt of another arm rightly."""
    for asked in asked_of(evalset, retrieved=retrieved):
        kept = Recordings(recording_file(evalset, asked.request.model), live=True)
        if asked.feature == "answer" and not kept.count(asked.request):
            text = f"Use `fn_{asked.query.query_id}`."
            kept.add(asked.request, asked.item_id, Response(text, asked.request.model, Usage(100, 0, 0, 10)))


def test_another_retrieval_arm_is_a_level_where_every_prompt_of_it_is_answered(settings):
    arm, given = "whole · full_text", replace(GIVEN, contexts=("bare", "top2", "top5"))
    evalset = load_evalset("flows", settings=settings)
    hits = {q.query_id: [f"lib.fn_{q.query_id}", "lib.fn_q01"] for q in evalset.queries}
    found = ArmHits(arm, {"full_text": 1.0}, found_with(evalset, arm), hits, {})
    write_hits(evalset, found)
    run = StackExperiment(given, settings)
    # of the one document of top2 both arms find the same, of the two of top5 they do not
    assert {a.cell.context for a in run.prepare()} == {"bare", "top2", "top5", "top2 of whole/full_text"}
    asked = [a for a in asked_of(evalset, retrieved=found) if a.context == "top5"]
    kept = {m: Recordings(recording_file(evalset, m)) for m in (SMALL, STRONG)}
    new = sum(not kept[a.request.model].count(a.request) for a in asked)
    (told,) = run.left_out
    assert 0 < new <= len(asked) == 160
    assert f"of 320 answers to its prompts {new} are not recorded ({new} with top5); they cost at most $" in told
    assert told in run.warnings(None, None)
    level = "Levels of retrieval: bare, top2, top5, top2 of whole/full_text; to have whole · full_text too takes"
    assert f"{level} {new} calls, at most $" in run.contents().caption
    with pytest.raises(ConfigError, match="'structure · vector' fills no context"):
        StackExperiment(replace(given, retrievals=("structure · vector",)), settings)
    answer_rightly(evalset, found, settings)
    run = StackExperiment(given, settings)
    arms = [a for a in run.prepare() if a.cache.kind == "off"]
    assert run.left_out == ()
    dev, held_out = run.score(arms, "dev"), run.score(arms, "test")
    wide = f"top5 of whole/full_text · {NARROW} · off"
    assert held_out.values(wide).mean() == 1.0  # every other one with the accepted arm
    facts = {f.name: f for f in held_out.facts}
    assert facts[wide].amounts["full_text"] == pytest.approx(1000)
    assert facts[wide].parameters | {"retrieval": arm, "context": "top5"} == facts[wide].parameters
    assert "retrieval" not in facts[f"top5 · {NARROW} · off"].parameters
    levels = {row[1]: row for row in run.marginals(dev, held_out).rows if row[0] == "retrieval"}
    assert levels["top5 of whole/full_text"][6].estimate > 0.2
    assert levels["top2 of whole/full_text"][6].estimate == pytest.approx(levels["top2"][6].estimate)
    assert f"hits of {arm}" in run.inputs


def test_the_decision_holds_when_it_is_checked_again_and_says_until_when_it_stands(settings):
    run, dev, test, decision, _ = concluded(settings)
    run.gate(decision, test, dev)
    assert Gate.load(run.folder / "gate.json").status == "new"
    stored = Decision.load(run.folder / "decision.json")
    flips = {f.figure: f for f in stored.flips}
    assert {"repeat rate", "margin", f"price of {SMALL}"} <= flips.keys()
    assert flips["repeat rate"].now == pytest.approx(1 - 1 / OFTEN, abs=0.01)
    assert flips["repeat rate"].holds_at(flips["repeat rate"].now)
    accept(settings, "stack", reason="first", clock=SystemClock())
    run, dev, test, decision, _ = concluded(settings)
    run.gate(decision, test, dev)
    assert Gate.load(run.folder / "gate.json").status in ("holds", "identical")


def test_a_cache_whose_verifier_is_not_asked_here_is_refused(settings):
    arm = {"kind": "semantic", "threshold": 0.9, "guard": None, "encoder_id": "e", "verifier": {"name": "fitted"}}
    accepted = Decision.load(Path(__file__).parents[2] / "evalsets" / "caching_demo" / "decisions" / "caching.json")
    folder = settings.evalsets / "flows" / "decisions"
    folder.mkdir(exist_ok=True)
    (folder / "caching.json").write_text(replace(accepted, parameters=arm).to_json())
    with pytest.raises(ConfigError, match="goes with verifier fitted, which is not asked here"):
        StackExperiment(replace(GIVEN, caches=("off", "accepted")), settings)


def test_what_is_not_recorded_or_not_accepted_is_refused_by_name(settings):
    for given, match in (
        ({"contexts": ("top9",)}, "context.*top9"), ({"routes": ("gpt-9",)}, "route.*gpt-9"),
        ({"routes": ("knn_embedding",)}, "knn_embedding"), ({"caches": ("accepted",)}, "no caching decision"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=match):
            StackExperiment(StackParameters(**{"evalset": "flows", "caches": ("off",), "warmup": 0} | given), settings)
    with pytest.raises(ConfigError, match="cache 'on'"):
        StackParameters(caches=("on",))
    with pytest.raises(EvalsetError, match="both halves of the families need some"):
        StackExperiment(StackParameters("flows", ("bare",), (SMALL,), ("off",), warmup=321), settings)


@pytest.mark.slow
def test_the_notebook_runs_headless_on_the_recordings_of_this_repository(tmp_path):
    settings = load_settings({}, Path(__file__).parents[2])
    settings = replace(settings, runs=tmp_path / "runs", state_url=f"sqlite:///{tmp_path / 'state.sqlite'}")
    (record,) = run_all([Job("stack", "smoke")], settings=settings, clock=SystemClock())
    assert (record.status, record.report_error) == ("done", None)
    decision = Decision.load(record.run_dir / "decision.json")
    assert {"price of local/smollm2-135m", "requests", "repeat rate"} <= {f.figure for f in decision.flips}
    report = record.report.read_text(encoding="utf-8")
    assert "What do parts of the stack save together?" in report
    assert "Until when does this decision stand?" in report


@pytest.mark.parametrize("checks", [None, {"kind": "Guard", "wording": True}])
def test_a_decision_with_the_accepted_cache_rests_on_the_rules_of_its_guard(settings, monkeypatch, checks):
    arm = {"kind": "semantic", "threshold": 0.9, "guard": checks, "encoder_id": "hash"}
    accepted = Decision.load(Path(__file__).parents[2] / "evalsets" / "caching_demo" / "decisions" / "caching.json")
    folder = settings.evalsets / "flows" / "decisions"
    folder.mkdir(exist_ok=True)
    (folder / "caching.json").write_text(replace(accepted, parameters=arm).to_json())
    inputs = []
    for _ in range(2):
        run = StackExperiment(replace(GIVEN, caches=("off", "accepted")), settings, embedder=HashEmbedder(64))
        inputs.append(run.inputs)
        monkeypatch.setattr(guard, "RULES", guard.RULES + 1)
    assert {name for name, value in inputs[0].items() if inputs[1][name] != value} == ({"guard"} if checks else set())
