"""Handles and stores as they would be if somebody took out what keeps tenants apart."""

from collections.abc import Iterator
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
    return Leaky(handle._rows)


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
