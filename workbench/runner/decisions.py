"""Accept the decision of a run, and check accepted decisions again with exactly their parameters."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from workbench.bench.experiment import decision_path, note_test_use
from workbench.clock import Clock
from workbench.config import Settings
from workbench.errors import ConfigError, RunError
from workbench.evaluation.evalset import find_evalset
from workbench.evaluation.gate import EXIT_CODES, Gate
from workbench.records import Decision
from workbench.runner.events import Event
from workbench.runner.notebooks import Job, run_all
from workbench.runner.runs import RunRecord, list_runs


@dataclass(frozen=True, slots=True)
class Check:
    """One accepted decision, run again; ``gate`` is None where the run left none."""

    evalset: str
    decision: Decision
    record: RunRecord
    gate: Gate | None

    @property
    def exit_code(self) -> int:
        """Exit code of the gate, 3 where the run itself failed."""
        return self.gate.exit_code if self.gate and self.record.status == "done" else EXIT_CODES["error"]


def accept(settings: Settings, notebook: str, *, reason: str, clock: Clock, run: str = "") -> Path:
    """Copy the decision of a run into its evalset, where CI keeps checking it; returns the file.

    Parameters
    ----------
    run : str
        Folder name of the run, the newest finished one of the notebook where empty.
    reason : str
        Why, in words for whoever reads the history later.

    Raises
    ------
    ConfigError
        If the reason is empty, no such finished run exists, or the evalset cannot be written.
    """
    if not reason.strip():
        raise ConfigError("accepting a decision needs a reason, for whoever reads the history: --reason TEXT")
    done = [r for r in list_runs(settings) if r.status == "done" and r.notebook == notebook]
    named = [r for r in done if r.run_dir.name == run] if run else done[-1:]
    if not named:
        raise ConfigError(f"no finished run {run or f'of {notebook!r}'} in {settings.runs}; see: workbench runs")
    folder = named[0].run_dir
    decision = Decision.load(folder / "decision.json")
    decision = replace(decision, accepted_because=reason.strip(), accepted_on=str(clock.now().date()))
    evalset = find_evalset(named[0].parameters.get("evalset", decision.settings["evalset"]), settings)
    uses = note_test_use(settings, evalset, notebook)
    target = decision_path(evalset, notebook)
    try:
        return _store(folder, decision, target, uses)
    except OSError as error:
        raise ConfigError(f"the decision cannot be written to {target}: {error}") from error


def _store(folder: Path, decision: Decision, target: Path, uses: Sequence[str]) -> Path:
    """Write the decision last: what lies beside it is there when it is."""
    target.parent.mkdir(parents=True, exist_ok=True)
    _write_scores(folder, decision, target.with_suffix(".scores.parquet"))
    if (artefact := folder / "artefact.json").is_file():  # what was tested is what ships
        target.with_suffix(".artefact").write_bytes(artefact.read_bytes())
    target.with_suffix(".uses").write_text("\n".join(uses) + "\n", encoding="utf-8")
    part = target.with_name(f".{target.name}.{os.getpid()}")
    part.write_text(decision.to_json(), encoding="utf-8")
    return part.replace(target)


def _write_scores(folder: Path, decision: Decision, target: Path) -> None:
    """Keep the test scores that sameness is checked against: the deciding metric of the judged arms."""
    scores = pl.read_parquet(folder / "scores.parquet")
    if "split" in scores.columns:
        scores = scores.filter(pl.col("split") == "test")
    kept = scores.filter((pl.col("metric") == decision.rule.metric) & pl.col("arm").is_in(decision.arms))
    kept.select("arm", "item_id", "repeat", "value").sort("arm", "item_id", "repeat").write_parquet(target)


def accepted_decisions(settings: Settings, notebooks: Sequence[str] = ()) -> list[tuple[str, Decision]]:
    """Every accepted decision below ``evalsets/``, with the name of its evalset.

    Raises
    ------
    ConfigError
        If there is none, or none for a notebook that was named.
    """
    found = [
        (path.parent.parent.name, Decision.load(path)) for path in sorted(settings.evalsets.glob("*/decisions/*.json"))
    ]
    missing = sorted(set(notebooks) - {d.notebook for _, d in found})
    if missing or not found:
        what = ", ".join(missing) or "any notebook"
        raise ConfigError(f"no accepted decision for {what}: run it, then workbench accept NAME --reason TEXT")
    return [(name, d) for name, d in found if not notebooks or d.notebook in notebooks]


def check(
    settings: Settings,
    notebooks: Sequence[str] = (),
    *,
    clock: Clock,
    on_event: Callable[[Event], None] | None = None,
    hard_timeout_s: float = 3600.0,
    workers: int = 2,
) -> list[Check]:
    """Run every accepted decision again, with exactly its parameters, and read what its gate says.

    Raises
    ------
    ConfigError
        If nothing is accepted, or a notebook no longer takes the accepted parameters.
    RunError
        If a run left a gate that cannot be read.
    """
    accepted = accepted_decisions(settings, notebooks)
    jobs = [Job(d.notebook, d.profile, d.settings) for _, d in accepted]
    records = run_all(
        jobs, settings=settings, clock=clock, on_event=on_event, workers=workers, hard_timeout_s=hard_timeout_s
    )
    return [
        Check(name, decision, record, _gate_of(record.run_dir))
        for (name, decision), record in zip(accepted, records, strict=True)
    ]


def _gate_of(run_dir: Path) -> Gate | None:
    path = run_dir / "gate.json"
    if not path.is_file():
        return None
    try:
        return Gate.load(path)
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise RunError(f"{path} is not a gate this version reads: {error}", str(run_dir)) from error


def worst_exit_code(checks: Sequence[Check]) -> int:
    """Exit code of the worst: error 3, broken 1, inconclusive or stale 2, else 0."""
    order = {EXIT_CODES["error"]: 3, EXIT_CODES["broken"]: 2, EXIT_CODES["stale"]: 1, 0: 0}
    return max((c.exit_code for c in checks), key=lambda code: order.get(code, 3), default=0)
