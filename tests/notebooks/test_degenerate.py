"""Inputs of which one side is missing: nothing near, nothing right, one of a kind. Each is an answer, in every cell."""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests.evalset.small_evalset import settings_in, write
from tests.notebooks.cells import run_cells
from workbench.caching.cache_study import CachingParameters
from workbench.caching.notebook import CachingExperiment
from workbench.errors import EvalsetError, GateFailed
from workbench.evalset.imports.pairs_and_streams import pair_line
from workbench.evalset.traffic import Pair
from workbench.evaluation.fingerprint import build_parameters
from workbench.records import Decision
from workbench.reports.page import write_report
from workbench.retrieval.notebook import RetrievalExperiment, RetrievalParameters
from workbench.routing.notebook import RoutingExperiment, RoutingParameters
from workbench.testing import HashEmbedder, WordTokenizer

N = 240
# Of each notebook what failed once, or is nearest to it; the others take minutes together.
QUICK = {"exact repeats alone", "one text", "two requests", "all equal and free", "one document", "two questions"}


def matrix(kinds: Iterable[str]) -> list[Any]:
    return [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in kinds]


def finish(notebook: str, bench: object) -> tuple[Decision, list[str]]:
    """Run all cells and draw the report; a gate that refuses is an end too."""
    shown: list[str] = []
    with suppress(GateFailed):
        shown = run_cells(notebook, bench)
    folder = bench.folder
    write_report(folder)
    assert (folder / "gate.json").is_file()
    return Decision.load(folder / "decision.json"), shown


def word(i: int) -> str:
    """A word without digits, unlike any other."""
    return "".join(chr(ord("a") + int(d)) for d in f"{i:05d}")


def distinct(n: int = N) -> list[str]:
    return [f"{word(i)} {word(i + 10_000)} {word(i + 20_000)}" for i in range(n)]


SIXTY = distinct(60)


def repeats(seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [SIXTY[i] for i in rng.integers(60, size=N)]


def near(seed: int = 0) -> list[str]:
    """Sixty intents, each time in other words."""
    rng = np.random.default_rng(seed)
    return [f"{SIXTY[i]} {word(40_000 + k)}" for k, i in enumerate(rng.integers(60, size=N))]


def intents(texts: list[str]) -> list[str]:
    return [" ".join(t.split()[:3]) for t in texts]


PAIRS = [
    Pair(f"{split}{i}", f"{t} on", f"{t} off", bool(i % 2), "k", f"f{i}", split=split)
    for i, t in enumerate(distinct(8))
    for split in ("dev", "test")
]
STREAMS = {
    "exact repeats alone": {"texts": repeats()},
    "newest first": {"texts": repeats()[::-1]},
    "nothing repeats": {"texts": distinct()},
    "one text": {"texts": ["the same again"] * N},
    "one text, always another answer": {"texts": ["the same again"] * N, "answers": [f"a{i}" for i in range(N)]},
    "near, all right": {"texts": near(), "answers": intents(near())},
    "near, all wrong": {"texts": near(), "answers": [f"a{i}" for i in range(N)]},
    "repeats, all wrong": {"texts": repeats(), "answers": [f"a{i}" for i in range(N)]},
    "one cluster": {"texts": near(), "answers": intents(near()), "clusters": ["c"] * N},
    "a tenant each": {"texts": repeats(), "tenants": [f"t{i}" for i in range(N)]},
    "one tenant only before the test part": {"texts": near(), "tenants": ["a"] * (N // 2) + ["b"] * (N - N // 2)},
    "two requests": {"texts": repeats()[:2], "given": {"warmup": 0}},
    "no guard": {"texts": near(), "answers": intents(near()), "given": {"guard": []}},
    "pairs": {"texts": repeats(), "pairs": PAIRS},
    "pairs of test alone": {"texts": near(), "pairs": [p for p in PAIRS if p.split == "test"]},
    "pairs that all may share": {"texts": near(), "pairs": [p for p in PAIRS if p.same_answer]},
    "pairs that all must differ": {"texts": near(), "pairs": [p for p in PAIRS if not p.same_answer]},
}


@pytest.mark.parametrize("kind", matrix(STREAMS))
def test_any_stream_ends_in_a_verdict_on_the_cache(tmp_path, kind):
    given = {"answers": None, "tenants": None, "clusters": None, "pairs": (), "given": {}, **STREAMS[kind]}
    texts, folder = given["texts"], settings_in(tmp_path).evalsets / "tiny"
    folder.mkdir(parents=True)
    answers = given["answers"] or texts
    rows = {
        "pos": range(len(texts)), "query": texts, "answer_key": answers,
        "tenant_id": given["tenants"] or ["t"] * len(texts), "cluster": given["clusters"] or answers,
    }  # fmt: skip
    pl.DataFrame(rows).write_parquet(folder / "stream.parquet")
    if given["pairs"]:
        (folder / "pairs.jsonl").write_text("".join(pair_line(p) + "\n" for p in given["pairs"]), encoding="utf-8")
    values = {"evalset": "tiny", "warmup": 40, "draws": 3, **given["given"]}
    bench = CachingExperiment(
        build_parameters(CachingParameters, values), settings_in(tmp_path), embedder=HashEmbedder(256)
    )
    decision, shown = finish("03_caching.ipynb", bench)
    assert decision.sentence
    assert not any("nan" in text.lower().split() for text in shown)
    if kind in ("nothing repeats", "a tenant each"):
        assert decision.arm == "off"
    if kind in ("exact repeats alone", "newest first", "one text"):
        assert "semantic" not in decision.arm


def outcomes(n: int = 120, models: dict[str, float] | None = None, **columns: list) -> pl.DataFrame:
    """Answers of models, each with its share of right ones, in prompts that say nothing of it."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(n):
        for place, (model, share) in enumerate((models or {"small": 0.6, "large": 0.9}).items()):
            rows.append((f"p{i:04}", f"{word(i)} {word(i % 7)}", model, float(rng.random() < share), 0.001 * 10**place))
    table = pl.DataFrame(rows, schema=["prompt_id", "prompt", "model", "quality", "cost_usd"], orient="row")
    each = table["model"].n_unique()
    return table.with_columns(
        **{k: pl.Series([v for v in values for _ in range(each)]) for k, values in columns.items()}
    )


OUTCOMES = {
    "plain": outcomes(),
    "all right": outcomes(models={"small": 2.0, "large": 2.0}),
    "all wrong": outcomes(models={"small": -1.0, "large": -1.0}),
    "all right but one": outcomes(models={"small": 2.0, "large": -1.0}),
    "all equal and free": outcomes(models={"small": 2.0, "large": 2.0}).with_columns(cost_usd=pl.lit(0.0)),
    "one price": outcomes().with_columns(cost_usd=pl.lit(0.001)),
    "free and dear": outcomes().with_columns(cost_usd=pl.when(pl.col("model") == "small").then(0.0).otherwise(0.01)),
    "one feature": outcomes(feature=["find"] * 120),
    "a feature each": outcomes(feature=[f"f{i}" for i in range(120)]),
    "a tenant each": outcomes(tenant_id=[f"t{i}" for i in range(120)]),
    "few families": outcomes(cluster=[f"c{i % 12}" for i in range(120)]),
    "hardly any dev": outcomes(split=["dev"] * 6 + ["test"] * 114, cluster=[f"c{i}" for i in range(120)]),
    "confidence of one model": outcomes().with_columns(
        confidence=pl.when(pl.col("model") == "small").then(0.5).otherwise(None)
    ),
}


@pytest.mark.parametrize("kind", matrix(OUTCOMES))
def test_any_outcomes_end_in_a_verdict_on_the_models(tmp_path, kind):
    folder = settings_in(tmp_path).evalsets / "tiny"
    folder.mkdir(parents=True)
    OUTCOMES[kind].write_parquet(folder / "outcomes.parquet")
    parameters = build_parameters(RoutingParameters, {"evalset": "tiny", "draws": 40})
    bench = RoutingExperiment(parameters, settings_in(tmp_path), embedder=HashEmbedder(32))
    decision, shown = finish("02_routing.ipynb", bench)
    assert decision.sentence
    assert not any("nan" in text.lower().split() for text in shown)


def test_one_model_alone_is_refused_before_anything_runs(tmp_path):
    folder = settings_in(tmp_path).evalsets / "tiny"
    folder.mkdir(parents=True)
    outcomes(models={"alone": 0.5}).write_parquet(folder / "outcomes.parquet")
    with pytest.raises(EvalsetError, match="1 model; routing needs at least two to choose from"):
        RoutingExperiment(build_parameters(RoutingParameters, {"evalset": "tiny"}), settings_in(tmp_path))


def corpora() -> dict[str, tuple[list[dict], list[dict], list[str]]]:
    documents = [{"_id": f"d{i}", "text": f"{word(i)} {word(i + 50)} common"} for i in range(60)]
    queries = [{"_id": f"q{i}", "text": f"{word(i)} common"} for i in range(60)]
    right = [f"q{i}\td{i}\t1" for i in range(60)]
    nowhere = [{"_id": f"q{i}", "text": f"{word(30_000 + i)}"} for i in range(60)]
    tenants = [d | {"metadata": {"tenant_id": f"t{i}"}} for i, d in enumerate(documents)]
    of_tenants = [q | {"metadata": {"tenant_id": f"t{i}"}} for i, q in enumerate(queries)]
    return {
        "all right": (documents, queries, right),
        "all wrong": (documents, nowhere, right),
        "a tenant each": (tenants, of_tenants, right),
        "one document": (documents[:1], queries, [f"q{i}\td0\t1" for i in range(60)]),
        "all documents equal": ([{"_id": f"d{i}", "text": "again"} for i in range(60)], queries, right),
        "two questions": (documents, queries[:2], right[:2]),
        "eight questions": (documents, queries[:8], right[:8]),
        "all relevant": (documents, queries, [f"q{i}\td{j}\t1" for i in range(60) for j in range(60)]),
    }


@pytest.mark.parametrize("kind", matrix(corpora()))
def test_any_questions_end_in_a_verdict_on_the_arms(tmp_path, kind):
    documents, queries, qrels = corpora()[kind]
    write(settings_in(tmp_path).evalsets / "tiny", documents=documents, queries=queries, test=qrels)
    parameters = build_parameters(
        RetrievalParameters, {"evalset": "tiny", "rebuilds": 0, "chunkers": ["whole"], "embedder": "minilm"}
    )
    bench = RetrievalExperiment(parameters, settings_in(tmp_path), embedder=HashEmbedder(64), tokenizer=WordTokenizer())
    decision, shown = finish("01_retrieval.ipynb", bench)
    assert decision.sentence
    assert not any("nan" in text.lower().split() for text in shown)
