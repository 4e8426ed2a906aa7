"""What a search may be narrowed to, as values: never strings, so nothing a user types becomes a query.

Only columns that describe a document can be filtered. The tenant cannot: it is the handle's own.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from functools import reduce
from operator import and_
from typing import TYPE_CHECKING, Any

from workbench.errors import StoreError, unknown_name

if TYPE_CHECKING:
    from lancedb.expr import Expr

Value = str | date
FIELDS: dict[str, type] = {"document_type": str, "date": date, "doc_id": str}


class Filter:
    """A condition on the documents searched; conditions are joined with ``&``.

    >>> Equals("document_type", "method") & OneOf("doc_id", ["a", "b"])
    AllOf(Equals(field='document_type', value='method'), OneOf(field='doc_id', values=('a', 'b')))
    """

    __slots__ = ()

    def __and__(self, other: "Filter") -> "AllOf":
        return AllOf(self, other)

    def expression(self) -> "Expr":
        """Compile to LanceDB's typed expression."""
        from lancedb.expr import col

        match self:
            case Equals(field, value):
                return col(field) == value
            case OneOf(field, values):
                return col(field).isin(values)
            case Between(field, None, high):
                return col(field) <= high
            case Between(field, low, None):
                return col(field) >= low
            case Between(field, low, high):
                return (col(field) >= low) & (col(field) <= high)
            case AllOf(parts):
                return reduce(and_, (part.expression() for part in parts))
        raise NotImplementedError(type(self).__name__)


@dataclass(frozen=True, slots=True)
class Equals(Filter):
    """The field has this value."""

    field: str
    value: Value

    def __post_init__(self) -> None:
        _check(self.field, self.value)


@dataclass(frozen=True, slots=True, init=False)
class OneOf(Filter):
    """The field has one of these values, of which there must be one."""

    field: str
    values: tuple[Value, ...]

    def __init__(self, field: str, values: Iterable[Value]) -> None:
        if isinstance(values, str):
            raise StoreError(f"OneOf({field!r}, {values!r}) needs several values; for one use Equals")
        object.__setattr__(self, "field", field)
        object.__setattr__(self, "values", tuple(values))
        if not self.values:
            raise StoreError(f"OneOf({field!r}, ...) has no values: it would find nothing")
        _check(field, *self.values)


@dataclass(frozen=True, slots=True)
class Between(Filter):
    """The field lies in the closed range; None leaves an end open. Without the field it is outside."""

    field: str
    low: Value | None
    high: Value | None

    def __post_init__(self) -> None:
        ends = [end for end in (self.low, self.high) if end is not None]
        if not ends:
            raise StoreError(f"{self!r} has no end: give low, high or both, or no filter")
        _check(self.field, *ends)


@dataclass(frozen=True, slots=True, init=False, repr=False)
class AllOf(Filter):
    """Every part holds; parts that are themselves ``AllOf`` are taken apart."""

    parts: tuple[Filter, ...]

    def __init__(self, *parts: Filter) -> None:
        flat: list[Filter] = []
        for part in parts:
            if not isinstance(part, Filter):
                raise StoreError(f"a filter is made of Equals, OneOf, Between and AllOf, not of {part!r}")
            flat.extend(part.parts if isinstance(part, AllOf) else [part])
        if not flat:
            raise StoreError("AllOf() has no parts: give at least one filter, or none at all")
        object.__setattr__(self, "parts", tuple(flat))

    def __repr__(self) -> str:
        return f"AllOf({', '.join(map(repr, self.parts))})"


def _check(field: str, *values: Any) -> None:
    if field == "tenant_id":
        raise StoreError("a filter on tenant_id is refused: the handle of a tenant sees that tenant alone")
    if field not in FIELDS:
        raise StoreError(unknown_name("filter field", field, list(FIELDS)))
    for value in values:
        if not isinstance(value, FIELDS[field]) or isinstance(value, datetime):
            raise StoreError(f"filter field {field!r} is compared with a {FIELDS[field].__name__}, not {value!r}")
