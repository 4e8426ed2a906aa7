"""Whatever a tool's log holds, it is loaded or refused in our words; nothing half is left, no library speaks."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evalset.test_importers import ANYHOW, MANY, ODD, QUICK, VALUES, attempt, folder_of
from tests.evalset.test_log_tools import FILES, GIVEN, LANGFUSE, LOGS, PRICES, batch
from workbench.evalset.imports.log_import import LogChoices, import_log, ledger_rows_of_log
from workbench.evalset.imports.log_reader import TOOLS, read_log
from workbench.evalset.imports.outcome_tables import OutcomeRepairs
from workbench.evalset.outcomes import load_outcomes
from workbench.evalset.traffic import load_traffic_stream
from workbench.project.inspect_log import what_a_log_decides
from workbench.retrieval.systems import read_system_run

LEAVES = ODD.filter(lambda text: len(text) < 100) | VALUES | st.just([[]]) | st.just({"role": []}) | st.just(10**30)


def recorded(tool: str) -> dict[str, Any]:
    """Files of a tool by name: rows of JSON lines, a document, or bytes."""
    if tool == "langfuse":
        return {"observations.jsonl": LANGFUSE, "scores.jsonl": GIVEN[:3]}
    if tool == "openai-batch":
        asked = {"custom_id": "a", "body": {"model": "m", "messages": [{"role": "user", "content": "why?"}]}}
        return {"in.jsonl": [asked], "out.jsonl": [batch("a"), batch("b")]}
    if tool == "lm-eval":  # of two models: one alone has no outcomes
        task = "made_up_choice_2026-11-30T02-38-57.477121"
        rows = [json.loads(line) for line in (LOGS / "lm_eval" / f"samples_{task}.jsonl").read_text().splitlines()]
        return {
            f"{model}/{name}": held
            for model in ("a", "b")
            for name, held in ((f"samples_{task}.jsonl", rows), (f"results_{task[-26:]}.json", {"model_source": model}))
        }
    found: dict[str, Any] = {}
    for name in FILES[tool]:
        for path in sorted((LOGS / name).iterdir()) if (LOGS / name).is_dir() else [LOGS / name]:
            if path.suffix == ".jsonl":
                found[path.name] = [json.loads(line) for line in path.read_text().splitlines()]
            else:
                found[path.name] = json.loads(path.read_text()) if path.suffix == ".json" else path.read_bytes()
    return found


CONTENTS = {tool: recorded(tool) for tool in TOOLS}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything inside a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, item in inner for found in places(item, (*path, key)))]


PLACES = {(tool, name): places(held) for tool, held_by in CONTENTS.items() for name, held in held_by.items()}


def changed(data: st.DataObject, tool: str, name: str) -> Any:
    """The document with a value or two replaced, taken out, or renamed."""
    document = copy.deepcopy(CONTENTS[tool][name])
    for path in data.draw(st.lists(st.sampled_from(PLACES[tool, name]), min_size=1, max_size=2)):
        if not path:
            continue
        try:
            holder = document
            for key in path[:-1]:
                holder = holder[key]
            if data.draw(st.integers(0, 3)):
                holder[path[-1]] = copy.deepcopy(data.draw(LEAVES))  # a later change may go into it
            else:
                del holder[path[-1]]
        except (KeyError, IndexError, TypeError):
            pass  # an earlier change took this place away
    return document


def file_of(data: st.DataObject, tool: str, name: str) -> bytes:
    kind = data.draw(st.sampled_from(["as it was"] * 3 + ["changed"] * 6 + ["cut", "flipped", "anything"]))
    held = CONTENTS[tool][name]
    if kind == "anything":
        return data.draw(st.binary(max_size=60))
    document = changed(data, tool, name) if kind == "changed" and not isinstance(held, bytes) else held
    if isinstance(document, bytes):
        raw = document
    elif name.endswith(".jsonl"):
        raw = "".join(json.dumps(row) + "\n" for row in document).encode()
    else:
        raw = json.dumps(document).encode()
    if kind == "cut":
        return raw[: data.draw(st.integers(0, len(raw)))]
    if kind == "flipped" or (kind == "changed" and isinstance(held, bytes)):
        place = data.draw(st.integers(0, len(raw) - 1))
        return raw[:place] + bytes([data.draw(st.integers(0, 255))]) + raw[place + 1 :]
    return raw


def load(data: st.DataObject, tool: str, base: Path) -> None:
    inside, out = base / "in", base / "out"
    inside.mkdir()
    for name in CONTENTS[tool]:
        (inside / name).parent.mkdir(exist_ok=True)
        (inside / name).write_bytes(file_of(data, tool, name))
    fits = {"inspect": "match", "lm-eval": "acc,none"}.get(tool, "")
    score = data.draw(st.sampled_from([fits, fits, fits, "", "correct"]))
    costs = {"inspect": {"mockllm/small": 1.0, "mockllm/large": 2.0}, "lm-eval": {"a": 1.0, "b": 2.0}}.get(tool, {})
    dropped = bool(costs) and data.draw(st.integers(0, 3)) > 0  # a choice that cannot be kept is an error
    choices = LogChoices(score, OutcomeRepairs(costs=costs, drop_incomplete=dropped))
    logs = []

    def whole() -> None:
        logs.append(read_log(tool, [inside]))
        what_a_log_decides(logs[0], PRICES)
        assert len(ledger_rows_of_log(logs[0], PRICES, "eval")) == len(logs[0].calls)
        import_log(logs[0], out, PRICES, choices=choices)

    if attempt(whole, out):
        assert (out / "card.md").is_file()
        if (out / "outcomes.parquet").exists():
            assert len(load_outcomes(out).models) > 1
        if (out / "stream.parquet").exists():
            assert len(load_traffic_stream(out))
        if (out / "retrieved.run").exists() and (out / "retrieved.run").stat().st_size:
            assert len(read_system_run(out / "retrieved.run"))


def try_out(tool: str, base: Path, examples: int) -> None:
    @settings(max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=ANYHOW)
    @given(data=st.data())
    def any_log(data: st.DataObject) -> None:
        load(data, tool, folder_of(base / "one"))

    any_log()


@pytest.mark.parametrize("tool", TOOLS)
def test_any_log_is_loaded_or_refused(tmp_path, tool):
    try_out(tool, tmp_path, QUICK)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("tool", TOOLS)
def test_any_of_many_logs_is_loaded_or_refused(tmp_path, tool):
    try_out(tool, tmp_path, MANY)
