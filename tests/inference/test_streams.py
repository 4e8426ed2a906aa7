"""A stream that is left: it lets its reader go, and asks and waits for nothing more."""

import threading

import sqlalchemy as sa

from workbench.inference.rate_limits import RateLimit, RateLimiter
from workbench.inference.streams import Abandoned, Stream, pause, stream_still_read
from workbench.testing import FakeClock

FOREVER_S = 120.0


def await_streams() -> None:
    """Wait until the calls of streams that were left have ended."""
    for thread in threading.enumerate():
        if thread.name == "stream":
            thread.join(FOREVER_S)
            assert not thread.is_alive()


class Gate:
    """Something that lasts until the test says so."""

    def __init__(self) -> None:
        self.begun, self.released, self.times = threading.Event(), threading.Event(), 0

    def pass_through(self) -> None:
        self.times += 1
        self.begun.set()
        assert self.released.wait(FOREVER_S)


def left_in(gate: Gate, call) -> list[BaseException]:
    """Read the first piece of a stream, leave it while its call is in the gate, and return what the call ended in."""
    ends = []

    def work(show):
        show("first ")
        try:
            call()
        except BaseException as error:
            ends.append(error)
            raise

    pieces = iter(Stream(work))
    assert next(pieces) == "first "
    assert gate.begun.wait(FOREVER_S)
    pieces.close()
    assert ends == [], "its reader is gone before the call has ended"
    gate.released.set()
    await_streams()
    return ends


class Slow(FakeClock):
    """A clock whose every sleep lasts until the test says so."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self.gate = gate

    def sleep(self, seconds: float) -> None:
        self.gate.pass_through()
        super().sleep(seconds)


def test_a_pause_ends_within_a_second_of_the_reader_s_leaving():
    clock = Slow(gate := Gate())
    (end,) = left_in(gate, lambda: pause(clock, 3600))
    assert isinstance(end, Abandoned)
    assert clock.monotonic() == 1


def test_a_pause_outside_of_a_stream_is_one_sleep_of_its_whole_length():
    clock = Slow(gate := Gate())
    gate.released.set()
    pause(clock, 3600)
    stream_still_read()
    assert (clock.monotonic(), gate.times) == (3600, 1)


def test_a_pause_in_a_stream_that_is_read_lasts_as_long_as_it_should():
    clock = FakeClock()
    stream = Stream(lambda show: pause(clock, 2.5))
    assert list(stream) == []
    assert clock.monotonic() == 2.5


def test_the_turn_of_a_call_that_nobody_reads_is_given_back(engine):
    clock = Slow(gate := Gate())
    limiter = RateLimiter(engine, {"m": RateLimit(1)}, clock)
    limiter.wait("m", 1, deadline_s=0)
    (end,) = left_in(gate, lambda: limiter.wait("m", 1, deadline_s=300))
    assert isinstance(end, Abandoned)
    with engine.begin() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM wb_slot")).scalar() == 1
