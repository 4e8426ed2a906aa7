#!/usr/bin/env bash
# markitdown 0.1.9: a PDF comes back without headings and with its ruled table taken apart; a sheet says 4.0 and NaN.
#
# A good guess says that "PDF to Markdown" marks what is set in twice the size as a heading, as it does of Word, and that
# a table in rules becomes a table; and that a cell with 4 reads 4, and an empty one is empty. Nothing in the PDF's text
# begins with "#" and no line has a bar. Sheets go through a data frame of pandas: a column with an empty cell, or with
# one fraction, turns its whole numbers into decimals, and what is empty is NaN.
#
# Seen: no "#" and no "|" in the text of the PDF, while pdfplumber, which markitdown brings, finds the table and the
# sizes; "4.0" and "NaN" in the table of the sheet.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
  "markitdown[pdf,xlsx]==0.1.9" "pdfplumber==0.11.10" "openpyxl==3.1.5" "pandas==3.1.1"
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
import importlib.metadata

import openpyxl
import pdfplumber
from markitdown import MarkItDown


def said(size, x, y, text):
    return f"BT /F {size} Tf {x} {y} Td ({text}) Tj ET\n"


content = said(20, 50, 750, "Handbook") + said(10, 50, 700, "Fees by country, as of the first of the year:")
content += "".join(f"50 {y} m 250 {y} l S\n" for y in (680, 660, 640))
content += "".join(f"{x} 680 m {x} 640 l S\n" for x in (50, 150, 250))
for row, cells in enumerate([("Country", "Fee"), ("Austria", "4 euro")]):
    content += "".join(said(10, 55 + 100 * i, 666 - 20 * row, cell) for i, cell in enumerate(cells))
objects = [
    "<</Type/Catalog/Pages 2 0 R>>",
    "<</Type/Pages/Kids[4 0 R]/Count 1/MediaBox[0 0 600 800]>>",
    "<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>",
    "<</Type/Page/Parent 2 0 R/Resources<</Font<</F 3 0 R>>>>/Contents 5 0 R>>",
    f"<</Length {len(content)}>>stream\n{content}\nendstream",
]
data, places = "%PDF-1.4\n", []
for number, text in enumerate(objects, start=1):
    places.append(len(data))
    data += f"{number} 0 obj\n{text}\nendobj\n"
entries = "".join(f"{place:010} 00000 n \n" for place in places)
data += f"xref\n0 6\n0000000000 65535 f \n{entries}trailer<</Size 6/Root 1 0 R>>\nstartxref\n{len(data)}\n%%EOF"
open("a.pdf", "w", encoding="ascii").write(data)
book = openpyxl.Workbook()
for row in [("Country", "Fee", "Note"), ("Austria", 4, None), ("Brazil", 19.5, "by sea")]:
    book.active.append(row)
book.save("a.xlsx")

print("markitdown", importlib.metadata.version("markitdown"))
pdf = MarkItDown().convert("a.pdf").markdown
sheet = MarkItDown().convert("a.xlsx").markdown
print(pdf)
print(sheet)
with pdfplumber.open("a.pdf") as found:
    (table,) = found.pages[0].extract_tables()
    sizes = {round(char["size"]) for char in found.pages[0].chars}
print("pdfplumber:", table, sizes)
assert "Handbook" in pdf and "#" not in pdf and "|" not in pdf, "a PDF keeps its headings or its tables now"
assert table == [["Country", "Fee"], ["Austria", "4 euro"]] and sizes == {10, 20}
assert "4.0" in sheet and "NaN" in sheet, "a sheet is read as it is shown now"
PY
