# ruff: noqa: T201
"""How many passages, and when to refuse, on docs_qa: ``python -m tests.benchmarks.simulate_passages [resamples]``.

Shows the limits that dev sets for the accepted arm, and what they do on test. Then all families, of dev and of test,
are parted again and again: some set the limits, as many as dev has, and the others show what they lose.
"""

import sys
from functools import cache, partial

import numpy as np

from workbench.config import load_settings
from workbench.evalset.evalset import load_evalset
from workbench.inference.encoders import MiniLM
from workbench.records import Decision
from workbench.retrieval.arms import build_arm
from workbench.retrieval.ask_arms import ask_arm
from workbench.retrieval.passages import (
    LOST,
    WIDEST,
    PassageEvidence,
    calibrate_passages,
    passage_evidence_of,
    passages_table,
)
from workbench.retrieval.searcher import Searcher


def evidence(evalset: str = "docs_qa") -> tuple[PassageEvidence, PassageEvidence, str]:
    """What the accepted arm found on dev and on test."""
    settings = load_settings()
    found = load_evalset(evalset, settings=settings)
    minilm = MiniLM(settings.cache / "weights")
    searcher = Searcher(found.documents, found.inputs["corpus"], settings, minilm, minilm)
    arm = build_arm(Decision.load(found.path / "decisions" / "retrieval.json").parameters)
    searcher.prepare(arm)
    parts = []
    for split in ("dev", "test"):
        part = found.split(split)
        run = ask_arm(arm.name, lambda query: searcher.search(arm, query, WIDEST), part.queries).run
        parts.append(passage_evidence_of(run, part, partial(searcher.nearest, arm), cache(searcher.tokens)))
    return parts[0], parts[1], arm.name


def joined(one: PassageEvidence, other: PassageEvidence) -> PassageEvidence:
    """Questions of both, as if all were dev."""
    families = np.concatenate([one.families, other.families + one.families.max() + 1])
    parts = (np.concatenate([getattr(e, n) for e in (one, other)]) for n in ("first", "tokens", "nearest", "without"))
    return PassageEvidence("dev", *parts, families)


def main() -> None:
    """Print the table and the losses."""
    draws = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    dev, test, arm = evidence()
    print(passages_table(dev, test, calibrate_passages(dev, arm)))
    every, rng, n_dev = joined(dev, test), np.random.default_rng(0), int(dev.families.max()) + 1
    lost, passages = [], []
    for _ in range(draws):
        order = rng.permutation(int(every.families.max()) + 1)
        limits, rest = calibrate_passages(every.take(order[:n_dev]), arm), every.take(order[n_dev:])
        asked = rest.first > 0
        refused = rest.nearest < (limits.closeness or -np.inf)
        lost.append([rest.by_family(v, asked).mean() for v in (rest.first > limits.passages, refused)])
        passages.append(limits.passages)
    mean, error = np.mean(lost, axis=0), np.std(lost, axis=0) / draws**0.5
    print(f"\n{draws} times {n_dev} families set the limits, which promise to lose at most {LOST:.0%}:")
    for what, m, e, over in zip(
        ("passages", "refusing"), mean, error, np.mean(np.array(lost) > LOST, axis=0), strict=True
    ):
        print(f"{what}: {m:.2%} lost on average (standard error {e:.2%}); above the promise in {over:.0%} of draws")
    print(f"passages sent: {np.bincount(passages, minlength=WIDEST + 1)[1:].tolist()} draws sent 1 to {WIDEST}")


if __name__ == "__main__":
    main()
