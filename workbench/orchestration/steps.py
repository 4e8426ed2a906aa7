"""What a flow is: a plain function over plain step functions, with JSON values between them.

The flow gets ``step`` as its first argument and calls every step through it. What ``step`` does with the call is the
business of whoever runs the flow: it records it, hands out what was recorded, or repeats it and compares.
"""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Protocol, Self

from workbench.codec import from_plain
from workbench.config import Settings
from workbench.errors import FlowError
from workbench.inference.call_tapes import taped_calls
from workbench.orchestration.step_tapes import HeardTape, ModelCall
from workbench.orchestration.user_modules import sources_of_function
from workbench.records import content_hash
from workbench.rendering.table import Column, Table, Value
from workbench.rendering.text import cell_html
from workbench.telemetry.attribution import Attribution

Tool = Callable[[Settings], Any]
PER_WORKER = 4
_OUTSIDE = "__workbench_outside__"


class StepCall(Protocol):
    """Performs one step of a flow: ``found = step(retrieve, question, k=5)``."""

    def __call__(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call the function with JSON values, and return its result as JSON has it.

        Raises
        ------
        StepFailed
            If it raises.
        """


@dataclass(frozen=True, slots=True)
class Flow:
    """A flow; made by `flow`.

    Attributes
    ----------
    function : callable
        ``function(step, *args, **kwargs)``: everything that it does happens in its steps, and what it is given and
        returns are JSON values.
    tools : mapping of str to callable
        What steps need beside their arguments, each made of the project's settings when it is first needed: a step
        that has a keyword-only parameter of that name gets it.
    concurrency : int or None
        How many of its jobs run at a time over all workers.
    per_worker : int
        How many of its jobs run at a time in each worker.
    """

    function: Callable[..., Any]
    tools: Mapping[str, Tool] = field(default_factory=dict)
    concurrency: int | None = None
    per_worker: int = PER_WORKER
    _read: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """``module:function``, by which another process imports it."""
        return f"{self.function.__module__}:{self.function.__qualname__}"

    @property
    def short_name(self) -> str:
        """Name of the function."""
        return self.function.__name__

    @property
    def sources(self) -> Mapping[str, str]:
        """Hashes of the code that it rests on, by file; as it was when it was imported."""
        return self._read or sources_of_function(self.function)

    @property
    def version(self) -> str:
        """Hash of the code that it rests on, 12 hexadecimal digits."""
        return flow_version(self.sources)

    def run_id(self, asked: "Asking") -> str:
        """Id of a run: a hash of all that it rests on, so that the same id always means the same run."""
        parts = json.dumps(asked.to_plain(), sort_keys=True, ensure_ascii=False)
        who = f"{asked.who['tenant_id']}:" if asked.who.get("tenant_id") else ""
        return f"{who}{self.short_name}:{content_hash(parts)[:20]}"


def flow_version(sources: Mapping[str, str]) -> str:
    """Version of the code with these hashes."""
    return content_hash(json.dumps(dict(sources), sort_keys=True))[:12]


def flow(
    *, tools: Mapping[str, Tool] | None = None, concurrency: int | None = None, per_worker: int = PER_WORKER
) -> Callable[[Callable[..., Any]], Flow]:
    """``@workbench.flow(tools={"client": workbench.Client.open})``: make a plain function a flow.

    Parameters
    ----------
    tools : mapping of str to callable, optional
        What steps need beside their arguments, each made of the project's `Settings`.
    concurrency : int, optional
        How many of its jobs run at a time over all workers; by default as many as there are workers for.
    per_worker : int
        How many of its jobs run at a time in each worker.

    Raises
    ------
    FlowError
        If the function has no name by which it can be found again, or takes no ``step``.
    """

    def made(function: Callable[..., Any]) -> Flow:
        if "<" in function.__qualname__:
            raise FlowError(
                f"a flow is found again by its name, found {function.__qualname__!r}: define it in a module"
            )
        if next(iter(inspect.signature(function).parameters), None) is None:
            raise FlowError(
                f"flow {function.__qualname__!r} takes no argument; its first one is the step: f(step, ...)"
            )
        read = {} if function.__module__ == "__main__" else sources_of_function(function)
        return Flow(function, dict(tools or {}), concurrency, per_worker, read)

    return made


def outside(operation: str = "") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``@workbench.outside()``: mark a step that looks at the world, such as a search in an index.

    A replay compares what such a step is asked and takes its result from the record; every other step is done again.

    Parameters
    ----------
    operation : str, optional
        What traces call it, by OpenTelemetry's GenAI conventions: ``retrieval``, ``execute_tool``, ``embeddings``.
    """

    def marked(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def step(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        setattr(step, _OUTSIDE, operation)
        return step

    return marked


def is_outside(function: Callable[..., Any]) -> bool:
    """Whether a step is marked with `outside`."""
    return hasattr(function, _OUTSIDE)


def operation_of(function: Callable[..., Any]) -> str:
    """Operation that a step is marked with, empty where it has none."""
    return str(getattr(function, _OUTSIDE, ""))


def plain_json(value: Any, what: str) -> Any:
    """The value as JSON has it: tuples are lists, keys are text.

    Raises
    ------
    FlowError
        If JSON cannot hold it, naming ``what`` it is.
    """
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise FlowError(
            f"{what} must be JSON values, which are what a record can hold, found {type(value).__name__}: {error}. "
            "Hand on plain dicts, lists, texts and numbers, and make what is no value a tool of the flow"
        ) from error


def step_with_tools(function: Callable[..., Any], tool: Callable[[str], Any], names: Sequence[str]) -> dict[str, Any]:
    """Tools for those keyword-only parameters of a step that are named like one."""
    found = inspect.signature(function).parameters.values()
    return {p.name: tool(p.name) for p in found if p.kind is p.KEYWORD_ONLY and p.name in names}


@dataclass(frozen=True, slots=True)
class Asking:
    """What a run was asked, as it is recorded: the flow and its code, its arguments, for whom.

    Attributes
    ----------
    key : str
        Tells apart runs that are otherwise asked the same, such as the id of a request.
    origin : mapping or None
        Of a fork: ``run_id`` and ``from_step``, and ``outputs`` that replace recorded ones, by number of the step.
    """

    flow: str
    version: str
    sources: Mapping[str, str]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    who: Mapping[str, str]
    key: str = ""
    origin: Mapping[str, Any] | None = None

    def to_plain(self) -> dict[str, Any]:
        """JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_plain(cls, row: Mapping[str, Any]) -> Self:
        """Read back what `to_plain` wrote.

        Raises
        ------
        FlowError
            If it is not what this version writes.
        """
        return from_plain(cls, row, "the record of a run is not of this version", error=FlowError)


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step as it was done.

    Attributes
    ----------
    number : int
        From 1.
    inputs : mapping
        ``args`` and ``kwargs``, without tools.
    error : mapping or None
        ``kind`` and ``reason`` of what it raised.
    calls : sequence of int
        Places of its model calls among those of the run.
    started_ms, ended_ms : int
        Milliseconds since 1970, UTC.
    """

    number: int
    name: str
    inputs: Mapping[str, Any]
    output: Any
    error: Mapping[str, str] | None
    calls: Sequence[int]
    started_ms: int = 0
    ended_ms: int = 0

    @property
    def took_ms(self) -> int:
        """Milliseconds from start to end."""
        return self.ended_ms - self.started_ms


STATUSES = ("waiting", "running", "done", "failed", "cancelled")


@dataclass(frozen=True, slots=True, repr=False)
class FlowRun:
    """One run of a flow, with its steps, out of the database.

    Attributes
    ----------
    status : {"waiting", "running", "done", "failed", "cancelled"}
        Of a run that is done, ``result`` holds what the flow returned; of a failed one, ``error`` says why.
    executor, queue : str
        Process that has it or had it last, and queue out of which it came.
    created_ms, ended_ms : int
        Milliseconds since 1970, UTC; 0 where it has not ended.
    calls : mapping of int to ModelCall
        Its model calls by place, of a run that is held in memory; those of others stay in the database.
    """

    run_id: str
    asking: Asking
    status: str
    result: Any = None
    error: str = ""
    trace_id: str = ""
    executor: str = ""
    queue: str = ""
    created_ms: int = 0
    ended_ms: int = 0
    steps: Sequence[StepRecord] = ()
    calls: Mapping[int, ModelCall] = field(default_factory=dict)

    def table(self) -> Table:
        """Steps with their inputs and outputs; above them what was asked, below what it came to."""
        rows: list[tuple[Value, ...]] = [(None, "asked", None, _flow_text(self.asking.args, self.asking.kwargs), None)]
        for s in self.steps:
            came = f"{s.error['kind']}: {s.error['reason']}" if s.error else _flow_text([s.output], {})
            rows.append((s.number, s.name, s.took_ms, _flow_text(s.inputs["args"], s.inputs["kwargs"]), came))
        rows.append((None, self.status, None, None, self.error or _flow_text([self.result], {})))
        columns = (
            Column("number", "count"), Column("step"), Column("ms", "ms"), Column("given"), Column("came to"),
        )  # fmt: skip
        return Table(columns, tuple(rows), f"{self.run_id}: {self.asking.flow} at version {self.asking.version}")

    def text(self) -> str:
        """Table as plain text."""
        return self.table().to_text()

    def _repr_html_(self) -> str:
        return cell_html(self.table().to_html())

    def __repr__(self) -> str:
        return self.text()


def rehearse(flow: Flow, tools: Mapping[str, Any], *args: Any, **kwargs: Any) -> FlowRun:
    """``rehearse(answer, {"client": client}, "How do I join two frames?")``: run a flow in memory, nothing durable.

    For measuring many runs and for tests; a step that raises raises here as it is. The record is whole, with what
    models answered, so that `workbench.orchestration.replay.shown_replay` repeats it.
    """
    steps, calls = list[StepRecord](), dict[int, ModelCall]()

    def step(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        name = function.__name__
        inputs = plain_json({"args": args, "kwargs": kwargs}, f"what step {name!r} is given")
        given = {**step_with_tools(function, lambda tool: tools[tool], list(tools)), **inputs["kwargs"]}
        tape = HeardTape(calls, len(steps) + 1)
        with taped_calls(tape):
            output = plain_json(function(*inputs["args"], **given), f"what step {name!r} returns")
        steps.append(StepRecord(len(steps) + 1, name, inputs, output, None, tuple(tape.used)))
        return output

    asked = plain_json({"args": args, "kwargs": kwargs}, f"what flow {flow.short_name!r} is given")
    result = plain_json(
        flow.function(step, *asked["args"], **asked["kwargs"]), f"what flow {flow.short_name!r} returns"
    )
    asking = Asking(flow.name, flow.version, dict(flow.sources), asked["args"], asked["kwargs"], {})
    return FlowRun(flow.run_id(asking), asking, "done", result, steps=tuple(steps), calls=calls)


def attribution_plain(who: Attribution) -> dict[str, str]:
    """Attribution as it is recorded, without what is empty."""
    names = ("tenant_id", "user_id", "feature", "purpose", "item_id")
    return {name: value for name in names if (value := getattr(who, name))}


def _flow_text(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    shown = [json.dumps(value, ensure_ascii=False) for value in args]
    return ", ".join([*shown, *(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in kwargs.items())])
