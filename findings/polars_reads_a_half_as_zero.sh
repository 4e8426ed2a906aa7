#!/usr/bin/env bash
# polars 2.1.0: rows as dicts whose first 100 scores are whole numbers lose the fractions of all later ones, and a key
# that first comes after them is left out; nothing is raised, although `strict` is true.
#
# A good guess says that a value which does not fit the type that was guessed is an error, as the documentation of
# `strict` has it, and as it is for a list of numbers and for JSON Lines. For dicts, the way results of a run come, 0.5
# becomes 0 and 1.75 becomes 1: a mean of graded answers that begin with a hundred right ones is too low, and a column
# `error` is gone where failures come late. `infer_schema_length=None`, or a schema, keeps both.
#
# Known: that keys are lost (pola-rs/polars#23190, open); no report of the fractions was found.
#
# Seen: Int64, 0 and 1 for 0.5 and 1.75, and no column "error", by DataFrame and by from_dicts; an error for a list.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "polars==2.1.0"
"$work/venv/bin/python" - <<'PY'
import polars as pl

rows = [{"item": i, "score": 1} for i in range(100)]
rows += [{"item": 100, "score": 0.5}, {"item": 101, "score": 1.75, "error": "timeout"}]
print("polars", pl.__version__)
for make in (pl.DataFrame, pl.from_dicts):
    frame = make(rows, strict=True) if make is pl.DataFrame else make(rows)
    print(make.__name__, frame.schema, frame["score"].tail(2).to_list())
    assert frame["score"].tail(2).to_list() == [0, 1], "fractions are kept, or refused, now"
    assert frame.columns == ["item", "score"], "a late key is kept, or refused, now"
whole = pl.DataFrame(rows, infer_schema_length=None)
print("all rows looked at:", whole.schema, whole["score"].tail(2).to_list())
assert whole["score"].tail(2).to_list() == [0.5, 1.75] and whole["error"].null_count() == 101
try:
    pl.DataFrame({"score": [row["score"] for row in rows]})
except TypeError as error:
    print("as a list:", str(error).splitlines()[0])
else:
    raise AssertionError("a list of mixed numbers is no longer refused")
PY
