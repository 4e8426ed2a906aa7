"""papermill under watch: live events, truthful cell states, and a kernel that can be ended at any moment.

papermill alone reports a dead kernel as "completed", ends only what listens to an interrupt, and leaves the
children of a kernel behind.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from workbench.codec import write_whole
from workbench.errors import RunError
from workbench.evaluation.run_record import CellState
from workbench.extras import without_iri_grammar
from workbench.rendering.progress import MIME_TYPE
from workbench.runner.events import EventKind
from workbench.runner.watchdog import KERNEL_FOLDER, Watchdog
from workbench.telemetry.redaction import redact, redact_all
from workbench.temporary_folders import temporary_folder

with without_iri_grammar():
    import nbformat
    import papermill
    from jupyter_core.utils import ensure_event_loop, run_sync
    from papermill.clientwrap import PapermillNotebookClient
    from papermill.engines import NBClientEngine, papermill_engines

_LONGEST_PLACE = 90  # bytes of a folder with sockets: of a socket's whole path systems take about 104


class KernelWatch:
    """The state of each code cell, as it was really executed, with what is told of it."""

    def __init__(self, watchdog: Watchdog, tell: Callable[[EventKind, int, int, dict[str, Any]], None]) -> None:
        self.watchdog = watchdog
        self.cells: list[CellState] = []
        self.flagged = False
        self._tell = tell
        self._position: dict[int, int] = {}
        self._began = 0.0

    def expect(self, notebook: Any) -> None:
        """Take down the code cells that are to be executed."""
        code = [(index, cell) for index, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
        self._position = {index: n for n, (index, _) in enumerate(code)}
        self.cells = [CellState(n + 1, _first_tag(cell), "pending", 0.0) for n, (_, cell) in enumerate(code)]

    def begin(self, index: int) -> None:
        """Mark the code cell at this position of the notebook as running."""
        self._began = time.monotonic()
        n = self._position[index]
        self.cells[n] = replace(self.cells[n], status="running")
        self._tell("cell", n + 1, len(self.cells), {})

    def progress(self, index: int, data: dict[str, Any]) -> None:
        """Pass on what the cell says about itself."""
        self._tell("progress", self._position[index] + 1, len(self.cells), data)

    def end(self, index: int, status: Literal["completed", "failed"]) -> None:
        """Mark it as ended."""
        n = self._position[index]
        self.cells[n] = replace(self.cells[n], status=status, seconds=round(time.monotonic() - self._began, 3))


@dataclass(frozen=True, slots=True)
class KernelExecution:
    """What papermill did: the exception it raised, its own exception flag, and the state of each cell."""

    error: Exception | None
    flagged: bool
    cells: tuple[CellState, ...]


def execute_in_kernel(
    source: Path,
    target: Path,
    *,
    parameters: Mapping[str, Any],
    env: Mapping[str, str],
    watch: KernelWatch,
    cell_timeout_s: float,
    hard_timeout_s: float,
) -> KernelExecution:
    """Execute a notebook in a kernel of its own and wait until nothing of the kernel is left.

    Parameters
    ----------
    source, target : Path
        The notebook, and where the executed one is written after each cell; the kernel works in the source's
        folder, and what it prints outside of cells goes to ``kernel.log`` beside the target.
    env : Mapping[str, str]
        The kernel's whole environment; the runner's own is not touched, so runs may go in parallel.
    cell_timeout_s, hard_timeout_s : float
        A cell is interrupted after the first; the kernel is killed when the run takes longer than the second.
    """
    papermill_engines.register("workbench", _NotebookEngine)
    timer = threading.Timer(hard_timeout_s, watch.watchdog.kill, args=("hard_timeout",))
    timer.daemon = True
    timer.start()
    error: Exception | None = None
    try:
        with (target.parent / "kernel.log").open("wb") as log:
            papermill.execute_notebook(
                _literal(source),
                _literal(target),
                parameters=dict(parameters),
                engine_name="workbench",
                kernel_name="python3",
                progress_bar=False,
                execution_timeout=cell_timeout_s,
                watch=watch,
                start={"env": dict(env), "cwd": str(source.parent), "stdout": log, "stderr": log},
            )
    except Exception as caught:  # noqa: BLE001 - the boundary of a run: whatever it is, the record must say it
        error = caught
    finally:
        timer.cancel()
        watch.watchdog.release()
        ensure_event_loop().close()
    try:
        _without_secrets(target)
    except (OSError, ValueError) as caught:  # a full disk, half a notebook
        error = error or caught
    return KernelExecution(error, watch.flagged, tuple(watch.cells))


def _without_secrets(target: Path) -> None:
    """Redact parameters, texts that came in pieces, and the log: all that no message of the kernel held whole."""
    log = target.with_name("kernel.log")
    said = log.read_text(encoding="utf-8", errors="replace")
    if (clean := redact(said)) != said:
        log.write_text(clean, encoding="utf-8")
    notebook = nbformat.read(target, as_version=nbformat.NO_CONVERT)
    if (clean := redact_all(notebook)) != notebook:
        write_whole(target, nbformat.writes(nbformat.from_dict(clean)) + "\n")


def _first_tag(cell: Any) -> str:
    return next(iter(cell.metadata.get("tags", [])), "")


def _literal(path: Path) -> str:
    """Path for papermill, which formats braces in paths."""
    return str(path).replace("{", "{{").replace("}", "}}")


class _KernelClient(PapermillNotebookClient):  # type: ignore[misc]
    """Tells the watch what really happens to each cell."""

    watch: KernelWatch
    folder: Path

    def create_kernel_manager(self) -> Any:
        manager = super().create_kernel_manager()
        # Between the choice of a port and its use by the kernel any process may take it, and the kernel dies.
        if len(bytes(self.folder)) <= _LONGEST_PLACE:
            manager.transport, manager.ip = "ipc", str(self.folder / "at")
        manager.connection_file = str(self.folder / "connection.json")  # with the kernel's key
        # A python3 kernel that was registered from another environment would run other code than this one.
        manager.kernel_spec_manager.kernel_dirs = []
        return manager

    def start_new_kernel(self, **start: Any) -> None:
        if self.watch.watchdog.ended_by:
            raise RunError("stopped before the kernel was started")
        super().start_new_kernel(**start)
        self.watch.watchdog.hold(self.km.provisioner.pid)

    def start_new_kernel_client(self) -> Any:
        return run_sync(self._connect)()

    async def _connect(self) -> Any:
        """Wait for the kernel's first answer, but not for that of one which was just killed (about 2 s)."""
        ready = asyncio.ensure_future(self.async_start_new_kernel_client())
        while not ready.done():
            await asyncio.wait({ready}, timeout=0.1)
            if self.watch.watchdog.ended_by and not ready.done():
                ready.cancel()
                await asyncio.wait({ready})
                await self._async_cleanup_kernel()
                raise RunError("stopped while the kernel was starting")
        return ready.result()

    def execute_cell(self, cell: Any, cell_index: int, **kwargs: Any) -> Any:
        if cell.cell_type != "code":
            return super().execute_cell(cell, cell_index, **kwargs)
        status: Literal["completed", "failed"] = "failed"
        self.watch.begin(cell_index)
        try:
            reply = super().execute_cell(cell, cell_index, **kwargs)
            status = "completed"
        finally:
            self.watch.end(cell_index, status)
            if status == "failed":  # papermill would leave a cell whose kernel died as "completed"
                self.nb_man.cell_exception(cell, cell_index)
        return reply

    def process_message(self, message: Any, cell: Any, cell_index: int) -> Any:
        message = message | {"content": redact_all(message["content"])}
        if progress := message["content"].get("data", {}).get(MIME_TYPE):
            self.watch.progress(cell_index, progress)
        return super().process_message(message, cell, cell_index)


class _NotebookEngine(NBClientEngine):  # type: ignore[misc]
    """The engine that papermill calls."""

    @classmethod
    def execute_managed_notebook(
        cls,
        nb_man: Any,
        kernel_name: str,
        *,
        watch: KernelWatch,
        start: Mapping[str, Any],
        start_timeout: float = 60,
        execution_timeout: float | None = None,
        **_: Any,
    ) -> None:
        watch.expect(nb_man.nb)
        client = _KernelClient(
            nb_man,
            kernel_name=kernel_name,
            timeout=execution_timeout,
            startup_timeout=start_timeout,
            interrupt_on_timeout=True,
            log=logging.Logger("kernel", logging.CRITICAL),  # the record says it; the terminal need not
        )
        client.watch = watch
        try:
            with temporary_folder(KERNEL_FOLDER) as client.folder:
                client.execute(**start)
        finally:
            watch.flagged = bool(nb_man.nb.metadata.papermill.exception)
