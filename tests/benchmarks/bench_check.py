# ruff: noqa: T201
"""`workbench check` of this build and of another, in turn, in one run, with everything in the cache.

python -m tests.benchmarks.bench_check --against CHECKOUT --cache BEFORE NOW [--pairs 5] [--project FOLDER] [NAME ...]

Each build checks the accepted decisions of its own project: the other one those of CHECKOUT, this one those of FOLDER,
or of this checkout, with a cache each. Whole processes with their kernels: seconds by the clock and of processor time,
and the largest process. The first pair fills the caches and is not counted.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parents[2]
CODE = "import sys; from workbench.cli import app; app()"
FIGURES = {"wall s": "wall", "CPU s": "cpu", "largest process, MB": "peak_mb"}


@dataclass(frozen=True, slots=True)
class Checked:
    """What one check took, with what it said of each decision."""

    wall: float
    cpu: float
    peak_mb: float
    verdicts: tuple[str, ...]


def check(build: Path, project: Path, cache: Path, notebooks: Sequence[str]) -> Checked:
    """One check from the command line; a decision that does not hold is a result, and a run that fails is not."""
    with tempfile.TemporaryDirectory() as runs:
        places = {"WORKBENCH_ROOT": project, "WORKBENCH_CACHE": cache, "WORKBENCH_RUNS": runs, "PYTHONPATH": build}
        command = [sys.executable, "-c", CODE, "check", *notebooks]
        started = time.perf_counter()
        child = subprocess.Popen(
            command, env={**os.environ, **{name: str(value) for name, value in places.items()}}, cwd=project,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert child.stdout is not None
        said = child.stdout.read()
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode not in (0, 1, 2):
            raise SystemExit(f"the check of {build} failed:\n{said[-3000:]}")
        verdicts = re.findall(r"^(\S+/\S+  \w+):", said, re.MULTILINE)
        wall = time.perf_counter() - started
        return Checked(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, tuple(verdicts))


def main() -> None:
    """Say each pair as it ends, then medians, and the ratios of the pairs."""
    say = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    say.add_argument("notebooks", nargs="*")
    say.add_argument("--against", type=Path, required=True)
    say.add_argument("--pairs", type=int, default=5)
    say.add_argument("--project", type=Path, default=HERE)
    say.add_argument("--cache", type=Path, nargs=2, metavar=("BEFORE", "NOW"), required=True)
    given = say.parse_args()
    other, project = given.against.resolve(), given.project.resolve()
    pairs: list[tuple[Checked, Checked]] = []
    for number in range(given.pairs + 1):
        before = check(other, other, given.cache[0].resolve(), given.notebooks)
        now = check(HERE, project, given.cache[1].resolve(), given.notebooks)
        print(f"{'warming' if not number else f'pair {number}'}: {before}\n  {now}", flush=True)
        pairs += [(before, now)] if number else []
    print("| figure | before | now | median ratio | least to most |\n|---|---|---|---|---|")
    for name, key in FIGURES.items():
        both = [(getattr(a, key), getattr(b, key)) for a, b in pairs]
        ratios = [b / a for a, b in both]
        middle = [median(side) for side in zip(*both, strict=True)]
        least, most = min(ratios), max(ratios)
        print(f"| {name} | {middle[0]:.1f} | {middle[1]:.1f} | {median(ratios):.2f} | {least:.2f} to {most:.2f} |")


if __name__ == "__main__":
    main()
