"""Handles and stores as they would be if somebody took out what keeps tenants apart."""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from workbench.retrieval.lance import LanceRows, LanceStore
from workbench.retrieval.postgres import PostgresRows, PostgresStore
from workbench.retrieval.store import Store
from workbench.retrieval.tenant import TenantHandle


class UnscopedLanceRows(LanceRows):
    """Rows without the tenant's condition."""

    def __init__(self, *given: Any) -> None:
        from lancedb.expr import col, lit

        super().__init__(*given)
        self._own = col("position") >= lit(0)


class UnscopedPostgresRows(PostgresRows):
    """Rows without the tenant's condition in any query; the policies are still there."""

    def _own(self, table: sa.FromClause) -> sa.ColumnElement[bool]:
        return sa.true()

    def _statement(self, sql: str) -> sa.TextClause:
        return sa.text(any_tenant(sql))


class HalfFusedRows(PostgresRows):
    """Rows whose fused statement has lost the condition in the legs ``cut``: "vector", "full_text" or both."""

    cut: Collection[str] = ()

    def _statement(self, sql: str) -> sa.TextClause:
        words, between, vectors = sql.partition("best_vectors as (")
        assert between, "what looks for words alone is another operation's"
        return sa.text(
            (any_tenant(words) if "full_text" in self.cut else words)
            + between
            + (any_tenant(vectors) if "vector" in self.cut else vectors)
        )


def any_tenant(sql: str) -> str:
    """The statement with no condition on the tenant left; the parameter is still there."""
    cut, found = re.subn(r"(?:\w+\.)?tenant_id = :tenant", r"(\g<0> or true)", sql)
    assert found, f"no condition on the tenant is known in {sql}"
    return cut


def unscoped(store: Store, tenant: str) -> TenantHandle:
    """Handle whose queries have lost the tenant's condition."""
    if isinstance(store, PostgresStore):
        return TenantHandle(UnscopedPostgresRows(store._sessions, tenant, store.dimension))
    assert isinstance(store, LanceStore)
    return TenantHandle(UnscopedLanceRows(store._table, tenant, store.dimension))


def half_unscoped(store: Store, tenant: str, *operations: str) -> TenantHandle:
    """Handle of which only the operations named have lost the condition."""
    handle, other = store.for_tenant(tenant), unscoped(store, tenant)

    class Leaky(TenantHandle):
        pass

    for operation in operations:
        setattr(Leaky, operation, lambda _self, *args, name=operation, **given: getattr(other, name)(*args, **given))
    rows, legs = handle._rows, {"vector", "full_text"} & set(operations)
    if isinstance(store, PostgresStore) and legs:  # a hybrid search is one statement, in which each leg stands again
        rows = HalfFusedRows(store._sessions, tenant, store.dimension)
        rows.cut = legs
        Leaky.fused = lambda _self, *args, rows=rows, **given: TenantHandle(rows).fused(*args, **given)
        rows = handle._rows
    return Leaky(rows)


@contextmanager
def without_policies(store: Store) -> Iterator[None]:
    """Take the policies of PostgreSQL out for a while; LanceDB has none."""
    if not isinstance(store, PostgresStore):
        yield
        return
    _switch(store, "disable")
    try:
        yield
    finally:
        _switch(store, "enable")


def _switch(store: PostgresStore, how: str) -> None:
    with store._sessions._engine.begin() as connection:
        connection.execute(sa.text("select set_config('search_path', :path, true)"), {"path": store._sessions._path})
        for table in ("chunks", "terms", "tenants"):
            connection.exec_driver_sql(f"alter table {table} {how} row level security")
