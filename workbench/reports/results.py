"""What a run folder holds, read for its report; what is missing or unreadable is said, never guessed."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from workbench.errors import ConfigError, RunError
from workbench.evaluation.gate import Gate
from workbench.evaluation.summary import Summary
from workbench.records import Decision

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Results:
    """Everything stored of one run; ``problems`` say what is not there or did not end well."""

    folder: str
    run: dict[str, Any]
    decision: Decision | None
    gate: Gate | None
    summary: Summary | None
    notebook: dict[str, Any] | None
    problems: tuple[str, ...]

    @property
    def title(self) -> str:
        """Title for people."""
        return self.summary.title if self.summary else str(self.run.get("notebook", self.folder))

    @property
    def status(self) -> str:
        """Status of the run: running, done, failed, interrupted, or unknown."""
        return str(self.run.get("status", "unknown"))

    @property
    def started(self) -> str:
        """When the run began, for people, in UTC."""
        began = _moment(self.run.get("started"))
        return f"{began:%Y-%m-%d %H:%M} UTC" if began else ""

    @property
    def seconds(self) -> float | None:
        """How long the run took; a run that was killed has no end, and then no duration."""
        began, ended = _moment(self.run.get("started")), _moment(self.run.get("ended"))
        return (ended - began).total_seconds() if began and ended else None

    @property
    def sentence(self) -> str:
        """The verdict, or, without one, what the gate said, or that there is nothing."""
        if self.decision:
            return self.decision.sentence
        if self.gate:
            return self.gate.sentence
        return "No verdict: the run stored no decision and no gate result."

    @property
    def cautions(self) -> tuple[str, ...]:
        """What makes the verdict mean less, weightiest first; to be folded below it."""
        out = [*(self.summary.warnings if self.summary else ())]
        if self.decision and (self.decision.synthetic or self.decision.verdict == "provisional"):
            out.insert(0, "Rests on synthetic traffic or pairs: it shows the method, not what users will see.")
        return tuple(out)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is told beside the verdict: the decision's own notes, and which figures of money are assumed."""
        assumed = self.summary.assumed.values() if self.summary else ()
        return (*(self.decision.notes if self.decision else ()), *assumed)

    @property
    def assumed(self) -> tuple[str, ...]:
        """Names of the figures that nobody has set."""
        return tuple(self.summary.assumed) if self.summary else ()


def load_results(run_dir: Path) -> Results:
    """Read a run folder.

    Raises
    ------
    RunError
        If there is no such folder.
    """
    if not run_dir.is_dir():
        raise RunError(f"no run folder {run_dir}; a run writes one below the runs folder", str(run_dir))
    broken: list[str] = []
    run = _read(run_dir / "run.json", _object, broken) or {}
    decision = _read(run_dir / "decision.json", Decision.load, broken)
    gate = _read(run_dir / "gate.json", Gate.load, broken)
    summary = _read(run_dir / "summary.json", Summary.load, broken)
    notebook = _read(run_dir / "executed.ipynb", _object, broken)
    problems = [*_ending(run), *broken, *_absent(run_dir, run, gate)]
    return Results(run_dir.name, run, decision, gate, summary, notebook, tuple(problems))


def _read(path: Path, load: Callable[[Path], T], broken: list[str]) -> T | None:
    if not path.exists():
        return None
    try:
        return load(path)
    except (ConfigError, ValueError, KeyError, TypeError, AttributeError) as error:
        # a half-written file is what a killed run leaves: the report of that run must still be made
        broken.append(f"{path.name} cannot be read ({type(error).__name__}: {error}).")
        return None


def _moment(value: object) -> datetime | None:
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


def _object(path: Path) -> dict[str, Any]:
    raw = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(raw, dict):
        raise TypeError(f"a JSON object was expected, found {type(raw).__name__}")
    return raw


def _ending(run: dict[str, Any]) -> list[str]:
    status = run.get("status", "unknown")
    if status == "done":
        return []
    said = {"failed": "The run failed", "interrupted": "The run was interrupted", "running": "The run has not ended"}
    why = "; ".join(str(run[key]) for key in ("exit_reason", "error") if run.get(key))
    return [f"{said.get(status, 'It is not known how the run ended')}{': ' + why if why else '.'}"]


def _absent(run_dir: Path, run: dict[str, Any], gate: Gate | None) -> list[str]:
    wanted = {"run.json": "run record", "decision.json": "decision", "gate.json": "gate result"}
    wanted["summary.json"] = "summary"
    if run.get("status") == "done" and gate is not None:
        del wanted["decision.json"]  # a notebook of hard invariants alone decides nothing
    absent = [what for name, what in wanted.items() if not (run_dir / name).exists()]
    return [f"The run stored no {', no '.join(absent)}."] if absent else []
