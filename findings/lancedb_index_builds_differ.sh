#!/usr/bin/env bash
# LanceDB 0.40.0: an IVF_PQ or HNSW index that is built twice on the same rows, by the same calls, answers the same
# questions differently, and no seed can be given.
#
# A good guess says that `create_index` on an unchanged table is repeatable, as it is in libraries that take a seed. It is
# not: the k-means behind the partitions and codes, and the levels of the graph, start from random states that the Python
# API does not expose. So a check that two builds score the same, item by item, fails for a sound build, and "inside what
# five builds gave" fails for one sound build in three.
#
# Seen (4,000 rows of 64 dimensions, 50 questions, top 100): IVF_PQ differs on 50 of 50 questions, IVF_HNSW_SQ on 6 and 17 of 50 in two runs.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "lancedb==0.40.0" "numpy==2.4.0" "pyarrow==26.0.0"
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
import inspect

import lancedb
import numpy as np
import pyarrow as pa

rng = np.random.default_rng(0)
rows = rng.standard_normal((4000, 64)).astype("float32")
asked = rng.standard_normal((50, 64)).astype("float32")
vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), 64)
table = lancedb.connect("db").create_table("rows", pa.table({"id": pa.array(range(len(rows))), "vector": vectors}))
assert "seed" not in inspect.signature(table.create_index).parameters, "create_index takes a seed now"


def answers(**index):
    table.create_index(metric="cosine", vector_column_name="vector", replace=True, **index)
    found = []
    for question in asked:
        hits = table.search(question).distance_type("cosine").select(["id", "_distance"]).limit(100).to_arrow()
        found.append(hits["id"].to_pylist())
    return found


print("lancedb", lancedb.__version__)
kinds = {
    "IVF_PQ": {"index_type": "IVF_PQ", "num_partitions": 16, "num_sub_vectors": 8},
    "IVF_HNSW_SQ": {"index_type": "IVF_HNSW_SQ", "num_partitions": 1},
}
for name, index in kinds.items():
    first, second = answers(**index), answers(**index)
    differ = sum(a != b for a, b in zip(first, second))
    print(f"{name}: two builds of the same rows differ on {differ} of {len(asked)} questions")
    assert differ > 0, f"{name} is repeatable now"
PY
