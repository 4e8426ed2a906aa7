"""Test stays out of fitting and choosing: flipped labels change nothing there, and test items are refused."""

import json
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl
import pytest

from tests.caching.test_notebook import DIFFER, write_stream
from tests.caching.test_notebook import open_bench as open_caching
from tests.evalset.small_evalset import DEV, TEST, settings_in, write
from tests.retrieval import tiny
from tests.routing.routing_tables import planted
from tests.routing.test_notebook import open_bench as open_routing
from tests.routing.test_notebook import project
from workbench.caching.cache_study import CachingParameters
from workbench.caching.notebook import CachingExperiment
from workbench.errors import EvalsetError, SplitError
from workbench.evalset.imports.pairs_and_streams import pair_line
from workbench.evalset.outcomes import FILE
from workbench.retrieval.fitted_arms import fit_arms
from workbench.retrieval.notebook import RetrievalExperiment, RetrievalParameters
from workbench.routing.notebook import RoutingExperiment, RoutingParameters
from workbench.routing.routed_arms import policy_arms
from workbench.routing.tables import study_routers
from workbench.testing import HashEmbedder, WordTokenizer

FITTED = ["hybrid_weighted", "reranked"]


@dataclass(frozen=True)
class Counting(HashEmbedder):
    """An encoder that remembers what it was asked."""

    asked: list[str] = field(default_factory=list)

    def embed(self, texts):
        self.asked.extend(texts)
        return super().embed(texts)


OPEN = {
    "retrieval": lambda s, e: RetrievalExperiment(
        RetrievalParameters(evalset="tiny", embedders=("minilm",)), s, embedder=e, tokenizer=WordTokenizer()
    ),
    "routing": lambda s, e: RoutingExperiment(RoutingParameters(evalset="tiny"), s, embedder=e),
    "caching": lambda s, e: CachingExperiment(CachingParameters(evalset="tiny", warmup=100), s, embedder=e),
}


@pytest.mark.parametrize("notebook", OPEN)
def test_a_notebook_refuses_what_the_check_calls_an_error_before_anything_is_embedded(tmp_path, notebook):
    settings, embedder = settings_in(tmp_path), Counting()
    folder = settings.evalsets / "tiny"
    write_stream(folder)
    planted(200).write_parquet(folder / FILE)
    write(folder, dev=DEV, test=[*TEST, "q1\td2\t1"])
    with pytest.raises(EvalsetError, match=r"qrels/test\.tsv:4: query 'q1' is judged in dev and in test"):
        OPEN[notebook](settings, embedder)
    assert embedder.asked == []
    assert not settings.runs.exists()


# --- retrieval


def flipped(grades):
    """Relevant documents are not relevant, and the others are."""
    return [2 - g for g in grades]


def shuffled(grades):
    """The same grades on other documents."""
    return np.random.default_rng(1).permutation(grades).tolist()


def relabel(folder, change):
    """Other grades for every question of test."""
    path = folder / "qrels" / "test.tsv"
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines]
    grades = change([int(grade) for *_, grade in rows])
    changed = [f"{q}\t{d}\t{g}" for (q, d, _), g in zip(rows, grades, strict=True)]
    assert changed != lines
    path.write_text("\n".join([header, *changed]) + "\n", encoding="utf-8")


def picked(finalists):
    return finalists.rule, dict(finalists.roles), finalists.power, finalists.left_behind


def chosen_by_retrieval(root):
    """All that is fitted and picked before the test questions are asked."""
    bench = tiny.open_bench(root, strategies=[*tiny.STRATEGIES, *FITTED], reference="")
    arms = bench.prepare()
    dev = bench.score(arms, "dev")
    found = bench.finalists(dev)
    held_out = [dict(arm.held_out) for arm in arms if hasattr(arm, "held_out")]
    return repr(arms), held_out, dev.scores.drop("latency_ms").to_dicts(), picked(found)


@pytest.fixture(scope="module")
def retrieval_root(tmp_path_factory):
    return tmp_path_factory.mktemp("retrieval")


@pytest.fixture(scope="module")
def retrieval(retrieval_root):
    return chosen_by_retrieval(retrieval_root)


@pytest.mark.parametrize("change", [flipped, shuffled])
def test_fitted_arms_and_finalists_are_the_same_whatever_the_test_labels(retrieval, tmp_path, change):
    tiny.project(tmp_path)
    relabel(tmp_path / "evalsets" / "tiny", change)
    assert chosen_by_retrieval(tmp_path) == retrieval


def test_finalists_are_not_picked_on_test_scores(retrieval_root):
    bench = tiny.open_bench(retrieval_root)
    test = bench.score(bench.prepare(), "test")
    with pytest.raises(SplitError, match="picking finalists may see dev alone, found 54 items that are not of dev"):
        bench.finalists(test)


def test_arms_are_not_fitted_on_test_questions(retrieval_root):
    bench = tiny.open_bench(retrieval_root)
    dev, test = (bench.evalset.split(name) for name in ("dev", "test"))
    both = replace(dev, queries=dev.queries + test.queries, qrels=dev.qrels | test.qrels)
    for wrong in (test, both, replace(test, name="dev")):
        with pytest.raises(SplitError, match="fitting an arm may see dev alone") as caught:
            fit_arms(bench.searcher, ["whole"], FITTED, wrong, embedder="minilm")
        assert set(caught.value.items) >= {q.query_id for q in test.queries} - {q.query_id for q in dev.queries}


# --- routing


def halves(n=400):
    """Outcomes whose split is given: every other prompt is of dev."""
    number = pl.col("prompt_id").str.slice(1).cast(pl.Int64)
    return planted(n).with_columns(split=pl.when(number % 2 == 0).then(pl.lit("dev")).otherwise(pl.lit("test")))


def chosen_by_routing(settings):
    bench = open_routing(settings)
    arms = bench.fit()
    found = bench.study(arms)
    dev = bench.candidates(bench.score(arms, "dev"), found)
    routers = [(a.name, a.router.save(), None if a.held_out is None else a.held_out.tobytes()) for a in arms]
    areas = {name: area.draws.tobytes() for name, area in found.areas.items()}
    return routers, areas, found.winners, picked(bench.finalists(dev))


@pytest.mark.parametrize("column", ["quality", "cost_usd"])
def test_routers_thresholds_and_finalists_are_the_same_whatever_became_of_test(tmp_path, column):
    table, on_test = halves(), pl.col("split") == "test"
    other = {"quality": 1 - pl.col("quality"), "cost_usd": 1 - 50 * pl.col("cost_usd")}[column]
    changed = table.with_columns(pl.when(on_test).then(other).otherwise(column).alias(column))
    assert not changed.equals(table)
    before, after = project(tmp_path / "a", table), project(tmp_path / "b", changed)
    assert chosen_by_routing(before) == chosen_by_routing(after)


def test_nothing_is_fitted_compared_or_picked_on_test_prompts(tmp_path):
    bench = open_routing(project(tmp_path, halves()))
    arms = bench.fit()
    with pytest.raises(SplitError, match="fitting a router and its threshold may see dev alone, found 200 items"):
        policy_arms(bench.policies, bench.outcomes, reference=1, give_up=0.0, accepted={})
    with pytest.raises(SplitError, match="comparing policies with the hull may see dev alone"):
        study_routers(bench.outcomes.part("test"), arms[:2], draws=2, seed=0)
    test = bench.score(arms, "test")
    with pytest.raises(SplitError, match="picking candidates may see dev alone"):
        bench.candidates(test, bench.study(arms))
    with pytest.raises(SplitError, match="picking finalists may see dev alone"):
        bench.finalists(test)


# --- caching


def chosen_by_caching(root):
    bench = open_caching(root)
    return bench, bench.certify(bench.semantic()).arms


@pytest.fixture(scope="module")
def caching_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("caching")
    write_stream(settings_in(root).evalsets / "tiny", confused=0.02, pairs=DIFFER)
    return root


def test_certified_thresholds_are_the_same_whatever_the_later_labels(caching_root, tmp_path):
    """Answers of the test part are dealt out anew, and the test pairs say the contrary."""
    bench, arms = chosen_by_caching(caching_root)
    folder, test = settings_in(tmp_path).evalsets / "tiny", bench.study.parts["test"]
    write_stream(folder, pairs=[replace(p, same_answer=True) if p.split == "test" else p for p in DIFFER])
    rows = pl.read_parquet(caching_root / "evalsets" / "tiny" / "stream.parquet")
    keys = rows["answer_key"].to_numpy().copy()
    keys[test] = np.random.default_rng(1).permutation(keys[test])
    rows.with_columns(answer_key=keys).write_parquet(folder / "stream.parquet")
    again, same = chosen_by_caching(tmp_path)
    assert again.inputs["stream"] != bench.inputs["stream"]
    assert again.inputs["pairs"] != bench.inputs["pairs"]
    assert same == arms
    assert any(certificate and certificate.certified for _, certificate in arms)


def test_a_threshold_certified_on_the_test_part_is_not_judged_there(caching_root):
    bench = open_caching(caching_root)
    semantic = bench.semantic()
    certified = replace(bench.certify(semantic), requests=bench.study.parts["test"])
    with pytest.raises(SplitError, match="certifying a threshold may see dev alone, found 750 items"):
        bench.replay(certified, semantic)


def test_pairs_of_test_set_no_threshold(caching_root):
    @dataclass(frozen=True, slots=True)
    class Leaky(type(open_caching(caching_root).study)):
        def must_differ(self, split):
            return np.array([not p.same_answer for p in self.pairs], dtype=bool)

    bench = open_caching(caching_root)
    values = {name: getattr(bench.study, name) for name in type(bench.study).__dataclass_fields__}
    with pytest.raises(SplitError, match="limiting a threshold by pairs may see dev alone") as caught:
        Leaky(**values).lowest(None, bench.semantic())
    named = [json.loads(pair_line(p))["id"] for p in DIFFER if p.split == "test"]
    assert list(caught.value.items) == sorted(named)
