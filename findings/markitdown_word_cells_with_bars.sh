#!/usr/bin/env bash
# markitdown 0.1.9: a bar inside a cell of a Word or PowerPoint table becomes a border, and its row gets a cell too many.
#
# A good guess says that "read | write" in one cell of a table is still one cell in the Markdown table that comes of it,
# with the bar escaped as "\|", as GitHub's tables ask. Tables go through HTML and markdownify, which leaves the bar as it
# is: a row of two cells has three, and a reader of the Markdown puts "write" into the next column.
#
# Seen: "| Role | Rights |" above "| editor | read | write |" for both formats.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
  "markitdown[docx,pptx]==0.1.9" "markdownify==1.2.2" "python-docx==1.2.0" "python-pptx==1.0.2"
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
import importlib.metadata

import docx
import pptx
from markitdown import MarkItDown
from pptx.util import Inches

ROWS = [("Role", "Rights"), ("editor", "read | write")]
written = docx.Document()
table = written.add_table(2, 2)
deck = pptx.Presentation()
slide = deck.slides.add_slide(deck.slide_layouts[5])
shown = slide.shapes.add_table(2, 2, Inches(1), Inches(2), Inches(6), Inches(1)).table
for i, row in enumerate(ROWS):
    for j, text in enumerate(row):
        table.cell(i, j).text = shown.cell(i, j).text = text
written.save("a.docx")
deck.save("a.pptx")
print("markitdown", importlib.metadata.version("markitdown"), "markdownify", importlib.metadata.version("markdownify"))
for name in ("a.docx", "a.pptx"):
    lines = [line for line in MarkItDown().convert(name).markdown.splitlines() if line.startswith("|")]
    print(name, *lines, sep="\n")
    assert "| Role | Rights |" in lines, "the first row is read in another way now"
    assert lines[-1] == "| editor | read | write |", "the bar of a cell is escaped now"
PY
