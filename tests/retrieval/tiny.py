"""A tiny evalset of two tenants whose arms differ, and the retrieval experiment over it without any weights."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.evalset.small_evalset import settings_in, write
from workbench.config import Settings
from workbench.evaluation.finalists import Finalists
from workbench.evaluation.fingerprint import build_parameters
from workbench.records import Decision
from workbench.retrieval.ask_arms import ScoredArmAnswers
from workbench.retrieval.index_kinds import IvfPq
from workbench.retrieval.notebook import RetrievalExperiment, RetrievalParameters
from workbench.retrieval.strategies import Vector
from workbench.testing import HashEmbedder, WordTokenizer

TENANTS, TOPICS, FAMILIES, DEV_FAMILIES = ("acme", "globex"), 40, 48, 12
JUDGED = 38  # topics; what the two last ones say nobody has judged
HYBRID, TEXT = "whole · hybrid_rrf", "whole · full_text"
STRATEGIES = ("full_text", "vector", "hybrid_rrf")
GATES = '[retrieval]\nmargin = 0.25\nfloor = 0.2\non_stale = "fail"\n'
COMMON = [f"common{i}" for i in range(12)]


CODES = Vector(IvfPq(bits=4, sub_vectors=128, partitions=1))  # ranked by its codes, which are learned at random


class Furthest(Vector):
    """An index with a fault: what is furthest by its codes comes first."""

    def search(self, handle, question, k):
        return super().search(handle, question, TOPICS)[::-1][:k]


def write_evalset(folder: Path, *, gates: str = GATES) -> Path:
    """80 documents of two tenants and 72 questions in 48 families, a quarter of them dev; every byte is seeded."""
    rng = np.random.default_rng(0)
    documents = [_document(tenant, topic, rng) for tenant in TENANTS for topic in range(TOPICS)]
    queries, qrels = [], {"dev": [], "test": []}
    for family in range(FAMILIES):
        tenant, topic = TENANTS[family % 2], family // 2
        split = "dev" if family < DEV_FAMILIES else "test"
        for _ in range(1 + family % 2):
            key = f"q{len(queries):02d}"
            queries.append(_query(key, tenant, topic, f"family{family:02d}", rng))
            grades = {topic: 2, (topic + 1) % JUDGED: 1}
            qrels[split] += [f"{key}\t{tenant}.t{t}\t{grades.get(t, 0)}" for t in range(JUDGED)]
    write(folder, documents=documents, queries=queries, **qrels)
    (folder / "gates.toml").write_text(gates, encoding="utf-8")
    return folder


def _words(topic: int) -> list[str]:
    return [f"topic{topic}{part}" for part in ("a", "b", "c", "d")]


def _document(tenant: str, topic: int, rng: np.random.Generator) -> dict[str, Any]:
    text = " ".join([*_words(topic), *rng.choice(COMMON, 6)])
    kind = "method" if topic % 2 else "class"
    return {"_id": f"{tenant}.t{topic}", "text": text, "metadata": {"tenant_id": tenant, "document_type": kind}}


def _query(key: str, tenant: str, topic: int, cluster: str, rng: np.random.Generator) -> dict[str, Any]:
    own = rng.choice(_words(topic), rng.integers(1, 3), replace=False)
    other = rng.choice(_words((topic + 7) % TOPICS), rng.integers(0, 3), replace=False)
    text = " ".join([*own, *other, *rng.choice(COMMON, 3)])
    return {"_id": key, "text": text, "metadata": {"tenant_id": tenant, "cluster": cluster, "style": f"s{topic % 2}"}}


def change_query(folder: Path, text: str = "") -> None:
    """Ask the last question in other words."""
    path = folder / "queries.jsonl"
    *lines, last = path.read_text(encoding="utf-8").splitlines()
    row = json.loads(last)
    row["text"] = text or f"{row['text']} please"
    path.write_text("\n".join([*lines, json.dumps(row)]) + "\n", encoding="utf-8")


def open_bench(root: Path, *, store_url: str = "", **given: Any) -> RetrievalExperiment:
    """Experiment over ``evalsets/tiny`` below the root, as the notebook starts it but for its encoder."""
    values = {"evalset": "tiny", "chunkers": ["whole"], "strategies": list(STRATEGIES), "reference": HYBRID}
    values |= {"embedders": ["minilm"], **given}
    parameters = build_parameters(RetrievalParameters, values)
    settings = replace(project(root), store_url=store_url)
    return RetrievalExperiment(parameters, settings, embedder=HashEmbedder(256), tokenizer=WordTokenizer())


def project(root: Path) -> Settings:
    """Settings of a project with the tiny evalset."""
    settings = settings_in(root)
    if not (settings.evalsets / "tiny").is_dir():
        write_evalset(settings.evalsets / "tiny")
    return settings


def judge(
    bench: RetrievalExperiment, arms: list[Any]
) -> tuple[ScoredArmAnswers, Finalists, ScoredArmAnswers, Decision]:
    """Steps of the notebook from the prepared arms to the saved decision."""
    dev = bench.score(arms, "dev")
    finalists = bench.finalists(dev)
    test = bench.test(dev, finalists)
    decision = bench.decide(test, finalists)
    bench.save(decision, test, dev=dev)
    return dev, finalists, test, decision
