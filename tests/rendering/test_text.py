import html

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.rendering.text import escape, visible


@given(st.text())
def test_escaped_text_holds_no_markup_and_encodes_as_utf8(text: str) -> None:
    shown = escape(text)
    assert not set("<>\"'") & set(shown)
    assert html.unescape(shown) == visible(text)
    shown.encode()


@pytest.mark.parametrize("text", ["\x00", "\x1b[31m", "\x7f", "\x85", "\u202eabc\u2066", "\ud800", "\uffff"])
def test_what_cannot_be_seen_is_shown(text: str) -> None:
    shown = visible(text)
    assert shown
    assert all(c.isprintable() or c == "\n" for c in shown)


def test_every_kind_of_newline_becomes_one() -> None:
    assert visible("a\r\nb\rc\u2028d\u2029e\nf") == "a\nb\nc\nd\ne\nf"


def test_what_is_cut_is_counted() -> None:
    assert visible("x" * 100_000, 10) == "x" * 10 + "… (+99,990 characters)"
    assert visible("abc", 3) == "abc"


def test_right_to_left_letters_stay_as_they_are() -> None:
    assert visible("שלום") == "שלום"
