"""Numbers as people read them, each in one way: counts with their nouns, percentages, dollars, prices."""

import math
from collections.abc import Iterable
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal

_MINUS = "\u2212"
_PER = {1: "one", 1_000: "1,000", 1_000_000: "million", 1_000_000_000: "billion"}


def number(value: float, digits: int, *, signed: bool = False, unit: str = "") -> str:
    r"""Write a number with thousands separated and a true minus sign (U+2212); zero has no sign.

    >>> number(1234.5, 1), number(0.02, 3, signed=True), number(-0.001, 2), number(3, 2, unit="$")
    ('1,234.5', '+0.020', '0.00', '$3.00')
    >>> number(-0.5, 1) == "\u22120.5"
    True
    """
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return ("" if value > 0 else _MINUS) + "∞"
    text = f"{abs(value):,.{digits}f}"
    if not text.strip("0.,"):
        return unit + text
    return (_MINUS if value < 0 else "+" if signed else "") + unit + text


def counted(count: int, one: str, many: str = "") -> str:
    """Write a count with its noun, thousands separated; ``many`` is needed where the plural is not regular.

    >>> counted(1, "repeat"), counted(2750, "dev family"), counted(0, "match")
    ('1 repeat', '2,750 dev families', '0 matches')
    >>> counted(1, "call has", "calls have")
    '1 call has'
    """
    return f"{count:,} {one if count == 1 else many or _plural(one)}"


def _plural(noun: str) -> str:
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(("s", "x", "ch", "sh")) else f"{noun}s"


def percent(share: float, digits: int = 0, *, signed: bool = False, significant: int = 0) -> str:
    """Write a share as a percentage, with so many digits after the point, or so many ``significant`` ones.

    >>> percent(0.95), percent(0.0004, 1), percent(12.3), percent(0.00625, significant=2)
    ('95 %', '0.0 %', '1,230 %', '0.62 %')
    """
    if significant:
        return f"{100 * share:.{significant}g} %"
    return f"{number(100 * share, digits, signed=signed)} %"


def usd_digits(values: Iterable[float]) -> int:
    """Digits after the point that leave two significant ones to the smallest amount, 2 to 9.

    >>> usd_digits([0.0, 12.5]), usd_digits([0.0004, 3.0])
    (2, 5)
    """
    smallest = min((abs(v) for v in values if v), default=1.0)
    return min(9, max(2, 1 - math.floor(math.log10(smallest))))


def usd(amount: float, *, up: bool = False) -> str:
    """Write dollars with three significant digits and no exponent; ``up`` rounds up, for what must suffice.

    >>> usd(1234.5), usd(0.807), usd(0.0000123), usd(0.00001231, up=True)
    ('$1,234', '$0.807', '$0.0000123', '$0.0000124')
    """
    if not math.isfinite(amount):
        return number(amount, 0, unit="$")
    digits = 0 if abs(amount) >= 100 or not amount else max(2 - math.floor(math.log10(abs(amount))), 0)
    step = Decimal(1).scaleb(-digits)
    return f"${Decimal(repr(float(amount))).quantize(step, ROUND_CEILING if up else ROUND_HALF_EVEN):,f}"


def price(amount: float, of: str = "", *, per: int = 0) -> str:
    """Write a price per one, per 1,000, per million or per billion: the first by which it is 0.1 cents or more.

    >>> price(0.002, "call"), price(4.759e-8), price(2.5e-6, "input token", per=1_000_000), price(1e-12, "row")
    ('$0.002 per call', '$0.0476 per million', '$2.50 per million input tokens', '$0.001 per billion rows')
    >>> price(0.0, "call"), price(0.2)
    ('$0 per call', '$0.20 each')
    """
    unit = per or next((n for n in _PER if not amount or abs(amount) * n >= 0.001), max(_PER))
    told = cents(amount * unit)
    if unit == 1:
        return f"{told} per {of}" if of else f"{told} each"
    return f"{told} per {_PER[unit]}" + (f" {_plural(of)}" if of else "")


def cents(amount: float) -> str:
    """Write dollars with three significant digits and no trailing zeros but those of cents.

    >>> cents(2.5), cents(15.0), cents(0.15), cents(0)
    ('$2.50', '$15', '$0.15', '$0')
    """
    whole, _, rest = usd(amount).partition(".")
    rest = rest.rstrip("0")
    return f"{whole}.{rest.ljust(2, '0')}" if rest else whole


def monthly(amount: float) -> str:
    """Write dollars a month.

    >>> monthly(0.02), monthly(7.5), monthly(1234.6)
    ('under $0.05 a month', '$7.50 a month', '$1,235 a month')
    """
    if amount == 0:
        return "$0 a month"
    if abs(amount) < 0.05:
        return "under $0.05 a month"
    return f"${amount:,.2f} a month" if abs(amount) < 100 else f"${amount:,.0f} a month"
