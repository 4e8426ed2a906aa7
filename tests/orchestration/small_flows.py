"""Flows for tests, as a user writes them; another process imports them by name."""

import os
import signal
import time
from pathlib import Path

from workbench.errors import CallFailed, StepFailed
from workbench.inference.client import Client
from workbench.orchestration.live_step import progress
from workbench.orchestration.steps import flow, outside, rehearse
from workbench.state import open_engine

LOG = "WORKBENCH_TEST_LOG"


def told(line: str) -> None:
    """Append a line to the file of what was really done."""
    with Path(os.environ[LOG]).open("a") as file:
        file.write(f"{line}\n")


def classify(text):
    return "bug" if "crash" in text else "question"


def handle(text, *, kind):
    return {"kind": kind, "words": tuple(text.split())}


@flow()
def triage(step, text, loud=False):
    kind = step(classify, text)
    made = step(handle, text, kind=kind)
    return {"made": made, "loud": loud}


def ask(question, *, client):
    return client.complete([{"role": "user", "content": question}], model="local/smollm2-135m").text


def ask_twice(question, *, client):
    return [ask(f"{question} {i}", client=client) for i in (1, 2)]


@outside()
def look_up(text, *, client):
    del client
    told("look_up")
    return [text.upper()]


def shorten(text):
    return text[:20]


@flow(tools={"client": Client.open})
def asked(step, question):
    found = step(look_up, question)
    answer = step(ask, f"{question} {found[0]}")
    return step(shorten, answer)


@flow(tools={"client": Client.open})
def twice(step, question):
    return step(ask_twice, question)


def ask_bravely(question, *, client):
    try:
        return ask(question, client=client)
    except CallFailed as error:
        return type(error).__name__


@flow(tools={"client": Client.open})
def asked_bravely(step, question):
    return step(ask_bravely, question)


def rehearse_within(question, *, client):
    return rehearse(asked_bravely, {"client": client}, question).result


@flow(tools={"client": Client.open})
def rehearsing(step, question):
    return step(rehearse_within, question)


def fail(text):
    raise ValueError(f"no {text}")


@flow()
def failing(step, text):
    step(classify, text)
    return step(fail, text)


@flow()
def catching(step, text):
    try:
        step(fail, text)
    except StepFailed as error:
        return {"kind": error.kind}
    return {}


def nap(n, ms):
    told(f"nap {n}")
    time.sleep(ms / 1000)
    told(f"woke {n}")
    return n


@flow()
def naps(step, n, ms=0):
    return sum(step(nap, i, ms) for i in range(n))


def watch(n, ms, *, client):
    progress("watched", n, n + 1)
    said = ask(f"watch {n}", client=client)
    time.sleep(ms / 1000)
    progress("watched", n + 1, n + 1)
    return said


@flow(tools={"client": Client.open}, concurrency=4)
def watches(step, n, ms=0):
    return [step(watch, i, ms) for i in range(n)]


def cut(url):
    told("cut")
    engine = open_engine(url)
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("select pg_terminate_backend(pg_backend_pid())")
    finally:
        engine.dispose()


@flow()
def cutting(step, url):
    return step(cut, url)


def die(point):
    """End this process as kill -9 does, if this is the next point at which one is to end."""
    file = Path(os.environ[LOG]).with_name("kills")
    points = file.read_text().splitlines() if file.exists() else []
    if points[:1] == [point]:
        file.write_text("\n".join(points[1:]))
        os.kill(os.getpid(), signal.SIGKILL)


def work_on(n):
    told(f"begin {n}")
    die(f"in {n}")
    told(f"end {n}")
    return n


@flow(concurrency=1)
def mortal(step, n, run=0):
    done = []
    for i in range(n):
        die(f"before {i}")
        done.append(step(work_on, i))
        die(f"after {i}")
    return done


def ask_mortally(question, *, client):
    said = []
    for i in range(3):
        said.append(ask(f"{question} {i}", client=client))
        die(f"call {i}")
    return said


@flow(tools={"client": Client.open})
def mortal_calls(step, question):
    return step(ask_mortally, question)
