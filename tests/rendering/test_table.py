from html.parser import HTMLParser

import pytest

from workbench.rendering.numbers import number, usd_digits
from workbench.rendering.table import NONE, Column, Interval, Table
from workbench.rendering.text import cell_html


class Cells(HTMLParser):
    """Tags, attributes and texts of a table as a browser reads them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(data)


ARMS = Table(
    (
        Column("arm"),
        Column("nDCG@10", "interval"),
        Column("cost", "usd"),
        Column("p95", "ms"),
        Column("n", "count"),
    ),
    (
        ("bm25", Interval(0.612, 0.58, 0.641), 0.0004, 38.2, 1200),
        ("vector", Interval(0.5, None, None), 1.5, None, 3),
    ),
    "Arms",
)


def test_each_kind_is_written_with_its_unit_and_common_digits() -> None:
    assert ARMS.cells() == [
        ["bm25", "0.612 [0.580, 0.641]", "$0.00040", "38 ms", "1,200"],
        ["vector", "0.500", "$1.50000", "\u2013", "3"],
    ]


def test_html_has_caption_scoped_headers_and_numbers_on_the_right() -> None:
    read = Cells(ARMS.to_html())
    scopes = [attrs.get("scope") for tag, attrs in read.tags if tag == "th"]
    assert scopes == ["col"] * 5 + ["row"] * 2
    assert read.texts[0] == "Arms"
    right = [attrs["data-label"] for tag, attrs in read.tags if tag == "td" and "right" in (attrs["style"] or "")]
    assert right == ["cost", "p95", "n"] * 2


@pytest.mark.parametrize("hostile", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "\x00\u202e&amp;"])
def test_hostile_text_is_text_in_every_place(hostile: str) -> None:
    table = Table((Column(hostile), Column("s", "status")), ((hostile, hostile),), hostile)
    read = Cells(table.to_html())
    assert {tag for tag, _ in read.tags} == {"table", "caption", "thead", "tbody", "tr", "th", "td", "span"}
    assert not [name for _, attrs in read.tags for name in attrs if name.startswith("on")]


def test_a_long_text_is_cut_and_counted() -> None:
    cell = Table((Column("text", limit=5),), (("x" * 100_000,),)).cells()[0][0]
    assert cell == "xxxxx… (+99,995 characters)"


def test_text_form_is_aligned_and_is_the_repr() -> None:
    lines = repr(ARMS).splitlines()
    assert lines[0] == "Arms"
    assert len({line.index("$") for line in lines[2:]}) == 1
    assert ARMS._repr_html_() == cell_html(ARMS.to_html())


def test_a_notebook_breaks_no_number_and_no_interval_and_reads_no_formula() -> None:
    columns = (Column("what of 5 %"), Column("p95", "ms"), Column("gain", "interval"), Column("said"))
    rows = (("from $1 to $2", 4457, Interval(0.5, 0.25, 0.75), "[1, 2] <caption>"),)
    shown = Table(columns, rows, "A caption")._repr_html_()
    assert shown.startswith('<div class="mathjax_ignore ')
    assert "what of 5&nbsp;%</th>" in shown
    assert 'style="text-align:right;white-space:nowrap">4,457 ms</td>' in shown
    assert ">0.500 [0.250,&nbsp;0.750]</td>" in shown
    assert ">[1, 2] &lt;caption&gt;</td>" in shown, "what is no number is left as it is"
    assert shown.count("min-width") == 1
    assert '<caption style="text-align:left;min-width:min(36em,80vw)">A caption</caption>' in shown


def test_a_ragged_row_is_refused_with_its_position() -> None:
    with pytest.raises(ValueError, match="has 1 column, row 1 has 2 cells"):
        Table((Column("a"),), (("x",), ("y", "z")))


def test_kinds_are_read_from_values_and_unit_words() -> None:
    table = Table.of(("arm", "build_ms", "cost usd", "rows", "mixed"), (("a", 1.0, 0.5, 3, 1), ("b", 2.0, 1.5, 4, "x")))
    assert [c.kind for c in table.columns] == ["text", "ms", "usd", "count", "text"]


def test_minus_signs_are_true_ones_and_zero_has_no_sign() -> None:
    assert number(-1.5, 1) == "\u22121.5"
    assert number(-0.00001, 3, signed=True) == "0.000"
    assert number(0.5, 1, signed=True, unit="$") == "+$0.5"
    assert number(float("inf"), 2) == "∞"
    assert usd_digits([]) == 2


def test_an_empty_table_keeps_its_headers() -> None:
    empty = Table((Column("arm"), Column("n", "count")), ())
    assert empty.to_text() == "arm  n"
    assert Cells(empty.to_html()).texts == ["arm", "n"]


def test_pandas_gets_the_values_and_not_their_text() -> None:
    columns = (Column("arm"), Column("nDCG", "interval"), Column("usd", "usd"))
    rows = (("bm25", Interval(0.612, 0.58, 0.641), 0.000123), ("vector", None, None))
    frame = Table(columns, rows).to_pandas()
    assert frame.columns.to_list() == ["arm", "nDCG", "nDCG low", "nDCG high", "usd"]
    assert frame.loc[0].to_list() == ["bm25", 0.612, 0.58, 0.641, 0.000123]
    assert frame.loc[1, "nDCG":].isna().all()


def test_numbers_that_were_made_text_stand_as_numbers_and_names_do_not() -> None:
    columns = ("arm", "share", "difference", "took", "id", "now", "unknown")
    rows = (
        ("a", "52.7%", "+$0.02", "4,522 ms", "2026", "1", NONE),
        ("b", NONE, "\u2212$1", "∞", "17", "no limit", NONE),
    )
    table = Table.of(columns, rows)
    assert [c.kind for c in table.columns] == ["text", *["written"] * 3, "text", "text", "text"]
    assert [tuple(cells) for cells in table.cells()] == list(rows)
    assert '<td data-label="share" class="wb-number" style="text-align:right">52.7%</td>' in table.to_html()
    assert 'data-label="id" style="text-align:left"' in table.to_html()
