"""PDF and Office files as pages: headings and tables are kept, a file that is broken on purpose stops no other."""

import io
import sys
import zipfile
from pathlib import Path

import pytest

from workbench.errors import ConfigError, MissingExtra
from workbench.extras import is_installed
from workbench.project import office_files as office
from workbench.project.document_pages import find_pages, read_pages
from workbench.project.new_evalset import understand_evalset
from workbench.project.office_files import Converted, OfficeProcess, convert_office_file, read_office

NEEDED = ("markitdown", "openpyxl", "pdfplumber")
readers = pytest.mark.skipif(
    not all(map(is_installed, NEEDED)), reason="PDF and Office files need pip install 'evals-workbench[documents]'"
)
WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
TABLE = "| Country | Fee |\n| --- | --- |\n| Austria | 4 euro |"
ROWS = [("Country", "Fee"), ("Austria", "4 euro")]


def docx(path: Path, body: str, *, before: str = "") -> Path:
    """A Word file of this body: paragraphs, tables."""
    types = (
        '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        '<Override PartName="/word/document.xml" ContentType='
        '"application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>'
    )
    relations = (
        '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="r1" '
        'Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" '
        'Target="word/document.xml"/></Relationships>'
    )
    style = "".join(
        f'<w:style w:type="paragraph" w:styleId="{key}"><w:name w:val="{name}"/></w:style>'
        for key, name in (("T", "Title"), ("H1", "heading 1"), ("H2", "heading 2"))
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("[Content_Types].xml", types)
        archive.writestr("_rels/.rels", relations)
        archive.writestr("word/styles.xml", f'<w:styles xmlns:w="{WORD}">{style}</w:styles>')
        archive.writestr(
            "word/_rels/document.xml.rels",
            relations.replace("officeDocument", "styles", 1)
            .replace("/relationships/officeDocument", "/relationships/styles")
            .replace("word/document.xml", "styles.xml"),
        )
        archive.writestr(
            "word/document.xml",
            f'<?xml version="1.0"?>{before}<w:document xmlns:w="{WORD}"><w:body>{body}</w:body></w:document>',
        )
    return path


def paragraph(text: str, style: str = "") -> str:
    named = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{named}<w:r><w:t>{text}</w:t></w:r></w:p>"


def word_table(rows) -> str:
    cells = ("".join(f"<w:tc>{paragraph(cell)}</w:tc>" for cell in row) for row in rows)
    return f"<w:tbl>{''.join(f'<w:tr>{row}</w:tr>' for row in cells)}</w:tbl>"


def pdf(path: Path, *pages: str, trailer: str = "") -> Path:
    """A PDF of these content streams, in Helvetica as /F; ``trailer`` stands in its trailer too."""
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(len(pages)))
    objects = [
        "<</Type/Catalog/Pages 2 0 R>>",
        f"<</Type/Pages/Kids[{kids}]/Count {len(pages)}/MediaBox[0 0 600 800]>>",
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>",
    ]
    for n, content in enumerate(pages):
        objects.append(f"<</Type/Page/Parent 2 0 R/Resources<</Font<</F 3 0 R>>>>/Contents {5 + 2 * n} 0 R>>")
        objects.append(f"<</Length {len(content)}>>stream\n{content}\nendstream")
    out, places = io.BytesIO(b""), []
    out.write(b"%PDF-1.4\n")
    for number, text in enumerate(objects, start=1):
        places.append(out.tell())
        out.write(f"{number} 0 obj\n{text}\nendobj\n".encode())
    start = out.tell()
    entries = "".join(f"{place:010} 00000 n \n" for place in places)
    out.write(f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{entries}".encode())
    out.write(f"trailer<</Size {len(objects) + 1}/Root 1 0 R{trailer}>>\nstartxref\n{start}\n%%EOF".encode())
    path.write_bytes(out.getvalue())
    return path


def said(size: int, x: int, y: int, text: str) -> str:
    return f"BT /F {size} Tf {x} {y} Td ({text}) Tj ET\n"


def ruled(rows, x: int, y: int) -> str:
    """A table in rules: cells of 100 by 20."""
    high, wide = len(rows), len(rows[0])
    lines = [f"{x} {y - 20 * i} m {x + 100 * wide} {y - 20 * i} l S\n" for i in range(high + 1)]
    lines += [f"{x + 100 * j} {y} m {x + 100 * j} {y - 20 * high} l S\n" for j in range(wide + 1)]
    cells = (
        said(10, x + 5 + 100 * j, y - 14 - 20 * i, cell) for i, row in enumerate(rows) for j, cell in enumerate(row)
    )
    return "".join([*lines, *cells])


def slides(path: Path, rows=ROWS) -> Path:
    from pptx import Presentation
    from pptx.util import Inches

    deck = Presentation()
    first = deck.slides.add_slide(deck.slide_layouts[1])
    first.shapes.title.text, first.placeholders[1].text = "Returns", "Within 30 days"
    second = deck.slides.add_slide(deck.slide_layouts[5])
    second.shapes.title.text = "Fees"
    table = second.shapes.add_table(len(rows), 2, Inches(1), Inches(2), Inches(4), Inches(1)).table
    for i, row in enumerate(rows):
        for j, cell in enumerate(row):
            table.cell(i, j).text = cell
    deck.save(path)
    return path


def workbook(path: Path) -> Path:
    import openpyxl

    book = openpyxl.Workbook()
    book.active.title = "Fees"
    for row in [*ROWS, (None, None), ("Brazil", 19.5, "a|b\nc"), ("Chile", 4.0)]:
        book.active.append(row)
    book.create_sheet("Empty")
    book.create_sheet("Hours").append(["Monday", "007"])
    book.save(path)
    return path


@readers
def test_each_format_keeps_its_headings_and_tables(tmp_path: Path) -> None:
    body = paragraph("Handbook", "T") + paragraph("Fees", "H2") + paragraph("By country:") + word_table(ROWS)
    text = said(20, 50, 750, "Handbook") + said(14, 50, 700, "Fees") + said(10, 50, 670, "By country, as of the be-")
    text += said(10, 50, 658, "ginning of the year:") + ruled(ROWS, 50, 640) + said(10, 50, 560, "Nothing else.")
    docx(tmp_path / "a.docx", body)
    pdf(tmp_path / "b.pdf", text, said(20, 50, 750, "Hours") + said(10, 50, 700, "From 9 to 17."))
    slides(tmp_path / "c.pptx")
    workbook(tmp_path / "d.xlsx")
    word, portable, deck, sheets = read_office(sorted(tmp_path.iterdir()))
    assert word.text == f"# Handbook\n\n## Fees\n\nBy country:\n\n{TABLE}"
    assert portable.text == (
        f"# Handbook\n\n## Fees\n\nBy country, as of the beginning of the year:\n\n{TABLE}\n\nNothing else.\n\n"
        "# Hours\n\nFrom 9 to 17."
    )
    assert deck.text == f"# Returns\nWithin 30 days\n\n# Fees\n{TABLE}"
    assert sheets.text == (
        "## Fees\n\n| Country | Fee |  |\n| --- | --- | --- |\n| Austria | 4 euro |  |\n| Brazil | 19.5 | a\\|b c |\n"
        "| Chile | 4 |  |\n\n## Hours\n\n| Monday | 007 |\n| --- | --- |"
    )


@readers
def test_a_bar_in_a_cell_ends_no_cell_and_is_left_alone_outside(tmp_path: Path) -> None:
    rows = [("Command", "Does"), ("ls | wc -l", "a &lt;b&gt; | c"), ("none", "\\| and ||")]
    docx(tmp_path / "a.docx", paragraph("Pipe: ls | wc") + word_table(rows) + paragraph("a|b"))
    slides(tmp_path / "b.pptx", [(one, other.replace("&lt;", "<").replace("&gt;", ">")) for one, other in rows])
    word, deck = read_office(sorted(tmp_path.iterdir()))
    table = "| Command | Does |\n| --- | --- |\n| ls \\| wc -l | a <b> \\| c |\n| none | \\\\| and \\|\\| |"
    assert word.text == f"Pipe: ls | wc\n\n{table}\n\na|b"
    assert deck.text.endswith(f"# Fees\n{table}")


@readers
def test_bars_and_line_ends_in_the_data_of_a_chart_end_no_cell_and_no_row(tmp_path: Path) -> None:
    from pptx import Presentation
    from pptx.chart.data import CategoryChartData
    from pptx.enum.chart import XL_CHART_TYPE
    from pptx.util import Inches

    deck, data = Presentation(), CategoryChartData()
    data.categories = ["ls | wc", "two\nlines", "plain"]
    data.add_series("Mean | ms", (1.5, 2, None))
    data.add_series("Calls", (10, 20, 30))
    slide = deck.slides.add_slide(deck.slide_layouts[5])
    slide.shapes.title.text = "Load | by command"
    place = (Inches(1), Inches(2), Inches(6), Inches(4))
    chart = slide.shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, *place, data).chart
    chart.has_title, chart.chart_title.text_frame.text = True, "Time | load"
    deck.save(tmp_path / "a.pptx")
    (read,) = read_office([tmp_path / "a.pptx"])
    assert read.text.endswith(
        "# Load | by command\n\n\n### Chart: Time | load\n\n"
        "| Category | Mean \\| ms | Calls |\n| --- | --- | --- |\n"
        "| ls \\| wc | 1.5 | 10 |\n| two lines | 2 | 20 |\n| plain |  | 30 |"
    )


@readers
def test_two_columns_of_a_page_are_read_one_after_the_other(tmp_path: Path) -> None:
    left = [said(10, 50, 700 - 12 * i, f"left {i} of the column that comes first") for i in range(8)]
    right = [said(10, 320, 700 - 12 * i, f"right {i} of the column that follows") for i in range(8)]
    mixed = "".join(a + b for a, b in zip(left, right, strict=True))
    text = convert_office_file(pdf(tmp_path / "a.pdf", mixed)).text
    assert text.index("left 7") < text.index("right 0")


@readers
def test_a_page_of_office_has_the_title_of_its_first_heading(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    docx(tmp_path / "docs" / "one.docx", paragraph("Handbook", "H1") + paragraph("Send it back."))
    (tmp_path / "docs" / "~$one.docx").write_bytes(b"held open by ann")
    workbook(tmp_path / "docs" / "two.xlsx")
    (tmp_path / "q.csv").write_text("question,relevant\nwhat is the fee?,two.xlsx\n", encoding="utf-8")
    found = understand_evalset([str(tmp_path / "docs")], tmp_path / "q.csv")
    assert [(d.doc_id, d.title) for d in found.documents] == [("one.docx", "Handbook"), ("two.xlsx", "two")]
    assert found.lines[0].startswith("2 documents of pages (1 .docx, 1 .xlsx): ")


NESTED = (f'<!ENTITY {name} "{f"&{inner};" * 10}">' for inner, name in zip("abcdefghi", "bcdefghij", strict=True))
LAUGHS = f'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">{"".join(NESTED)}]>'


def hostile(folder: Path) -> dict[str, str]:
    """Files that are broken or made to break a reader, each with what is said of it."""
    good = pdf(folder / "good.pdf", said(10, 50, 700, "A word."))
    (folder / "cut.pdf").write_bytes(good.read_bytes()[:60])
    (folder / "empty.docx").write_bytes(b"")
    (folder / "html.docx").write_text("<html>", encoding="utf-8")
    (folder / "old.docx").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600)
    (folder / "half.docx").write_bytes(b"PK\x03\x04 and no more")
    with zipfile.ZipFile(folder / "other.docx", "w") as archive:
        archive.writestr("readme.txt", "no document")
    with zipfile.ZipFile(folder / "bomb.xlsx", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/sharedStrings.xml", bytes(60 << 20))
    pdf(folder / "scan.pdf", "")
    none = "<" + 32 * "00" + ">"
    locked = f"/Encrypt<</Filter/Standard/V 1/R 2/P -4/O{none}/U{none}>>/ID[{none}{none}]"
    pdf(folder / "locked.pdf", said(10, 50, 700, "A word."), trailer=locked)
    return {
        "bomb.xlsx": "unpacks to 60 MiB, more than 50",
        "cut.pdf": "cannot be read as .pdf",
        "empty.docx": "is no .docx: it begins with b''",
        "half.docx": "cannot be read as .docx (BadZipFile: File is not a zip file)",
        "html.docx": "is no .docx: it begins with b'<html>'",
        "locked.pdf": "is protected by a password; save it without one",
        "old.docx": "is protected by a password, or of an older Office",
        "other.docx": "cannot be read as .docx",
        "scan.pdf": "has no text; if it is a scan, run text recognition",
    }


@readers
def test_every_file_that_cannot_be_read_is_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(office, "UNPACKED_BYTES", 50 << 20)
    wanted = hostile(tmp_path)
    documents, defects = read_pages(
        find_pages([tmp_path]), office=lambda paths: [convert_office_file(path) for path in paths]
    )
    assert [(d.doc_id, d.text) for d in documents] == [("good.pdf", "A word.")]
    assert [Path(d.file).name for d in defects] == list(wanted)
    for defect in defects:
        assert defect.problem.startswith(wanted[Path(defect.file).name])


@readers
def test_entities_that_would_fill_the_memory_are_told(tmp_path: Path) -> None:
    found = convert_office_file(docx(tmp_path / "a.docx", paragraph("&j;"), before=LAUGHS))
    assert found.problem.startswith("cannot be read as .docx")


@readers
def test_one_process_reads_file_after_file_and_one_that_takes_too_long_is_told(tmp_path: Path) -> None:
    wanted = hostile(tmp_path)
    found = read_office([tmp_path / "old.docx", tmp_path / "good.pdf", tmp_path / "scan.pdf"])
    assert [bool(each.text) for each in found] == [False, True, False]
    assert found[0].problem.startswith(wanted["old.docx"])
    (late,) = read_office([tmp_path / "good.pdf"], limit_s=0.01)
    assert late == Converted(problem="was not read within 0.01 s; split it, or leave it out")


# Ends at the second file, as a process does that runs out of memory; the fourth is read by another one.
ENDS = """import sys
for n, line in enumerate(sys.stdin):
    if n:
        sys.exit(9)
    print('{"text": "A word.", "problem": ""}', flush=True)
"""


def test_a_file_that_ends_its_process_is_told_and_the_next_is_read() -> None:
    with OfficeProcess(60, (sys.executable, "-c", ENDS)) as reader:
        found = [reader.read(Path(name)) for name in ("a.pdf", "b.pdf", "c.pdf", "d.pdf")]
    ended = Converted(problem="ended the process that read it (exit code 9); leave it out")
    assert found == [Converted("A word."), ended, Converted("A word."), ended]


def test_what_was_converted_becomes_pages_and_what_was_not_stops_no_other(tmp_path: Path) -> None:
    for name in ("a.pdf", "b.docx", "c.md"):
        (tmp_path / name).write_text("words", encoding="utf-8")
    converted = {"a.pdf": Converted("# Handbook\n\nSend it back."), "b.docx": Converted(problem="is torn")}
    found, defects = read_pages(find_pages([tmp_path]), office=lambda paths: [converted[p.name] for p in paths])
    assert [(d.doc_id, d.title) for d in found] == [("a.pdf", "Handbook"), ("c.md", "c")]
    assert [str(d) for d in defects] == [f"{tmp_path / 'b.docx'}: is torn"]


def test_a_light_install_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(office, "is_installed", lambda name: name != "openpyxl")
    (tmp_path / "docs").mkdir()
    for name in ("a.pdf", "b.xlsx"):
        (tmp_path / "docs" / name).write_bytes(b"")
    (tmp_path / "q.txt").write_text("what?\n", encoding="utf-8")
    with pytest.raises(MissingExtra, match=r"a\.pdf and 1 more: .*; pip install 'evals-workbench\[documents\]'; or"):
        understand_evalset([str(tmp_path / "docs")], tmp_path / "q.txt")
    (tmp_path / "docs" / "c.md").write_text("words", encoding="utf-8")
    assert len(understand_evalset([str(tmp_path / "docs" / "*.md")], tmp_path / "q.txt").documents) == 1


def test_questions_in_a_workbook_are_asked_for_as_a_table(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("words", encoding="utf-8")
    (tmp_path / "q.xlsx").write_bytes(b"PK")
    with pytest.raises(ConfigError, match=r"q\.xlsx: questions are a table .* save them as CSV"):
        understand_evalset([str(tmp_path / "a.md")], tmp_path / "q.xlsx")
