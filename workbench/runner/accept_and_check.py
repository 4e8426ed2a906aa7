"""The decision of a run: read, accepted, and as an accepted one checked again with exactly its parameters."""

import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl

from workbench.codec import write_whole
from workbench.config import Clock, Settings
from workbench.errors import ConfigError, RunError, unknown_name
from workbench.evalset.evalset import find_evalset
from workbench.evalset.gates import ASSUMED_REQUESTS, UNDECIDED, GatePolicy, default_gate_policy, scan_gates
from workbench.evaluation.accepted_decision import anchor_path, decision_path, name_use, note_test_use
from workbench.evaluation.gate import EXIT_CODES, Gate
from workbench.evaluation.run_record import CheckMark, RunRecord, process_token
from workbench.records import Decision
from workbench.runner.events import Event
from workbench.runner.headless import Job, planned_headless_job, run_headless
from workbench.runner.result_reuse import result_rests_on
from workbench.runner.runs import list_runs, process_gone

KEPT_H = 24  # hours that the result of a stopped check is taken: the world that a run may ask moves without a hash
EVEN_IF = ("inconclusive", "other-rule")


@dataclass(frozen=True, slots=True)
class Check:
    """One accepted decision, run again; ``gate`` is None where the run left none.

    A notebook that decides nothing has neither evalset nor decision, and a gate of counts.
    """

    evalset: str
    decision: Decision | None
    record: RunRecord
    gate: Gate | None

    @property
    def place(self) -> tuple[str, ...]:
        """Evalset and notebook, or the notebook alone."""
        return (self.evalset, self.decision.notebook) if self.decision else (self.record.notebook,)

    @property
    def exit_code(self) -> int:
        """Exit code of the gate, 3 where the run itself failed."""
        return self.gate.exit_code if self.gate and self.record.status == "done" else EXIT_CODES["error"]


def accept_decision(
    settings: Settings,
    notebook: str,
    *,
    reason: str,
    clock: Clock,
    run: str = "",
    evalset: str = "",
    anchor: bool = False,
    even_if: Collection[str] = (),
) -> Path:
    """Copy the decision of a run into its evalset, where CI keeps checking it; returns the file.

    The first decision that is accepted on an evalset is its anchor: no later one may lie more than the margin below it.

    Parameters
    ----------
    reason : str
        Why, in words for whoever reads the history later.
    run : str
        Folder name of the run, the newest finished one of the notebook where empty.
    evalset : str
        Evalset whose newest run is meant, as the run was given it; needed where runs of several are there.
    anchor : bool
        Make this decision the anchor from now on.
    even_if : collection of {"inconclusive", "other-rule"}
        What is accepted all the same: a run that cannot tell, one made by another rule than ``gates.toml`` states now.

    Raises
    ------
    ConfigError
        If the reason is empty, no such finished run exists, runs of several evalsets do, the decision is one that is
        not accepted unless told so, it may lie too far below the anchor, or the evalset cannot be written.
    """
    if not reason.strip():
        raise ConfigError("accepting a decision needs a reason, for whoever reads the history: --reason TEXT")
    if unknown := sorted(set(even_if) - set(EVEN_IF)):
        raise ConfigError(unknown_name("value of --even-if", unknown[0], EVEN_IF))
    record = _run_to_accept(settings, notebook, run, evalset)
    decision = Decision.load(record.run_dir / "decision.json")
    decision = replace(decision, accepted_because=reason.strip(), accepted_on=str(clock.now().date()))
    folder = find_evalset(evalset_of(record), settings)
    _refuse_open_decision(decision, folder, even_if)
    takes = decision.rule.direction == "higher" and (anchor or not anchor_path(folder, notebook).is_file())
    if not takes:
        _refuse_far_decision(decision, anchor_path(folder, notebook))
    target = decision_path(folder, notebook)
    try:
        if takes:
            _store_accepted_anchor(record.run_dir, decision, anchor_path(folder, notebook))
        return _store_accepted(
            record.run_dir, decision, target, note_test_use(settings, folder, notebook, _use_of(decision))
        )
    except OSError as error:
        raise ConfigError(f"the decision cannot be written to {target}: {error}") from error


def _use_of(decision: Decision) -> str:
    """Use of the test split that a decision is, which another machine's list lacks; caches name theirs in a run."""
    return "" if decision.notebook == "caching" else name_use(decision.fingerprint.inputs, decision.arms)


def evalset_of(record: RunRecord) -> str:
    """Evalset of a run as it was given: a name, a folder or hub:NAME."""
    return str(record.parameters.get("evalset") or run_verdict(record).get("evalset", ""))


def run_verdict(record: RunRecord) -> dict[str, str]:
    """Evalset, verdict, arm and the arm in use of a run's decision as they stand on disk; empty where it made none."""
    try:
        raw = json.loads((record.run_dir / "decision.json").read_text(encoding="utf-8"))
        asked = {"evalset": raw["settings"].get("evalset", ""), "reference": raw["rule"]["reference"]}
        return asked | {name: str(raw[name]) for name in ("verdict", "arm")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _run_to_accept(settings: Settings, notebook: str, run: str, evalset: str) -> RunRecord:
    done = [r for r in list_runs(settings) if r.status == "done" and (r.run_dir / "decision.json").is_file()]
    mine = [r for r in done if r.notebook == notebook and evalset in ("", evalset_of(r))]
    found = [r for r in mine if run in ("", r.run_dir.name)]
    if not found:
        what = run or f"of {notebook!r}{f' on {evalset}' if evalset else ''}"
        raise ConfigError(f"no finished run {what} in {settings.runs}; see: workbench runs")
    if len(names := sorted({evalset_of(r) for r in found})) > 1:
        raise ConfigError(
            f"there are runs of {notebook!r} on {', '.join(names)}; name the one to accept: --evalset NAME"
        )
    return found[-1]


def _refuse_open_decision(decision: Decision, evalset: Path, even_if: Collection[str]) -> None:
    """Refuse what cannot tell, and what was decided by another rule than stands in ``gates.toml`` now."""
    if decision.verdict == "inconclusive" and "inconclusive" not in even_if:
        raise ConfigError(
            f"this run cannot tell, so there is nothing to keep true: {decision.sentence} To accept it all the same: "
            "--even-if inconclusive"
        )
    other = other_rule(decision, policy_of(evalset, decision.notebook))
    if other and "other-rule" not in even_if:
        raise ConfigError(
            f"this run was decided by another rule than {evalset.name}/gates.toml states now ({'; '.join(other)}); run "
            "it again, or accept it all the same: --even-if other-rule"
        )


def policy_of(evalset: Path, notebook: str) -> GatePolicy:
    """What ``gates.toml`` of an evalset asks of a notebook, or the defaults."""
    path = evalset / "gates.toml"
    policies = scan_gates(path)[0] if path.is_file() else {}
    return policies.get(notebook) or default_gate_policy(notebook)


def other_rule(decision: Decision, policy: GatePolicy) -> list[str]:
    """Settings of the rule that differ from the policy's, each with both values."""
    rule, rate = decision.rule, decision.rule.direction == "lower"
    both = {
        "metric": (rule.metric, policy.metric),
        rule.limit_name: (rule.margin, policy.alpha if rate else policy.margin),
        "confidence": (rule.confidence, policy.confidence),
        "floor": (rule.floor, None if rate else policy.floor),
        "latency_p95_ms": (rule.latency_limit_ms, None if rate else policy.latency_p95_ms),
        "requests_per_month": (rule.requests_per_month, policy.requests_per_month or ASSUMED_REQUESTS),
        "least_saving_usd": (rule.least_saving_usd, policy.least_saving_usd),
        "least_saving_share": (rule.least_saving_share, policy.least_saving_share),
        "point_usd": (rule.point_usd, policy.point_usd),
        "max_usd_per_1k": (rule.max_usd_per_1k, policy.max_usd_per_1k),
    }
    return [f"{name} was {then}, is {now}" for name, (then, now) in both.items() if then != now]


def _refuse_far_decision(decision: Decision, anchor: Path) -> None:
    """Refuse a decision whose arm may lie more than the margin below the anchor: small losses must not add up."""
    if decision.rule.direction == "lower":
        return
    arm, margin = Decision.load(anchor).arm, decision.rule.margin
    if decision.arm == arm:
        return
    pair = decision.claim(decision.arm).against(arm)
    again = "To make this decision the anchor from now on: --anchor"
    if pair is None:
        raise ConfigError(
            f"nothing is known of the distance of {decision.arm} from the anchor {arm}, which this run did not test; "
            f"run it again, so that the anchor is tested too. {again}"
        )
    if pair.low <= -margin:
        raise ConfigError(
            f"{decision.arm} may lie {-pair.low:.3f} {decision.rule.metric} below the anchor {arm}, which was accepted "
            f"first; the margin is {margin:g}. {again}"
        )


def _store_accepted_anchor(folder: Path, decision: Decision, target: Path) -> None:
    """Keep the decision with the test scores of its arm, so that later runs are compared with it."""
    scores = _accepted_scores(folder, decision).filter(pl.col("arm") == decision.arm)
    if scores.is_empty():
        raise ConfigError(
            f"the run has no test scores of {decision.arm}, so that it cannot be the anchor; run it again"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    scores.write_parquet(target.with_suffix(".scores.parquet"))
    _write_decision(decision, target)


def _store_accepted(folder: Path, decision: Decision, target: Path, uses: Sequence[str]) -> Path:
    """Write the decision last: what lies beside it is there when it is."""
    target.parent.mkdir(parents=True, exist_ok=True)
    _accepted_scores(folder, decision).write_parquet(target.with_suffix(".scores.parquet"))
    if (artefact := folder / "artefact.json").is_file():  # what was tested is what ships
        target.with_suffix(".artefact").write_bytes(artefact.read_bytes())
    target.with_suffix(".uses").write_text("\n".join(uses) + "\n", encoding="utf-8")
    return _write_decision(decision, target)


def _write_decision(decision: Decision, target: Path) -> Path:
    write_whole(target, decision.to_json())
    return target


def _accepted_scores(folder: Path, decision: Decision) -> pl.DataFrame:
    """Test scores that sameness is checked against: the deciding metric of the judged arms."""
    scores = pl.read_parquet(folder / "scores.parquet")
    if "split" in scores.columns:
        scores = scores.filter(pl.col("split") == "test")
    kept = scores.filter((pl.col("metric") == decision.rule.metric) & pl.col("arm").is_in(decision.arms))
    bounds = ["against"] if "against" in kept.columns else []
    return kept.select("arm", "item_id", "repeat", "value", *bounds).sort("arm", "item_id", "repeat")


def accepted_decisions(settings: Settings, names: Sequence[str] = ()) -> list[tuple[str, Decision]]:
    """Every accepted decision below ``evalsets/``, with the name of its evalset; or those of ``names``.

    A name is that of a notebook, for its decisions on every evalset, or ``EVALSET/NOTEBOOK`` for one of them.

    Raises
    ------
    ConfigError
        If there is none, or none for a name that was given; it names those that there are.
    """
    found = [
        (path.parent.parent.name, Decision.load(path)) for path in sorted(settings.evalsets.glob("*/decisions/*.json"))
    ]
    places = [f"{name}/{d.notebook}" for name, d in found]
    missing = sorted(set(names) - {d.notebook for _, d in found} - set(places))
    if missing or not found:
        what = ", ".join(missing) or "any notebook"
        known = f" Accepted: {', '.join(places)}" if places else ""
        raise ConfigError(f"no accepted decision for {what}: run it, then workbench accept NAME --reason TEXT.{known}")
    return [
        (name, d)
        for (name, d), place in zip(found, places, strict=True)
        if not names or d.notebook in names or place in names
    ]


def check_decisions(
    settings: Settings,
    notebooks: Sequence[str] = (),
    *,
    clock: Clock,
    on_event: Callable[[Event], None] | None = None,
    hard_timeout_s: float = 3600.0,
    workers: int = 2,
    fresh: bool = False,
    tell: Callable[[str], None] | None = None,
) -> list[Check]:
    """Run every accepted decision again, with exactly its parameters, and read what its gate says.

    A notebook that decides nothing is run where it is named. The check of the same decisions that was begun last, and
    was stopped before all had ended, goes on: a result of it is taken if nothing moved that it rests on.

    Parameters
    ----------
    fresh : bool
        Run everything, whatever a check that was stopped has left.
    tell : callable, optional
        Told in one line what is taken of such a check.

    Raises
    ------
    ConfigError
        If nothing is accepted, or a notebook no longer takes the accepted parameters.
    RunError
        If a run left a gate that cannot be read.
    """
    counted = [name for name in notebooks if name in UNDECIDED]
    named = [name for name in notebooks if name not in UNDECIDED]
    found: list[tuple[str, Decision | None]] = [*accepted_decisions(settings, named)] if named or not counted else []
    found += [("", None) for _ in counted]
    jobs, taken, told = begin_check(settings, found, _check_jobs(found, counted), clock=clock, fresh=fresh)
    if tell and told:
        tell(told)
    left = [job for job, record in zip(jobs, taken, strict=True) if record is None]
    records = iter(
        run_headless(
            left,
            settings=settings,
            clock=clock,
            on_event=on_event,
            workers=workers,
            hard_timeout_s=hard_timeout_s,
            ahead=False,
        )
    )
    return _checks_of_jobs(found, [record or next(records) for record in taken])


def check_each(
    settings: Settings, accepted: Sequence[tuple[str, Decision]], *, clock: Clock, hard_timeout_s: float = 3600.0
) -> list[Check]:
    """Like `check_decisions`, of some of `accepted_decisions` (name of an evalset, its decision); all are run."""
    records = run_headless(
        _check_jobs(accepted), settings=settings, clock=clock, hard_timeout_s=hard_timeout_s, ahead=False
    )
    return _checks_of_jobs(accepted, records)


def _check_jobs(accepted: Sequence[tuple[str, Decision | None]], counted: Sequence[str] = ()) -> list[Job]:
    """Jobs of decisions, and of the notebooks that decide nothing, whose pairs stand last."""
    return [Job(d.notebook, d.profile, d.settings) for _, d in accepted if d] + [Job(name) for name in counted]


def _checks_of_jobs(accepted: Sequence[tuple[str, Decision | None]], records: Sequence[RunRecord]) -> list[Check]:
    return [
        Check(name, decision, record, _gate_of_check(record.run_dir))
        for (name, decision), record in zip(accepted, records, strict=True)
    ]


def _check_marks(
    settings: Settings, accepted: Sequence[tuple[str, Decision | None]], jobs: Sequence[Job], clock: Clock
) -> list[CheckMark]:
    """Mark of each job of a check that begins now; what decides nothing counts money that moves: it has no hash."""
    places = ["/".join(filter(None, (name, job.notebook))) for (name, _), job in zip(accepted, jobs, strict=True)]
    began = clock.now().isoformat()
    return [
        CheckMark(
            began,
            tuple(places),
            place,
            result_rests_on(settings, job.notebook, job.profile, job.parameters) if decision else "",
        )
        for place, job, (_, decision) in zip(places, jobs, accepted, strict=True)
    ]


def begin_check(
    settings: Settings,
    accepted: Sequence[tuple[str, Decision | None]],
    jobs: Sequence[Job],
    *,
    clock: Clock,
    fresh: bool = False,
) -> tuple[list[Job], list[RunRecord | None], str]:
    """Jobs of a check with its mark; for each the run that is taken of one that was stopped; and a line that says so.

    Raises
    ------
    ConfigError
        If a notebook no longer takes the parameters of a job.
    """
    jobs = [planned_headless_job(job, settings) for job in jobs]
    marks = _check_marks(settings, accepted, jobs, clock)
    left = [] if fresh else stopped_check(settings, marks[0].asked)
    if left:
        marks = [replace(mark, began=left[0][0].began) for mark in marks]
    oldest = clock.now() - timedelta(hours=KEPT_H)
    taken = {m.place: r for m in marks for then, r in left if then == m and _check_result_stands(m, r, oldest)}
    jobs = [replace(job, check=mark) for job, mark in zip(jobs, marks, strict=True)]
    return jobs, [taken.get(mark.place) for mark in marks], _stopped_check_told(left, taken, len(marks))


def stopped_check(settings: Settings, asked: Sequence[str]) -> list[tuple[CheckMark, RunRecord]]:
    """Runs of the newest check that asked for the same decisions, oldest first; none unless it was stopped half-way.

    It was if one of its decisions has no run that came to its own end, and no process is at work on it.
    """
    mine = [(r.check, r) for r in list_runs(settings) if r.check and r.check.asked == tuple(asked)]
    newest = max((mark.began for mark, _ in mine), default="")
    mine = [(mark, r) for mark, r in mine if mark.began == newest]
    ended = {mark.place for mark, r in mine if r.status == "done" or _check_run_failed(r)}
    at_work = any(not process_gone(r) and r.process != process_token(os.getpid()) for _, r in mine)
    return [] if at_work or ended == set(asked) else mine


def _check_run_failed(record: RunRecord) -> bool:
    """Whether a run came to its own end, if not to a result: one that was killed at its time-out did not."""
    return record.status == "failed" and record.exit_reason != "hard_timeout"


def _check_result_stands(mark: CheckMark, record: RunRecord, oldest: datetime) -> bool:
    """Whether the result of a run is the one that a job with its mark would come to now."""
    if not mark.rests_on or record.status != "done" or datetime.fromisoformat(str(record.ended)) < oldest:
        return False
    try:
        gate = _gate_of_check(record.run_dir)
    except RunError:
        return False
    return gate is not None and gate.status == record.gate


def _stopped_check_told(left: Sequence[tuple[CheckMark, RunRecord]], taken: Mapping[str, RunRecord], n: int) -> str:
    """Line on what is taken of a check that was stopped; "" where it had no result yet."""
    results = {mark.place for mark, r in left if r.status == "done"}
    if not results:
        return ""
    at = max(datetime.fromisoformat(str(r.ended or r.started)) for _, r in left).strftime("%Y-%m-%d %H:%M UTC")
    told = f"{len(taken)} of {n} taken from the check that was interrupted at {at}"
    if gone := len(results) - len(taken):
        told += f"; {gone} more had ended, but what they rest on has moved, or nothing tells that it has not"
    return f"{told}; --fresh runs all again" if taken else told


def _gate_of_check(run_dir: Path) -> Gate | None:
    path = run_dir / "gate.json"
    if not path.is_file():
        return None
    try:
        return Gate.load(path)
    except ConfigError as error:
        raise RunError(str(error), str(run_dir)) from error


def worst_exit_code(checks: Sequence[Check]) -> int:
    """Exit code of the worst: error 3, broken 1, inconclusive or stale 2; 0 where all hold, are new or not tested."""
    order = {EXIT_CODES["error"]: 3, EXIT_CODES["broken"]: 2, EXIT_CODES["stale"]: 1, 0: 0}
    return max((c.exit_code for c in checks), key=lambda code: order.get(code, 3), default=0)
