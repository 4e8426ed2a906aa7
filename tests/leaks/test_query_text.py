"""No query is text with a value in it: names reach LanceDB as expressions and the state database as parameters."""

import ast
from pathlib import Path

import pytest

import workbench

PACKAGE = Path(workbench.__file__).parent
# Calls whose first argument a database reads as a condition or a statement.
READ_AS_QUERY = {
    "execute",
    "executemany",
    "executescript",
    "exec_driver_sql",
    "text",
    "literal_column",
    "where",
    "delete",
    "count_rows",
    "when_matched_update_all",
    "when_not_matched_by_source_delete",
}


def built_from_values(source: str) -> list[str]:
    """Calls in which text is put together where a query is read, and everything that turns an expression into text."""
    found = []
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if name == "to_sql" or (name in READ_AS_QUERY and any(map(_is_built, _given(name, call)))):
            found.append(f"{call.lineno}: {ast.unparse(call)}")
    return found


def _given(name: str, call: ast.Call) -> list[ast.AST]:
    """What is read as the query; ``text`` of other objects draws and prints, only that of SQLAlchemy is SQL."""
    if name == "text" and ast.unparse(call.func) not in ("sa.text", "sqlalchemy.text", "text"):
        return []
    return [*call.args[:1], *(k.value for k in call.keywords)]


def _is_built(node: ast.AST) -> bool:
    """Whether text is formatted or joined anywhere in the argument."""
    for part in ast.walk(node):
        if isinstance(part, ast.JoinedStr):
            return True
        if isinstance(part, ast.BinOp) and isinstance(part.op, ast.Add | ast.Mod) and _has_text(part):
            return True
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute) and part.func.attr == "format":
            return True
    return False


def _has_text(node: ast.BinOp) -> bool:
    return any(isinstance(s, ast.Constant) and isinstance(s.value, str) for s in (node.left, node.right))


def test_no_query_of_the_package_is_built_from_values():
    found = [
        f"{path.relative_to(PACKAGE)}:{line}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for line in built_from_values(path.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "table.count_rows(scope.to_sql())",
        "predicate = scope.to_sql()",
        """table.delete(f"tenant_id = '{tenant}'")""",
        """query.where("tenant_id = '" + tenant + "'")""",
        """query.where(filter="tenant_id = '%s'" % tenant)""",
        """connection.execute(sa.text("SELECT {}".format(name)))""",
        """connection.exec_driver_sql(f"DELETE FROM {name}")""",
        """merge.when_not_matched_by_source_delete(f"tenant_id = '{tenant}'")""",
    ],
)
def test_a_query_that_is_built_from_values_is_found(line):
    assert built_from_values(line)


@pytest.mark.parametrize(
    "line",
    [
        """query.where(col("tenant_id") == lit(tenant))""",
        """connection.execute(sa.select(T).where(T.c.count + 1 > 2))""",
        """connection.exec_driver_sql("PRAGMA secure_delete=ON")""",
        """canvas.text(0, 1, f"{name}")""",
    ],
)
def test_conditions_and_constants_are_none(line):
    assert built_from_values(line) == []
