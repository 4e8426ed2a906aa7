"""``workbench verify``: an accepted decision, taken at no word but its own evidence, by whoever holds the repository.

Every input is hashed, every number that follows from what is committed is computed again, and the history is asked
whether the rule stood before the test was looked at. What cannot be told here is named: nothing passes silently.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import polars as pl

from workbench.caching.guard import make_guard, rules_sha256
from workbench.codec import to_json
from workbench.config import Settings, load_settings
from workbench.errors import ConfigError, MissingExtra, WorkbenchError
from workbench.evalset.evalset import Evalset, load_evalset
from workbench.evalset.files import read_parquet
from workbench.evalset.outcomes import FILE as OUTCOMES
from workbench.evalset.traffic import load_traffic_pairs, load_traffic_stream
from workbench.evaluation.accepted_decision import anchor_path, decision_path, name_split, name_use, read_artefact
from workbench.evaluation.start import inputs_of_settings
from workbench.extras import DISTRIBUTION, VERSION, is_installed
from workbench.inference.encoders import MiniLM
from workbench.inference.prices import Work, project_prices
from workbench.project.decision_history import GitHistory, gates_hashes, look_back_at_decision
from workbench.project.recompute_decision import (
    ASK_AGAIN,
    AcceptedEvidence,
    RecomputedPart,
    judge_recomputed,
    raw_outcomes,
    recompute_beside_claims,
    recompute_decision,
)
from workbench.records import Decision, content_hash, file_hash
from workbench.rendering.numbers import counted
from workbench.routing.accepted_router import HITS, PROMPTS, router_model_inputs
from workbench.routing.recorded_hits import retrieval_usd
from workbench.runner.accept_and_check import other_rule, policy_of

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://in-toto.io/attestation/test-result/v0.1"
# Fields that say what a person did, or how the run was begun, by name.
WRITTEN = {
    "question": "the question in words", "profile": "the profile of the run",
    "accepted_because": "why it was accepted", "accepted_on": "on which day", "provenance": "versions and machine",
    "reference": "which arm was in use",
}  # fmt: skip
# Inputs that only a run can compute.
OF_ENCODER = ("weights", "encoder probe")
JUDGES = "judges.toml"
RECORDED = "recordings of "  # of the name of an input, before that of a model
_SHA256 = re.compile("[0-9a-fA-F]{64}")


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found of one decision; ``files`` are those that it consists of, with their sha256."""

    name: str
    checks: tuple[RecomputedPart, ...]
    files: Mapping[str, str] = field(default_factory=dict)

    def of(self, status: str) -> list[RecomputedPart]:
        """Checks of one status."""
        return [c for c in self.checks if c.status == status]

    @property
    def holds(self) -> bool:
        """Whether nothing contradicts the decision."""
        return not self.of("contradicted")

    @property
    def sentence(self) -> str:
        """How many checks came to what."""
        counts = ", ".join(f"{len(self.of(s))} {s}" for s in ("verified", "contradicted", "not verified"))
        other = any(c.name.startswith("input ") for c in self.of("contradicted"))
        why = "; it rests on other inputs than lie here: stale, or tampered with" if other else ""
        return f"{self.name}: {'nothing contradicts it' if self.holds else 'CONTRADICTED'} ({counts}){why}"


def decisions_to_verify(names: Sequence[str], settings: Settings) -> list[Path]:
    """Files of decisions: by path, or as EVALSET/NOTEBOOK; all accepted ones where none is named.

    Raises
    ------
    ConfigError
        If there is no such file.
    """
    found = [Path(name) if name.endswith(".json") else _accepted_to_verify(name, settings) for name in names]
    found = found or sorted(settings.evalsets.glob("*/decisions/*.json"))
    if missing := [path for path in found if not path.is_file()]:
        raise ConfigError(f"there is no decision {missing[0]}; name a file, or EVALSET/NOTEBOOK as in docs_qa/routing")
    if not found:
        raise ConfigError(f"no decision is accepted below {settings.evalsets}")
    return found


def _accepted_to_verify(name: str, settings: Settings) -> Path:
    evalset, _, notebook = name.rpartition("/")
    return decision_path(settings.evalsets / evalset, notebook)


def verify_decision(path: Path, *, sealed: str = "") -> Verification:
    """Check everything that can be checked of an accepted decision without a model, an encoder or a store.

    Parameters
    ----------
    path : Path
        The decision, in ``decisions/`` of its evalset.
    sealed : str
        sha256 of ``gates.toml`` that was handed over before the test was looked at.

    Raises
    ------
    ConfigError
        If it is no decision, or does not lie in an evalset; or if ``sealed`` is no sha256.
    """
    if sealed and not _SHA256.fullmatch(sealed):
        raise ConfigError(f"the sealed hash is the sha256 of gates.toml, 64 digits of 0-9a-f; found {sealed!r}")
    path, sealed = path.resolve(), sealed.lower()
    decision, folder = Decision.load(path), path.parents[1]
    if path.parent.name != "decisions":
        raise ConfigError(f"{path} does not lie in decisions/ of an evalset, where what it rests on lies too")
    if decision.notebook != path.stem:
        raise ConfigError(
            f"{path} says that it is a decision of {decision.notebook!r}; its file has that name, or it is none"
        )
    settings, checks = load_settings({}, start=folder), list[RecomputedPart]()
    name = f"{folder.name}/{decision.notebook}"
    try:
        seed = int(decision.settings.get("seed", 0))
        evalset, prices = load_evalset(folder, settings=settings, seed=seed, build=False), project_prices(settings.root)
        raw = raw_outcomes(evalset, prices, decision.settings) if decision.notebook == "routing" else None
        accepted = AcceptedEvidence(
            decision, path, evalset, read_parquet(path.with_suffix(".scores.parquet")), prices, raw
        )
        checks += _verify_inputs(accepted)
        checks += _verify_rule(accepted)
        checks += _verify_uses(accepted)
        checks += recompute_decision(accepted)
        checks += recompute_beside_claims(accepted)
        checks += _limits(accepted)
    except MissingExtra as error:  # of this install it says something, of the decision nothing
        checks.append(RecomputedPart("files", "not verified", str(error)))
    except (WorkbenchError, pl.exceptions.PolarsError, KeyError, TypeError, ValueError, ArithmeticError) as error:
        checks.append(RecomputedPart("files", "contradicted", f"what it rests on cannot be read: {error}"))
    checks += look_back_at_decision(decision, path, sealed=sealed)
    checks += _not_verifiable_here(decision)
    return Verification(name, tuple(checks), _verify_files(path, settings.root))


def _verify_files(path: Path, root: Path) -> dict[str, str]:
    beside = [path.with_suffix(f".{kind}") for kind in ("json", "scores.parquet", "uses", "artefact")]
    there = [*beside, path.parents[1] / "gates.toml"]
    return {p.relative_to(root).as_posix(): file_hash(p) for p in there if p.is_file() and p.is_relative_to(root)}


def _verify_inputs(accepted: AcceptedEvidence) -> Iterator[RecomputedPart]:
    """Each input of the fingerprint against the file that it names; and inputs that are missing in it."""
    d, found = accepted.decision, _verify_found_inputs(accepted)
    stated = d.fingerprint.inputs
    for name, value in stated.items():
        possible = found.get(name)
        if possible is None and name.startswith("parameter "):
            yield RecomputedPart(f"input {name}", "contradicted", "the settings of the decision lack it: taken out?")
        elif possible is None:
            why = "an encoder computes it" if name in OF_ENCODER else "no file here tells it"
            yield RecomputedPart(f"input {name}", "not verified", f"{why}; {ASK_AGAIN.format(d.notebook)}")
        elif value in possible:
            yield RecomputedPart(f"input {name}", "verified", value[:80])
        elif len(possible) > 1 and name != "gates":  # recordings of which a part was read
            told = "the file holds other answers than those that were read, or more"
            yield RecomputedPart(f"input {name}", "not verified", f"{told}; {ASK_AGAIN.format(d.notebook)}")
        else:
            told = f"the decision rests on {value[:80]}, here is {possible[0][:80]}"
            yield RecomputedPart(f"input {name}", "contradicted", told)
    needed = inputs_of_settings(d.notebook, d.settings).keys() | {"prices"}
    needed |= {"stream", "pairs"} if d.notebook == "caching" else accepted.evalset.inputs.keys()
    for name in sorted(needed - stated.keys()):
        yield RecomputedPart(
            f"input {name}", "contradicted", "the decision does not say which one it rests on: taken out?"
        )


def _verify_found_inputs(accepted: AcceptedEvidence) -> dict[str, list[str]]:
    """What each input may be by the files that lie here, by name."""
    d, evalset, prices = accepted.decision, accepted.evalset, accepted.prices
    folder, out = evalset.path, {name: [value] for name, value in evalset.inputs.items()}
    gates = folder / "gates.toml"
    out["gates"] = sorted(gates_hashes(gates.read_bytes() if gates.is_file() else None, d.notebook))
    out["prices"] = [prices.sha256]
    out |= {name: [told] for name, told in prices.rate_inputs(map(Work, prices.later)).items()}
    if d.settings.get("embedder") == "minilm":
        out["weights"] = [MiniLM.encoder_id]
    out |= {name: [value] for name, value in inputs_of_settings(d.notebook, d.settings).items()}
    for name in (PROMPTS, HITS, "searches.jsonl"):
        path = folder / name if name == PROMPTS else folder / "recordings" / name
        if path.is_file():
            out["prompts" if name == PROMPTS else name] = [content_hash(path.read_bytes())]
    if (raw := accepted.raw) is not None:
        out |= {f"recordings of {m}": list(hashes) for m, hashes in raw.hashes.items()}
        if raw.hashes:
            out |= {name: [value] for name, value in router_model_inputs(raw.outcomes.models, prices).items()}
            out["retrieval usd"] = [f"{retrieval_usd(evalset):.3e}"]
        else:
            out["outcomes"] = [file_hash(folder / OUTCOMES)]
    elif found := _OF_NOTEBOOK.get(d.notebook):
        out |= found(accepted)
    elif d.notebook == "caching":
        pairs, sha256 = load_traffic_pairs(folder)
        out |= {"stream": [load_traffic_stream(folder).sha256], "pairs": [sha256]}
        if guard := make_guard(d.settings.get("guard", ())):
            out["guard"] = [guard.sha256((x.query_b, x.query_a) for x in pairs)]
    elif d.notebook == "stack" and "guard" in d.fingerprint.inputs:
        out["guard"] = [rules_sha256()]
    return out


def _verify_pipeline_inputs(accepted: AcceptedEvidence) -> dict[str, list[str]]:
    """What the answer flow was run from: recorded answers, what is recorded for rewriting, the accepted router."""
    d, folder = accepted.decision, accepted.evalset.path
    stated = {name.removeprefix(RECORDED) for name in d.fingerprint.inputs if name.startswith(RECORDED)}
    recordings, out = folder / "recordings", dict[str, list[str]]()
    for model in stated | set(d.settings.get("models", ())):
        path = recordings / f"{model.replace('/', '-')}.jsonl"
        out[f"{RECORDED}{model}"] = [content_hash(path.read_bytes()) if path.is_file() else ""]
    out |= {path.name: [content_hash(path.read_bytes())] for path in recordings.glob("rewr*.jsonl")}
    if (routing := decision_path(folder, "routing")).is_file():
        out["route accepted"] = [str(Decision.load(routing).parameters.get("sha256", ""))]
    return out


def _of_stack(accepted: AcceptedEvidence) -> dict[str, list[str]]:
    """What the layers are put together from: recorded answers, the stream, and the accepted cache."""
    evalset = accepted.evalset
    raw, caching = raw_outcomes(evalset, accepted.prices, {}), decision_path(evalset.path, "caching")
    out = {f"{RECORDED}{model}": list(hashes) for model, hashes in raw.hashes.items()}
    out |= {"stream": [load_traffic_stream(evalset.path).sha256], "retrieval usd": [f"{retrieval_usd(evalset):.3e}"]}
    if caching.is_file():
        out["cache"] = [content_hash(to_json(Decision.load(caching).parameters))]
    return out


def _of_quality(accepted: AcceptedEvidence) -> dict[str, list[str]]:
    """Judges; of their recorded verdicts, a run reads those of the answers that it shows them."""
    path = accepted.evalset.path / JUDGES
    return {JUDGES: [content_hash(path.read_bytes()) if path.is_file() else ""]}


_OF_NOTEBOOK = {"pipeline": _verify_pipeline_inputs, "stack": _of_stack, "quality": _of_quality}


def _verify_rule(accepted: AcceptedEvidence) -> Iterator[RecomputedPart]:
    """The rule against ``gates.toml``, the anchor, and how the decision names its evalset."""
    d, folder = accepted.decision, accepted.evalset.path
    other = other_rule(d, policy_of(folder, d.notebook))
    told = "; ".join(other) or "as gates.toml of the evalset states it"
    yield RecomputedPart("rule", "contradicted" if other else "verified", told)
    if d.arm in d.arms:
        yield judge_recomputed("parameters", d.claim(d.arm).parameters, d.parameters, f"the claim of {d.arm} has")
    yield judge_recomputed("use of the rule", d.rule.use, d.test_uses, "the rule counts")
    yield judge_recomputed("evalset", folder.name, d.evalset, "it lies in")
    yield judge_recomputed("synthetic", _verify_synthetic(accepted), d.synthetic, "card and traffic say")
    place = anchor_path(folder, d.notebook)
    if not place.is_file():
        if d.rule.direction == "higher" or d.rule.anchor:
            yield RecomputedPart(
                "anchor", "contradicted", f"anchor/{place.name} is missing; the first decision is always one"
            )
        return
    anchor = Decision.load(place)
    if anchor.to_json() != d.to_json():
        stated = anchor.arm if d.rule.anchor == anchor.arm and anchor.arm in d.arms else f"not {anchor.arm}"
        yield judge_recomputed("anchor", anchor.arm, stated, "the anchor lies beside it, and its arm was tested:")
    scores = read_parquet(place.with_suffix(".scores.parquet"))
    mean = float(scores["value"].fill_null(0.0).mean() or 0.0)  # type: ignore[arg-type]
    yield judge_recomputed("scores of the anchor", mean, anchor.claim(anchor.arm).estimate, "their mean is")


def _verify_synthetic(accepted: AcceptedEvidence) -> bool:
    evalset: Evalset = accepted.evalset
    made_up = accepted.decision.notebook in ("caching", "stack") and load_traffic_stream(evalset.path).synthetic
    return evalset.synthetic or made_up


def _verify_uses(accepted: AcceptedEvidence) -> Iterator[RecomputedPart]:
    """Whether the list of uses holds this set of arms, at the place that the rule counts with."""
    d, path = accepted.decision, accepted.path.with_suffix(".uses")
    if not path.is_file():
        yield RecomputedPart("uses of the test split", "contradicted", f"{path.name} is missing beside the decision")
        return
    inputs = d.fingerprint.inputs
    split = name_split(inputs)
    arms = list(d.arms)
    if d.notebook == "caching":
        guard = make_guard(d.settings.get("guard", ()))
        arms = ["off", "exact", "semantic", repr(guard), inputs.get("weights", "")]
    mine = name_use(inputs, arms)
    uses = [use for use in path.read_text(encoding="utf-8").split() if use.startswith(split)]
    if mine not in uses:
        told = (
            f"this set of arms ({mine}) is not among the {counted(len(uses), 'set')} listed: was an arm or a use "
            "dropped or added?"
        )
        yield RecomputedPart("uses of the test split", "contradicted", told)
        return
    yield judge_recomputed(
        "uses of the test split", uses.index(mine) + 1, d.rule.use, "this set of arms is listed as use"
    )


def _limits(accepted: AcceptedEvidence) -> Iterator[RecomputedPart]:
    """Limits of passages, which are kept beside a retrieval decision and served by."""
    d, path = accepted.decision, accepted.path.with_suffix(".artefact")
    if d.notebook == "retrieval" and path.is_file():
        yield judge_recomputed(f"arm of {path.name}", d.arm, read_artefact(path).get("arm"), "the decided arm is")
        yield RecomputedPart(
            path.name, "not verified", f"its limits are those of the run; {ASK_AGAIN.format(d.notebook)}"
        )


def _not_verifiable_here(d: Decision) -> Iterator[RecomputedPart]:
    """What no file that is committed can show."""
    again = ASK_AGAIN.format(d.notebook)
    if d.notebook != "caching":
        what = "which arms dev let through, and how often each would be chosen, rest on dev scores, which are not kept"
        yield RecomputedPart("choice on dev", "not verified", f"{what}; {again}")
    if d.claims:
        what = "of what each arm is made, its parameters, only those of the decided arm stand twice"
        yield RecomputedPart("parameters of the other arms", "not verified", f"{what}; {again}")
    if d.notebook not in ("routing", "caching"):
        what = "scores, costs, latencies and spread over rebuilds of the arms themselves are those of the run, whose "
        what += "answers are not kept"
        yield RecomputedPart("scores of the arms", "not verified", f"{what}; {again}")
    yield RecomputedPart("what was written", "not verified", f"nothing can compute again {', '.join(WRITTEN.values())}")
    if not is_installed("lancedb"):
        need = f"pip install '{DISTRIBUTION}[notebooks]'"
        yield RecomputedPart("this install", "not verified", f"it is a light one and runs no notebook; {need}")


def verification_statement(found: Sequence[Verification], *, now: datetime, root: Path) -> str:
    """in-toto Statement (v1) on decisions: subjects with their sha256, and a test result of what was checked.

    ``predicate.checks`` holds every check with its values, beside the fields of the predicate type.
    """
    history = GitHistory.of(root)
    commit = history.commits(root)[:1] if history else []
    named = [(v.name, c) for v in found for c in v.checks]
    lists = {
        key: [f"{name}: {c.name}" for name, c in named if c.status == status]
        for key, status in _STATEMENT_LISTS.items()
    }
    result = "FAILED" if lists["failedTests"] else "WARNED" if lists["warnedTests"] else "PASSED"
    subjects = {path: sha256 for v in found for path, sha256 in v.files.items()}
    plain = {
        "_type": STATEMENT,
        "subject": [{"name": path, "digest": {"sha256": sha256}} for path, sha256 in subjects.items()],
        "predicateType": PREDICATE,
        "predicate": {
            "result": result,
            "configuration": [{"name": DISTRIBUTION, "annotations": {"version": VERSION, "commit": "".join(commit)}}],
            **lists,
            "timeVerified": now.isoformat(timespec="seconds"),
            "checks": [{"decision": n, "name": c.name, "status": c.status, "told": c.told} for n, c in named],
        },
    }
    return json.dumps(plain, indent=1, ensure_ascii=False) + "\n"


_STATEMENT_LISTS = {"passedTests": "verified", "warnedTests": "not verified", "failedTests": "contradicted"}
