"""What decisions rest on stays as it is while code moves: ``python -m tests.golden.golden`` tells what changed."""

import json

import pytest

from tests.golden.golden import FILE, GOLDEN

KEPT = json.loads(FILE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", GOLDEN)
def test_names_and_hashes_that_decisions_rest_on_are_the_same(name):
    made = json.loads(json.dumps(GOLDEN[name]()))
    if isinstance(made, dict):
        assert made.keys() == KEPT[name].keys()
        assert {key for key in made if made[key] != KEPT[name][key]} == set()
    assert made == KEPT[name]
