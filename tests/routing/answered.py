"""A tiny evalset whose prompts were answered by two models, with nothing but files."""

import json
from pathlib import Path

from workbench.config import Settings
from workbench.evalset.evalset import Evalset, load_evalset
from workbench.inference.messages import Response, Usage
from workbench.inference.recordings import FOLDER, Recordings
from workbench.routing.accepted_router import HITS
from workbench.routing.recorded_hits import SEARCHES
from workbench.routing.recorded_outcomes import recorded_requests_of, recording_file

MODELS = ("local/smollm2-135m", "local/qwen2.5-coder-0.5b")
PROMPTS = """
models = ["local/smollm2-135m", "local/qwen2.5-coder-0.5b"]
[feature.answer]
system = "Answer about {tenant}."
max_tokens = 20
[feature.find]
system = "Write a query about {tenant}."
max_tokens = 9
[feature.check]
system = "Yes or no, about {tenant}."
max_tokens = 2
[context.bare]
[context.top2]
documents = 2
characters = 60
"""
QUESTIONS = {
    "q1": ("answer", "How do I join?", ["merge"]),
    "q2": ("find", "something that sorts", ["sort"]),
    "q3": ("check", "Is it fast?", ["yes"]),
}
SAID = {("answer", MODELS[1]): "Use `df.merge`.", ("find", MODELS[0]): "sort rows", ("check", MODELS[1]): "Yes."}


def answered(tmp_path: Path) -> Evalset:
    """Evalset ``docs`` below the folder: three questions in three features, with recorded hits and answers."""
    folder = tmp_path / "evalsets" / "docs"
    (folder / "qrels").mkdir(parents=True)
    (folder / FOLDER).mkdir()
    documents = [{"_id": d, "text": f"{d}.\n\nhow : str\n  the way of {d}"} for d in ("merge", "sort", "speed")]
    queries = [
        {"_id": i, "text": text, "metadata": {"tenant_id": "default", "feature": feature, "accept": accept}}
        for i, (feature, text, accept) in QUESTIONS.items()
    ]
    write(folder / "corpus.jsonl", documents)
    write(folder / "queries.jsonl", queries)
    qrels = {"dev": "q1\tmerge\t1\n", "test": "q2\tsort\t1\nq3\tspeed\t1\n"}
    for split, rows in qrels.items():
        (folder / "qrels" / f"{split}.tsv").write_text(f"query-id\tcorpus-id\tscore\n{rows}", encoding="utf-8")
    (folder / "prompts.toml").write_text(PROMPTS, encoding="utf-8")
    write(folder / FOLDER / HITS, [{"query_id": q, "doc_ids": ["merge", "sort", "speed"]} for q in QUESTIONS])
    found = [("sort rows", ["sort"]), ("?", ["speed"])]
    write(folder / FOLDER / SEARCHES, [{"tenant_id": "default", "query": q, "doc_ids": d} for q, d in found])
    settings = Settings(tmp_path, tmp_path / "cache", tmp_path / "runs", "sqlite://")
    evalset = load_evalset("docs", settings=settings)
    for asked in recorded_requests_of(evalset):
        text = SAID.get((asked.feature, asked.request.model), "?")
        response = Response(text, asked.request.model, Usage(50, output=5), latency_ms=9000.0, confidence=0.5)
        file = Recordings(recording_file(evalset, asked.request.model), live=True)
        file.add(asked.request, asked.item_id, response)
    return evalset


def write(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
