#!/usr/bin/env bash
# papermill 2.7.0: inspect_notebook() leaves parameters out, or gives a cut default, for ordinary Python.
#
# A good guess says that it returns every assignment of the cell tagged `parameters`, since papermill itself will set
# any of them. It reads the cell line by line with a regular expression instead: a line with two equals signs is left
# out (a warning is logged), `int | None` and a dotted type match nothing and are left out without a word, and a default
# ends at the first `#`, also within a quoted text. So a tool that checks given names against it refuses good ones.
#
# Seen: of six lines four give no parameter, and the default of `colour` is a lone quote.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "papermill==2.7.0" "nbformat==5.10.4"
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
import nbformat
import papermill

cell = nbformat.v4.new_code_cell(
    'plain: int = 5\n'
    'colour: str = "#fff"\n'
    'query: str = "a=b"\n'
    'limit: int | None = None\n'
    'when: datetime.date = None\n'
    'rows = 3; columns = 4\n',
    metadata={"tags": ["parameters"]},
)
notebook = nbformat.v4.new_notebook(cells=[cell])
notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
nbformat.write(notebook, "x.ipynb")
found = papermill.inspect_notebook("x.ipynb")
print("papermill", papermill.__version__)
for name in ("plain", "colour", "query", "limit", "when", "rows"):
    print(f"{name}: {found[name]['default'] if name in found else 'left out'}")
assert found["plain"]["default"] == "5", "an ordinary parameter is no longer read"
assert found["colour"]["default"] == '"', "a quoted # no longer ends a default"
assert not {"query", "limit", "when", "rows"} & found.keys(), "these are no longer left out"
PY
