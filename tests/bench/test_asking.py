"""Asking every candidate the same questions, and refusing a sweep whose knob does nothing."""

from dataclasses import replace

import pytest

from tests.bench.tiny import HYBRID, TEXT, open_bench
from workbench.bench.asking import arms_table, ask_all, check_knobs, foreign_hits, spread_over_rebuilds
from workbench.errors import ConfigError
from workbench.retrieval.arms import make_arm
from workbench.retrieval.filters import OneOf
from workbench.retrieval.indexing import FullTextIndex, HnswSq
from workbench.retrieval.strategies import FullText, Hybrid, Vector


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return open_bench(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def arms(bench):
    return {arm.name: arm for arm in bench.prepare()}


@pytest.fixture(scope="module")
def dev(bench):
    return bench.experiment.evalset.split("dev")


def ask(bench, dev, *candidates):
    for arm in candidates:
        bench.searcher.prepare(arm)
    return ask_all(candidates, dev, bench.searcher, depth=40)


def test_every_candidate_is_asked_every_question_in_its_order(bench, dev, arms):
    scored = ask(bench, dev, arms[HYBRID], arms[TEXT])
    assert [f.name for f in scored.facts] == [HYBRID, TEXT]
    assert [f.order for f in scored.facts] == [0, 1]
    for answers in scored.answers.values():
        assert set(answers.latency_ms) == {q.query_id for q in dev.queries}
    assert scored.of("mrr@10").height == 2 * len(dev.queries)
    assert foreign_hits(scored, bench.experiment.evalset.documents) == 0


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("the name alone", {"strategy": FullText()}),
        ("a depth beyond the corpus", {"strategy": Hybrid(depth=80)}),
        ("a tokenizer's option", {"strategy": FullText(), "text_index": FullTextIndex(ascii_folding=False)}),
    ],
)
def test_a_sweep_whose_knob_has_no_effect_is_refused(bench, dev, arms, name, changes):
    scored = ask(bench, dev, *arms.values(), replace(arms[TEXT], name=name, **changes))
    with pytest.raises(ConfigError, match=f"{name!r} returned the same hits for every question by the same plan"):
        check_knobs(scored.arms, scored.answers, bench.searcher)


@pytest.mark.parametrize("knob", [{"index": HnswSq()}, {"where": OneOf("document_type", ("class", "method"))}])
def test_a_knob_that_shows_in_the_plan_took_effect_even_where_it_finds_the_same(bench, dev, arms, knob):
    other = make_arm("whole", "other", Vector(**knob), embedder="minilm")
    scored = ask(bench, dev, *arms.values(), other)
    assert scored.answers[other.name].run.height == scored.answers["whole · vector"].run.height
    check_knobs(scored.arms, scored.answers, bench.searcher)


def test_only_an_index_built_at_random_has_a_spread(bench, dev, arms):
    ask(bench, dev, graph := make_arm("whole", "graph", Vector(HnswSq()), embedder="minilm"))
    options = {"metric": "ndcg@10", "depth": 40}
    assert spread_over_rebuilds(arms[HYBRID], dev, bench.searcher, rebuilds=3, **options) is None
    assert spread_over_rebuilds(graph, dev, bench.searcher, rebuilds=0, **options) is None
    low, high = spread_over_rebuilds(graph, dev, bench.searcher, rebuilds=3, **options)
    assert 0 < low <= high <= 1


def test_the_table_of_arms_counts_chunks_and_what_is_cut_off(bench, arms):
    table = arms_table(list(arms.values()), bench.searcher)
    assert [row[0] for row in table.rows] == list(arms)
    assert {row[1] for row in table.rows} == {80}
    assert all(row[3] == repr(arms[row[0]]) for row in table.rows)
