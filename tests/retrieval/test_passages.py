"""How many passages, and when to refuse: what a limit promises, that test never sets it, and what serves it."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tests.retrieval.tiny import TEXT, judge, open_bench
from workbench.errors import ConfigError, SplitError
from workbench.retrieval.ask import our_arm
from workbench.retrieval.indexing import HnswSq
from workbench.retrieval.passages import (
    ARTEFACT,
    WIDEST,
    ContextLimits,
    PassageEvidence,
    calibrate,
    outcome_rows,
    passages_table,
)
from workbench.retrieval.searcher import Searcher
from workbench.retrieval.strategies import Arm, Vector

LOST = 0.1


def drawn(families: int, *, seed: int, shift: float = 0.0, gap: float = 0.6, split: str = "dev") -> PassageEvidence:
    """Questions in families that share how well they are found; unanswerable ones lie ``gap`` further away."""
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(families), rng.integers(1, 6, families))
    level = rng.normal(size=families)[codes]
    first = np.clip(np.ceil(rng.exponential(np.exp(0.5 * level + shift))), 1, WIDEST + 1).astype(int)
    nearest = 0.6 - 0.1 * level - shift / 4 + 0.1 * rng.normal(size=codes.size)
    tokens = rng.integers(50, 400, (codes.size, WIDEST))
    without = nearest - gap * np.abs(rng.normal(size=codes.size))
    return PassageEvidence(split, np.where(first > WIDEST, 0, first), tokens, nearest, without, codes)


def lost_by(found: PassageEvidence, limits: ContextLimits) -> tuple[float, float]:
    asked = found.first > 0
    refused = found.nearest < (limits.closeness or -np.inf)
    return found.by_family(found.first > limits.passages, asked).mean(), found.by_family(refused, asked).mean()


def resampled(population: PassageEvidence, n_dev: int, draws: int = 200) -> np.ndarray:
    """Losses on the other families, each time that some of them set the limits."""
    rng, families = np.random.default_rng(1), int(population.families.max()) + 1
    out = []
    for _ in range(draws):
        order = rng.permutation(families)
        out.append(lost_by(population.take(order[n_dev:]), calibrate(population.take(order[:n_dev]), "a", lost=LOST)))
    return np.array(out)


@pytest.mark.slow
@pytest.mark.parametrize("n_dev", [15, 40])
def test_over_many_dev_sets_families_to_come_lose_no_more_than_was_promised(n_dev: int) -> None:
    found = resampled(drawn(160, seed=3), n_dev)
    error = 2 * found.std(0) / len(found) ** 0.5
    assert (found.mean(0) <= LOST + error).all()
    assert (found.mean(0) >= 0.02).all()  # and it is no empty promise
    assert (found.max(0) > LOST).any()  # on average: one dev set may lie above


def test_families_of_another_kind_break_the_promise() -> None:
    """The assumption is needed: harder families than those of dev lose more."""
    harder = [lost_by(drawn(200, seed=s, shift=0.7), calibrate(drawn(40, seed=s + 99), "a")) for s in range(20)]
    assert (np.mean(harder, axis=0) > 1.5 * LOST).all()


def test_limits_are_set_on_dev_alone() -> None:
    with pytest.raises(SplitError, match="set on dev alone, found the split 'test'"):
        calibrate(drawn(40, seed=0, split="test"), "a")


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["lost", "unanswerable"])
def test_what_is_no_share_is_refused(name: str, share: float) -> None:
    with pytest.raises(ConfigError, match=f"{name} is a share of questions, from 0 to 1, found {share}"):
        calibrate(drawn(40, seed=0), "a", **{name: share})


def test_too_few_families_send_everything_and_refuse_nothing() -> None:
    limits = calibrate(drawn(8, seed=0), "a")
    assert (limits.passages, limits.closeness, limits.refuses, limits.n_families) == (WIDEST, None, False, 8)
    assert limits.answers(-1.0)


def test_refusing_pays_only_where_enough_questions_have_no_answer() -> None:
    same = drawn(60, seed=0)
    blind = calibrate(replace(same, without=same.nearest), "a", unanswerable=0.4)
    limits = [calibrate(same, "a", unanswerable=share) for share in (0.05, 0.4)]
    assert [one.refuses for one in (blind, *limits)] == [False, False, True]
    assert len({one.closeness for one in (blind, *limits)}) == 1
    assert [one.answers(-1.0) for one in (blind, *limits)] == [True, True, False]
    captions = [passages_table(same, same, one).caption for one in (blind, *limits)]
    assert ["refuse nothing (the limit would be" in caption for caption in captions] == [True, True, False]


def test_what_is_kept_saved_and_caught_is_counted_family_by_family() -> None:
    tokens = np.full((4, WIDEST), 10)
    found = PassageEvidence(
        "test", np.array([1, 3, 2, 0]), tokens, np.array([0.9, 0.3, 0.8, 0.1]), np.array([0.4, 0.2, 0.7, 0.1]),
        np.array([0, 0, 1, 2]),
    )  # fmt: skip
    limits = ContextLimits("a", 2, 0.5, True, LOST, 40)
    shown = {name: value.estimate for name, value in outcome_rows(found, limits)}
    assert list(shown.values()) == pytest.approx([2 / 3, 0.75, 0.8, 0.75, 0.75, 0.5, 1.0 / 1.5])
    unlimited = replace(limits, closeness=None)
    assert len(outcome_rows(found, unlimited)) == 3
    assert "refuse nothing" in passages_table(found, found, unlimited).caption


def test_a_run_shows_both_limits_keeps_them_and_the_searcher_serves_by_them(tmp_path) -> None:
    bench = open_bench(tmp_path, strategies=["full_text", "hybrid_rrf"])
    dev, _, test, decision = judge(bench, bench.prepare())
    table = bench.passages(decision, dev, test, lost=0.3)
    assert decision.arm == TEXT
    limits = ContextLimits.load(bench.folder / ARTEFACT)
    assert limits.passages < WIDEST
    assert f"send {limits.passages} of {WIDEST}" in table.caption
    summary = bench.save(decision, test, table, dev=dev)
    assert "How many passages, and when to refuse?" in [section.title for section in summary.sections]
    arm = our_arm(test.arms[test.names.index(decision.arm)])
    query = test.part.queries[0]
    served = bench.searcher.passages(arm, query, limits)
    assert list(served.hits) == bench.searcher.search(arm, query, limits.passages)
    far = bench.searcher.passages(arm, query, replace(limits, closeness=1e9, refuses=True))
    assert (far.hits, far.answerable) == (served.hits, False)
    with pytest.raises(ConfigError, match="the limits were set for 'other'"):
        bench.searcher.passages(arm, query, replace(limits, arm="other"))
    with pytest.raises(ConfigError, match="run and accept retrieval first"):
        ContextLimits.load(tmp_path / "none.json")


def test_leaving_relevant_documents_out_of_the_results_is_as_if_they_were_not_there(tmp_path) -> None:
    """Exact for vectors, whose scores do not depend on what else is in the index."""
    bench = open_bench(tmp_path)
    arm = next(arm for arm in bench.prepare() if arm.name == "whole · vector")
    part = bench.evalset.split("test")
    nearest: Callable = bench.searcher.nearest
    for n, query in enumerate(part.queries[:3]):
        relevant = {d for d, grade in part.qrels[query.query_id].items() if grade > 0}
        left = [d for d in bench.evalset.documents if d.doc_id not in relevant]
        assert 0 < len(relevant) == len(bench.evalset.documents) - len(left)
        other = Searcher(left, f"without {n}", bench.settings, bench.searcher.embedders, bench.searcher.tokenizer)
        other.prepare(arm)
        assert nearest(arm, query, relevant)[1] == pytest.approx(other.nearest(arm, query)[0], abs=1e-6)
        assert nearest(arm, query, relevant)[0] >= nearest(arm, query, relevant)[1]


def test_what_an_arm_found_already_is_not_searched_for_again(tmp_path, monkeypatch) -> None:
    """Only an arm that searches with knobs of its own is asked once more, as one that serves would be."""
    knobs = Arm("with knobs", Vector(HnswSq(), ef=150))
    bench = open_bench(tmp_path)
    bench.searcher.prepare(knobs)
    arms, searched = [*bench.prepare(), knobs], list[str]()
    parts = {split: bench.score(arms, split) for split in ("dev", "test")}
    assert set(parts["dev"].nearest) == set(parts["test"].nearest) == {arm.name for arm in arms[:-1]}
    asked: dict[tuple[str, str, str], tuple[float, float]] = {
        (split, arm.name, query.query_id): bench.searcher.nearest(arm, query, scored.part.relevant(query.query_id))
        for split, scored in parts.items()
        for arm in arms[:-1]
        for query in scored.part.queries
    }
    found = {
        (split, arm, query): near
        for split, scored in parts.items()
        for arm, by_query in scored.nearest.items()
        for query, near in by_query.items()
    }
    assert found == asked

    def counted(_self: Searcher, arm: Arm, *_: object) -> tuple[float, float]:
        searched.append(arm.name)
        return 0.5, 0.5

    monkeypatch.setattr(Searcher, "nearest", counted)
    finalists = bench.finalists(parts["dev"])
    decision = bench.decide(parts["test"], finalists)
    for arm in arms:
        bench.passages(replace(decision, arm=arm.name), parts["dev"], parts["test"])
    asked_twice = [query for scored in parts.values() for query in scored.part.queries]
    assert searched == [knobs.name] * len(asked_twice)
