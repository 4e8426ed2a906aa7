"""Notebook runs as jobs: one for each combination of parameters, each done once, going on after a kill."""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from workbench.config import Settings, SystemClock
from workbench.errors import ConfigError, RunError
from workbench.orchestration.flows import Flows
from workbench.orchestration.live_step import progress
from workbench.orchestration.steps import StepCall, flow, outside
from workbench.records import content_hash
from workbench.rendering.numbers import counted
from workbench.rendering.table import Column, Table
from workbench.runner.accept_and_check import run_verdict
from workbench.runner.events import Event
from workbench.runner.headless import Job, examine, find_notebook, planned_headless_job, run_headless
from workbench.runner.result_reuse import package_hash
from workbench.telemetry.attribution import carry_attribution


@outside()
def run_one(notebook: str, profile: str, parameters: Mapping[str, Any], *, project: Settings) -> dict[str, Any]:
    """Run a notebook headless, and tell its cells as progress.

    Raises
    ------
    RunError
        If the run did not end as it should.
    """

    def tell(event: Event) -> None:
        if event.cells:
            progress("cell", event.cell, event.cells)

    (record,) = run_headless(
        [Job(notebook, profile, parameters)],
        settings=project,
        clock=SystemClock(),
        on_event=carry_attribution(tell),
        ahead=False,  # it was examined before it was submitted
    )
    if record.status != "done":
        raise RunError(record.error or record.status, str(record.run_dir))
    return {"run": record.run_dir.name, "gate": record.gate or "", **run_verdict(record)}


def _project(settings: Settings) -> Settings:
    return settings


@flow(tools={"project": _project}, per_worker=2)
def notebook_run(
    step: StepCall, notebook: str, profile: str, parameters: Mapping[str, Any], rests_on: Mapping[str, str]
) -> dict[str, Any]:
    """One notebook run; ``rests_on`` makes it another run where what it reads has changed."""
    del rests_on
    done: dict[str, Any] = step(run_one, notebook, profile, parameters)
    return done


def combinations(sweep: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """Every combination of the values.

    >>> combinations({"chunkers": ["whole", "structure"], "margin": ["0.03"]})
    [{'chunkers': 'whole', 'margin': '0.03'}, {'chunkers': 'structure', 'margin': '0.03'}]
    """
    return [dict(zip(sweep, values, strict=True)) for values in product(*sweep.values())]


def submit_sweep(
    flows: Flows,
    notebook: str,
    sweep: Mapping[str, Sequence[str]],
    *,
    profile: str = "ci",
    parameters: Mapping[str, Any] | None = None,
) -> list[tuple[str, dict[str, str]]]:
    """Put one job for each combination into the queue; returns their ids with what is swept in them.

    All parameters are checked, and what the runs read is examined, before anything is submitted. What is done already
    is not done again.

    Raises
    ------
    ConfigError
        If a notebook, profile, parameter name or value cannot be used, or something is given and swept at once.
    """
    settings, fixed = flows.durable.settings, dict(parameters or {})
    if both := sorted(fixed.keys() & sweep.keys()):
        raise ConfigError(f"parameter {both[0]!r} is swept and given a value as well; leave out one of them")
    source = find_notebook(settings, notebook)
    changes = combinations(sweep)
    jobs = [planned_headless_job(Job(notebook, profile, {**fixed, **changed}), settings) for changed in changes]
    examine(jobs, settings)
    plans = [(changed, job.parameters) for changed, job in zip(changes, jobs, strict=True)]
    return [
        (flows.submit(notebook_run, notebook, profile, plan, _rests_on(settings, source, plan)), changed)
        for changed, plan in plans
    ]


def _rests_on(settings: Settings, source: Path, plan: Mapping[str, Any]) -> dict[str, str]:
    """Hashes of what a run reads: the notebook, the package, and the files of its evalset but its decisions."""
    evalset = settings.evalsets / str(plan.get("evalset", ""))
    read = [p for p in sorted(evalset.rglob("*")) if p.is_file() and "decisions" not in p.relative_to(evalset).parts]
    return {
        "notebook": content_hash(source.read_bytes()),
        "workbench": package_hash(),
        "evalset": content_hash(*(part for file in read for part in (file.name, file.read_bytes()))),
    }


def sweep_table(flows: Flows, submitted: Sequence[tuple[str, Mapping[str, str]]]) -> Table:
    """What came of each combination of a sweep."""
    names = list(submitted[0][1]) if submitted else []
    rows = []
    for run_id, changed in submitted:
        run = flows.show(run_id)
        came = run.result or {}
        told = [came.get(name, "") for name in ("verdict", "arm", "gate", "run")]
        rows.append((*changed.values(), run.status, *told, run.error))
    columns = [*names, "status", "verdict", "arm", "gate", "run", "error"]
    return Table(tuple(map(Column, columns)), tuple(rows), f"{counted(len(rows), 'run')}")
