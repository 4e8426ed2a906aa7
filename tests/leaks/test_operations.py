"""No operation on the rows of one tenant sees or touches a row of another, whatever the tenants are called."""

import re
import sys
import time
import unicodedata
from itertools import count

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.leaks.isolation import Leak
from tests.leaks.mutants import without_policies
from tests.leaks.operations import HOSTILE, HOSTILE_TO, MARKS, OF_THE_TABLE, OPERATIONS, World, leaky, public_operations
from tests.retrieval.stores import KINDS
from tests.retrieval.tables import EMBEDDER, open_store
from workbench.errors import StoreError
from workbench.records import content_hash
from workbench.retrieval import lance, postgres
from workbench.retrieval.lance import LanceStore
from workbench.retrieval.postgres import PostgresStore
from workbench.retrieval.store import ChunkRow, open_table

# What another tenant is called, of whose name this one could be the quoted, escaped or cut form.
CONFUSIONS = (
    *(lambda n, m=m: n.replace(m, m * 2) for m in ("'", '"', "\\")),
    *(lambda n, m=m: n.replace(m * 2, m) for m in ("'", '"', "\\")),
    *(lambda n, m=m: n.replace(m, f"\\{m}") for m in ("'", '"')),
    *(lambda n, m=m: n.replace(f"\\{m}", m) for m in ("'", '"')),
    *(lambda n, m=m: n.split(m)[0] for m in ("--", "/*", "\x00", ";", "'")),
    lambda n: re.sub(r"/\*.*?\*/", "", n, flags=re.DOTALL),
    lambda n: unicodedata.normalize("NFC", n),
    lambda n: n.replace("\\n", "\n").replace("\\x27", "'").replace("\\u0041", "A"),
    str.strip,
    str.upper,
    lambda n: f"{n}' OR '1'='1",
)
PIECES = (*MARKS, "acme", "a", "A", " ", "\n", "%", "_", " OR 1=1 ", "\x00", "租户", "e\u0301", "\\x27", "\\n")
pieces = st.lists(st.sampled_from(PIECES), min_size=1, max_size=5).map("".join)
names = (pieces | st.text(min_size=1, max_size=20)).filter(str.strip)
large = [HealthCheck.too_slow, HealthCheck.data_too_large]
seeded = settings(derandomize=True, deadline=None, database=None, suppress_health_check=large)
_tables = count()


def confused(name: str) -> list[str]:
    """Names that are not this one, and could be taken for it."""
    return [n for n in (confuse(name) for confuse in CONFUSIONS) if n.strip() and n != name]


def check_all(tenants) -> int:
    """Put every operation to every tenant, beside the tenants that theirs could be confused with; number of checks."""
    store = open_table("memory://", f"t{next(_tables)}", dimension=EMBEDDER.dimension)
    world = World.of(store, [n for name in tenants for n in (name, *confused(name))])
    for name in tenants:
        for check in OPERATIONS.values():
            check(world, name)
    return len(tenants) * len(OPERATIONS)


@settings(seeded, max_examples=4)
@given(st.lists(names, min_size=1, max_size=4, unique=True))
def test_no_operation_leaves_its_tenant_whatever_it_is_called(tenants):
    check_all(tenants)


@pytest.mark.bench
@pytest.mark.timeout(3600)
def test_five_thousand_names_over_every_operation():
    asked, began = [], time.perf_counter()

    @settings(seeded, max_examples=250)
    @given(st.lists(names, min_size=20, max_size=20, unique=True))
    def draw(tenants):
        asked.append(check_all(tenants))

    draw()
    sys.stdout.write(f"\n{sum(asked):,} checks, {time.perf_counter() - began:.0f} s: no foreign row, no error")
    assert sum(asked) >= 5_000 * len(OPERATIONS)


@pytest.fixture(scope="module", params=KINDS)
def world(request, tmp_path_factory):
    store = open_store(tmp_path_factory.mktemp("world"), kind=request.param)
    return World.of(store, HOSTILE_TO[request.param])


@pytest.mark.parametrize("operation", OPERATIONS)
def test_hostile_names_mean_nothing_to_any_operation(world, operation):
    for tenant in world.tenants:
        OPERATIONS[operation](world, tenant)


def test_every_public_operation_is_checked():
    """One that is added is checked here too, or is said to ask for no tenant."""
    assert {*OPERATIONS, *OF_THE_TABLE} - {"Hybrid.search"} == public_operations()


@pytest.mark.parametrize("kind", [LanceStore, PostgresStore])
def test_no_store_can_do_more_than_is_checked(kind):
    names = {n for n in dir(kind) if not n.startswith("_")} | {"dimension"}
    assert names - {"open"} == {n.partition(".")[2] for n in public_operations() if n.startswith("Store.")}


OF_A_HANDLE = [name for name in OPERATIONS if name.startswith("TenantHandle.")]
LEGS = ["TenantHandle.vector", "TenantHandle.full_text"]
CUT = [*((name, name) for name in OF_A_HANDLE), *(("Hybrid.search", name) for name in LEGS)]


@pytest.mark.parametrize(("operation", "cut"), CUT)
@pytest.mark.parametrize("tenant", ["acme", "\\acme", HOSTILE[0]])
def test_check_turns_red_when_the_filter_of_an_operation_is_taken_out(world, operation, cut, tenant):
    if operation == "TenantHandle.fused" and not isinstance(world.store, PostgresStore):
        pytest.skip("only PostgreSQL fuses in one statement")
    with without_policies(world.store), pytest.raises(Leak):
        OPERATIONS[operation](leaky(world, cut.removeprefix("TenantHandle.")), tenant)


@pytest.mark.parametrize("operation", ["Store.delete_documents", "Store.delete_stale"])
@pytest.mark.parametrize("kind", KINDS)
def test_check_turns_red_when_the_filter_of_a_delete_is_taken_out(tmp_path, monkeypatch, operation, kind):
    from lancedb.expr import col, lit

    small = World.of(open_store(tmp_path, kind=kind), ["acme", "acme'", "\\"])
    OPERATIONS[operation](small, "acme")
    monkeypatch.setattr(lance, "lance_rows_of", lambda _tenant: col("position") >= lit(0))
    monkeypatch.setattr(postgres, "postgres_rows_of", lambda _tenant, _table: sa.true())
    if kind == "postgres":
        OPERATIONS[operation](small, "acme")  # the policy shows the writer the rows of this tenant alone
    with without_policies(small.store), pytest.raises(Leak, match="rows told by a write"):
        OPERATIONS[operation](small, "acme")


class Unkeyed(ChunkRow):
    """A row whose key leaves out whose it is."""

    __slots__ = ()

    @property
    def chunk_id(self) -> str:
        return f"{content_hash(self.doc_id)[:32]}-{self.position:05d}"


def test_check_turns_red_when_the_key_of_a_row_leaves_out_the_tenant(tmp_path):
    tenants = ("acme", "acme'", "\\")
    with pytest.raises(StoreError, match="stands twice in one batch"):
        World.of(open_store(tmp_path / "one"), tenants, row=Unkeyed)
    store = open_store(tmp_path / "two")
    small = World(store, tenants, store.for_tenant, Unkeyed)
    for tenant in tenants:
        store.upsert(small.rows(tenant))
    with pytest.raises(Leak, match="after a write of 'acme' the texts"):
        OPERATIONS["Store.upsert"](small, "acme")
