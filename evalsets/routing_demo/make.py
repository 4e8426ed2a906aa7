"""Writes outcomes.parquet of this folder: a simulated table with a planted gain, the same on every machine.

Run: python evalsets/routing_demo/make.py
"""

from pathlib import Path

import numpy as np
import polars as pl
from scipy.stats import norm

FAMILIES, SEED, LIKENESS = 450, 7, 0.95
MODELS = {"small": (0.0002, 350.0), "medium": (0.0012, 700.0), "large": (0.0060, 1600.0)}
RIGHT = {False: {"small": 0.94, "medium": 0.94, "large": 0.95}, True: {"small": 0.45, "medium": 0.72, "large": 0.93}}
HARD_SHARE = {"find": 0.1, "answer": 0.35, "check": 0.5}
TOPICS = ("invoice", "contract", "release note", "support ticket", "schedule", "price list", "report", "policy")
PARTS = ("deadline", "owner", "total", "address", "version", "discount", "approval", "exception")
EASY = {
    "find": ("Find the {part} in this {topic}.", "Where does the {topic} name the {part}?"),
    "answer": ("What is the {part} of this {topic}?", "Tell me the {part} that the {topic} gives."),
    "check": ("Does this {topic} state the {part}?", "Is the {part} in this {topic}?"),
}
HARD = (
    "Compare the {part} in this {topic} with the {other}, explain why they differ, unless both follow from the same "
    "clause, and say which one applies if the customer cancels before the {third}.",
    "If the {part} changes after the {other} was agreed, derive each later date of the {topic} step by step and prove "
    "that none falls before the {third}, except those that were waived.",
)


def main() -> None:
    """Draw families of two prompts, then each model's answer to each prompt."""
    rng = np.random.default_rng(SEED)
    rows = []
    for family in range(FAMILIES):
        feature = list(HARD_SHARE)[family % 3]
        hard = bool(rng.random() < HARD_SHARE[feature])
        part, other, third = rng.choice(PARTS, 3, replace=False)
        words = {"topic": rng.choice(TOPICS), "part": part, "other": other, "third": third}
        for turn, form in enumerate(HARD if hard else EASY[feature]):
            number = 1000 + family
            prompt = f"{form.format(**words)} Case {number}."
            luck = rng.standard_normal()
            for model, (cost, latency) in MODELS.items():
                own = LIKENESS * luck + np.sqrt(1 - LIKENESS**2) * rng.standard_normal()
                right = float(own < norm.ppf(RIGHT[hard][model]))
                tokens = int(rng.integers(40, 120) * (3 if hard else 1))
                confidence = (
                    np.clip(0.55 + 0.3 * right + 0.15 * rng.standard_normal(), 0, 1) if model == "small" else None
                )
                rows.append(
                    {
                        "prompt_id": f"{number}-{turn}", "prompt": prompt, "model": model, "config": None,
                        "quality": right, "cost_usd": round(cost * tokens / 100, 8),
                        "latency_ms": round(latency * float(rng.lognormal(0, 0.25)), 1), "tokens_in": 30,
                        "tokens_out": tokens, "confidence": confidence, "cluster": str(number),
                        "feature": feature, "tenant_id": "default", "split": None,
                    }
                )  # fmt: skip
    kinds = {"config": pl.String, "split": pl.String}
    table = pl.DataFrame(rows, schema_overrides=kinds).with_columns(pl.col("confidence").round(3))
    table.write_parquet(Path(__file__).with_name("outcomes.parquet"))


if __name__ == "__main__":
    main()
