"""Every notebook's gate counts its items: a run that lost some is an error, whatever its decision says."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from tests.caching.test_notebook import open_bench as open_caching
from tests.caching.test_notebook import write_stream
from tests.evalset.small_evalset import settings_in
from tests.retrieval import tiny
from tests.routing.routing_tables import planted
from tests.routing.test_notebook import open_bench as open_routing
from tests.routing.test_notebook import project
from workbench.errors import GateFailed
from workbench.evaluation.gate import Gate
from workbench.retrieval.ask_arms import ask_all_arms


def refused(bench, gate):
    """The word of a gate that must raise, as it stands on disk."""
    with pytest.raises(GateFailed) as caught:
        gate()
    assert (caught.value.status, caught.value.exit_code) == ("error", 3)
    found = Gate.load(bench.folder / "gate.json")
    return [c.sentence for c in found.claims if c.status == "error"]


def test_retrieval_questions_that_were_not_asked_are_an_error_and_so_are_too_many_that_failed(tmp_path):
    bench = tiny.open_bench(tmp_path)
    dev, _, test, decision = tiny.judge(bench, bench.prepare())
    bench.gate(decision, test, dev)
    part = replace(test.part, queries=test.part.queries[8:])
    lost = replace(ask_all_arms(test.arms, part, bench.searcher, depth=100), facts=test.facts)
    said = refused(bench, lambda: bench.gate(bench.decide(lost, bench.finalists(dev)), lost, dev))
    metrics = test.scores["metric"].n_unique()
    told = f"{tiny.HYBRID}: {46 * metrics} rows, {54 * metrics} are expected (54 items x 1 repeat x {metrics} metrics"
    assert any(s.startswith(told) for s in said)
    assert f"{tiny.HYBRID}: its claim counts 46 of 54 items." in said
    failed = test.scores.with_columns(value=pl.when(pl.col("item_id") > "q24").then("value"))
    failing = replace(test, scores=failed)
    said = refused(bench, lambda: bench.gate(bench.decide(failing, bench.finalists(dev)), failing, dev))
    assert f"{tiny.TEXT}: coverage 0.870 of its claim is below min_coverage 0.9; mend what fails and run again." in said


def test_routing_prompts_that_were_not_judged_are_an_error(tmp_path):
    bench = open_routing(project(tmp_path, planted(300)), policies=["length"])
    arms = bench.fit()
    dev = bench.candidates(bench.score(arms, "dev"), bench.study(arms))
    finalists = bench.finalists(dev)
    test = bench.test(dev, finalists)
    bench.gate(bench.decide(test, finalists), test)
    n = len(test.outcomes)
    lost = replace(test, scores=test.scores.filter(pl.col("item_id") != test.outcomes.prompt_ids[0]))
    said = refused(bench, lambda: bench.gate(bench.decide(lost, finalists), lost))
    reference = finalists.names[0]
    assert f"{reference}: its claim counts {n - 1} of {n} items." in said
    assert any(s.startswith(f"{reference}: {n - 1} rows, {n} are expected ({n} items x 1 repeat x 1") for s in said)


def test_requests_that_were_not_replayed_are_an_error(tmp_path):
    write_stream(settings_in(tmp_path).evalsets / "tiny")
    bench = open_caching(tmp_path, guard=[])
    semantic = bench.semantic()
    replayed = bench.replay(bench.certify(semantic), semantic)
    decision = bench.decide(replayed)
    scopes = bench.scopes(semantic)
    bench.gate(decision, replayed, scopes)
    gone = replace(replayed, requests=replayed.requests.filter(pl.col("arm") != "exact"))
    said = refused(bench, lambda: bench.gate(decision, gone, scopes))
    assert any(s.startswith("exact: 0 rows, 750 are expected (750 items x 1 repeat x 1 metric") for s in said)
    part = tuple(replace(r, served=_half(r.served)) for r in replayed.results)
    short = bench.decide(replace(replayed, results=part))
    said = refused(bench, lambda: bench.gate(short, replayed, scopes))
    assert said[0] == f"off: its claim counts {short.claim('off').n_items} of 750 items."
    assert {s.split(":")[0] for s in said} == {r.arm.name for r in replayed.results}


def _half(served):
    """Counts of every other cluster alone."""
    return served.take(np.arange(0, len(served.requests), 2))
