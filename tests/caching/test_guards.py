"""What the guard stops, and what it lets pass."""

import pytest

from workbench.caching.guards import Guard

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


@pytest.mark.parametrize(("asked", "cached"), PASSED)
def test_other_words_for_the_same_pass(asked, cached):
    assert Guard(entities=True).explain(asked, cached) == ()


def test_entities_are_looked_at_only_where_asked_for():
    pair = ("share the board with Acme", "share the board with Apex")
    assert Guard().allows(*pair)
    assert Guard(entities=True).explain(*pair) == ("entities: acme / apex",)
