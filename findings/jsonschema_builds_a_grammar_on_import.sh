#!/usr/bin/env bash
# jsonschema 4.26.0 with rfc3987-syntax 1.1.0, which jupyter-events asks for: importing jsonschema takes a second.
#
# A good guess says that a checker of a format costs when the format is checked. jsonschema imports rfc3987_syntax for
# the format `iri` when it is itself imported, and that module builds an Earley parser from the grammar of RFC 3987
# when it is imported: about a second of processor time in every process that imports nbformat, nbclient or papermill,
# whose schemas have no `iri`. JupyterLab brings it, through jupyter-events and jsonschema[format-nongpl].
#
# Seen: with rfc3987_syntax the import takes at least five times the processor time of the same import without it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "jsonschema[format-nongpl]==4.26.0" "rfc3987-syntax==1.1.0"
cd "$work"
cat >took.py <<'PY'
import sys
import time

if "without" in sys.argv:
    sys.modules["rfc3987_syntax"] = None
before = time.process_time()
import jsonschema

print(time.process_time() - before)
PY
"$work/venv/bin/python" took.py >/dev/null
"$work/venv/bin/python" - <<'PY'
import importlib.metadata
import subprocess
import sys

with_it, without = (
    min(float(subprocess.check_output([sys.executable, "took.py", word])) for _ in range(3)) for word in ("", "without")
)
print("jsonschema", importlib.metadata.version("jsonschema"))
print("rfc3987-syntax", importlib.metadata.version("rfc3987-syntax"))
print(f"import jsonschema: {with_it:.2f} s, without the grammar {without:.2f} s")
assert with_it > 5 * without, "importing jsonschema no longer builds the grammar"
PY
