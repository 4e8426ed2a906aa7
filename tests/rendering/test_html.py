from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.rendering.html import _ATTRIBUTES, _TAGS, sanitize
from workbench.rendering.table import Column, Table

ATTACKS = [
    "<script>alert(1)</script>",
    "<ScRiPt src=//evil.example/x.js></sCrIpT>",
    "<img src=x onerror=alert(1)>",
    '<img src="https://evil.example/pixel.png">',
    '<a href="javascript:alert(1)">x</a>',
    '<a href=" &#106;avascript:alert(1)">x</a>',
    "<svg><script>alert(1)</script></svg>",
    "<svg onload=alert(1)><use href='https://evil.example/#x'/></svg>",
    "<svg><style><img src=x onerror=alert(1)></style></svg>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    '<div style="background:url(https://evil.example/)">x</div>',
    '<div style="position:fixed;width:expression(alert(1))">x</div>',
    "<form action=https://evil.example><button formaction=javascript:alert(1)>x</button></form>",
    "<object data=x></object><embed src=x><link rel=stylesheet href=//evil.example>",
    "<base href=//evil.example>",
    "<meta http-equiv=refresh content='0;url=//evil.example'>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "<textarea><img src=x onerror=alert(1)></textarea>",
    "<!--><img src=x onerror=alert(1)>-->",
    "<rect fill='url(https://evil.example/)'>",
]


class Strict(HTMLParser):
    """Fails on every tag, attribute or address that may not be there."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in _TAGS, tag
        for name, value in attrs:
            assert name in _ATTRIBUTES, name
            if name in ("href", "src", "style", "fill"):
                assert "evil" not in (value or "")
                assert "script" not in (value or "")
                assert "url(" not in (value or "")


def assert_harmless(html: str) -> None:
    for text in (html, html.replace("&lt;", "&lt; "), html.upper().lower()):
        Strict().feed(text)


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_leaves_only_known_tags_and_no_address(attack: str) -> None:
    assert_harmless(sanitize(attack, prefix="p-"))


@given(st.lists(st.sampled_from([*ATTACKS, "<div>", "</div>", "<svg>", "</svg>", "<p>", "<!--", "-->", "<", "x"])))
def test_mixed_and_broken_attacks_are_harmless_too(parts: list[str]) -> None:
    assert_harmless(sanitize("".join(parts), prefix="p-"))


@given(st.text(alphabet="<>/=\"'! -abscriptonvg&;#x0"))
def test_what_is_written_stays_as_it_is_when_cleaned_again(text: str) -> None:
    once = sanitize(text, prefix="")
    assert sanitize(once, prefix="") == once


def test_content_of_script_and_style_is_not_shown_as_text() -> None:
    assert sanitize("a<style>.x{}</style><script>f()</script>b", prefix="") == "ab"


def test_what_was_left_open_is_closed_and_stray_ends_are_dropped() -> None:
    assert sanitize("</div></details><p><b>x", prefix="") == "<p><b>x</b></p>"


def test_our_tables_come_through_with_their_looks() -> None:
    table = Table((Column("arm"), Column("n", "count")), (("a & b", 3),), "Arms").to_html()
    clean = sanitize(table, prefix="p-")
    assert 'style="text-align: right"' in clean
    assert "a &amp; b" in clean
    assert '<th scope="row"' in clean


def test_ids_and_their_references_get_the_prefix() -> None:
    clean = sanitize(
        '<svg viewBox="0 0 1 1"><path id="m"/><use xlink:href="#m"/></svg><a href="#m">x</a>', prefix="nb-"
    )
    assert clean.count("nb-m") == 3
    assert 'viewbox="0 0 1 1"' in clean


def test_a_link_to_elsewhere_keeps_its_words_and_shows_its_address() -> None:
    assert sanitize('<a href="https://example.org/x">docs</a>', prefix="") == "<a>docs (https://example.org/x)</a>"


def test_headings_move_down() -> None:
    assert sanitize("<h1>a</h1><h5>b</h5>", prefix="", heading_shift=2) == "<h3>a</h3><h6>b</h6>"


def test_an_embedded_picture_is_kept() -> None:
    picture = '<img src="data:image/png;base64,AAAA" alt="a plot">'
    assert sanitize(picture, prefix="") == picture
