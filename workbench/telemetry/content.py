"""Values as spans keep them: plain, redacted, of bounded size, and storable by every back end."""

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from hashlib import sha256
from numbers import Integral, Real
from typing import Any

from workbench.telemetry.redaction import REDACTED, redact, secret_field

LIMIT_BYTES = 8192
_DEEPEST, _MOST_ITEMS, _SHORTEST_LEAF = 12, 200, 32
_INT64 = 1 << 63

Scalar = str | bool | int | float


def attribute(name: str, value: Any, secrets: tuple[str, ...]) -> Scalar | list[str]:
    """Value of an attribute: a scalar or a list of strings as it is, everything else as JSON text."""
    if secret_field(name):
        return REDACTED
    plain = _plain(value, secrets, 0)
    if isinstance(plain, list) and all(isinstance(item, str) for item in plain) and sum(map(len, plain)) < LIMIT_BYTES:
        return plain
    return bounded(plain)[0] if isinstance(plain, str | dict | list) or plain is None else plain


def content(value: Any, secrets: tuple[str, ...]) -> tuple[str, str]:
    """Content as text of at most 8 kB, and the SHA-256 of the whole where that is more, else an empty string.

    Text stays text; anything else becomes JSON that stays valid when it is cut, because its longest texts are cut.
    """
    return bounded(_plain(value, secrets, 0))


def bounded(plain: Any) -> tuple[str, str]:
    """`content` of a value that is plain and redacted already."""
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


def _plain(value: Any, secrets: tuple[str, ...], depth: int) -> Any:
    """The value made of dicts, lists and scalars, without secrets."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value) if -_INT64 <= int(value) < _INT64 else _said(value)
    if isinstance(value, Real):
        return _number(value)
    if isinstance(value, bytes | bytearray):
        return f"({len(value):,} bytes)"
    record = is_dataclass(value) and not isinstance(value, type)
    if depth < _DEEPEST and (record or isinstance(value, Mapping | list | tuple | set | frozenset)):
        return _parts(value, secrets, depth + 1)
    return _text(_said(value), secrets) if depth < _DEEPEST or isinstance(value, str) else "…"


def _parts(value: Any, secrets: tuple[str, ...], depth: int) -> Any:
    if is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        return {
            _text(str(k), secrets): REDACTED if secret_field(str(k)) and v else _plain(v, secrets, depth)
            for k, v in value.items()
        }
    items = list(value)
    if len(items) == 2 and isinstance(items[0], str) and secret_field(items[0]):
        items[1] = REDACTED  # a header as a pair
    return [_plain(item, secrets, depth) for item in items]


def _number(value: Real) -> float | str:
    """A float; as text what JSON has no number for, and what is too large for one."""
    try:
        number = float(value)
    except OverflowError:
        return _said(value)
    return number if math.isfinite(number) else str(number)


def _said(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - the object is the caller's, and a span must not break the call
        return f"({type(value).__name__})"


def _text(text: str, secrets: tuple[str, ...]) -> str:
    """Without secrets, NUL (PostgreSQL takes none) and lone surrogates (no encoding takes them)."""
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode()
    return redact(text.replace("\x00", "\u2400"), secrets)


def _shortened(plain: Any, limit: int) -> Any:
    if isinstance(plain, str):
        return _cut(plain, limit)
    if isinstance(plain, dict):
        kept = {_cut(k, limit): _shortened(v, limit) for k, v in list(plain.items())[:_MOST_ITEMS]}
        return kept | ({"…": f"+{len(plain) - _MOST_ITEMS:,} fields"} if len(plain) > _MOST_ITEMS else {})
    if isinstance(plain, list):
        more = [f"… (+{len(plain) - _MOST_ITEMS:,} items)"] if len(plain) > _MOST_ITEMS else []
        return [_shortened(item, limit) for item in plain[:_MOST_ITEMS]] + more
    return plain


def _cut(text: str, limit: int) -> str:
    rest = len(text) - limit
    return f"{text[:limit]}… (+{rest:,} characters)" if rest > 0 else text
