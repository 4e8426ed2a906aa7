import os
import signal
import threading
import time

import pytest
import sqlalchemy as sa

from workbench.state import Batch, create_tables, execute, group_commit, together

TABLE = sa.Table("wb_probe", sa.MetaData(), sa.Column("n", sa.Integer, primary_key=True))


class Writes:
    """Inserts numbers, in transactions that are noted; negative ones are refused, and it can be held up."""

    def __init__(self, engine):
        create_tables(engine, TABLE)
        self.engine, self.group = engine, group_commit(engine)
        self.transactions, self.inside, self.go = [], threading.Event(), threading.Event()
        self.lost = False
        self.go.set()
        self.batch = Batch(0, self.insert)

    def insert(self, connection, numbers):
        self.transactions.append(list(numbers))
        self.inside.set()
        self.go.wait(10)
        if self.lost:
            raise sa.exc.OperationalError("INSERT", {}, OSError("the database is locked"))
        execute(connection, "INSERT INTO wb_probe (n) VALUES (?)", [(n,) for n in numbers if n >= 0])
        return [ValueError(f"{n} is negative") if n < 0 else 10 * n for n in numbers]

    def run(self, number):
        return self.group.run(self.batch, number)

    def numbers(self):
        with self.engine.begin() as connection:
            return [n for (n,) in connection.execute(sa.select(TABLE.c.n).order_by(TABLE.c.n))]

    def held_up(self, *numbers):
        """Threads whose numbers wait, in this order, behind a thread that leads with 0; what each of them got."""
        self.go.clear()
        self.inside.clear()
        got = {}

        def work(number):
            try:
                got[number] = self.run(number)
            except (ValueError, sa.exc.SQLAlchemyError) as error:
                got[number] = error

        threads = [start(lambda: work(0))]
        assert self.inside.wait(10)
        for i, number in enumerate(numbers, 1):
            threads.append(start(lambda number=number: work(number)))
            self.waiting(i)
        return threads, got

    def waiting(self, n):
        while len(self.group._waiting) < n:
            time.sleep(0.001)

    def release(self, threads):
        self.go.set()
        for thread in threads:
            thread.join()


def start(function):
    thread = threading.Thread(target=function)
    thread.start()
    return thread


@pytest.fixture
def writes(engine):
    return Writes(engine)


def test_who_comes_while_another_writes_is_written_with_the_others_in_one_transaction(writes):
    threads, got = writes.held_up(*range(1, 9))
    assert writes.transactions == [[0]]
    writes.release(threads)
    assert writes.transactions == [[0], [*range(1, 9)]]
    assert got == {n: 10 * n for n in range(9)}
    assert writes.numbers() == [*range(9)]


def test_what_is_refused_is_refused_alone(writes):
    threads, got = writes.held_up(1, -2, 3)
    writes.release(threads)
    assert len(writes.transactions) == 2
    assert str(got.pop(-2)) == "-2 is negative"
    assert got == {0: 0, 1: 10, 3: 30}


def test_an_error_undoes_the_transaction_of_many_and_only_who_made_it_bears_it(writes):
    assert writes.run(2) == 20
    threads, got = writes.held_up(1, 2, 3)  # 2 is there already
    writes.release(threads)
    assert writes.transactions[1:] == [[0], [1, 2, 3], [1], [2], [3]]
    assert isinstance(got.pop(2), sa.exc.IntegrityError)
    assert got == {0: 0, 1: 10, 3: 30}
    assert writes.numbers() == [0, 1, 2, 3]


def test_a_database_that_is_lost_is_an_error_for_all_of_a_transaction_and_for_nobody_after_them(writes):
    threads, got = writes.held_up(1, 2)
    writes.lost = True
    writes.release(threads)
    assert writes.transactions == [[0], [1, 2]]  # nobody waits for a lock once more
    assert {n: type(error) for n, error in got.items()} == dict.fromkeys((0, 1, 2), sa.exc.OperationalError)
    writes.lost = False
    assert writes.run(6) == 60
    assert writes.numbers() == [6]


def test_what_is_held_back_is_written_with_what_comes_next_and_a_refusal_ends_what_follows(writes):
    first, second = [], []

    def write_early(_, asked):
        first.append([*asked])
        return [ValueError("no") if ask == "bad" else 1 for ask in asked]

    early = Batch(0, write_early)
    late = Batch(1, lambda _, asked: [second.append(ask) or 2 for ask in asked])
    with together():
        writes.group.later(early, "good")
        assert first == []
        assert writes.group.run(late, "x") == 2
    assert (first, second) == ([["good"]], ["x"])
    with together():
        writes.group.later(early, "bad")
        with pytest.raises(ValueError, match="no"):
            writes.group.run(late, "y")
    assert second == ["x"]
    with together():
        writes.group.later(late, "z")
    writes.group.later(late, "at once")
    assert second == ["x", "z", "at once"]


def test_what_must_be_alone_waits_for_its_turn_and_is_alone(writes):
    threads, got = writes.held_up(1)
    threads.append(start(lambda: writes.group.alone(lambda connection: writes.insert(connection, [2]))))
    writes.waiting(2)
    threads.append(start(lambda: got.setdefault(3, writes.run(3))))
    writes.waiting(3)
    writes.release(threads)
    assert writes.transactions == [[0], [1], [2], [3]]
    with pytest.raises(ZeroDivisionError):
        writes.group.alone(lambda connection: writes.insert(connection, [4]) and 1 / 0)
    assert writes.numbers() == [0, 1, 2, 3]


@pytest.mark.parametrize("leads", [False, True])
def test_who_is_interrupted_in_line_does_not_keep_the_others_waiting(writes, leads):
    """Ctrl-C reaches a thread that waits, before or just after it was told to lead."""
    threads, _ = writes.held_up()

    def interrupt(_number, _frame):
        if leads:
            writes.go.set()
            threads[0].join()
            assert writes.group._waiting[0].leads
        raise KeyboardInterrupt

    def send():
        writes.waiting(1)
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    sender = start(send)
    try:
        with pytest.raises(KeyboardInterrupt):
            writes.run(1)
    finally:
        sender.join()
        signal.signal(signal.SIGUSR1, before)
    writes.release(threads)
    assert writes.run(2) == 20
    assert writes.numbers() == [0, 2]


def test_the_main_thread_executes_only_its_own_because_it_can_be_interrupted(writes):
    threads, _ = writes.held_up()
    others = [start(lambda: (writes.waiting(1), writes.run(2)))]

    def release():
        writes.waiting(2)
        writes.go.set()

    releaser = start(release)
    assert writes.run(1) == 10
    writes.release([*threads, *others, releaser])
    assert writes.transactions == [[0], [1], [2]]
