import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import pytest

from tests.reports import samples
from workbench.evaluation.run_summary import WeekRow
from workbench.reports.charts import forest, lines, slices, weekly
from workbench.reports.figure import (
    COLOURS,
    GLYPHS,
    INK,
    Figure,
    arm_look,
    axis_label,
    label,
    limits,
)
from workbench.reports.frontier import frontier

SERIES = {"IVF": [(1e3, 9.0), (1e5, 14.0), (1e6, 31.0)], "exact": [(1e3, 4.0), (1e5, 60.0), (1e6, 590.0)]}
WEEKS = [
    WeekRow(group, f"2026-06-{day:02}", 200, 2000.0, good, good - 0.05, good + 0.05, drop=day == 15)
    for group, good in (("all", 0.8), ("tenant acme", 0.7))
    for day in (1, 8, 15, 22)
]
DRAWINGS: dict[str, Callable[[], Figure]] = {
    "forest": lambda: forest(samples.claims(), samples.RULE),
    "frontier": lambda: frontier(samples.summary().frontier, "nDCG@10"),
    "slices": lambda: slices(samples.summary().slices, "nDCG@10"),
    "lines": lambda: lines(SERIES, "rows", "p95 latency, ms", log_x=True, log_y=True, limit=150.0),
    "weeks": lambda: weekly(WEEKS),
}


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_a_figure_is_drawn_in_the_page_s_ink_without_a_background_or_a_date(draw: Callable[[], Figure]) -> None:
    svg = draw().svg
    root = ET.fromstring(svg)
    assert "currentColor" in svg
    assert not re.search(
        r"#(?:010203|ffffff|000000|F0E442)|<style|<metadata|clip|font-family|DejaVu|20\d\d-\d\d-\d\d", svg
    )
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"] == root.findtext("title")


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_the_same_numbers_give_the_same_figure(draw: Callable[[], Figure]) -> None:
    assert draw() == draw()


def test_a_style_that_a_notebook_has_set_changes_no_figure() -> None:
    from matplotlib import rc_context

    plain = {name: draw() for name, draw in DRAWINGS.items()}
    with rc_context({"axes.facecolor": "red", "font.size": 30, "axes.grid": True, "text.color": "white"}):
        assert {name: draw() for name, draw in DRAWINGS.items()} == plain


def test_ids_of_two_figures_differ() -> None:
    drawn = [draw().svg for draw in DRAWINGS.values()]
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
        tags = {element.tag for element in ET.fromstring(figure.svg).iter()}
        assert tags <= {"svg", "title", "g", "path", "use", "defs", "text"}
        assert "<script" not in figure.to_html()
        assert len(figure.to_html()) < 200_000


def test_tied_arms_are_hollow_and_others_full() -> None:
    base = samples.summary().frontier[0]
    tied, other = (frontier([replace(base, tied=tied)], "m") for tied in (True, False))
    assert f"fill: {COLOURS[0].lower()}; stroke" in other.svg
    assert f"fill: {COLOURS[0].lower()}; stroke" not in tied.svg
    assert ("○" in tied.to_html(), "tied" in tied.entries[0].detail) == (True, True)
    assert ("○" in other.to_html(), "tied" in other.entries[0].detail) == (False, False)


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
    assert len({arm_look(i) for i in range(42)}) == 42


def test_a_million_is_written_out_in_what_stands_for_a_figure() -> None:
    assert "from 2.5 at 1,000 to 3,081.7 at 1,000,000" in lines({"a": [(1e3, 2.5), (1e6, 3081.6966)]}, "x", "y").svg


def test_figures_of_nothing_and_of_one_value_are_drawn() -> None:
    assert forest([], samples.RULE).svg
    assert frontier([], "m").svg
    assert slices([], "m").svg
    assert lines({}, "x", "y").svg
    assert lines({"a": [(1.0, 1.0)], "b": []}, "x", "y").svg
    assert slices([replace(samples.summary().slices[0], mean=None, low=None, high=None)]).svg
    assert forest(samples.claims()[:1], replace(samples.RULE, margin=0.0)).svg


def test_a_merely_worse_arm_is_drawn_without_alarm_and_the_arm_in_use_is_named() -> None:
    figure = forest(samples.claims(), samples.RULE)
    words = {entry.detail.partition(" · ")[0] for entry in figure.entries}
    assert words == {"too far below", "good enough", "cannot tell"}
    assert figure.entries[0].name == f"{samples.REFERENCE} (in use)"
    worse = forest(samples.claims()[3:4], samples.RULE)
    alone = forest([replace(samples.claims()[3], status="holds")], samples.RULE).svg
    assert worse.entries[0].look.colour == INK
    assert worse.svg.count(COLOURS[1].lower()) == alone.count(COLOURS[1].lower()), "only the margin has that colour"


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
    texts = [element.text for element in ET.fromstring(figure.svg).iter("text")]
    assert all(texts.count(str(i)) == 1 for i in range(1, 21))
    assert [e.name for e in figure.entries] == [f"arm {i}" for i in reversed(range(20))], "the best comes first"
    assert '<ol class="wb-key">' in figure.to_html()
    rows = {row[1]: row for row in figure.data.rows}
    assert rows["arm 19"][0] == 1, "the best comes first"
    assert rows["arm 0"][4] == "$8.00", "0.04 for 1,000 requests, 200,000 a month"


def test_of_many_arms_those_on_the_line_and_the_tested_and_the_best_are_named() -> None:
    base = replace(samples.summary().frontier[0], on_frontier=False)
    points = [replace(base, arm=f"arm {i}", quality=0.5 + i / 100, on_frontier=i == 0) for i in range(45)]
    figure = frontier(points, "m", arms=["arm 3"])
    assert [e.name for e in figure.entries] == [f"arm {i}" for i in (*range(44, 26, -1), 3, 0)]
    assert "25 further arms" in figure.caption
    numbers = [row[0] for row in figure.data.rows]
    assert numbers == [*range(1, 21), *[None] * 25]
    assert {row[1] for row in figure.data.rows} == {p.arm for p in points}


def test_a_logarithmic_axis_refuses_zero_by_name() -> None:
    with pytest.raises(ValueError, match=r"rows has the value 0\.0 on a logarithmic axis"):
        lines({"a": [(0.0, 1.0)]}, "rows", "ms", log_x=True)


def places(svg: str) -> dict[str, tuple[float, float]]:
    """Where each number of a figure stands, in pixels of its drawing."""
    found = {}
    for element in ET.fromstring(svg).iter("text"):
        at = re.search(r"translate\(([\d.]+) ([\d.]+)\)", element.get("transform", ""))
        x, y = at.groups() if at else (element.get("x"), element.get("y"))
        found[str(element.text)] = float(str(x)), float(str(y))
    return found


@pytest.mark.parametrize("step", [0.0002, 0.001, 0.01])
def test_numbers_of_crowded_points_do_not_cover_each_other_or_leave_the_drawing(step: float) -> None:
    base = samples.summary().frontier[0]
    points = [replace(base, arm=str(i), cost_usd_per_1k=0.04 + i * step, quality=0.6 + i / 500) for i in range(8)]
    at = places(frontier(points, "nDCG@10").svg)
    numbers = [at[str(i)] for i in range(1, 9)]
    assert all(0 <= x <= 390 and 0 <= y <= 330 for x, y in numbers)
    assert all(abs(a - c) >= 9 or abs(b - d) >= 9 for (a, b), (c, d) in combinations(numbers, 2))


def test_numbers_of_two_digits_do_not_cover_each_other() -> None:
    base = samples.summary().frontier[0]
    points = [replace(base, arm=str(i), cost_usd_per_1k=0.04 + i / 200, quality=0.5 + i % 7 / 90) for i in range(20)]
    at = places(frontier(points, "nDCG@10").svg)
    numbers = [at[str(i)] for i in range(10, 21)]
    assert all(abs(a - c) >= 16 or abs(b - d) >= 11 for (a, b), (c, d) in combinations(numbers, 2))


def test_a_name_in_the_drawing_is_cut_to_its_width_and_the_list_has_it_whole() -> None:
    name = "an arm of a long name, " * 8
    assert label("short") == "short"
    assert label(name).endswith("…")
    assert len(label(name)) <= 48
    assert name in forest([replace(samples.claims()[1], arm=name)], samples.RULE).to_html()


def test_the_name_of_an_axis_takes_two_lines_before_it_is_cut() -> None:
    name = "requests that local/qwen2.5-coder-0.5b@top2 answers, %"
    assert axis_label("short") == "short"
    assert axis_label(name).replace("\n", " ") == name
    assert axis_label(name * 9).endswith("…")
    drawing = ET.fromstring(lines({"a": [(0, 0), (1, 1)]}, name, "quality").svg)
    drawn = [element.text for element in drawing.iter("text")]
    assert {"requests that local/qwen2.5-coder-0.5b@top2", "answers, %"} <= set(drawn)


def test_every_shape_has_a_letter_full_and_hollow() -> None:
    letters = "".join(GLYPHS.values())
    assert len(letters) == len(set(letters)) == 2 * len(GLYPHS)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.3])
def test_a_figure_of_one_value_spans_all_shares_and_nothing_below_zero(value: float) -> None:
    """Slices of zeros spanned -0.1 to 0.1, as if a rate could be negative."""
    rows = [replace(r, mean=value, low=value, high=value) for r in samples.summary().slices]
    texts = [str(e.text) for e in ET.fromstring(slices(rows, "false-hit rate").svg).iter("text")]
    ticks = [float(t) for t in texts if re.fullmatch(r"[\d.]+", t)]
    assert (min(ticks), max(ticks)) == (0.0, 1.0)
    assert not [t for t in texts if t.startswith("\N{MINUS SIGN}")]


def test_limits_keep_a_little_room_and_the_size_of_what_is_no_share() -> None:
    assert limits([0.2, 0.4]) == pytest.approx((0.19, 0.41))
    assert limits([40.0]) == pytest.approx((18.0, 62.0))
    assert limits([]) == limits([0.0])


def test_bounds_without_end_are_drawn_to_the_edge() -> None:
    claims = [replace(samples.claims()[2], low=-float("inf"), high=float("inf")), samples.claims()[1]]
    svg = forest(claims, samples.RULE).svg
    assert not re.search(r"\b(?:inf|nan)\b", svg)
    assert "\N{MINUS SIGN}∞, ∞" in forest(claims, samples.RULE).entries[0].detail
