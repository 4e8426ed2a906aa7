"""Texts that MiniLM encodes in a second of processor time, of this build and of another checkout in turn.

python -m tests.benchmarks.bench_embedding --against CHECKOUT [--pairs 5] [--texts 40]; the texts are docstrings of
pandas (documents), and their first 40 characters (questions).
"""

import argparse
import json
import os
import subprocess
import sys
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np

HERE = Path(__file__).parents[2]
OLD_HOME = "workbench.inference.embedding"  # of MiniLM


def child(texts: int) -> None:
    import pandas as pd

    from workbench.config import load_settings

    encoders = import_module("workbench.inference.encoders" if find_spec("workbench.inference.encoders") else OLD_HOME)
    minilm = encoders.MiniLM(load_settings().cache / "weights")
    named = [getattr(pd.DataFrame, name).__doc__ or "" for name in sorted(dir(pd.DataFrame)) if name[0] != "_"]
    documents = [text[:900] for text in named if len(text) > 300][:texts]
    questions = [text.strip()[:40] for text in documents] * 4
    minilm.embed(documents[:2])  # and everything is loaded
    told: dict[str, object] = {}
    for name, some in (("documents", documents), ("questions", questions)):
        cpu, wall = time.process_time(), time.perf_counter()
        vectors = minilm.embed(some)
        told[name] = len(some) / (time.process_time() - cpu)
        told[f"{name} by the clock"] = len(some) / (time.perf_counter() - wall)
        told[f"{name} vectors"] = vectors[:texts].tolist()
    sys.stdout.write(json.dumps(told))


def run(checkout: Path, texts: int) -> dict[str, object]:
    command = [sys.executable, "-P", __file__, "--child", "--texts", str(texts)]
    env = os.environ | {"PYTHONPATH": str(checkout)}
    return dict(json.loads(subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout))


def main() -> None:
    say = argparse.ArgumentParser()
    say.add_argument("--against", type=Path)
    say.add_argument("--pairs", type=int, default=5)
    say.add_argument("--texts", type=int, default=40)
    say.add_argument("--child", action="store_true")
    given = say.parse_args()
    if given.child:
        child(given.texts)
        return
    found: dict[Path, list[dict[str, object]]] = {given.against.resolve(): [], HERE: []}
    for _ in range(given.pairs):
        for checkout, told in found.items():
            told.append(run(checkout, given.texts))
    before, now = found.values()
    for name in ("documents", "questions"):
        cosines = (np.array(before[0][f"{name} vectors"]) * np.array(now[0][f"{name} vectors"])).sum(1)
        sys.stdout.write(f"{name}: least cosine {cosines.min():.7f}\n")
        for figure, unit in ((name, "a CPU second"), (f"{name} by the clock", "a second")):
            rates = np.array([[told[figure] for told in of] for of in (before, now)], float)
            ratios = rates[1] / rates[0]
            sys.stdout.write(
                f"  before {np.median(rates[0]):.1f}, now {np.median(rates[1]):.1f} texts {unit}; ratio "
                f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})\n"
            )
    sys.stdout.write(f"load of the machine: {os.getloadavg()}, {os.cpu_count()} cores\n")


if __name__ == "__main__":
    main()
