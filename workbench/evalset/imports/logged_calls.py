"""What others' tools log, in one form: calls with their tokens, scores and what was retrieved; and what was set aside.

Each reader fills a `ToolLog`. A row that cannot be used is set aside with its file, its line and the reason: it is
counted, and the rest is kept.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from workbench.errors import Defect, UnknownPrice
from workbench.evalset.cells import Unusable
from workbench.evalset.files import Row
from workbench.inference.messages import Usage
from workbench.inference.prices import PriceTable
from workbench.rendering.numbers import counted

Source = Literal["human", "model", "code"]
_DATED = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{8})$")


@dataclass(frozen=True, slots=True)
class LoggedScore:
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
    tier : str
        Tier of the vendor that it ran at, such as flex, priority, or batch at half the price; "" is the standard one.
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
    tier: str = ""
    tenant_id: str = ""
    user_id: str = ""
    feature: str = ""
    cluster: str = ""
    started: str = ""
    trace_id: str = ""
    served: str = ""
    scores: tuple[LoggedScore, ...] = ()


@dataclass(frozen=True, slots=True)
class LoggedSearch:
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
    searches: list[LoggedSearch] = field(default_factory=list)
    scores: list[tuple[str, LoggedScore]] = field(default_factory=list)
    aside: list[Defect] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def each(self, path: Path, rows: Iterable[Row], read: Callable[[int, dict[str, Any]], Any]) -> None:
        """Read every row; what cannot be used is set aside.

        ``read`` takes the line and the row and gives a `LoggedCall` or a `LoggedSearch`, None for a row that is
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
            elif isinstance(found, LoggedSearch):
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
        return Counter(logged_arm_name(call) for call in self.calls)


def logged_cost_nanos(call: LoggedCall, prices: PriceTable) -> int | None:
    """Nano-dollars of the tokens of a call by the price table; None if not known.

    A tier has the price of the row ``MODEL@TIER``. Without that row a batch costs half, and any other tier what the log
    says, else what the standard one costs.
    """
    name = logged_call_price(call, prices)
    lacking = logged_tier_lacks_price(call, prices)
    if call.usage is None or name is None or (lacking and call.usd is not None):
        return None
    own = f"{name}@{call.tier}"
    try:
        cost = prices.cost_nanos(own if own in prices.models else name, call.usage)
    except UnknownPrice:
        return None
    return math.ceil(cost / 2) if call.tier == "batch" and own not in prices.models else cost


def logged_tier_lacks_price(call: LoggedCall, prices: PriceTable) -> bool:
    """Whether a call ran at a tier that the price table knows no price of, though it has one of the model."""
    name = logged_call_price(call, prices)
    return name is not None and call.tier not in ("", "batch") and f"{name}@{call.tier}" not in prices.models


def logged_call_price(call: LoggedCall, prices: PriceTable) -> str | None:
    """Name of the price of a call, of which its tier may have a row alone: of the model asked, else of that served."""
    names: Collection[str] = prices.models
    if call.tier:
        names = {name.removesuffix(f"@{call.tier}") for name in names}
    return logged_model_price(call.model, names) or (logged_model_price(call.served, names) if call.served else None)


def logged_model_price(model: str, names: Collection[str]) -> str | None:
    """Name under which a price table has a model that a tool calls in its own way; None if it has none.

    Tools part the vendor by ``:`` or by ``/``, leave it out, and add a date. A name that may be two rows is none.

    >>> logged_model_price("openai:chat:gpt-5.4-mini-2026-03-17", ["openai/gpt-5.4", "openai/gpt-5.4-mini"])
    'openai/gpt-5.4-mini'
    """
    if model in names:
        return model
    plain = _DATED.sub("", re.sub(r":(chat|completion|responses|messages):", "/", model).replace(":", "/"))
    if plain in names:
        return plain
    found = [name for name in names if name.rpartition("/")[2] == plain]  # none where a vendor is named
    return found[0] if len(found) == 1 else None


def logged_arm_name(call: LoggedCall) -> str:
    """Model and configuration, as outcomes name an arm."""
    return f"{call.model}@{call.config}" if call.config else call.model


def attach_logged_scores(log: ToolLog, given: Sequence[tuple[str, str, LoggedScore]]) -> None:
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
