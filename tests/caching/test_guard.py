"""What the guard stops, and what it lets pass."""

import random
import time
from dataclasses import fields
from itertools import pairwise

import pytest

from workbench.caching.guard import Guard

STOPPED = [
    ("is the API free", "is the API not free", "negation"),
    ("plans include SSO", "plans don't include SSO", "negation"),
    ("revenue in 2023", "revenue in 2024", "numbers"),
    ("refund 50 dollars", "refund 500 dollars", "numbers"),
    ("turn dark mode on", "turn dark mode off", "antonyms"),
    ("enable 2FA", "disable 2FA", "antonyms"),
    ("show tasks before Friday", "show tasks after Friday", "antonyms"),
    ("move from Postgres to MySQL", "move from MySQL to Postgres", "word_order"),
    ("open a closed task", "close an open task", "word_order"),
]
NEW = ("figures", "names", "code", "opposites", "direction", "wording")
STOPPED_BY_NEW = [
    ("drop rows in version 2.1 of the frame library", "version 3.0: how are rows of a table left out", "figures"),
    ("two panels beside each other", "I want three plots next to one another", "figures"),
    ("read the sheet in pandas", "polars: open an Excel workbook", "names"),
    ("what does np.argmax do on ties", "position of the smallest, is it np.argmin(x)?", "code"),
    ("the option how='left' keeps what", "which rows remain if 'inner' is passed", "code"),
    ("sort the table ascending by date", "newest first, descending order on the day column", "opposites"),
    ("show archived boards, hidden ones too", "which boards do people hide most", "opposites"),
    ("go from json to a table", "I have a table, it should be written into json text", "direction"),
    ("go through a parquet file batch by batch", "go through a feather file batch by batch", "wording"),
    ("scramble values within each subject of the row", "scramble values within each row of the subject", "wording"),
    ("is null equal to nan here", "is nan equal to null here", "wording"),
]
PASSED_BY_NEW = [
    ("how do I rotate the keys of a file?", "rotate keys of a file please"),
    ("hi, can you show me how to unwrap a phase", "unwrap a phase"),
    ("average of the column per group", "how do I get the mean of a column per group"),
    ("eight workers, one seed", "8 workers, 1 seed"),
    ("reset the pasword of my account", "reset the password of my account"),
    ("dropping every row with nulls", "drop each row with null"),
    ("carry the last valid observation on into the nulls after it", "ffill equivalent?"),
    ("", "anything"),
]
PASSED = [
    ("what are your opening hours", "when do you open"),
    ("reset my password", "I forgot my credentials"),
    ("cancel the plan", "cancel my plan"),
    ("", "anything"),
]


@pytest.mark.parametrize(("asked", "cached", "check"), STOPPED)
def test_a_difference_that_matters_is_stopped_and_named(asked, cached, check):
    guard = Guard()
    assert not guard.allows(asked, cached)
    assert check in [reason.partition(":")[0] for reason in guard.explain(asked, cached)]
    assert guard.allows(cached, asked) == guard.allows(asked, cached)


@pytest.mark.parametrize(("asked", "cached", "check"), STOPPED)
def test_a_check_that_is_off_stops_nothing(asked, cached, check):
    alone = Guard(**{name: name == check for name in ("numbers", "negation", "antonyms", "word_order", "entities")})
    none = Guard(numbers=False, negation=False, antonyms=False, word_order=False)
    assert not alone.allows(asked, cached)
    assert none.allows(asked, cached)


def only(*names):
    return Guard(**{f.name: f.name in names for f in fields(Guard)})


@pytest.mark.parametrize(("asked", "cached", "check"), STOPPED_BY_NEW)
def test_each_further_check_stops_and_explains_what_it_is_for(asked, cached, check):
    for a, b in ((asked, cached), (cached, asked)):
        assert [reason.partition(":")[0] for reason in only(check).explain(a, b)] == [check]
        assert Guard(numbers=False, negation=False, antonyms=False, word_order=False).allows(a, b)


@pytest.mark.parametrize(("asked", "cached"), PASSED_BY_NEW)
def test_filler_synonyms_endings_number_words_and_typos_are_no_difference(asked, cached):
    assert only(*NEW).explain(asked, cached) == () == only(*NEW).explain(cached, asked)


def test_no_guard_objects_to_the_same_text():
    for text in [side for row in STOPPED + STOPPED_BY_NEW for side in row[:2]]:
        assert only(*(f.name for f in fields(Guard))).explain(text, text) == ()


def test_a_pair_that_was_seen_before_is_judged_in_microseconds():
    words = ("drop", "keep", "row", "column", "pandas", "polars", "3", "from", "to", "nulls", "np.sum(x)", "without")
    texts = [" ".join(random.Random(i).choices(words, k=12)) for i in range(200)]
    guard = only(*NEW)
    pairs = list(pairwise(texts))
    for pair in pairs:
        guard.allows(*pair)
    start = time.thread_time()  # not what else the machine does
    for pair in pairs * 5:
        guard.allows(*pair)
    assert (time.thread_time() - start) / (5 * len(pairs)) < 500e-6


@pytest.mark.parametrize(("asked", "cached"), PASSED)
def test_other_words_for_the_same_pass(asked, cached):
    assert Guard(entities=True).explain(asked, cached) == ()


def test_entities_are_looked_at_only_where_asked_for():
    pair = ("share the board with Acme", "share the board with Apex")
    assert Guard().allows(*pair)
    assert Guard(entities=True).explain(*pair) == ("entities: acme / apex",)
