# ruff: noqa: T201
"""How soon a drop in quality is seen, and how often none is: ``python -m tests.benchmarks.simulate_quality``.

Quality of 80 % falls to 75 % in week 1, 7 or 14; 200 calls are graded a week, the baseline is estimated from what was
graded in the weeks before. Beside `QualityWatch` stands a CUSUM that knows baseline and drop, with the same share of
false alarms over 26 weeks: what nobody can reach who has to estimate them.
"""

import sys
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from workbench.quality.monitoring import QualityWatch, scan

WEEKLY, WEEKS, BASELINE_WEEKS, RUNS = 200, 26, 26, 2000
GOOD, BAD, ALPHA = 0.80, 0.75, 0.05
STARTS, WITHIN = (1, 7, 14), (4, 6, 8)
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Shares:
    """Share of runs flagged within so many weeks of the drop; ``early`` is the share flagged before it."""

    start: int
    within: tuple[float, ...]
    early: float


def graded(start: int | None, runs: int, seed: int, baseline_weeks: int) -> tuple[Floats, Floats]:
    """Baselines (runs,) and weekly means (runs, weeks), with a drop from week ``start`` on."""
    rng = np.random.default_rng([seed, start or 0])
    rate = np.full(WEEKS, GOOD)
    if start is not None:
        rate[start - 1 :] = BAD
    n = baseline_weeks * WEEKLY
    return rng.binomial(n, GOOD, runs) / n, rng.binomial(WEEKLY, rate, (runs, WEEKS)) / WEEKLY


def watch_alarms(baseline: Floats, weeks: Floats, baseline_weeks: int, watch: QualityWatch) -> Floats:
    """Week of the first alarm of each run, infinity for none."""
    information = np.array([baseline_weeks * WEEKLY, *[WEEKLY] * WEEKS], float)
    found = scan(np.column_stack([baseline, weeks]), information).max(axis=2)
    # the rate of the baseline moves critical values by little; one for all runs spares 2,000 simulations
    over = found > watch.critical(information, float(baseline.mean()))
    return np.where(over.any(1), over.argmax(1) + 1.0, np.inf)


def cusum(weeks: Floats) -> Floats:
    """The largest statistic up to each week of the CUSUM that knows both rates."""
    good = WEEKLY * weeks
    gain = good * np.log(BAD / GOOD) + (WEEKLY - good) * np.log((1 - BAD) / (1 - GOOD))
    out, level = np.zeros_like(weeks), np.zeros(len(weeks))
    for week in range(weeks.shape[1]):
        level = np.maximum(0, level + gain[:, week])
        out[:, week] = level
    return out


def cusum_limit(runs: int = 20_000) -> float:
    """Limit that the CUSUM crosses in 5 % of histories of 26 weeks without a drop."""
    return float(np.quantile(cusum(graded(None, runs, 99, 1)[1]).max(1), 1 - ALPHA))


def shares(alarms: Floats, start: int) -> Shares:
    """Of the runs that were not flagged before the drop, how many were within so many weeks of it."""
    early = alarms < start
    at = alarms[~early]
    return Shares(start, tuple(float((at <= start + w - 1).mean()) for w in WITHIN), float(early.mean()))


def simulate(runs: int = RUNS, baseline_weeks: int = BASELINE_WEEKS) -> tuple[float, list[Shares], list[Shares]]:
    """False alarms over 26 weeks, and what the watch and the CUSUM see of each drop."""
    watch, limit = QualityWatch(ALPHA, WEEKS), cusum_limit()
    false = float(np.isfinite(watch_alarms(*graded(None, runs, 1, baseline_weeks), baseline_weeks, watch)).mean())
    mine, ceiling = [], []
    for start in STARTS:
        baseline, weeks = graded(start, runs, 2, baseline_weeks)
        mine.append(shares(watch_alarms(baseline, weeks, baseline_weeks, watch), start))
        over = cusum(weeks) > limit
        ceiling.append(shares(np.where(over.any(1), over.argmax(1) + 1.0, np.inf), start))
    return false, mine, ceiling


def main() -> None:
    """Print the table."""
    for baseline_weeks in [int(a) for a in sys.argv[1:]] or [4, 8, 26]:
        false, mine, ceiling = simulate(baseline_weeks=baseline_weeks)
        print(f"baseline of {baseline_weeks} weeks ({baseline_weeks * WEEKLY} graded): false alarms {false:.1%}")
        for watch, known in zip(mine, ceiling, strict=True):
            told = " / ".join(f"{share:.0%}" for share in watch.within)
            top = " / ".join(f"{share:.0%}" for share in known.within)
            print(f"  drop in week {watch.start:2}: within {WITHIN} weeks {told}; CUSUM that knows both {top}")


if __name__ == "__main__":
    main()
