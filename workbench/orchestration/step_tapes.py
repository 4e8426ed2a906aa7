"""Model calls of steps on tapes, each written down as it ends, and how far a step has come: what a kill leaves behind.

A step that is cut off is done again from its beginning, but what models had answered in it is paid: the second time
these answers come from here.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

import workbench.errors
from workbench.codec import from_plain, to_plain
from workbench.errors import FlowError, RecordingMiss, WorkbenchError
from workbench.inference.call_tapes import asked_again, current_tape
from workbench.inference.messages import Completion
from workbench.state import create_tables, reading_engine

_TABLES = sa.MetaData()
_CALLS = sa.Table(
    "wb_step_calls",
    _TABLES,
    sa.Column("run_id", sa.String(300), primary_key=True),
    sa.Column("place", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("request", sa.String(64), nullable=False),
    sa.Column("configuration", sa.Text, nullable=False),
    sa.Column("answer", sa.Text, nullable=False),  # empty while the models are being asked
)
_PROGRESS = sa.Table(
    "wb_progress",
    _TABLES,
    sa.Column("run_id", sa.String(300), primary_key=True),
    sa.Column("label", sa.Text, nullable=False),
    sa.Column("done", sa.Integer, nullable=False),
    sa.Column("total", sa.Integer, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)


@dataclass(frozen=True, slots=True)
class ModelCall:
    """One model call of a run: what was asked, and the answer or the error; neither where it was cut off."""

    place: int
    step: int
    request: str
    configuration: str
    done: Mapping[str, Any] | None
    error: Mapping[str, str] | None


def create_step_calls(engine: sa.Engine) -> None:
    """Create the tables that are not there yet."""
    create_tables(engine, _CALLS, _PROGRESS)


def step_calls_of(engine: sa.Engine, run_id: str) -> dict[int, ModelCall]:
    """Model calls of a run, by place."""
    with reading_engine(engine).begin() as connection:
        rows = connection.execute(sa.select(_CALLS).where(_CALLS.c.run_id == run_id).order_by(_CALLS.c.place)).all()
    return {row.place: _step_model_call(row) for row in rows}


def _step_model_call(row: sa.Row[Any]) -> ModelCall:
    answer = json.loads(row.answer) if row.answer else {}
    return ModelCall(row.place, row.step, row.request, row.configuration, answer.get("done"), answer.get("error"))


class LiveTape:
    """Tape of a step that is being done: writes each call down when it begins and when it ends.

    Parameters
    ----------
    engine : sqlalchemy.Engine
        Database of the runs.
    run_id, step : str, int
        The run, and the number of the step in it.
    """

    def __init__(self, engine: sa.Engine, run_id: str, step: int) -> None:
        self._engine, self._run_id, self._step = engine, run_id, step
        self._lock = threading.Lock()
        self._kept: list[ModelCall] | None = None  # of an earlier attempt at this step, not yet used
        self._next, self._cut_off = 0, 0
        self.used: list[int] = []

    def answer(self, request: Callable[[str], str], ask: Callable[[], Completion]) -> Completion:
        """Answer that an earlier attempt at this step was given, or that of ``ask``, which is kept."""
        with self._lock:
            if self._kept is None:
                self._load()
            if (kept := self._take(request)) is not None and kept.done is not None:
                self.used.append(kept.place)
                return _taped_completion(kept)
            place, self._next = self._next, self._next + 1
            again, self._cut_off = self._cut_off > 0, max(0, self._cut_off - 1)
            self.used.append(place)
            self._begin(place)
        try:
            with asked_again(again):
                done = ask()
        except WorkbenchError as error:
            self._end(place, "", "", {"error": {"kind": type(error).__name__, "reason": str(error)}})
            raise
        configuration = done.route.configuration
        self._end(place, request(configuration), configuration, {"done": to_plain(done)})
        return done

    def _load(self) -> None:
        before = step_calls_of(self._engine, self._run_id)
        mine = [call for call in before.values() if call.step == self._step]
        self._kept = [call for call in mine if call.done is not None]
        self._cut_off = sum(call.done is None and call.error is None for call in mine)
        self._next = max(before, default=-1) + 1

    def _take(self, request: Callable[[str], str]) -> ModelCall | None:
        for call in self._kept or ():
            if request(call.configuration) == call.request:
                assert self._kept is not None
                self._kept.remove(call)
                return call
        return None

    def _begin(self, place: int) -> None:
        row = {"run_id": self._run_id, "place": place, "step": self._step}
        with self._engine.begin() as connection:
            connection.execute(_CALLS.insert(), [{**row, "request": "", "configuration": "", "answer": ""}])

    def _end(self, place: int, request: str, configuration: str, answer: Mapping[str, Any]) -> None:
        mine = sa.and_(_CALLS.c.run_id == self._run_id, _CALLS.c.place == place)
        values = {"request": request, "configuration": configuration, "answer": json.dumps(answer)}
        with self._engine.begin() as connection:
            connection.execute(sa.update(_CALLS).where(mine).values(values))


class HeardTape:
    """Tape of a step that is done in memory: keeps its calls among those of the run.

    Around it may be the tape of a step that is durable, which is asked first.
    """

    def __init__(self, calls: dict[int, ModelCall], step: int) -> None:
        self._calls, self._step, self._around = calls, step, current_tape()
        self._lock = threading.Lock()
        self.used: list[int] = []

    def answer(self, request: Callable[[str], str], ask: Callable[[], Completion]) -> Completion:
        """Answer of ``ask``, which is kept."""
        with self._lock:
            place = len(self._calls)
            self._calls[place] = ModelCall(place, self._step, "", "", None, None)
            self.used.append(place)
        try:
            done = self._around.answer(request, ask) if self._around else ask()
        except WorkbenchError as error:
            told = {"kind": type(error).__name__, "reason": str(error)}
            self._calls[place] = ModelCall(place, self._step, "", "", None, told)
            raise
        asked = done.route.configuration
        self._calls[place] = ModelCall(place, self._step, request(asked), asked, to_plain(done), None)
        return done


@dataclass(slots=True)
class RecordedTape:
    """Tape of a step that is repeated: gives the answers on it once each, and never asks.

    Attributes
    ----------
    left : list of ModelCall
        Calls of the recorded step that were not given yet.
    """

    run_id: str
    left: list[ModelCall]
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, run_id: str, calls: Mapping[int, ModelCall], places: Sequence[int]) -> "RecordedTape":
        """Tape with the calls at these places."""
        return cls(run_id, [calls[place] for place in places if place in calls])

    def answer(self, request: Callable[[str], str], ask: Callable[[], Completion]) -> Completion:
        """Answer on the tape.

        Raises
        ------
        RecordingMiss
            If none fits.
        """
        del ask
        with self._lock:
            found = next((c for c in self.left if _taped_call_fits(c, request)), None)
            if found is None:
                raise RecordingMiss(self._miss(request))
            self.left.remove(found)
        if found.done is not None:
            return _taped_completion(found)
        raise _taped_error(found.error or {"kind": "WorkbenchError", "reason": "the call was cut off"})

    def _miss(self, request: Callable[[str], str]) -> str:
        if not self.left:
            return f"run {self.run_id} has no further model call in this step, and one more is asked for"
        told = ", ".join(call.request[:12] for call in self.left)
        return (
            f"no recorded answer of run {self.run_id} fits this request (hash {request('')[:12]}; recorded: {told}): "
            "its prompt, model or parameters are not those of the record"
        )


def _taped_completion(call: ModelCall) -> Completion:
    return from_plain(
        Completion, call.done, f"model call {call.place} is no completion of this version", error=FlowError
    )


def _taped_call_fits(call: ModelCall, request: Callable[[str], str]) -> bool:
    """Whether a call is this request's; of one that failed nobody knows what it was asked, so it stands in turn."""
    return call.done is None or request(call.configuration) == call.request


def _taped_error(told: Mapping[str, str]) -> WorkbenchError:
    """Error as the record tells it: of the same class, without what its attributes were."""
    kind = getattr(workbench.errors, told["kind"], WorkbenchError)
    error: WorkbenchError = kind.__new__(kind)
    error.args = (told["reason"],)
    return error


def tell_step_progress(engine: sa.Engine, run_id: str, label: str, done: int, total: int) -> None:
    """Write down how far a run has come."""
    row = {"label": label, "done": done, "total": total, "at": time.time()}
    with engine.begin() as connection:
        changed = connection.execute(sa.update(_PROGRESS).where(_PROGRESS.c.run_id == run_id).values(row)).rowcount
        if not changed:
            connection.execute(_PROGRESS.insert(), [{"run_id": run_id, **row}])


def step_progress_of(engine: sa.Engine, run_ids: Sequence[str]) -> dict[str, tuple[str, int, int]]:
    """Label, steps done and steps in all of those runs that told."""
    with reading_engine(engine).begin() as connection:
        rows = connection.execute(sa.select(_PROGRESS).where(_PROGRESS.c.run_id.in_(run_ids))).all()
    return {row.run_id: (row.label, row.done, row.total) for row in rows}


def forget_step_calls(engine: sa.Engine, run_ids: Sequence[str]) -> None:
    """Delete the model calls and the progress of runs."""
    with engine.begin() as connection:
        for table in (_CALLS, _PROGRESS):
            connection.execute(sa.delete(table).where(table.c.run_id.in_(run_ids)))
