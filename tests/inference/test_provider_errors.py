"""How long a provider asks to wait, whatever it writes into the header."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.inference.provider_errors import wait_asked

NOW = datetime(2026, 10, 21, 7, 28, tzinfo=UTC)
dates = st.builds(
    "Wed, {} Oct {} {}:28:00 {}".format, st.integers(), st.integers(), st.integers(), st.text() | st.integers()
)


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("1.5", 1.5),
        ("Wed, 21 Oct 2026 07:29:00 GMT", 60.0),
        ("Wed, 21 Oct 2026 07:27:00 GMT", 0.0),
        ("-1", None),
        ("nan", None),
        ("soon", None),
        ("Wed, 21 Oct 99999999999999 07:28:00 GMT", None),
    ],
)
def test_a_wait_is_read_from_a_number_or_a_date(said, seconds):
    assert wait_asked({"retry-after": said}, NOW) == seconds


@given(st.text() | dates)
def test_what_is_neither_is_no_wait_and_never_an_error(said):
    found = wait_asked({"retry-after": said}, NOW)
    assert found is None or found >= 0
