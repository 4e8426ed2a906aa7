import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import sqlalchemy as sa

from workbench.errors import ConfigError, RateLimited
from workbench.inference.rate_limits import MARGIN_S, RateLimit, RateLimiter, RateSlot
from workbench.testing import FakeClock

WINDOW_S = 60.0 + MARGIN_S


class Stopped(FakeClock):
    """Time that passes only when the test says so; sleeping is written down."""

    def __init__(self):
        super().__init__()
        self.slept = []

    def sleep(self, seconds):
        self.slept.append(seconds)


def starts(engine, model="m"):
    with engine.begin() as connection:
        rows = connection.execute(
            sa.text("SELECT start_us, tokens FROM wb_slot WHERE model = :m ORDER BY 1"), {"m": model}
        )
        return [(start / 1e6, tokens) for start, tokens in rows]


def most_in_any_window(moments, window_s):
    """Largest sum of weights in any half-open window, over (moment, weight)."""
    return max(sum(w for t, w in moments if end - window_s < t <= end) for end, _ in moments)


def test_requests_within_the_limit_start_at_once_and_the_next_when_the_first_has_left(engine):
    clock = Stopped()
    limiter = RateLimiter(engine, {"m": RateLimit(requests_per_minute=3)}, clock)
    slots = [limiter.wait("m", 1, deadline_s=300) for _ in range(7)]
    waits = [0, 0, 0, WINDOW_S, WINDOW_S, WINDOW_S, 2 * WINDOW_S]
    assert [slot.waited_s for slot in slots] == pytest.approx(waits)
    assert clock.slept == pytest.approx(waits[3:])
    assert most_in_any_window([(t, 1) for t, _ in starts(engine)], WINDOW_S) == 3


def test_tokens_are_limited_by_their_sum(engine):
    limiter = RateLimiter(engine, {"m": RateLimit(tokens_per_minute=100)}, clock := FakeClock())
    waits = []
    for tokens in (60, 40, 10, 90, 100):
        waits.append(limiter.wait("m", tokens, deadline_s=300).waited_s)
        clock.sleep(1)
    assert waits == pytest.approx([0, 0, WINDOW_S - 2, 0, WINDOW_S - 1], abs=1e-5)
    assert most_in_any_window(starts(engine), WINDOW_S) == 100


def test_the_first_to_come_is_the_first_to_go_though_a_later_one_would_fit(engine):
    limiter = RateLimiter(engine, {"m": RateLimit(tokens_per_minute=100)}, Stopped())
    waits = [limiter.wait("m", tokens, deadline_s=300).waited_s for tokens in (60, 90, 10)]
    assert waits == pytest.approx([0, WINDOW_S, WINDOW_S])


def test_both_limits_hold_together(engine):
    limiter = RateLimiter(engine, {"m": RateLimit(2, 100)}, Stopped())
    waits = [limiter.wait("m", tokens, deadline_s=300).waited_s for tokens in (1, 1, 100, 1)]
    assert waits == pytest.approx([0, 0, WINDOW_S, 2 * WINDOW_S])


@pytest.mark.parametrize("deadline_s", [0.0, 30.0, 60.0])
def test_a_turn_after_the_deadline_is_refused_and_nothing_is_written(engine, deadline_s):
    clock = Stopped()
    limiter = RateLimiter(engine, {"m": RateLimit(requests_per_minute=1)}, clock)
    limiter.wait("m", 5, deadline_s=0)
    before = starts(engine)
    with pytest.raises(RateLimited, match=r"lets this request start in 60\.\d s, which is later") as found:
        limiter.wait("m", 5, deadline_s=deadline_s)
    assert found.value.retry_after_s == pytest.approx(WINDOW_S)
    assert found.value.model == "m"
    assert starts(engine) == before
    assert clock.slept == []


def test_what_can_never_fit_is_refused_without_a_time_to_retry(engine):
    limiter = RateLimiter(engine, {"m": RateLimit(tokens_per_minute=100)}, Stopped())
    with pytest.raises(RateLimited, match="101 tokens to m can never start: 100 are allowed") as found:
        limiter.wait("m", 101, deadline_s=1e9)
    assert found.value.retry_after_s is None
    assert starts(engine) == []


@pytest.mark.parametrize("limits", [{}, {"m": RateLimit()}])
def test_a_model_without_a_limit_never_waits_and_writes_nothing(engine, limits):
    limiter = RateLimiter(engine, limits, Stopped())
    slots = [limiter.wait("m", 10**9, deadline_s=0) for _ in range(20)]
    assert set(slots) == {RateSlot("m")}
    limiter.settle(slots[0], 5)
    limiter.cancel(slots[0])
    assert starts(engine) == []


def test_a_limit_of_one_model_is_not_that_of_another(engine):
    limiter = RateLimiter(engine, {"m": RateLimit(1), "n": RateLimit(1)}, Stopped())
    assert [limiter.wait(model, 1, deadline_s=0).waited_s for model in "mn"] == [0, 0]


def test_tokens_that_were_not_used_are_there_for_who_comes_next(engine):
    limiter = RateLimiter(engine, {"m": RateLimit(tokens_per_minute=100)}, Stopped())
    limiter.settle(limiter.wait("m", 90, deadline_s=0), 20)
    assert limiter.wait("m", 80, deadline_s=0).waited_s == 0
    with pytest.raises(RateLimited):
        limiter.wait("m", 1, deadline_s=0)


def test_a_turn_that_is_given_back_is_there_for_who_comes_next(engine):
    limiter = RateLimiter(engine, {"m": RateLimit(1)}, Stopped())
    limiter.cancel(limiter.wait("m", 1, deadline_s=0))
    assert limiter.wait("m", 1, deadline_s=0).waited_s == 0


def test_who_stops_waiting_gives_the_turn_back(engine):
    class Interrupted(Stopped):
        def sleep(self, seconds):
            raise KeyboardInterrupt

    limiter = RateLimiter(engine, {"m": RateLimit(1)}, Interrupted())
    limiter.wait("m", 1, deadline_s=0)
    with pytest.raises(KeyboardInterrupt):
        limiter.wait("m", 1, deadline_s=300)
    assert len(starts(engine)) == 1


def test_what_has_left_the_window_is_forgotten(engine):
    clock = FakeClock()
    limiter = RateLimiter(engine, {"m": RateLimit(requests_per_minute=5)}, clock)
    for _ in range(60):
        limiter.wait("m", 1, deadline_s=300)
        clock.sleep(7)
    assert len(starts(engine)) <= 2 * 2 * WINDOW_S / 7
    clock.sleep(timedelta(hours=1).total_seconds())
    limiter.wait("m", 1, deadline_s=0)
    assert len(starts(engine)) == 1


def test_threads_together_stay_within_the_limit_and_all_get_their_turn(engine):
    limiter = RateLimiter(engine, {"m": RateLimit(requests_per_minute=5)}, window_s=0.5)
    admitted, lock = [], threading.Lock()

    def call(_):
        limiter.wait("m", 1, deadline_s=30)
        with lock:
            admitted.append(1)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(20)))
    assert len(admitted) == 20
    moments = starts(engine)
    assert most_in_any_window([(t, 1) for t, _ in moments], 0.5 + MARGIN_S - 1e-6) <= 5


@pytest.mark.parametrize("limit", [{"requests_per_minute": 0}, {"tokens_per_minute": -1}])
def test_a_limit_that_lets_nothing_through_is_refused(limit):
    with pytest.raises(ConfigError, match="must be 1 or more"):
        RateLimit(**limit)
