"""What a cell of a table holds: numbers, grades, ids, truth, times; and of a cell that holds none, what to write.

One set of rules for every importer and every format. A cell is missing if it is null, NaN or empty, and, where a number
is expected, if it says nan, null, none or n/a.
"""

import json
import math
import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

_MISSING = frozenset({"", "nan", "null", "none", "na", "n/a", "<na>", "#n/a", "nat", "-"})
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_DRESSED = re.compile(r"([^\d.,+\-]{0,8})([+-]?[\d][\d.,' _\u00a0\u202f]*?)\s*([^\d\s.,]*)", re.ASCII)
_MINUS = str.maketrans("\u2212\ufe63\uff0d", "---")
# What may be dropped beside a number; k, cents or seconds would make it another number.
_CURRENCY = frozenset(("", "$", "us$", "usd", "€", "eur", "£", "gbp", "¥", "dollar", "dollars", "~", "'"))
_AFTER = _CURRENCY | {"%", "ms", "token", "tokens"}
_VERDICTS = {
    **dict.fromkeys(("pass", "passed", "correct", "right", "yes", "y", "t", "c", "ok", "success", "relevant"), "1"),
    **dict.fromkeys(("fail", "failed", "incorrect", "wrong", "no", "n", "f", "i", "failure", "irrelevant"), "0"),
    **dict.fromkeys(("p", "partial", "partially correct"), "0.5"),
    **dict.fromkeys(("duplicate", "paraphrase", "same"), "1"),
    **dict.fromkeys(("different", "not_duplicate", "unrelated"), "0"),
}
_TRUTH = {"0": False, "1": True, "false": False, "true": True, "0.0": False, "1.0": True}
_WHOLE = 2.0**53  # beyond it a float skips whole numbers
_LARGEST_NUMBER = 10**40
_GRADE_LIMIT = 10**6
_SHOWN_CHARACTERS = 40


class Unusable(ValueError):
    """A cell that is not what its column must hold; the message tells what was found and what to write."""


def shown_cell(value: Any) -> str:
    """A cell as a message shows it, cut short."""
    text = repr(value.strip() if isinstance(value, str) else value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 3]}..."


def number_cell(name: str, value: Any) -> float | None:
    """Finite number of the column ``name``; None where it is missing.

    >>> number_cell("cost_usd", "1e-3"), number_cell("cost_usd", "n/a")
    (0.001, None)

    Raises
    ------
    Unusable
        With the value and what to write, ``cost_usd '$0.001' is no number; write 0.001``.
    """
    if value is None or (isinstance(value, str) and value.strip().lower() in _MISSING):
        return None
    usable = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    if not usable and not (isinstance(value, str) and _NUMBER.fullmatch(value.strip())):
        raise Unusable(f"{name} {shown_cell(value)} is no number; {_cell_advice(value)}")
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if math.isnan(found):
        return None
    if math.isinf(found):
        raise Unusable(f"{name} {shown_cell(value)} is no finite number")
    return found


def share_cell(name: str, value: Any) -> float | None:
    """Number in [0, 1] of the column ``name``, true and false being 1 and 0; None where it is missing.

    Raises
    ------
    Unusable
        If it is another number, or none.
    """
    truth = {"true": 1.0, "false": 0.0}.get(str(value).strip().lower())
    found = number_cell(name, value) if truth is None else truth
    if found is not None and not 0 <= found <= 1:
        raise Unusable(f"{name} must be in [0, 1], found {shown_cell(value)}")
    return found


def amount_cell(name: str, value: Any) -> float | None:
    """Number from 0; None where it is missing.

    Raises
    ------
    Unusable
        If it is below 0, or no number.
    """
    found = number_cell(name, value)
    if found is not None and found < 0:
        raise Unusable(f"{name} must be 0 or more, found {shown_cell(value)}")
    return found


def whole_cell(name: str, value: Any) -> int | None:
    """Whole number from 0; None where it is missing.

    Raises
    ------
    Unusable
        If it is below 0, has a fraction, or is no number.
    """
    found = number_cell(name, value)
    if found is not None and not (found.is_integer() and 0 <= found < _WHOLE):
        raise Unusable(f'"{name}" must be a whole number from 0, found {shown_cell(value)}')
    return None if found is None else int(found)


def grade_cell(value: Any) -> int | None:
    """Grade of a judgement; 0 and less is judged and not relevant; None where it is missing.

    >>> grade_cell("2.0"), grade_cell(-1)
    (2, -1)

    Raises
    ------
    Unusable
        If it has a fraction, or is no number.
    """
    try:
        found = number_cell("grade", value)
    except Unusable:
        found = math.nan
    if found is None:
        return None
    if not (found.is_integer() and abs(found) < _GRADE_LIMIT):
        raise Unusable(f"the grade must be a whole number, found {shown_cell(value)}")
    return int(found)


def truth_cell(name: str, value: Any) -> bool:
    """0 or 1 of the column ``name``, also as true and false.

    Raises
    ------
    Unusable
        If it is neither.
    """
    found = _TRUTH.get(str(value).strip().lower())
    if found is None:
        known = isinstance(value, str) and value.strip().lower() in _VERDICTS
        raise Unusable(
            f'"{name}" must be 0 or 1, found {shown_cell(value)}{f"; {_cell_advice(value)}" if known else ""}'
        )
    return found


def id_cell(name: str, value: Any) -> str | None:
    """Id as text: 7, 7.0 and Decimal 7 are "7", a text is left as it is; None where it is missing.

    >>> id_cell("_id", 7.0), id_cell("_id", "007")
    ('7', '007')

    Raises
    ------
    Unusable
        If it is of another type, has a fraction, or is a float that no longer tells whole numbers apart.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise Unusable(f'"{name}" must be a text or a whole number, found {type(value).__name__}')
    if not isinstance(value, int) and (not math.isfinite(value) or value != int(value)):
        raise Unusable(f'"{name}" must be a text or a whole number, found {shown_cell(value)}')
    if isinstance(value, float) and abs(value) >= _WHOLE:
        raise Unusable(f'"{name}" {value!r} is a float, which has lost digits of the id; write ids as text')
    if abs(int(value)) >= _LARGEST_NUMBER:
        raise Unusable(f'"{name}" is a number of more than 40 digits; write ids as text')
    return str(int(value))


def name_cell(name: str, value: Any) -> str:
    """Name of a tenant, a cluster or the like, as an id is read; "" where it is missing.

    Raises
    ------
    Unusable
        As `id_cell`.
    """
    return id_cell(name, value) or ""


def parsed_cell(name: str, value: Any) -> Any:
    """A cell that may be JSON as text, such as ``{"tenant_id": "a"}``: objects and lists are read, the rest is left.

    Raises
    ------
    Unusable
        If it begins like an object or a list and is no JSON.
    """
    if not (isinstance(value, str) and value.lstrip()[:1] in ("{", "[")):
        return value
    try:
        return parse_json_cell(value)
    except (ValueError, RecursionError) as error:
        told = error if isinstance(error, Unusable) else "no JSON; write it as json.dumps does"
        raise Unusable(f'"{name}" {shown_cell(value)} is {told}') from None


def parse_json_cell(text: str) -> Any:
    """JSON of one cell or line: NaN is null, and a key that stands twice is refused, whatever a library would keep.

    Raises
    ------
    ValueError
        If it is no JSON, or a key stands twice (`Unusable`).
    """
    return _DECODER.decode(text)


def _cell_keys_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise Unusable(f"an object in which the key {next(k for k in keys if keys.count(k) > 1)!r} stands twice")
    return found


_DECODER = json.JSONDecoder(
    object_pairs_hook=_cell_keys_once, parse_constant=lambda name: None if name == "NaN" else float(name)
)


def settled_cell(value: Any) -> Any:
    """A cell of Parquet as JSON would hold it: NaN is null, also inside lists and objects."""
    if isinstance(value, float | Decimal) and value != value:
        return None
    if isinstance(value, dict):
        return {key: settled_cell(item) for key, item in value.items()}
    return [settled_cell(item) for item in value] if isinstance(value, list) else value


def _cell_advice(value: Any) -> str:
    """What to write in place of a cell that is no number."""
    if not isinstance(value, str):
        return "give one number"
    text = value.strip().translate(_MINUS)
    if verdict := _VERDICTS.get(text.lower()):
        return f"write {verdict}"
    if not (match := _DRESSED.fullmatch(text)):
        return "write a number such as 0.25, or leave it empty"
    before, after = match[1].strip().lower(), match[3].lower()
    if before not in _CURRENCY or after not in _AFTER:
        return "write the number alone, in the unit of the column"
    readings = _cell_readings(match[2])
    if after == "%":
        return f"write {float(readings[0]) / 100:g}" if _NUMBER.fullmatch(readings[0]) else "write it as a share"
    return f"write {', or '.join(readings)}"


def _cell_readings(digits: str) -> list[str]:
    """Numbers that digits with commas, points and gaps may mean: 1,234 is two."""
    digits = re.sub("[' _\u00a0\u202f]", "", digits)
    comma, point = digits.rfind(","), digits.rfind(".")
    if comma < 0:
        return [digits] if digits.count(".") < 2 else [digits.replace(".", "")]
    if point >= 0:
        thousands, decimal = (",", ".") if point > comma else (".", ",")
        return [digits.replace(thousands, "").replace(decimal, ".")]
    if digits.count(",") > 1:
        return [digits.replace(",", "")]
    both = [digits.replace(",", "."), digits.replace(",", "")]
    ambiguous = len(digits) - comma == 4 and digits.lstrip("+-")[0] != "0"
    return both if ambiguous else both[:1]


def times_of_cells(
    name: str, cells: Sequence[tuple[int, Any]]
) -> tuple[list[tuple[float, str]], list[tuple[int, str]]]:
    """Times of a column: of each cell its place in time and how it is written (ISO 8601 in UTC); or what is wrong.

    Read are ISO 8601 in any zone (without one: UTC) and seconds, milliseconds, micro- or nanoseconds since 1970, told
    apart by the largest of the column. Numbers below 10**8 are seconds since some start and stay as they are.

    Parameters
    ----------
    cells : sequence of (line, value)
        The whole column: where one row has a time every row needs one, and a zone where one has a zone.
    """
    found: list[tuple[int, float | datetime]] = []
    wrong: list[tuple[int, str]] = []
    for line, value in cells:
        try:
            found.append((line, _parsed_cell_moment(name, value)))
        except Unusable as error:
            wrong.append((line, str(error)))
    kinds = {_cell_moment_kind(moment) for _, moment in found}
    if len(kinds) > 1:
        odd = min(kinds, key=lambda kind: (sum(_cell_moment_kind(m) == kind for _, m in found), kind))
        told = f'"{name}" has a {odd} where other rows have a {max(kinds - {odd})}: one form for the whole column'
        wrong += [(line, told) for line, moment in found if _cell_moment_kind(moment) == odd]
    if wrong:
        return [], wrong
    largest = max((abs(m) for _, m in found if isinstance(m, float)), default=0.0)
    unit = next((size for limit, size in _UNITS if largest < limit), 1e9)
    return [_placed_cell_time(moment, unit, largest) for _, moment in found], []


_UNITS = ((1e11, 1.0), (1e14, 1e3), (1e17, 1e6))
_EPOCH = 1e8  # March 1973


def _placed_cell_time(moment: float | datetime, unit: float, largest: float) -> tuple[float, str]:
    if isinstance(moment, float):
        if largest < _EPOCH:
            return moment, f"{moment:g}"
        moment = datetime.fromtimestamp(moment / unit, UTC)
    at = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return at.timestamp(), at.isoformat()


def _cell_moment_kind(moment: float | datetime) -> str:
    if isinstance(moment, float):
        return "number"
    return "time without a zone" if moment.tzinfo is None else "time with a zone"


def _parsed_cell_moment(name: str, value: Any) -> float | datetime:
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day)  # noqa: DTZ001 - the column says whether it has zones
    text = value.strip() if isinstance(value, str) else value
    try:
        seconds = number_cell(name, text)
    except Unusable:
        seconds = None
    if seconds is not None and 0 <= seconds < 1e20:
        return seconds
    if isinstance(text, str) and (found := _cell_iso(text)):
        return found
    told = "is missing where other rows have one" if value is None else f"{shown_cell(value)} is no time"
    raise Unusable(f'"{name}" {told}; write 2026-01-31T12:00:00Z')


def _cell_iso(text: str) -> datetime | None:
    text = re.sub(r"\s*(UTC|GMT|[zZ])$", "+00:00", re.sub(r"^(\d{4})/(\d\d)/(\d\d)", r"\1-\2-\3", text))
    text = re.sub(r"\s+([+-]\d\d:?\d\d)$", r"\1", text)
    try:
        moment = datetime.fromisoformat(text)
        moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC).timestamp()
    except (ValueError, OverflowError):
        return None
    return moment if re.match(r"\d{4}-", text) else None


def turns_cell(value: Any) -> str | None:
    """Earlier turns as one text, spelled the same for the same turns, also where a list is written as JSON; or None."""
    if not isinstance(value, str | list | None):
        raise Unusable(f'"turns" must be a text or a list of what was said before, found {shown_cell(value)}')
    if isinstance(value, str) and value.lstrip().startswith("["):
        with suppress(ValueError, RecursionError):
            value = json.loads(value)
    text = value.strip() if isinstance(value, str) else json.dumps(value or "", sort_keys=True, default=str)
    return None if text in ("", "[]", '""', "null") else text
