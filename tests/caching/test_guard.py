"""What the guard stops, and what it lets pass."""

import ast
import random
import sys
import time
from dataclasses import fields
from inspect import getsource
from itertools import pairwise

import pytest

from workbench.caching import guard as rules
from workbench.caching.guard import Guard
from workbench.evalset import texts as units
from workbench.records import content_hash

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
    ("", "anything", "wording"),
    ("scramble the colums within each row", "scramble the row within each columns", "wording"),
    ("rows where price is high or stock is low", "rows where price is high and stock is low", "opposites"),
    ("sum of every column of the table", "sum of all columns of the table", "wording"),
]
# A clause is added, left out or exchanged: many words differ, and yet it is no question in other words.
CLAUSES = [
    ("write a csv", "write a csv without the header row, gzip-compressed"),
    ("top five customers by revenue", "top five customers by revenue, and whoever ties with the fifth one too"),
    ("sum of sales per shop in a frame", "sum of sales per shop, as a share of the total of the region, in a frame"),
    ("sort names", "so that capital letters make no difference and nulls come last: sort names"),
    ("divide two arrays where some divisors are zero, put null there and warn nobody",
     "divide two arrays where some divisors are zero, and raise an exception as soon as that happens"),
    ("a trade should get the quote from just before it, never one that came later",
     "a trade should get whichever quote is nearest in time, no matter if it came later"),
    ("orders whose customer is in the table of blocked ones, with all columns of it", "customer of blocked orders"),
    ("открыть файл", "открыть файл который лежит в архиве на другом сервере компании"),
    ("如何读取文件", "如何读取文件并跳过前三行同时把空值替换为零"),
]  # fmt: skip
REWORDED = [
    ("let the library do 64 reads from the bucket at the same time", "how do I have 64 objects fetched concurrently"),
    ("get rid of each column in which every value is null", "drop what holds nothing but missing data"),
    ("which parameter splits the written file into folders by country and year?",
     "one directory per country, what's the argument called"),
]  # fmt: skip
PASSED_BY_NEW = [
    ("how do I rotate the keys of a file?", "rotate keys of a file please"),
    ("hi, can you show me how to unwrap a phase", "unwrap a phase"),
    ("average of the column per group", "how do I get the mean of a column per group"),
    ("eight workers, one seed", "8 workers, 1 seed"),
    ("reset the pasword of my account", "reset the password of my account"),
    ("dropping every row with nulls", "drop each row with null"),
    ("carry the last valid observation on into the nulls after it", "ffill equivalent?"),
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


@pytest.mark.parametrize(("asked", "cached"), CLAUSES)
def test_a_clause_more_or_another_clause_is_no_rewording_however_many_words_it_has(asked, cached):
    for a, b in ((asked, cached), (cached, asked)):
        assert [reason.partition(":")[0] for reason in only("wording").explain(a, b)] == ["wording"]


CLAUSE = ["provided", "that", "nobody", "else", "works", "on", "this", "shared", "cluster", "overnight"]


@pytest.mark.parametrize("text", [text for pair in PASSED_BY_NEW + REWORDED for text in pair])
def test_a_clause_is_seen_wherever_it_stands_in_any_question(text):
    words = text.split()
    for place in range(len(words) + 1):
        longer = " ".join([*words[:place], *CLAUSE, *words[place:]])
        assert not only("wording").allows(text, longer)
        assert not only("wording").allows(longer, text)


@pytest.mark.parametrize(("asked", "cached"), REWORDED)
def test_other_words_altogether_are_a_rewording(asked, cached):
    assert only("wording").explain(asked, cached) == () == only("wording").explain(cached, asked)


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


def code_of(*modules):
    """Hash of what modules do: their code without docstrings, as this version of Python writes it."""
    told = []
    for module in modules:
        tree = ast.parse(getsource(module))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            first = body[0] if isinstance(body, list) and body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                del body[0]
        told.append(ast.dump(tree))
    return content_hash(*told)[:16]


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="other versions of Python write the same code otherwise")
def test_the_version_of_the_rules_is_raised_with_their_code():
    """Change this only with `RULES`, or where nothing that any check says has changed."""
    assert (rules.RULES, code_of(rules, units)) == (2, "2313158b58a859ef")


def test_another_version_of_the_rules_is_another_guard_also_where_no_pair_tells(monkeypatch):
    pairs = [("the same", "the same")]
    before = Guard().sha256(pairs), Guard().sha256([])
    assert before == (Guard().sha256(pairs), Guard().sha256([]))
    monkeypatch.setattr(rules, "RULES", rules.RULES + 1)
    assert not {Guard().sha256(pairs), Guard().sha256([])} & {*before}
