"""Asking every candidate the same questions, and leaving out what does the same as a simpler arm."""

import time
from dataclasses import replace

import pytest

from tests.retrieval.tiny import CODES, HYBRID, TEXT, Furthest, open_bench
from workbench.errors import StoreError
from workbench.evaluation.gate import MIN_REBUILDS, rebuild_reach
from workbench.retrieval.arms import STRATEGIES, make_arm
from workbench.retrieval.ask_arms import (
    arm_spread_over_rebuilds,
    arms_table,
    ask_all_arms,
    candidate_name,
    drop_twin_arms,
)
from workbench.retrieval.chunking import ByStructure
from workbench.retrieval.filters import OneOf
from workbench.retrieval.fitted_arms import fit_arms
from workbench.retrieval.index_kinds import FullTextIndex, HnswSq
from workbench.retrieval.lance import LanceRows
from workbench.retrieval.reuse import FoundBefore
from workbench.retrieval.searcher import Searcher
from workbench.retrieval.strategies import Arm, Hybrid, Rescored, Vector
from workbench.retrieval.systems import SystemArm
from workbench.testing import HashEmbedder


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return open_bench(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def arms(bench):
    return {arm.name: arm for arm in bench.prepare()}


@pytest.fixture(scope="module")
def dev(bench):
    return bench.evalset.split("dev")


def ask(bench, dev, *candidates):
    for arm in candidates:
        bench.searcher.prepare(arm)
    return ask_all_arms(candidates, dev, bench.searcher, depth=40)


def test_every_candidate_is_asked_every_question_in_its_order(bench, dev, arms):
    scored = ask(bench, dev, arms[HYBRID], arms[TEXT])
    assert [f.name for f in scored.facts] == [HYBRID, TEXT]
    assert [f.order for f in scored.facts] == [0, 1]
    for answers in scored.answers.values():
        assert set(answers.latency_ms) == {q.query_id for q in dev.queries}
    assert scored.of("mrr@10").height == 2 * len(dev.queries)
    assert scored.foreign == 0


def test_hits_of_one_table_are_let_go_before_the_next_one_is_asked(bench, dev, arms, monkeypatch):
    """In whatever order the arms come; their facts and answers stay in it."""
    other = make_arm("structure", "full_text", STRATEGIES["full_text"], embedder="minilm")
    candidates, held = [arms[HYBRID], other, arms[TEXT]], []
    release = FoundBefore.release

    def counted(self):
        held.append({key[0] for key in self._found})
        release(self)

    monkeypatch.setattr(FoundBefore, "release", counted)
    scored = ask(bench, dev, *candidates)
    assert held.pop() == set(), "and at the end nothing is held"
    tables = {bench.searcher.table_name(arm): arm for arm in candidates}.values()
    tenants = {query.tenant_id for query in dev.queries}
    assert held == [{id(bench.searcher.handle(arm, tenant)) for tenant in tenants} for arm in tables]
    assert list(scored.answers) == [f.name for f in scored.facts] == [c.name for c in candidates]


def test_where_no_time_is_judged_vectors_are_searched_for_together_with_the_same_answers(bench, dev, arms, monkeypatch):
    mixed = Arm("mixed", Rescored("wordllama", depth=20), embedder="minilm")
    embedders = {**bench.searcher.embedders, "wordllama": HashEmbedder(dimension=32)}
    searcher = Searcher(
        bench.searcher.documents, bench.searcher.manifest, bench.searcher.settings, embedders, bench.searcher.tokenizer
    )
    (fitted,), _ = fit_arms(searcher, ["whole"], ["hybrid_weighted"], dev, embedder="minilm")
    candidates = [*arms.values(), fitted, Arm("graph", Vector(HnswSq())), mixed]
    for arm in candidates:
        searcher.prepare(arm.arm if arm is fitted else arm)
    timed = ask_all_arms(candidates, dev, searcher, depth=40)
    alone = []
    nearest = LanceRows.nearest
    monkeypatch.setattr(LanceRows, "nearest", lambda *given, **more: alone.append(given) or nearest(*given, **more))
    (again,), _ = fit_arms(searcher, ["whole"], ["hybrid_weighted"], dev, embedder="minilm", timed=False)
    untimed = ask_all_arms(candidates, dev, searcher, depth=40, timed=False)
    assert again == fitted
    assert alone == []
    assert untimed.scores.drop("latency_ms").equals(timed.scores.drop("latency_ms"))
    for name, answers in timed.answers.items():
        assert untimed.answers[name].run.equals(answers.run)
    assert untimed.nearest == timed.nearest


def test_a_question_that_cannot_be_searched_for_with_others_fails_alone(bench, dev, arms, monkeypatch):
    """What a search of many raises is left to the searches of each."""
    many = LanceRows.nearest_to_each

    def fails(*given, **more):
        raise StoreError("not now")

    monkeypatch.setattr(LanceRows, "nearest_to_each", fails)
    untimed = ask_all_arms([arms["whole · vector"]], dev, bench.searcher, depth=40, timed=False)
    monkeypatch.setattr(LanceRows, "nearest_to_each", many)
    timed = ask_all_arms([arms["whole · vector"]], dev, bench.searcher, depth=40)
    assert untimed.scores.drop("latency_ms").equals(timed.scores.drop("latency_ms"))


class SlowToName(Searcher):
    """Takes a tenth of a second to find out which table an arm needs."""

    def table_name(self, arm):
        time.sleep(0.1)
        return Searcher.table_name(self, arm)


def searcher_of(kind, bench):
    """A searcher of a kind over the tables of the bench."""
    parts = ("documents", "manifest", "settings", "embedders", "tokenizer")
    return kind(*(getattr(bench.searcher, part) for part in parts))


def test_the_time_of_a_question_holds_no_work_of_the_harness(bench, dev, arms):
    """Which table and handle answer is the same for every question of a tenant, and is found before any is timed."""
    (fitted,), _ = fit_arms(bench.searcher, ["whole"], ["hybrid_weighted"], dev, embedder="minilm")
    searcher = searcher_of(SlowToName, bench)
    searcher.prepare(arms[TEXT])
    scored = ask_all_arms([arms[TEXT], fitted], dev, searcher, depth=5)
    for answers in scored.answers.values():
        assert len(answers.latency_ms) == len(dev.queries)
        assert min(answers.latency_ms.values()) < 100


def without_twins(bench, dev, *candidates, keep=()):
    for arm in candidates:
        bench.searcher.prepare(arm)
    kept, why = drop_twin_arms(candidates, dev, bench.searcher, depth=40, keep=keep)
    return [candidate_name(c) for c in kept], why


@pytest.mark.parametrize(
    ("name", "changes", "twin"),
    [
        ("the name alone", {}, TEXT),
        ("a depth beyond the corpus", {"strategy": Hybrid(depth=80)}, HYBRID),
        ("a tokenizer's option", {"text_index": FullTextIndex(ascii_folding=False)}, TEXT),
        ("a cut that is none", {"chunker": ByStructure(max_tokens=100)}, TEXT),
    ],
)
def test_an_arm_whose_knob_has_no_effect_is_left_out_and_the_simpler_stays(bench, dev, arms, name, changes, twin):
    other = replace(arms[TEXT], name=name, **changes)
    kept, why = without_twins(bench, dev, *arms.values(), other)
    assert kept == list(arms)
    assert why == {name: f"what makes it differ from {twin} has no effect on this corpus"}
    kept, why = without_twins(bench, dev, other, *arms.values())
    assert kept == [name, *(n for n in arms if n != twin)], "the first that is declared is the simpler"


def test_an_arm_that_must_stay_stays_and_its_twin_is_told_where_both_are_asked(bench, dev, arms):
    other = replace(arms[TEXT], name="accepted")
    assert without_twins(bench, dev, *arms.values(), other, keep={"accepted"}) == ([*arms, "accepted"], {})
    scored = ask(bench, dev, *arms.values(), other)
    told = f"{TEXT} and accepted returned the same hits for every dev question by the same plan"
    assert [note.partition(":")[0] for note in scored.notes] == [told]
    assert told in scored.table.caption


@pytest.mark.parametrize("knob", [{"index": HnswSq()}, {"where": OneOf("document_type", ("class", "method"))}])
def test_a_knob_that_shows_in_the_plan_took_effect_even_where_it_finds_the_same(bench, dev, arms, knob):
    other = make_arm("whole", "other", Vector(**knob), embedder="minilm")
    scored = ask(bench, dev, *arms.values(), other)
    assert scored.answers[other.name].run.height == scored.answers["whole · vector"].run.height
    assert without_twins(bench, dev, *arms.values(), other) == ([*arms, other.name], {})
    assert scored.notes == ()


def test_an_arm_that_cuts_documents_another_way_stays(bench, dev, arms):
    cut = replace(arms[TEXT], name="cut", chunker=ByStructure(max_tokens=4))
    assert without_twins(bench, dev, *arms.values(), cut) == ([*arms, "cut"], {})


def test_two_indices_built_at_random_are_no_twins_by_their_hits(bench, dev):
    """The next builds may find others, and then another arm would be left out."""
    graph = Arm("graph", Vector(HnswSq()))
    denser = replace(graph, name="denser", strategy=Vector(HnswSq(m=30)))
    same_build = replace(graph, name="same build", strategy=Vector(HnswSq(), nprobes=20))  # LanceDB's own number
    same_chunks = replace(graph, name="same chunks", chunker=ByStructure(max_tokens=100))
    runs = ask(bench, dev, graph, denser).answers
    assert runs["graph"].run.equals(runs["denser"].run)
    kept, why = without_twins(bench, dev, graph, denser, same_build, same_chunks)
    assert (kept, list(why)) == (["graph", "denser"], ["same build", "same chunks"])


def test_the_users_own_systems_are_never_left_out(bench, dev, arms):
    bench.searcher.prepare(text := arms[TEXT])
    mine = [SystemArm(n, n, 0.0, n, search=lambda q: bench.searcher.search(text, q, 40)) for n in ("mine", "yours")]
    kept, why = drop_twin_arms([text, *mine], dev, bench.searcher, depth=40)
    assert (kept, why) == ([text, *mine], {})


class Counting(Searcher):
    """Counts how often it builds an index again."""

    built = 0

    def rebuild_index(self, arm):
        Counting.built += 1
        Searcher.rebuild_index(self, arm)


@pytest.fixture
def rebuilt(bench, dev):
    """Spread over eight rebuilds of an arm, with how often its index was built, and what it answered."""
    searcher = searcher_of(Counting, bench)

    def measured(arm, rebuilds=MIN_REBUILDS):
        searcher.prepare(arm)
        answered = ask_all_arms([arm], dev, searcher, depth=40).answers[arm.name]
        before = Counting.built
        options = {"answered": answered, "metric": "ndcg@10", "depth": 40, "rebuilds": rebuilds}
        return arm_spread_over_rebuilds(arm, dev, searcher, **options), Counting.built - before, searcher

    return measured


def mean_of_a_new_build(arm, dev, searcher):
    searcher.prepare(arm)
    searcher.rebuild_index(arm)
    return ask_all_arms([arm], dev, searcher, depth=40).of("ndcg@10")["value"].mean()


@pytest.mark.parametrize(
    ("strategy", "rebuilds", "paid"),
    [
        (Hybrid(), 8, 0),
        (CODES, 0, 0),
        (Vector(HnswSq()), 8, 2),
        (replace(CODES, refine_factor=10), 8, 2),  # ranked by the vectors themselves: any build finds the same
    ],
)
def test_rebuilds_that_do_not_differ_are_no_spread_and_are_not_paid_for(rebuilt, strategy, rebuilds, paid):
    assert rebuilt(Arm("arm", strategy), rebuilds)[:2] == (None, paid)


def test_rebuilds_that_differ_have_a_mean_and_a_deviation_that_a_worse_build_is_outside_of(dev, rebuilt):
    arm = Arm("codes", CODES)
    spread, built, searcher = rebuilt(arm)
    assert built == MIN_REBUILDS
    mean, deviation = spread
    assert 0.2 < mean < 0.4
    assert 0 < deviation < 0.05
    reach = rebuild_reach(spread, margin=0.2)
    worse = Arm("worse", Furthest(CODES.index))
    assert abs(mean_of_a_new_build(arm, dev, searcher) - mean) <= reach
    assert mean_of_a_new_build(worse, dev, searcher) < mean - reach


def test_a_build_that_answers_otherwise_than_the_first_is_no_probe_that_settles_it(bench, dev, rebuilt):
    """Two rebuilds may agree by chance: what the arm answered before counts as a third build."""
    searcher = searcher_of(Counting, bench)
    searcher.prepare(graph := Arm("arm", Vector(HnswSq())))
    answered = ask_all_arms([graph], dev, searcher, depth=39).answers["arm"]
    options = {"answered": answered, "metric": "ndcg@10", "depth": 40, "rebuilds": MIN_REBUILDS}
    mean, deviation = arm_spread_over_rebuilds(graph, dev, searcher, **options)
    assert mean == pytest.approx(mean_of_a_new_build(graph, dev, searcher))
    assert deviation == pytest.approx(0)


def test_the_table_of_arms_counts_chunks_and_what_is_cut_off(bench, arms):
    table = arms_table(list(arms.values()), bench.searcher)
    assert [row[0] for row in table.rows] == list(arms)
    assert {row[1:3] for row in table.rows} == {("lance", 80)}
    assert {row[3] for row in table.rows if arms[row[0]].strategy.uses_vectors} == {"minilm"}
    assert all(row[5] == repr(arms[row[0]]) for row in table.rows)
