"""Use one cache as a process of its own: ``python -m tests.caching.caching_child URL NAME THREADS ROUNDS``.

Every thread asks and keeps; each kept answer is printed once `keep` has returned, each served one with what was asked.
A line that starts with ``wrong`` names an answer that belongs to another tenant or question.
"""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import sqlalchemy as sa

from tests.caching.caches import answer, ask
from workbench.caching.cache import SemanticCache
from workbench.inference.messages import CacheUse
from workbench.state import open_engine
from workbench.telemetry.attribution import Attribution
from workbench.testing import HashEmbedder

TENANTS = ("acme", "birch", "dune")
USE = CacheUse(visibility="tenant")
_PRINTING = threading.Lock()


def say(*what: object) -> None:
    """Print a whole line at once."""
    with _PRINTING:
        sys.stdout.write(" ".join(map(str, what)) + "\n")
        sys.stdout.flush()


def open_cache(engine: sa.Engine, **options: int) -> SemanticCache:
    """Every question is one word of its own, so that no two are near."""
    return SemanticCache(engine, embedder=HashEmbedder(32), threshold=0.99, **options)


def work(cache: SemanticCache, name: str, thread: int, rounds: int) -> None:
    """Ask own questions and some that all processes ask, of three tenants."""
    rng = np.random.default_rng(abs(hash((name, thread))) % 2**32)
    for i in range(rounds):
        tenant = TENANTS[int(rng.integers(3))]
        who = Attribution(tenant_id=tenant)
        question = f"shared{rng.integers(40)}" if i % 2 else f"own{name}t{thread}i{i}"
        hit = cache.find(ask(question), who, USE)
        if hit is None:
            cache.keep(ask(question), answer(f"{tenant}: {question}"), who, USE, cost_nanos=1, since=cache.moment())
            say("kept", tenant, question)
        elif hit.response.text != f"{tenant}: {question}":
            say("wrong", tenant, question, "->", hit.response.text)


def main(url: str, name: str, threads: str, rounds: str) -> None:
    cache = open_cache(open_engine(url))
    with ThreadPoolExecutor(int(threads)) as pool:
        for done in [pool.submit(work, cache, name, t, int(rounds)) for t in range(int(threads))]:
            done.result()
    say("problems", dict(cache.problems))


if __name__ == "__main__":
    main(*sys.argv[1:])
