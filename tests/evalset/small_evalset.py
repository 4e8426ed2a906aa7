"""A tiny evalset folder for tests: two tenants, dev and test, no defect."""

import json
import os
from pathlib import Path

import pytest

from workbench.config import Settings

DOCUMENTS = [
    {"_id": "d1", "title": "pandas.merge", "text": "Join two frames on a key.", "metadata": {"tenant_id": "a"}},
    {"_id": "d2", "title": "pandas.sort", "text": "Sort rows by value.", "metadata": {"tenant_id": "a"}},
    {"_id": "d3", "title": "polars.join", "text": "Join frames on a key.", "metadata": {"tenant_id": "b"}},
]
QUERIES = [
    {"_id": "q1", "text": "how to combine tables", "metadata": {"tenant_id": "a", "cluster": "combine"}},
    {"_id": "q2", "text": "order by price", "metadata": {"tenant_id": "a", "cluster": "order"}},
    {"_id": "q3", "text": "left outer please", "metadata": {"tenant_id": "b", "cluster": "outer"}},
]
DEV, TEST = ["q1\td1\t1"], ["q2\td2\t2", "q3\td3\t1"]


def write(folder: Path, *, documents=DOCUMENTS, queries=QUERIES, **qrels: list[str]) -> Path:
    """Folder with these rows; without ``qrels`` dev and test."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    for name, rows in (("corpus", documents), ("queries", queries)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    for split, lines in (qrels or {"dev": DEV, "test": TEST}).items():
        text = "".join(f"{line}\n" for line in ["query-id\tcorpus-id\tscore", *lines])
        (folder / "qrels" / f"{split}.tsv").write_text(text, encoding="utf-8")
    return folder


def settings_in(root: Path) -> Settings:
    return Settings(root=root, cache=root / "cache", runs=root / "runs", state_url="sqlite://")


def shared(name: str, kind: str = "retrieval") -> Path:
    """Folder of a public collection; skips where it is not on this machine."""
    default = Path(__file__).parents[2].parent / "shared" / "data"
    folder = Path(os.environ.get("WORKBENCH_SHARED_DATA", default)) / kind / name
    if not folder.is_dir():
        pytest.skip(f"no public collection at {folder}; set WORKBENCH_SHARED_DATA")
    return folder
