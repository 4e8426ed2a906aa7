import datetime
from datetime import UTC, date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import StoreError
from workbench.retrieval.filters import AllOf, Between, Equals, Filter, OneOf
from workbench.retrieval.lance import compile_lance_filter

seeded = settings(derandomize=True, deadline=None)
TYPE = st.text(max_size=8)
DATES = st.dates()
LEAVES = st.one_of(
    st.builds(Equals, st.just("document_type"), TYPE),
    st.builds(Equals, st.just("date"), DATES),
    st.builds(lambda v: OneOf("doc_id", v), st.lists(TYPE, min_size=1, max_size=3)),
    st.builds(lambda low, high: Between("date", low, high), DATES, st.none() | DATES),
)
FILTERS = st.recursive(LEAVES, lambda inner: st.builds(AllOf, inner, inner), max_leaves=5)


@seeded
@given(FILTERS)
def test_repr_builds_the_filter_again(condition: Filter):
    names = {c.__name__: c for c in (Equals, OneOf, Between, AllOf)} | {"datetime": datetime}
    assert eval(repr(condition), names) == condition


@seeded
@given(FILTERS)
def test_every_filter_compiles(condition: Filter):
    assert compile_lance_filter(condition).to_sql()


def test_joined_filters_are_flat():
    a, b, c = Equals("doc_id", "a"), Equals("doc_id", "b"), Equals("doc_id", "c")
    assert a & b & c == AllOf(a, b, c) == a & AllOf(b, c)


def test_tenant_cannot_be_filtered():
    with pytest.raises(StoreError, match="refused: the handle of a tenant sees that tenant alone"):
        Equals("tenant_id", "other")


def test_unknown_field_names_the_nearest():
    with pytest.raises(StoreError, match="unknown filter field 'documenttype'; did you mean 'document_type'"):
        OneOf("documenttype", ["x"])


@pytest.mark.parametrize(
    "build",
    [
        lambda: Equals("date", "2024-01-01"),
        lambda: Equals("date", datetime.datetime(2024, 1, 1, tzinfo=UTC)),
        lambda: Equals("document_type", 1),
        lambda: Between("date", None, "2024"),
        lambda: OneOf("document_type", ["a", None]),
    ],
)
def test_value_of_another_type_is_refused(build):
    with pytest.raises(StoreError, match="is compared with a"):
        build()


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: OneOf("doc_id", []), "no values"),
        (lambda: OneOf("doc_id", "abc"), "for one use Equals"),
        (lambda: Between("date", None, None), "has no end"),
        (lambda: AllOf(), "no parts"),
        (lambda: Equals("doc_id", "a") & "1 = 1", "not of '1 = 1'"),
    ],
)
def test_filter_that_means_nothing_is_refused(build, said):
    with pytest.raises(StoreError, match=said):
        build()


def test_quotes_stay_inside_the_value():
    hostile = "x' OR '1'='1"
    assert compile_lance_filter(Equals("doc_id", hostile)).to_sql() == "(doc_id = 'x'' OR ''1''=''1')"


def test_open_ranges_compile_to_one_side():
    assert "<=" in compile_lance_filter(Between("date", None, date(2024, 1, 1))).to_sql()
    assert ">=" in compile_lance_filter(Between("date", date(2024, 1, 1), None)).to_sql()
