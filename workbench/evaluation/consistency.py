"""What a decision file says, against what its inputs give, against its own claims, and against the gates of today.

A file can be edited by hand, or merged line by line. A check computes it again and compares; what serves by it has
nothing to compute with, and asks whether the file contradicts itself.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from math import isclose
from pathlib import Path
from typing import Any

from workbench.codec import to_plain
from workbench.errors import ConfigError
from workbench.evalset.gates import default_policy, scan_gates
from workbench.evaluation.flips import decided
from workbench.evaluation.in_use import anchor_path, decision_path, read_artefact
from workbench.records import Claim, Decision, Rule, file_hash

SAME = 1e-9
DRAWN = 0.1  # of the margin: bounds are drawn, and another version of the libraries may draw otherwise
SHARES = 0.05  # shares of 200 resamples
# What a rule takes from the decisions before it, and not from ``gates.toml``.
FROM_BEFORE = ("reference", "anchor", "use")
_COUNTED = ("estimate", "coverage", "n_items", "n_clusters", "n_clusters_differ", "status", "best")
_WHOLE = ("verdict", "arm", "n_items", "n_clusters", "n_dev_clusters", "n_documents", "synthetic")
_BOUNDS = ("estimate_low", "estimate_high", "difference", "low", "high")
_VERDICTS = {"chosen", "provisional"}  # the rule gives one, and a notebook may make it the other


def rule_again(stated: Rule, policy: Rule) -> Rule:
    """Rule that an accepted decision is checked by: that of the gates whose hash it names, not of its own words.

    >>> accepted = Rule("ndcg@10", "usd_per_1k_requests", "a", 0.5, 0.95, use=2)
    >>> rule_again(accepted, Rule("ndcg@10", "usd_per_1k_requests", "b", 0.02, 0.95)).margin
    0.02
    """
    return replace(policy, **{name: getattr(stated, name) for name in FROM_BEFORE})


def differences(stated: Decision, found: Decision, policy: Rule) -> list[str]:
    """What an accepted decision says otherwise than a run with its inputs and the same scores.

    Parameters
    ----------
    stated, found : Decision
        The accepted one, and that of the run.
    policy : Rule
        Rule of ``gates.toml``, which has the hash that the accepted decision names.

    Returns
    -------
    list of str
        Each with both values. What rests on an index whose rebuilds differ is left out, and so are words: sentences
        and notes, which another version writes otherwise.
    """
    told = list(_told("its rule's ", _rule_of(stated.rule), _rule_of(policy)))
    told += _told("", {"use of the test split": stated.rule.use}, {"use of the test split": found.rule.use})
    rebuilt = any(c.spread is not None for c in (*stated.claims, *found.claims))
    if not rebuilt:
        told += _told("", {n: getattr(stated, n) for n in _WHOLE}, {n: getattr(found, n) for n in _WHOLE})
        told += _told("chosen_share of ", stated.chosen_share, _shares(stated, found), within=SHARES)
    again = {c.arm: c for c in found.claims}
    told += [f"no claim about {arm}, which was tested" for arm in again if arm not in stated.arms]
    for claim in stated.claims:
        if (same := again.get(claim.arm)) is not None:
            told += _claims_differ(claim, same, DRAWN * policy.margin, rebuilt=rebuilt)
    chosen = next((c for c in found.claims if c.arm == stated.arm), None)
    if chosen is not None and not rebuilt and not _within(stated.parameters, to_plain(chosen.parameters)):
        told.append(f"other parameters of {stated.arm} than were run")
    return told or list(filter(None, [contradiction(stated)]))


def contradiction(decision: Decision) -> str:
    """What a decision says against itself, "" where nothing.

    Its verdict must be what its rule gives on its claims, and its parameters those of the arm that it names. Whether
    the claims are those of the evidence, only a check and ``verify`` can tell.
    """
    if decision.arm not in decision.arms:
        return f"it names the arm {decision.arm!r}, and has no claim about it"
    if decision.parameters != decision.claim(decision.arm).parameters:
        return f"its parameters are not those of {decision.arm!r} in its claims"
    if decision.test_uses != decision.rule.use:
        return f"it is use {decision.test_uses} of the test split, and its rule counts use {decision.rule.use}"
    found = decided(decision, decision.rule, [c.cost_usd_per_1k for c in decision.claims])
    made = {found.verdict, decision.verdict} <= _VERDICTS and not (decision.synthetic and decision.verdict == "chosen")
    if found.arm == decision.arm and (made or found.verdict == decision.verdict):
        return ""
    said, gives = f"{decision.verdict} {decision.arm!r}", f"{found.verdict} {found.arm!r}"
    return f"it says {said}, and its rule gives {gives} on its own claims"


def require_served(decision: Decision, evalset: Path) -> None:
    """Refuse to serve by a decision that contradicts itself, or whose gates have changed since.

    Raises
    ------
    ConfigError
        With what to do.
    """
    name, path = f"the {decision.notebook} decision of {evalset.name!r}", decision_path(evalset, decision.notebook)
    if why := contradiction(decision):
        raise ConfigError(
            f"{name} contradicts itself: {why}; restore {path} as it was accepted (git log -p {path.name}), or "
            f"accept a run anew. To see all that is wrong: workbench verify {evalset.name}/{decision.notebook}"
        )
    gates, before = evalset / "gates.toml", decision.fingerprint.inputs.get("gates")
    if gates.is_file() and before:  # a folder that is shipped without gates says nothing of them
        policies, defects = scan_gates(gates)
        policy = policies.get(decision.notebook) or default_policy(decision.notebook)
        if defects or before not in (policy.sha256, file_hash(gates)):
            raise ConfigError(
                f"{name} was tested with another gates.toml; check it again with: workbench check {decision.notebook}"
            )


def beside_differs(accepted: Path, decision: Decision, run: Path) -> list[str]:
    """What is wrong with the files beside an accepted decision, each in a sentence: uses, anchor, what is served.

    Parameters
    ----------
    accepted : Path
        File of the decision.
    decision : Decision
        The accepted one.
    run : Path
        Folder of a run with the same inputs.
    """
    uses, artefact, made = accepted.with_suffix(".uses"), accepted.with_suffix(".artefact"), run / "artefact.json"
    anchor = anchor_path(accepted.parents[1], decision.notebook)
    told = list[str]()
    if not uses.is_file():
        told.append(f"{uses.name} is missing, which counts the uses of the test split")
    elif not decision.rule.use <= len(listed := uses.read_text(encoding="utf-8").split()):
        told.append(f"its rule counts use {decision.rule.use} of the test split, and {uses.name} has {len(listed)}")
    if decision.rule.direction == "higher" and not anchor.is_file():
        told.append(f"anchor/{anchor.name} is missing; the first decision is always one")
    if made.is_file() and (artefact.is_file() or "sha256" in decision.parameters):
        try:
            if not _like(read_artefact(artefact), json.loads(made.read_bytes())):
                told.append(f"{artefact.name} holds something else than was made of the same inputs")
        except ConfigError as error:
            told.append(str(error))
    return told


def _like(kept: Any, made: Any) -> bool:
    """Whether two plain values are the same, numbers to nine decimals."""
    if isinstance(kept, Mapping) and isinstance(made, Mapping):
        return kept.keys() == made.keys() and all(_like(value, made[name]) for name, value in kept.items())
    if isinstance(kept, list) and isinstance(made, list):
        return len(kept) == len(made) and all(map(_like, kept, made))
    return _near(kept, made, SAME)


def _rule_of(rule: Rule) -> dict[str, Any]:
    return {f.name: getattr(rule, f.name) for f in fields(rule) if f.name not in FROM_BEFORE}


def _shares(stated: Decision, found: Decision) -> dict[str, float]:
    return {arm: found.chosen_share.get(arm, 0.0) for arm in stated.chosen_share}


def _told(of: str, stated: Mapping[str, Any], found: Mapping[str, Any], within: float = SAME) -> Iterator[str]:
    for name, value in stated.items():
        if not _near(value, found[name], within):
            yield f"{of}{name} {_short(value)}, computed again {_short(found[name])}"


def _claims_differ(stated: Claim, found: Claim, drawn: float, *, rebuilt: bool) -> Iterator[str]:
    of = f"{stated.arm}: "

    def both(names: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
        return {n: getattr(stated, n) for n in names}, {n: getattr(found, n) for n in names}

    yield from _told(of, *both(["cost_usd_per_1k"]), within=1e-4)  # calls are counted in whole nano-dollars
    if rebuilt:
        return
    yield from _told(of, *both(_COUNTED))
    yield from _told(of, *both(_BOUNDS), within=drawn)
    if not _within(stated.parameters, to_plain(found.parameters)):
        yield f"{of}other parameters than were run"
    for pair in stated.pairs:
        again = found.against(pair.other)
        if again and not all(_near(getattr(pair, n), getattr(again, n), drawn) for n in ("difference", "low", "high")):
            yield f"{of}other bounds against {pair.other}"


def _near(a: Any, b: Any, within: float) -> bool:
    if isinstance(a, float) or isinstance(b, float):
        return (
            isinstance(a, int | float) and isinstance(b, int | float) and isclose(a, b, rel_tol=within, abs_tol=within)
        )
    return bool(a == b)


def _within(stated: Any, found: Any) -> bool:
    """Whether all that is stated was found: a later version may state more."""
    if isinstance(stated, Mapping) and isinstance(found, Mapping):
        return all(name in found and _within(value, found[name]) for name, value in stated.items())
    if isinstance(stated, list) and isinstance(found, list):
        return len(stated) == len(found) and all(map(_within, stated, found))
    return _near(stated, found, SAME)


def _short(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
