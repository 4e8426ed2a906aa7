"""A recorded run done again without network and models, compared step by step; forked; compared with another run."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

from workbench.errors import FlowError, OfflineError, RecordingMiss, ReplayMismatch, StepFailed
from workbench.inference.tapes import offline, taped
from workbench.orchestration.durable import Durable
from workbench.orchestration.live_step import returned
from workbench.orchestration.step_calls import ModelCall, RecordedTape, calls_of
from workbench.orchestration.steps import Asking, Flow, FlowRun, StepRecord, is_outside, plain, with_tools
from workbench.rendering.table import Column, Table
from workbench.telemetry.context import attributed

_LIMIT = 2000


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
    step = RecordedStep(durable, flow, run, calls_of(durable.engine, run_id))
    error = ""
    result = None
    with attributed(**run.asking.who), offline():
        try:
            result = returned(flow, step, run.asking)
        except FlowError as raised:  # a mismatch too
            error = str(raised)
    if step.mismatch is not None:  # also where the flow caught it
        raise step.mismatch
    step.compare_end(result, error)
    return RunReplay(run_id, flow.name, len(run.steps), step.again, result)


class RecordedStep:
    """What a flow calls its steps through while it is repeated.

    Attributes
    ----------
    again : int
        Steps that were done again.
    mismatch : ReplayMismatch or None
        The first difference, which the flow may have caught.
    """

    def __init__(self, durable: Durable, flow: Flow, run: FlowRun, calls: Mapping[int, ModelCall]) -> None:
        self._durable, self._flow, self._run, self._calls = durable, flow, run, calls
        self._number = self.again = 0
        self.mismatch: ReplayMismatch | None = None

    def __call__(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Do one step again, or read it, and compare."""
        if self.mismatch is not None:
            raise self.mismatch
        self._number += 1
        name, run = function.__name__, self._run
        if self._number > len(run.steps):
            raise self._differs(name, "length", f"an end after {len(run.steps)} steps", f"a further step {name!r}")
        before = run.steps[self._number - 1]
        if before.name != name:
            raise self._differs(before.name, "name", before.name, name)
        inputs = plain({"args": args, "kwargs": kwargs}, f"what step {name!r} is given")
        if inputs != before.inputs:
            raise self._differs(name, "inputs", before.inputs, inputs)
        if is_outside(function) or self._is_copy(before):
            return self._read(before)
        return self._repeat(function, before)

    def _repeat(self, function: Callable[..., Any], before: StepRecord) -> Any:
        name, inputs, durable = before.name, before.inputs, self._durable
        self.again += 1
        tape = RecordedTape.of(self._run.run_id, self._calls, before.calls)
        output, error = None, None
        try:
            with taped(tape):
                given = with_tools(function, lambda tool: durable.tool(self._flow, tool), list(self._flow.tools))
                output = plain(
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
                name, "model calls", f"{len(before.calls)} calls", f"{len(before.calls) - len(tape.left)}"
            )
        return self._read(before)

    def _read(self, before: StepRecord) -> Any:
        if before.error:
            raise StepFailed(before.name, before.error["kind"], before.error["reason"], run_id=self._run.run_id)
        return before.output

    def _is_copy(self, before: StepRecord) -> bool:
        """Whether a step was taken over from the run that was forked, perhaps with another output."""
        origin = self._run.asking.origin
        return origin is not None and before.number < origin["from_step"]

    def compare_end(self, result: Any, error: str) -> None:
        """Compare what the flow came to.

        Raises
        ------
        ReplayMismatch
            If it is another result, or came after fewer steps.
        """
        run = self._run
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
            self._flow.name,
            step,
            number=self._number,
            what=what,
            expected=expected,
            got=got,
            cause=self._cause(step, what),
            run_id=self._run.run_id,
        )
        return self.mismatch

    def _cause(self, step: str, what: str) -> str:
        """What explains a difference most likely: which code has changed since, and where it takes effect."""
        then, now = self._run.asking.sources, self._flow.sources
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
        return Table(columns, tuple(rows), f"{len(self.same)} of {n} recorded runs are repeated")

    def _repr_html_(self) -> str:
        return self.table().to_html()

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


def forked(
    run: FlowRun, flow: Flow, from_step: int | str, outputs: Mapping[int | str, Any], arguments: Mapping[str, Any]
) -> Asking:
    """What a fork is asked: the same as its origin, but for what is replaced.

    Raises
    ------
    FlowError
        If a step is not there, or is replaced that is not before the fork.
    """
    start = _number(run, from_step)
    replaced = {_number(run, name): plain(value, f"the output of {name!r}") for name, value in outputs.items()}
    if late := sorted(number for number in replaced if number >= start):
        raise FlowError(
            f"a fork of {run.run_id} from step {start} does step {late[0]} itself, so its output cannot be given; give "
            "outputs of earlier steps, or fork from a later one",
            run_id=run.run_id,
        )
    origin = {"run_id": run.run_id, "from_step": start, "outputs": {str(n): v for n, v in replaced.items()}}
    kwargs = {**run.asking.kwargs, **plain(dict(arguments), "the arguments of a fork")}
    return replace(run.asking, version=flow.version, sources=dict(flow.sources), kwargs=kwargs, origin=origin)


def _number(run: FlowRun, step: int | str) -> int:
    """Number of a step that is given by number or name; by name the first of that name."""
    found = next((s.number for s in run.steps if step in (s.number, s.name)), None)
    if found is None:
        told = ", ".join(f"{s.number} {s.name}" for s in run.steps)
        raise FlowError(f"run {run.run_id} has no step {step!r}; it has: {told or 'none'}", run_id=run.run_id)
    return found


def diff(one: FlowRun, other: FlowRun) -> Table:
    """What differs between two runs, step by step: a table that shows itself in a notebook and writes HTML."""
    rows: list[tuple[str, str, str | None, str | None]] = []

    def compare(where: str, what: str, a: Any, b: Any) -> None:
        rows.extend((where, f"{what}{path}", _text(x), _text(y)) for path, x, y in differences(a, b))

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
    columns = (Column("step"), Column("what"), Column(one.run_id, limit=_LIMIT), Column(other.run_id, limit=_LIMIT))
    same = "" if rows else ": they are the same"
    return Table(columns, tuple(rows), f"{one.run_id} and {other.run_id}{same}")


_ABSENT = object()


def differences(a: Any, b: Any, path: str = "") -> Iterable[tuple[str, Any, Any]]:
    """Places at which two JSON values differ, with what stands there.

    >>> list(differences({"x": [1, 2], "y": 3}, {"x": [1, 5], "y": 3}))
    [('.x[1]', 2, 5)]
    """
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in [*a, *(k for k in b if k not in a)]:
            yield from differences(a.get(key, _ABSENT), b.get(key, _ABSENT), f"{path}.{key}")
    elif isinstance(a, list) and isinstance(b, list):
        for place, (x, y) in enumerate(zip_longest(a, b, fillvalue=_ABSENT)):
            yield from differences(x, y, f"{path}[{place}]")
    elif a != b:
        yield path, a, b


def _text(value: Any) -> str | None:
    if value is _ABSENT:
        return None
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
