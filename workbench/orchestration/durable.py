"""The engine of durable runs, dbos, as one process uses it: its database, its queues, its recovery, its records.

dbos checkpoints, queues, schedules and retries. What it lacks is added here: steps whose inputs and model calls are
recorded, JSON instead of pickle, and the adoption of what a dead process left running.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

import sqlalchemy as sa

from workbench.config import Settings
from workbench.errors import FlowError
from workbench.orchestration.heartbeats import Heartbeat, dead_executors, forget_processes, living_processes
from workbench.orchestration.live_step import LiveStep, flow_result_as_json
from workbench.orchestration.runs_database import (
    ENDED,
    STATES,
    flows_url,
    run_from_row,
    run_of_row,
    run_to_row,
    runs_engine,
    runs_schema,
    step_of_row,
)
from workbench.orchestration.step_tapes import create_step_calls
from workbench.orchestration.steps import Asking, Flow, FlowRun
from workbench.orchestration.user_modules import import_module_of
from workbench.state import open_engine
from workbench.telemetry.attribution import attributed
from workbench.telemetry.spans import Tracing, span_here, under_span

if TYPE_CHECKING:
    from dbos import WorkflowHandle

_T = TypeVar("_T")
NAME = "workbench"
RECORDS = "workbench-flows-1"  # form of the records; the version of a flow's code is in the name of its queue
ADOPT_EVERY_S = 60.0
POLL_S, POLL_RARE_S = 0.2, 1.0  # a look into a queue takes 3 ms of a processor
POOL = 8  # connections of dbos per process; a stock PostgreSQL has 100 for all
TICKS = "ticks"  # queue of what schedules do, which only workers take from


def job_queue(name: str, version: str) -> str:
    """Queue of the jobs of a flow at one version of its code: only processes that have this version take from it."""
    return f"{name}@{version}"


def left_queue(name: str, version: str) -> str:
    """Queue of what dead processes left that ran a flow themselves; those that run this flow take from it."""
    return f"left {name}@{version}"


class Durable:
    """The engine in this process; one at a time, made by `Durable.open`."""

    _open: "Durable | None" = None
    _opening = threading.Lock()

    def __init__(self, settings: Settings, tools: Mapping[str, Any]) -> None:
        self.settings, self.url = settings, flows_url(settings.state_url)
        self.engine = open_engine(self.url)
        create_step_calls(self.engine)  # before the launch: it sets WAL, which stays with the file
        self._state = open_engine(settings.state_url)
        self.tracing = Tracing(self._state)
        self._given, self._tools = dict(tools), dict[tuple[str, str], Any]()
        self._flows, self._served, self._made = dict[str, Flow](), set[str](), set[str]()
        self._parents, self._missing = dict[str, Any](), set[str]()
        self._pool, self.stopped = ThreadPoolExecutor(1, thread_name_prefix="wb-flows"), threading.Event()
        self.heartbeat = Heartbeat(self.engine, settings.cache / "processes")
        try:
            self._launch()
            self.adopt()
        except BaseException:
            self._end()
            raise
        threading.Thread(target=self._adopting, name="wb-adopt", daemon=True).start()

    @classmethod
    def open(cls, settings: Settings, tools: Mapping[str, Any]) -> Self:
        """The engine on a project's database; the same one as long as it is open.

        Raises
        ------
        FlowError
            If this process has the engine open on another database, or its database goes away meanwhile.
        """
        with Durable._opening:
            found = Durable._open
            if found is None:
                found = Durable._open = cls._opened(settings, tools)
            elif found.url != flows_url(settings.state_url):
                raise FlowError(
                    f"this process has its flows open on {_shown(found.url)}, and is asked for "
                    f"{_shown(flows_url(settings.state_url))}: a process has one database of runs, close() the first"
                )
            found._given.update(tools)
            return found  # type: ignore[return-value]

    @classmethod
    def _opened(cls, settings: Settings, tools: Mapping[str, Any]) -> Self:
        try:
            return cls(settings, tools)
        except sa.exc.DBAPIError as error:
            reason = str(error.orig).partition("\n")[0]
            where = _shown(flows_url(settings.state_url))
            raise FlowError(f"the database {where} went away: {reason}; start it, and try again") from error

    def close(self) -> None:
        """End: what runs is left to others, and goes on where it was."""
        with Durable._opening:
            self._end()
            Durable._open = None

    def _end(self) -> None:
        from dbos import DBOS

        self.stopped.set()
        self.call(lambda: DBOS.destroy(destroy_registry=True))
        self.heartbeat.close()
        self._pool.shutdown()
        self.tracing.close()
        self._state.dispose()
        self.engine.dispose()

    def call(self, function: Callable[[], _T]) -> _T:
        """Call the engine from a thread without an event loop and outside of any run: it refuses else."""
        return self._pool.submit(function).result()

    def _launch(self) -> None:
        from dbos import DBOS, Serializer

        class JSONRows(Serializer):
            def serialize(self, data: Any) -> str:
                return run_to_row(data)

            def deserialize(self, serialized_data: str) -> Any:
                return run_from_row(serialized_data)

            def name(self) -> str:
                return "workbench_json"

        logging.getLogger("dbos").addFilter(_not_told_twice)
        DBOS(
            config={
                "name": NAME,
                "system_database_url": self.url,
                "system_database_engine": runs_engine(self.url),
                # so that the server's own list of connections says whose each is; 63 bytes is its limit
                "db_engine_kwargs": {"connect_args": {"application_name": self.heartbeat.executor[-63:]}},
                "dbos_system_schema": runs_schema(self.engine),
                "sys_db_pool_size": POOL,
                "application_version": RECORDS,
                "executor_id": self.heartbeat.executor,
                "serializer": JSONRows(),
                "scheduler_polling_interval_sec": 1.0,
                "notification_listener_polling_interval_sec": POLL_S,
                "log_level": "ERROR",
            }
        )
        if DBOS.executor_id != self.heartbeat.executor:
            raise FlowError("dbos is in use by other code of this process, and a process has one: run flows in another")

        def run_flow(asked: dict[str, Any]) -> dict[str, Any]:
            return self._perform(asked)

        def tick(when: Any, asked: dict[str, Any]) -> str:
            return self._tick(when, asked)

        self.workflow = DBOS.workflow(name="flow")(run_flow)
        self.ticking = DBOS.workflow(name="tick")(tick)
        self._listening: list[str] = []
        DBOS.listen_queues(self._listening)
        self.call(DBOS.launch)

    def know(self, flow: Flow) -> Flow:
        """Remember a flow that was not imported by its name, such as one that was typed into a notebook."""
        self._flows[flow.name] = flow
        return flow

    def flow_of(self, name: str) -> Flow:
        """Flow by name.

        Raises
        ------
        FlowError
            If it cannot be imported, or is none.
        """
        if name in self._flows:
            return self._flows[name]
        module, _, function = name.partition(":")
        try:
            found = getattr(import_module_of(module, self.settings.root), function)
        except (ImportError, AttributeError) as error:
            raise FlowError(f"flow {name!r} cannot be imported: {error}; its module must be installed or lie in the "
                            "project's root or notebooks/") from error  # fmt: skip
        if not isinstance(found, Flow):
            raise FlowError(f"{name!r} is no flow but {type(found).__name__}; put @workbench.flow() above the function")
        return self.know(found)

    def serve(self, queue: str, flow: Flow | None = None) -> None:
        """Take runs from a queue, which is made if it is not there; of a flow's jobs as many as it says."""
        from dbos._dbos import _get_dbos_instance

        if queue in self._served:
            return
        self.make_queue(queue, flow)
        self._served.add(queue)
        # the list given before the launch is copied; its thread reads the copy every second
        _get_dbos_instance()._listening_queues = sorted(self._served)
        self.heartbeat.serve("\n".join(sorted(self._served)))

    def serves(self, queue: str) -> bool:
        """Whether this process takes from a queue."""
        return queue in self._served

    def served(self) -> list[str]:
        """Queues that this process takes from."""
        return sorted(self._served)

    def queues(self) -> list[str]:
        """All queues that there are."""
        from dbos import DBOS

        return [queue.name for queue in self.call(DBOS.list_queues)]

    def make_queue(self, queue: str, flow: Flow | None = None) -> None:
        """Make a queue that is not there, with the limits of a flow's jobs."""
        from dbos import DBOS

        if queue in self._made:
            return
        everywhere, here = (flow.concurrency, flow.per_worker) if flow else (None, None)
        limits: dict[str, Any] = {"global_concurrency": everywhere, "worker_concurrency": here}
        if everywhere is not None and here is not None:
            limits["worker_concurrency"] = min(everywhere, here)
        poll_s = POLL_S if flow else POLL_RARE_S  # for jobs somebody waits
        told = limits | {"polling_interval_sec": poll_s, "on_conflict": "always_update"}
        self.call(lambda: DBOS.register_queue(queue, **told))
        self._made.add(queue)

    def begin(self, flow: Flow, asking: Asking, *, queue: str = "") -> "WorkflowHandle[Any]":
        """Begin a run here, or put it into a queue; a run with the same id is not made twice."""
        from dbos import DBOS

        run_id = flow.run_id(asking)
        asked = asking.to_plain()
        if queue:
            return self.call(lambda: _with_id(run_id, lambda: DBOS.enqueue_workflow(queue, self.workflow, asked)))
        self.serve(left_queue(flow.name, flow.version))
        self._parents[run_id] = span_here()
        return self.call(lambda: _with_id(run_id, lambda: DBOS.start_workflow(self.workflow, asked)))

    def wait(self, run_id: str) -> Any:
        """Result of a run, once it is there.

        Raises
        ------
        StepFailed, FlowError
            If it fails, or there is no such run.
        """
        from dbos import DBOS

        self.run(run_id)
        return self.result(self.call(lambda: DBOS.retrieve_workflow(run_id)))

    def result(self, handle: "WorkflowHandle[Any]") -> Any:
        """What a run came to, once it has ended."""
        from dbos._error import DBOSAwaitedWorkflowCancelledError

        run_id = handle.get_workflow_id()
        try:
            return handle.get_result(polling_interval_sec=POLL_S)["result"]
        except FlowError as error:
            error.add_note(f"It is run {run_id}; flows.retry({run_id!r}) does it again from there.")
            raise
        except DBOSAwaitedWorkflowCancelledError as error:
            again = f"flows.retry({run_id!r}) goes on from there"
            raise FlowError(f"run {run_id} was cancelled; {again}", run_id=run_id) from error
        finally:
            self._parents.pop(run_id, None)

    def cancel(self, run_id: str) -> None:
        """End a run before its next step; one that has ended stays as it is."""
        from dbos import DBOS

        self.call(lambda: DBOS.cancel_workflow(run_id))

    def _perform(self, asked: dict[str, Any]) -> dict[str, Any]:
        """One run, from its beginning or from where it was cut off: what is done already is handed out, not done."""
        asking = Asking.from_plain(asked)
        flow = self.flow_of(asking.flow)
        run_id = flow.run_id(asking)
        if flow.version != asking.version:
            raise FlowError(
                f"run {run_id} was begun by version {asking.version} of {flow.name}, this process has {flow.version}: "
                "its finished steps rest on other code. Begin it anew",
                run_id=run_id,
            )
        step = LiveStep(self, flow, asking, run_id)
        attributes = {"wb.workflow_id": run_id, "wb.flow": flow.name, "wb.flow_version": flow.version}
        spanned = self.tracing.span(f"invoke_workflow {flow.short_name}", "invoke_workflow", attributes)
        with attributed(**asking.who), under_span(self._parents.pop(run_id, None)), spanned as span:
            span.content("input.value", {"args": asking.args, "kwargs": asking.kwargs})
            result = flow_result_as_json(flow, step, asking)
            span.content("output.value", result)
        return {"result": result, "trace_id": span.trace_id}

    def _tick(self, when: Any, asked: dict[str, Any]) -> str:
        """What a schedule does: put the run of this moment into the queue of its flow."""
        flow = self.flow_of(asked["flow"])
        at = when if isinstance(when, str) else when.isoformat()
        asking = Asking(**asked | {"version": flow.version, "sources": dict(flow.sources), "key": at})
        queue = job_queue(flow.name, flow.version)
        self.make_queue(queue, flow)
        self.begin(flow, asking, queue=queue)
        return flow.run_id(asking)

    def schedule(self, name: str, cron: str, asking: Asking) -> None:
        """Begin what is asked at every moment of a cron expression; replaces the schedule of that name.

        Raises
        ------
        FlowError
            If the expression is none.
        """
        from dbos import DBOS
        from dbos._error import DBOSException

        self.make_queue(TICKS)
        one: Any = {"schedule_name": name, "workflow_fn": self.ticking, "schedule": cron, "queue_name": TICKS}
        try:
            self.call(lambda: DBOS.apply_schedules([one | {"context": asking.to_plain()}]))
        except DBOSException as error:
            raise FlowError(f"schedule {name!r}: {error}; a cron expression has 5 fields, or 6 with seconds") from error

    def unschedule(self, name: str) -> None:
        """Delete a schedule."""
        from dbos import DBOS

        self.call(lambda: DBOS.delete_schedule(name))

    def schedules(self) -> list[Any]:
        """Schedules, by name."""
        from dbos import DBOS

        return sorted(self.call(DBOS.list_schedules), key=lambda found: str(found["schedule_name"]))

    def again(self, run: FlowRun, from_step: int, queue: str) -> None:
        """Put a run that ended into a queue, to be done again from a step on."""
        from dbos import DBOS

        if run.status == "cancelled":
            self.call(lambda: DBOS.resume_workflow(run.run_id, queue_name=queue))
        else:
            self.call(lambda: DBOS.rewind_workflow(run.run_id, start_step=from_step, queue_name=queue))

    def once(self, name: str, do: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Record of the next step of the run that this thread does: out of the database, or made now and kept."""
        from dbos import DBOS

        return DBOS.run_step({"name": name}, do)

    def tool(self, flow: Flow, name: str) -> Any:
        """A tool of a flow, made when it is first needed; what `open` was given under its name comes first."""
        if name in self._given:
            return self._given[name]
        key = (flow.name, name)
        if key not in self._tools:
            self._tools[key] = flow.tools[name](self.settings)
        return self._tools[key]

    def adopt(self) -> list[str]:
        """Give what nobody does any more to those that live; returns the runs.

        That is what dead processes left, and what stands in this one's name without being done, at two looks: so it
        is where a server went away after it gave out a run and before it said so. Each is given once: only a run
        that still stands in the same name is put back.
        """
        from dbos import DBOS
        from dbos._dbos import _get_dbos_instance

        # first what runs, then who lives: whoever begins a run in between is known
        pending = self.call(lambda: DBOS.list_workflows(status="PENDING", load_output=False))
        dead, alive = dead_executors(self.engine), living_processes(self.engine)
        mine = {status.workflow_id for status in pending if status.executor_id == self.heartbeat.executor}
        missing = mine - set(_get_dbos_instance()._active_workflows_set.activeList())
        lost, self._missing = missing & self._missing, missing
        put_back, adopted = _get_dbos_instance()._sys_db.reenqueue_for_recovery, []
        for status in pending:
            executor = status.executor_id or ""
            if executor in alive and status.workflow_id not in lost:
                continue
            queue = status.queue_name or left_queue(*_flow_and_version(status.input))
            if status.queue_name is None:
                self.make_queue(queue)
            if self.call(partial(put_back, status.workflow_id, [executor], queue)):
                adopted.append(status.workflow_id)
        forget_processes(self.engine, dead)
        return adopted

    def _adopting(self) -> None:
        while not self.stopped.wait(ADOPT_EVERY_S):
            try:
                self.adopt()
            except (sa.exc.SQLAlchemyError, RuntimeError) as error:  # the database is away, or the process ends
                logging.getLogger("workbench").warning("runs of dead processes were not looked for: %s", error)

    def runs(self, **which: Any) -> list[FlowRun]:
        """Runs without their steps, newest first; ``which`` is as for dbos's ``list_workflows``."""
        from dbos import DBOS

        found = self.call(lambda: DBOS.list_workflows(name="flow", sort_desc=True, **which))
        return [run_of_row(status) for status in found]

    def ended_before(self, at: datetime, limit: int) -> list[str]:
        """Ids of so many runs, and of what schedules did, that ended before a moment; the oldest first."""
        from dbos import DBOS

        which: dict[str, Any] = {"status": [state for state, ours in STATES.items() if ours in ENDED], "limit": limit}
        which |= {"completed_before": at.isoformat(), "load_input": False, "load_output": False}
        return [status.workflow_id for status in self.call(lambda: DBOS.list_workflows(**which))]

    def delete(self, run_ids: list[str]) -> None:
        """Delete runs with their steps."""
        from dbos import DBOS

        self.call(lambda: DBOS.delete_workflows(run_ids))

    def find(self, begin: str) -> str:
        """Id of the only run whose id begins like this.

        Raises
        ------
        FlowError
            If there is none, or several.
        """
        ids = [run.run_id for run in self.runs(workflow_id_prefix=begin, limit=6, load_output=False)]
        if begin in ids:
            return begin
        if len(ids) != 1:
            told = f"several runs begin with {begin!r}: {', '.join(ids[:5])}" if ids else f"no run {begin!r}"
            raise FlowError(f"{told}; list them with: workbench jobs list")
        return ids[0]

    def run(self, run_id: str) -> FlowRun:
        """One run with its steps.

        Raises
        ------
        FlowError
            If there is none.
        """
        from dbos import DBOS

        found = self.runs(workflow_ids=[run_id])
        if not found:
            raise FlowError(
                f"no run {run_id!r} in {_shown(self.url)}; list them with: workbench jobs list", run_id=run_id
            )
        rows = self.call(lambda: DBOS.list_workflow_steps(run_id))
        steps = tuple(step_of_row(row) for row in rows)
        one = found[0]
        return FlowRun(**{name: getattr(one, name) for name in one.__slots__} | {"steps": steps})


def _with_id(run_id: str, begin: Callable[[], _T]) -> _T:
    from dbos import SetWorkflowID

    with SetWorkflowID(run_id):
        return begin()


def _flow_and_version(asked: Any) -> tuple[str, str]:
    row = asked["args"][0]
    return row["flow"], row["version"]


def _shown(url: str) -> str:
    return sa.make_url(url).render_as_string(hide_password=True)


def _not_told_twice(record: logging.LogRecord) -> bool:
    """Whether dbos's log says something that its caller is not told anyway: a run that fails raises to who waits."""
    return "in background workflow" not in record.getMessage()
