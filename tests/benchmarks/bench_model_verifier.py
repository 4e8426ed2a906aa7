# ruff: noqa: T201
"""What a small local model knows as a verifier: 60 dev pairs of docs_qa, from recorded answers.

``python -m tests.benchmarks.bench_model_verifier [USD]``: without USD it replays and needs no model; with it, the model
is asked what is not recorded, for at most that much, and recorded. The labels were written by a model, so that these
are the figures of a licence and no licence. No pair of test is used up.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from workbench.caching.certify import clopper_pearson
from workbench.caching.fitted import TextPair
from workbench.caching.verifiers import MODEL_LEAST, ModelVerifier, Verdict
from workbench.config import load_settings
from workbench.inference.client import Client
from workbench.inference.recordings import FOLDER, Recordings
from workbench.quality.licence import Agreement, LicenceRule, measure_agreement

NAME = "local/smollm2-135m"
RECORDED = "verifier-smollm2-135m.jsonl"
EACH = 30  # of either label
ORDER = 20261130


def drawn(folder: Path) -> list[tuple[TextPair, bool, str]]:
    """As many dev pairs of either label, each (asked, cached), label and family, by a seed."""
    rows = map(json.loads, (folder / "pairs.jsonl").read_text(encoding="utf-8").splitlines())
    dev = [r for r in rows if r["split"] == "dev" and not r.get("batch")]
    rng, found = np.random.default_rng(ORDER), []
    for label in (1, 0):
        mine = [r for r in dev if r["same_answer"] == label]
        found += [mine[i] for i in rng.choice(len(mine), EACH, replace=False)]
    return [((r["query_b"], r["query_a"]), bool(r["same_answer"]), r["cluster"]) for r in found]


def verdicts(client: Client, folder: Path, *, usd: float | None) -> list[Verdict]:
    """Verdicts of the model on them, in their order; whatever it says yes to agrees, at any probability."""
    return ModelVerifier(client, NAME, least=0.0, max_cost_usd=usd).check([pair for pair, *_ in drawn(folder)])


def agreement(found: Sequence[Verdict], folder: Path) -> Agreement:
    """Agreement of its words with the labels, where it said one."""
    said = [(v.agrees, same, cluster) for v, (_, same, cluster) in zip(found, drawn(folder), strict=True)
            if v.probability is not None]  # fmt: skip
    words, labels, clusters = zip(*said, strict=True)
    codes = np.unique(clusters, return_inverse=True)[1]
    return measure_agreement(np.array(labels, float), np.array(words, float), codes, LicenceRule())


def main(usd: float | None) -> None:
    settings = load_settings()
    folder = settings.evalsets / "docs_qa"
    recordings = Recordings(folder / FOLDER / RECORDED, live=usd is not None)
    found = verdicts(Client.open(settings, recordings=recordings), folder, usd=usd)
    same = np.array([label for _, label, _ in drawn(folder)])
    unknown = sum(v.probability is None for v in found)
    print(f"{NAME}: {len(found)} dev pairs, {unknown} answers without a verdict")
    for least in (0.0, 0.5, MODEL_LEAST):
        served = np.array([v.agrees and v.probability is not None and v.probability >= least for v in found])
        wrong, of = int((served & ~same).sum()), int((~same).sum())
        high = clopper_pearson(np.array([float(wrong)]), np.array([float(of)]))[1][0]
        print(
            f"yes from {least:g}: {served[same].sum()} of {same.sum()} that may share, {wrong} of {of} (<= {high:.1%})"
        )
    if unknown < len(found):
        print(agreement(found, folder))


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else None)
