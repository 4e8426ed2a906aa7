# ruff: noqa: T201
"""How far three errands travel through the package: ``python -m tests.benchmarks.trips``.

A *hop* is an arrow from one file to another that a call takes, counted once however often it is taken; a *step* is the
same for two functions. Returns and imports are not counted. The errands are a retrieval question from scoring to the
gate, one model call with everything on, and ``workbench check`` outside its kernel. An older checkout is measured by
the same script: ``PYTHONPATH=CHECKOUT python -m tests.benchmarks.trips`` in its folder, since classes are found by
their names.
"""

import ast
import importlib
import json
import os
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import workbench

HOME = Path(workbench.__file__).parent
GOALS = {"question": (45, 15), "call": (32, 15), "check": (20, 8)}
ERRAND = (
    "dev = ",
    "finalists = ",
    "test = ",
    "decision = ",
    "passages = ",
    "summary = ",
    "run.gate(",
)  # lines of the notebook
FAMILIES = 64  # of one question each: enough for a verdict on dev and test


class Tracer:
    """Calls that cross from one file of the package to another."""

    def __init__(self) -> None:
        self.hops: Counter[tuple[str, str, str, str]] = Counter()

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        file = frame.f_code.co_filename
        if event != "call" or not file.startswith(str(HOME)) or frame.f_code.co_name in ("<module>", "<lambda>"):
            return
        caller = frame.f_back
        while caller is not None and not caller.f_code.co_filename.startswith(str(HOME)):
            caller = caller.f_back
        if caller is None or caller.f_code.co_name == "<module>":
            origin = ("", "")
        else:
            origin = (caller.f_code.co_filename, caller.f_code.co_name)
        if origin[0] != file and caller is not None:
            self.hops[(*origin, file, frame.f_code.co_name)] += 1

    @contextmanager
    def on(self) -> Iterator[None]:
        """Watch this thread and those that it starts."""
        threading.setprofile(self)
        sys.setprofile(self)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    def told(self, name: str, *, listed: bool) -> None:
        """Print hops and files, and with ``listed`` each hop."""
        files = {file for hop in self.hops for file in (hop[0], hop[2]) if file}
        hops, most = GOALS[name]
        arrows = {(hop[0], hop[2]) for hop in self.hops}
        print(f"{name:<9} {len(arrows)} hops (goal {hops}), {len(self.hops)} steps, {len(files)} files (goal {most})")
        for caller, asks, file, asked in self.hops if listed else ():
            print(f"  {_short(caller)} {asks} -> {_short(file)} {asked}")


def _short(file: str) -> str:
    return str(Path(file).relative_to(HOME).with_suffix("")) if file else "outside"


def defined(name: str) -> Any:
    """Class or function of the package, wherever it is defined."""
    for path in sorted(HOME.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(n, ast.ClassDef | ast.FunctionDef) and n.name == name for n in tree.body):
            module = ".".join(("workbench", *path.relative_to(HOME).with_suffix("").parts)).removesuffix(".__init__")
            return getattr(importlib.import_module(module), name)
    raise LookupError(f"no {name} in {HOME}")


def make_evalset(folder: Path) -> None:
    """Write a BEIR folder in which each question has its own document."""
    words = ["join", "sort", "filter", "group", "window", "pivot", "melt", "rank"]
    things = ["frame", "series", "index", "column", "row", "array", "table", "cell"]
    asked = [f"{verb} a {thing}" for verb in words for thing in things][:FAMILIES]
    (folder / "qrels").mkdir(parents=True)
    with (folder / "corpus.jsonl").open("w") as corpus, (folder / "queries.jsonl").open("w") as queries:
        for n, text in enumerate(asked):
            corpus.write(json.dumps({"_id": f"d{n}", "title": "", "text": f"How to {text}, step {n}."}) + "\n")
            queries.write(json.dumps({"_id": f"q{n}", "text": f"I want to {text}"}) + "\n")
    for split, part in (("dev", range(20)), ("test", range(20, FAMILIES))):
        rows = "".join(f"q{n}\td{n}\t1\n" for n in part)
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows)


def question(folder: Path) -> Tracer:
    """The cells of 01_retrieval from scoring to the gate, without the figures, with one hybrid arm."""
    make_evalset(folder / "evalset")
    notebook = json.loads((HOME.parent / "notebooks" / "01_retrieval.ipynb").read_text())
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    (folder / "run").mkdir()
    os.environ["WORKBENCH_RUN_DIR"] = str(folder / "run")  # as under the runner, which draws the report itself
    names: dict[str, Any] = {}
    first = next(n for n, cell in enumerate(cells) if cell.startswith("dev = run.score"))
    given = {"evalset": str(folder / "evalset"), "chunkers": ["whole"], "strategies": ["hybrid_rrf"]}
    given |= {"embedders": ["minilm"], "rebuilds": 0}
    for number, cell in enumerate(cells[:first]):
        names |= given if number == 1 else {}
        exec(cell, names)
    tracer = Tracer()
    with tracer.on():
        exec("\n".join(line for cell in cells[first:] for line in cell.splitlines() if line.startswith(ERRAND)), names)
    del os.environ["WORKBENCH_RUN_DIR"]
    return tracer


def call(folder: Path) -> Tracer:
    """One call of a hosted model that answers at once, with everything on; the second one, when all is loaded."""
    engine = defined("open_engine")(f"sqlite:///{folder / 'state.sqlite'}")
    model = "local/smollm2-135m"
    said = defined("Response")("merge_asof", model, defined("Usage")(40, output=4))
    limiter = defined("RateLimiter")(engine, {model: defined("RateLimit")(requests_per_minute=10**6)})
    books = defined("Books")(
        defined("load_prices")(), defined("Budgets")(engine, [defined("Budget")(1.0, "total")]),
        defined("Ledger")(engine), limiter, defined("Tracing")(engine),
    )  # fmt: skip
    client = defined("Client")({"": defined("ScriptedModel")(lambda request: said)}, books)
    tracer = Tracer()

    def ask() -> None:
        client.complete([{"role": "user", "content": "How do I join two frames?"}], model=model, tenant_id="acme")

    ask()
    with tracer.on():
        ask()
    books.tracing.close()
    return tracer


def check(_: Path) -> Tracer:
    """``workbench check caching`` of the committed demonstration, outside its kernel."""
    from typer.testing import CliRunner

    from workbench.cli import app

    tracer = Tracer()
    with tracer.on():
        done = CliRunner().invoke(app, ["check", "caching"])
    print(done.output.splitlines()[-2:], "exit code", done.exit_code)
    return tracer


def main(*, listed: bool) -> None:
    with tempfile.TemporaryDirectory() as place:
        for errand in (question, call, check):
            folder = Path(place) / errand.__name__
            folder.mkdir()
            errand(folder).told(errand.__name__, listed=listed)


if __name__ == "__main__":
    main(listed="--list" in sys.argv[1:])
