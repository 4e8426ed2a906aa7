"""The variance bridge closes to the nano-dollar, and names the cause that was planted."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.costs.rows import random_rows, spend_of
from tests.telemetry.rows import row
from workbench.costs.cost_bridge import CAUSES, WITHOUT_TOKENS, cost_bridge
from workbench.inference.messages import Usage
from workbench.inference.prices import load_prices

MODELS = """
version = "2026-11-01"
[models.cheap]
source = "test"
date = "2026-11-01"
usd_per_mtok = { input = 1.0, output = 4.0, cache_read = 0.1, cache_write = 1.25 }
[models.dear]
source = "test"
date = "2026-11-01"
usd_per_mtok = { input = 10.0, output = 40.0, cache_read = 1.0, cache_write = 12.5 }
[models.free]
source = "test"
date = "2026-11-01"
usd_per_mtok = { input = 0.0, output = 0.0 }
"""


@pytest.fixture(scope="module")
def prices(tmp_path_factory):
    file = tmp_path_factory.mktemp("prices") / "models.toml"
    file.write_text(MODELS, encoding="utf-8")
    return load_prices(models=file)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 30), st.integers(0, 30))
def test_bridge_closes_exactly(prices, seed, n, m):
    before, after = spend_of(random_rows(seed, n)), spend_of(random_rows(seed + 1, m))
    found = cost_bridge(before, after, prices)
    assert (found.before_nanos, found.after_nanos) == (before.total_nanos, after.total_nanos)
    assert found.before_nanos + sum(found.effects.values()) == found.after_nanos
    assert (*found.effects,) == (*CAUSES, WITHOUT_TOKENS)
    back = cost_bridge(after, before, prices)
    for cause, effect in found.effects.items():
        assert abs(effect + back.effects[cause]) <= 2  # the way back is the same way


def calls(prices, n=100, **changed):
    """Calls at list price, every second one of each model, half of the prompt read from the vendor's cache."""
    out = []
    for i in range(n):
        values = {"model": ("cheap", "dear")[i % 2], "prompt": 1000, "output": 100, "read": 0.5, "level": 1} | changed
        model = values["model"](i) if callable(values["model"]) else values["model"]
        read = round(values["prompt"] * values["read"])
        usage = Usage(fresh=values["prompt"] - read, cache_read=read, output=values["output"])
        out.append(row(f"c{i}", 0, prices.cost_nanos(model, usage) * values["level"], model_asked=model,
                       fresh_tokens=usage.fresh, cache_read_tokens=read, output_tokens=usage.output))  # fmt: skip
    return out


PLANTED = {
    "price": {"level": 2},
    "volume": {"n": 150},
    "tokens per call": {"prompt": 3000, "output": 300},
    "model mix": {"model": lambda i: ("cheap", "cheap", "dear")[i % 3]},
    "cache rate": {"read": 0.0},
}


@pytest.mark.parametrize("cause", CAUSES)
def test_one_planted_cause_is_all_of_the_difference(prices, cause):
    before, after = spend_of(calls(prices, n=120)), spend_of(calls(prices, **{"n": 120} | PLANTED[cause]))
    found = cost_bridge(before, after, prices)
    assert found.effects[cause] == found.after_nanos - found.before_nanos != 0
    assert all(not effect for name, effect in found.effects.items() if name != cause)


def test_answers_from_our_own_cache_are_the_cache_rate(prices):
    rows = calls(prices)
    served = [
        row(r.call_id, 0, 0, status="cached", model_asked=r.model_asked) if i % 4 < 2 else r for i, r in enumerate(rows)
    ]
    found = cost_bridge(spend_of(rows), spend_of(served), prices)
    assert found.effects["cache rate"] == found.after_nanos - found.before_nanos < 0


def test_retries_are_tokens_per_call_and_corrections_have_their_own_line(prices):
    rows = calls(prices)
    again = [replace(r, attempt=1) for r in rows]
    booked = row("c0", -1, -7, status="correction", model_asked="dear")
    found = cost_bridge(spend_of(rows), spend_of([*rows, *again, booked]), prices)
    assert found.effects["tokens per call"] == found.before_nanos
    assert found.effects[WITHOUT_TOKENS] == -7


def test_from_nothing_all_is_volume_and_models_without_price_are_named(prices):
    some = [*calls(prices), row("x", 0, 5, model_asked="unlisted", fresh_tokens=3)]
    found = cost_bridge(spend_of([]), spend_of(some), prices)
    assert found.effects["volume"] == found.after_nanos
    assert found.unlisted == ("unlisted",)
    assert cost_bridge(spend_of([]), spend_of([]), prices).after_nanos == 0
