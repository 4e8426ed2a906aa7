"""Does what was decided still hold? Tests that may be looked at again and again.

`DriftWatch` asks whether live hits of a cache still keep what was certified, after every label, and may be stopped any
time; `MarginWatch` whether one of two systems lies more than a margin below the other, after every pair;
`QualityWatch` whether the quality of answers has dropped, period by period.

A certificate speaks of the traffic it was made from. Afterwards some live hits are drawn and labelled. Against "the
false-hit rate is at most alpha" a gambler bets on every label: its capital is multiplied by 1 + lambda (y - alpha),
y = 1 for a false hit. While the claim holds, no choice of lambda in [0, 1/alpha] makes capital grow on average, so
that by Ville's inequality it ever reaches 1/delta with probability delta at most, however often one looks. How to bet:
Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS B 2024, arXiv 2010.09686.
Here the capital is split evenly over fixed bets, each the best one against one higher rate; where these win, the
capital that is at stake next is theirs, so that the mixture learns the rate without looking ahead. Of differences in
[-1, 1] the fixed bets are doubled from one to the next, so that one is near the best whatever their spread.

The promise needs labels whose chance of being false, given those before, is at most alpha. Draw at random over all hits
of a period: hits in a row that one cached entry served share one fate. With runs of 10 labels of one fate a rate of
exactly alpha = .05 was called drift in 58 % of 1,000 streams of 2,000 labels, not in 5 %.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from workbench.errors import ConfigError
from workbench.rendering.numbers import counted, percent

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
    won, lost = capital_growth(np.array([1.0, 0.0]), alpha, (rates - alpha) / (alpha * (1 - alpha)))
    return mixed_capital(np.multiply.outer(false, won) + np.multiply.outer(labelled - false, lost))


def capital_growth(
    values: npt.NDArray[np.float64], mean: float, bets: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Logarithm of what each value makes of the capital of each bet on "the mean is above this", one column a bet."""
    grown: npt.NDArray[np.float64] = np.log1p(np.multiply.outer(values - mean, bets))
    return grown


def mixed_capital(each: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Logarithm of the capital that was split evenly over bets; the last axis of ``each`` is one bet's logarithm."""
    total: npt.NDArray[np.float64] = logsumexp(each, axis=-1) - np.log(each.shape[-1])
    return total


MOST_STAKED = 0.9  # of the capital, where the worst difference would take all of it
Found = Literal["holds", "broken", "inconclusive"]


@dataclass(frozen=True, slots=True)
class MarginWatch:
    """Evidence for and against "the mean difference is at least minus the margin", of differences in [-1, 1].

    Two gamblers: one bets that the mean is above minus the margin, one that it is below. The first to have 1 / delta
    decides. Only one of them can be wrong, so that a verdict is false with chance delta at most, however often one
    looks, as long as no pair's expected difference, given those before, lies on the other side.

    Attributes
    ----------
    margin, delta : float
        In (0, 1): the difference that is still good enough, and the chance of a false verdict, ever.
    pairs : int
        Pairs so far.
    won : two tuples of float
        Logarithm of what each bet's capital has become: for the margin, and against it.
    decided_at : int or None
        Number of pairs at which the verdict came; it stays.

    Examples
    --------
    >>> watch = MarginWatch(0.1).add(np.zeros(60))
    >>> watch.verdict, watch.decided_at, MarginWatch(0.1).add(-np.ones(9)).verdict
    ('holds', 44, 'broken')
    """

    margin: float
    delta: float = 0.05
    pairs: int = 0
    won: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())
    verdict: Found = "inconclusive"
    decided_at: int | None = None

    def __post_init__(self) -> None:
        if not (0 < self.margin < 1 and 0 < self.delta < 1):
            raise ConfigError(f"margin and delta must be in (0, 1), found {self.margin} and {self.delta}")

    def add(self, low: npt.NDArray[np.float64], high: npt.NDArray[np.float64] | None = None) -> Self:
        """Go on with further pairs, looked at one by one.

        Parameters
        ----------
        low, high : ndarray of float, shape (n,)
            Differences; where one is only bounded, ``low`` counts for the margin and ``high`` against it.

        Raises
        ------
        ConfigError
            If one is not in [-1, 1].
        """
        high = low if high is None else high
        if not len(low):
            return self
        if not (np.abs([low, high]) <= 1).all():
            raise ConfigError("a difference lies in [-1, 1]: give scores in [0, 1], and bounds where there is none")
        paths, reached = [], []
        for values, mean, before in zip((low, -high), (-self.margin, self.margin), self.won, strict=True):
            bets = bet_stakes(mean, self.margin)
            paths.append(capital_growth(values, mean, bets).cumsum(axis=0) + (np.array(before) if before else 0.0))
            over = mixed_capital(paths[-1]) >= -np.log(self.delta)
            reached.append(int(over.argmax()) if over.any() else len(low))
        first, verdict, at = min(reached), self.verdict, self.decided_at
        if at is None and first < len(low):
            verdict, at = ("broken" if reached[1] == first else "holds"), self.pairs + first + 1
        won = (tuple(paths[0][-1].tolist()), tuple(paths[1][-1].tolist()))
        return replace(self, pairs=self.pairs + len(low), won=won, verdict=verdict, decided_at=at)


def bet_stakes(mean: float, margin: float) -> npt.NDArray[np.float64]:
    """Bets on values in [-1, 1] against "the mean is at most this": doubled from the margin to the most that is staked.

    The best against a truth one margin away is about the margin over the variance, and no variance is above 1.
    """
    most = MOST_STAKED / (1 + mean)
    return np.append(margin * 2.0 ** np.arange(max(np.ceil(np.log2(most / margin)), 0)), most)


def mean_bounds(
    low: npt.NDArray[np.float64], high: npt.NDArray[np.float64], margin: float, delta: float, steps: int = 400
) -> tuple[float, float]:
    """Bounds of a mean of values in [-1, 1], each with confidence 1 - delta at all times at once.

    They are the means next to those that the bets have not refuted, on a grid of 2 / steps: a confidence sequence.
    """

    def least(values: npt.NDArray[np.float64]) -> float:
        distinct, counts = np.unique(values, return_counts=True)
        for mean in np.linspace(-1, 1, steps + 1)[1:-1]:
            if mixed_capital(counts @ capital_growth(distinct, mean, bet_stakes(mean, margin))) < -np.log(delta):
                return float(mean) - 2 / steps
        return 1 - 2 / steps

    return (least(low), -least(-high)) if len(low) else (-1.0, 1.0)


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
            raise ConfigError(
                f"this watch may be looked at {counted(self.looks, 'time')}, found {len(weeks)}; begin anew"
            )
        if len(graders := {w.grader for w in series}) > 1:
            raise ConfigError(
                f"several graders in one series: {', '.join(sorted(graders))}; grade a part of the old calls with the "
                "new one and begin there"
            )
        if not 0 < baseline.mean < 1:
            raise ConfigError(
                f"a baseline of {percent(baseline.mean)} has no spread to tell a drop by; take a longer one"
            )
        if not weeks:
            return None
        n, means = np.array([w.information for w in series]), np.array([w.mean for w in series])
        found, limits = scan_quality_weeks(means[None], n)[0], self.critical(n, baseline.mean)
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
        largest = scan_quality_weeks(np.column_stack(drawn), information).max(axis=2)
        alive, limits = np.ones(PATHS, bool), []
        # less two standard errors of the simulation, so that its luck is not the watch's
        alpha = max(self.alpha - 2 * (self.alpha * (1 - self.alpha) / PATHS) ** 0.5, self.alpha / 2)
        for look in range(len(calls) - 1):
            allowed = int(PATHS * alpha * (look + 1) / self.looks) - int((~alive).sum())
            left = np.sort(largest[alive, look])
            limits.append(float(left[-allowed - 1]) if allowed > 0 else np.inf)
            alive &= largest[:, look] <= limits[-1]
        return np.array(limits)


def scan_quality_weeks(means: npt.NDArray[np.float64], information: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
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
