"""A batch: what it may cost is known before, every item is asked for once and comes to its turn."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.inference.test_client import SMALL, STRONG, answer, client_of
from tests.routing.test_accepted_router import by_feature, cascade
from workbench.errors import ConfigError, RateLimited, UnknownPrice
from workbench.inference.batch import BatchItem, complete_batch, estimate_batch
from workbench.inference.call_attempt import worst_attempt_nanos
from workbench.inference.failover import RetryPolicy
from workbench.inference.messages import Request
from workbench.inference.prices import load_prices
from workbench.inference.rate_limits import RateLimit, RateSlot
from workbench.routing.accepted_router import Routed
from workbench.state import open_engine

PRICES = load_prices()


@pytest.fixture
def engine(tmp_path: Path):
    return open_engine(f"sqlite:///{tmp_path / 'state.sqlite'}")


def items_of(number: int, model: str = SMALL) -> list[BatchItem]:
    return [BatchItem(f"q{i}", Request(model, ({"role": "user", "content": f"q{i}"},))) for i in range(number)]


def test_two_items_of_one_id_are_refused_before_anything_is_asked(engine) -> None:
    client = client_of(engine, lambda request: answer())
    with pytest.raises(ConfigError, match=r"several items 'q1'$"):
        complete_batch(client, [*items_of(3), items_of(2)[1]], max_cost_usd=1.0, tell=lambda told: None)
    assert client.providers["local/"].requests == []


def test_items_whose_turn_comes_after_their_deadline_wait_for_it_instead_of_failing(engine) -> None:
    limits, policy = {SMALL: RateLimit(requests_per_minute=2)}, RetryPolicy(deadline_s=10)
    client = client_of(engine, lambda request: answer(), limits=limits, policy=policy)
    done = complete_batch(client, items_of(9), max_cost_usd=1.0, tell=lambda told: None)
    assert [item for item, found in done.items() if isinstance(found, Exception)] == []
    assert 240 < client.books.clock.monotonic() < 250
    assert len(client.providers["local/"].requests) == 9


def test_threads_wait_as_long_as_the_limit_asks_them_to(engine) -> None:
    client = client_of(engine, lambda request: answer())
    turns = iter([RateLimited("not yet", model=SMALL, retry_after_s=7.0)] * 20)

    def wait(model: str, tokens: int, *, deadline_s: float) -> RateSlot:
        if refused := next(turns, None):
            raise refused
        return RateSlot(model)

    client.books.limiter.wait = wait
    done = complete_batch(client, items_of(29), max_cost_usd=1.0, threads=16, tell=lambda told: None)
    assert [found.text for found in done.values()] == ["merge"] * 29
    assert client.books.clock.monotonic() >= 7


def test_an_item_whose_turn_can_never_come_fails_alone(engine) -> None:
    client = client_of(engine, lambda request: answer(), limits={SMALL: RateLimit(tokens_per_minute=700)})
    long = BatchItem("long", Request(SMALL, ({"role": "user", "content": "q" * 500},)))
    done = complete_batch(client, [*items_of(2), long], max_cost_usd=1.0, tell=lambda told: None)
    assert {item for item, found in done.items() if isinstance(found, RateLimited)} == {"long"}
    assert done["q1"].text == "merge"


def test_a_router_is_estimated_at_its_dearest_arm_and_a_cascade_at_both(engine) -> None:
    items = items_of(3, "router/docs")
    small, strong = (
        sum(worst_attempt_nanos(PRICES, item.request.to(model)) for item in items) for model in (SMALL, STRONG)
    )
    assert 0 < small < strong
    for router, worst in ((by_feature(), strong), (cascade(), small + strong)):
        routers = {"docs": Routed("docs", router)}
        told = estimate_batch([item.request for item in items], PRICES, routers=routers)
        assert told.worst_usd == pytest.approx(worst / 1e9)
    with pytest.raises(UnknownPrice, match="router/other"):
        estimate_batch([items[0].request.to("router/other")], PRICES, routers={})


def test_a_batch_goes_through_a_router_within_its_limit(engine) -> None:
    plain = replace(by_feature(), models=(SMALL, STRONG))
    client = client_of(engine, lambda request: answer(), routers={"docs": Routed("docs", plain)})
    items = [replace(item, feature="answer") for item in items_of(2, "router/docs")]
    with pytest.raises(ConfigError, match="may cost"):
        complete_batch(client, items, max_cost_usd=1e-9, tell=lambda told: None)
    done = complete_batch(client, items, max_cost_usd=1.0, tell=lambda told: None)
    assert [found.text for found in done.values()] == ["merge", "merge"]
    assert {found.route.model for found in done.values()} == {STRONG}
