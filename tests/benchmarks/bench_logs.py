"""Seconds and memory of reading others' logs: ``python -m tests.benchmarks.bench_logs [rows] [tool ...]``.

Each file is made of what the tool itself recorded (``tests/evalset/logs``), row after row with ids and texts of their
own; of Inspect JSON logs, since an archive is read one sample at a time. Each tool is read in a process of its own,
whose processor time counts.
"""

import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.evalset.test_log_fuzz import CONTENTS
from tests.evalset.test_log_tools import PRICES
from workbench.evalset.imports.log_import import EVALS, LogChoices, import_log, ledger_rows_of_log
from workbench.evalset.imports.log_reader import TOOLS, read_log
from workbench.evalset.imports.outcome_tables import OutcomeRepairs


def many(tool: str, rows: int, folder: Path) -> None:
    """Write a log of about so many rows."""
    for name, held in CONTENTS[tool].items():
        if isinstance(held, bytes):
            continue
        (folder / name).parent.mkdir(exist_ok=True)
        if isinstance(held, dict) and "model_source" in held:
            (folder / name).write_text(json.dumps(held))
            continue
        source = held["results"]["results"] if tool == "promptfoo" else held["samples"] if tool == "inspect" else held
        if tool == "inspect":
            for model in ("small", "large"):
                texts = ",".join(json.dumps(own(tool, source[i % 6], i // 6)) for i in range(rows // 2))
                (folder / f"{model}.json").write_text(f'{{"eval": {{"model": "{model}"}}, "samples": [{texts}]}}')
            continue
        with (folder / name).with_suffix(".jsonl").open("w") as file:
            for i in range(rows):
                file.write(json.dumps(own(tool, source[i % len(source)], i // len(source))) + "\n")


def own(tool: str, row: dict[str, Any], i: int) -> dict[str, Any]:
    """A row with ids and a text of its own."""
    if tool == "promptfoo":
        return {**row, "vars": {"q": f"{row['vars']['q']} {i}"}, "prompt": {"raw": f"{row['prompt']['raw']} {i}"}}
    if tool == "inspect":
        return {**row, "id": f"{row['id']} {i}", "input": f"{row['input']} {i}"}
    if tool == "lm-eval":
        return {**row, "doc_id": row["doc_id"] + 3 * i, "doc_hash": f"{i:08x}{row['doc_hash']}"}
    text = json.dumps(row)
    for name in ("traceId", "trace_id", "custom_id", "litellm_call_id", "id"):
        text = text.replace(f'"{name}": "', f'"{name}": "{i:08x}', 1)
    if "resourceSpans" in row:  # an id in hex keeps its length
        text = re.sub(r'"traceId": "(.{8}).{8}', r'"traceId": "\1', text, count=1)
    return dict(json.loads(text))


def measured(tool: str, rows: int) -> str:
    """One line of the table: seconds to read, to import, to make rows of the ledger; peak memory."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "in"
        folder.mkdir()
        many(tool, rows, folder)
        size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6
        before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, time.process_time()
        log = read_log(tool, [folder])
        read = time.process_time() - started
        score = {"inspect": "match", "lm-eval": "acc,none"}.get(tool, "")
        costs = {call.model: 1.0 for call in log.calls if score and call.usd is None}
        choices = LogChoices(score, OutcomeRepairs(costs=costs, drop_incomplete=tool in EVALS))
        started = time.process_time()
        import_log(log, Path(place) / "out", PRICES, choices=choices)
        written = time.process_time() - started
        started = time.process_time()
        count = len(ledger_rows_of_log(log, PRICES, "eval"))
        booked = time.process_time() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return (
            f"{tool:<14}{log.read:>9,}{count:>9,}{len(log.aside):>6}{size:>8.0f}{read:>8.1f}{written:>8.1f}{booked:>8.1f}"
            f"{peak - before:>8.0f}"
        )


def main() -> None:
    """Measure each tool in a process of its own."""
    rows, *tools = sys.argv[1:] or ["100000"]
    if tools[:1] == ["--one"]:
        sys.stdout.write(measured(tools[1], int(rows)) + "\n")
        return
    sys.stdout.write("tool               rows    calls aside      MB  read s write s  ledger s  MiB\n")
    for tool in tools or TOOLS:
        command = [sys.executable, "-m", "tests.benchmarks.bench_logs", rows, "--one", tool]
        sys.stdout.write(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
