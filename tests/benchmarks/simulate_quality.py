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

from workbench.quality.monitoring import QualityWatch, scan_quality_weeks

WEEKLY, WEEKS, BASELINE_WEEKS, RUNS, NO_DROP = 200, 26, 26, 2000, 20_000
STEP, AT_ONCE = 0.005, 1000  # between the rates that critical values are found at; series that are scanned at a time
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
    """Week of the first alarm of each run, infinity for none; critical values are those of its own baseline's rate."""
    information = np.array([baseline_weeks * WEEKLY, *[WEEKLY] * WEEKS], float)
    rates, which = np.unique(np.round(baseline / STEP) * STEP, return_inverse=True)
    limits = np.array([watch.critical(information, float(rate)) for rate in rates])[which]
    out = []
    for part in np.array_split(np.arange(len(weeks)), max(len(weeks) // AT_ONCE, 1)):
        over = (
            scan_quality_weeks(np.column_stack([baseline[part], weeks[part]]), information).max(axis=2) > limits[part]
        )
        out.append(np.where(over.any(1), over.argmax(1) + 1.0, np.inf))
    return np.concatenate(out)


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


def simulate(
    runs: int = RUNS, baseline_weeks: int = BASELINE_WEEKS, no_drop: int = NO_DROP
) -> tuple[float, list[Shares], list[Shares]]:
    """False alarms over 26 weeks in ``no_drop`` runs, and what the watch and the CUSUM see of each drop."""
    watch, limit = QualityWatch(ALPHA, WEEKS), cusum_limit()
    false = float(np.isfinite(watch_alarms(*graded(None, no_drop, 1, baseline_weeks), baseline_weeks, watch)).mean())
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
        se = (ALPHA * (1 - ALPHA) / NO_DROP) ** 0.5
        told = f"false alarms {false:.2%} of {NO_DROP:,} (standard error {se:.2%})"
        print(f"baseline of {baseline_weeks} weeks ({baseline_weeks * WEEKLY} graded): {told}")
        for watch, known in zip(mine, ceiling, strict=True):
            told = " / ".join(f"{share:.0%}" for share in watch.within)
            top = " / ".join(f"{share:.0%}" for share in known.within)
            print(f"  drop in week {watch.start:2}: within {WITHIN} weeks {told}; CUSUM that knows both {top}")


if __name__ == "__main__":
    main()
