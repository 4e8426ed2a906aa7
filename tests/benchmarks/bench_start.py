# ruff: noqa: T201
"""How long one waits: ``python -m tests.benchmarks.bench_start [import] [run] [first] [--documents 600]``.

``import``: importing the package and asking the command line for help, against an interpreter that does nothing.
``run``: the smoke run of a cache that has everything, against an empty notebook, through papermill alone and headless.
``first``: a run of an empty cache against the same run again, on so many documents of docs_qa. The weights are put
into the empty cache, since a download is no work of ours.
Processor time stands beside wall time, because only the former does not depend on what else the machine does.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from workbench.config import Settings, load_settings

CODE = "import sys; from workbench.cli import app; app()"
QUESTIONS = {"dev": 40, "test": 80}


@dataclass(frozen=True, slots=True)
class Took:
    """Wall and processor seconds of a process and its children."""

    wall: float
    cpu: float


def timed(command: Sequence[str], env: Mapping[str, str] | None = None) -> Took:
    """Run a command to its end; a gate that does not hold (exit code 1 or 2) is a result, not a fault."""
    started = time.perf_counter()
    child = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, **(env or {})}
    )
    assert child.stderr is not None
    error = child.stderr.read()
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode not in (0, 1, 2):
        raise SystemExit(f"{' '.join(command)} failed:\n{error.decode()[-2000:]}")
    return Took(time.perf_counter() - started, used.ru_utime + used.ru_stime)


def show(name: str, runs: Sequence[Took]) -> Took:
    """Print medians and return them."""
    middle = Took(median(r.wall for r in runs), median(r.cpu for r in runs))
    print(f"{name:58} {middle.wall:8.2f} {middle.cpu:8.2f}", flush=True)
    return middle


def headless(notebook: str, settings: Settings, *parameters: str) -> Took:
    """One smoke run from the command line."""
    env = {"WORKBENCH_ROOT": settings.root, "WORKBENCH_CACHE": settings.cache, "WORKBENCH_RUNS": settings.runs}
    options = [word for p in parameters for word in ("-p", p)]
    command = [sys.executable, "-c", CODE, "run", notebook, "--profile", "smoke", *options]
    took = timed(command, {name: str(path) for name, path in env.items()})
    if not (max(settings.runs.glob(f"*-{notebook}-*")) / "gate.json").is_file():
        raise SystemExit(f"the run of {notebook} came to no result; look into {settings.runs}")
    return took


def importing(repeats: int = 7) -> None:
    """Starting the interpreter, importing the package, asking for help: turn and turn about."""
    lines = {
        "an interpreter that does nothing": "pass",
        "import workbench": "import workbench",
        "workbench --help": "import sys; sys.argv = ['workbench', '--help']; from workbench.cli import app; app()",
        "import workbench, and load what a notebook needs": "import workbench; workbench.start; workbench.load_evalset",
    }
    runs = {name: list[Took]() for name in lines}
    for _ in range(repeats):
        for name, code in lines.items():
            runs[name].append(timed([sys.executable, "-c", code]))
    for name, found in runs.items():
        show(name, found)


def running(folder: Path, repeats: int = 3) -> None:
    """An empty notebook and the smoke run, when everything is in the cache."""
    from tests.notebooks.zoo import add_notebook, make_settings

    settings, empty = load_settings(), make_settings(folder / "project")
    path = add_notebook(empty, "empty")
    env = {"WORKBENCH_RUN_DIR": str(folder)}
    alone = [sys.executable, "-m", "papermill", "--no-progress-bar", str(path), str(folder / "out.ipynb")]
    mine = Settings(settings.root, settings.cache, folder / "runs", settings.state_url)
    headless("retrieval", mine)  # whatever is missing in the cache is made here
    runs = {name: list[Took]() for name in ("papermill alone, an empty notebook", "headless, an empty notebook")}
    smoke = []
    for _ in range(repeats):
        runs["papermill alone, an empty notebook"].append(timed(alone, env))
        runs["headless, an empty notebook"].append(headless("empty", empty))
        smoke.append(headless("retrieval", mine))
    for name, found in runs.items():
        show(name, found)
    show("headless, the smoke run, everything in the cache", smoke)
    latest = max((folder / "runs").glob("*retrieval*"))
    cells = json.loads((latest / "run.json").read_text(encoding="utf-8"))["cells"]
    slowest = sorted(cells, key=lambda cell: -cell["seconds"])[:4]
    print("  its slowest cells: " + ", ".join(f"[{c['number']}] {c['seconds']:.1f} s" for c in slowest))


def first_and_second(folder: Path, documents: int) -> None:
    """The smoke run on a part of docs_qa, with an empty cache and again."""
    settings = load_settings()
    cache = folder / "cache"
    shutil.copytree(settings.cache / "weights", cache / "weights")
    evalset = part_of(settings, folder / "part", documents)
    mine = Settings(settings.root, cache, folder / "runs", settings.state_url)
    took = [headless("retrieval", mine, f"evalset={evalset}") for _ in range(2)]
    first, second = (
        show(f"{name} run, {documents} documents", [t]) for name, t in zip(("first", "second"), took, strict=True)
    )
    print(
        f"  first over second: {first.wall / second.wall:.1f} of wall, {first.cpu / second.cpu:.1f} of processor time"
    )
    print(f"  building costs {1000 * (first.cpu - second.cpu) / documents:.0f} ms of processor time a document")


def part_of(settings: Settings, folder: Path, documents: int) -> Path:
    """An evalset of some questions of docs_qa, all documents that answer them, and others up to the number."""
    from workbench.evalset.evalset import load_evalset

    whole = load_evalset("docs_qa", settings=settings)
    (folder / "qrels").mkdir(parents=True)
    shutil.copy(settings.evalsets / "docs_qa" / "gates.toml", folder)
    asked, wanted = set[str](), dict[str, None]()
    for name, n in QUESTIONS.items():
        part = whole.split(name)
        queries = part.queries[:: max(1, len(part.queries) // n)][:n]
        asked |= {q.query_id for q in queries}
        rows = [(q.query_id, d, g) for q in queries for d, g in part.qrels[q.query_id].items()]
        wanted |= dict.fromkeys(d for _, d, _ in rows)
        lines = ["query-id\tcorpus-id\tscore", *(f"{q}\t{d}\t{g}" for q, d, g in rows)]
        (folder / "qrels" / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    source = (settings.evalsets / "docs_qa" / "queries.jsonl").read_text(encoding="utf-8").splitlines()
    kept = [line for line in source if json.loads(line)["_id"] in asked]
    (folder / "queries.jsonl").write_text("\n".join(kept) + "\n", encoding="utf-8")
    chosen = [d for d in whole.documents if d.doc_id in wanted]
    others = [d for d in whole.documents if d.doc_id not in wanted]
    room = max(0, documents - len(chosen))
    chosen += others[:: max(1, len(others) // max(1, room))][:room]
    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as out:
        for d in chosen:
            metadata = {"tenant_id": d.tenant_id, "document_type": d.document_type, "date": str(d.date)}
            out.write(json.dumps({"_id": d.doc_id, "title": d.title, "text": d.text, "metadata": metadata}) + "\n")
    return folder


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="*", choices=["import", "run", "first"], default=["import", "run", "first"])
    parser.add_argument("--documents", type=int, default=1000)
    given = parser.parse_args(arguments)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n{'':58} {'wall s':>8} {'cpu s':>8}")
    for what in given.what:
        with tempfile.TemporaryDirectory() as where:
            if what == "import":
                importing()
            elif what == "run":
                running(Path(where))
            else:
                first_and_second(Path(where), given.documents)


if __name__ == "__main__":
    main(sys.argv[1:])
