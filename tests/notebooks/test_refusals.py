"""What is refused before a kernel starts, and runs whose results cannot be stored."""

import contextlib
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.notebooks.zoo import add_notebook, make_settings
from workbench.config import SystemClock, load_settings
from workbench.errors import ConfigError, EvalsetError, RunError
from workbench.evalset.evalset import load_each_once
from workbench.evalset.gates import NOTEBOOKS
from workbench.evaluation.start import check_parameters
from workbench.runner import Event, Job, RunRecord, list_runs, run_headless


@pytest.mark.slow
def test_full_disk_is_a_failed_run_with_a_record(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    _mount(settings.runs, "size=1m")
    try:
        add_notebook(settings, "fills", """(run_dir / "big").write_bytes(bytes(2_000_000))""")
        (record,) = run_headless([Job("fills")], settings=settings, clock=SystemClock())
        assert record.status == "failed"
        assert "No space left on device" in str(record.error)
        assert [r.status for r in list_runs(settings)] == ["failed"]
        _fill(record.run_dir / "big")
        with pytest.raises(RunError, match="No space left on device"):
            run_headless([Job("fills")], settings=settings, clock=SystemClock())
        assert len(list_runs(settings)) == 1
    finally:
        subprocess.run(["umount", settings.runs], check=True)


def test_runs_folder_that_cannot_be_written_is_refused_before_a_kernel_starts(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    add_notebook(settings, "good")
    settings.runs.write_text("a file, not a folder")
    events: list[Event] = []
    with pytest.raises(RunError, match=r"cannot write a run below .*; set WORKBENCH_RUNS"):
        run_headless([Job("good")], settings=settings, clock=SystemClock(), on_event=events.append)
    assert events == []


def test_readonly_runs_folder_is_refused_before_a_kernel_starts(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    add_notebook(settings, "good")
    _mount(settings.runs, "ro")
    try:
        with pytest.raises(RunError, match="Read-only file system"):
            run_headless([Job("good")], settings=settings, clock=SystemClock())
    finally:
        subprocess.run(["umount", settings.runs], check=True)


def test_one_bad_job_stops_all_before_a_kernel_starts(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    add_notebook(settings, "good")
    jobs = [Job("good"), Job("good", "ci", {"limti": 3})]
    with pytest.raises(ConfigError, match="did you mean 'limit'"):
        run_headless(jobs, settings=settings, clock=SystemClock())
    assert not settings.runs.exists()


def test_report_that_cannot_be_drawn_is_recorded_and_hides_no_result(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    add_notebook(settings, "blocks", """(run_dir / "report.html").mkdir()\n(run_dir / "summary.json").mkdir()""")
    (record,) = run_headless([Job("blocks")], settings=settings, clock=SystemClock())
    assert record.status == "done"
    assert record.report is None
    assert record.report_error
    assert RunRecord.load(record.run_dir) == record


def _mount(folder: Path, options: str) -> None:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a file system needs root and its capability")


def _fill(filler: Path) -> None:
    """Take every byte that is left of the disk."""
    with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


@pytest.mark.parametrize(
    ("notebook", "name", "value", "says"),
    [
        ("retrieval", "strategies", "bm25", "unknown strategy 'bm25'. Known: .*full_text"),
        ("retrieval", "strategies", "vectr", "did you mean 'vector'"),
        ("retrieval", "chunkers", "hole", "unknown chunker 'hole'; did you mean 'whole'"),
        ("retrieval", "embedder", "bge", "unknown embedder 'bge'. Known: .*sentence-transformers:MODEL"),
        ("retrieval", "rebuilds", 2, "rebuilds = 2: a number from 8 to 1,000, or 0, is expected"),
        ("routing", "policies", "boostin", "unknown policy 'boostin'; did you mean 'boosting'"),
        ("routing", "policies", "table:find=a", r"must end in \*=MODEL"),
        ("routing", "embedder", "minilmm", "did you mean 'minilm'"),
        ("caching", "guard", "figure", "unknown check of the guard 'figure'; did you mean 'figures'"),
        ("caching", "embedder", "litellm:", "did you mean 'litellm:MODEL'"),
        ("pipeline", "checks", "citatoins", "unknown check 'citatoins'"),
        ("quality", "overlap", "rogue", "unknown metric of answers 'rogue'"),
        ("costs", "share_by", "evenly", "share_by"),
        ("stack", "caches", "exat", "unknown cache 'exat'; did you mean 'exact'"),
    ],
)
def test_mistyped_name_of_a_part_is_refused_before_a_kernel_starts(
    tmp_path: Path, notebook: str, name: str, value: object, says: str
) -> None:
    root = Path(__file__).parents[2]
    settings = replace(load_settings({}, root), runs=tmp_path / "runs")
    with pytest.raises(ConfigError, match=says):
        run_headless([Job(notebook, "ci", {name: value})], settings=settings, clock=SystemClock())
    assert not settings.runs.exists()


def test_a_parameter_of_your_own_in_a_notebook_of_ours_is_checked_by_its_type_alone() -> None:
    check_parameters("retrieval", {"strategies": ["vector"], "budget_usd": 3.0})
    check_parameters("mine", {"strategies": ["bm25"]})


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_every_experiment_has_a_class_that_checks_its_parameters(notebook: str) -> None:
    with pytest.raises(ConfigError, match="seed must be a whole number"):
        check_parameters(notebook, {"seed": "first"})


def test_what_one_notebook_would_refuse_stops_all_before_a_kernel_starts(tmp_path: Path) -> None:
    """Also what no parameter's type tells: here an evalset without answers to route by."""
    settings = replace(load_settings({}, Path(__file__).parents[2]), runs=tmp_path / "runs")
    jobs = [Job("costs", "smoke"), Job("routing", "ci", {"evalset": "caching_demo"})]
    with pytest.raises(EvalsetError, match=r"caching_demo has no outcomes\.parquet") as refused:
        run_headless(jobs, settings=settings, clock=SystemClock())
    assert refused.value.__notes__ == ["that is job 2 of 2, routing"]
    assert not settings.runs.exists()


def test_an_evalset_that_several_notebooks_read_is_read_once() -> None:
    load, settings = load_each_once(), load_settings({}, Path(__file__).parents[2])
    first = load("routing_demo", settings=settings)
    assert load("routing_demo", settings=settings) is first
    assert load("routing_demo", settings=settings, seed=1) is not first
