#!/usr/bin/env bash
# nh3 0.3.8: clean() takes time by the square of the depth of nested block elements; unclosed ones suffice.
#
# A good guess says that a cleaner in Rust takes milliseconds for a megabyte. At each <div>, <p>, <ul> ... the parser
# looks through all open elements for a paragraph to close (as the HTML standard says), and nh3 sets no limit to how
# many may be open, where browsers stop at 512. Half a megabyte of `<div>` takes a minute; inline elements take no time.
#
# Seen: 5,000 nested <div> 0.1 s, 20,000 2.6 s, 100,000 73 s; 20,000 nested <span> 0.03 s.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "nh3==0.3.8"
cd "$work"
"$work/venv/bin/python" - <<'PY'
import time
from importlib.metadata import version

import nh3


def seconds(tag: str, depth: int) -> float:
    took = []
    for _ in range(3):
        started = time.process_time()
        nh3.clean(f"<{tag}>" * depth)
        took.append(time.process_time() - started)
    return min(took)


print("nh3", version("nh3"))
for tag in ("span", "div"):
    print(tag, {depth: round(seconds(tag, depth), 3) for depth in (5_000, 10_000, 20_000)})
growth = seconds("div", 20_000) / seconds("div", 5_000)
print(f"four times the depth takes {growth:.0f} times as long")
assert growth > 9, "nested blocks no longer take time by the square of their depth"
PY
