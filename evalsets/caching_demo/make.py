"""Make ``stream.parquet`` and ``pairs.jsonl`` of this evalset from its hand-written parts; the same on every run.

python evalsets/caching_demo/make.py
"""

import json
import tomllib
from pathlib import Path

import numpy as np
import polars as pl

HERE = Path(__file__).parent
SEED, REQUESTS, ZIPF = 20261129, 6000, 0.8
TENANTS = {"acme": 0.4, "birch": 0.3, "cobalt": 0.2, "dune": 0.1}
OPENINGS = {
    "": 0.55,
    "hi, ": 0.15,
    "hello, ": 0.1,
    "hey, ": 0.1,
    "quick question: ": 0.05,
    "sorry to bother you, ": 0.05,
}
CLOSINGS = {"": 0.5, "?": 0.3, " please": 0.1, ", thanks": 0.1}


def main() -> None:
    """Draw the stream: intents by Zipf's law in an order of each tenant's own, phrasings evenly."""
    intents: dict[str, list[str]] = tomllib.loads((HERE / "intents.toml").read_text(encoding="utf-8"))
    rng = np.random.default_rng(SEED)
    names, weights = list(intents), 1 / np.arange(1, len(intents) + 1) ** ZIPF
    order = {tenant: rng.permutation(len(names)) for tenant in TENANTS}
    rows = []
    for pos in range(REQUESTS):
        tenant = str(rng.choice(list(TENANTS), p=list(TENANTS.values())))
        intent = names[order[tenant][rng.choice(len(names), p=weights / weights.sum())]]
        opening, closing = (str(rng.choice(list(part), p=list(part.values()))) for part in (OPENINGS, CLOSINGS))
        text = f"{opening}{rng.choice(intents[intent])}{closing}"
        rows.append((pos, text, f"{tenant}/{intent}", tenant, intent))
    schema = ["pos", "query", "answer_key", "tenant_id", "cluster"]
    stream = pl.DataFrame(rows, schema=schema, orient="row").with_columns(at=pl.lit(None, dtype=pl.String))
    stream.write_parquet(HERE / "stream.parquet")
    write_pairs()


def write_pairs() -> None:
    """Number the hand-written pairs; every third is for dev."""
    pairs: dict[str, list[list[str]]] = tomllib.loads((HERE / "pairs.toml").read_text(encoding="utf-8"))
    lines = []
    for kind, both in pairs.items():
        for i, (a, b) in enumerate(both):
            row = {"id": f"{kind}-{i}", "query_a": a, "query_b": b, "same_answer": int(kind == "paraphrase"),
                   "kind": kind, "cluster": f"{kind}-{i}", "split": "dev" if i % 3 == 0 else "test"}  # fmt: skip
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    (HERE / "pairs.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
