"""What a flow calls its steps through while it is run: each step is done once, recorded, and traced."""

import contextvars
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from workbench.errors import FlowError, StepFailed
from workbench.inference.call_tapes import taped_calls
from workbench.orchestration.runs_database import is_outage_outlived
from workbench.orchestration.step_tapes import LiveTape, tell_step_progress
from workbench.orchestration.steps import Asking, Flow, StepCall, operation_of, plain_json, step_with_tools
from workbench.telemetry.spans import Span

if TYPE_CHECKING:
    from workbench.orchestration.durable import Durable

EXECUTE_TOOL, RETRIEVAL = "execute_tool", "retrieval"
CUTS = 20  # of connections within one step, each after which it is done again; a server that cuts more refuses it


def flow_result_as_json(flow: Flow, step: StepCall, asking: Asking) -> Any:
    """Result of a flow as JSON has it.

    Raises
    ------
    FlowError
        If the flow raises, outside of its steps too: records keep no classes.
    """
    try:
        found = flow.function(step, *asking.args, **asking.kwargs)
        return plain_json(found, f"what flow {flow.short_name!r} returns")
    except FlowError:
        raise
    except Exception as error:
        raise FlowError(f"{type(error).__name__}: {error}") from error


class LiveStep:
    """What a flow calls its steps through while it is run: each is done once, whatever becomes of the process."""

    def __init__(self, durable: "Durable", flow: Flow, asking: Asking, run_id: str) -> None:
        self._durable, self._flow, self._asking, self._run_id = durable, flow, asking, run_id
        self._number = 0

    def __call__(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Do one step, or hand out what came of it before."""
        self._number += 1
        name, number = function.__name__, self._number
        inputs = plain_json({"args": args, "kwargs": kwargs}, f"what step {name!r} is given")
        record = self._durable.once(name, lambda: self._done(function, inputs, number))
        return record["output"]

    def _done(self, function: Callable[..., Any], inputs: dict[str, Any], number: int) -> dict[str, Any]:
        if (copied := self._copied(number, function.__name__)) is not None:
            return copied
        cuts = 0
        while True:
            began = time.monotonic()
            try:
                return self._attempted(function, inputs, number)
            except StepFailed as failed:
                cuts += 1
                lost = failed.__cause__
                if cuts > CUTS or not is_outage_outlived(lost, self._durable.engine, began, self._durable.stopped):
                    raise

    def _attempted(self, function: Callable[..., Any], inputs: dict[str, Any], number: int) -> dict[str, Any]:
        name, run_id, durable = function.__name__, self._run_id, self._durable
        tape = LiveTape(durable.engine, run_id, number)
        try:
            with self._span(function, inputs, number) as span, taped_calls(tape), _at_step(durable, run_id):
                given = step_with_tools(function, lambda tool: durable.tool(self._flow, tool), list(self._flow.tools))
                output = plain_json(
                    function(*inputs["args"], **{**given, **inputs["kwargs"]}), f"what step {name!r} returns"
                )
                _tell_step_output(span, function, output)
        except Exception as error:
            record = {"inputs": inputs, "calls": tape.used}
            raise StepFailed(name, type(error).__name__, str(error), run_id=run_id, record=record) from error
        return {"inputs": inputs, "output": output, "calls": tape.used}

    @contextmanager
    def _span(self, function: Callable[..., Any], inputs: dict[str, Any], number: int) -> Iterator[Span]:
        """Span of one step, by its operation's conventions."""
        name, operation = function.__name__, operation_of(function)
        told = {"wb.workflow_id": self._run_id, "wb.step_id": f"{number}"}
        if operation == EXECUTE_TOOL:
            told |= {"gen_ai.tool.name": name, "gen_ai.tool.call.id": f"{self._run_id}/{number}"}
        with self._durable.tracing.span(f"{operation or 'step'} {name}", operation, told) as span:
            span.content("gen_ai.tool.call.arguments" if operation == EXECUTE_TOOL else "input.value", inputs)
            if operation == RETRIEVAL:
                span.content("gen_ai.retrieval.query.text", _step_question(inputs))
            yield span

    def _copied(self, number: int, name: str) -> dict[str, Any] | None:
        """Of a fork, the record of a step before the fork, with what replaces its output; None for any other step."""
        origin = self._asking.origin
        if origin is None or number >= origin["from_step"]:
            return None
        before = next((s for s in self._durable.run(origin["run_id"]).steps if s.number == number), None)
        if before is None or before.name != name or before.error:
            found = "none" if before is None else f"{before.name!r}{' which failed' if before.error else ''}"
            raise FlowError(
                f"a fork of {origin['run_id']} from step {origin['from_step']} takes steps before it from the record, "
                f"and asks for {name!r} as step {number}, found {found}: fork from an earlier step",
                run_id=self._run_id,
            )
        output = origin["outputs"].get(str(number), before.output)
        return {"inputs": dict(before.inputs), "output": output, "calls": [], "copied": True}


def _tell_step_output(span: Span, function: Callable[..., Any], output: Any) -> None:
    operation = operation_of(function)
    span.content("gen_ai.tool.call.result" if operation == EXECUTE_TOOL else "output.value", output)
    if operation == RETRIEVAL:
        span.content("gen_ai.retrieval.documents", found_documents_span(output))


def _step_question(inputs: Mapping[str, Any]) -> str | None:
    """What a step was asked: the first text that it was given."""
    given = (*inputs["args"], *inputs["kwargs"].values())
    return next((value for value in given if isinstance(value, str)), None)


def found_documents_span(output: Any) -> list[dict[str, Any]] | None:
    """Documents that a step found, as OpenTelemetry's retrieval spans hold them; None of an output of another form.

    >>> found_documents_span(["a", "b"]), found_documents_span([["a", 1]])
    ([{'id': 'a'}, {'id': 'b'}], [{'id': 'a', 'score': 1}])
    >>> found_documents_span([{"doc_id": "a", "score": 0.5}])
    [{'id': 'a', 'score': 0.5}]
    >>> found_documents_span({"answer": "a"}), found_documents_span([1])
    (None, None)
    """
    found = list[dict[str, Any]]()
    for row in output if isinstance(output, list) else [None]:
        match row:
            case str(name) | [str(name)]:
                found.append({"id": name})
            case {"doc_id": str(name), "score": score} | {"id": str(name), "score": score} | [str(name), score]:
                found.append({"id": name, "score": score})
            case {"doc_id": str(name)} | {"id": str(name)}:
                found.append({"id": name})
            case _:
                return None
    return found


_AT: contextvars.ContextVar["tuple[Durable, str] | None"] = contextvars.ContextVar("wb_run", default=None)


@contextmanager
def _at_step(durable: "Durable", run_id: str) -> Iterator[None]:
    token = _AT.set((durable, run_id))
    try:
        yield
    finally:
        _AT.reset(token)


def progress(label: str, done: int, total: int) -> None:
    """``workbench.orchestration.live_step.progress("documents", 120, 5948)``: say how far a step has come.

    Outside of a run it says nothing to nobody.
    """
    if (at := _AT.get()) is not None:
        tell_step_progress(at[0].engine, at[1], label, done, total)
