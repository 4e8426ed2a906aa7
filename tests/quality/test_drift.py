"""The drift watch: exact under the claim, quick where the rate has doubled, the same however it is interrupted."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import bdtrik
from scipy.stats import binom

from workbench.errors import ConfigError
from workbench.quality.monitoring import ODDS, DriftWatch, log_capital


def alarm_limits(labelled: npt.NDArray[np.int64], alpha: float, delta: float) -> npt.NDArray[np.int64]:
    """Fewest false labels that are an alarm after so many labels; one more than there are labels for none."""
    low, high = np.zeros_like(labelled), labelled + 1  # capital grows with the false ones
    while (low < high).any():
        middle = (low + high) // 2
        reached = log_capital(labelled, middle, alpha) >= -np.log(delta)
        low, high = np.where(reached, low, np.minimum(middle + 1, high)), np.where(reached, middle, high)
    return high


@dataclass(frozen=True, slots=True)
class WatchTrial:
    """What the watch does at one true rate.

    ``alarmed`` is the share of streams with an alarm, ``median`` the labels until then (None where under half have
    one), ``naive`` the share that the exact test for one look, done after every label, would ever have called drift.
    """

    rate: float
    alarmed: float
    median: int | None
    naive: float


def watch_trials(
    alpha: float,
    rates: Sequence[float],
    *,
    delta: float = 0.05,
    streams: int = 1000,
    looks: int = 2000,
    run: int = 1,
    seed: int = 0,
) -> list[WatchTrial]:
    """Simulate streams of labels with each true rate; ``run`` labels in a row share one fate."""
    rng, labelled = np.random.default_rng(seed), np.arange(1, looks + 1)
    limits = alarm_limits(labelled, alpha, delta)
    once = np.ceil(np.nan_to_num(bdtrik(1 - delta, labelled, alpha)))
    trials = []
    for rate in rates:
        fates = rng.random((streams, -(-looks // run))) < rate
        false = fates.repeat(run, axis=1)[:, :looks].cumsum(1)
        alarms = false >= limits
        at = np.sort(np.where(alarms.any(1), alarms.argmax(1) + 1.0, np.inf))
        median = at[(streams - 1) // 2]
        alarmed, naive = np.isfinite(at).mean(), (false > once).any(1).mean()
        trials.append(WatchTrial(rate, float(alarmed), int(median) if np.isfinite(median) else None, float(naive)))
    return trials


@given(labels=st.lists(st.booleans(), max_size=60), alpha=st.floats(0.01, 0.5))
def test_capital_is_the_mean_of_the_bets_products(labels, alpha):
    odds = ODDS * alpha / (1 - alpha)
    bets = (odds / (1 + odds) - alpha) / (alpha * (1 - alpha))
    assert ((bets > 0) & (bets < 1 / alpha)).all()
    capital = np.ones(len(ODDS))
    for label in labels:
        capital = capital * (1 + bets * (label - alpha))
    assert DriftWatch(alpha).add(labels).capital == pytest.approx(capital.mean())


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.3])
def test_capital_grows_on_average_only_where_the_rate_is_above_alpha(alpha):
    n = 50
    false = np.arange(n + 1)
    capital = np.exp(log_capital(np.full(n + 1, n), false, alpha))
    expected = {r: float((binom.pmf(false, n, r) * capital).sum()) for r in (alpha / 2, alpha, 1.5 * alpha)}
    assert expected[alpha] == pytest.approx(1)
    assert expected[alpha / 2] < 1 < expected[1.5 * alpha]


@given(labels=st.lists(st.booleans(), min_size=1, max_size=80), cuts=st.lists(st.integers(0, 80), max_size=4))
def test_a_watch_goes_on_where_it_was_left(labels, cuts):
    whole = DriftWatch(0.1, 0.2).add(labels)
    kept = asdict(DriftWatch(0.1, 0.2))
    for start, end in pairwise([0, *sorted(min(c, len(labels)) for c in cuts), len(labels)]):
        kept = asdict(DriftWatch(**kept).add(labels[start:end]))
    assert DriftWatch(**kept) == whole


def test_an_alarm_comes_with_the_label_that_tips_it_and_stays():
    watch = DriftWatch(0.05).add([True] * 3 + [False] * 500)
    assert watch.alarm_at is None or watch.alarm_at <= 3
    alarmed = DriftWatch(0.05).add([True] * 5)
    assert alarmed.alarm_at is not None
    assert (
        DriftWatch(0.05).add([True] * (alarmed.alarm_at - 1)).capital
        < 20
        <= DriftWatch(0.05).add([True] * alarmed.alarm_at).capital
    )
    later = alarmed.add([False] * 2000)
    assert later.capital < 1
    assert later.alarm_at == alarmed.alarm_at


@pytest.mark.parametrize(("alpha", "delta"), [(0.05, 0.05), (0.02, 0.1)])
def test_repeated_looks_keep_the_promise_and_a_doubled_rate_is_found(alpha, delta):
    kept, doubled = watch_trials(alpha, [alpha, 2 * alpha], delta=delta, streams=1000, looks=2000)
    assert kept.alarmed <= delta
    assert kept.naive > 2.5 * delta  # what looking again and again does to a test for one look
    assert doubled.alarmed > 0.98
    assert 0 < doubled.median < 20 / alpha


def test_limits_grow_with_the_labels():
    assert alarm_limits(np.array([2, 20, 100, 500]), 0.05, 0.05).tolist() == [3, 5, 13, 41]


def test_runs_of_one_fate_break_the_promise():
    assert watch_trials(0.05, [0.05], run=10)[0].alarmed > 0.5


def test_the_simulation_alarms_when_the_watch_does():
    labels = np.random.default_rng(5).random((40, 300)) < 0.2
    at = [DriftWatch(0.1).add(row.tolist()).alarm_at for row in labels]
    trial = watch_trials(0.1, [0.2], streams=40, looks=300, seed=5)[0]
    found = sorted(a for a in at if a is not None)
    assert trial.alarmed == pytest.approx(len(found) / 40)
    assert trial.median == found[19]


def test_what_cannot_be_watched_is_refused():
    for bad in ({"alpha": 0.0}, {"alpha": 0.1, "delta": 1.0}, {"alpha": 0.1, "labelled": 1, "false": 2}):
        with pytest.raises(ConfigError, match="alpha and delta"):
            DriftWatch(**bad)


@pytest.mark.parametrize("label", [None, "false", 0, float("nan")])
def test_a_hit_that_nobody_labelled_is_refused_and_not_counted_as_correct(label):
    with pytest.raises(ConfigError, match="leave out what has none"):
        DriftWatch(0.05).add([True, label])
    assert DriftWatch(0.05).add(np.array([True, False])).labelled == 2
