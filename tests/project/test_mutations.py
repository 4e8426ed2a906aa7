"""Every input of an accepted decision, changed least, at every door: check, verify and what serves by it.

A row of a table says who notices: who is not named must let it pass. What nobody notices is there too, on purpose.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.routing.routing_tables import planted
from tests.routing.test_notebook import open_bench, project
from workbench.config import Settings, SystemClock
from workbench.errors import ConfigError
from workbench.evalset.outcomes import FILE
from workbench.evaluation.gate import Gate
from workbench.evaluation.run_record import close_run
from workbench.project.verify import verify
from workbench.records import Decision
from workbench.routing.candidates import ScoredRoutes
from workbench.routing.notebook import RoutingExperiment
from workbench.routing.route import load_routed
from workbench.runner import RunRecord, accept

RATES = Path(__file__).parents[2] / "workbench" / "inference" / "prices.toml"
CHECK, VERIFY, SERVE = "check", "verify", "serve"
ALL, NOBODY = f"{CHECK} {VERIFY} {SERVE}", ""
NOTEBOOK, EVALSET = "routing", "drawn"
SAID, BESIDE = f"decisions/{NOTEBOOK}", f"decisions/anchor/{NOTEBOOK}"


@dataclass(frozen=True)
class Made:
    """A project with an accepted decision, copied for each test; and the run of a check of it, up to its gate."""

    root: Path
    arm: str
    other: str
    bench: RoutingExperiment
    decision: Decision
    test: ScoredRoutes

    def copy(self, to: Path) -> Settings:
        shutil.copytree(self.root, to / "project")
        return project(to / "project", pl.DataFrame())

    def gate_of(self, evalset: Path) -> Gate:
        """What the gate of that run says where another decision, or other files beside it, are the accepted ones."""
        self.bench.accepted = Decision.load(evalset / f"{SAID}.json")
        self.bench.evalset = replace(self.bench.evalset, path=evalset)
        return self.bench.close(self.decision, self.test)


def run(settings: Settings) -> tuple[RoutingExperiment, Decision, ScoredRoutes]:
    """What check runs: the notebook's steps, up to its gate."""
    bench = open_bench(settings, policies=["length"], draws=20)
    arms = bench.fit()
    dev = bench.candidates(bench.score(arms, "dev"), bench.study(arms))
    finalists = bench.finalists(dev)
    test = bench.test(dev, finalists)
    decision = bench.decide(test, finalists)
    bench.save(decision, test, dev=dev)
    return bench, decision, test


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("made")
    settings = project(root, planted(n=600))
    bench, decision, test = run(settings)
    assert (bench.close(decision, test).status, decision.verdict) == ("new", "chosen")
    record = RunRecord(bench.folder, "running", NOTEBOOK, "ci", parameters={"evalset": EVALSET})
    close_run(record, SystemClock(), status="done", gate="new")
    accept(settings, NOTEBOOK, reason="first", clock=SystemClock())
    shutil.copytree(root / "evalsets", root / "kept" / "evalsets")
    other = next(arm for arm in decision.arms if arm != decision.arm)
    return Made(root / "kept", decision.arm, other, *run(settings))


TO_DO = ("workbench", "accept", "restore", "names nothing", "unknown router")


def noticed(made: Made, settings: Settings, *, again: bool = False) -> str:
    """Doors that do not let it pass; whoever refuses says what to do. Check runs ``again`` if the run would differ."""
    folder = settings.evalsets / EVALSET

    def check() -> bool:
        if not again:
            return made.gate_of(folder).exit_code == 0
        bench, decision, test = run(settings)
        return bench.close(decision, test).exit_code == 0

    doors: dict[str, Callable[[], bool]] = {
        CHECK: check,
        VERIFY: lambda: verify(folder / f"{SAID}.json").holds,
        SERVE: lambda: bool(load_routed(settings, EVALSET)),
    }
    return " ".join(door for door, passes in doors.items() if not _passes(passes))


def _passes(door: Callable[[], bool]) -> bool:
    try:
        return door()
    except ConfigError as error:
        told = str(error)
    assert any(word in told for word in TO_DO), told
    return False


# --- fields of the decision, which is the anchor too, and is edited in both files

Edit = Callable[[dict[str, Any], Made], Any]


def at(*path: str, value: Any) -> Edit:
    """Put a value at a place; "claim" is the claim of the decided arm."""

    def edit(raw: dict[str, Any], made: Made) -> None:
        place: Any = raw
        for name in path[:-1]:
            mine = (c for c in raw["claims"] if c["arm"] == made.arm)
            place = next(mine) if name == "claim" else place[name]
        place[path[-1]] = value(place.get(path[-1]), made) if callable(value) else value

    return edit


def another_arm(raw: dict[str, Any], made: Made) -> None:
    other = next(c for c in raw["claims"] if c["arm"] == made.other)
    raw |= {"arm": made.other, "parameters": other["parameters"]}


def without_the_other(raw: dict[str, Any], made: Made) -> None:
    raw["claims"] = [c for c in raw["claims"] if c["arm"] == made.arm]


def turned_round(raw: dict[str, Any], _: Made) -> None:
    for name in reversed(list(raw)):
        raw[name] = raw.pop(name)


HALF = {"value": lambda old, _: old / 2}
FIELDS: dict[str, tuple[Edit, str]] = {
    "nothing": (lambda raw, made: None, NOBODY),
    "order of keys": (turned_round, NOBODY),
    "arm": (at("arm", value=lambda _, made: made.other), ALL),
    "arm with its parameters": (another_arm, ALL),
    "parameters": (at("parameters", value={}), ALL),
    "verdict keep": (at("verdict", value="keep_reference"), ALL),
    "verdict upgrade": (at("verdict", value="upgrade"), ALL),
    "verdict open": (at("verdict", value="inconclusive"), ALL),
    "margin": (at("rule", "margin", value=0.3), f"{CHECK} {VERIFY}"),
    "confidence": (at("rule", "confidence", value=0.6), f"{CHECK} {VERIFY}"),
    "floor": (at("rule", "floor", value=0.01), f"{CHECK} {VERIFY}"),
    "metric": (at("rule", "metric", value="other"), f"{CHECK} {VERIFY}"),
    "volume": (at("rule", "requests_per_month", value=10**9), f"{CHECK} {VERIFY}"),
    "limit of latency": (at("rule", "latency_limit_ms", value=10.0**6), f"{CHECK} {VERIFY}"),
    "limit of cost": (at("rule", "max_usd_per_1k", value=10.0**6), f"{CHECK} {VERIFY}"),
    "use of the rule": (at("rule", "use", value=2), ALL),
    "use": (at("test_uses", value=2), ALL),
    "both uses": (lambda raw, made: [at("rule", "use", value=2)(raw, made), at("test_uses", value=2)(raw, made)],
                  f"{CHECK} {VERIFY}"),
    "cost": (at("claim", "cost_usd_per_1k", **HALF), f"{CHECK} {VERIFY}"),
    "estimate": (at("claim", "estimate", value=0.99), f"{CHECK} {VERIFY}"),
    "lower end": (at("claim", "estimate_low", value=0.9), f"{CHECK} {VERIFY}"),
    "bound": (at("claim", "low", value=0.5), f"{CHECK} {VERIFY}"),
    "status": (at("claim", "status", value="broken"), f"{CHECK} {VERIFY}"),
    "coverage": (at("claim", "coverage", value=0.95), f"{CHECK} {VERIFY}"),
    "items of a claim": (at("claim", "n_items", value=9), f"{CHECK} {VERIFY}"),
    "claim left out": (without_the_other, f"{CHECK} {VERIFY}"),
    "items": (at("n_items", value=9), f"{CHECK} {VERIFY}"),
    "families": (at("n_clusters", value=900), f"{CHECK} {VERIFY}"),
    "families in dev": (at("n_dev_clusters", value=900), f"{CHECK} {VERIFY}"),
    "simulated": (at("synthetic", value=True), ALL),
    "share of resamples": (at("chosen_share", value=lambda _, made: {made.arm: 0.3}), f"{CHECK} {VERIFY}"),
    "seed": (at("settings", "seed", value=7), VERIFY),  # check runs what the decision says, here as it was
    "an input": (at("fingerprint", "inputs", "outcomes", value="0" * 64), f"{CHECK} {VERIFY}"),
    "sentence": (at("sentence", value="Always the best."), VERIFY),
    "rates": (at("rates", value={}), VERIFY),
    "until when": (at("flips", value=[]), VERIFY),
    "when it was accepted": (at("accepted_on", value="2020-01-01"), NOBODY),
    "why it was accepted": (at("accepted_because", value="all agreed"), NOBODY),
}  # fmt: skip


@pytest.mark.parametrize("name", FIELDS)
def test_an_edited_field_of_a_decision_is_noticed_at_each_door_that_can(made: Made, tmp_path: Path, name: str) -> None:
    settings, (edit, who) = made.copy(tmp_path), FIELDS[name]
    for path in (settings.evalsets / EVALSET / "decisions").rglob(f"{NOTEBOOK}.json"):
        raw = json.loads(path.read_text(encoding="utf-8"))
        edit(raw, made)
        path.write_text(json.dumps(raw), encoding="utf-8")
    assert noticed(made, settings) == who


# --- files


def better(scores: pl.DataFrame) -> pl.DataFrame:
    first = pl.col("item_id") == scores["item_id"][0]
    return scores.with_columns(value=pl.when(first).then(1 - pl.col("value")).otherwise("value"))


def in_parquet(name: str, change: Callable[[pl.DataFrame], pl.DataFrame]) -> Callable[[Path], Any]:
    return lambda folder: change(pl.read_parquet(folder / name)).write_parquet(folder / name)


def in_text(name: str, change: Callable[[str], str]) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_text(encoding="utf-8")).encode())


def gone(name: str) -> Callable[[Path], Any]:
    return lambda folder: [path.unlink() for path in folder.glob(name)]


def rates(change: Callable[[str], str]) -> Callable[[Path], Any]:
    return lambda folder: (folder.parents[1] / "prices.toml").write_text(change(RATES.read_text(encoding="utf-8")))


def another_router(text: str) -> str:
    routers = json.loads(text)
    return json.dumps({name: {**router, "overhead_usd": 0.5} for name, router in routers.items()})


QUALITY = pl.when(pl.int_range(pl.len()) == 0).then(1 - pl.col("quality")).otherwise("quality")
FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "line ends of the decision": (in_text(f"{SAID}.json", lambda t: t.replace("\n", "\r\n")), NOBODY),
    "decision is a part": (in_text(f"{SAID}.json", lambda t: t[:900]), ALL),
    "comment in the gates": (in_text("gates.toml", lambda t: f"# why\n{t}"), NOBODY),
    "line ends of the gates": (in_text("gates.toml", lambda t: t.replace("\n", "\r\n")), NOBODY),
    "gates": (in_text("gates.toml", lambda t: t.replace("0.05", "0.04")), ALL),
    "gates of another notebook": (in_text("gates.toml", lambda t: f"{t}[caching]\nalpha = 0.3\n"), NOBODY),
    "card": (lambda folder: (folder / "card.md").write_text("By hand.\n"), NOBODY),
    "card says simulated": (lambda folder: (folder / "card.md").write_text("---\nsynthetic: true\n---\n"),
                            f"{CHECK} {VERIFY}"),
    "an outcome": (in_parquet(FILE, lambda f: f.with_columns(quality=QUALITY)), f"{CHECK} {VERIFY}"),
    "an outcome less": (in_parquet(FILE, lambda f: f.head(-2)), f"{CHECK} {VERIFY}"),
    "a score": (in_parquet(f"{SAID}.scores.parquet", better), f"{CHECK} {VERIFY}"),
    "a score less": (in_parquet(f"{SAID}.scores.parquet", lambda f: f.head(-1)), f"{CHECK} {VERIFY}"),
    "scores gone": (gone(f"{SAID}.scores.parquet"), f"{CHECK} {VERIFY}"),
    "uses gone": (gone(f"{SAID}.uses"), f"{CHECK} {VERIFY}"),
    "uses emptied": (in_text(f"{SAID}.uses", lambda t: ""), f"{CHECK} {VERIFY}"),
    "a use more before it": (in_text(f"{SAID}.uses", lambda t: f"{t[:8]}ffffffff\n{t}"), VERIFY),
    "a use more": (in_text(f"{SAID}.uses", lambda t: f"{t}{t[:8]}ffffffff\n"), NOBODY),
    "anchor gone": (gone(f"{BESIDE}.*"), f"{CHECK} {VERIFY}"),
    "scores of the anchor": (in_parquet(f"{BESIDE}.scores.parquet", better), VERIFY),
    "router gone": (gone(f"{SAID}.artefact"), ALL),
    "router is no JSON": (in_text(f"{SAID}.artefact", lambda t: t[:-9]), ALL),
    "router": (in_text(f"{SAID}.artefact", another_router), ALL),
    "layout of the router": (in_text(f"{SAID}.artefact", lambda t: json.dumps(json.loads(t), indent=3)), NOBODY),
    "a rate": (rates(lambda t: t.replace("usd_per_vcpu_hour = ", "usd_per_vcpu_hour = 1", 1)), ALL),
}  # fmt: skip


# Of these check reads more than the decision and what lies beside it.
RUN_AGAIN = (
    "comment in the gates", "line ends of the gates", "gates", "gates of another notebook", "card",
    "card says simulated", "an outcome", "an outcome less", "router", "router is no JSON", "a rate",
)  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_noticed_at_each_door_that_can(made: Made, tmp_path: Path, name: str) -> None:
    settings, (change, who) = made.copy(tmp_path), FILES[name]
    change(settings.evalsets / EVALSET)
    assert noticed(made, settings, again=name in RUN_AGAIN) == who
