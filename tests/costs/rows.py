"""Ledgers of a test as frames: what `load_spend` reads of them, without a database."""

import random
from collections.abc import Sequence
from dataclasses import asdict

import polars as pl

from tests.telemetry.rows import row
from workbench.costs.spend import READ, Spend
from workbench.telemetry.ledger import LedgerRow


def spend_of(rows: Sequence[LedgerRow], since: str = "", until: str = "") -> Spend:
    types = {name: pl.Int64 if isinstance(value, int) else pl.String for name, value in asdict(row()).items()}
    frame = pl.DataFrame([{n: getattr(r, n) for n in READ} for r in rows], schema={n: types[n] for n in READ})
    return Spend(frame, since, until)


def random_rows(seed: int, n: int) -> list[LedgerRow]:
    """Attempts of all kinds, of few tenants, features and models, some of them of nobody."""
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        status = rng.choice(("ok", "ok", "ok", "error", "unknown", "cached", "replayed", "correction"))
        free = status in ("cached", "replayed")
        used = status in ("ok", "unknown") and rng.random() < 0.9
        tokens = {t: rng.randrange(5000) if used else 0 for t in ("fresh_tokens", "cache_read_tokens",
                                                                  "cache_write_tokens", "output_tokens")}  # fmt: skip
        cost = 0 if free else rng.randrange(10**9) * (-1 if status == "correction" and rng.random() < 0.5 else 1)
        rows.append(
            row(
                f"c{i // 2}",
                i % 2 if status != "correction" else -1 - i % 2,
                0 if status == "error" else cost,
                status=status,
                started=f"2026-11-{1 + rng.randrange(28):02d}T{rng.randrange(24):02d}:00:00+00:00",
                tenant_id=rng.choice(("", "acme", "(none)", "<b>")),
                feature=rng.choice(("", "find", "answer")),
                purpose=rng.choice(("product", "product", "eval", "judge", "ingest")),
                user_id=rng.choice(("", "u")),
                model_asked=rng.choice(("cheap", "dear", "unlisted")),
                saved_nanos=rng.randrange(99) if free else 0,
                trace_id=rng.choice(("", f"t{i // 6}")),
                price_version=rng.choice(("", "v1", "v2")),
                **tokens,
            )
        )
    return rows
