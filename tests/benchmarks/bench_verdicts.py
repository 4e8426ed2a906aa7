# ruff: noqa: T201
"""Whether verdicts agree when other questions pick the arms: ``python -m tests.benchmarks.bench_verdicts [name ...]``.

Runs the steps of ``01_retrieval`` on a public collection (`WORKBENCH_SHARED_DATA`), with ten seeds of the split into
dev and test, and with ever more of the questions: first silence, then what can be said.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from workbench.config import load_settings
from workbench.evaluation.fingerprint import build_parameters
from workbench.inference.encoders import MiniLM
from workbench.records import Decision
from workbench.retrieval.notebook import RetrievalExperiment, RetrievalParameters

SHARED = Path(os.environ.get("WORKBENCH_SHARED_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
SEEDS = range(10)
GATES = '[retrieval]\nmetric = "ndcg@10"\nmargin = 0.05\nrequests_per_month = 100000\n'
SIZES = {"anthropic_docs": (10, 20, 40, 70, 100), "scifact": (20, 60, 150, 300)}


def decided(folder: Path, root: Path, seed: int, chunkers: Sequence[str]) -> tuple[Decision, int]:
    """Decision of the notebook's steps on a folder, and the number of arms on dev."""
    settings = replace(load_settings(), root=root, runs=root / "runs")
    given = {"evalset": str(folder), "seed": seed, "chunkers": list(chunkers), "embedders": ["minilm"], "rebuilds": 0}
    minilm = MiniLM(settings.cache / "weights")
    parameters = build_parameters(RetrievalParameters, given)
    bench = RetrievalExperiment(parameters, settings, embedder=minilm, tokenizer=minilm)
    arms = bench.prepare()
    dev = bench.score(arms, "dev")
    finalists = bench.finalists(dev)
    return bench.decide(bench.test(dev, finalists), finalists), len(dev.facts)


def copy_of(source: Path, target: Path, n: int) -> Path:
    """Collection with its first ``n`` judged questions, and gates."""
    shutil.copytree(source, target)
    target.chmod(0o755)
    for path in target.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    qrels = target / "qrels"
    (test,) = [p for p in qrels.glob("*.tsv") if p.stem == "test"]
    for other in set(qrels.glob("*.tsv")) - {test}:
        other.unlink()
    head, *rows = test.read_text(encoding="utf-8").splitlines()
    kept = list(dict.fromkeys(row.split("\t")[0] for row in rows))[:n]
    test.write_text("\n".join([head, *(r for r in rows if r.split("\t")[0] in kept)]) + "\n", encoding="utf-8")
    queries = (target / "queries.jsonl").read_text(encoding="utf-8").splitlines()
    mine = [q for q in queries if str(json.loads(q)["_id"]) in kept]
    (target / "queries.jsonl").write_text("\n".join(mine) + "\n", encoding="utf-8")
    (target / "gates.toml").write_text(GATES, encoding="utf-8")
    return target


def show(name: str, what: str, decision: Decision, seconds: float) -> None:
    shares = ", ".join(f"{arm or 'none'} {share:.0%}" for arm, share in list(decision.chosen_share.items())[:3])
    claim = decision.claim(decision.arm)
    print(
        f"{name} {what:>14}: {decision.verdict:12} {decision.arm:34} {claim.estimate:.3f} {claim.difference:+.3f} "
        f"[{claim.low:+.3f}] {len(decision.claims)} arms, {decision.n_dev_clusters}+{decision.n_clusters} families, "
        f"{seconds:.0f} s; {shares}",
        flush=True,
    )
    print(f"    {decision.sentence}", flush=True)


def main(names: Sequence[str]) -> None:
    for name in names or SIZES:
        source = SHARED / "retrieval" / name
        if not source.is_dir():
            print(f"{name}: not at {source}")
            continue
        chunkers = ("whole", "structure") if name == "anthropic_docs" else ("whole",)
        for n in SIZES[name]:
            for seed in SEEDS if n == max(SIZES[name]) else (0,):
                with tempfile.TemporaryDirectory() as place:
                    started, root = time.perf_counter(), Path(place)
                    folder = copy_of(source, root / "evalsets" / f"{name}{n}", n)
                    decision, _ = decided(folder, root, seed, chunkers)
                    show(name, f"n={n} seed={seed}", decision, time.perf_counter() - started)


if __name__ == "__main__":
    main(sys.argv[1:])
