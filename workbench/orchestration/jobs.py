"""Runs that workers do: submitted from anywhere, done by any process that has the flow at the same version."""

import json
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from workbench.errors import FlowError
from workbench.orchestration.durable import TICKS, Durable, job_queue, left_queue
from workbench.orchestration.heartbeats import living_processes
from workbench.orchestration.runs_database import ENDED, STATES, UNFINISHED, is_outage_outlived
from workbench.orchestration.step_tapes import forget_step_calls, step_progress_of
from workbench.orchestration.steps import Asking, Flow, FlowRun
from workbench.rendering.numbers import counted
from workbench.rendering.table import Column, Table

_LOG = logging.getLogger("workbench")
LOOK_S = 1.0
PRUNED = 500  # runs of one transaction


def submit_job(durable: Durable, flow: Flow, asking: Asking) -> str:
    """Put a run into the queue of its flow, and return its id; the same run is not put there twice.

    Raises
    ------
    FlowError
        If no worker could import the flow.
    """
    if flow.function.__module__ == "__main__":
        raise FlowError(
            f"flow {flow.short_name!r} is defined in a notebook or script, where no worker finds it; put it into a "
            "module in the project's root or notebooks/, and import it from there"
        )
    queue = job_queue(flow.name, flow.version)
    durable.make_queue(queue, flow)
    durable.begin(flow, asking, queue=queue)
    return flow.run_id(asking)


def work_on_jobs(
    durable: Durable, names: Sequence[str] = (), *, stop: threading.Event, when_done: bool = False
) -> None:
    """Do jobs until told to stop.

    Parameters
    ----------
    names : sequence of str, optional
        Flows to work for, ``module:function``; by default all whose jobs wait and that can be imported here.
    stop : threading.Event
        Set from another thread to end; what runs then goes on in another process.
    when_done : bool
        End as soon as nothing waits or runs that this process works for.

    Raises
    ------
    FlowError
        If a named flow cannot be imported.
    """
    flows = [durable.flow_of(name) for name in names]
    told = set[str]()
    while not stop.is_set():
        began = time.monotonic()
        try:
            for flow in flows:
                durable.serve(job_queue(flow.name, flow.version), flow)
                durable.serve(left_queue(flow.name, flow.version))
            durable.serve(TICKS)
            if not flows:
                _look_for_work(durable, told)
            if when_done and not _unfinished_jobs(durable):
                return
        except sa.exc.DBAPIError as error:
            if not is_outage_outlived(error, durable.engine, began, stop, ours=True):
                raise
        stop.wait(LOOK_S)


def _look_for_work(durable: Durable, told: set[str]) -> None:
    """Serve every queue whose flow is here at the queue's version; of others say once why not."""
    for queue in durable.queues():
        name, at, version = queue.removeprefix("left ").rpartition("@")
        if not at or queue in told or durable.serves(queue):
            continue
        try:
            flow = durable.flow_of(name)
        except FlowError as error:
            told.add(queue)
            _LOG.warning("%s", error)
            continue
        if flow.version != version:
            told.add(queue)
            if durable.runs(queue_name=queue, status=["ENQUEUED", "PENDING"], limit=1):
                _LOG.warning(
                    "jobs of %s wait for version %s of its code, this worker has %s", name, version, flow.version
                )
            continue
        durable.serve(queue, None if queue.startswith("left ") else flow)


def _unfinished_jobs(durable: Durable) -> bool:
    return bool(durable.runs(queue_name=durable.served(), status=UNFINISHED, limit=1))


def jobs_table(durable: Durable, *, limit: int = 100, status: str = "") -> Table:
    """Runs, newest first: how far they are, and what keeps those that wait."""
    runs = durable.runs(limit=limit, **({"status": _job_states(status)} if status else {}))
    progress = step_progress_of(durable.engine, [run.run_id for run in runs])
    alive = living_processes(durable.engine)
    rows = []
    for run in runs:
        label, done, total = progress.get(run.run_id, ("", 0, 0))
        shown = f"{label} {done:,}/{total:,}" if total else ""
        took = (run.ended_ms - run.created_ms) / 1000 if run.ended_ms else None
        rows.append((run.run_id, run.status, shown, took, _job_note(run, alive)))
    columns = (
        Column("run"),
        Column("status"),
        Column("progress"),
        Column("seconds", "number", digits=0),
        Column("note"),
    )
    return Table(columns, tuple(rows), f"{counted(len(rows), 'run')}, newest first")


def _job_states(status: str) -> list[str]:
    found = [state for state, ours in STATES.items() if ours == status]
    if not found:
        raise FlowError(f"no status {status!r}; known: {', '.join(dict.fromkeys(STATES.values()))}")
    return found


def _job_note(run: FlowRun, alive: Mapping[str, str]) -> str:
    if run.status == "failed":
        return run.error
    if run.status == "running" and run.executor not in alive:
        return "its process is gone; it goes on in the next one that looks"
    if run.status == "waiting" and not any(run.queue in served.splitlines() for served in alive.values()):
        return f"no worker has {run.asking.flow} at version {run.asking.version}; start one: workbench jobs work"
    return ""


def retry_job(durable: Durable, run_id: str, *, here: bool = False) -> str:
    """Do a failed or cancelled run again from the step that failed, and return its id.

    Where the code of its flow has changed since, it is another run, which begins anew.

    Parameters
    ----------
    here : bool
        Do it in this process; by default it is put into the queue of its flow.

    Raises
    ------
    FlowError
        If it has not failed, or its flow is not there.
    """
    run = durable.run(run_id)
    if run.status not in ("failed", "cancelled"):
        raise FlowError(
            f"run {run_id} is {run.status}; only one that failed or was cancelled is retried", run_id=run_id
        )
    flow = durable.flow_of(run.asking.flow)
    if run.asking.version != flow.version:
        anew = Asking(**run.asking.to_plain() | {"version": flow.version, "sources": dict(flow.sources)})
        if not here:
            return submit_job(durable, flow, anew)
        durable.begin(flow, anew)
        return flow.run_id(anew)
    queue = (left_queue if here else job_queue)(flow.name, flow.version)
    if here:
        durable.serve(queue)
    else:
        durable.make_queue(queue, flow)
    failed = next((step.number for step in run.steps if step.error), len(run.steps) + 1)
    durable.again(run, failed, queue)
    return run_id


def cancel_job(durable: Durable, run_id: str) -> str:
    """End a run before its next step, and return what it was.

    Raises
    ------
    FlowError
        If there is none, or it has ended.
    """
    run = durable.run(run_id)
    if run.status in ENDED:
        raise FlowError(f"run {run_id} is {run.status} already; nothing is left to cancel", run_id=run_id)
    durable.cancel(run_id)
    return run.status


def prune_jobs(durable: Durable, before: datetime) -> int:
    """Delete runs that ended before a moment, with their steps and model calls; returns how many.

    What waits or runs stays, and so does what a fork that waits or runs takes its first steps from.
    """
    kept = {run.asking.origin["run_id"] for run in durable.runs(status=UNFINISHED) if run.asking.origin}
    deleted = 0
    while found := [i for i in durable.ended_before(before, PRUNED + len(kept)) if i not in kept]:
        # calls first: were it the runs, a kill in between would leave calls that nothing leads to
        forget_step_calls(durable.engine, found)
        durable.delete(found)
        deleted += len(found)
    return deleted


def schedule_job(durable: Durable, name: str, cron: str, flow: Flow, asking: Asking) -> None:
    """Submit a run at every moment of a cron expression, while a worker is there.

    Raises
    ------
    FlowError
        If the expression is none, or no worker could import the flow.
    """
    if flow.function.__module__ == "__main__":
        raise FlowError(f"flow {flow.short_name!r} is defined in a notebook or script, where no worker finds it")
    durable.schedule(name, cron, asking)


def schedules_table(durable: Durable) -> Table:
    """Schedules of this project."""
    rows = [
        (s["schedule_name"], s["schedule"], s["context"]["flow"], job_arguments_text(s["context"]))
        for s in durable.schedules()
    ]
    return Table((Column("schedule"), Column("cron"), Column("flow"), Column("arguments")), tuple(rows))


def job_arguments_text(asked: Mapping[str, Any]) -> str:
    """Arguments of a run as text."""
    return json.dumps({"args": asked["args"], "kwargs": asked["kwargs"]}, ensure_ascii=False)
