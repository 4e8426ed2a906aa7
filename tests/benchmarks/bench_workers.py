"""How the time of waiting work falls with workers, on PostgreSQL.

python -m tests.benchmarks.bench_workers [--jobs 100] [--seconds 2] [--workers 1 2 4]

Each job waits in one step, as for a model; a worker does four at a time. The clock starts when every worker has taken
its first jobs, which wait for that, and ends with the last job. Then once more with most workers and a flow that is
limited to six over all of them. Each job must be done once, and no more at a time than may be.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.databases import database_url
from tests.orchestration.flow_child import open_flows, settings_of
from tests.orchestration.small_flows import LOG, told
from workbench.orchestration.steps import PER_WORKER, Flow, flow

ROOT = Path(__file__).parents[2]


def wait_for_all(n, seconds):
    told(f"{time.time()} 0 {n} {os.getpid()}")
    go = Path(os.environ[LOG]).with_name("go")
    while not go.exists():
        time.sleep(0.02)
    began = time.time()
    time.sleep(seconds)
    told(f"{began} {time.time()} {n} {os.getpid()}")
    return n


@flow()
def waits(step, n, seconds):
    return step(wait_for_all, n, seconds)


@flow(concurrency=6)
def waits_limited(step, n, seconds):
    return step(wait_for_all, n, seconds)


def run(which: Flow, workers: int, jobs: int, seconds: float) -> tuple[float, int, Counter[str]]:
    """Seconds from the start to the last end, most jobs at a time, and jobs by worker."""
    with tempfile.TemporaryDirectory() as name, database_url("postgresql", Path(name)) as url:
        folder = Path(name)
        os.environ[LOG] = str(folder / "log")
        with open_flows(settings_of(name, url)) as flows:
            ids = [flows.submit(which, n, seconds) for n in range(jobs)]
        command = [sys.executable, "-m", "tests.orchestration.flow_child", name, url, "work"]
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        children = [subprocess.Popen(command, cwd=ROOT, env=env) for _ in range(workers)]
        ready = min(workers * PER_WORKER, which.concurrency or jobs)
        while len(lines(folder)) < ready:
            time.sleep(0.1)
            assert all(child.poll() is None for child in children)
        went = time.time()
        (folder / "go").touch()
        assert [child.wait() for child in children] == [0] * workers
        with open_flows(settings_of(name, url)) as flows:
            assert [flows.show(run_id).result for run_id in ids] == list(range(jobs))
        done = [line for line in lines(folder) if line[1] != "0"]
        assert Counter(n for _, _, n, _ in done) == {str(n): 1 for n in range(jobs)}
        spans = [(float(began), float(ended)) for began, ended, _, _ in done]
        most = max(sum(b <= began < e for b, e in spans) for began, _ in spans)
        return max(ended for _, ended in spans) - went, most, Counter(worker for *_, worker in done)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def lines(folder: Path) -> list[list[str]]:
    log = folder / "log"
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def main() -> None:
    ask = argparse.ArgumentParser()
    ask.add_argument("--jobs", type=int, default=100)
    ask.add_argument("--seconds", type=float, default=2.0)
    ask.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    given = ask.parse_args()
    say("| workers | at a time, at most | seconds | ideal | times as fast as the first | jobs by worker |")
    say("|---|---|---|---|---|---|")
    first = 0.0
    for which, workers in [*((waits, n) for n in given.workers), (waits_limited, max(given.workers))]:
        took, most, by = run(which, workers, given.jobs, given.seconds)
        allowed = min(workers * PER_WORKER, which.concurrency or given.jobs)
        assert most <= allowed
        first = first or took
        ideal = -(-given.jobs // allowed) * given.seconds
        shares = ", ".join(map(str, sorted(by.values(), reverse=True)))
        limited = f", limit {which.concurrency}" if which.concurrency else ""
        say(f"| {workers}{limited} | {most} | {took:.1f} | {ideal:.1f} | {first / took:.2f} | {shares} |")
    say(f"load of the machine: {os.getloadavg()}, {os.cpu_count()} cores")


if __name__ == "__main__":
    from tests.benchmarks import bench_workers  # by its name, under which workers find its flows

    bench_workers.main()
