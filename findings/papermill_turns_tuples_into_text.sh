#!/usr/bin/env bash
# papermill 2.7.0: a tuple that is given as a parameter arrives as text, alone and inside lists and dicts, while the
# record of the run in the notebook's metadata says that it was a list.
#
# A good guess says that execute_notebook(parameters=...) writes a tuple as a tuple, a list, or not at all. The cell says
# arms = "('vector', 'text')". Nothing has to fail: `"text" in arms` is true of the text too, and so is `"vec" in arms`;
# `for seed in seeds` runs over six characters in place of two seeds. The metadata, which tools read to say what was
# run, has the list, and a run that is repeated from it does something else. `list(...)` before the call keeps the value.
#
# Known: nteract/papermill#784 (tuples become text), open; not that the record says otherwise.
#
# Seen: "(1, 2)" of six characters in the cell and in a dict, [1, 2] in metadata.papermill.parameters; a run from that
# has two.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "papermill==2.7.0" "ipykernel==7.4.0"
cd "$work"
"$work/venv/bin/python" -m ipykernel install --prefix "$work/venv" --name finding >/dev/null
"$work/venv/bin/python" -W ignore - <<'PY'
import nbformat
import papermill

cells = [
    nbformat.v4.new_code_cell("seeds = [0]\ngrid = {}", metadata={"tags": ["parameters"]}),
    nbformat.v4.new_code_cell("print(len([seed for seed in seeds]))"),
]
notebook = nbformat.v4.new_notebook(cells=cells)
notebook.metadata["kernelspec"] = {"name": "finding", "language": "python", "display_name": "Python 3"}
nbformat.write(notebook, "x.ipynb")


def run(parameters):
    papermill.execute_notebook("x.ipynb", "ran.ipynb", parameters=parameters, progress_bar=False)
    ran = nbformat.read("ran.ipynb", as_version=4)
    written = next(cell.source for cell in ran.cells if "injected-parameters" in cell.metadata.get("tags", []))
    return written, ran.metadata["papermill"]["parameters"], ran.cells[-1].outputs[0]["text"].strip()


written, recorded, seeds = run({"seeds": (1, 2), "grid": {"margin": (1, 2)}})
print("papermill", papermill.__version__)
print(written)
print("recorded:", dict(recorded), "seeds:", seeds)
_, _, again = run(dict(recorded))
print("seeds of a run from the record:", again)
assert 'seeds = "(1, 2)"' in written and 'grid = {"margin": "(1, 2)"}' in written, "a tuple is kept, or refused, now"
assert recorded["seeds"] == [1, 2] and (seeds, again) == ("6", "2")
PY
