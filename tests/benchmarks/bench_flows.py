"""What durability costs: ``pytest -m bench -s tests/benchmarks/bench_flows.py``."""

import sys
import time
from statistics import median

import pytest

from tests.databases import KINDS, database_url
from tests.orchestration.conftest import settings_in
from workbench.orchestration.flows import Flows
from workbench.orchestration.steps import flow

STEPS, RUNS, LISTED = 20, 30, 10_000


def add_one(x):
    return x + 1


@flow()
def counting(step, n):
    x = 0
    for _ in range(n):
        x = step(add_one, x)
    return x


def say(text):
    sys.stdout.write(f"{text}\n")


def ms(started):
    return 1000 * (time.perf_counter() - started)


@pytest.mark.bench
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_and_a_run_against_the_bare_functions(kind, tmp_path):
    with database_url(kind, tmp_path) as url, Flows.open(settings_in(tmp_path, url)) as flows:
        flows.run(counting, 1, key="warm")
        long, short = [], []
        for i in range(RUNS):
            started = time.perf_counter()
            assert flows.run(counting, STEPS, key=f"long {i}") == STEPS
            long.append(ms(started))
            started = time.perf_counter()
            flows.run(counting, 0, key=f"short {i}")
            short.append(ms(started))
        started = time.perf_counter()
        counting.function(lambda function, *args: function(*args), STEPS)
        bare = ms(started)
        step = (median(long) - median(short)) / STEPS
        started = time.perf_counter()
        flows.replay_all([run.run_id for run in flows.durable.runs(limit=10)])
        say(f"{kind}: {step:.2f} ms a step, {median(short):.1f} ms a run, bare {bare / STEPS:.4f} ms a step; "
            f"replay {ms(started) / 10:.1f} ms a run")  # fmt: skip


@pytest.mark.bench
@pytest.mark.parametrize("kind", KINDS)
def test_list_and_show_among_ten_thousand_finished_runs(kind, tmp_path):
    with database_url(kind, tmp_path) as url, Flows.open(settings_in(tmp_path, url)) as flows:
        for i in range(LISTED):
            flows.run(counting, 1, key=f"{i}")
        started = time.perf_counter()
        assert len(flows.jobs().rows) == 100
        listed = ms(started)
        (run,) = flows.durable.runs(limit=1)
        started = time.perf_counter()
        flows.show(run.run_id)
        say(f"{kind}: among {LISTED:,} runs, list {listed:.0f} ms, show {ms(started):.1f} ms")
