"""One codec: valid files stay valid, and of one that is not everything wrong is told at once, with its place."""

import copy
import datetime as dt
import json
import os
import random
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.reports import samples
from workbench.codec import from_json, from_plain, from_toml, to_json, to_plain, write_whole
from workbench.errors import ConfigError, EvalsetError, WorkbenchError
from workbench.evalset.workload import WorkloadPlan
from workbench.evaluation.gate import Gate
from workbench.evaluation.run_summary import Summary
from workbench.inference.messages import Usage
from workbench.records import Claim, Decision, Fingerprint, PairedBounds, Rule, content_hash, file_hash
from workbench.retrieval.arms import build_arm

ROOT = Path(__file__).parents[1]
DOCS_QA = ROOT / "evalsets" / "docs_qa"
ARM = json.loads((DOCS_QA / "decisions" / "retrieval.json").read_text("utf-8"))["parameters"]
DECISIONS = sorted((ROOT / "evalsets").glob("*/decisions/**/*.json"))


@dataclass(frozen=True, slots=True)
class Leg:
    """A part."""

    name: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trip:
    """A value with what values hold."""

    legs: tuple[Leg, ...]
    mode: Literal["foot", "boat"] = "foot"
    day: dt.date | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    hours: Sequence[float] = ()
    by_name: Mapping[str, Leg] = field(default_factory=dict)
    steps: int = 1
    open: bool = False
    span: tuple[int, int | None] | None = None
    free: dict[str, Any] = field(default_factory=dict)


WHOLE = {
    "legs": [{"name": "a", "weight": 2}, {"name": "b\ud800", "weight": 0.1}], "mode": "boat",
    "day": dt.date(2026, 1, 2),
    "shares": {"x": 1}, "hours": [1, 0.5], "by_name": {"k": {"name": "c", "weight": 1.0}}, "steps": 3, "open": True,
    "span": [3, None], "free": {"any": [1, {"of": None}]},
}  # fmt: skip


def refusal(raw: Any, **how: Any) -> str:
    with pytest.raises(ConfigError) as raised:
        from_plain(Trip, raw, "trip.json is no trip", **how)
    assert str(raised.value).startswith("trip.json is no trip: ")
    return str(raised.value).removeprefix("trip.json is no trip: ")


def test_lists_become_tuples_and_whole_numbers_and_half_a_surrogate_pair_stay() -> None:
    trip = from_plain(Trip, WHOLE, "t", whole=True)
    assert trip.legs == (Leg("a", 2.0), Leg("b\ud800", 0.1))
    assert [type(leg.weight) for leg in trip.legs] == [int, float], "what was read is written again"
    assert (trip.span, trip.day, trip.by_name["k"]) == ((3, None), dt.date(2026, 1, 2), Leg("c"))
    assert to_plain(trip) == WHOLE | {"day": "2026-01-02"}
    assert to_plain(trip, kinds=True)["legs"][0] == {"kind": "Leg", "name": "a", "weight": 2}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"legs": [{"name": 7}]}, "legs[0].name must be text, found 7"),
        ({"legs": [{"name": "a", "weigth": 1}]}, "legs[0]: unknown field 'weigth'; did you mean 'weight'?"),
        ({"by_name": {"k": {"nam": "c"}}}, "by_name.k.name is missing; by_name.k: unknown field 'nam'; did you mean"),
        ({"by_name": {"a.b\x1b": {}}}, "by_name['a.b\\x1b'].name is missing"),
        ({"legs": [{"name": 0x10**5000}]}, "legs[0].name must be text, found (a huge number)"),
        ({"legs": "a"}, "legs must be a list, found 'a'"),
        ({"hours": "12"}, "hours must be a list, found '12'"),
        ({"hours": 5}, "hours must be a list, found 5"),
        ({"mode": "car"}, "mode must be 'foot' or 'boat', found 'car'"),
        ({"steps": True}, "steps must be a whole number, found True"),
        ({"steps": "3"}, "steps must be a whole number, found '3'"),
        ({"steps": 3.0}, "steps must be a whole number, found 3.0"),
        ({"open": 1}, "open must be true or false, found 1"),
        ({"shares": {"x": "much"}}, "shares.x must be a number, found 'much'"),
        ({"shares": []}, "shares must be an object, found []"),
        ({"span": [1]}, "span[1] is missing"),
        ({"day": 5}, "day must be a valid date, found 5"),
        ({"legs": [3]}, "legs[0] must be an object, found 3"),
    ],
)
def test_what_does_not_fit_is_told_with_its_place(change: dict[str, Any], says: str) -> None:
    assert says in refusal(WHOLE | change)


@dataclass(frozen=True)
class Failed:
    retry: bool = False


@dataclass(frozen=True)
class Answered:
    text: str


@dataclass(frozen=True)
class Cited:
    text: str
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    found: Failed | Answered | Cited


@pytest.mark.parametrize("found", [Failed(retry=True), Answered("a"), Cited("a", ("b.md",))])
def test_a_value_of_a_union_comes_back_as_its_own_class_with_all_it_has(found: Any) -> None:
    """temporalio 1.35.0 takes the first class that can be made of the fields, and drops those that it has not."""
    assert from_plain(Outcome, to_plain(Outcome(found)), "o") == Outcome(found)


def test_everything_wrong_is_told_at_once_and_of_very_much_how_much_more() -> None:
    said = refusal({"leg": [], "steps": "x", "open": 3})
    assert said == (
        "legs is missing; steps must be a whole number, found 'x'; open must be true or false, found 3; unknown field "
        "'leg'; did you mean 'legs'? Known: by_name, day, free, hours, legs, mode, open, shares, span, steps"
    )
    assert refusal({"legs": [{}] * 30}).endswith("; and 22 more")
    assert refusal([]) == "it must be an object, found []"


@pytest.mark.parametrize("name", [name for name in WHOLE if name != "legs"])
def test_of_a_file_that_a_program_wrote_no_field_is_filled_in(name: str) -> None:
    less = {key: value for key, value in WHOLE.items() if key != name}
    assert from_plain(Trip, less, "t") is not None
    assert refusal(less, whole=True) == f"{name} is missing"


def test_what_a_value_refuses_by_itself_and_text_that_is_none_are_our_errors_too(tmp_path: Path) -> None:
    with pytest.raises(EvalsetError, match="u: token counts cannot be negative") as raised:
        from_plain(Usage, {"fresh": -1}, "u", error=EvalsetError)
    assert raised.value.__cause__ is None
    with pytest.raises(ConfigError, match=r"t\.json: not JSON: Expecting value"):
        from_json(Trip, "", "t.json")
    (tmp_path / "t.toml").write_text("= 3", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"t\.toml is no trip: not TOML: .*line 1"):
        from_toml(Trip, tmp_path / "t.toml", "is no trip")
    with pytest.raises(ConfigError, match=r"t\.json: .*recursion"):
        from_json(Trip, "[" * 100_000, "t.json")
    with pytest.raises(ConfigError, match=r"t\.json: not JSON: .*decode"):
        from_json(Trip, b"\xff\xfe\xff", "t.json")
    with pytest.raises(ConfigError, match=r"gone\.toml is no trip: No such file"):
        from_toml(Trip, tmp_path / "gone.toml", "is no trip")


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: str(path.relative_to(ROOT / "evalsets")))
def test_an_accepted_decision_is_read_whole_and_none_of_its_fields_is_filled_in(path: Path) -> None:
    raw = json.loads(path.read_text(encoding="utf-8"))
    decision = Decision.load(path)
    assert decision.to_json() == path.read_text(encoding="utf-8")
    places = [(raw, name) for name in raw] + [
        (raw[part], name) for part in ("rule", "fingerprint") for name in raw[part]
    ]
    places += [(raw["claims"][0], name) for name in raw["claims"][0]]
    for where, name in places:
        kept = where.pop(name)
        with pytest.raises(ConfigError, match=rf"{path.name} is not a decision.*\b{name} is missing"):
            Decision.from_json(json.dumps(raw), path.name)
        where[name] = kept


def test_any_decision_survives_the_way_to_disk_and_back() -> None:
    rng = random.Random(20261129)
    hard = (0.1 + 0.2, 5e-324, 1.7976931348623157e308, -0.0)
    for _ in range(200):
        n = [rng.choice([rng.random(), rng.uniform(-1e9, 1e-9), *hard]) for _ in range(9)]
        pairs = (PairedBounds("b", n[0], n[1], n[2], 3, "holds"),)
        claim = Claim("a", {"k": [n[3]]}, "new", *n[:7], None, 1.0, 3, 2, 1, (3, None), (n[7], 0.2), pairs=pairs)
        rule = Rule("ndcg@10", "usd", "", n[8], 0.95, point_usd=rng.choice([None, n[0]]))
        told = ("chosen", "a", {"s": {"t": n[1]}}, "é\u2028")
        decision = Decision("n", "q", "ci", rule, *told, (claim,), 1, 1, None, 1, Fingerprint({"x": "y"}), {"z": n[4]})
        assert Decision.from_json(decision.to_json()) == decision


ODD = (
    None, True, 0, -1, 1.5, float("nan"), float("inf"), 10**40, 16**5000, "", "x", "\ud800", [], {}, [1], {"a": 1},
    [[["x"]]], {"kind": "RRF"}, {"kind": 16**5000},
)  # fmt: skip
READERS = {
    "decision": (json.loads(samples.decision().to_json()), lambda raw: from_plain(Decision, raw, "d", whole=True)),
    "summary": (json.loads(samples.summary().to_json()), lambda raw: from_plain(Summary, raw, "s")),
    "gate": (samples.gate(), lambda raw: from_plain(Gate, raw, "g")),
    "plan": (
        tomllib.loads((DOCS_QA / "traffic.toml").read_text("utf-8")),
        lambda raw: from_plain(WorkloadPlan, raw, "p"),
    ),
    "arm": ({"arm": ARM}, lambda raw: build_arm(raw["arm"] if isinstance(raw.get("arm"), dict) else raw)),
}


@pytest.mark.parametrize("name", READERS)
def test_whatever_stands_where_the_error_is_ours(name: str) -> None:
    good, read = READERS[name]
    rng, refused = random.Random(20261129), 0
    spots = list(places(good))
    for _ in range(300):
        raw, (*path, last), odd = copy.deepcopy(good), rng.choice(spots), rng.choice(ODD)
        inner = raw
        for step in path:
            inner = inner[step]
        if rng.random() < 0.2:
            del inner[last]
        else:
            inner[last] = odd
        try:
            read(raw)
        except WorkbenchError as error:
            refused += bool(str(error))
    assert refused > 100


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all that stands inside a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        yield (*path, name)
        yield from places(item, (*path, name))


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    write_whole(path, "é\n")
    write_whole(path, b"new\n")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "\ud800")
    assert path.read_bytes() == b"new\n"
    assert os.listdir(tmp_path) == ["f.json"]
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path / "folder", "")
    assert sorted(os.listdir(tmp_path)) == ["f.json", "folder"], "no part is left"


def test_threads_that_write_one_file_at_once_leave_a_whole_one(tmp_path: Path) -> None:
    texts = [str(i) * 50_000 for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: [write_whole(tmp_path / "f", text) for _ in range(20)], texts))
    assert (tmp_path / "f").read_text() in texts
    assert os.listdir(tmp_path) == ["f"]


def test_numbers_that_are_not_finite_are_not_written() -> None:
    assert to_json(Leg("a", 0.1)) == '{\n "name": "a",\n "weight": 0.1\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json(Leg("a", float("nan")))


def test_hash_of_a_file_is_that_of_sha256sum_and_not_that_of_a_list_of_parts(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert file_hash(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_hash(tmp_path / "f") != content_hash(b"abc")
