"""Tables of outcomes that are drawn, so that what a router can gain is known."""

import numpy as np
import polars as pl

HARD = "compare both clauses and explain why the second applies unless the first was waived"
EASY = "where is the date"


def planted(n: int = 600, *, seed: int = 0, hard: float = 0.4, gap: float = 0.5, readable: bool = True) -> pl.DataFrame:
    """Small and large model, equal on easy prompts; on hard ones the small is worse by ``gap``.

    ``readable`` says whether the prompt shows that it is hard; else nothing that a router sees does.
    """
    rng = np.random.default_rng(seed)
    is_hard = rng.random(n) < hard
    shown = is_hard if readable else rng.permutation(is_hard)
    luck = rng.random(n)
    rows = []
    for i in range(n):
        prompt = f"{HARD if shown[i] else EASY} case {i}"
        for model, cost, right in (("small", 0.001, 0.92 - gap * is_hard[i]), ("large", 0.010, 0.92)):
            rows.append((f"p{i:05d}", prompt, model, float(luck[i] < right), cost * (1 + 0.1 * luck[i])))
    return pl.DataFrame(rows, schema=["prompt_id", "prompt", "model", "quality", "cost_usd"], orient="row")


def dominated(n: int = 600, *, seed: int = 0) -> pl.DataFrame:
    """The cheap model is also the better one, on every kind of prompt."""
    swap = {"small": "worse and dear", "large": "better and cheap"}
    price = pl.when(pl.col("model") == "worse and dear").then(0.010).otherwise(0.001)
    table = planted(n, seed=seed).with_columns(pl.col("model").replace(swap))
    return table.with_columns(cost_usd=price)
