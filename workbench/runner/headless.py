"""Run notebooks headless, one or several at a time, and judge truthfully how each of them ended."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.config import Clock, Settings, load_profile
from workbench.errors import ConfigError, EvalsetError, unknown_name
from workbench.evalset.evalset import find_evalset, load_each_once
from workbench.evalset.gates import UNDECIDED
from workbench.evaluation.run_record import CheckMark, RunRecord, close_run, open_run
from workbench.evaluation.start import EXPERIMENTS, check_parameters, examined_experiment, parameters_as_declared
from workbench.rendering.progress import waiting
from workbench.reports.ending import draw_report
from workbench.runner.events import Event, EventKind, Listener
from workbench.runner.parameters import declared_parameters, prepare_parameters
from workbench.runner.result_reuse import result_rests_on
from workbench.runner.runs import how_it_ended
from workbench.runner.watchdog import Watchdog

if TYPE_CHECKING:
    from workbench.runner.kernels import KernelExecution

_LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class Job:
    """A notebook to run: its name, a profile, and parameters that override the profile's.

    ``check`` is the check that it is run for, with what its result will rest on.
    """

    notebook: str
    profile: str = "ci"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    check: CheckMark | None = None


@dataclass(frozen=True, slots=True)
class _HeadlessContext:
    """What all runs of one call share."""

    settings: Settings
    clock: Clock
    tell: Listener
    cell_timeout_s: float
    hard_timeout_s: float
    kernels: int


def run_headless(
    jobs: Sequence[Job],
    *,
    settings: Settings,
    clock: Clock,
    on_event: Listener | None = None,
    workers: int = 2,
    hard_timeout_s: float = 3600.0,
    cell_timeout_s: float = 1800.0,
    ahead: bool = True,
) -> list[RunRecord]:
    """Run notebooks in parallel and return their records, in the order of the jobs.

    All parameters are checked before a kernel starts. A notebook that fails is a record, not an exception.

    Parameters
    ----------
    jobs : Sequence[Job]
        What to run.
    on_event : Callable[[Event], None], optional
        Told each step; called from the threads of the runs.
    workers : int
        How many kernels at a time.
    hard_timeout_s, cell_timeout_s : float
        Seconds after which a run is killed, whatever it does, and after which a cell is interrupted.
    ahead : bool
        Whether to read what the notebooks read and refuse, before any kernel starts, what one of them would refuse.
        Without it each notebook refuses for itself, so that no bad one keeps the others from running.

    Raises
    ------
    ConfigError
        If a notebook, profile, parameter name or value cannot be used.
    EvalsetError
        If an evalset is not there, or cannot be used.
    RunError
        If the folder or record of a run cannot be written.
    KeyboardInterrupt
        After Ctrl-C, when all kernels are gone and each run that had begun is recorded as interrupted.
    """
    plans = [_plan_headless_job(job, settings) for job in jobs]
    if ahead:
        examine([job for job, _ in plans], settings)
    at_once = max(1, min(workers, len(plans)))
    context = _HeadlessContext(settings, clock, on_event or _ignore, cell_timeout_s, hard_timeout_s, at_once)
    watchdogs = [Watchdog() for _ in plans]
    # by their numbers: 01_retrieval takes as long as all others where nothing is embedded yet
    order = sorted(range(len(plans)), key=lambda place: plans[place][1].name.partition("_")[0])
    with ThreadPoolExecutor(max_workers=workers) as pool:
        try:
            futures = {
                place: pool.submit(_run_headless_job, *plans[place], watchdogs[place], context) for place in order
            }
            while wait(futures.values(), timeout=_LOOK_S).not_done:
                pass  # a signal that the system gave to another thread does not end this one's waiting
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for watchdog in watchdogs:
                watchdog.kill("interrupted")
            raise  # after the pool: each thread sees its kernel dead within a second and writes its record
    return [futures[place].result() for place in range(len(plans))]


def find_notebook(settings: Settings, name: str) -> Path:
    """Return the path of ``notebooks/NN_<name>.ipynb``.

    Raises
    ------
    ConfigError
        If there is none, naming the nearest.
    """
    found = {re.sub(r"^\d+_", "", path.stem): path for path in sorted(settings.notebooks.glob("[0-9]*_*.ipynb"))}
    if not found:
        raise ConfigError(f"no notebooks (NN_<name>.ipynb) in {settings.notebooks}; run from inside the project")
    if name not in found:
        raise ConfigError(unknown_name("notebook", name, list(found)))
    return found[name]


def planned_headless_job(job: Job, settings: Settings) -> Job:
    """Job with every parameter that its run would use, checked as the run would check them."""
    return _plan_headless_job(job, settings)[0]


def examine(jobs: Sequence[Job], settings: Settings) -> None:
    """Read what the notebooks of planned jobs read, and refuse what one of them would refuse; no model is loaded.

    An evalset that several read is read once. A notebook under a name of ours that reads none is not looked at.

    Raises
    ------
    ConfigError, EvalsetError
        With the words of the notebook; of several jobs, with the number and the notebook of the job.
    """
    load = load_each_once()
    for place, job in enumerate(jobs, start=1):
        if job.notebook not in EXPERIMENTS or not ("evalset" in job.parameters or job.notebook in UNDECIDED):
            continue
        with waiting(f"reading what {job.notebook} reads"):
            try:
                examined_experiment(job.notebook, job.parameters, settings, load)
            except (ConfigError, EvalsetError) as error:
                if len(jobs) > 1:
                    error.add_note(f"that is job {place} of {len(jobs)}, {job.notebook}")
                raise


def _plan_headless_job(job: Job, settings: Settings) -> tuple[Job, Path]:
    source = find_notebook(settings, job.notebook)
    given = {**load_profile(settings, job.notebook, job.profile), **job.parameters}
    parameters = prepare_parameters(source, parameters_as_declared(job.notebook, given, declared_parameters(source)))
    check_parameters(job.notebook, parameters)
    if job.notebook in EXPERIMENTS and "evalset" in parameters:
        find_evalset(parameters["evalset"], settings)
    return replace(job, parameters=parameters), source


def _run_headless_job(job: Job, source: Path, watchdog: Watchdog, context: _HeadlessContext) -> RunRecord:
    from workbench.runner.kernels import KernelWatch, execute_in_kernel

    record = open_run(
        context.settings,
        job.notebook,
        profile=job.profile,
        parameters=dict(job.parameters),
        clock=context.clock,
        check=job.check,
    )
    run_dir = record.run_dir

    def tell(kind: EventKind, cell: int = 0, cells: int = 0, data: dict[str, Any] | None = None) -> None:
        context.tell(Event(kind, job.notebook, run_dir, cell, cells, data or {}))

    tell("start")
    outcome = execute_in_kernel(
        source,
        run_dir / "executed.ipynb",
        parameters=job.parameters,
        env=_headless_kernel_env(context.settings, record, context.kernels),
        watch=KernelWatch(watchdog, tell),
        cell_timeout_s=context.cell_timeout_s,
        hard_timeout_s=context.hard_timeout_s,
    )
    record = _close_headless_run(record, job, outcome, watchdog, context)
    completed = sum(cell.status == "completed" for cell in record.cells)
    ending = {"status": record.status, "error": record.error, "gate": record.gate}
    tell("end", completed, len(record.cells), ending)
    return record


def _close_headless_run(
    record: RunRecord, job: Job, outcome: "KernelExecution", watchdog: Watchdog, context: _HeadlessContext
) -> RunRecord:
    ending = how_it_ended(outcome, record.run_dir, watchdog.ended_by, context.cell_timeout_s, context.hard_timeout_s)
    record = close_run(
        record,
        context.clock,
        **asdict(ending),
        cells=outcome.cells,
        fingerprint=_headless_fingerprint(record.run_dir),
        check=_headless_mark(job, record, context.settings) if ending.status == "done" else record.check,
    )
    if record.status == "done":
        (record.run_dir / "kernel.log").unlink(missing_ok=True)  # only noise when all went well
    if record.status == "interrupted":
        return record  # who pressed Ctrl-C waits for the prompt, not for a report
    return draw_report(record)


def _headless_mark(job: Job, record: RunRecord, settings: Settings) -> CheckMark | None:
    """Mark of the check, with what the result rests on if nothing of it moved during the run."""
    if not (job.check and job.check.rests_on):
        return record.check
    now = result_rests_on(settings, job.notebook, job.profile, job.parameters)
    return job.check if now == job.check.rests_on else record.check


def _headless_kernel_env(settings: Settings, record: RunRecord, kernels: int = 1) -> dict[str, str]:
    """Environment of one of so many kernels that run at once.

    Threads of OpenBLAS wait for each other without rest: where kernels have more of them than there are cores, numpy's
    products take several times the processor time. With more than two arenas glibc keeps what was freed in each, and
    so does polars' allocator, which gives it back at once here.
    """
    return {
        "OPENBLAS_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // kernels)),
        "MALLOC_ARENA_MAX": "2",
        "_RJEM_MALLOC_CONF": "dirty_decay_ms:0,muzzy_decay_ms:0,narenas:1",
        **os.environ,
        "WORKBENCH_ROOT": str(settings.root),
        "WORKBENCH_CACHE": str(settings.cache),
        "WORKBENCH_RUNS": str(settings.runs),
        "WORKBENCH_STATE_URL": settings.state_url,
        "WORKBENCH_STORE_URL": settings.store_url,
        "WORKBENCH_TABLES_URL": settings.tables_url,
        "WORKBENCH_RUN_DIR": str(record.run_dir.resolve()),
        "WORKBENCH_PROFILE": record.profile,
    }


def _headless_fingerprint(run_dir: Path) -> dict[str, Any] | None:
    """Fingerprint of the decision, if the run came to one; a half-written decision has none."""
    try:
        found = json.loads((run_dir / "decision.json").read_text(encoding="utf-8")).get("fingerprint")
    except (OSError, ValueError, AttributeError):
        return None
    return found if isinstance(found, dict) else None


def _ignore(_event: Event) -> None:
    return None
