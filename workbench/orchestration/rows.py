"""Rows of the engine as values of ours: how runs and steps are written, and what is read back."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from workbench.errors import FlowError, StepFailed
from workbench.orchestration.steps import Asking, FlowRun, StepRecord

ENDED = ("done", "failed", "cancelled")
STATES = {
    "DELAYED": "waiting",
    "ENQUEUED": "waiting",
    "PENDING": "running",
    "SUCCESS": "done",
    "ERROR": "failed",
    "CANCELLED": "cancelled",
    "MAX_RECOVERY_ATTEMPTS_EXCEEDED": "failed",
}
UNFINISHED = [state for state, ours in STATES.items() if ours not in ENDED]


def to_row(value: Any) -> str:
    """What dbos writes: JSON that people and other programs can read, and that runs no code when it is read."""
    return json.dumps(value, default=_plain_error)


def from_row(text: str) -> Any:
    """Read back what `to_row` wrote; an error comes back as an error."""
    value = json.loads(text)
    return _step_error(value["$error"]) if isinstance(value, dict) and "$error" in value else value


def _plain_error(value: Any) -> Any:
    if isinstance(value, StepFailed):
        told = {"step": value.step, "kind": value.kind, "reason": value.reason, "run_id": value.run_id}
        return {"$error": told | {"record": value.record}}
    if isinstance(value, BaseException):
        return {"$error": {"kind": type(value).__name__, "reason": str(value)}}
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is no JSON value")


def _step_error(told: Mapping[str, Any]) -> Exception:
    if "step" in told:
        return StepFailed(**told)
    if told["kind"] == FlowError.__name__:
        return FlowError(told["reason"])
    return FlowError(f"{told['kind']}: {told['reason']}")


def run_of(status: Any) -> FlowRun:
    """Run, without its steps, of what dbos tells of a workflow."""
    output, ended = status.output or {}, STATES[status.status] in ENDED
    return FlowRun(
        status.workflow_id,
        Asking.from_plain(status.input["args"][0]),
        STATES[status.status],
        output.get("result"),
        str(status.error or ""),
        output.get("trace_id", ""),
        status.executor_id or "",
        status.queue_name or "",
        status.created_at or 0,
        (status.completed_at or status.updated_at or 0) if ended else 0,
    )


def step_of(row: Mapping[str, Any]) -> StepRecord:
    """Step of what dbos tells of one."""
    error, output = row["error"], row["output"] or {}
    record = error.record if isinstance(error, StepFailed) else output
    told = {"kind": error.kind, "reason": error.reason} if isinstance(error, StepFailed) else None
    if error is not None and told is None:
        told = {"kind": type(error).__name__, "reason": str(error)}
    return StepRecord(
        row["function_id"],
        row["function_name"],
        record.get("inputs", {"args": [], "kwargs": {}}),
        output.get("output"),
        told,
        tuple(record.get("calls", ())),
        row["started_at_epoch_ms"] or 0,
        row["completed_at_epoch_ms"] or 0,
    )
