"""What others' tools log, in one form: calls with their tokens, scores and what was retrieved; and what was set aside.

Each reader fills a `ToolLog`. A row that cannot be used is set aside with its file, its line and the reason: it is
counted, and the rest is kept.
"""

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from workbench.errors import Defect, EvalsetError, UnknownPrice
from workbench.evalset.cells import Unusable, number, parse_json, shown, times_of, whole
from workbench.evalset.files import Row, read_table, read_text, refuse, scan_jsonl
from workbench.inference.messages import Usage
from workbench.inference.prices import PriceTable
from workbench.rendering.numbers import counted

Source = Literal["human", "model", "code"]
_DATED = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{8})$")
_LARGEST = 2**40  # tokens of one call; what is beyond is no count
_MOST_USD = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Score:
    """One value that a person, a model or a program gave to a call or a trace.

    Attributes
    ----------
    value : float or None
        None where it was given as none.
    rater : str
        Name of whoever gave it, as far as the log tells.
    """

    name: str
    value: float | None
    source: Source = "code"
    rater: str = ""
    comment: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedCall:
    """One call of a model, as the tool wrote it down; what is not known is empty or None.

    Attributes
    ----------
    prompt_id : str
        The same for all calls that asked the same; "" if the text tells.
    prompt : str
        What the user asked: the last message of the user.
    usage : Usage or None
        Tokens by class; None if nobody counted.
    usd : float or None
        Dollars as the log says; None if it does not know.
    latency_ms : float or None
        None too where a cache answered: that is no measurement of the model.
    model, served : str
        Whom the request named, and whom the answer names: often the same model with its date.
    started : str
        ISO time in UTC.
    batch : bool
        Asked by a vendor's batch interface, at half the price.
    """

    line: int
    model: str
    file: str = ""
    call_id: str = ""
    prompt_id: str = ""
    prompt: str = ""
    config: str = ""
    repeat: int | None = None
    output: str = ""
    error: str = ""
    usage: Usage | None = None
    usd: float | None = None
    latency_ms: float | None = None
    cached: bool = False
    batch: bool = False
    tenant_id: str = ""
    user_id: str = ""
    feature: str = ""
    cluster: str = ""
    started: str = ""
    trace_id: str = ""
    served: str = ""
    scores: tuple[Score, ...] = ()


@dataclass(frozen=True, slots=True)
class Retrieved:
    """What one search of a product returned: ids and scores of documents, best first."""

    line: int
    file: str
    query: str
    hits: tuple[tuple[str, float], ...]
    tenant_id: str = ""


@dataclass(slots=True)
class ToolLog:
    """Everything that was read of the files of one tool.

    Attributes
    ----------
    read : int
        Rows that the files have.
    aside : list of Defect
        Rows that were not used, each with the reason.
    spare : int
        Rows that are sound and are no calls, such as spans of other work.
    """

    tool: str
    files: tuple[Path, ...]
    read: int = 0
    spare: int = 0
    calls: list[LoggedCall] = field(default_factory=list)
    searches: list[Retrieved] = field(default_factory=list)
    scores: list[tuple[str, Score]] = field(default_factory=list)
    aside: list[Defect] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def each(self, path: Path, rows: Iterable[Row], read: Callable[[int, dict[str, Any]], Any]) -> None:
        """Read every row; what cannot be used is set aside.

        ``read`` takes the line and the row and gives a `LoggedCall` or a `Retrieved`, None for a row that is
        neither, or something that the reader uses later.
        """
        for line, row in rows:
            self.read += 1
            try:
                found = read(line, row)
            except Unusable as error:
                self.set_aside(path, line, str(error))
                continue
            if isinstance(found, LoggedCall):
                self.calls.append(replace(found, file=path.name) if not found.file else found)
            elif isinstance(found, Retrieved):
                self.searches.append(found)
            elif found is None:
                self.spare += 1

    def set_aside(self, path: Path, line: int, reason: str) -> None:
        """Note a row that is not used."""
        self.aside.append(Defect(path.name, line, reason))

    def told(self) -> list[str]:
        """Lines on what was read, used and set aside; of each reason the first lines."""
        used = self.read - self.spare - len(self.aside)
        spare = f", {self.spare:,} are of other work" if self.spare else ""
        out = [f"{self.tool}: {counted(self.read, 'row')} read, {used:,} used, {len(self.aside):,} set aside{spare}"]
        reasons: dict[tuple[str, str], list[int]] = {}
        for defect in self.aside:
            reasons.setdefault((defect.file, defect.problem), []).append(defect.line)
        for (file, reason), lines in reasons.items():
            more = f" and {len(lines) - 5:,} more" if len(lines) > 5 else ""
            out.append(f"set aside of {file}, line {', '.join(map(str, lines[:5]))}{more}: {reason}")
        return out + self.notes

    @property
    def models(self) -> Counter[str]:
        """How many calls each model has."""
        return Counter(named(call) for call in self.calls)


def cost_nanos(call: LoggedCall, prices: PriceTable) -> int | None:
    """Nano-dollars of the tokens of a call by the price table, at half price for a batch; None if not known."""
    name = price_of(call, prices)
    if call.usage is None or name is None:
        return None
    try:
        whole_price = prices.cost_nanos(name, call.usage)
    except UnknownPrice:
        return None
    return math.ceil(whole_price / 2) if call.batch else whole_price


def price_of(call: LoggedCall, prices: PriceTable) -> str | None:
    """Name of the price of a call: of the model that was asked, else of the one that answered."""
    return priced_as(call.model, prices) or (priced_as(call.served, prices) if call.served else None)


def priced_as(model: str, prices: PriceTable) -> str | None:
    """Name under which the price table has a model that a tool calls in its own way; None if it has none.

    Tools part the vendor by ``:`` or by ``/``, leave it out, and add a date. A name that may be two rows is none.

    >>> from workbench.inference.prices import load_prices
    >>> priced_as("openai:chat:gpt-5.4-mini-2026-03-17", load_prices())
    'openai/gpt-5.4-mini'
    """
    if model in prices.models:
        return model
    plain = _DATED.sub("", re.sub(r":(chat|completion|responses|messages):", "/", model).replace(":", "/"))
    if plain in prices.models:
        return plain
    found = [name for name in prices.models if name.rpartition("/")[2] == plain]  # none where a vendor is named
    return found[0] if len(found) == 1 else None


def named(call: LoggedCall) -> str:
    """Model and configuration, as outcomes name an arm."""
    return f"{call.model}@{call.config}" if call.config else call.model


def at(row: Any, path: str) -> Any:
    """Value at ``a.b.c`` inside objects and, by number, lists; None where it is not.

    >>> at({"a": [{"b": 1}]}, "a.0.b"), at({"a": 1}, "a.b")
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


def objects(found: Any) -> list[dict[str, Any]]:
    """Objects of a list, and none of what is no list.

    >>> objects([{"a": 1}, 2]), objects(10**30)
    ([{'a': 1}], [])
    """
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def first(row: Any, *paths: str) -> Any:
    """First value that is told at one of these places."""
    return next((value for path in paths if (value := at(row, path)) is not None), None)


def text_at(row: Any, *paths: str) -> str:
    """Text, or a number as text, at the first of these places that has one; else ""."""
    value = first(row, *paths)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)


def amount_at(row: Any, *paths: str) -> float | None:
    """Number from 0 at the first of these places that has one.

    Raises
    ------
    Unusable
        If it is below 0, or no number.
    """
    return amount_of(paths[0].rpartition(".")[2], first(row, *paths))


def amount_of(name: str, value: Any) -> float | None:
    """Number from 0, and no more than anything here may cost or take.

    Raises
    ------
    Unusable
        If it is another one, or none.
    """
    found = number(name, value)
    if found is not None and not 0 <= found <= _LARGEST:
        raise Unusable(f"{name} must be 0 or more, found {shown(value)}")
    return found


def usd_of(name: str, value: Any) -> float | None:
    """Dollars; 0 is none: tools write it where they know no price.

    Raises
    ------
    Unusable
        If it is below 0, or no amount that anything here may cost.
    """
    found = amount_of(name, value)
    if found is not None and found > _MOST_USD:
        raise Unusable(f"{name} {shown(value)} is more than any call may cost")
    return found or None


def count_of(name: str, value: Any) -> int:
    """Tokens of one kind, 0 where they are not told.

    Raises
    ------
    Unusable
        If it is no whole number from 0.
    """
    found = whole(name, value) or 0
    if found > _LARGEST:
        raise Unusable(f"{name} {shown(value)} is no count of tokens")
    return found


def usage_of(prompt: Any, output: Any, *, cache_read: Any = 0, cache_write: Any = 0, inside: bool) -> Usage | None:
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
    asked, said = count_of("prompt tokens", prompt), count_of("output tokens", output)
    read, written = count_of("cache read tokens", cache_read), count_of("cache write tokens", cache_write)
    if not (asked or said or read or written):
        return None
    if not inside or read + written > asked:
        return Usage(asked, read, written, said)
    return Usage.of_prompt(asked, said, cache_read=read, cache_write=written)


def usage_in(row: Any) -> Usage | None:
    """Token classes of a vendor's own usage object, by the names that it uses.

    OpenAI counts what was cached inside the prompt, Anthropic beside it; the names tell which one it is.

    >>> usage_in({"prompt_tokens": 160, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 100}})
    Usage(fresh=60, cache_read=100, cache_write=0, output=5, cache_write_long=0)
    >>> usage_in({"input_tokens": 60, "cache_read_input_tokens": 100, "output_tokens": 5}).fresh
    60

    Raises
    ------
    Unusable
        If a count is none.
    """
    if not isinstance(row, dict):
        return None
    if "prompt_tokens" in row or "completion_tokens" in row:
        return usage_of(
            row.get("prompt_tokens"),
            row.get("completion_tokens"),
            cache_read=first(row, "prompt_tokens_details.cached_tokens", "cache_read_input_tokens"),
            cache_write=first(row, "prompt_tokens_details.cache_creation_tokens", "cache_creation_input_tokens"),
            inside=True,
        )
    read = first(row, "input_tokens_details.cached_tokens", "input_token_details.cache_read")
    return usage_of(
        row.get("input_tokens"),
        row.get("output_tokens"),
        cache_read=row.get("cache_read_input_tokens") if read is None else read,
        cache_write=first(row, "cache_creation_input_tokens", "input_token_details.cache_creation"),
        inside=read is not None,
    )


def json_in(value: Any) -> Any:
    """What a text that is JSON holds; other texts, and values that are read already, as they are.

    >>> json_in('{"a": 1}'), json_in("why?")
    ({'a': 1}, 'why?')
    """
    if not (isinstance(value, str) and value.lstrip()[:1] in ("{", "[", '"')):
        return value
    try:
        return parse_json(value)
    except (ValueError, RecursionError):
        return value


def question_in(messages: Any) -> str:
    """Last text of a user in a list of messages, in any of the vendors' forms; a text stands for itself.

    >>> question_in([{"role": "system", "content": "be short"}, {"role": "user", "content": [{"text": "why?"}]}])
    'why?'
    """
    if isinstance(messages, str):
        return messages
    if isinstance(messages, dict):
        return question_in(first(messages, "messages", "input", "contents", "prompt"))
    rows = [m for m in messages if isinstance(m, dict)] if isinstance(messages, list) else []
    asked = [m for m in rows if m.get("role") in ("user", "human")] or [m for m in rows if "role" not in m]
    return text_in(asked[-1]) if asked else ""


def text_in(message: Any) -> str:
    """Text of one message or of its parts."""
    if isinstance(message, str):
        return message
    if isinstance(message, list):
        return "\n".join(text for part in message if (text := text_in(part)))
    if isinstance(message, dict):
        return text_in(first(message, "content", "text", "parts"))
    return ""


def moment(name: str, value: Any) -> tuple[float, str]:
    """Seconds since 1970 and ISO time in UTC of one cell; nanoseconds and the like are known by their size.

    Raises
    ------
    Unusable
        If it is no time.
    """
    if isinstance(value, str) and value.isdigit():
        value = int(value)
    found, wrong = times_of(name, [(0, value)])
    if wrong:
        raise Unusable(wrong[0][1])
    seconds, _ = found[0]
    try:
        return seconds, datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "+00:00"
    except (ValueError, OverflowError, OSError):
        raise Unusable(f"{name} {shown(value)} is no time") from None


def document_of(path: Path) -> Any:
    """JSON of a whole file.

    Raises
    ------
    EvalsetError
        If it cannot be read, or is no JSON.
    """
    text, defects = read_text(path)
    refuse(path, defects)
    try:
        return parse_json(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 0)
        raise EvalsetError(f"{path} cannot be read:", [Defect(str(path), line, f"not JSON: {error}")]) from None


def rows_of(path: Path, log: ToolLog) -> list[Row]:
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
        refuse(path, defects)
    for defect in defects:
        log.read += 1
        log.set_aside(path, defect.line, defect.problem)
    return rows


def files_in(paths: Sequence[Path], suffixes: Sequence[str], what: str) -> list[Path]:
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


def attach(log: ToolLog, given: Sequence[tuple[str, str, Score]]) -> None:
    """Give scores to the calls that they are of: by the id of the call, else to the last call of the trace.

    ``given`` is the id of a call or "", that of a trace or "", and the score; what fits no call stays in the log's
    own ``scores``.
    """
    by_call = {call.call_id: place for place, call in enumerate(log.calls) if call.call_id}
    order = sorted(range(len(log.calls)), key=lambda place: log.calls[place].started)
    by_trace = {log.calls[place].trace_id: place for place in order if log.calls[place].trace_id}
    for call_id, trace_id, score in given:
        place = by_call.get(call_id, by_trace.get(trace_id)) if call_id else by_trace.get(trace_id)
        if place is None:
            log.scores.append((trace_id or call_id, score))
        else:
            log.calls[place] = replace(log.calls[place], scores=(*log.calls[place].scores, score))
