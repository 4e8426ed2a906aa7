"""The one entrance to durable flows: run, submit, list, show, retry, cancel, schedule, replay, fork, compare."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Self

from workbench.config import Settings, load_settings
from workbench.errors import FlowError
from workbench.orchestration import jobs
from workbench.orchestration.durable import Durable
from workbench.orchestration.replay import ReplayReport, RunReplay, diff, forked_asking, replay, replay_all
from workbench.orchestration.steps import Asking, Flow, FlowRun, attribution_plain, plain_json
from workbench.rendering.table import Table
from workbench.telemetry.attribution import current_attribution


class Flows:
    """Durable flows of one project, on a SQLite file or a PostgreSQL server; every call works in a notebook cell too.

    Examples
    --------
    >>> flows = workbench.Flows.open()  # doctest: +SKIP
    >>> flows.run(triage, "It crashes when I save.")  # doctest: +SKIP
    """

    def __init__(self, durable: Durable) -> None:
        self.durable = durable

    @classmethod
    def open(cls, settings: Settings | None = None, *, tools: Mapping[str, Any] | None = None) -> Self:
        """``workbench.Flows.open()``: the flows of this project; a process has them open once.

        Parameters
        ----------
        settings : Settings, optional
            By default those of the project around the working directory.
        tools : mapping of str to object, optional
            Used in place of what flows make under these names, such as a client of your own.
        """
        return cls(Durable.open(settings or load_settings(), tools or {}))

    def close(self) -> None:
        """End: a run that is not finished goes on in another process."""
        self.durable.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, flow: Flow, /, *args: Any, key: str = "", **kwargs: Any) -> Any:
        """``flows.run(answer, "How do I join two frames?")``: run a flow in this process and return its result.

        The same flow with the same arguments, for the same caller, at the same version of its code is the same run:
        one that was cut off goes on, one that is done gives its result at once. A ``key`` makes it another.

        Raises
        ------
        StepFailed, FlowError
            If it fails, or failed before.
        """
        asking = asked_of_flow(self.durable.know(flow), args, kwargs, key)
        handle = self.durable.begin(flow, asking)
        try:
            return self.durable.result(handle)
        except KeyboardInterrupt:  # it would go on in its thread
            self.durable.cancel(flow.run_id(asking))
            raise

    def begin(self, flow: Flow, /, *args: Any, key: str = "", **kwargs: Any) -> str:
        """Begin a run in this process and return its id at once: for a request that is polled with `show`."""
        asking = asked_of_flow(self.durable.know(flow), args, kwargs, key)
        self.durable.begin(flow, asking)
        return flow.run_id(asking)

    def submit(self, flow: Flow, /, *args: Any, key: str = "", **kwargs: Any) -> str:
        """``run_id = flows.submit(answer, "How do I join two frames?")``: let a worker run a flow; see `work`.

        Raises
        ------
        FlowError
            If no worker could import the flow.
        """
        return jobs.submit_job(self.durable, flow, asked_of_flow(flow, args, kwargs, key))

    def wait(self, run_id: str) -> Any:
        """Result of a run, once it is there.

        Raises
        ------
        StepFailed, FlowError
            If it fails.
        """
        return self.durable.wait(run_id)

    def work(self, flows: Sequence[str] = (), *, when_done: bool = False) -> None:
        """Do jobs in this process until it is interrupted, or with ``when_done`` until none is left.

        Parameters
        ----------
        flows : sequence of str, optional
            Flows to work for, ``module:function``; by default all whose jobs wait and that can be imported here.
        """
        jobs.work_on_jobs(self.durable, flows, stop=self.durable.stopped, when_done=when_done)

    def jobs(self, *, limit: int = 100, status: str = "") -> Table:
        """Runs, newest first: how far they are, and what keeps those that wait."""
        return jobs.jobs_table(self.durable, limit=limit, status=status)

    def retry(self, run_id: str, *, here: bool = False) -> str:
        """Do a failed or cancelled run again from the step that failed, in a worker or ``here``; returns its id.

        Where the code of its flow has changed since, it is another run, which begins anew.

        Raises
        ------
        FlowError
            If it has not failed, or its flow is not there.
        """
        return jobs.retry_job(self.durable, run_id, here=here)

    def cancel(self, run_id: str) -> str:
        """End a run before its next step, and return what it was.

        Raises
        ------
        FlowError
            If there is none, or it has ended.
        """
        return jobs.cancel_job(self.durable, run_id)

    def prune(self, before: datetime) -> int:
        """``flows.prune(datetime.now(UTC) - timedelta(days=30))``: delete what ended before; returns how many runs.

        What waits or runs stays. A run that is deleted can no longer be shown, replayed or forked, and is done anew
        when it is asked again.

        Raises
        ------
        FlowError
            If the moment has no time zone.
        """
        if before.tzinfo is None:
            raise FlowError(f"runs are deleted by a moment with a time zone, found {before}; say .replace(tzinfo=UTC)")
        return jobs.prune_jobs(self.durable, before)

    def schedule(self, name: str, cron: str, flow: Flow, /, *args: Any, **kwargs: Any) -> None:
        """``flows.schedule("nightly", "0 3 * * *", ingest, "docs_qa")``: submit a run at every such moment, in UTC.

        While a worker is there: a moment that passes without one is not made up for.

        Raises
        ------
        FlowError
            If the expression is none, or no worker could import the flow.
        """
        jobs.schedule_job(self.durable, name, cron, flow, asked_of_flow(flow, args, kwargs))

    def unschedule(self, name: str) -> None:
        """Delete a schedule."""
        self.durable.unschedule(name)

    def schedules(self) -> Table:
        """Schedules of this project."""
        return jobs.schedules_table(self.durable)

    def replay(self, run_id: str) -> RunReplay:
        """``flows.replay(run_id)``: repeat a run from its record, without network and models, and compare.

        Every step is done again with what it was given, and its model calls are answered from the record; a step
        that is marked with `outside` is compared by what it is asked, and gives what the record has.

        Raises
        ------
        ReplayMismatch
            At the first difference: flow, step, expected, got, likely cause.
        FlowError
            If there is no such run, it has not ended, or its flow is not there any more.
        """
        return replay(self.durable, run_id)

    def replay_all(self, run_ids: Sequence[str] = ()) -> ReplayReport:
        """Repeat all runs that have ended, or those named: what a change of code alters."""
        return replay_all(self.durable, run_ids)

    def fork(
        self,
        run_id: str,
        from_step: int | str,
        *,
        outputs: Mapping[int | str, Any] | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> str:
        """``flows.fork(run_id, "draft", outputs={"retrieve": ["pandas.merge"]})``: go live from a step on.

        Parameters
        ----------
        from_step : int or str
            First step that is done, by number or name; those before it are taken from the record.
        outputs : mapping, optional
            What earlier steps are to have given instead, by number or name.
        arguments : mapping, optional
            Keyword arguments of the flow that are to be others.

        Returns
        -------
        str
            Id of the new run, which has ended.

        Raises
        ------
        StepFailed, FlowError
            If a step is not there, or the new run fails.
        """
        run = self.durable.run(run_id)
        flow = self.durable.flow_of(run.asking.flow)
        asking = forked_asking(run, flow, from_step, outputs or {}, arguments or {})
        self.durable.result(self.durable.begin(flow, asking))
        return flow.run_id(asking)

    def diff(self, one: str, other: str) -> Table:
        """``flows.diff(run_id, fork_id)``: what differs between two runs; ``.to_html()`` writes it for a page."""
        return diff(self.durable.run(one), self.durable.run(other))

    def find(self, begin: str) -> str:
        """Id of the only run whose id begins like this.

        Raises
        ------
        FlowError
            If there is none, or several.
        """
        return self.durable.find(begin)

    def show(self, run_id: str) -> FlowRun:
        """One run with its steps.

        Raises
        ------
        FlowError
            If there is none.
        """
        return self.durable.run(run_id)


def asked_of_flow(flow: Flow, args: tuple[Any, ...], kwargs: Mapping[str, Any], key: str = "") -> Asking:
    """What a run is asked, by the calling code's attribution."""
    given = plain_json({"args": args, "kwargs": kwargs}, f"what flow {flow.short_name!r} is given")
    who = attribution_plain(current_attribution())
    return Asking(flow.name, flow.version, dict(flow.sources), given["args"], given["kwargs"], who, key)
