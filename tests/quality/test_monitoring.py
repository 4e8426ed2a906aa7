"""The quality watch: level kept over all looks, drops found, judges not mixed, old looks never judged anew."""

import numpy as np
import pytest

from tests.benchmarks.simulate_quality import graded, simulate, watch_alarms
from workbench.errors import ConfigError
from workbench.quality.monitoring import QualityWatch, Week, scan_quality_weeks

LEVEL = 0.05 + 2 * (0.05 * 0.95 / 4000) ** 0.5  # 5 % and two standard errors of 4,000 series
BASELINE = Week(0.8, (0.8 * 0.2 / 1600) ** 0.5, 1600, "judge v1")


def weeks(*means, n=200, grader="judge v1"):
    return [Week(m, (m * (1 - m) / n) ** 0.5, n, grader) for m in means]


def test_level_and_power_over_26_weeks():
    false, mine, ceiling = simulate(baseline_weeks=26, no_drop=4000)
    assert false <= LEVEL
    assert [round(c.within[0], 2) for c in ceiling] == pytest.approx([0.71] * 3, abs=0.03)
    for watch, known in zip(mine, ceiling, strict=True):
        assert watch.within[0] > 0.55
        assert watch.within[2] > 0.88
        assert all(w <= k + 0.02 for w, k in zip(watch.within, known.within, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("baseline_weeks", [1, 2, 4, 8])
def test_level_with_the_rate_of_each_series_own_short_baseline(baseline_weeks):
    alarms = watch_alarms(*graded(None, 4000, 5, baseline_weeks), baseline_weeks, QualityWatch())
    assert np.isfinite(alarms).mean() <= LEVEL


def test_a_drop_is_dated_and_sized():
    found = QualityWatch().alarm(BASELINE, weeks(0.81, 0.79, 0.8, 0.7, 0.71, 0.69))
    assert (found.seen, found.since) == (4, 4)
    assert found.before == pytest.approx(0.8, abs=0.002)
    assert found.after == pytest.approx(0.7, abs=0.002)
    assert QualityWatch().alarm(BASELINE, weeks(0.8, 0.81, 0.79, 0.83, 0.8)) is None
    assert QualityWatch().alarm(BASELINE, []) is None


def test_a_look_that_was_made_is_never_judged_anew():
    series = weeks(0.8, 0.7, 0.7, 0.72, 0.9, 0.9, 0.9)
    watch = QualityWatch()
    first = next(i for i in range(1, 8) if watch.alarm(BASELINE, series[:i]))
    assert all(watch.alarm(BASELINE, series[:i]).seen == first for i in range(first, 8))
    information = np.array([w.information for w in (BASELINE, *series)])
    short, whole = watch.critical(information[:4], 0.8), watch.critical(information, 0.8)
    assert short.tolist() == whole[:3].tolist()


def test_another_judge_breaks_the_series():
    with pytest.raises(ConfigError, match="several graders in one series: judge v1, judge v2"):
        QualityWatch().alarm(BASELINE, weeks(0.8, grader="judge v2"))


def test_looks_beyond_the_plan_and_what_has_no_spread_are_refused():
    with pytest.raises(ConfigError, match="3 times, found 4"):
        QualityWatch(looks=3).alarm(BASELINE, weeks(0.8, 0.8, 0.8, 0.8))
    with pytest.raises(ConfigError, match="no spread"):
        QualityWatch().alarm(Week(1.0, 0.0, 50, "judge v1"), weeks(0.9))
    for bad in ({"mean": 1.2, "se": 0.1, "n": 9}, {"mean": 0.5, "se": 0.1, "n": 1}):
        with pytest.raises(ConfigError, match="a week has"):
            Week(**bad)
    with pytest.raises(ConfigError, match="alpha must"):
        QualityWatch(alpha=0)


def test_a_week_without_a_fault_is_one_of_its_number_of_calls():
    assert Week(1.0, 0.0, 50).information == 50
    assert weeks(0.8)[0].information == pytest.approx(200)
    assert Week(0.8, (2 * 0.8 * 0.2 / 200) ** 0.5, 200).information == pytest.approx(100)


def test_the_scan_is_the_difference_of_two_means():
    found = scan_quality_weeks(np.array([[0.8, 0.6, 0.7]]), np.array([100.0, 50, 50]))
    assert found[0, 0, 0] == pytest.approx(0.2 / (0.4 * (1 / 100 + 1 / 50) ** 0.5))
    assert found[0, 1, 1] == pytest.approx((110 / 150 - 0.7) / (0.4 * (1 / 150 + 1 / 50) ** 0.5))
    assert found[0, 0, 1] == -np.inf
