"""The record of a run, ``run.json``: written first as "running", and last with how the run ended."""

import json
import os
import platform
import shutil
from dataclasses import dataclass, field, fields, replace
from itertools import count
from pathlib import Path
from typing import Any, Literal, Self

from workbench.codec import from_plain, to_plain, write_whole
from workbench.config import Clock, Settings, SystemClock
from workbench.errors import ConfigError, RunError
from workbench.records import content_hash
from workbench.telemetry.redaction import redact_all

RunStatus = Literal["running", "done", "failed", "interrupted", "corrupt"]
CellStatus = Literal["pending", "running", "completed", "failed"]
_RESERVE_BYTES = 32_768


@dataclass(frozen=True, slots=True)
class CellState:
    """How one code cell ended; ``number`` is that of ``In [n]`` in the executed notebook."""

    number: int
    tag: str
    status: CellStatus
    seconds: float


@dataclass(frozen=True, slots=True)
class CheckMark:
    """Which check a run belongs to: when that began, all that it asked, and which of these the run answers.

    ``rests_on`` is the hash of all that the result rests on; "" until the run has ended, and where something of it
    moved meanwhile.
    """

    began: str
    asked: tuple[str, ...]
    place: str
    rests_on: str = ""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run, as it is or was.

    Attributes
    ----------
    exit_reason : str
        ``completed``, ``gate_failed`` (the decision does not hold, the run itself is done), ``cell_error``,
        ``cell_timeout``, ``hard_timeout``, ``kernel_died``, ``kernel_not_started``, ``no_result``,
        ``interrupted``, ``runner_error``; empty while it runs.
    error : str or None
        Why it is not done, as a sentence.
    gate : str or None
        Status in ``gate.json``.
    process : str
        Host, id and start time of the process that runs it: tells a live run from one whose process is gone.
    report_error : str or None
        Why there is no ``report.html``.
    check : CheckMark or None
        The check that it was run for.
    """

    run_dir: Path
    status: RunStatus
    notebook: str = ""
    profile: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    started: str = ""
    ended: str | None = None
    exit_reason: str = ""
    error: str | None = None
    gate: str | None = None
    fingerprint: dict[str, Any] | None = None
    cells: tuple[CellState, ...] = ()
    process: str = ""
    report_error: str | None = None
    check: CheckMark | None = None

    @property
    def report(self) -> Path | None:
        """The report, if one was drawn."""
        path = self.run_dir / "report.html"
        return path if path.is_file() else None

    def save(self) -> None:
        """Write ``run.json`` in one step: a reader sees the old record or the new one, never half of one."""
        raw = to_plain(self)
        del raw["run_dir"]
        write_whole(self.run_dir / "run.json", json.dumps(raw, indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, run_dir: Path) -> Self:
        """Read a record as it stands on disk; one that cannot be read comes back as ``corrupt``."""
        try:
            raw = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
            known = {f.name: raw[f.name] for f in fields(cls) if f.name in raw}  # another version may have more
            return from_plain(cls, known | {"run_dir": run_dir}, "run.json cannot be read")
        except ConfigError as error:
            return cls(run_dir, "corrupt", error=str(error))
        except (OSError, ValueError, TypeError) as error:
            return cls(run_dir, "corrupt", error=f"run.json cannot be read: {error!r}")


def open_run(
    settings: Settings,
    notebook: str,
    *,
    profile: str,
    parameters: dict[str, Any],
    clock: Clock,
    check: CheckMark | None = None,
) -> RunRecord:
    """Make the folder of a run and write its first record.

    A little disk space is reserved, so that a run which fills the disk can still say so.

    Raises
    ------
    RunError
        If the folder cannot be made or written.
    """
    now = clock.now()
    digest = content_hash(notebook, profile, json.dumps(parameters, sort_keys=True))[:8]
    try:
        settings.runs.mkdir(parents=True, exist_ok=True)
        run_dir = _new_run_folder(settings.runs, f"{now:%Y%m%dT%H%M%S}-{notebook}-{digest}")
    except OSError as error:
        raise RunError(_cannot_write_run(settings.runs, error)) from error
    seed = parameters.get("seed")
    record = RunRecord(
        run_dir=run_dir,
        status="running",
        notebook=notebook,
        profile=profile,
        parameters=redact_all(parameters),
        seed=seed if isinstance(seed, int) else None,
        started=now.isoformat(),
        process=process_token(os.getpid()),
        check=replace(check, rests_on="") if check else None,
    )
    try:
        record.save()
        _reserve_run_record(run_dir).write_bytes(bytes(_RESERVE_BYTES))
    except OSError as error:
        shutil.rmtree(run_dir)
        raise RunError(_cannot_write_run(settings.runs, error)) from error
    return record


def begin_run(settings: Settings, notebook: str, parameters: dict[str, Any]) -> tuple[str, RunRecord | None, Path]:
    """Profile, record and folder of a run: the runner's where one runs the notebook, else new ones without it."""
    profile, runner = os.environ.get("WORKBENCH_PROFILE", "ci"), os.environ.get("WORKBENCH_RUN_DIR")
    if runner:
        return profile, None, Path(runner)
    record = open_run(settings, notebook, profile=profile, parameters=parameters, clock=SystemClock())
    return profile, record, record.run_dir


def close_run(record: RunRecord, clock: Clock, **outcome: Any) -> RunRecord:
    """Write how the run ended, in the space that was reserved for it."""
    record = replace(record, ended=clock.now().isoformat(), **outcome)
    _reserve_run_record(record.run_dir).unlink(missing_ok=True)
    record.save()
    return record


def process_token(pid: int) -> str:
    """Name a process so that a later one with the same id is not taken for it."""
    try:
        # Field 22 is the start time; the name in field 2 may hold spaces, so count from its closing bracket.
        started = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except OSError:
        started = "unknown"
    return f"{platform.node()}:{pid}:{started}"


def _new_run_folder(runs: Path, name: str) -> Path:
    for n in count(1):
        folder = runs / (name if n == 1 else f"{name}-{n}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue  # another run began within the same second
        return folder
    raise AssertionError("unreachable")


def _reserve_run_record(run_dir: Path) -> Path:
    return run_dir / ".reserve"


def _cannot_write_run(runs: Path, error: OSError) -> str:
    return f"cannot write a run below {runs}: {error.strerror or error}; set WORKBENCH_RUNS to a writable folder"
