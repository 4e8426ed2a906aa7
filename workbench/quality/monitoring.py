"""Does what was decided still hold? Tests that may be looked at again and again.

`DriftWatch` asks whether live hits of a cache still keep what was certified, after every label, and may be stopped any
time; `QualityWatch` whether the quality of answers has dropped, period by period.

A certificate speaks of the traffic it was made from. Afterwards some live hits are drawn and labelled. Against "the
false-hit rate is at most alpha" a gambler bets on every label: its capital is multiplied by 1 + lambda (y - alpha),
y = 1 for a false hit. While the claim holds, no choice of lambda in [0, 1/alpha] makes capital grow on average, so
that by Ville's inequality it ever reaches 1/delta with probability delta at most, however often one looks. How to bet:
Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS B 2024, arXiv 2010.09686.
Here the capital is split evenly over fixed bets, each the best one against one higher rate; where these win, the
capital that is at stake next is theirs, so that the mixture learns the rate without looking ahead.

The promise needs labels whose chance of being false, given those before, is at most alpha. Draw at random over all hits
of a period: hits in a row that one cached entry served share one fate. With runs of 10 labels of one fate a rate of
exactly alpha = .05 was called drift in 58 % of 1,000 streams of 2,000 labels, not in 5 %.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from workbench.errors import ConfigError

ODDS = np.array([1.25, 1.5, 2.0, 3.0, 5.0, 10.0])  # of the rates that are bet on, over the odds of alpha


@dataclass(frozen=True, slots=True)
class DriftWatch:
    """Evidence against "the false-hit rate is at most alpha"; plain values, so that it is kept and gone on with.

    Attributes
    ----------
    delta : float
        Chance of an alarm, ever, while the rate is at most alpha.
    labelled, false : int
        Labels so far; they are all the evidence there is, because the bets are fixed.
    alarm_at : int or None
        Number of labels at which the alarm came; it stays. After a new certificate begin anew.

    Examples
    --------
    >>> watch = DriftWatch(0.05).add([False] * 40)
    >>> watch.alarm_at, watch.add([True, True, False] * 10).alarm_at
    (None, 53)
    """

    alpha: float
    delta: float = 0.05
    labelled: int = 0
    false: int = 0
    alarm_at: int | None = None

    def __post_init__(self) -> None:
        if not (0 < self.alpha < 1 and 0 < self.delta < 1 and 0 <= self.false <= self.labelled):
            raise ConfigError(f"alpha and delta must be in (0, 1), false labels at most all labels: {self}")

    @property
    def capital(self) -> float:
        """What 1 has become; 1/delta is an alarm."""
        return float(np.exp(log_capital(np.array(self.labelled), np.array(self.false), self.alpha)))

    def add(self, labels: Iterable[bool]) -> Self:
        """Go on with the labels of further hits, True for a false one, looked at one by one.

        Raises
        ------
        ConfigError
            If a label is neither True nor False: a hit that nobody has labelled is no correct one.
        """
        watch = self
        for label in labels:
            if not isinstance(label, bool | np.bool_):
                raise ConfigError(f"a label is True for a false hit or False, found {label!r}; leave out what has none")
            watch = replace(watch, labelled=watch.labelled + 1, false=watch.false + bool(label))
            if watch.alarm_at is None and watch.capital >= 1 / watch.delta:
                watch = replace(watch, alarm_at=watch.labelled)
        return watch


def log_capital(labelled: npt.NDArray[np.int64], false: npt.NDArray[np.int64], alpha: float) -> npt.NDArray[np.float64]:
    """Logarithm of the mean over the bets of prod(1 + lambda (y - alpha)), for counts of any one shape."""
    odds = ODDS * alpha / (1 - alpha)
    rates = odds / (1 + odds)
    bets = (rates - alpha) / (alpha * (1 - alpha))
    won, lost = np.log1p(bets * (1 - alpha)), np.log1p(-bets * alpha)
    each = np.multiply.outer(false, won) + np.multiply.outer(labelled - false, lost)
    mixed: npt.NDArray[np.float64] = logsumexp(each, axis=-1) - np.log(len(ODDS))
    return mixed


PATHS = 20_000  # simulated histories without a drop, by which critical values are found


@dataclass(frozen=True, slots=True)
class Week:
    """Graded calls of one period: their mean in [0, 1], its standard error, how many; and which judge graded them."""

    mean: float
    se: float
    n: int
    grader: str = ""

    def __post_init__(self) -> None:
        if not (0 <= self.mean <= 1 and self.se >= 0 and self.n > 1):
            raise ConfigError(f"a week has two graded calls or more, with a mean in [0, 1], found {self}")

    @property
    def information(self) -> float:
        """Calls that are right or wrong, each on its own, which would tell as much."""
        return self.mean * (1 - self.mean) / self.se**2 if self.se and 0 < self.mean < 1 else float(self.n)


@dataclass(frozen=True, slots=True)
class QualityAlarm:
    """A drop: seen after so many weeks, and from which week on it most likely holds (both from 1)."""

    seen: int
    since: int
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class QualityWatch:
    """``QualityWatch().alarm(baseline, weeks)``: has quality dropped? Asked each week, false in alpha of histories.

    For every week in which a drop may have begun, the mean since then is compared with all that came before, the
    baseline included; the largest of these differences, in standard errors, is the evidence (a scan over change
    points: Siegmund 1985). Each look spends alpha / looks, with the critical value that simulated histories without a
    drop give at the information seen so far (Lan and DeMets 1983): what comes later needs not be known, and a look
    that was made is never judged anew.

    Attributes
    ----------
    alpha : float
        Chance of an alarm over all looks while nothing changes.
    looks : int
        How often it is looked at most; then begin anew, with a new baseline.
    """

    alpha: float = 0.05
    looks: int = 26
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1 or self.looks < 1:
            raise ConfigError(f"alpha must be in (0, 1) and looks at least 1, found {self.alpha} and {self.looks}")

    def alarm(self, baseline: Week, weeks: Sequence[Week]) -> QualityAlarm | None:
        """First alarm of a series, None where there is none.

        Raises
        ------
        ConfigError
            If the series is longer than the looks, or another judge or rubric graded a part of it, whose difference
            would pass for a drop; or if all of the baseline is right, or wrong.
        """
        series = (baseline, *weeks)
        if len(weeks) > self.looks:
            raise ConfigError(f"this watch may be looked at {self.looks} times, found {len(weeks)}; begin anew")
        if len(graders := {w.grader for w in series}) > 1:
            raise ConfigError(
                f"several graders in one series: {', '.join(sorted(graders))}; grade a part of the old calls with the "
                "new one and begin there"
            )
        if not 0 < baseline.mean < 1:
            raise ConfigError(f"a baseline of {baseline.mean:.0%} has no spread to tell a drop by; take a longer one")
        if not weeks:
            return None
        n, means = np.array([w.information for w in series]), np.array([w.mean for w in series])
        found, limits = scan(means[None], n)[0], self.critical(n, baseline.mean)
        over = found.max(axis=1) > limits
        if not over.any():
            return None
        look = int(over.argmax())
        since = int(found[look].argmax()) + 1
        before, after = (
            float(np.average(means[part], weights=n[part])) for part in (slice(since), slice(since, look + 2))
        )
        return QualityAlarm(look + 1, since, before, after)

    def critical(self, information: npt.NDArray[np.float64], rate: float) -> npt.NDArray[np.float64]:
        """Critical value of each look, shape (weeks,).

        Parameters
        ----------
        information : ndarray of float, shape (1 + weeks,)
            Graded calls per period, the baseline's first.
        rate : float
            Share that is right in the simulated histories: near 0 and 1 drops and rises are not alike.
        """
        calls = np.maximum(np.rint(information), 1).astype(np.int64)
        # each period has its own draws, so that one more moves none of the earlier limits
        drawn = [np.random.default_rng([self.seed, i]).binomial(n, rate, PATHS) / n for i, n in enumerate(calls)]
        largest = scan(np.column_stack(drawn), information).max(axis=2)
        alive, limits = np.ones(PATHS, bool), []
        # less two standard errors of the simulation, so that its luck is not the watch's
        alpha = max(self.alpha - 2 * (self.alpha * (1 - self.alpha) / PATHS) ** 0.5, self.alpha / 2)
        for look in range(len(calls) - 1):
            allowed = int(PATHS * alpha * (look + 1) / self.looks) - int((~alive).sum())
            left = np.sort(largest[alive, look])
            limits.append(float(left[-allowed - 1]) if allowed > 0 else np.inf)
            alive &= largest[:, look] <= limits[-1]
        return np.array(limits)


def scan(means: npt.NDArray[np.float64], information: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Drop in standard errors for every look and every week in which it may have begun, shape (paths, weeks, weeks).

    ``means`` (paths, 1 + weeks) begin with the baseline, whose spread is that of one call. Weeks after the look are
    minus infinity.
    """
    n, weeks = np.cumsum(information), means.shape[1] - 1
    sums = np.cumsum(means * information, axis=1)
    rate = np.clip(means[:, :1], 1 / (2 * information[0]), 1 - 1 / (2 * information[0]))
    spread = np.sqrt(rate * (1 - rate))
    out = np.full((len(means), weeks, weeks), -np.inf)
    for look in range(weeks):
        starts = np.arange(look + 1)
        before, since = n[starts], n[look + 1] - n[starts]
        difference = sums[:, starts] / before - (sums[:, [look + 1]] - sums[:, starts]) / since
        out[:, look, : look + 1] = difference / (spread * np.sqrt(1 / before + 1 / since))
    return out
