"""Processes that share one rate limit: starts in any window, turns of each process, and the longest wait."""

import json
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from workbench.errors import RateLimited
from workbench.inference.rate_limits import RateLimit, RateLimiter
from workbench.state import open_engine

ROOT = Path(__file__).parents[2]
MODEL = "m"


@dataclass(frozen=True)
class Outcome:
    """Starts as the log has them and as the callers saw them, the latter delayed by the machine's load."""

    windows: float
    started: int
    most_reserved: int
    most_seen: int
    by_process: tuple[int, ...]
    longest_wait_s: float
    ideal_wait_s: float
    late_ms: float
    rows_kept: int

    @property
    def unfairness(self) -> float:
        """Most starts of a process by the fewest of one."""
        return max(self.by_process) / max(1, min(self.by_process))

    def line(self, name: str) -> str:
        return (
            f"{name:<11} {self.windows:7.1f} {self.started:7} {self.most_reserved:12} {self.most_seen:8} "
            f"{' : '.join(map(str, self.by_process)):>15} {self.unfairness:7.2f} {self.longest_wait_s:9.2f} "
            f"{self.ideal_wait_s:7.2f} {self.longest_wait_s / self.ideal_wait_s:6.2f} "
            f"{self.late_ms:8.0f} {self.rows_kept:6}"
        )


HEAD = (
    "database    windows  starts  most in log  as seen     by process  max/min  wait max   ideal  ratio  late ms   rows"
)


def limit_storm(
    url: str, *, limit: int, window_s: float, windows: int, processes: int = 3, threads: int = 8
) -> Outcome:
    engine = open_engine(url)
    make_limiter(engine, limit, window_s)
    begin = time.time() + 3.0 + processes  # when all have been started
    end = begin + windows * window_s
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.inference.limit_storm", url]
            + [str(v) for v in (limit, window_s, threads, begin, end)],
            cwd=ROOT, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(processes)
    ]  # fmt: skip
    told = [json.loads(child.communicate()[0]) for child in children]
    assert [child.returncode for child in children] == [0] * processes
    with engine.begin() as connection:
        rows = connection.execute(sa.text("SELECT count(*) FROM wb_slot")).scalar_one()
    engine.dispose()
    seen = sorted(call["seen"] for calls in told for call in calls)
    assert min(seen) >= begin
    reserved = [call["reserved"] for calls in told for call in calls]
    return Outcome(
        windows=(max(seen) - min(seen)) / window_s,
        started=len(seen),
        most_reserved=most_in_any_window(reserved, window_s),
        most_seen=most_in_any_window(seen, window_s),
        by_process=tuple(map(len, told)),
        longest_wait_s=max(call["waited"] for calls in told for call in calls),
        ideal_wait_s=processes * threads / limit * window_s,
        late_ms=1000 * max(call["seen"] - call["reserved"] for calls in told for call in calls),
        rows_kept=rows,
    )


def most_in_any_window(moments: list[float], window_s: float) -> int:
    """Most moments in any half-open window of that length."""
    ordered, first, most = sorted(moments), 0, 0
    for i, moment in enumerate(ordered):
        while ordered[first] <= moment - window_s:
            first += 1
        most = max(most, i - first + 1)
    return most


def make_limiter(engine: sa.Engine, limit: int, window_s: float) -> RateLimiter:
    return RateLimiter(engine, {MODEL: RateLimit(requests_per_minute=limit)}, window_s=window_s)


def child(url: str, limit: int, window_s: float, threads: int, begin: float, end: float) -> None:
    """Call as fast as the limit lets; the log's own moment of each start is read back."""
    engine = open_engine(url)
    limiter, calls = make_limiter(engine, limit, window_s), list[dict[str, float]]()
    query = sa.text("SELECT start_us FROM wb_slot WHERE slot_id = :id")

    def work() -> None:
        time.sleep(max(0.0, begin - time.time()))
        while (asked := time.time()) < end:
            try:
                slot = limiter.wait(MODEL, 1, deadline_s=end - asked)
            except RateLimited:
                return
            seen = time.time()
            with engine.connect().execution_options(readonly=True) as connection:
                reserved = connection.execute(query, {"id": slot.slot_id}).scalar_one() / 1e6
            calls.append({"seen": seen, "reserved": reserved, "waited": seen - asked})

    pool = [threading.Thread(target=work) for _ in range(threads)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    sys.stdout.write(json.dumps(calls))


if __name__ == "__main__":
    url, limit, window, threads, begin, end = sys.argv[1:]
    child(url, int(limit), float(window), int(threads), float(begin), float(end))
