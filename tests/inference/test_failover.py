"""Retries, cooldowns and failover on a clock that nobody waits for."""

import random
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from threading import Barrier

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import (
    AccountRefused,
    AttemptTimeout,
    CallFailed,
    ConfigError,
    ConnectionLost,
    ContentRefused,
    ContextTooLong,
    MalformedAnswer,
    ModelMissing,
    ProviderError,
    RateLimited,
    Rejected,
    Throttled,
    Unavailable,
    WorkbenchError,
)
from workbench.inference.call_attempt import Books, CallAccount
from workbench.inference.failover import Cooldowns, RetryPolicy, call_with_failover
from workbench.inference.messages import Request
from workbench.inference.prices import PriceTable
from workbench.inference.rate_limits import RateSlot
from workbench.telemetry.attribution import Attribution
from workbench.testing import FakeClock, ScriptedModel

POLICY = RetryPolicy(attempts_per_model=3, base_s=0.5, cap_s=8.0, deadline_s=60.0, attempt_timeout_s=20.0)
NEVER = float("inf")
QUESTION = ({"role": "user", "content": "?"},)


NAMES = ("a", "b", "c", "m0", "m1", "m2", "m3")
PRICE = {"input": Fraction(1), "output": Fraction(1)}
PRICES = PriceTable("today", "here", 0.0, {}, dict.fromkeys(NAMES, PRICE), "", "")


class Turns:
    """A rate limit that lets each model be asked at a moment that a test says."""

    def __init__(self, clock):
        self.clock, self.moments = clock, {}

    def wait(self, model, tokens, *, deadline_s):
        wait_s = max(self.moments.get(model, 0.0) - self.clock.monotonic(), 0.0)
        if wait_s > deadline_s:
            raise RateLimited("not yet", model=model, retry_after_s=None if wait_s == NEVER else wait_s)
        self.clock.sleep(wait_s)
        return RateSlot(model, "", wait_s)

    def settle(self, slot, tokens):
        """What was used changes nothing here."""

    cancel = settle


class Bench:
    """Models by name on one clock, asked as a client asks them; notes when, and how long each was given.

    ``turns`` are the moments at which our own rate limit lets a model be asked next.
    """

    def __init__(self, policy=POLICY, **scripts):
        self.clock, self.policy = FakeClock(), policy
        self.cooldowns = Cooldowns(policy, self.clock)
        self.models = {name: ScriptedModel(script, clock=self.clock) for name, script in scripts.items()}
        self.limiter, self.asked = Turns(self.clock), []
        self.books = Books(PRICES, limiter=self.limiter, clock=self.clock)

    @property
    def turns(self):
        return self.limiter.moments

    @turns.setter
    def turns(self, moments):
        self.limiter.moments = moments

    def complete(self, request, *, timeout_s, on_text):
        self.asked.append((request.model, self.clock.monotonic(), timeout_s))
        return self.models[request.model].complete(request, timeout_s=timeout_s, on_text=on_text)

    def ask(self, model, **limits):
        account = CallAccount("call", "", Attribution(), self.books, self.deadline)
        return account.ask(self, Request(model, QUESTION), on_text=len, **limits)

    def call(self, *models, seed=0, patient=True):
        self.deadline = self.clock.monotonic() + self.policy.deadline_s
        return call_with_failover(
            models or tuple(self.models),
            self.ask,
            policy=self.policy,
            cooldowns=self.cooldowns,
            clock=self.clock,
            deadline=self.deadline,
            rng=random.Random(seed),
            patient=patient,
        )

    @property
    def order(self):
        return [name for name, *_ in self.asked]


def test_an_answer_at_the_first_attempt_costs_no_time():
    bench = Bench(a=["yes"])
    assert bench.call().text == "yes"
    assert bench.asked == [("a", 0.0, 20.0)]


def test_a_retryable_error_is_tried_again_and_then_at_the_next_model():
    bench = Bench(a=[Unavailable("down")] * 3, b=[Throttled("slow"), "yes"])
    assert bench.call().text == "yes"
    assert bench.order == ["a", "a", "a", "b", "b"]


@settings(deadline=None)
@given(st.integers(1, 100), st.integers(0, 2**32))
def test_jitter_is_full_and_capped(failures, seed):
    delay = POLICY.delay_s(failures, Unavailable("down"), random.Random(seed))
    longest = min(POLICY.cap_s, POLICY.base_s * 2.0 ** (failures - 1))
    assert 0 <= delay <= longest
    assert delay == random.Random(seed).random() * longest, "drawn from the whole range"


@pytest.mark.parametrize("asked", [0.7, 45.0, 61.5, 118.0])
def test_the_provider_is_not_asked_before_the_time_that_it_named_also_beyond_a_minute(asked):
    bench = Bench(RetryPolicy(deadline_s=120), a=[Throttled("slow", retry_after_s=asked), "yes"])
    assert bench.call().text == "yes"
    assert asked <= bench.asked[1][1] <= asked + 0.5


def test_a_delay_past_the_deadline_goes_to_the_next_model_at_once():
    bench = Bench(a=[Throttled("slow", retry_after_s=60.0)], b=["yes"])
    assert bench.call().text == "yes"
    assert (bench.order, bench.clock.monotonic()) == (["a", "b"], 0.0)


def test_a_caller_who_can_ask_something_else_waits_for_no_model():
    bench = Bench(a=[Throttled("slow", retry_after_s=40.0), "no"])
    with pytest.raises(CallFailed):
        bench.call(patient=False)
    bench.turns = {"a": 30.0}
    with pytest.raises(RateLimited):
        bench.call(patient=False)
    assert (bench.order, bench.clock.monotonic()) == (["a"], 0.0)
    bench.turns = {"a": POLICY.patience_s}
    assert bench.call(patient=False).text == "no"


@pytest.mark.parametrize("turn", [5.1, 19.0, 100.0, NEVER])
def test_a_model_whose_turn_is_far_off_is_not_waited_for_while_another_can_be_asked(turn):
    bench = Bench(a=["no"], b=["yes"])
    bench.turns = {"a": turn}
    assert bench.call().text == "yes"
    assert bench.asked == [("b", 0.0, 20.0)]


def test_a_turn_that_comes_soon_is_waited_for():
    bench = Bench(a=["yes"], b=["no"])
    bench.turns = {"a": POLICY.patience_s}
    assert bench.call().text == "yes"
    assert bench.asked == [("a", POLICY.patience_s, 20.0)]


def test_a_turn_that_is_far_off_is_waited_for_where_no_other_model_answers():
    bench = Bench(a=["yes"], b=[Unavailable("down")] * 3, c=[ContextTooLong("8192 tokens")])
    bench.turns = {"a": 19.0}
    assert bench.call().text == "yes"
    assert (bench.order, bench.clock.monotonic()) == (["b", "b", "b", "c", "a"], 19.0)


def test_of_turns_that_are_all_far_off_the_first_to_come_is_taken():
    bench = Bench(a=["no"], b=["yes"], c=["no"])
    bench.turns = {"a": 18.0, "b": 16.0, "c": 17.0}
    assert bench.call().text == "yes"
    assert bench.asked == [("b", 16.0, 20.0)]


def test_a_turn_is_not_waited_for_in_favour_of_a_model_that_cools_down():
    bench = Bench(RetryPolicy(cooldown_failures=1, attempts_per_model=1), a=["yes"], b=[Unavailable("down")])
    with pytest.raises(CallFailed):
        bench.call("b")
    bench.turns = {"a": 19.0}
    assert bench.call("a", "b").text == "yes"
    assert bench.order == ["b", "a"]


@pytest.mark.parametrize("turn", [61.0, NEVER])
def test_where_every_turn_comes_too_late_the_call_is_one_that_was_refused(turn):
    bench = Bench(a=["no"], b=["no"])
    bench.turns = {"a": turn, "b": turn}
    with pytest.raises(RateLimited):
        bench.call()
    assert (bench.asked, bench.clock.monotonic()) == ([], 0.0)


def test_a_model_that_asks_for_a_long_pause_comes_after_those_that_do_not():
    bench = Bench(a=[Throttled("slow", retry_after_s=40.0), "no"], b=[Unavailable("down"), "yes"])
    assert bench.call().text == "yes"
    assert bench.order == ["a", "b", "b"]
    assert bench.clock.monotonic() <= POLICY.base_s


def test_an_error_that_would_end_the_call_does_not_where_another_model_was_put_off():
    bench = Bench(a=[Throttled("slow", retry_after_s=40.0), "yes"], b=[Rejected("no", status=400)], c=["no"])
    bench.turns = {"c": 50.0}
    assert bench.call().text == "yes"
    assert bench.order == ["a", "b", "a"]


def test_a_long_pause_is_waited_out_where_no_other_model_answers():
    bench = Bench(a=[Throttled("slow", retry_after_s=40.0), "yes"], b=[Unavailable("down")] * 3)
    assert bench.call().text == "yes"
    assert bench.order == ["a", "b", "b", "b", "a"]
    assert 40.0 <= bench.clock.monotonic() < 41.0


def test_an_attempt_gets_no_more_time_than_the_call_has_left():
    bench = Bench(RetryPolicy(deadline_s=25, attempt_timeout_s=20, base_s=0), a=["late"] * 9)
    bench.models["a"].delay_ms = 21_000
    with pytest.raises(CallFailed) as raised:
        bench.call()
    assert [timeout for *_, timeout in bench.asked] == [20.0, 5.0]
    assert bench.clock.monotonic() == 25.0
    assert raised.value.attempts == (("a", "AttemptTimeout", 20_000.0), ("a", "AttemptTimeout", 5_000.0))


@pytest.mark.parametrize("error", [Rejected("no", status=400), ContentRefused("no"), ProviderError("no")])
def test_a_terminal_error_ends_the_call_without_another_attempt_or_model(error):
    bench = Bench(a=[error], b=["yes"])
    with pytest.raises(CallFailed) as raised:
        bench.call()
    assert bench.order == ["a"]
    assert raised.value.__cause__ is error


@pytest.mark.parametrize(
    "error", [ContextTooLong("8192 tokens"), ModelMissing("no source gives its weights"), AccountRefused("no credit")]
)
def test_what_only_another_model_can_do_goes_to_the_next_without_a_retry(error):
    bench = Bench(a=[error], b=["yes"])
    assert bench.call().text == "yes"
    assert (bench.order, bench.clock.monotonic()) == (["a", "b"], 0.0)


@pytest.mark.parametrize("kind", [Unavailable, ConnectionLost, ContextTooLong])
def test_no_second_answer_follows_text_that_was_shown(kind):
    bench = Bench(a=[kind("cut", streamed=True), "no"], b=["no"])
    with pytest.raises(CallFailed) as raised:
        bench.call()
    assert bench.order == ["a"]
    assert raised.value.streamed


@pytest.mark.parametrize(
    "error", [WorkbenchError("budget"), ConfigError("price"), KeyError("bug"), KeyboardInterrupt()]
)
def test_what_is_no_provider_error_passes_through_unchanged_and_frees_the_probe(error):
    bench = Bench(RetryPolicy(cooldown_failures=1, attempts_per_model=1), a=[Unavailable("down"), error, "yes"])
    with pytest.raises(CallFailed):
        bench.call()
    bench.clock.sleep(30)
    with pytest.raises(type(error)) as raised:
        bench.call()
    assert raised.value is error
    assert bench.call().text == "yes", "another may probe"


def test_a_call_that_failed_names_each_attempt_and_the_last_error():
    bench = Bench(a=[Unavailable("a is down")] * 3, b=[MalformedAnswer("b talks nonsense")] * 3)
    with pytest.raises(CallFailed) as raised:
        bench.call()
    assert [(model, name) for model, name, _ in raised.value.attempts] == [("a", "Unavailable")] * 3 + [
        ("b", "MalformedAnswer")
    ] * 3
    assert "no answer from a, b (a: Unavailable after 0 ms; " in str(raised.value)
    assert "Last error: b talks nonsense" in str(raised.value)


def test_failures_in_a_row_open_the_cooldown_which_then_costs_no_attempt():
    bench = Bench(RetryPolicy(attempts_per_model=2, cooldown_failures=4), a=[Unavailable("down")] * 4, b=["yes"] * 3)
    bench.call()
    bench.call()
    bench.call()
    assert bench.order == ["a", "a", "b", "a", "a", "b", "b"]


@pytest.mark.parametrize("error", [AccountRefused("wrong key", status=401), ModelMissing("retired", status=404)])
def test_a_model_that_its_vendor_refuses_again_and_again_is_left_alone_as_one_that_is_down(error):
    bench = Bench(RetryPolicy(cooldown_failures=2), a=[error] * 2, b=["yes"] * 4)
    assert [bench.call().text for _ in range(4)] == ["yes"] * 4
    assert bench.order == ["a", "b", "a", "b", "b", "b"]


def test_a_success_between_failures_keeps_it_closed():
    bench = Bench(RetryPolicy(cooldown_failures=2, attempts_per_model=2), a=[Unavailable("down"), "yes"] * 5)
    assert [bench.call().text for _ in range(5)] == ["yes"] * 5


def test_calls_in_a_hurry_leave_the_model_to_those_that_have_time():
    hurried = RetryPolicy(deadline_s=0.1, attempts_per_model=1, cooldown_failures=2)
    bench = Bench(hurried, a=["late"] * 5 + ["yes"])
    bench.models["a"].delay_ms = 1_000
    for _ in range(5):
        with pytest.raises(CallFailed):
            bench.call()
    bench.policy = RetryPolicy()
    assert bench.call().text == "yes"


@pytest.mark.parametrize(("billed", "cut", "opens"), [("no", False, 0), ("unknown", True, 0), ("unknown", False, 1)])
def test_a_timeout_counts_only_where_the_model_had_the_whole_time(billed, cut, opens):
    late = AttemptTimeout("late", billed=billed)
    late.cut = cut
    bench = Bench(RetryPolicy(cooldown_failures=1, attempts_per_model=1), a=[late])
    with pytest.raises(CallFailed):
        bench.call()
    assert bool(bench.cooldowns.wait_s("a")) == opens


def test_a_model_that_opens_during_a_call_is_left_at_once():
    bench = Bench(RetryPolicy(cooldown_failures=2, attempts_per_model=9), a=[Unavailable("down")] * 2, b=["yes"])
    assert bench.call().text == "yes"
    assert bench.clock.monotonic() <= 0.5, "no delay after the failure that opened it"


def test_when_all_cool_down_the_call_fails_at_once_and_says_when_to_come_back():
    bench = Bench(RetryPolicy(cooldown_failures=1), a=[Unavailable("down")])
    with pytest.raises(CallFailed):
        bench.call()
    bench.clock.sleep(10)
    with pytest.raises(CallFailed, match=r"no attempt was made; left alone: a for 20\.0 s") as raised:
        bench.call()
    assert raised.value.attempts == ()
    assert raised.value.retry_after_s == pytest.approx(20)


def test_a_probe_that_answers_closes_and_one_that_fails_opens_again():
    bench = Bench(
        RetryPolicy(cooldown_failures=3, attempts_per_model=3),
        a=[Unavailable("down")] * 3 + [Unavailable("still")] + ["yes", "yes"],
        b=["b"] * 9,
    )
    assert bench.call().text == "b"
    bench.clock.sleep(30)
    assert bench.call().text == "b", "one probe, no retries"
    assert bench.order[-2:] == ["a", "b"]
    assert bench.call().text == "b"
    assert bench.order[-1] == "b"
    assert bench.order[-2] == "b", "open again"
    bench.clock.sleep(30)
    assert [bench.call().text, bench.call().text] == ["yes", "yes"]


def test_a_prompt_that_is_too_long_neither_opens_nor_closes():
    bench = Bench(
        RetryPolicy(cooldown_failures=2, attempts_per_model=1),
        a=[Unavailable("down"), ContextTooLong("long"), Unavailable("down")],
        b=["b"] * 4,
    )
    for _ in range(4):
        bench.call()
    assert bench.order.count("a") == 3, "the second failure opened"


def test_half_open_admits_exactly_one_of_many_threads():
    clock, threads = FakeClock(), 16
    cooldowns = Cooldowns(RetryPolicy(cooldown_failures=1), clock)
    cooldowns.failed("a")
    assert not cooldowns.admits("a")
    clock.sleep(30)
    together = Barrier(threads)

    def enter(_):
        together.wait()
        admitted = cooldowns.admits("a")
        together.wait()
        if not admitted:
            cooldowns.released("a")  # only the probe's own thread can end the probe
        together.wait()
        return admitted, cooldowns.admits("a")

    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(enter, range(threads)))
    assert sum(first for first, _ in found) == 1
    assert sum(second for _, second in found) == 0


@pytest.mark.parametrize("wrong", [{"attempts_per_model": 0}, {"deadline_s": 0.0}, {"base_s": -1.0}])
def test_a_policy_that_cannot_work_is_refused(wrong):
    with pytest.raises(ConfigError):
        RetryPolicy(**wrong)


KINDS = (
    AccountRefused,
    Throttled,
    Unavailable,
    AttemptTimeout,
    ConnectionLost,
    MalformedAnswer,
    Rejected,
    ContentRefused,
    ContextTooLong,
    ModelMissing,
)
errors = st.builds(
    lambda kind, wait, shown: kind("error", retry_after_s=wait, streamed=shown),
    st.sampled_from(KINDS),
    st.none() | st.floats(0, 1000),
    st.sampled_from([False] * 9 + [True]),
)
steps = st.tuples(st.just("yes") | errors, st.sampled_from([0, 1, 1_000, 19_000, 70_000]))


@settings(deadline=None)
@given(
    script=st.lists(steps, min_size=40, max_size=40),
    models=st.integers(0, 4),
    attempts=st.integers(1, 4),
    deadline_s=st.floats(0.1, 200),
    cooldown_failures=st.integers(1, 4),
    seed=st.integers(0, 99),
    turns=st.lists(st.just(0.0) | st.floats(0, 300) | st.just(NEVER), min_size=4, max_size=4),
)
def test_every_call_ends_in_one_answer_or_one_error_within_its_deadline(
    script, models, attempts, deadline_s, cooldown_failures, seed, turns
):
    policy = RetryPolicy(
        attempts_per_model=attempts, deadline_s=deadline_s, attempt_timeout_s=20, cooldown_failures=cooldown_failures
    )
    names = [f"m{i}" for i in range(models)]
    bench = Bench(policy)
    bench.turns = dict(zip(names, turns, strict=False))
    coming = iter(script)

    def said(_):
        said, model.delay_ms = next(coming)
        return said

    model = ScriptedModel(said, clock=bench.clock)
    bench.models = dict.fromkeys(names, model)
    for _ in range(2):  # the second call meets the cooldowns of the first
        before, started = len(model.requests), bench.clock.monotonic()
        ended = outcome(bench, names, seed)
        made = len(model.requests) - before
        if isinstance(ended, RateLimited):
            assert made == 0
        else:
            assert made == len(ended.attempts) if isinstance(ended, CallFailed) else made > 0
        assert bench.clock.monotonic() - started <= deadline_s * (1 + 1e-9)
        assert made <= models * attempts


def outcome(bench, names, seed):
    """The answer or the one error; any other error is a failed test."""
    try:
        return bench.call(*names, seed=seed)
    except (CallFailed, RateLimited) as failed:
        return failed
