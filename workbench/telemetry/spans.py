"""Spans around the work: what was asked of which model, for which tenant, how long it took and what it cost.

A span is OpenTelemetry's, with the GenAI attribute names where there are some and ``wb.*`` where there are none,
but it belongs to a provider of our own: a tracer that the user's program has set up globally is left alone, and is
the parent where it stands around.
"""

import json
import math
import os
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from hashlib import sha256
from numbers import Integral, Real
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from workbench.errors import ConfigError
from workbench.rendering.numbers import counted
from workbench.telemetry.attribution import Attribution, current_attribution
from workbench.telemetry.redaction import REDACTED, redact, secret_field, secret_values

if TYPE_CHECKING:
    import sqlalchemy as sa
    from opentelemetry.trace import Span as OtelSpan


LIMIT_BYTES = 8192
_DEEPEST, _MOST_ITEMS, _SHORTEST_LEAF = 12, 200, 32
_INT64 = 1 << 63

Scalar = str | bool | int | float


def span_attribute(name: str, value: Any, secrets: tuple[str, ...]) -> Scalar | list[str]:
    """Value of an attribute: a scalar or a list of strings as it is, everything else as JSON text."""
    if secret_field(name):
        return REDACTED
    plain = _plain_attribute(value, secrets, 0)
    if isinstance(plain, list) and all(isinstance(item, str) for item in plain) and sum(map(len, plain)) < LIMIT_BYTES:
        return plain
    return bounded_span_content(plain)[0] if isinstance(plain, str | dict | list) or plain is None else plain


def span_content(value: Any, secrets: tuple[str, ...]) -> tuple[str, str]:
    """Content as text of at most 8 kB, and the SHA-256 of the whole where that is more, else an empty string.

    Text stays text; anything else becomes JSON that stays valid when it is cut, because its longest texts are cut.
    """
    return bounded_span_content(_plain_attribute(value, secrets, 0))


def bounded_span_content(plain: Any) -> tuple[str, str]:
    """`span_content` of a value that is plain and redacted already."""
    whole = _dumped(plain)
    if len(whole) <= LIMIT_BYTES // 4 or len(whole.encode()) <= LIMIT_BYTES:
        return whole, ""
    limit, cut = LIMIT_BYTES - 64, whole
    while len(cut.encode()) > LIMIT_BYTES and limit >= _SHORTEST_LEAF:
        cut, limit = _dumped(_shortened(plain, limit)), limit // 2
    if len(cut.encode()) > LIMIT_BYTES:
        cut = _cut(whole, LIMIT_BYTES // 4)
    return cut, sha256(whole.encode()).hexdigest()


def _dumped(plain: Any) -> str:
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def _plain_attribute(value: Any, secrets: tuple[str, ...], depth: int) -> Any:
    """The value made of dicts, lists and scalars, without secrets."""
    if value is None or isinstance(value, bool):
        return value
    if type(value) is str:  # the commonest first: a check against an abstract class is dear
        return _clean_text(value, secrets)
    if isinstance(value, Integral):
        return int(value) if -_INT64 <= int(value) < _INT64 else _safe_str(value)
    if isinstance(value, Real):
        return _json_number(value)
    if isinstance(value, bytes | bytearray):
        return f"({counted(len(value), 'byte')})"
    record = is_dataclass(value) and not isinstance(value, type)
    if depth < _DEEPEST and (record or isinstance(value, Mapping | list | tuple | set | frozenset)):
        return _plain_parts(value, secrets, depth + 1)
    return _clean_text(_safe_str(value), secrets) if depth < _DEEPEST or isinstance(value, str) else "…"


def _plain_parts(value: Any, secrets: tuple[str, ...], depth: int) -> Any:
    if is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        return {
            _clean_text(str(k), secrets): REDACTED
            if secret_field(str(k)) and v
            else _plain_attribute(v, secrets, depth)
            for k, v in value.items()
        }
    items = list(value)
    if len(items) == 2 and isinstance(items[0], str) and secret_field(items[0]):
        items[1] = REDACTED  # a header as a pair
    return [_plain_attribute(item, secrets, depth) for item in items]


def _json_number(value: Real) -> float | str:
    """A float; as text what JSON has no number for, and what is too large for one."""
    try:
        number = float(value)
    except OverflowError:
        return _safe_str(value)
    return number if math.isfinite(number) else str(number)


def _safe_str(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - the object is the caller's, and a span must not break the call
        return f"({type(value).__name__})"


def _clean_text(text: str, secrets: tuple[str, ...]) -> str:
    """Without secrets, NUL (PostgreSQL takes none) and lone surrogates (no encoding takes them)."""
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode()
    return redact(text.replace("\x00", "\u2400"), secrets)


def _shortened(plain: Any, limit: int) -> Any:
    if isinstance(plain, str):
        return _cut(plain, limit)
    if isinstance(plain, dict):
        kept = {_cut(k, limit): _shortened(v, limit) for k, v in list(plain.items())[:_MOST_ITEMS]}
        return kept | ({"…": f"+{counted(len(plain) - _MOST_ITEMS, 'field')}"} if len(plain) > _MOST_ITEMS else {})
    if isinstance(plain, list):
        more = [f"… (+{counted(len(plain) - _MOST_ITEMS, 'item')})"] if len(plain) > _MOST_ITEMS else []
        return [_shortened(item, limit) for item in plain[:_MOST_ITEMS]] + more
    return plain


def _cut(text: str, limit: int) -> str:
    rest = len(text) - limit
    return f"{text[:limit]}… (+{counted(rest, 'character')})" if rest > 0 else text


# Attributes that hold what people or models wrote: kept only where content is.
CONTENT = frozenset({
    "gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.system_instructions", "gen_ai.tool.definitions",
    "gen_ai.tool.call.arguments", "gen_ai.tool.call.result", "gen_ai.retrieval.query.text",
    "gen_ai.retrieval.documents", "gen_ai.evaluation.explanation", "input.value", "output.value",
})  # fmt: skip
_WHO = tuple((f"wb.{field.name}", field.name) for field in fields(Attribution))
_OFF, _ON = ("0", "false", "no", "off"), ("1", "true", "yes", "on", "")
_NONE: Mapping[str, Any] = MappingProxyType({})
_STACK_CHARACTERS = 4000


class Span:
    """One piece of work that is being measured; made by `Tracing.span`."""

    __slots__ = ("_capture", "_span")

    def __init__(self, span: "OtelSpan", capture: bool) -> None:
        self._span, self._capture = span, capture

    @property
    def trace_id(self) -> str:
        """Id of the whole tree, 32 hexadecimal digits."""
        return format(self._span.get_span_context().trace_id, "032x")

    @property
    def span_id(self) -> str:
        """Id of this span, 16 hexadecimal digits."""
        return format(self._span.get_span_context().span_id, "016x")

    def set(self, attributes: Mapping[str, Any]) -> None:
        """Set attributes; None is left out, what is content goes the way of `span_content`, secrets are redacted."""
        self._set(attributes, secret_values())

    def content(self, name: str, value: Any) -> None:
        """Keep what people or models wrote, where content is kept at all.

        Text stays text, anything else becomes JSON. More than 8 kB is cut inside its longest texts, and the SHA-256
        of the whole (without its secrets) stands in ``wb.sha256.<name>``.
        """
        self._content(name, value, secret_values())

    def error(self, exception: BaseException) -> None:
        """Mark the work as failed; where content is not kept, only the class and the place of the error are."""
        secrets = secret_values()
        kind = type(exception).__name__
        event: dict[str, Any] = {"exception.type": kind}
        message = ""
        if self._capture:
            message = span_content(exception, secrets)[0]
            # redacted before it is cut: a part of a secret is not known for one
            stack = redact("".join(traceback.format_exception(exception)), secrets)[-_STACK_CHARACTERS:]
            event |= {"exception.message": message, "exception.stacktrace": span_content(stack, secrets)[0]}
        elif frames := traceback.extract_tb(exception.__traceback__):
            event["exception.place"] = f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}"
        from opentelemetry.trace import Status, StatusCode

        self._span.set_attribute("error.type", kind)
        self._span.set_status(Status(StatusCode.ERROR, message or None))
        self._span.add_event("exception", event)

    def _set(self, attributes: Mapping[str, Any], secrets: tuple[str, ...]) -> None:
        told = {}
        for name, value in attributes.items():
            if name in CONTENT:
                self._content(name, value, secrets)
            elif value is not None:
                told[name] = span_attribute(name, value, secrets)
        self._span.set_attributes(told)

    def _content(self, name: str, value: Any, secrets: tuple[str, ...]) -> None:
        if not self._capture or value is None:
            return
        text, digest = span_content(value, secrets)
        self._span.set_attribute(name, text)
        if digest:
            self._span.set_attribute(f"wb.sha256.{name}", digest)


class Tracing:
    """Spans of one program, written to the state database in the background and sent on where OTLP is configured.

    Parameters
    ----------
    engine : sqlalchemy.Engine
        State database; the table is made when the first spans are written. A database that cannot be written
        breaks nothing: it is said once, and ``lost`` counts.
    capture_content : bool, optional
        Keep what people and models wrote. None: as ``WORKBENCH_CAPTURE_CONTENT`` says, by default yes.

    Raises
    ------
    ConfigError
        If ``WORKBENCH_CAPTURE_CONTENT`` is neither yes nor no.
    """

    def __init__(self, engine: "sa.Engine", *, capture_content: bool | None = None) -> None:
        from opentelemetry.sdk.trace import SpanLimits, TracerProvider
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON

        from workbench.telemetry.export import (
            SCOPE,
            ExportFanOut,
            ExportQueue,
            SpanStore,
            export_resource,
            wants_fan_out,
        )

        self.capture_content = _captures_content() if capture_content is None else capture_content
        self._store = SpanStore(engine)
        self._queue = ExportQueue(self._store)
        # every span, whatever the environment says of sampling: tables and totals rest on them
        limits = SpanLimits(max_attributes=256)
        self._provider = TracerProvider(sampler=ALWAYS_ON, resource=export_resource(), span_limits=limits)
        self._provider.add_span_processor(self._queue)
        if wants_fan_out():
            self._provider.add_span_processor(ExportFanOut())
        self._tracer = self._provider.get_tracer(SCOPE)

    @property
    def lost(self) -> int:
        """Spans that could not be stored so far."""
        return self._store.lost

    @contextmanager
    def span(
        self, name: str, operation: str = "", attributes: Mapping[str, Any] = _NONE, place: Any = None
    ) -> Iterator[Span]:
        """Measure what is done inside; an exception that leaves it is recorded and goes on.

        Parameters
        ----------
        name : str
            Name by convention ``{operation} {model or step}``, for example ``chat gpt-x``.
        operation : str
            The convention's ``gen_ai.operation.name``: chat, embeddings, retrieval, execute_tool, invoke_workflow ...
        attributes : mapping
            As for `Span.set`.
        place : object or None
            Place in the tree of spans that `span_here` gave, to put it below; None: below the span it is called in.
        """
        from opentelemetry import trace

        from workbench.telemetry.export import REMOTE, SCOPE

        around = getattr(trace.get_current_span(place), "instrumentation_scope", None)
        own = {"wb.top": True} if around is None or around.name != SCOPE else {}
        who = current_attribution()
        known = {name: value for name, field in _WHO if (value := getattr(who, field))}
        secrets = secret_values()
        with self._tracer.start_as_current_span(
            span_content(name, secrets)[0],
            context=place,
            kind=trace.SpanKind.CLIENT if operation in REMOTE else trace.SpanKind.INTERNAL,
            record_exception=False,
            set_status_on_exception=False,
        ) as raw:
            span = Span(raw, self.capture_content)
            span._set({"gen_ai.operation.name": operation or None} | known | dict(attributes) | own, secrets)
            try:
                yield span
            except BaseException as error:
                span.error(error)
                raise

    def flush(self) -> None:
        """Write every span that has ended; what goes by OTLP keeps its own pace."""
        self._queue.force_flush()

    def close(self) -> None:
        """Write what is left and stop; the end of the program does the same."""
        self._provider.shutdown()


def span_here() -> Any:
    """Place in the tree of spans of the calling code, to go on from in another thread: see `under_span`."""
    from opentelemetry import context

    return context.get_current()


@contextmanager
def under_span(place: Any) -> Iterator[None]:
    """Put the spans made inside below a place that `span_here` gave; None leaves them where they are."""
    from opentelemetry import context

    if place is None:
        yield
        return
    token = context.attach(place)
    try:
        yield
    finally:
        context.detach(token)


def _captures_content() -> bool:
    said = os.environ.get("WORKBENCH_CAPTURE_CONTENT", "").strip().lower()
    if said not in _OFF + _ON:
        raise ConfigError(f"WORKBENCH_CAPTURE_CONTENT is {said!r}; 0 keeps no content in traces, 1 keeps it")
    return said not in _OFF
