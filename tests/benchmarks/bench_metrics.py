# ruff: noqa: T201
"""Metrics and paired statistics against ranx and ir-measures, cold start included.

``python -m tests.benchmarks.bench_metrics [queries ...] [--arms 20] [--rounds 3] [--ranx PYTHON]``

Each tool gets the same hits (one Parquet file an arm), 100 a query, in a process of its own, turn and turn about:
five metrics of every arm, then every arm compared with the first. ranx needs numba, which is no dependency of
ours: it is measured where ``--ranx`` names the interpreter of an environment that has ranx and pyarrow.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

HITS = 100
METRICS = ("ndcg@10", "recall@100", "precision@10", "mrr@10", "map@100")


def make(folder: Path, queries: int, arms: int) -> None:
    """Write random hits without ties, twenty judgements a query, and families of three queries."""
    import numpy as np
    import polars as pl

    rng = np.random.default_rng(queries)
    names = [f"q{i:05d}" for i in range(queries)]
    query = np.repeat(names, 20)
    judged = np.concatenate([rng.choice(300, 20, replace=False) for _ in names])
    qrels = {"query_id": query, "doc_id": judged.astype(str), "relevance": rng.integers(0, 3, query.size)}
    pl.DataFrame(qrels).with_columns(doc_id="d" + pl.col("doc_id")).write_parquet(folder / "qrels.parquet")
    for arm in range(arms):
        docs = np.concatenate([rng.choice(300, HITS, replace=False) for _ in names])
        scores = np.concatenate([rng.permutation(HITS) for _ in names]).astype(float)
        hits = {"query_id": np.repeat(names, HITS), "doc_id": docs.astype(str), "score": scores}
        pl.DataFrame(hits).with_columns(doc_id="d" + pl.col("doc_id")).write_parquet(folder / f"arm{arm:02d}.parquet")


def ours(folder: Path) -> list[float]:
    import polars as pl

    from workbench.evaluation.compare import compare
    from workbench.retrieval.metrics import measure_all, rank_hits

    table = pl.read_parquet(folder / "qrels.parquet")
    qrels: dict[str, dict[str, int]] = {}
    for query, doc, grade in table.iter_rows():
        qrels.setdefault(query, {})[doc] = grade
    items = pl.DataFrame({"item_id": list(qrels), "cluster": [f"c{i // 3}" for i in range(len(qrels))]})
    frames, first = [], []
    for path in sorted(folder.glob("arm*.parquet")):
        values = measure_all(rank_hits(pl.read_parquet(path)), qrels, METRICS)
        frames += [items.with_columns(arm=pl.lit(path.stem), metric=pl.lit(m), value=v) for m, v in values.items()]
        first.append(float(values[METRICS[0]].mean()))
    scores = pl.concat(frames)
    for metric in METRICS:
        mine = scores.filter(pl.col("metric") == metric)
        compare(mine, mine["arm"].unique().sort().to_list(), reference="arm00", margin=0.02)
    return first


def ir_measures(folder: Path) -> list[float]:
    import ir_measures as ir
    import pandas as pd
    from scipy import stats

    measures = [ir.nDCG @ 10, ir.R @ 100, ir.P @ 10, ir.RR @ 10, ir.AP @ 100]
    evaluator = ir.evaluator(measures, pd.read_parquet(folder / "qrels.parquet"))
    arms: list[dict[Any, list[float]]] = []
    for path in sorted(folder.glob("arm*.parquet")):
        values: dict[Any, list[float]] = {m: [] for m in measures}
        for found in sorted(evaluator.iter_calc(pd.read_parquet(path)), key=lambda found: found.query_id):
            values[found.measure].append(found.value)
        arms.append(values)
    for measure in measures:
        for arm in arms[1:]:
            stats.ttest_rel(arm[measure], arms[0][measure])
    return [sum(arm[measures[0]]) / len(arm[measures[0]]) for arm in arms]


def ranx(folder: Path) -> list[float]:
    import pandas as pd
    from ranx import Qrels, Run, compare

    names = {"q_id_col": "query_id", "doc_id_col": "doc_id"}

    def frame(path: Path) -> pd.DataFrame:
        return pd.read_parquet(path).astype({"query_id": object, "doc_id": object})  # else ranx refuses it

    qrels = Qrels.from_df(frame(folder / "qrels.parquet"), score_col="relevance", **names)
    runs = [
        Run.from_df(frame(path), score_col="score", name=path.stem, **names)
        for path in sorted(folder.glob("arm*.parquet"))
    ]
    report = compare(qrels, runs, ["ndcg@10", "recall@100", "precision@10", "mrr@10", "map@100"], stat_test="student")
    return [report.results[run.name]["ndcg@10"] for run in runs]


TOOLS = {"ours": ours, "ir_measures": ir_measures, "ranx": ranx}


def timed(python: str, tool: str, folder: Path) -> dict[str, Any]:
    """Wall and processor seconds and peak memory of a whole process."""
    command = [python, str(Path(__file__).resolve()), "--tool", tool, str(folder)]
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    out = child.stdout.read()
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{tool} failed with exit code {child.returncode}")
    cpu = used.ru_utime + used.ru_stime
    return {"wall": time.perf_counter() - started, "cpu": cpu, "mb": used.ru_maxrss / 1024, "means": json.loads(out)}


def compare_tools(queries: int, arms: int, rounds: int, pythons: dict[str, str]) -> None:
    """Print one line a tool: medians over the rounds, and how many times ours that is."""
    with tempfile.TemporaryDirectory() as where:
        make(Path(where), queries, arms)
        found = {tool: list[dict[str, Any]]() for tool in pythons}
        for i in range(rounds):
            for tool in sorted(pythons, reverse=bool(i % 2)):
                found[tool].append(timed(pythons[tool], tool, Path(where)))
    middle = {tool: {k: median(r[k] for r in runs) for k in ("wall", "cpu", "mb")} for tool, runs in found.items()}
    print(f"\n{queries:,} queries x {HITS} hits x {arms} arms, {rounds} rounds, load {os.getloadavg()[0]:.1f}")
    print(f"{'':12} {'wall s':>8} {'cpu s':>8} {'MB':>6} {'cpu, ours = 1':>14} {'nDCG differs by at most':>24}")
    for tool, at in middle.items():
        apart = max(abs(a - b) for a, b in zip(found[tool][0]["means"], found["ours"][0]["means"], strict=True))
        ratio = at["cpu"] / middle["ours"]["cpu"]
        print(f"{tool:12} {at['wall']:8.2f} {at['cpu']:8.2f} {at['mb']:6.0f} {ratio:14.2f} {apart:24.1e}")


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("queries", type=int, nargs="*", default=[1000])
    parser.add_argument("--arms", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ranx", metavar="PYTHON")
    given = parser.parse_args(arguments)
    pythons = {"ours": sys.executable, "ir_measures": sys.executable}
    if given.ranx:
        pythons["ranx"] = given.ranx
        with tempfile.TemporaryDirectory() as where:
            make(Path(where), 100, 2)
            first = timed(given.ranx, "ranx", Path(where))
            print(f"ranx, its first run here (numba compiles unless it has): {first['cpu']:.1f} s of processor time")
    else:
        print("ranx is left out: no --ranx PYTHON with an environment that has it")
    for queries in given.queries:
        compare_tools(queries, given.arms, given.rounds, pythons)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--tool"]:
        print(json.dumps(TOOLS[sys.argv[2]](Path(sys.argv[3]))))
    else:
        main(sys.argv[1:])
