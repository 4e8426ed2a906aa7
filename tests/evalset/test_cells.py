"""One rule for every kind of cell; a value that is none is told with what to write."""

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.evalset.cells import (
    Unusable,
    grade_cell,
    id_cell,
    number_cell,
    parse_json_cell,
    parsed_cell,
    share_cell,
    times_of_cells,
    truth_cell,
    whole_cell,
)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("$0.001", "cost_usd '$0.001' is no number; write 0.001"),
        ("0,001", "cost_usd '0,001' is no number; write 0.001"),
        ("1,5", "write 1.5"),
        ("€0.01", "write 0.01"),
        ("0.01 USD", "write 0.01"),
        ("0,01 €", "write 0.01"),
        ("1,234.5", "write 1234.5"),
        ("1.234,5", "write 1234.5"),
        ("1,234", "write 1.234, or 1234"),
        ("1 000", "write 1000"),
        ("100 %", "write 1"),
        ("85%", "write 0.85"),
        ("0,5 %", "write 0.005"),
        ("12 ms", "write 12"),
        ("\u22120.25", "write -0.25"),
        ("0.1¢", "write the number alone, in the unit of the column"),
        ("1.2 s", "write the number alone"),
        ("3k", "write the number alone"),
        ("C", "write 1"),
        ("I", "write 0"),
        ("PASS", "write 1"),
        ("Failed", "write 0"),
        ("P", "write 0.5"),
        ("error", "is no number"),
        ("1_0", "is no number"),
        ("٣", "is no number"),
        ("0x10", "is no number"),
        ("", None),
        (" NaN ", None),
        ("null", None),
        ("N/A", None),
        (float("nan"), None),
        (Decimal("NaN"), None),
        (None, None),
        (float("inf"), "is no finite number"),
        ("1e999", "is no finite number"),
        (10**400, "is no finite number"),
        (True, "is no number"),
        ([1], "is no number; give one number"),
        ({"a": 1}, "is no number; give one number"),
    ],
)
def test_a_number_is_read_or_told_with_what_to_write(value, says):
    if says is None:
        assert number_cell("cost_usd", value) is None
        return
    with pytest.raises(Unusable) as caught:
        number_cell("cost_usd", value)
    assert says in str(caught.value)


@given(st.text() | st.floats() | st.integers() | st.none() | st.booleans() | st.binary() | st.lists(st.integers()))
def test_whatever_a_cell_holds_it_is_read_or_refused_by_its_rule(value):
    for read in (number_cell, share_cell, whole_cell, id_cell, truth_cell, parsed_cell, lambda _, v: grade_cell(v)):
        try:
            read("x", value)
        except Unusable as error:
            assert str(error)  # noqa: PT017 - either is right, a crash is not
    times_of_cells("at", [(1, value), (2, "2026-01-01")])


def test_a_quality_is_a_share_and_true_and_false_are_shares():
    assert [share_cell("q", v) for v in (True, "FALSE", "0.25", 1, None)] == [1.0, 0.0, 0.25, 1.0, None]
    with pytest.raises(Unusable, match=r"q must be in \[0, 1\], found '1\.2'"):
        share_cell("q", "1.2")


def test_ids_of_every_type_are_one_text():
    same = [7, 7.0, Decimal(7), Decimal("7.00"), "7"]
    assert {id_cell("_id", value) for value in same} == {"7"}
    assert [id_cell("_id", value) for value in ("007", "7.0", "", None, -1)] == ["007", "7.0", None, None, "-1"]
    for odd in (7.5, True, 2.0**60, b"7", [7], date(2026, 1, 1), float("inf"), 10**50):
        with pytest.raises(Unusable, match='"_id"'):
            id_cell("_id", odd)


def test_a_grade_may_be_below_0_and_written_as_a_float():
    assert [grade_cell(v) for v in ("2.0", -1, "-1", 0.0, "+1", None)] == [2, -1, -1, 0, 1, None]


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '{"b": {"a": 1, "a": 1}}', '[{"a": 1, "a": 2}]'])
def test_a_key_that_stands_twice_is_refused_at_any_depth(text):
    with pytest.raises(Unusable, match="the key 'a' stands twice"):
        parse_json_cell(text)


def test_json_text_is_read_and_python_s_own_form_is_told():
    assert parsed_cell("m", '{"tenant_id": "a", "x": NaN}') == {"tenant_id": "a", "x": None}
    assert parsed_cell("m", "plain text") == "plain text"
    with pytest.raises(Unusable, match=r"is no JSON; write it as json\.dumps does"):
        parsed_cell("m", "{'tenant_id': 'a'}")


NOON = datetime(2026, 1, 6, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    "value",
    [
        "2026-01-06T12:00:00Z",
        "2026-01-06T12:00:00+00:00",
        "2026-01-06 13:00:00+01:00",
        "2026-01-06 07:00:00 -0500",
        "2026-01-06 12:00:00 UTC",
        "2026/01/06 12:00:00Z",
        "2026-01-06T12:00:00.000000000Z",
        NOON,
        NOON.astimezone(timezone(timedelta(hours=9))),
    ],
)
def test_a_time_is_one_instant_in_any_zone(value):
    (found,), wrong = times_of_cells("at", [(1, value)])
    assert found == (NOON.timestamp(), "2026-01-06T12:00:00+00:00")
    assert wrong == []


@pytest.mark.parametrize("unit", [1, 1e3, 1e6, 1e9])
def test_numbers_since_1970_are_told_apart_by_the_largest(unit):
    found, _ = times_of_cells("at", [(1, int(NOON.timestamp() * unit)), (2, str(int((NOON.timestamp() + 1) * unit)))])
    assert [text for _, text in found] == ["2026-01-06T12:00:00+00:00", "2026-01-06T12:00:01+00:00"]


@pytest.mark.parametrize(
    ("cells", "lines"),
    [
        (["2026-01-06T12:00:00Z", "yesterday"], [2]),
        (["2026-01-06T12:00:00Z", None], [2]),
        (["2026-01-06T12:00:00Z", "2026-01-06T12:00:00Z", "2026-01-06T12:00:00"], [3]),
        (["2026-01-06T12:00:00", 1767700800, "2026-01-06T12:00:00"], [2]),
        (["12:00:00"], [1]),
        (["06.01.2026 12:00"], [1]),
        ([-5.0], [1]),
    ],
)
def test_a_column_has_one_form_of_time_or_the_odd_lines_are_named(cells, lines):
    found, wrong = times_of_cells("at", list(enumerate(cells, start=1)))
    assert found == []
    assert [line for line, _ in wrong] == lines
