"""Frozen values to plain JSON or TOML values and back: one reader, which names everything that is wrong at once."""

import datetime as dt
import json
import os
import threading
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, fields, is_dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

from workbench.errors import ConfigError, WorkbenchError, unknown_name

if TYPE_CHECKING:
    from pydantic_core import SchemaValidator

T = TypeVar("T")
PROBLEMS_SHOWN = 8
# Types of plain values that are taken as they are: "1" is no number, and True is not 1. A whole number that stands for
# a number stays one, so that what is written again, or hashed, is what was read.
_STRICT = {"str", "int", "bool", "date", "datetime"}
_NUMBER = {
    "type": "union", "choices": [{"type": "int", "strict": True}, {"type": "float", "strict": True}],
    "custom_error_type": "number_type", "custom_error_message": "a number",
}  # fmt: skip
_EXPECTED = {
    "string_type": "text", "int_type": "a whole number", "bool_type": "true or false",
    "list_type": "a list", "tuple_type": "a list", "sequence_str": "a list",
    "dict_type": "an object", "mapping_type": "an object", "dataclass_type": "an object",
}  # fmt: skip


# Of a field's metadata: the value that says nothing. What was written or hashed before the field came has it.
NEUTRAL = "neutral"
RANGE = "range"  # of a field's metadata: the `Range` of a number
NEEDED = "needed"  # of a field's metadata: a list that may not be empty


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers that a setting may be; ``ends`` says whether ``low`` and ``high`` are among them, ``or_zero`` that 0 is.

    >>> Range(0, 1, ends=False).problem(1.5), Range(8, 1000, or_zero=True).problem(2), Range(0, 1).problem(1)
    ('a number above 0 and below 1 is expected', 'a number from 8 to 1,000, or 0, is expected', '')
    """

    low: float
    high: float = 10**12
    ends: bool = True
    or_zero: bool = False

    def problem(self, value: float) -> str:
        """What is expected in place of a value, "" where it fits; what is no finite number fits nowhere."""
        inside = self.low < value < self.high or (self.ends and value in (self.low, self.high))
        if inside or (self.or_zero and value == 0):
            return ""
        low, high = f"{self.low:,}", f"{self.high:,}"
        told = f"from {low} to {high}" if self.ends else f"above {low} and below {high}"
        return f"a number {told}{', or 0,' if self.or_zero else ''} is expected"


def _says_nothing(told: Field[Any], value: Any) -> bool:
    return NEUTRAL in told.metadata and bool(value == told.metadata[NEUTRAL])


def _as_it_is(value: Any) -> Any:
    return value.isoformat() if isinstance(value, dt.date) else value


def to_plain(value: Any, *, kinds: bool | Collection[type] = False, leaf: Callable[[Any], Any] = _as_it_is) -> Any:
    """Plain values of a frozen one, in the order of its fields: what `from_plain` builds it from again.

    Parameters
    ----------
    kinds : bool or collection of type
        Whether each value carries the name of its class, as ``kind``: where more than one class can stand; and which
        classes may. Fields that hold their `NEUTRAL` value are then left out, because such values are hashed.
    leaf : callable
        Plain values of what is neither a dataclass (of these classes) nor a list or mapping.

    Examples
    --------
    >>> from workbench.records import Hit
    >>> to_plain([Hit("d1", 0.5)]), to_plain(Hit("d1", 0.5), kinds=True)
    ([{'doc_id': 'd1', 'score': 0.5}], {'kind': 'Hit', 'doc_id': 'd1', 'score': 0.5})
    """
    plain = partial(to_plain, kinds=kinds, leaf=leaf)
    if is_dataclass(value) and (isinstance(kinds, bool) or type(value) in kinds):
        named = {"kind": type(value).__name__} if kinds else {}
        told = {f: getattr(value, f.name) for f in fields(value) if f.init}
        return named | {f.name: plain(v) for f, v in told.items() if not (kinds and _says_nothing(f, v))}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    return leaf(value)


def to_json(value: Any) -> str:
    """Pretty JSON, in the order of the fields, so that a changed file reads well in a diff.

    Raises
    ------
    ValueError
        If a number is not finite.
    """
    return json.dumps(to_plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def from_plain(
    kind: type[T],
    raw: Any,
    source: str,
    *,
    error: type[WorkbenchError] = ConfigError,
    whole: bool = False,
    noun: str = "field",
) -> T:
    """Build a value from plain ones: ``from_plain(Rule, raw, "rule.json is no rule")``.

    Unknown fields are refused, and so are fields without a default that are missing. Plain values are taken as they
    are, except that a whole number may stand for a number; a list becomes what its field holds.

    Parameters
    ----------
    kind : type
        A dataclass, or a list, tuple or dict of such.
    source : str
        What the message begins with: which file or line it is, and what it is not.
    error : type of WorkbenchError
        What is raised.
    whole : bool
        Whether fields that have defaults must be there too: of a file that a program wrote.
    noun : str
        What the message calls a field.

    Raises
    ------
    WorkbenchError
        As ``error`` says, with each thing that is wrong and its place, as in ``claims[0].status``.

    Examples
    --------
    >>> from workbench.records import Hit
    >>> from_plain(Hit, {"doc_id": "d1", "score": 1}, "no hit")
    Hit(doc_id='d1', score=1)
    >>> from_plain(Hit, {"doc_id": 7, "scor": 1}, "hits.jsonl:3 is no hit")
    Traceback (most recent call last):
    workbench.errors.ConfigError: hits.jsonl:3 is no hit: doc_id must be text, found 7; score is missing; \
unknown field 'scor'; did you mean 'score'? Known: doc_id, score
    """
    from pydantic import ValidationError

    asked: Any = kind
    try:
        built: tuple[T] = _class_validator(asked, whole).validate_python((raw,))
    except ValidationError as found:
        told = list(_pydantic_problems(kind, found, noun))
        more = [f"and {len(told) - PROBLEMS_SHOWN} more"] if len(told) > PROBLEMS_SHOWN else []
        raise error(f"{source}: {'; '.join(told[:PROBLEMS_SHOWN] + more)}") from None
    except WorkbenchError as found:  # a value that says itself what it cannot be
        raise error(f"{source}: {found}") from found
    return built[0]


def from_kinds(kinds: Collection[type], raw: Any, source: str, *, leaf: Callable[[Any], Any] | None = None) -> Any:
    """Build a value each part of which carries the name of its class, as `to_plain` writes it.

    Parameters
    ----------
    kinds : collection of type
        Dataclasses that may stand there.
    source : str
        What the message begins with, as in `from_plain`.
    leaf : callable
        What a part without a ``kind`` is: without this, an object must have one. Lists become tuples.

    Raises
    ------
    ConfigError
        If a part is of none of the classes, or one of them cannot be built of its fields.
    """
    build = partial(from_kinds, kinds, leaf=leaf)
    if isinstance(raw, list):
        return tuple(build(item, f"{source} [{place}]") for place, item in enumerate(raw))
    if leaf is not None and not (isinstance(raw, Mapping) and "kind" in raw):
        return leaf(raw)
    if not isinstance(raw, Mapping):
        return raw
    known = {kind.__name__: kind for kind in kinds}
    found = raw.get("kind", "")
    if (name := found if isinstance(found, str) else shown(found)) not in known:
        raise ConfigError(f"{source}: {unknown_name('kind', name, sorted(known))}")
    parts = {field: build(item, f"{source}: {field}") for field, item in raw.items() if field != "kind"}
    return from_plain(known[name], parts, source)


def from_json(
    kind: type[T], text: str | bytes, source: str, *, error: type[WorkbenchError] = ConfigError, whole: bool = False
) -> T:
    """Build a value from JSON, as `from_plain` does.

    >>> from workbench.records import Hit
    >>> from_json(Hit, '{"doc_id": ', "hits.jsonl:3 is no hit")
    Traceback (most recent call last):
    workbench.errors.ConfigError: hits.jsonl:3 is no hit: not JSON: Expecting value: line 1 column 12 (char 11)
    """
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as found:
        raise error(f"{source}: not JSON: {found}") from found
    return from_plain(kind, raw, source, error=error, whole=whole)


def from_toml(kind: type[T], path: Path, what: str, *, error: type[WorkbenchError] = ConfigError) -> T:
    """Build a value from a TOML file, as `from_plain` does; ``what`` says what it is not, behind its name."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as found:
        raise error(f"{path} {what}: {found.strerror or found}") from found
    except (ValueError, RecursionError) as found:
        raise error(f"{path} {what}: not TOML: {found}") from found
    return from_plain(kind, raw, f"{path} {what}", error=error)


def write_whole(path: Path, data: str | bytes) -> None:
    """Write a file in one step: a reader sees the old one or the new one, never half of one."""
    part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        part.write_bytes(data.encode() if isinstance(data, str) else data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@cache
def _class_validator(kind: Any, whole: bool) -> "SchemaValidator":
    """What pydantic knows of the class, with plain values strict."""
    from pydantic import ConfigDict, TypeAdapter
    from pydantic_core import SchemaValidator

    # a tuple, because pydantic takes no settings for a dataclass alone
    adapter = TypeAdapter(tuple[kind], config=ConfigDict(extra="forbid", arbitrary_types_allowed=True))
    return SchemaValidator(_strict_schema(adapter.core_schema, whole))


def _strict_schema(schema: Any, whole: bool) -> Any:
    if isinstance(schema, list):
        return [_strict_schema(part, whole) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if whole and schema.get("type") == "default":
        return _strict_schema(schema["schema"], whole)
    if schema.get("type") == "float":
        return _NUMBER
    found = {
        name: part if name in ("default", "metadata") else _strict_schema(part, whole) for name, part in schema.items()
    }
    return found | {"strict": True} if schema.get("type") in _STRICT else found


def _pydantic_problems(kind: Any, found: Any, noun: str) -> Iterator[str]:
    """Everything that pydantic found, in our words."""
    for problem in found.errors(include_url=False):
        steps: Sequence[str | int] = problem["loc"][1:]
        place = _value_place(steps)
        value, what = shown(problem["input"]), problem["type"]
        if what == "missing":
            yield f"{place} is missing"
        elif what == "unexpected_keyword_argument":
            inside = _value_place(steps[:-1])
            yield (inside and f"{inside}: ") + unknown_name(noun, str(steps[-1]), _known_fields(kind, steps[:-1]))
        elif what == "value_error":
            yield f"{place}: {problem['ctx']['error']}".removeprefix(": ")
        else:
            expected = _EXPECTED.get(what) or problem["msg"].removeprefix("Input should be ")
            expected = expected.replace("an instance of Sequence", "a list")
            yield f"{place or 'it'} must be {expected}, found {value}"


def _value_place(steps: Sequence[str | int]) -> str:
    """Where a value stands, as in ``claims[0].status``."""
    return "".join(f".{step}" if str(step).isidentifier() else f"[{step!r}]" for step in steps).removeprefix(".")


def shown(value: Any) -> str:
    """Value as an error quotes it."""
    try:
        return f"{value!r:.80}"
    except ValueError:  # Python prints no integer of more than 4,300 digits
        return "(a huge number)"


def _known_fields(kind: Any, steps: Sequence[str | int]) -> list[str]:
    """Fields of the class that stands at a place."""
    inside = _dataclass_in(kind)
    for step in steps:
        hints = get_type_hints(inside)
        inside = _dataclass_in(hints[step]) or inside if step in hints else inside
    return [f.name for f in fields(inside)]


def _dataclass_in(annotation: Any) -> Any:
    if is_dataclass(annotation):
        return annotation
    return next((found for part in get_args(annotation) if (found := _dataclass_in(part))), None)
