"""The record of a run on disk."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.notebooks.zoo import make_settings
from workbench.config import Settings
from workbench.evaluation.run_record import CellState, RunRecord, close_run, open_run, process_token
from workbench.runner.runs import list_runs


class StoppedClock:
    """Always the same second."""

    def now(self) -> datetime:
        return datetime(2026, 11, 23, 17, 30, 5, 900_000, tzinfo=UTC)

    def monotonic(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        raise NotImplementedError


def begin(settings: Settings) -> RunRecord:
    return open_run(settings, "retrieval", profile="ci", parameters={"seed": 7}, clock=StoppedClock())


def test_folder_is_named_for_time_notebook_and_parameters(tmp_path: Path) -> None:
    record = begin(make_settings(tmp_path))
    name, _, digest = record.run_dir.name.rpartition("-")
    assert name == "20261123T173005-retrieval"
    assert len(digest) == 8
    assert RunRecord.load(record.run_dir) == record
    assert (record.status, record.seed) == ("running", 7)


def test_runs_of_the_same_second_have_folders_of_their_own(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        records = list(pool.map(lambda _: begin(settings), range(24)))
    assert len({r.run_dir for r in records}) == 24
    assert len(list_runs(settings)) == 24


def test_closed_run_reads_back_as_it_was_returned(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    cells = (CellState(1, "gate", "completed", 0.1),)
    record = close_run(begin(settings), StoppedClock(), status="done", exit_reason="completed", cells=cells)
    assert list_runs(settings) == [record]
    assert sorted(p.name for p in record.run_dir.iterdir()) == ["run.json"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_text("{"),
        lambda path: path.write_text("[]"),
        lambda path: path.write_text('{"cells": []}'),
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b"\xff\xfe"),
    ],
)
def test_unreadable_record_is_listed_as_corrupt(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    settings = make_settings(tmp_path)
    spoil(begin(settings).run_dir / "run.json")
    (record,) = list_runs(settings)
    assert record.status == "corrupt"
    assert "run.json cannot be read" in str(record.error)


def test_run_of_this_process_is_running(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    begin(settings)
    assert [r.status for r in list_runs(settings)] == ["running"]


def test_later_process_with_the_same_id_is_not_taken_for_the_runner(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    record = begin(settings)
    replace(record, process=record.process.rpartition(":")[0] + ":1").save()
    assert [r.error for r in list_runs(settings)] == ["interrupted (process gone)"]


def test_run_of_another_host_is_shown_as_it_says(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    replace(begin(settings), process="elsewhere:1:1").save()
    assert [r.status for r in list_runs(settings)] == ["running"]


def test_process_token_tells_processes_apart() -> None:
    assert process_token(os.getpid()) == process_token(os.getpid())
    assert process_token(os.getpid()) != process_token(os.getppid())


def test_no_runs_folder_is_no_runs(tmp_path: Path) -> None:
    assert list_runs(make_settings(tmp_path)) == []
