import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reports import samples
from workbench.reports.charts import forest, lines, slices
from workbench.reports.figure import COLOURS, Box, Figure, arm_style, fitted, place, spread, text_width
from workbench.reports.frontier import frontier

SERIES = {"IVF": [(1e3, 9.0), (1e5, 14.0), (1e6, 31.0)], "exact": [(1e3, 4.0), (1e5, 60.0), (1e6, 590.0)]}
DRAWINGS: dict[str, Callable[[], Figure]] = {
    "forest": lambda: forest(samples.claims(), samples.RULE),
    "frontier": lambda: frontier(samples.summary().frontier, "nDCG@10"),
    "slices": lambda: slices(samples.summary().slices, "nDCG@10"),
    "lines": lambda: lines(SERIES, "rows", "p95 latency, ms", log_x=True, log_y=True, limit=150.0),
}


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_a_figure_is_drawn_in_the_page_s_ink_without_a_background_or_a_date(draw: Callable[[], Figure]) -> None:
    for svg in (draw().svg, draw().svg_narrow):
        root = ET.fromstring(svg)
        assert "currentColor" in svg
        assert not re.search(
            r"#(?:010203|ffffff|000000|F0E442)|<style|<metadata|clip|font-family|20\d\d-\d\d-\d\d", svg
        )
        assert root.attrib["role"] == "img"
        assert root.attrib["aria-label"] == root.findtext("title")


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_the_same_numbers_give_the_same_figure(draw: Callable[[], Figure]) -> None:
    assert draw() == draw()


def test_ids_of_two_figures_and_of_both_widths_differ() -> None:
    drawn = [svg for draw in DRAWINGS.values() for svg in (draw().svg, draw().svg_narrow)]
    ids = [set(re.findall(r' id="([^"]+)"', svg)) for svg in drawn]
    assert sum(map(len, ids)) == len(set.union(*ids))
    for svg, own in zip(drawn, ids, strict=True):
        assert set(re.findall(r'href="#([^"]+)"', svg)) <= own


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_a_notebook_shows_the_drawing_with_its_numbers(draw: Callable[[], Figure]) -> None:
    html = draw()._repr_html_()
    assert html.count("<svg") == 1
    assert "<figcaption>" in html
    assert "<table" in html
    assert repr(draw()).startswith("Figure(")


def test_the_alt_text_tells_the_finding() -> None:
    assert "2 of 6 are good enough" in DRAWINGS["forest"]().alt
    assert "from the best other arm for the money" in DRAWINGS["forest"]().alt
    assert "On the frontier, cheapest first: whole · full text" in DRAWINGS["frontier"]().alt
    assert "Over the limit of 150: exact." in DRAWINGS["lines"]().alt


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "$\\alpha_{$", "a\x00\x1b\u202e\ud83d", "x" * 100_000, ""]
)
def test_a_hostile_name_is_drawn_as_text(name: str) -> None:
    claims = [replace(samples.claims()[1], arm=name), samples.claims()[0]]
    points = [replace(samples.summary().frontier[1], arm=name, split=name)]
    rows = [replace(samples.summary().slices[0], arm=name, slice=name, value=name)]
    for figure in (
        forest(claims, replace(samples.RULE, metric=name)),
        frontier(points, name),
        slices(rows, name),
        lines({name: [(1.0, 2.0)]}, name, name),
    ):
        for svg in (figure.svg, figure.svg_narrow):
            tags = {element.tag for element in ET.fromstring(svg).iter()}
            assert tags <= {"svg", "title", "g", "path", "use", "defs", "text"}
        assert "<script" not in figure.to_html()
        assert len(figure.to_html()) < 200_000


def test_tied_arms_are_hollow_and_others_full() -> None:
    base = samples.summary().frontier[0]
    tied, other = (frontier([replace(base, tied=tied)], "m").svg for tied in (True, False))
    assert f"fill: {COLOURS[0].lower()}; stroke" in other
    assert f"fill: {COLOURS[0].lower()}; stroke" not in tied
    assert "tied" in tied


@pytest.mark.parametrize(("costs", "log"), [((0.01, 0.3), True), ((0.1, 0.3), False), ((0.0, 5.0), False)])
def test_costs_are_logarithmic_only_where_they_span_much(costs: tuple[float, float], log: bool) -> None:
    base = samples.summary().frontier[0]
    points = [replace(base, arm=str(c), cost_usd_per_1k=c) for c in costs]
    assert ("logarithmic" in frontier(points, "m").svg) == log


def test_an_arm_looks_the_same_in_every_figure_that_is_given_the_same_order() -> None:
    arms = [arm for arm, *_ in samples.ARMS]
    last = samples.summary().frontier[-1]
    colour = COLOURS[5].lower()
    assert colour in frontier([last], "m", arms=arms).svg
    assert colour not in frontier([last], "m").svg
    assert len({arm_style(i) for i in range(42)}) == 42


def test_figures_of_nothing_and_of_one_value_are_drawn() -> None:
    assert forest([], samples.RULE).svg
    assert frontier([], "m").svg
    assert slices([], "m").svg
    assert lines({}, "x", "y").svg
    assert lines({"a": [(1.0, 1.0)], "b": []}, "x", "y").svg
    assert slices([replace(samples.summary().slices[0], mean=None, low=None, high=None)]).svg
    assert forest(samples.claims()[:1], replace(samples.RULE, margin=0.0)).svg


def test_a_merely_worse_arm_is_drawn_without_alarm_and_the_arm_in_use_is_named() -> None:
    svg = forest(samples.claims(), samples.RULE).svg
    words = {element.text for element in ET.fromstring(svg).iter("text")}
    assert {"too far below", "good enough", "cannot tell", f"{samples.REFERENCE} (in use)"} <= words
    assert not words & {"broken", "identical", "holds", "reference"}
    worse = forest(samples.claims()[3:4], samples.RULE).svg
    alone = forest([replace(samples.claims()[3], status="holds")], samples.RULE).svg
    assert worse.count(COLOURS[1].lower()) == alone.count(COLOURS[1].lower()), "only the margin has that colour"


def test_a_rate_is_drawn_against_alpha_with_its_certificate() -> None:
    rule = replace(samples.RULE, metric="false_hit_rate", direction="lower", margin=0.05, reference="off")
    claim = replace(samples.claims()[1], arm="exact", best="", difference=0.01, low=0.002, high=0.03)
    figure = forest([claim], rule)
    assert "left of the dashed line keeps alpha" in figure.caption
    assert "the best other" not in figure.svg
    assert "1 of 1 keep alpha: exact 0.010 certified" in figure.alt


def test_twenty_points_are_numbered_in_the_figure_and_listed_below_it() -> None:
    base = samples.summary().frontier[0]
    points = [
        replace(base, arm=f"arm {i}", cost_usd_per_1k=0.04 + i % 7 / 100, quality=0.5 + i / 100) for i in range(20)
    ]
    figure = frontier(points, "nDCG@10", requests_per_month=200_000)
    for svg in (figure.svg, figure.svg_narrow):
        texts = [element.text for element in ET.fromstring(svg).iter("text")]
        assert {p.arm for p in points} <= set(texts)
        assert all(texts.count(str(i)) == 2 for i in range(1, 21)), "once at its mark, once in the list"
    rows = {row[1]: row for row in figure.data.rows}
    assert rows["arm 19"][0] == 1, "the best comes first"
    assert rows["arm 0"][4] == "$8.00", "0.04 for 1,000 requests, 200,000 a month"


def test_a_logarithmic_axis_refuses_zero_by_name() -> None:
    with pytest.raises(ValueError, match=r"rows has the value 0\.0 on a logarithmic axis"):
        lines({"a": [(0.0, 1.0)]}, "rows", "ms", log_x=True)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.floats(60, 900), st.floats(40, 360)), min_size=1, max_size=8))
def test_labels_do_not_cover_each_other_or_leave_the_frame(points: list[tuple[float, float]]) -> None:
    frame = Box(0, 0, 1008, 400)
    boxes = place(points, [(120.0, 30.0)] * len(points), taken=(), frame=frame)
    for i, box in enumerate(boxes):
        assert box.left >= frame.left
        assert box.right <= frame.right
        assert all(not box.covers(other) for other in boxes[:i])


@given(st.lists(st.floats(0, 100), max_size=5))
def test_spread_positions_keep_their_order_gap_and_range(wanted: list[float]) -> None:
    out = spread(wanted, gap=19.0, low=0.0, high=100.0)
    ranked = [out[i] for i in sorted(range(len(out)), key=lambda i: (wanted[i], i))]
    assert all(after - before >= 19.0 - 1e-6 for before, after in pairwise(ranked))
    assert all(-1e-6 <= y <= 100.0 + 1e-6 for y in out)


def test_a_text_is_cut_to_its_width_and_says_so() -> None:
    assert fitted("short", 200) == "short"
    cut = fitted("word " * 1000, 200)
    assert cut.endswith("…")
    assert text_width(cut) <= 200


def test_crowded_points_keep_all_their_labels() -> None:
    base = samples.summary().frontier[0]
    points = [replace(base, arm=f"arm {i}", cost_usd_per_1k=0.04 + i / 1000, quality=0.6 + i / 500) for i in range(8)]
    for svg in (frontier(points, "nDCG@10").svg, frontier(points, "nDCG@10").svg_narrow):
        texts = {element.text for element in ET.fromstring(svg).iter("text")}
        assert {p.arm for p in points} <= texts
