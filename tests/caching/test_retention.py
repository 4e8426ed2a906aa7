"""What a cache leaves behind: nothing of scopes that are empty, and nothing that a later answer is mistaken for."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import sqlalchemy as sa

from tests.caching.caches import USE, WHO, StillClock, angle_cache, answer, ask, count, found, keep
from workbench.caching.cache import ResponseCache
from workbench.caching.cache_entries import HIGHEST, SCOPES

AGE_S = 300
DUNE = replace(WHO, tenant_id="dune")


def scopes(engine):
    """Versions by scope, without the row that remembers the highest of those that are gone."""
    with engine.begin() as connection:
        rows = connection.execute(sa.select(SCOPES.c.scope, SCOPES.c.version).where(SCOPES.c.scope != HIGHEST)).all()
    return dict(map(tuple, rows))


def test_purging_drops_scopes_that_are_empty_and_no_others(engine):
    clock = StillClock()
    cache, responses = angle_cache(engine, clock, ttl_s=AGE_S), ResponseCache(engine, clock=clock, ttl_s=AGE_S)
    keep(cache, "angle 0")
    keep(responses, "angle 0")
    clock.sleep(AGE_S)
    keep(cache, "angle 0", who=DUNE)
    assert (cache.purge(), len(scopes(engine)), count(engine)) == (2, 1, 1)
    assert found(cache, "angle 0", who=DUNE)
    cache.invalidate(tenant_id="dune")
    assert (cache.purge(), scopes(engine)) == (0, {})


def test_the_index_of_another_process_takes_no_new_entry_for_one_of_a_scope_that_was_dropped(engine):
    clock = StillClock()
    one, other = (angle_cache(engine, clock, ttl_s=AGE_S) for _ in range(2))
    for angle in (0, 90):
        keep(one, f"angle {angle}")
    assert found(other, "angle 0")
    (before,) = scopes(engine).values()
    one.invalidate(tenant_id=WHO.tenant_id)
    one.purge()
    for angle in (180, 270):  # would be versions 1 and 2 again
        keep(one, f"angle {angle}")
    assert found(other, "angle 0") is None, "it has not looked since"
    assert found(other, "angle 91") is None
    clock.sleep(1)
    assert [a for a in (0, 90, 180, 270) if found(other, f"angle {a}")] == [180, 270]
    assert min(scopes(engine).values()) > before


def test_what_was_purged_elsewhere_is_learned_at_once(engine):
    clock = StillClock()
    one, other = (angle_cache(engine, clock) for _ in range(2))
    for i in range(50):
        keep(one, f"angle {i / 100}")
    assert found(other, "angle 0")
    one.invalidate(tenant_id=WHO.tenant_id)
    one.purge()
    reads = []
    sa.event.listen(engine, "before_cursor_execute", lambda *arguments: reads.append(arguments[2]))
    assert found(other, "angle 0.2") is None
    assert 2 <= len(reads) < 10


def write(cache, number):
    """Ask and keep; returns what was served to another question or tenant than its own."""
    wrong = []
    for i in range(15):
        who, text = (WHO, DUNE)[i % 2], f"angle {(7 * i + number) % 12}"
        said = found(cache, text, who=who)
        wrong += [(who, text, said)] if said not in (None, f"{who.tenant_id} {text}") else []
        cache.keep(ask(text), answer(f"{who.tenant_id} {text}"), who, USE, cost_nanos=1, since=cache.moment())
    return wrong


def sweep(cache):
    """Empty and drop the scopes again and again."""
    for i in range(15):
        cache.invalidate(tenant_id=(WHO, DUNE)[i % 2].tenant_id)
        cache.purge()
    return []


def test_scopes_that_come_and_go_under_writers_mix_nothing_up(engine):
    caches = [angle_cache(engine, StillClock(), degrees=0.1) for _ in range(2)]  # two processes: they share no lock
    with ThreadPoolExecutor(5) as pool:
        running = [pool.submit(write, caches[n % 2], n) for n in range(4)] + [pool.submit(sweep, caches[0])]
        assert [each.result() for each in running] == [[]] * 5
    with engine.begin() as connection:
        counted = connection.scalar(sa.select(sa.func.sum(SCOPES.c.entries)))
        assert connection.scalar(sa.text("SELECT count(*) FROM wb_cache WHERE version < 1")) == 0
    assert int(counted or 0) == count(engine)
    for cache in caches:
        cache.invalidate(corpus_version=USE.corpus_version)
        cache.purge()
    assert (count(engine), scopes(engine)) == (0, {})
