"""What is in use: the accepted decision and the anchor, with their scores, and the arms that were judged on test."""

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from workbench.config import Settings
from workbench.evaluation.decision import ArmFacts
from workbench.records import Decision

TEST_INPUTS = ("qrels/test", "outcomes", "stream")  # what a notebook judges on, the first that it has
KEPT_ORDER = 1000  # arms that a run cannot ask stand behind those that it can


def decision_path(evalset: Path, notebook: str) -> Path:
    """Where the accepted decision of a notebook lies."""
    return evalset / "decisions" / f"{notebook}.json"


def anchor_path(evalset: Path, notebook: str) -> Path:
    """Where the decision lies whose arm is the anchor; its scores lie beside it."""
    return evalset / "decisions" / "anchor" / f"{notebook}.json"


def note_test_use(settings: Settings, evalset: Path, notebook: str, use: str = "") -> list[str]:
    """Arm sets that were judged on the test split, on this machine and before the last acceptance, with this one."""
    local = settings.cache / "test_uses" / f"{evalset.name}-{notebook}"
    known: list[str] = []
    for path in (decision_path(evalset, notebook).with_suffix(".uses"), local):
        known += path.read_text(encoding="utf-8").split() if path.is_file() else []
    uses = list(dict.fromkeys([*known, use] if use else known))
    local.parent.mkdir(parents=True, exist_ok=True)
    local.write_text("\n".join(uses) + "\n", encoding="utf-8")
    return uses


def with_kept(
    test: pl.DataFrame, kept: Mapping[str, tuple[Decision, Path]]
) -> tuple[pl.DataFrame, list[ArmFacts], list[str]]:
    """Join scores and facts of arms that a run cannot ask again, as they were accepted.

    Parameters
    ----------
    test : DataFrame
        Test rows of the rule's metric.
    kept : mapping of str to (Decision, Path)
        By arm its decision, and the file of it; the scores lie beside.

    Returns
    -------
    DataFrame, list of ArmFacts, list of str
        The rows with those of the kept arms, the facts of these, and a sentence for each arm that was judged on other
        questions than these and so is left out.
    """
    facts, notes = list[ArmFacts](), list[str]()
    for arm, (decision, path) in kept.items():
        scores = pl.read_parquet(path.with_suffix(".scores.parquet")).filter(pl.col("arm") == arm)
        if set(scores["item_id"]) != set(test["item_id"]):
            notes.append(f"{arm}, accepted before, is no arm of this run and was judged on other questions.")
            continue
        clusters = test.select("item_id", "cluster").unique("item_id")
        rows = scores.join(clusters, on="item_id").select("arm", "item_id", "repeat", "value", "cluster")
        test = pl.concat([test, rows], how="diagonal_relaxed")
        claim, place = decision.claim(arm), KEPT_ORDER + len(facts)
        amounts = dict(claim.amounts)
        facts.append(
            ArmFacts(arm, claim.parameters, claim.cost_usd_per_1k, claim.latency_p95_ms, place, amounts=amounts)
        )
    return test, facts, notes
