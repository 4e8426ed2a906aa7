"""PDF, Word, PowerPoint and Excel files as Markdown with their headings and tables, read by a process of their own.

Such files may be broken, or made to break what reads them. The process has a limit of memory and of time; a file that
ends it is told by name, and the next file gets a new process.
"""

import json
import os
import re
import subprocess
import sys
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, Self

from workbench.errors import MissingExtra
from workbench.extras import DISTRIBUTION, is_installed
from workbench.rendering.progress import Progress

OFFICE = (".pdf", ".docx", ".pptx", ".xlsx")
LIMIT_S = 300.0
MEMORY_BYTES, UNPACKED_BYTES = 4 << 30, 1 << 29
# -P: a file of the folder that one stands in must not stand in for a module.
_COMMAND = (sys.executable, "-P", "-W", "ignore", "-m", "workbench.project.office_files")
_READERS = ("markitdown", "openpyxl", "pdfplumber")
_EXTRA = "documents"
_LARGER, _LONGEST_HEADING, _LEVELS = 1.15, 150, 3
_TITLE_STYLE = "p[style-name='Title'] => h1:fresh"  # mammoth takes it for a paragraph
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_BROKEN = re.compile(r"[^\W\d_]-$")  # a word at the end of a line
_PICTURE = re.compile(r"!\[([^\]]*)\]\([^)]*\)")
_NAMELESS = re.compile(r"\(cid:\d+\)")


@dataclass(frozen=True, slots=True)
class Converted:
    """Markdown of one file, or in ``problem`` why there is none."""

    text: str = ""
    problem: str = ""


ReadOffice = Callable[[Sequence[Path]], Sequence[Converted]]


def read_office(paths: Sequence[Path], *, limit_s: float = LIMIT_S) -> list[Converted]:
    """``read_office(paths)``: each file as Markdown, or what is wrong with it.

    Parameters
    ----------
    paths : sequence of Path
        Files that end in one of `OFFICE`.
    limit_s : float
        Seconds that one file may take.

    Raises
    ------
    MissingExtra
        If what reads them is not installed.
    """
    if paths and not all(map(is_installed, _READERS)):
        others = f" and {len(paths) - 1:,} more" if len(paths) > 1 else ""
        raise MissingExtra(
            f"{paths[0]}{others}: PDF and Office files need what a light install leaves out; "
            f"pip install '{DISTRIBUTION}[{_EXTRA}]'; or name the other files alone: --documents 'docs/**/*.md'",
            extra=_EXTRA,
        )
    out, bar = list[Converted](), Progress("PDF and Office files", len(paths))
    with OfficeProcess(limit_s) as reader:
        for path in paths:
            out.append(reader.read(path))
            bar.update(len(out))
    return out


class OfficeProcess:
    """The process that reads, begun by ``command`` when it is needed; ``limit_s`` are seconds for one file."""

    def __init__(self, limit_s: float, command: Sequence[str] = _COMMAND) -> None:
        self._limit_s, self._command = limit_s, command
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._end()

    def read(self, path: Path) -> Converted:
        """Ask for one file."""
        process = self._begun()
        late = threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(self._limit_s, end)
        timer.start()
        with suppress(BrokenPipeError):  # it has ended, which the answer tells
            print(json.dumps(str(path)), file=process.stdin, flush=True)
        answer = process.stdout.readline() if process.stdout else ""
        timer.cancel()
        timer.join()
        if answer.endswith("\n") and not late.is_set():
            return Converted(**json.loads(answer))
        self._end()
        if late.is_set():
            return Converted(problem=f"was not read within {self._limit_s:g} s; split it, or leave it out")
        return Converted(problem=f"ended the process that read it (exit code {process.returncode}); leave it out")

    def _begun(self) -> "subprocess.Popen[str]":
        if self._process is None:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
            )
        return self._process

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            with suppress(BrokenPipeError), self._process:  # closes what it was not asked any more, and waits
                pass
            self._process = None


def main() -> None:
    """Answer each path on standard input by one line of JSON; it is what the process runs."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer
    with suppress(ImportError, ValueError, OSError):  # no such limit on this system
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    for line in sys.stdin:
        out.write(json.dumps(asdict(convert_office_file(Path(json.loads(line))))) + "\n")
        out.flush()


def convert_office_file(path: Path) -> Converted:
    """Read one file here, in this process; a file that no library can read is told, whatever it raises."""
    kind = path.suffix.lower()
    try:
        if problem := _unfit_office_file(path, kind):
            return Converted(problem=problem)
        text = {".pdf": _pdf_text, ".xlsx": _office_workbook}.get(kind, _office_by_markitdown)(path)
    except MemoryError:
        return Converted(problem=f"needs more than {MEMORY_BYTES >> 30} GiB to be read; split it, or leave it out")
    except Exception as error:  # noqa: BLE001 - the boundary: libraries raise anything on a broken file
        if "Password" in repr(error):  # pdfplumber wraps pdfminer's
            return Converted(problem="is protected by a password; save it without one")
        told = " ".join(str(error).split())[:100]
        return Converted(problem=f"cannot be read as {kind} ({type(error).__name__}{': ' if told else ''}{told})")
    text = _CONTROL.sub("", _PICTURE.sub(r"\1", text)).encode("utf-8", "replace").decode()
    if len(_NAMELESS.findall(text)) > len(text.split()) / 5:
        return Converted(problem="has fonts that do not say which letters they show; run text recognition on it first")
    if kind == ".pdf" and not text.strip():
        return Converted(problem="has no text; if it is a scan, run text recognition (OCR) on it first")
    return Converted(text)


def _unfit_office_file(path: Path, kind: str) -> str:
    """Why a file is not what its name says, or would not fit into memory; "" if it is fit."""
    with path.open("rb") as file:
        head = file.read(1024)
    if head.startswith(b"\xd0\xcf\x11\xe0"):
        return f"is protected by a password, or of an older Office; save it without a password as {kind}"
    if not (b"%PDF-" in head if kind == ".pdf" else head.startswith(b"PK")):
        return f"is no {kind}: it begins with {head[:8]!r}"
    if kind != ".pdf" and (size := sum(member.file_size for member in zipfile.ZipFile(path).infolist())):
        large = f"unpacks to {size >> 20:,} MiB, more than {UNPACKED_BYTES >> 20:,}; split it, or leave it out"
        return large if size > UNPACKED_BYTES else ""
    return ""


def _office_by_markitdown(path: Path) -> str:
    """Word and PowerPoint; the converter is chosen by the name alone, never by what a file claims to be."""
    from markitdown import StreamInfo
    from markitdown.converters import DocxConverter, PptxConverter

    kind = path.suffix.lower()
    converter = DocxConverter() if kind == ".docx" else PptxConverter()
    converter._html_converter = _EscapedOfficeCells(converter._html_converter)  # both write their tables by way of HTML
    if kind == ".pptx":  # but not those of charts
        converter._convert_chart_to_markdown = partial(_office_chart, converter._convert_chart_to_markdown)
    with path.open("rb") as file:
        found = converter.convert(file, StreamInfo(extension=kind), style_map=_TITLE_STYLE, table_infer_header=True)
    return re.sub(r"<!-- Slide number: \d+ -->\n?", "", found.markdown)


def _office_chart(as_told: Callable[[Any], str], chart: Any) -> str:
    """Heading and data of a chart; what the library has no table for stays as it tells it."""
    told = as_told(chart)
    heading, table, _ = told.partition("\n\n| Category")
    if not table:
        return told
    names, values = zip(*((series.name, list(series.values)) for series in chart.series), strict=True)
    rows = zip_longest((category.label for category in chart.plots[0].categories), *values)
    return f"{heading}\n\n{_office_table([['Category', *names], *([*map(_office_cell, row)] for row in rows)])}"


class _EscapedOfficeCells:
    """Converter of HTML that keeps a bar inside of a cell from ending the cell."""

    def __init__(self, converter: Any) -> None:
        self._converter = converter

    def convert_string(self, html: str, **given: Any) -> Any:
        """Markdown of the text, with the converter's own options."""
        from bs4 import BeautifulSoup

        if "|" in html:
            page = BeautifulSoup(html, "html.parser")
            for text in page.find_all(string=lambda text: "|" in text):
                if text.find_parent(["td", "th"]):
                    text.replace_with(text.replace("|", r"\|"))
            html = str(page)
        return self._converter.convert_string(html, **given)


def _office_workbook(path: Path) -> str:
    """Every sheet as a heading and a table; rows and columns without a value are left out."""
    import openpyxl

    parts, book = [], openpyxl.load_workbook(path, read_only=True, data_only=True)
    for sheet in book.worksheets:
        sheet.reset_dimensions()  # it may claim a million rows
        rows = [[_office_cell(value) for value in row] for row in sheet.iter_rows(values_only=True)]
        if table := _office_table(rows):
            parts.append(f"## {sheet.title}\n\n{table}")
    book.close()
    return "\n\n".join(parts)


def _office_cell(value: Any) -> str:
    """What a sheet shows, about."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    if isinstance(value, datetime) and value.time() == datetime.min.time():
        value = value.date()
    return "" if value is None else str(value)


def _office_table(rows: Iterable[Sequence[str | None]]) -> str:
    """Rows as a table of Markdown, the first as its header; "" where there is no value."""
    cells = [[" ".join((cell or "").replace("|", r"\|").split()) for cell in row] for row in rows]
    cells = [row for row in cells if any(row)]
    used = [i for i in range(max(map(len, cells), default=0)) if any(len(row) > i and row[i] for row in cells)]
    if not used:
        return ""
    lines = [f"| {' | '.join(row[i] if i < len(row) else '' for i in used)} |" for row in cells]
    return "\n".join([lines[0], f"|{' --- |' * len(used)}", *lines[1:]])


@dataclass(frozen=True, slots=True)
class _PdfLine:
    """A line of a page with the size of its letters, or a ruled table; ``block`` numbers the boxes of a page."""

    text: str
    size: float
    block: tuple[int, int]


def _pdf_text(path: Path) -> str:
    """Text in reading order; what is set larger than most of the text is a heading, what stands in rules a table."""
    import pdfplumber

    lines = list[_PdfLine]()
    with pdfplumber.open(path, laparams={}) as pdf:
        for number, page in enumerate(pdf.pages):
            lines += _pdf_lines(page, number)
            page.close()
    sizes = Counter[float]()
    for line in lines:
        sizes[line.size] += len(line.text)
    del sizes[0.0]  # tables
    body = max(sizes, key=lambda size: (sizes[size], -size), default=0.0)
    larger = sorted((size for size in sizes if size > _LARGER * body), reverse=True)
    level = {size: min(place, _LEVELS) for place, size in enumerate(larger, start=1)}
    parts, before = list[str](), None
    for line in lines:
        title = len(line.text) <= _LONGEST_HEADING and ". . ." not in line.text  # no line of the contents
        heading = level.get(line.size, 0) if title else 0
        goes_on = before is not None and line.block == before.block and line.size == before.size
        if goes_on and _BROKEN.search(parts[-1]) and line.text[0].islower():
            parts[-1] = parts[-1].removesuffix("-") + line.text
        elif goes_on:  # a heading of two lines is one
            parts[-1] += (" " if heading else "\n") + line.text
        else:
            parts.append(f"{'#' * heading} {line.text}" if heading else line.text)
        before = line
    return "\n\n".join(parts)


def _pdf_lines(page: Any, number: int) -> Iterator[_PdfLine]:
    """Lines of a page; a table stands where its first line would."""
    from pdfminer.layout import LTChar, LTTextBox, LTTextLine

    tables = [(table.bbox, _office_table(table.extract())) for table in page.find_tables()]
    tables = [(box, text) for box, text in tables if text.count("|") > text.count("\n") * 2 + 2]  # of two columns
    told = set[int]()
    for place, box in enumerate(thing for thing in page.layout if isinstance(thing, LTTextBox)):
        for line in (each for each in box if isinstance(each, LTTextLine)):
            x, y = (line.x0 + line.x1) / 2, page.height - (line.y0 + line.y1) / 2
            inside = [i for i, ((x0, top, x1, bottom), _) in enumerate(tables) if x0 <= x <= x1 and top <= y <= bottom]
            if not inside and line.get_text().strip():
                letters = Counter(round(2 * char.size) / 2 for char in line if isinstance(char, LTChar))
                yield _PdfLine(" ".join(line.get_text().split()), letters.most_common(1)[0][0], (number, place))
            for i in set(inside) - told:
                told.add(i)
                yield _PdfLine(tables[i][1], 0.0, (number, -i - 1))


if __name__ == "__main__":
    main()
