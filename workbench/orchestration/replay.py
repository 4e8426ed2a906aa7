"""A recorded run done again without network and models, compared step by step; forked; compared with another run."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

from workbench.errors import FlowError, OfflineError, RecordingMiss, ReplayMismatch, StepFailed
from workbench.inference.call_tapes import offline, taped_calls
from workbench.orchestration.durable import Durable
from workbench.orchestration.live_step import flow_result_as_json
from workbench.orchestration.step_tapes import RecordedTape, step_calls_of
from workbench.orchestration.steps import Asking, Flow, FlowRun, StepRecord, is_outside, plain_json, step_with_tools
from workbench.rendering.numbers import counted
from workbench.rendering.table import Column, Shown, Table, Value
from workbench.rendering.text import cell_html
from workbench.telemetry.attribution import attributed

_CHARACTERS_SHOWN = 2000


@dataclass(frozen=True, slots=True)
class RunReplay:
    """A run that was repeated: ``steps`` were compared, of which ``again`` were done again, not read."""

    run_id: str
    flow: str
    steps: int
    again: int
    result: Any


def replay(durable: Durable, run_id: str) -> RunReplay:
    """Repeat a run from its record, with network and models refused, and compare it step by step.

    Every step is done again with what it was given; its model calls are answered from the record. A step that is
    marked `outside` is compared by what it is asked, and gives what the record has.

    Raises
    ------
    ReplayMismatch
        At the first difference, saying what explains it most likely.
    FlowError
        If there is no such run, it has not ended, or its flow is not there any more.
    """
    run = durable.run(run_id)
    if run.status not in ("done", "failed"):
        raise FlowError(f"run {run_id} is {run.status}; a run is repeated once it has ended", run_id=run_id)
    flow = durable.flow_of(run.asking.flow)
    return _replay_step(ReplayedStep(flow, replace(run, calls=step_calls_of(durable.engine, run_id)), durable.tool))


def _replay_step(step: "ReplayedStep") -> RunReplay:
    flow, run, error = step.flow, step.run, ""
    result = None
    with attributed(**run.asking.who), offline():
        try:
            result = flow_result_as_json(flow, step, run.asking)
        except FlowError as raised:  # a mismatch too
            error = str(raised)
    if step.mismatch is not None:  # also where the flow caught it
        raise step.mismatch
    step.compare_end(result, error)
    return RunReplay(run.run_id, flow.name, len(run.steps), step.again, result)


@dataclass(frozen=True, slots=True, repr=False)
class ShownReplay(Shown):
    """A run that was repeated from its record, step by step: equal, or the step that differs.

    Attributes
    ----------
    done : frozenset of int
        Numbers of the steps that were done again, their model calls answered from the record; others were read.
    mismatch : ReplayMismatch or None
        The first difference; None where every step and the result are equal.
    """

    run: FlowRun
    title: str
    done: frozenset[int]
    mismatch: ReplayMismatch | None = None

    @property
    def equal(self) -> bool:
        """Whether every step and the result came out as they are recorded."""
        return self.mismatch is None

    @property
    def table(self) -> Table:
        """Every step with what is recorded, and what came now."""
        differs, rows = self.mismatch, list[tuple[Value, ...]]()
        reached = len(self.run.steps) if differs is None else differs.number
        for s in self.run.steps:
            how = "done again" if s.number in self.done else "read from the record"
            now = "equal" if s.number <= reached else None
            if differs is not None and differs.step and s.number == reached:
                how, now = how if s.number in self.done else "asked otherwise", self._told()
            recorded = _step_output_text(s.output) if s.error is None else f"{s.error['kind']}: {s.error['reason']}"
            rows.append((s.number, s.name, how if s.number <= reached else "not reached", len(s.calls), recorded, now))
        if differs is not None and reached > len(self.run.steps):
            rows.append((reached, differs.step, "not in the record", None, None, self._told()))
        ended = "equal" if differs is None else None if differs.step else self._told()
        rows.append((None, self.run.status, None, None, self.run.error or _step_output_text(self.run.result), ended))
        columns = (Column("number", "count"), Column("step"), Column("how"), Column("model calls", "count"),
                   Column("recorded"), Column("now"))  # fmt: skip
        return Table(columns, tuple(rows), self._caption())

    def _told(self) -> str:
        assert self.mismatch is not None
        return f"differs in {self.mismatch.what}: {_step_output_text(self.mismatch.got)}"

    def _caption(self) -> str:
        began = f"{self.title}: repeated from its record, models and network refused"
        if self.mismatch is None:
            return f"{began}. Equal at each of {counted(len(self.run.steps), 'step')}"
        where = f"step {self.mismatch.number}, {self.mismatch.step}" if self.mismatch.step else "the result"
        return f"{began}. {where} differs. {self.mismatch.cause}"


def shown_replay(flow: Flow, run: FlowRun, tools: Mapping[str, Any], *, title: str = "") -> ShownReplay:
    """``shown_replay(answer, rehearse(answer, tools, "Why?"), tools)``: repeat a run that is held in memory.

    As `replay`, but a difference is shown and not raised.

    Parameters
    ----------
    run : FlowRun
        With its model calls, as `workbench.orchestration.steps.rehearse` gives it.
    tools : mapping of str to object
        What steps need beside their arguments; a client is asked for nothing that is not in the record.

    Raises
    ------
    FlowError
        If the record has not ended, or a tool is missing.
    """
    if missing := [name for name in flow.tools if name not in tools]:
        raise FlowError(f"flow {flow.short_name!r} needs the tools {', '.join(missing)} too; give them by name")
    step = ReplayedStep(flow, run, lambda _, name: tools[name])
    mismatch = None
    try:
        _replay_step(step)
    except ReplayMismatch as differs:
        mismatch = differs
    return ShownReplay(run, title or run.run_id, frozenset(step.done), mismatch)


class ReplayedStep:
    """What a flow calls its steps through while it is repeated.

    Parameters
    ----------
    run : FlowRun
        The record, with its model calls.
    tool : callable
        Tool of a flow by its name.

    Attributes
    ----------
    done : list of int
        Numbers of the steps that were done again.
    mismatch : ReplayMismatch or None
        The first difference, which the flow may have caught.
    """

    def __init__(self, flow: Flow, run: FlowRun, tool: Callable[[Flow, str], Any]) -> None:
        self.flow, self.run, self._tool = flow, run, tool
        self._number, self.done = 0, list[int]()
        self.mismatch: ReplayMismatch | None = None

    @property
    def again(self) -> int:
        """How many steps were done again."""
        return len(self.done)

    def __call__(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Do one step again, or read it, and compare."""
        if self.mismatch is not None:
            raise self.mismatch
        self._number += 1
        name, run = function.__name__, self.run
        if self._number > len(run.steps):
            raise self._differs(
                name, "length", f"an end after {counted(len(run.steps), 'step')}", f"a further step {name!r}"
            )
        before = run.steps[self._number - 1]
        if before.name != name:
            raise self._differs(before.name, "name", before.name, name)
        inputs = plain_json({"args": args, "kwargs": kwargs}, f"what step {name!r} is given")
        if inputs != before.inputs:
            raise self._differs(name, "inputs", before.inputs, inputs)
        if is_outside(function) or self._is_copy(before):
            return self._read(before)
        return self._repeat(function, before)

    def _repeat(self, function: Callable[..., Any], before: StepRecord) -> Any:
        name, inputs = before.name, before.inputs
        self.done.append(before.number)
        tape = RecordedTape.of(self.run.run_id, self.run.calls, before.calls)
        output, error = None, None
        try:
            with taped_calls(tape):
                given = step_with_tools(function, lambda tool: self._tool(self.flow, tool), list(self.flow.tools))
                output = plain_json(
                    function(*inputs["args"], **{**given, **inputs["kwargs"]}), f"what step {name!r} returns"
                )
        except (RecordingMiss, OfflineError) as refused:
            what = "model calls" if isinstance(refused, RecordingMiss) else "output"
            got = f"{type(refused).__name__}: {refused}"
            raise self._differs(name, what, before.error or before.output, got) from refused
        except Exception as raised:  # noqa: BLE001  the boundary to code that is not ours: its error is compared
            error = {"kind": type(raised).__name__, "reason": str(raised)}
        if error != before.error:
            raise self._differs(name, "error", before.error or before.output, error or output)
        if output != before.output:
            raise self._differs(name, "output", before.output, output)
        if tape.left:
            raise self._differs(
                name, "model calls", f"{counted(len(before.calls), 'call')}", f"{len(before.calls) - len(tape.left)}"
            )
        return self._read(before)

    def _read(self, before: StepRecord) -> Any:
        if before.error:
            raise StepFailed(before.name, before.error["kind"], before.error["reason"], run_id=self.run.run_id)
        return before.output

    def _is_copy(self, before: StepRecord) -> bool:
        """Whether a step was taken over from the run that was forked, perhaps with another output."""
        origin = self.run.asking.origin
        return origin is not None and before.number < origin["from_step"]

    def compare_end(self, result: Any, error: str) -> None:
        """Compare what the flow came to.

        Raises
        ------
        ReplayMismatch
            If it is another result, or came after fewer steps.
        """
        run = self.run
        if self._number < len(run.steps):
            left = run.steps[self._number]
            self._number += 1
            raise self._differs(left.name, "length", f"step {left.name!r}", "the end of the flow")
        if error != run.error:
            raise self._differs("", "error", run.error or run.result, error or result)
        if result != run.result:
            raise self._differs("", "result", run.result, result)

    def _differs(self, step: str, what: str, expected: Any, got: Any) -> ReplayMismatch:
        self.mismatch = ReplayMismatch(
            self.flow.name,
            step,
            number=self._number,
            what=what,
            expected=expected,
            got=got,
            cause=self._cause(step, what),
            run_id=self.run.run_id,
        )
        return self.mismatch

    def _cause(self, step: str, what: str) -> str:
        """What explains a difference most likely: which code has changed since, and where it takes effect."""
        then, now = self.run.asking.sources, self.flow.sources
        changed = sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))
        place = {
            "name": "the flow takes another way",
            "length": "the flow takes another way",
            "inputs": f"the flow hands {step!r} something else, although all steps before gave the same",
            "output": f"{step!r} does something else with the same inputs and the same answers of models",
            "error": f"{step!r} does something else with the same inputs and the same answers of models",
            "model calls": f"{step!r} asks models something else: its prompt, model or parameters",
            "result": "the flow makes another result of the same steps",
        }[what]
        if what == "error" and not step:
            place = "the flow ends in another way after the same steps"
        if changed:
            return f"Likely cause: {', '.join(changed)} changed since the record was made, so that {place}."
        return (
            f"Likely cause: {place}, and none of its files has changed; what it reads beside its inputs may have, such "
            "as a file, the time, a random number, a library or the package itself. Mark a step that looks at the "
            "world with @workbench.outside()"
        )


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What came of repeating several runs: those that are repeated, and why each of the others is not."""

    same: Sequence[RunReplay]
    different: Mapping[str, FlowError]

    def table(self) -> Table:
        """One row for each run that is not repeated."""
        rows = []
        for run_id, error in self.different.items():
            found = (error.number, error.step, error.what) if isinstance(error, ReplayMismatch) else (None, "", "")
            rows.append((run_id, *found, str(error)))
        columns = (Column("run"), Column("number", "count"), Column("step"), Column("differs"), Column("why"))
        n = len(self.same) + len(rows)
        return Table(
            columns, tuple(rows), f"{len(self.same)} of {counted(n, 'recorded run is', 'recorded runs are')} repeated"
        )

    def _repr_html_(self) -> str:
        return cell_html(self.table().to_html())

    def __repr__(self) -> str:
        return self.table().to_text()


def replay_all(durable: Durable, run_ids: Iterable[str] = ()) -> ReplayReport:
    """Repeat all runs that have ended, or those named."""
    wanted = list(run_ids) or [run.run_id for run in durable.runs() if run.status in ("done", "failed")]
    same, different = [], {}
    for run_id in wanted:
        try:
            same.append(replay(durable, run_id))
        except FlowError as error:
            different[run_id] = error
    return ReplayReport(same, different)


def forked_asking(
    run: FlowRun, flow: Flow, from_step: int | str, outputs: Mapping[int | str, Any], arguments: Mapping[str, Any]
) -> Asking:
    """What a fork is asked: the same as its origin, but for what is replaced.

    Raises
    ------
    FlowError
        If a step is not there, or is replaced that is not before the fork.
    """
    start = _forked_step_number(run, from_step)
    replaced = {
        _forked_step_number(run, name): plain_json(value, f"the output of {name!r}") for name, value in outputs.items()
    }
    if late := sorted(number for number in replaced if number >= start):
        raise FlowError(
            f"a fork of {run.run_id} from step {start} does step {late[0]} itself, so its output cannot be given; give "
            "outputs of earlier steps, or fork from a later one",
            run_id=run.run_id,
        )
    origin = {"run_id": run.run_id, "from_step": start, "outputs": {str(n): v for n, v in replaced.items()}}
    kwargs = {**run.asking.kwargs, **plain_json(dict(arguments), "the arguments of a fork")}
    return replace(run.asking, version=flow.version, sources=dict(flow.sources), kwargs=kwargs, origin=origin)


def _forked_step_number(run: FlowRun, step: int | str) -> int:
    """Number of a step that is given by number or name; by name the first of that name."""
    found = next((s.number for s in run.steps if step in (s.number, s.name)), None)
    if found is None:
        told = ", ".join(f"{s.number} {s.name}" for s in run.steps)
        raise FlowError(f"run {run.run_id} has no step {step!r}; it has: {told or 'none'}", run_id=run.run_id)
    return found


def diff(one: FlowRun, other: FlowRun, *, names: tuple[str, str] | None = None, title: str = "") -> Table:
    """What differs between two runs, step by step: a table that shows itself in a notebook and writes HTML.

    ``names`` stand above them in place of their ids, and ``title`` before.
    """
    rows: list[tuple[str, str, str | None, str | None]] = []

    def compare(where: str, what: str, a: Any, b: Any) -> None:
        rows.extend(
            (where, f"{what}{path}", _step_output_text(x), _step_output_text(y))
            for path, x, y in replay_differences(a, b)
        )

    for name in ("flow", "version", "args", "kwargs", "who"):
        compare("asked", name, getattr(one.asking, name), getattr(other.asking, name))
    for a, b in zip_longest(one.steps, other.steps):
        there = a or b
        where = f"{there.number} {there.name}"
        if a is None or b is None or a.name != b.name:
            rows.append((where, "step", a.name if a else None, b.name if b else None))
            continue
        for name in ("inputs", "output", "error"):
            compare(where, name, getattr(a, name), getattr(b, name))
    for name in ("status", "result", "error"):
        compare("end", name, getattr(one, name), getattr(other, name))
    first, second = names or (one.run_id, other.run_id)
    columns = (
        Column("step"),
        Column("what"),
        Column(first, limit=_CHARACTERS_SHOWN),
        Column(second, limit=_CHARACTERS_SHOWN),
    )
    same = "" if rows else ": they are the same"
    return Table(columns, tuple(rows), f"{title}{first} and {second}{same}")


_ABSENT = object()


def replay_differences(a: Any, b: Any, path: str = "") -> Iterable[tuple[str, Any, Any]]:
    """Places at which two JSON values differ, with what stands there.

    >>> list(replay_differences({"x": [1, 2], "y": 3}, {"x": [1, 5], "y": 3}))
    [('.x[1]', 2, 5)]
    """
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in [*a, *(k for k in b if k not in a)]:
            yield from replay_differences(a.get(key, _ABSENT), b.get(key, _ABSENT), f"{path}.{key}")
    elif isinstance(a, list) and isinstance(b, list):
        for place, (x, y) in enumerate(zip_longest(a, b, fillvalue=_ABSENT)):
            yield from replay_differences(x, y, f"{path}[{place}]")
    elif a != b:
        yield path, a, b


def _step_output_text(value: Any) -> str | None:
    if value is _ABSENT:
        return None
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
