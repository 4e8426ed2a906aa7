"""Runs on a terminal: one live bar a notebook, or plain lines where the output is not a terminal."""

from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from workbench.config import Clock, SystemClock
from workbench.rendering.progress import LINE_S
from workbench.rendering.text import visible_line
from workbench.runner.events import Event


class TerminalProgress:
    """Shows the events of runs; use it as a context manager and hand it to ``on_event``.

    >>> with TerminalProgress(Console(force_terminal=False)) as progress:
    ...     progress(Event("cell", "retrieval", Path("runs/x"), cell=2, cells=9))
    retrieval  cell 2/9
    """

    def __init__(self, console: Console | None = None, *, clock: Clock | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._clock, self._line_at = clock or SystemClock(), dict[Path, float]()
        self._tasks: dict[Path, TaskID] = {}
        self._bars = Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.fields[notebook]}"),
            BarColumn(bar_width=24),
            TextColumn("cell {task.fields[cell]}/{task.fields[cells]}"),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=self._console,
        )

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._bars.stop()

    def __call__(self, event: Event) -> None:
        """Show one event; safe to call from several threads."""
        if self._console.is_terminal:
            self._draw(event)
        elif line := visible_line(self._line(event)):
            self._console.print(f"{event.notebook}  {line}", markup=False, highlight=False, soft_wrap=True)

    def _line(self, event: Event) -> str:
        """Line for a log: of steps inside a cell one every 10 seconds, and always their closing sentence."""
        now = self._clock.monotonic()
        line = _plain_line(event)
        if not line and now - self._line_at.get(event.run_dir, now) >= LINE_S:
            line = _cell_event_line(event)
        if line or event.run_dir not in self._line_at:
            self._line_at[event.run_dir] = now
        return line

    def _draw(self, event: Event) -> None:
        if event.kind == "start":
            self._tasks[event.run_dir] = self._bars.add_task(
                "starting the kernel", total=None, notebook=event.notebook, cell=0, cells="?"
            )
            return
        task = self._tasks[event.run_dir]
        if event.kind == "end":
            self._bars.update(task, completed=event.cell, description=escape(visible_line(_ending(event))))
            self._bars.stop_task(task)
            return
        self._bars.update(
            task,
            total=event.cells,
            completed=event.cell - 1,
            cell=event.cell,
            cells=event.cells,
            description=escape(visible_line(_cell_event_line(event))),
        )


def _plain_line(event: Event) -> str:
    """Line for a log that no time decides on: none for a step inside a cell, but one for its closing sentence."""
    if event.kind == "start":
        return f"started: {event.run_dir}"
    if event.kind == "cell":
        return f"cell {event.cell}/{event.cells}"
    if event.kind == "end":
        return _ending(event)
    return str(event.data.get("sentence") or "")


def _cell_event_line(event: Event) -> str:
    if event.kind == "cell":
        return ""
    data = event.data
    return str(
        data.get("told") or data.get("sentence") or f"{data.get('label')} {data.get('done')}/{data.get('total')}"
    )


def _ending(event: Event) -> str:
    error = event.data.get("error")
    return f"{event.data['status']}: {error}" if error else str(event.data["status"])
