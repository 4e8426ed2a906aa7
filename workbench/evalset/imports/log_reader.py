"""Which tool wrote a log, and the reader of each tool."""

import json
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from workbench.errors import ConfigError, EvalsetError
from workbench.evalset.files import read_parquet, read_table
from workbench.evalset.imports.log_fields import field_at
from workbench.evalset.imports.logged_calls import (
    ToolLog,
)
from workbench.evalset.imports.openai_litellm_langfuse_mlflow import (
    read_langfuse,
    read_litellm,
    read_mlflow,
    read_openai_batch,
)
from workbench.evalset.imports.promptfoo_inspect_lm_eval import read_inspect, read_lm_eval, read_promptfoo
from workbench.evalset.imports.span_logs import read_openinference, read_otlp
from workbench.rendering.numbers import counted
from workbench.rendering.progress import waiting

_HEAD = 200_000
_TABLES = (".csv", ".tsv", ".parquet")


@dataclass(frozen=True, slots=True)
class LogTool:
    """One tool: its reader, and what its calls were for if nobody says."""

    read: Callable[[Sequence[Path]], ToolLog]
    purpose: Literal["product", "eval"]


TOOLS: Mapping[str, LogTool] = MappingProxyType({
    "promptfoo": LogTool(read_promptfoo, "eval"),
    "inspect": LogTool(read_inspect, "eval"),
    "lm-eval": LogTool(read_lm_eval, "eval"),
    "openai-batch": LogTool(read_openai_batch, "eval"),
    "litellm": LogTool(read_litellm, "product"),
    "otlp": LogTool(read_otlp, "product"),
    "langfuse": LogTool(read_langfuse, "product"),
    "openinference": LogTool(read_openinference, "product"),
    "mlflow": LogTool(read_mlflow, "product"),
})  # fmt: skip


def read_log(tool: str, paths: Sequence[Path]) -> ToolLog:
    """Read the files of one tool.

    Raises
    ------
    EvalsetError
        If they cannot be read, or hold no row that can be used, with what was found.
    """
    with waiting(f"reading the log of {tool}"):
        log = TOOLS[tool].read(paths)
    if not (log.calls or log.searches or log.scores):
        some = log.aside[:20]
        told = f"{', '.join(str(p) for p in paths)}: none of {counted(log.read, 'row')} can be used as a log of {tool}"
        raise EvalsetError(f"{told}{'; the first' if some else ''}", some) if some else EvalsetError(told)
    return log


def tool_of_log(paths: Sequence[Path]) -> str:
    """Name of the tool that wrote the files, by what the first that tells holds.

    Raises
    ------
    EvalsetError
        If no file is there.
    ConfigError
        If no tool is known by what they hold.
    """
    for path in paths:
        if not os.path.exists(path):  # of a name that is too long too
            raise EvalsetError(f"{path} is not there")
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and (found := _tool_of_log_file(file)):
                return found
    names = ", ".join(TOOLS)
    raise ConfigError(f"no tool is known that wrote {', '.join(map(str, paths))}; say which with --tool: {names}")


def _tool_of_log_file(path: Path) -> str:
    if zipfile.is_zipfile(path):
        return "inspect" if path.suffix == ".eval" else ""
    if path.suffix.lower() in _TABLES:
        try:
            names = read_parquet(path).columns if path.suffix.lower() == ".parquet" else list(read_table(path).columns)
        except EvalsetError:
            return ""
        return _log_tool_by_keys(dict.fromkeys(names, ""))
    if path.suffix.lower() not in (".json", ".jsonl", ".ndjson"):
        return ""
    with path.open("rb") as file:
        head = file.read(_HEAD).decode(errors="replace").removeprefix("\ufeff").lstrip()
    try:
        row = json.loads(head.partition("\n")[0])
    except (ValueError, RecursionError):
        row = _begun_log_file(path)
    row = row[0] if isinstance(row, list) and row else row
    return _log_tool_by_keys(row) if isinstance(row, dict) else ""


def _begun_log_file(path: Path) -> Any:
    """A document of many lines, whole."""
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError, OSError):
        return None


def _log_tool_by_keys(row: Mapping[str, Any]) -> str:
    """Tool that writes objects, or tables, with these keys."""
    keys, inner = set(row), set(row.get("data") or ()) if isinstance(row.get("data"), dict) else set()
    page = field_at(row.get("data"), "0") if isinstance(row.get("data"), list) else None
    rules = (
        ("otlp", bool({"resourceSpans", "resourceLogs"} & keys)),
        ("openinference", "context.span_id" in keys or isinstance(field_at(dict(row), "context.span_id"), str)),
        ("promptfoo", "promptIdx" in keys or field_at(dict(row), "results.results") is not None),
        ("inspect", "samples" in keys and "eval" in keys),
        ("lm-eval", {"doc_id", "resps", "filter"} <= keys),
        ("openai-batch", "custom_id" in keys),
        ("mlflow", "spans" in inner or "assessments" in keys or {"trace_id", "spans"} <= keys),
        ("langfuse", bool({"usage_details", "usageDetails", "provided_model_name", "providedModelName"} & keys)),
        ("langfuse", "author_user_id" in keys or "authorUserId" in keys),
        ("litellm", "call_type" in keys and bool({"spend", "response_cost"} & keys)),
    )
    found = next((tool for tool, holds in rules if holds), "")
    return found or (_log_tool_by_keys(page) if isinstance(page, dict) else "")
