"""Signs, operators and codes that turn a meaning stop a pair; punctuation does not."""

import time
from pathlib import Path

import pytest

from workbench.caching.guard import Guard, signs_of
from workbench.records import Decision

SIGNS = Guard(numbers=False, negation=False, antonyms=False, word_order=False, signs=True)
STOPPED = [
    ("how do I drop rows where price > 5", "how do I drop rows where price < 5"),
    ("rows with price > 5", "rows with price >= 5"),
    ("rows with price \u2264 5", "rows with price \u2265 5"),
    ("rows where price = 5", "rows where price != 5"),
    ("compute a == b elementwise", "compute a != b elementwise"),
    ("how do I use x + y on frames", "how do I use x - y on frames"),
    ("how do I use x-y on frames", "how do I use x/y on frames"),
    ("compute price - cost by row", "compute price / cost by row"),
    ("compute price - cost by row", "compute price + cost by row"),
    ("x * y of arrays", "x ** y of arrays"),
    ("x / y of arrays", "x // y of arrays"),
    ("how do I use df.A & df.B", "how do I use df.A | df.B"),
    ("keep where (a > 1) & (b > 2)", "keep where (a > 1) | (b > 2)"),
    ("keep rows with mask", "keep rows with ~mask"),
    ("does x -> y mean a cast", "does x <- y mean a cast"),
    ("shift rows by 1", "shift rows by -1"),
    ("shift rows by 1", "shift rows by \u22121"),
    ("roll from -1 to 1", "roll from 1 to -1"),
    ("how do I shift the values by +2 rows", "how do I shift the values by -2 rows"),
    ("sort by -x", "sort by x"),
    ("what does x[::-1] do", "what does x[::1] do"),
    ("what does x[:5] give", "what does x[5:] give"),
    ("round to 1e3", "round to 1e-3"),
    ("parse 01/02/2026 with %d/%m/%Y", "parse 01/02/2026 with %m/%d/%Y"),
    ("write dates as %d/%m/%Y", "write dates as %d-%m-%Y"),
    ("what does %M mean in strftime", "what does %m mean in strftime"),
    ("does \\d match this", "does \\D match this"),
    ("how do I resample to 'M' frequency", "how do I resample to 'm' frequency"),
    ("how do I resample to `M` frequency", "how do I resample to \u2018m\u2019 frequency"),
    ("split the text on ' '", "split the text on '  '"),
    ("split the text on ','", "split the text on ';'"),
    ("how do I read a file with dtype B", "how do I read a file with dtype b"),
    ("how do I call C++ from here", "how do I call C from here"),
    ("cross product a \u00d7 b", "cross product b \u00d7 a"),
    ("solve A x = b, A is square", "solve x A = b, A is square"),
    ("divide x by y", "divide y by x"),
    ("what type is frame['a']", "what type is frame[['a']]"),
]
PASSED = [
    ("a group-by over two columns", "a group by over two columns"),
    ("read-only, zero-copy arrays", "arrays that are read only and zero copy"),
    ("read a file - with many rows", "read a file with many rows"),
    ("read a file \u2013 with many rows", "read a file \u2014 with many rows"),
    ("pandas 3 - how do I sum", "pandas 3: how do I sum"),
    ("copy & paste a range", "copy and paste a range"),
    ("rows / columns of a frame", "rows or columns of a frame"),
    ("json -> csv", "from json to csv"),
    ("rows 10-20 of a frame", "rows 10 to 20 of a frame"),
    ("what changed 2023-2024?", "what changed from 2023 to 2024"),
    ("on 2024-01-05, how many", "how many on 2024-01-05"),
    ("strip <script> out of text", "strip script tags out of text"),
    ('what is <a href="x">here</a> for', "what is the link for"),
    ("sum with axis=1", "sum with axis 1"),
    ("is it 10% of the rows?", "is it 10 % of the rows"),
    ("see https://example.com/a-b/c", "see the page"),
    ("and/or in a filter", "and or in a filter"),
    ("the user's rows don't sort!", "the users rows do not sort"),
    ("it's a frame, i.e. a table", "its a frame, that is a table"),
    ("what does dtype B mean", "meaning of the dtype B, please"),
    ("how do u plot x against time", "how do you plot X11 against time"),
    ("price > 5", "price  >5"),
    ("read 'sales' into a frame", "read sales into a frame"),
    ("split on ','", 'split on ","'),
    ("1E3 rows", "1e3 rows"),
    ("5 - 3", "5 \u2212 3"),
    ("plot x in a chart", "plot x in the chart"),
    ("A table of x and y", "a table of x and y"),
    ("x[0] of an array", "x [0] of an array"),
]


@pytest.mark.parametrize(("asked", "cached"), STOPPED)
def test_a_sign_that_turns_the_meaning_is_stopped_and_named(asked, cached):
    for a, b in ((asked, cached), (cached, asked)):
        (said,) = SIGNS.explain(a, b)
        assert said.startswith("signs: ")


@pytest.mark.parametrize(("asked", "cached"), PASSED)
def test_punctuation_hyphens_ranges_and_markup_are_no_signs(asked, cached):
    assert SIGNS.explain(asked, cached) == () == SIGNS.explain(cached, asked)


def test_the_check_is_off_unless_it_is_asked_for():
    assert Guard().allows("round x + y", "round x * y")


@pytest.mark.parametrize(("asked", "cached"), STOPPED)
def test_the_accepted_guard_of_docs_qa_stops_them(asked, cached):
    chosen = Decision.load(Path("evalsets/docs_qa/decisions/caching.json")).parameters["guard"]
    guard = Guard(**{name: on for name, on in chosen.items() if name != "kind"})
    assert not guard.allows(asked, cached)
    assert not guard.allows(cached, asked)


@pytest.mark.parametrize("part", ['<a b="c" ', " b='c'", "%d", "%-", "- ", "<", "1e", "x.", "((", "://", "\\", "'"])
def test_a_hostile_text_takes_no_time_worth_speaking_of(part):
    start = time.thread_time()  # not what else the machine does
    signs_of("<a" + part * 600)
    assert time.thread_time() - start < 2
