import html
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.rendering.html import ATTRIBUTES, TAGS, sanitize
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

KNOWN = {name.lower() for names in ATTRIBUTES.values() for name in names} | {"xlink:href"}


class Strict(HTMLParser):
    """Fails on every tag, attribute or address that may not be there."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS, tag
        for name, value in attrs:
            assert name in KNOWN, name
            if name in ("href", "xlink:href", "src", "style", "fill"):
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
    assert 'style="text-align:right"' in clean
    assert "a &amp; b" in clean
    assert '<th scope="row"' in clean


def test_ids_and_their_references_get_the_prefix() -> None:
    clean = sanitize(
        '<svg viewBox="0 0 1 1"><path id="m"/><use xlink:href="#m"/></svg><a href="#m">x</a>', prefix="nb-"
    )
    assert clean.count("nb-m") == 3
    assert 'viewBox="0 0 1 1"' in clean


def test_a_link_to_elsewhere_keeps_its_words_and_shows_its_address() -> None:
    assert sanitize('<a href="https://example.org/x">docs</a>', prefix="") == "<a>docs (https://example.org/x)</a>"


def test_headings_move_down() -> None:
    assert sanitize("<h1>a</h1><h5>b</h5>", prefix="", heading_shift=2) == "<h3>a</h3><h6>b</h6>"


def test_an_embedded_picture_is_kept() -> None:
    picture = '<img src="data:image/png;base64,AAAA" alt="a plot">'
    assert sanitize(picture, prefix="") == picture


def test_a_second_picture_form_or_an_address_in_the_place_of_one_is_dropped() -> None:
    for address in ("data:text/html;base64,AAAA", "data:image/png,x", "plot.png", "https://evil.example/x.png"):
        assert sanitize(f'<img src="{address}" alt="x">', prefix="") == '<img alt="x">'


@pytest.mark.parametrize(
    "style",
    ["font: url('//evil.example')", "fill: url(#x)", "color: \\75rl(x)", "width: expression(f())", "position: fixed"],
)
def test_a_style_keeps_plain_values_of_known_properties_alone(style: str) -> None:
    clean = sanitize(f'<p style="{style}; color: red">x</p>', prefix="")
    assert clean == '<p style="color:red">x</p>'


def test_pictures_are_cut_to_their_known_parts() -> None:
    foreign = "<foreignObject><p>in</p></foreignObject>"
    svg = f'<svg><title>t</title><style>*{{}}</style><text x="1">words</text>{foreign}<image href="x"/></svg>'
    assert sanitize(svg, prefix="") == '<svg><text x="1">words</text></svg>'
    assert sanitize("<p>a<math><mi>x</mi></math>b</p>", prefix="") == "<p>ab</p>"
    assert sanitize("a<!-- <b>c</b> -->b<?php x ?><![CDATA[y]]>", prefix="") == "ab"


def test_parts_of_a_picture_outside_of_one_go_with_what_they_hold() -> None:
    assert sanitize("<p>a<text>b</text><i>c</i></p>", prefix="") == "<p>a<i>c</i></p>"


def test_characters_that_cannot_be_seen_are_shown_also_where_they_are_written_as_references() -> None:
    assert sanitize("a\x00\x1b\u202e\ud800&#x1b;&#x202e;b", prefix="") == "a␀␛[U+202E]\ufffd␛[U+202E]b"


def test_each_link_shows_its_own_address_also_within_another() -> None:
    nested = '<a href="https://a.example/?x=1&amp;y=2">one<table><td><a href="b.html">two</a></table></a>'
    clean = sanitize(nested, prefix="")
    assert "two (b.html)</a>" in clean
    assert clean.endswith(" (https://a.example/?x=1&amp;y=2)</a>")
    assert sanitize('<svg><a xlink:href="c.html"><text>x</text></a></svg>', prefix="") == (
        "<svg><a><text>x</text> (c.html)</a></svg>"
    )
    assert sanitize('<p title="<a href=x>">y</p></a>', prefix="") == '<p title="&lt;a href=x&gt;">y</p>'


def test_what_is_nested_deeper_than_any_page_is_shown_as_its_source() -> None:
    for opened, closed in (("<div>", ""), ("<div>", "</div>"), ("<b></x>", "")):
        clean = sanitize(opened * 100_000 + closed * 100_000, prefix="")
        assert clean.startswith("<pre>&lt;")
        assert len(clean) > 500_000
    assert sanitize("<p>x" * 10_000 + "<div><b>y</b></div>" * 10_000, prefix="").count("<p>") == 10_000
    assert sanitize("<svg>" + '<path d="M0 0"/>' * 10_000 + "</svg>", prefix="").count("<path ") == 10_000


@given(st.dictionaries(st.sampled_from(sorted(KNOWN)), st.text()))
def test_no_value_of_an_attribute_makes_the_filter_fail(attributes: dict[str, str]) -> None:
    # a filter that raises would let the value through: nh3 reports it as unraisable, which is an error here
    written = "".join(f' {name}="{html.escape(value)}"' for name, value in attributes.items())
    assert_harmless(sanitize(f"<svg{written}><use{written}/></svg><a{written}>x</a><img{written}>", prefix="p-"))
