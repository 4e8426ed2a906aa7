"""Tables of plain values as accessible HTML and as text: the one way in which the package shows rows."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Self

from workbench.rendering.numbers import counted, number, percent, usd_digits
from workbench.rendering.text import cell_html, escape, signed, tone, visible

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["text", "number", "usd", "ms", "interval", "count", "share", "status", "written"]
NONE = "\u2013"
_NAME_LIMIT, _CAPTION_LIMIT = 120, 1000
_WHOLE = re.compile(r"\d{4}-\d\d-\d\d|\S+ \[\S+, \S+\]")  # a date, or an interval that was made text: never broken
_WRITTEN = re.compile(r"[+\u2212]?\$?(\d[\d,]*(\.\d+)?|∞)( ?%| ms)?|not a number")  # a number with its unit
_WORD = re.compile(r"(?=\S*[-/])\S{3,40}")  # a name that browsers break at its hyphens unless a style sheet forbids it


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its bounds; a missing bound leaves the estimate alone."""

    estimate: float
    low: float | None
    high: float | None


Value = str | int | float | bool | Interval | None


@dataclass(frozen=True, slots=True)
class Column:
    """Name and kind of a column; ``digits`` after the point (default: by the column's values).

    ``usd`` and ``ms`` carry their unit, ``share`` in [0, 1] is shown in per cent, ``signed`` writes a plus;
    ``written`` is text that is a number already, with its unit; text is cut at ``limit`` characters.
    """

    name: str
    kind: Kind = "text"
    digits: int | None = field(default=None, kw_only=True)
    signed: bool = field(default=False, kw_only=True)
    limit: int = field(default=400, kw_only=True)


@dataclass(frozen=True, slots=True, repr=False)
class Table:
    """Named columns and rows of plain values, with a caption; row ``mark`` stands out.

    >>> print(Table((Column("arm"), Column("nDCG", "interval")), (("bm25", Interval(0.612, 0.58, 0.641)),)))
    arm   nDCG
    bm25  0.612 [0.580, 0.641]

    Raises
    ------
    ValueError
        If a row has not as many cells as there are columns.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[Value, ...], ...]
    caption: str = ""
    mark: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        for position, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                has, found = counted(len(self.columns), "column"), counted(len(row), "cell")
                raise ValueError(
                    f"table {self.caption!r} has {has}, row {position} has {found}; give every row one cell a column "
                    "(None for nothing)"
                )

    @classmethod
    def of(cls, names: Sequence[str], rows: Iterable[Sequence[Value]], caption: str = "") -> Self:
        """Table whose kinds are read from its values and, for dollars and milliseconds, from the names."""
        cells = tuple(tuple(row) for row in rows)
        columns = tuple(Column(n, _column_kind(n, [row[i] for row in cells])) for i, n in enumerate(names))
        return cls(columns, cells, caption)

    def cells(self) -> list[list[str]]:
        """Every cell as the text that is shown, neither escaped nor cleaned of newlines."""
        shown = [_shown(column, [r[i] for r in self.rows]) for i, column in enumerate(self.columns)]
        return [list(row) for row in zip(*shown, strict=True)]

    def to_html(self) -> str:
        """Write static HTML: caption, headers with scope, numbers to the right; everything escaped."""
        caption = f"<caption>{escape(self.caption, _CAPTION_LIMIT)}</caption>" if self.caption else ""
        head = "".join(f'<th scope="col"{_align(c)}>{escape(c.name, _NAME_LIMIT)}</th>' for c in self.columns)
        rows = "".join(self._row(position, texts) for position, texts in enumerate(self.cells()))
        return f'<table class="wb-table">{caption}\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table>'

    def _row(self, position: int, texts: Sequence[str]) -> str:
        word = ' class="wb-word"' if _WORD.fullmatch(texts[0]) else ""
        head = f'<th scope="row"{word}{_align(self.columns[0])}>{escape(texts[0])}</th>'
        marked = ' class="wb-marked"' if position == self.mark else ""
        return f"<tr{marked}>{head}{''.join(map(_html_cell, self.columns[1:], texts[1:]))}</tr>\n"

    def to_text(self) -> str:
        """Aligned plain text, caption first."""
        lines = [[visible(c.name, _NAME_LIMIT) for c in self.columns]]
        lines += [[visible(text).replace("\n", " ") for text in row] for row in self.cells()]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        right = [_right(c) for c in self.columns]
        text = [
            "  ".join(t.rjust(w) if r else t.ljust(w) for t, w, r in zip(line, widths, right, strict=True)).rstrip()
            for line in lines
        ]
        return "\n".join(([visible(self.caption, _CAPTION_LIMIT)] if self.caption else []) + text)

    def to_pandas(self) -> "pd.DataFrame":
        """Values as they are, not as they are shown, for who works on in pandas.

        An interval becomes three columns: its estimate under the column's name, ``<name> low`` and ``<name> high``.

        >>> Table((Column("nDCG", "interval"),), ((Interval(0.612, 0.58, 0.641),),)).to_pandas().columns.to_list()
        ['nDCG', 'nDCG low', 'nDCG high']
        """
        import pandas as pd

        columns: dict[str, list[Value]] = {}
        for position, column in enumerate(self.columns):
            values = [row[position] for row in self.rows]
            if column.kind != "interval":
                columns[column.name] = values
                continue
            spans = [v if isinstance(v, Interval) else Interval(math.nan, None, None) for v in values]
            columns[column.name] = [s.estimate for s in spans]
            columns[f"{column.name} low"] = [s.low for s in spans]
            columns[f"{column.name} high"] = [s.high for s in spans]
        return pd.DataFrame(columns)

    def _repr_html_(self) -> str:
        return cell_html(self.to_html())

    def __repr__(self) -> str:
        return self.to_text()


class Shown:
    """Shows a value as its ``table``, in Jupyter and as text; its dataclass has ``repr=False``.

    >>> @dataclass(repr=False)
    ... class Found(Shown):
    ...     table: Table
    >>> Found(Table.of(("arm",), [("text",)]))
    arm
    text
    """

    __slots__ = ()

    if TYPE_CHECKING:  # a field or a property of the class that is shown

        @property
        def table(self) -> Table:
            """What is shown."""

    def _repr_html_(self) -> str:
        return cell_html(self.table.to_html())

    def __repr__(self) -> str:
        return self.table.to_text()


def _column_kind(name: str, values: Sequence[Value]) -> Kind:
    known = [v for v in values if v is not None]
    if known and all(isinstance(v, Interval) for v in known):
        return "interval"
    if not known or any(isinstance(v, bool | str | Interval) for v in known):
        return "written" if _written_numbers(known) else "text"
    words = name.lower().replace("_", " ").split()
    if "usd" in words:
        return "usd"
    if "ms" in words:
        return "ms"
    return "count" if all(isinstance(v, int) for v in known) else "number"


def _written_numbers(values: Sequence[Value]) -> bool:
    """Whether texts are numbers with a point, a sign or a unit, as sections of a report keep them; ids are none."""
    texts = [v for v in values if isinstance(v, str) and v != NONE]
    told = bool(texts) and all(_WRITTEN.fullmatch(text) for text in texts) and not all(t.isdigit() for t in texts)
    return told and all(isinstance(v, str) for v in values)


def _right(column: Column) -> bool:
    return column.kind not in ("text", "interval", "status")


def _align(column: Column) -> str:
    # inline, because JupyterLab and GitHub show tables without our style sheet
    return f' style="text-align:{"right" if _right(column) else "left"}"'


def _html_cell(column: Column, text: str) -> str:
    inner = escape(text)
    if column.kind == "status":
        inner = f'<span class="wb-status wb-{tone(text)}">{escape(signed(text))}</span>'
    wraps = column.kind in ("text", "status") and not _WHOLE.fullmatch(text)
    numeric = "" if wraps else ' class="wb-number"'
    return f'<td data-label="{escape(column.name, _NAME_LIMIT)}"{numeric}{_align(column)}>{inner}</td>'


def _shown(column: Column, values: Sequence[Value]) -> list[str]:
    digits = _digits(column, values) if column.digits is None else column.digits
    return [_cell_text(column, value, digits) for value in values]


def _cell_text(column: Column, value: Value, digits: int) -> str:
    if value is None:
        return NONE
    if isinstance(value, str):
        return visible(value, column.limit)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Interval):
        middle = number(value.estimate, digits, signed=column.signed)
        if value.low is None or value.high is None:
            return middle
        low, high = (number(v, digits, signed=column.signed) for v in (value.low, value.high))
        return f"{middle} [{low}, {high}]"
    if column.kind == "usd":
        return number(value, digits, signed=column.signed, unit="$")
    if column.kind == "share":
        return percent(value, digits, signed=column.signed)
    if column.kind == "text":
        return str(value)
    return number(value, digits, signed=column.signed) + (" ms" if column.kind == "ms" else "")


def _digits(column: Column, values: Sequence[Value]) -> int:
    numbers = [v.estimate if isinstance(v, Interval) else v for v in values if isinstance(v, int | float | Interval)]
    largest = max((abs(v) for v in numbers if math.isfinite(v)), default=0.0)
    if column.kind == "usd":
        return usd_digits(v for v in numbers if math.isfinite(v))
    if column.kind == "share":
        return 0 if all(float(v).is_integer() or abs(100 * v - round(100 * v)) < 0.05 for v in numbers) else 1
    if column.kind == "ms":
        return 0 if largest >= 10 else 2
    if column.kind == "count":
        return 0
    if largest >= 100:
        return 0 if all(float(v).is_integer() for v in numbers if math.isfinite(v)) else 1
    return 3
