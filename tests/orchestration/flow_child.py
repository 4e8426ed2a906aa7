"""A process that works for flows until it is killed or nothing is left: ``flow_child.py FOLDER URL [run|work]``."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.orchestration import small_flows
from workbench.config import Settings
from workbench.inference.call_attempt import Books
from workbench.inference.client import Client
from workbench.inference.messages import Request
from workbench.inference.prices import project_prices
from workbench.orchestration.flows import Flows
from workbench.state import open_engine
from workbench.telemetry.ledger import Ledger
from workbench.testing import ScriptedModel


def settings_of(folder: str, url: str) -> Settings:
    root = Path(folder)
    return Settings(root=root, cache=root / "cache", runs=root / "runs", state_url=url)


def answer(request: Request) -> str:
    small_flows.told(f"asked {request.messages[-1]['content']}")
    small_flows.die(f"asking {request.messages[-1]['content']}")
    return f"answer to {request.messages[-1]['content']}"


@contextmanager
def open_flows(settings: Settings) -> Iterator[Flows]:
    engine = open_engine(settings.state_url)
    books = Books(project_prices(settings.root), ledger=Ledger(engine))
    with Flows.open(settings, tools={"client": Client({"": ScriptedModel(answer)}, books)}) as flows:
        yield flows
    engine.dispose()


if __name__ == "__main__":
    folder, url, what, *rest = sys.argv[1:]
    os.environ[small_flows.LOG] = str(Path(folder) / "log")
    with open_flows(settings_of(folder, url)) as flows:
        if what == "work":
            flows.work(when_done=True)
        else:
            flow = getattr(small_flows, rest[0])
            sys.stdout.write(f"{flows.run(flow, *(int(a) if a.isdecimal() else a for a in rest[1:]))}\n")
