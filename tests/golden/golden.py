# ruff: noqa: T201
"""What must stay as it is while code moves: names and hashes that stand in fingerprints, tables and accepted decisions.

``python -m tests.golden.golden`` writes ``golden.json`` anew; a change of it is a change of what decisions rest on, and
needs the reason in its commit.
"""

import json
import re
import sys
import tempfile
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np

from tests.reports import samples
from workbench.caching.guard import Guard
from workbench.config import load_settings
from workbench.records import Decision, Document, content_hash, parameters_of
from workbench.reports.page import write_report
from workbench.retrieval.arms import make_arms
from workbench.retrieval.searcher import Searcher
from workbench.retrieval.store import ChunkRow
from workbench.routing.policies import load_router
from workbench.testing import HashEmbedder, WordTokenizer

ROOT = Path(__file__).parents[2]
FILE = Path(__file__).with_name("golden.json")
DECISIONS = sorted((ROOT / "evalsets").glob("*/decisions/*.json"))
STRATEGIES = (
    "full_text", "full_text_exact_words", "vector", "vector_ivf_pq", "vector_hnsw_sq", "hybrid_rrf",
    "hybrid_rrf_shallow", "hybrid_callables",
)  # fmt: skip
VECTOR = np.zeros(8, np.float32)
PAIRS = (("join two frames", "merge two frames"), ("sort ascending", "sort descending"), ("price > 5", "price < 5"))


def arms() -> dict[str, Any]:
    """Parameters of every arm of the grid, and the table that each one needs."""
    with tempfile.TemporaryDirectory() as place:
        settings = load_settings({"WORKBENCH_ROOT": str(ROOT), "WORKBENCH_CACHE": place})
        searcher = Searcher((), "manifest", settings, {"minilm": HashEmbedder(8)}, WordTokenizer())
        grid = make_arms(("whole", "tokens", "structure"), STRATEGIES)
        return {arm.name: [searcher.table_name(arm), parameters_of(arm)] for arm in grid}


def chunk_rows() -> dict[str, str]:
    """Key and text of the chunks of one document, by chunker."""
    text = "Parameters\n----------\nleft : frame\n    One side.\n\n" + "Join two frames by their nearest key. " * 40
    document = Document("pandas.merge_asof", text, "merge_asof", "pandas")
    out = {}
    for arm in make_arms(("whole", "tokens", "structure"), ("vector",)):
        chunks = arm.chunker.chunk(document, WordTokenizer())
        row = ChunkRow("pandas", document.doc_id, "document", None, 0, len(chunks), document.content_hash, "", VECTOR)
        out[repr(arm.chunker)] = content_hash(row.chunk_id, document.content_hash, *(repr(chunk) for chunk in chunks))
    return out


def accepted() -> dict[str, Any]:
    """What the committed decisions rest on, and the routers and guards that they name."""
    out: dict[str, Any] = {}
    for path in DECISIONS:
        decision = Decision.load(path)
        name = f"{path.parent.parent.name}/{path.stem}"
        out[name] = {
            "inputs": decision.fingerprint.inputs,
            "settings": decision.settings,
            "arms": {claim.arm: claim.parameters for claim in decision.claims},
        }
        artefact = path.with_suffix(".artefact")
        if path.stem == "routing" and artefact.is_file():
            routers = json.loads(artefact.read_text(encoding="utf-8"))
            out[name]["routers"] = {arm: load_router(artefact, arm).sha256 for arm in routers}
    return out


def guards() -> dict[str, str]:
    """Hashes of guards: all checks, and those of docs_qa."""
    every = Guard()
    return {"default": every.sha256(PAIRS), "repr": repr(every)}


def report() -> list[str]:
    """Text, tables and alternative texts of a report."""
    with tempfile.TemporaryDirectory() as place:
        folder = samples.write_run(Path(place) / "run")
        page = write_report(folder).read_text(encoding="utf-8")
    told = re.findall(r'(?:alt|aria-label|data-label)="([^"]*)"', page)
    page = re.sub(r"<(style|svg|script)\b.*?</\1>", " ", page, flags=re.S)
    lines = [" ".join(unescape(line).split()) for line in re.sub(r"<[^>]+>", "\n", page).splitlines()]
    return [*(line for line in lines if line), *map(unescape, told)]


GOLDEN = {"arms": arms, "chunk rows": chunk_rows, "accepted": accepted, "guards": guards, "report": report}


if __name__ == "__main__":
    FILE.write_text(json.dumps({n: made() for n, made in GOLDEN.items()}, indent=1, sort_keys=True) + "\n")
    print(f"wrote {FILE}", file=sys.stderr)
