"""Filters of a search: conditions on the columns that describe a document, as values, never as strings.

The tenant cannot be filtered: it is the handle's own.
"""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from workbench.errors import StoreError, unknown_name

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


@dataclass(frozen=True, slots=True)
class Equals(Filter):
    """The field has this value."""

    field: str
    value: Value

    def __post_init__(self) -> None:
        _check_filter_value(self.field, self.value)


@dataclass(frozen=True, slots=True)
class OneOf(Filter):
    """The field has one of these values, of which there must be one."""

    field: str
    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        given: object = self.values
        if isinstance(given, str):
            raise StoreError(f"OneOf({self.field!r}, {self.values!r}) needs several values; for one use Equals")
        object.__setattr__(self, "values", tuple(self.values))
        if not self.values:
            raise StoreError(f"OneOf({self.field!r}, ...) has no values: it would find nothing")
        _check_filter_value(self.field, *self.values)


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
        _check_filter_value(self.field, *ends)


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


def _check_filter_value(field: str, *values: Any) -> None:
    if field == "tenant_id":
        raise StoreError("a filter on tenant_id is refused: the handle of a tenant sees that tenant alone")
    if field not in FIELDS:
        raise StoreError(unknown_name("filter field", field, list(FIELDS)))
    for value in values:
        if not isinstance(value, FIELDS[field]) or isinstance(value, datetime):
            raise StoreError(f"filter field {field!r} is compared with a {FIELDS[field].__name__}, not {value!r}")


def checked_filter(where: Filter | None) -> Filter | None:
    """Return the filter if it is one.

    Raises
    ------
    StoreError
        If it is anything else: text could hold a condition that reaches beyond the tenant.
    """
    if where is not None and not isinstance(where, Filter):
        raise StoreError(f"where takes Equals, OneOf, Between or AllOf, not {where!r}")
    return where
