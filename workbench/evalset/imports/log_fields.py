"""Fields of a row that a tool logged: texts, amounts, tokens, moments, at any of the places where tools write them.

What is there and cannot be read is `workbench.evalset.cells.Unusable`; what is not there is empty or None.
"""

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from workbench.errors import Defect, EvalsetError
from workbench.evalset.cells import Unusable, number_cell, parse_json_cell, shown_cell, times_of_cells, whole_cell
from workbench.evalset.files import Row, read_table, read_text, refuse_file, scan_jsonl
from workbench.evalset.imports.logged_calls import ToolLog
from workbench.inference.messages import Usage

_LARGEST = 2**40  # tokens of one call; what is beyond is no count
_MOST_USD = 1_000_000_000
_VENDORS_COUNTS = {"prompt_tokens", "completion_tokens", "input_tokens", "output_tokens"}
_STANDARD_TIERS = ("standard", "default", "auto", "standard_only", "on_demand")


def field_at(row: Any, path: str) -> Any:
    """Value at ``a.b.c`` inside objects and, by number, lists; None where it is not.

    >>> field_at({"a": [{"b": 1}]}, "a.0.b"), field_at({"a": 1}, "a.b")
    (1, None)
    """
    for part in path.split("."):
        if isinstance(row, dict):
            row = row.get(part)
        elif isinstance(row, list) and part.isdigit() and int(part) < len(row):
            row = row[int(part)]
        else:
            return None
    return row


def field_objects(found: Any) -> list[dict[str, Any]]:
    """Objects of a list, and none of what is no list.

    >>> field_objects([{"a": 1}, 2]), field_objects(10**30)
    ([{'a': 1}], [])
    """
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def first_field(row: Any, *paths: str) -> Any:
    """First value that is told at one of these places."""
    return next((value for path in paths if (value := field_at(row, path)) is not None), None)


def field_text(row: Any, *paths: str) -> str:
    """Text, or a number as text, at the first of these places that has one; else ""."""
    value = first_field(row, *paths)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)


def field_amount(row: Any, *paths: str) -> float | None:
    """Number from 0 at the first of these places that has one.

    Raises
    ------
    Unusable
        If it is below 0, or no number.
    """
    return amount_field(paths[0].rpartition(".")[2], first_field(row, *paths))


def amount_field(name: str, value: Any) -> float | None:
    """Number from 0, and no more than anything here may cost or take.

    Raises
    ------
    Unusable
        If it is another one, or none.
    """
    found = number_cell(name, value)
    if found is not None and not 0 <= found <= _LARGEST:
        raise Unusable(f"{name} must be 0 or more, found {shown_cell(value)}")
    return found


def usd_field(name: str, value: Any) -> float | None:
    """Dollars; 0 is none: tools write it where they know no price.

    Raises
    ------
    Unusable
        If it is below 0, or no amount that anything here may cost.
    """
    found = amount_field(name, value)
    if found is not None and found > _MOST_USD:
        raise Unusable(f"{name} {shown_cell(value)} is more than any call may cost")
    return found or None


def token_count_field(name: str, value: Any) -> int:
    """Tokens of one kind, 0 where they are not told.

    Raises
    ------
    Unusable
        If it is no whole number from 0.
    """
    found = whole_cell(name, value) or 0
    if found > _LARGEST:
        raise Unusable(f"{name} {shown_cell(value)} is no count of tokens")
    return found


def usage_fields(prompt: Any, output: Any, *, cache_read: Any = 0, cache_write: Any = 0, inside: bool) -> Usage | None:
    """Token classes of counts; None if neither prompt nor output is told, or both are 0.

    Parameters
    ----------
    inside : bool
        Whether the prompt's count includes what was read from and written to a cache; it cannot if it is the smaller.

    Raises
    ------
    Unusable
        If a count is none.
    """
    asked, said = token_count_field("prompt tokens", prompt), token_count_field("output tokens", output)
    read, written = (
        token_count_field("cache read tokens", cache_read),
        token_count_field("cache write tokens", cache_write),
    )
    if not (asked or said or read or written):
        return None
    if not inside or read + written > asked:
        return Usage(asked, read, written, said)
    return Usage.of_prompt(asked, said, cache_read=read, cache_write=written)


def vendor_usage_field(row: Any) -> Usage | None:
    """Token classes of a vendor's own usage object, by the names that it uses.

    OpenAI counts what was cached inside the prompt, Anthropic beside it; the names tell which one it is.

    >>> cached = {"prompt_tokens_details": {"cached_tokens": 100}}
    >>> vendor_usage_field({"prompt_tokens": 160, "completion_tokens": 5} | cached)
    Usage(fresh=60, cache_read=100, cache_write=0, output=5, cache_write_long=0)
    >>> vendor_usage_field({"input_tokens": 60, "cache_read_input_tokens": 100, "output_tokens": 5}).fresh
    60

    Raises
    ------
    Unusable
        If a count is none.
    """
    if not isinstance(row, dict):
        return None
    if "prompt_tokens" in row or "completion_tokens" in row:
        return usage_fields(
            row.get("prompt_tokens"),
            row.get("completion_tokens"),
            cache_read=first_field(row, "prompt_tokens_details.cached_tokens", "cache_read_input_tokens"),
            cache_write=first_field(row, "prompt_tokens_details.cache_creation_tokens", "cache_creation_input_tokens"),
            inside=True,
        )
    read = first_field(row, "input_tokens_details.cached_tokens", "input_token_details.cache_read")
    return usage_fields(
        row.get("input_tokens"),
        row.get("output_tokens"),
        cache_read=row.get("cache_read_input_tokens") if read is None else read,
        cache_write=first_field(row, "cache_creation_input_tokens", "input_token_details.cache_creation"),
        inside=read is not None,
    )


def langfuse_usage_field(found: Any) -> Usage | None:
    """Token classes of Langfuse's ``usage_details``: a vendor's own object, or counts ``input*`` and ``output*``.

    Those are disjoint, unless ``input`` and ``output`` are all of the total: then they hold the others, as they do
    of calls of OpenAI's priority tier.

    >>> langfuse_usage_field({"input": 60, "input_cache_read": 100, "output": 7, "total": 167})
    Usage(fresh=60, cache_read=100, cache_write=0, output=7, cache_write_long=0)
    >>> details = {"input_priority": 60, "input_priority_cache_read": 100, "output_priority": 7}
    >>> langfuse_usage_field({"input": 160, "output": 7, "total": 167} | details)
    Usage(fresh=60, cache_read=100, cache_write=0, output=7, cache_write_long=0)

    Raises
    ------
    Unusable
        If a count is none.
    """
    if not isinstance(found, dict) or _VENDORS_COUNTS & found.keys():
        return vendor_usage_field(found)
    counts = {str(key): value for key, value in found.items() if isinstance(value, int | float | str)}
    parts = {"read": 0.0, "write": 0.0, "input": 0.0, "output": 0.0}
    whole = {"input": 0.0, "output": 0.0, "total": 0.0}
    for key, value in counts.items():
        counted_as = _langfuse_class(key)
        if not (counted_as or key in whole):
            continue  # such as the unit, which is a word
        count = amount_field(key, value) or 0
        if counted_as:
            parts[counted_as] += count
        if key in whole:
            whole[key] = count
    inside = 0 < whole["input"] + whole["output"] == whole["total"]
    most = whole if inside else parts
    return usage_fields(
        most["input"], most["output"], cache_read=parts["read"], cache_write=parts["write"], inside=inside
    )


def _langfuse_class(name: str) -> str:
    """Class that Langfuse counts under this name; "" where others count it, as the parts of what was written do.

    Older rows hold dollars beside the tokens, such as ``inputCost``.
    """
    if name.lower().endswith("cost"):
        return ""
    if name in ("cache_read_input_tokens", "cache_creation_input_tokens"):  # of Anthropic, beside the input
        return "read" if "read" in name else "write"
    if name.startswith("input"):
        return "read" if "cache_read" in name or "cached" in name else "write" if "cache" in name else "input"
    return "output" if name.startswith("output") else ""


def tier_field(*told: Any) -> str:
    """Tier that a call ran at, by the first that is told: what the answer says before what was asked for.

    "" is the standard one, by any of the names that vendors give it.

    >>> tier_field(None, "Priority"), tier_field("default", "flex")
    ('priority', '')
    """
    found = next((each.strip().lower() for each in told if isinstance(each, str) and each.strip()), "")
    return "" if found in _STANDARD_TIERS else found


def answer_tier_field(answer: Any) -> Any:
    """Tier that an answer of OpenAI's form names itself, or Anthropic's in its usage; None if neither."""
    return first_field(answer, "service_tier", "usage.service_tier")


def json_field(value: Any) -> Any:
    """What a text that is JSON holds; other texts, and values that are read already, as they are.

    >>> json_field('{"a": 1}'), json_field("why?")
    ({'a': 1}, 'why?')
    """
    if not (isinstance(value, str) and value.lstrip()[:1] in ("{", "[", '"')):
        return value
    try:
        return parse_json_cell(value)
    except (ValueError, RecursionError):
        return value


def question_field(messages: Any) -> str:
    """Last text of a user in a list of messages, in any of the vendors' forms; a text stands for itself.

    >>> question_field([{"role": "system", "content": "be short"}, {"role": "user", "content": [{"text": "why?"}]}])
    'why?'
    """
    if isinstance(messages, str):
        return messages
    if isinstance(messages, dict):
        return question_field(first_field(messages, "messages", "input", "contents", "prompt"))
    rows = [m for m in messages if isinstance(m, dict)] if isinstance(messages, list) else []
    asked = [m for m in rows if m.get("role") in ("user", "human")] or [m for m in rows if "role" not in m]
    return message_text_field(asked[-1]) if asked else ""


def message_text_field(message: Any) -> str:
    """Text of one message or of its parts."""
    if isinstance(message, str):
        return message
    if isinstance(message, list):
        return "\n".join(text for part in message if (text := message_text_field(part)))
    if isinstance(message, dict):
        return message_text_field(first_field(message, "content", "text", "parts"))
    return ""


def moment_field(name: str, value: Any) -> tuple[float, str]:
    """Seconds since 1970 and ISO time in UTC of one cell; nanoseconds and the like are known by their size.

    Raises
    ------
    Unusable
        If it is no time.
    """
    if isinstance(value, str) and value.isdigit():
        value = int(value)
    found, wrong = times_of_cells(name, [(0, value)])
    if wrong:
        raise Unusable(wrong[0][1])
    seconds, _ = found[0]
    try:
        return seconds, datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "+00:00"
    except (ValueError, OverflowError, OSError):
        raise Unusable(f"{name} {shown_cell(value)} is no time") from None


def span_latency(start: Any, end: Any) -> tuple[str, float | None]:
    """ISO time of a start, and the milliseconds to an end, where both are told.

    Raises
    ------
    Unusable
        If one is no time.
    """
    if start is None or start == "":
        return "", None
    begun, started = moment_field("start time", start)
    ended = moment_field("end time", end)[0] if end not in (None, "") else None
    return started, amount_field("latency", (ended - begun) * 1000) if ended is not None and ended >= begun else None


def log_document(path: Path) -> Any:
    """JSON of a whole file.

    Raises
    ------
    EvalsetError
        If it cannot be read, or is no JSON.
    """
    text, defects = read_text(path)
    refuse_file(path, defects)
    try:
        return parse_json_cell(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 0)
        raise EvalsetError(f"{path} cannot be read:", [Defect(str(path), line, f"not JSON: {error}")]) from None


def log_rows(path: Path, log: ToolLog) -> list[Row]:
    """Rows of a table or of JSON lines; of the latter, lines that are no object are set aside.

    Raises
    ------
    EvalsetError
        If the file cannot be read at all.
    """
    if path.suffix.lower() not in (".jsonl", ".ndjson", ".json"):
        return list(read_table(path).rows)
    rows, defects = scan_jsonl(path)
    if not rows:
        refuse_file(path, defects)
    for defect in defects:
        log.read += 1
        log.set_aside(path, defect.line, defect.problem)
    return rows


def log_files_in(paths: Sequence[Path], suffixes: Sequence[str], what: str) -> list[Path]:
    """Files that are given, and those with one of these endings inside folders that are given, in the order of names.

    Raises
    ------
    EvalsetError
        If there is none.
    """
    found: list[Path] = []
    for path in paths:
        if not os.path.exists(path):  # of a name that is too long too, for which pathlib raises
            raise EvalsetError(f"{path} is not there; {what} is a file or a folder of files {', '.join(suffixes)}")
        if path.is_dir():
            found += sorted(p for p in path.rglob("*") if p.is_file() and p.name.lower().endswith(tuple(suffixes)))
        elif path.is_file():
            found.append(path)
        else:
            raise EvalsetError(f"{path} is a pipe or a device, no file; write it to a file first")
    if not found:
        raise EvalsetError(f"no {what} ({', '.join(suffixes)}) in {', '.join(map(str, paths))}")
    return found
