"""An accepted caching decision at work: it serves as it was tested, or is refused with what to do."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.caching.caches import Angles, found, keep
from workbench.caching.guard import RULES, make_guard
from workbench.caching.serve import load_semantic
from workbench.caching.study import CachingParameters
from workbench.caching.verifiers import Later, load_callable
from workbench.config import Settings
from workbench.errors import ConfigError
from workbench.evalset.traffic import load_pairs
from workbench.records import Decision, Fingerprint

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "evalsets" / "caching_demo"
ACCEPTED = Decision.load(DEMO / "decisions" / "caching.json")
# that of the notebook's defaults
GUARD = make_guard(CachingParameters().guard)
NOW = GUARD.sha256((pair.query_b, pair.query_a) for pair in load_pairs(DEMO)[0])
# as if it had been accepted with this version of the guard
DECISION = replace(ACCEPTED, fingerprint=Fingerprint({**ACCEPTED.fingerprint.inputs, "guard": NOW}))
THRESHOLD = str(DECISION.parameters["threshold"])
AGAIN = "check it again with: workbench check caching"


def whole(decision):
    """The decision as a run would have written it: on real traffic if it chose, its claims with its parameters."""
    claims = tuple(replace(c, parameters=decision.parameters) if c.arm == decision.arm else c for c in decision.claims)
    return replace(decision, claims=claims, synthetic=decision.verdict == "provisional").to_json()


def project(folder, **changes):
    """A project with the demonstration's pairs and its decision, changed."""
    decisions = folder / "evalsets" / "demo" / "decisions"
    decisions.mkdir(parents=True)
    (decisions / "caching.json").write_text(whole(replace(DECISION, **changes)), encoding="utf-8")
    shutil.copy(DEMO / "pairs.jsonl", decisions.parent)
    return settings_of(folder)


def settings_of(folder):
    return Settings(folder, folder / "cache", folder / "runs", f"sqlite:///{folder}/state.sqlite")


def load(settings, encoder_id=DECISION.parameters["encoder_id"], **options):
    return load_semantic(settings, "demo", embedder=Angles(encoder_id=encoder_id), **options)


def with_inputs(**inputs):
    return {"verdict": "chosen", "fingerprint": Fingerprint({**DECISION.fingerprint.inputs, **inputs})}


OWN = "def same(asked, cached):\n    return True\n"
BEFORE = {**DECISION.parameters["guard"], "wording": False}


def with_verifier(folder, **parameters):
    """A project whose decision goes with a verifier, behind a guard that has fewer checks than the tested one."""
    (folder / "its_own_check.py").write_text(OWN, encoding="utf-8")
    settings = project(folder)
    sha256 = load_callable("its_own_check:same@0", settings).sha256
    used = {"name": "its_own_check:same", "least": 0.5, "sha256": sha256, "usd_per_check": 0.0}
    changed = {**DECISION.parameters, "verifier": used, **parameters}
    path = settings.evalsets / "demo" / "decisions" / "caching.json"
    path.write_text(whole(replace(DECISION, verdict="chosen", parameters=changed)), encoding="utf-8")
    return settings


def test_a_decision_with_a_verifier_in_line_serves_behind_the_guard_of_its_arm(tmp_path):
    cache = load(with_verifier(tmp_path, guard=BEFORE))
    keep(cache, "turn wifi on at angle 0")
    assert found(cache, "turn the lights on at angle 0") == "answer to turn wifi on at angle 0"


def test_a_decision_with_a_verifier_later_serves_what_was_promoted(tmp_path):
    cache = load(with_verifier(tmp_path, later={"kind": "Later", "floor": 0.1, "guard": BEFORE}))
    assert (cache.guard, cache._later) == (GUARD, Later(0.1, replace(GUARD, wording=False)))
    keep(cache, "turn wifi on at angle 0")
    for text in ("turn the lights on at angle 0", "80 pictures of the house and 0 of the wifi"):
        assert found(cache, text) is None
        assert cache.verify_pending() == 1
        assert found(cache, text) == "answer to turn wifi on at angle 0"
    assert found(cache, "turn wifi off at angle 0") is None
    assert cache.verify_pending() == 0


@pytest.mark.parametrize("later", [None, {"kind": "Later", "floor": 0.1, "guard": BEFORE}])
def test_a_decision_with_a_verifier_is_refused_where_that_or_the_guard_moved(tmp_path, later):
    settings = with_verifier(tmp_path, guard=BEFORE, later=later)
    path = settings.evalsets / "demo" / "decisions" / "caching.json"
    kept = Decision.load(path)
    path.write_text(whole(replace(kept, **with_inputs(guard="other"))), encoding="utf-8")
    with pytest.raises(ConfigError, match=f"another guard; {AGAIN}"):
        load(settings)
    other = {**kept.parameters, "verifier": {**kept.parameters["verifier"], "sha256": "other"}}
    path.write_text(whole(replace(kept, parameters=other)), encoding="utf-8")
    with pytest.raises(ConfigError, match="tested with another verifier its_own_check:same"):
        load(settings)


def test_an_accepted_decision_serves_at_its_threshold_behind_its_guard(tmp_path):
    cache = load(project(tmp_path, verdict="chosen"), ttl_s=5.0)
    assert (cache.threshold, cache.guard) == (DECISION.parameters["threshold"], GUARD)
    keep(cache, "turn wifi on at angle 0")
    assert found(cache, "please turn wifi on at angle 0") == "answer to turn wifi on at angle 0"
    assert found(cache, "turn wifi off at angle 0") is None


def test_a_decision_without_a_guard_needs_none(tmp_path):
    plain = {**DECISION.parameters, "guard": None}
    assert load(project(tmp_path, **with_inputs(guard=""), parameters=plain)).guard is None


def test_a_provisional_decision_needs_the_flag(tmp_path):
    settings = project(tmp_path)
    with pytest.raises(ConfigError, match="accept_provisional=True"):
        load(settings)
    assert load(settings, accept_provisional=True).threshold == DECISION.parameters["threshold"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        *(({"verdict": v}, v) for v in ("keep_reference", "none_meets_floor", "inconclusive")),
        ({"arm": "exact", "parameters": {"kind": "exact"}}, "ResponseCache"),
        ({"parameters": {**DECISION.parameters, "guard": {"colour": True}}}, "colour"),
        ({"parameters": {**DECISION.parameters, "guard": {"kind": "CrossEncoder"}}}, "kind 'CrossEncoder'"),
        ({"parameters": {**DECISION.parameters, "guard": {"kind": "CrossEncoder", "wording": True}}}, "'CrossEncoder'"),
        ({"parameters": {**DECISION.parameters, "guard": {}}}, "with 0 checks"),
        (with_inputs(prices="other"), f"another prices; {AGAIN}"),
        (with_inputs(guard="other"), f"another guard; {AGAIN}"),
        ({"fingerprint": Fingerprint({})}, f"another weights, prices, pairs; {AGAIN}"),
    ],
)
def test_a_decision_that_does_not_fit_is_refused_with_its_reason(tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said):
        load(project(tmp_path, **{"verdict": "chosen", **changes}))


def test_another_encoder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=f"another weights; {AGAIN}"):
        load(project(tmp_path, verdict="chosen"), encoder_id="other")


@pytest.mark.parametrize("change", ["one more", "gone"])
def test_other_pairs_are_refused(tmp_path, change):
    settings = project(tmp_path, verdict="chosen")
    pairs = settings.evalsets / "demo" / "pairs.jsonl"
    lines = pairs.read_text(encoding="utf-8")
    pairs.unlink() if change == "gone" else pairs.write_text(lines + lines.split("\n")[0] + "\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=f"another pairs; {AGAIN}"):
        load(settings)


def test_a_decision_whose_gates_changed_is_refused_and_one_that_is_shipped_without_gates_serves(tmp_path):
    settings = project(tmp_path, verdict="chosen")
    assert load(settings)
    gates = settings.evalsets / "demo" / "gates.toml"
    text = (DEMO / "gates.toml").read_text(encoding="utf-8")
    gates.write_text(f"# a comment\n{text}", encoding="utf-8")
    assert load(settings)
    gates.write_text(text.replace("alpha = 0.15", "alpha = 0.1"), encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"another gates\.toml; {AGAIN}"):
        load(settings)


STRICTER = replace(DECISION.rule, margin=0.001)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"parameters": {**DECISION.parameters, "threshold": 0.2}}, "its parameters are not those of"),
        ({"verdict": "chosen"}, "its rule gives provisional"),
        ({"rule": STRICTER}, "its rule gives provisional 'exact'"),
        ({"arm": "semantic@0.5"}, "has no claim about it"),
        ({"test_uses": 3}, "it is use 3 of the test split, and its rule counts use 1"),
    ],
)
def test_a_file_that_was_edited_by_hand_is_refused_with_what_contradicts_what(tmp_path, changes, said):
    settings = project(tmp_path)
    path = settings.evalsets / "demo" / "decisions" / "caching.json"
    path.write_text(replace(DECISION, **changes).to_json(), encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"contradicts itself: .*({said}).*workbench verify demo/caching"):
        load(settings, accept_provisional=True)


def test_no_decision_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="no caching decision is accepted for 'demo'"):
        load(Settings(tmp_path, tmp_path, tmp_path, "sqlite://"))


LOAD = """
from pathlib import Path
from tests.caching.test_decided import load, settings_of
print(load(settings_of(Path("project"))).threshold)
"""


@pytest.mark.parametrize(
    ("file", "before", "after", "said"),
    [
        ("wordlists.toml", "# Whoever", "# Who ever", THRESHOLD),
        ("wordlists.toml", '"hot / cold"', '"hot / cold icy"', f"another guard; {AGAIN}"),
        (
            "guard.py",
            "if self.signs and (differ",
            "if not self.signs and (differ",
            str(DECISION.parameters["threshold"]),
        ),
        ("guard.py", "<= a.few(b)", "> a.few(b)", f"another guard; {AGAIN}"),
        ("guard.py", f"\nRULES = {RULES}\n", f"\nRULES = {RULES + 1}\n", f"another guard; {AGAIN}"),
    ],
    ids=["a comment", "a word", "a rule, without effect on the pairs", "a rule", "the version of the rules"],
)
def test_another_version_of_the_guard_is_refused(tmp_path, file, before, after, said):
    """A copy of the package, in which words or rules are others, reads the decision of this one."""
    for part in ("workbench", "tests", "evalsets/caching_demo"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    changed = tmp_path / "workbench" / "caching" / file
    text = changed.read_text(encoding="utf-8")
    assert before in text
    changed.write_text(text.replace(before, after), encoding="utf-8")
    project(tmp_path / "project", verdict="chosen")
    command = [sys.executable, "-c", LOAD]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert said in done.stdout + done.stderr
