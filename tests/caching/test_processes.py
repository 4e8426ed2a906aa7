"""Threads and processes on one cache, one of them killed: nothing that was kept is lost, doubled or mixed up."""

import re
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
import sqlalchemy as sa

from tests.caching.caches import answer, ask, count
from tests.caching.caching_child import USE, open_cache
from workbench.state import open_engine
from workbench.telemetry.attribution import Attribution


class Child:
    """A process with 8 threads; its lines are read as they come."""

    def __init__(self, url: str, name: str, rounds: int):
        command = [sys.executable, "-m", "tests.caching.caching_child", url, name, "8", str(rounds)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.lines: list[str] = []
        self.half = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line)
            if len(self.lines) >= 40:
                self.half.set()
        self.half.set()

    def end(self) -> int:
        code = self.process.wait(timeout=120)
        self._reader.join(timeout=120)
        self.process.stdout.close()
        return code

    @property
    def kept(self) -> set[tuple[str, str]]:
        whole = (re.fullmatch(r"kept (\w+) (.*)\n", line) for line in self.lines)
        return {(m[1], m[2]) for m in whole if m}


@pytest.mark.slow
def test_three_processes_of_eight_threads_with_one_killed_lose_and_double_nothing(state_url):
    children = [Child(state_url, name, 20) for name in ("one", "two")]
    killed = Child(state_url, "killed", 10_000)
    killed.half.wait(timeout=120)
    killed.process.kill()
    killed.end()
    children.append(Child(state_url, "again", 10))
    codes = [child.end() for child in children]
    lines = [line for child in (*children, killed) for line in child.lines]
    assert codes == [0, 0, 0], lines[-30:]
    assert not [line for line in lines if line.startswith("wrong")]
    assert [line for line in lines if line.startswith("problems")] == ["problems {}\n"] * 3
    kept = set().union(*(child.kept for child in (*children, killed)))
    assert len(killed.kept) >= 20
    assert_all_there_once(state_url, kept)


def assert_all_there_once(url: str, kept: set[tuple[str, str]]) -> None:
    engine = open_engine(url)
    cache = open_cache(engine)
    for tenant, question in kept:
        hit = cache.find(ask(question), Attribution(tenant_id=tenant), USE)
        assert hit is not None, (tenant, question)
        assert hit.response.text == f"{tenant}: {question}"
    with engine.begin() as connection:
        twice = "SELECT count(*) FROM wb_cache GROUP BY scope, question HAVING count(*) > 1"
        assert connection.execute(sa.text(twice)).all() == []
        counted = sum(connection.scalars(sa.text("SELECT entries FROM wb_cache_scope")))
    assert counted == count(engine) >= len(kept)
    engine.dispose()


@pytest.mark.parametrize("limit", [1000, 10])
def test_eight_threads_on_one_object_keep_count_and_limit(engine, limit):
    cache = open_cache(engine, max_entries=limit)
    who, wrong = Attribution(tenant_id="acme"), []

    def work(thread: int) -> None:
        for i in range(10):
            question = f"q{(thread * 7 + i) % 30}"
            hit = cache.find(ask(question), who, USE)
            if hit is None:
                cache.keep(ask(question), answer(question), who, USE, cost_nanos=1, since=cache.moment())
            elif hit.response.text != question:
                wrong.append((question, hit.response.text))

    threads = [threading.Thread(target=work, args=(t,)) for t in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert count(engine) == min(30, limit)


def test_an_invalidation_that_meets_a_keep_half_way_finds_its_entry(engine):
    """It waits until the entry is there, or the keep sees it: never does neither see the other."""
    cache, other = open_cache(engine), open_cache(engine)
    who, use = Attribution(tenant_id="acme"), replace(USE, sources=("doc",))
    other.invalidate(source="doc")
    changing = threading.Thread(target=lambda: other.invalidate(source="doc"))

    def half_way(_connection, _cursor, statement, *_):
        if statement.startswith("INSERT INTO wb_cache ") and not changing.ident:
            changing.start()
            changing.join(0.5)

    sa.event.listen(engine, "before_cursor_execute", half_way)
    cache.keep(ask("q"), answer("old"), who, use, cost_nanos=1, since=cache.moment())
    assert changing.ident
    changing.join()
    assert count(engine) == 0
