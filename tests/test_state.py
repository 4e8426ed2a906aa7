import os
import signal
import threading
import time

import pytest
import sqlalchemy as sa

from workbench.state import Turns, create_tables


def waiting(turns, n):
    """Wait until that many threads stand in line."""
    while len(turns._waiting) < n:
        time.sleep(0.001)


def start(function):
    thread = threading.Thread(target=function)
    thread.start()
    return thread


def test_threads_write_one_at_a_time_in_the_order_in_which_they_came(engine):
    turns, order, inside = Turns(), [], []

    def write(number):
        with turns.begin(engine):
            inside.append(number)
            assert inside == [number]
            time.sleep(0.002)
            inside.remove(number)
            order.append(number)

    with turns.begin(engine):
        threads = []
        for number in range(8):
            threads.append(start(lambda number=number: write(number)))
            waiting(turns, number + 1)
        assert order == []
    for thread in threads:
        thread.join()
    assert order == list(range(8))


def write_and_fail(turns, engine, table):
    with turns.begin(engine) as connection:
        connection.execute(table.insert().values(n=1))
        raise ZeroDivisionError


def test_a_transaction_that_fails_hands_the_turn_on_and_is_rolled_back(engine):
    table, turns = sa.Table("wb_probe", sa.MetaData(), sa.Column("n", sa.Integer)), Turns()
    create_tables(engine, table)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            write_and_fail(turns, engine, table)
    with turns.begin(engine) as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one() == 0


@pytest.mark.parametrize("handed", [False, True])
def test_who_is_interrupted_in_line_does_not_keep_the_others_waiting(engine, handed):
    """Ctrl-C reaches a thread that waits, before or just after the turn was handed to it."""
    turns = Turns()

    def interrupt(_number, _frame):
        if handed:
            turns._leave()
        raise KeyboardInterrupt

    def send():
        waiting(turns, 1)
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    turns._enter()
    sender = start(send)
    try:
        with pytest.raises(KeyboardInterrupt):
            turns._enter()
    finally:
        sender.join()
        signal.signal(signal.SIGUSR1, before)
    if not handed:
        turns._leave()
    with turns.begin(engine):
        assert not turns._waiting
