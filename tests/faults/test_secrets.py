"""Keys do not reach the disk: planted in the environment, headers, messages, answers and exceptions, found nowhere."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from workbench.errors import CallFailed, Unavailable
from workbench.inference.budgets import Budget, Budgets
from workbench.inference.call_attempt import Books
from workbench.inference.client import Client
from workbench.inference.failover import RetryPolicy
from workbench.inference.messages import Response, ToolCall, Usage
from workbench.inference.prices import load_prices
from workbench.inference.recordings import Recordings
from workbench.state import open_engine
from workbench.telemetry.ledger import Ledger
from workbench.telemetry.spans import Tracing
from workbench.telemetry.traces import load_trace
from workbench.testing import FakeClock, ScriptedModel

ROOT = Path(__file__).parents[2]
MODEL = "local/smollm2-135m"
SECRETS = {
    "environment": "correct-horse-battery-staple",
    "header": "abcdef0123456789TOKENVALUE",
    "vendor form": "sk-proj-abcdefghijklmnopqrstuvwx",
    "cloud form": "AKIAABCDEFGHIJKLMNOP",
    "address": "hunter2hunter2",
}


def planted() -> str:
    return (
        f"my password is {SECRETS['environment']}; Authorization: Bearer {SECRETS['header']}; "
        f"key {SECRETS['vendor form']} and {SECRETS['cloud form']} at postgresql://me:{SECRETS['address']}@db/prod"
    )


def test_no_planted_secret_is_written_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHOP_DB_PASSWORD", SECRETS["environment"])
    engine = open_engine(f"sqlite:///{tmp_path / 'state.sqlite'}")
    clock, tracing = FakeClock(), Tracing(engine)
    books = Books(
        load_prices(), Budgets(engine, [Budget(1, "day", by=("feature",))]), Ledger(engine), None, tracing, clock
    )
    said = Response(planted(), "served", Usage(9, output=9), tool_calls=(ToolCall("c1", "send", planted()),))
    script = [Unavailable(planted(), billed="unknown"), said, Unavailable(planted())]
    client = Client(
        {"": ScriptedModel(script)}, books, recordings=Recordings(tmp_path / "recordings.jsonl", live=True),
        policy=RetryPolicy(attempts_per_model=2),
    )  # fmt: skip
    ask = [{"role": "system", "content": planted()}, {"role": "user", "content": planted()}]
    with caplog.at_level(logging.DEBUG):
        done = client.complete(ask, model=MODEL, feature="search", item_id="q1")
        with pytest.raises(CallFailed):
            client.complete([*ask, ask[0]], model=MODEL, deadline_s=0.001)
        tracing.flush()
        (tmp_path / "trace.html").write_text(load_trace(engine, done.trace_id).html(), encoding="utf-8")
        (tmp_path / "trace.txt").write_text(load_trace(engine, done.trace_id).text(), encoding="utf-8")
        books.ledger.frame().write_parquet(tmp_path / "ledger.parquet", compression="uncompressed")
    tracing.close()
    engine.dispose()
    (tmp_path / "log.txt").write_text(caplog.text + "".join(capfd.readouterr()), encoding="utf-8")
    written = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {"state.sqlite", "recordings.jsonl", "trace.html", "ledger.parquet"} <= written.keys()
    assert b"[redacted]" in written["recordings.jsonl"]
    found = [(name, kind) for name, data in written.items() for kind, s in SECRETS.items() if s.encode() in data]
    assert found == []
    assert done.text == planted()  # the caller gets what the model said


LEAKY = """
import os
class Leaky:
    def fit(self, requests, quality):
        said = [os.environ[name] for name in ("SHOP_DB_PASSWORD", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY")]
        raise RuntimeError(f"cannot connect to {os.environ['DATABASE_URL']}: {said}")
    def predict(self, requests):
        raise NotImplementedError
"""


@pytest.mark.slow
def test_no_planted_secret_is_in_the_folder_of_a_run(tmp_path: Path) -> None:
    """Everything that a run leaves whose policy raises them: record, executed notebook, report, logs, the terminal."""
    (tmp_path / "leaky.py").write_text(LEAKY, encoding="utf-8")
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
        "WORKBENCH_RUNS": str(tmp_path / "runs"),
        "SHOP_DB_PASSWORD": SECRETS["environment"],
        "OPENAI_API_KEY": SECRETS["vendor form"],
        "AWS_SECRET_ACCESS_KEY": SECRETS["header"],
        "DATABASE_URL": f"postgresql://me:{SECRETS['address']}@db/prod",
    }
    command = [
        sys.executable,
        "-m",
        "workbench.cli",
        "run",
        "routing",
        "--profile",
        "smoke",
        "-p",
        "evalset=routing_demo",
        "-p",
        'policies=["by_feature", "leaky:Leaky"]',
    ]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, check=False)  # it must fail
    assert b"cannot connect to postgresql://me:[redacted]@db/prod: [" in done.stdout + done.stderr
    (tmp_path / "terminal.txt").write_bytes(done.stdout + done.stderr)
    written = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {"executed.ipynb", "report.html", "run.json", "terminal.txt"} <= written.keys()
    assert [(name, kind) for name, data in written.items() for kind, s in SECRETS.items() if s.encode() in data] == []
