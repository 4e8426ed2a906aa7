"""What is in use: the accepted decision and the anchor, with their scores, and the arms that were judged on test."""

import glob
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from workbench.codec import from_json
from workbench.config import Settings
from workbench.errors import ConfigError
from workbench.evaluation.decision import ArmFacts
from workbench.records import Decision, content_hash

TEST_INPUTS = ("qrels/test", "outcomes", "stream")  # what a notebook judges on, the first that it has
SAME_SPLIT = 0.5  # a split that holds this share of items that were judged before is no new one
FIRST_SEED = "0"  # the default of every notebook, as its fingerprint says it
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


def read_artefact(path: Path) -> dict[str, Any]:
    """What an accepted decision is served with, from the file beside it.

    Raises
    ------
    ConfigError
        If it is not there or cannot be read, with what to do.
    """
    notebook = path.stem
    again = f"restore it as it was accepted, or run and accept anew: workbench run {notebook}"
    if not path.is_file():
        raise ConfigError(f"{path} is missing, by which the {notebook} decision is served; {again}")
    return from_json(dict, path.read_bytes(), f"{path}, by which the {notebook} decision is served, is none ({again})")


def name_split(inputs: Mapping[str, str]) -> str:
    """Name of a test split, of 8 digits: a hash of what a notebook judges on."""
    return content_hash(next((inputs[name] for name in TEST_INPUTS if inputs.get(name)), ""))[:8]


def name_use(inputs: Mapping[str, str], arms: Collection[str]) -> str:
    """Name of a use: that of the test split, and a hash of the arms that are judged on it.

    The same arms by another seed are another use: bounds are drawn, and who draws until they suit looks again.
    """
    seed = inputs.get("parameter seed", FIRST_SEED)
    drawn = () if seed == FIRST_SEED else (f"seed {seed}",)
    return f"{name_split(inputs)}{content_hash(*sorted(arms), *drawn)[:8]}"


def split_uses(
    settings: Settings,
    evalset: Path,
    notebook: str,
    inputs: Mapping[str, str],
    items: Collection[str],
    use: str = "",
) -> list[str]:
    """Sets of arms that were judged on a test split, oldest first, with this one.

    The list of this machine is in the cache; accepting a decision commits it beside the decision. What was judged on
    another split counts here too if that one had half of these items: judgements that are mended, and questions that
    are left out or moved, once scores are known, make no split that nobody has looked at.

    Parameters
    ----------
    inputs : mapping of str to str
        Inputs of a run.
    items : collection of str
        Items of its test split; none where they have no names that last, as requests of a stream.
    """
    split, folder = name_split(inputs), settings.cache / "test_uses"
    known, mine = note_test_use(settings, evalset, notebook), set(items)
    if mine and not any(each.startswith(split) for each in known):
        before = _judged(folder, evalset, notebook)
        same = [s for s, judged in before.items() if len(mine & judged) >= SAME_SPLIT * len(mine)]
        counts = {s: [each for each in known if each.startswith(s)] for s in same}
        for each in max(counts.values(), key=len, default=[]):
            note_test_use(settings, evalset, notebook, f"{split}{content_hash(each)[:8]}")
    if mine and use:
        text = "\n".join(sorted(mine)) + "\n"
        (folder / f"{evalset.name}-{notebook}.{split}.items").write_text(text, encoding="utf-8")
    return [each for each in note_test_use(settings, evalset, notebook, use) if each.startswith(split)]


def _judged(folder: Path, evalset: Path, notebook: str) -> dict[str, set[str]]:
    """Items of each test split that was judged on this machine, or that an accepted decision rests on."""
    out = dict[str, set[str]]()
    for path in folder.glob(f"{glob.escape(f'{evalset.name}-{notebook}')}.*.items"):
        out[path.suffixes[-2][1:]] = set(path.read_text(encoding="utf-8").splitlines())
    for path in (decision_path(evalset, notebook), anchor_path(evalset, notebook)):
        scores = path.with_suffix(".scores.parquet")
        if path.is_file() and scores.is_file():
            split = name_split(Decision.load(path).fingerprint.inputs)
            out.setdefault(split, set()).update(pl.read_parquet(scores, columns=["item_id"])["item_id"])
    return out


def with_kept(
    test: pl.DataFrame, kept: Mapping[str, tuple[Decision, Path]], rate: Callable[[str], float]
) -> tuple[pl.DataFrame, list[ArmFacts], list[str]]:
    """Join scores and facts of arms that a run cannot ask again, as they were accepted.

    Parameters
    ----------
    test : DataFrame
        Test rows of the rule's metric.
    kept : mapping of str to (Decision, Path)
        By arm its decision, and the file of it; the scores lie beside.
    rate : callable
        Dollars of one unit of what amounts count, today: what an arm used is priced as the other arms are, and not as
        on the day when it was accepted.

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
        usd = claim.cost_usd_per_1k + sum(n * (rate(name) - decision.rates[name]) for name, n in amounts.items())
        facts.append(ArmFacts(arm, claim.parameters, usd, claim.latency_p95_ms, place, amounts=amounts))
    return test, facts, notes
