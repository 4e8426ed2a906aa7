"""The promises of the deciding test and of the rule, by simulation; whole tables: ``python -m`` with
``tests.benchmarks.simulate_gate`` and ``tests.benchmarks.simulate_rule``.
"""

from functools import partial

import numpy as np
import pytest

from tests.benchmarks import simulate_rule, simulate_uses
from tests.benchmarks.simulate_gate import checks, few_differ, share
from tests.benchmarks.simulate_rule import ALPHA, WIDE, Trial, World, as_screened, prices

CHECKS = checks()
TRIALS = [*simulate_rule.trials(), *simulate_uses.trials(earlier=False)]
DRAWS = 200
# Of what is only shown in the table nothing can be broken: a few draws say that it can be drawn.
SHOWN_DRAWS = 5
CLOSE = World((-WIDE, -WIDE, 0.0), prices(3, counting=True), WIDE)
CLIMB = {"m": 60, "margin": WIDE, "following": simulate_uses.climb}


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.what)
def test_the_promise_is_kept_within_four_monte_carlo_errors(check):
    draws = SHOWN_DRAWS if check.bound is None else DRAWS
    kept, line = check.line(share(check, draws), draws, errors=4)
    assert kept, line


@pytest.mark.parametrize("m", [30, 60, 120])
@pytest.mark.parametrize(("differing", "status"), [(0, "identical"), (1, "inconclusive"), (9, "inconclusive")])
def test_too_few_differing_clusters_are_never_a_claim(m, differing, status):
    assert all(few_differ(np.random.default_rng(s), status, m=m, differing=differing) for s in range(20))


@pytest.mark.slow
@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.what)
def test_the_rule_keeps_its_promise_within_four_monte_carlo_errors(trial):
    lines = trial.lines(DRAWS if trial.promises else SHOWN_DRAWS, errors=4)
    promised = [line for line in lines if any(f" {part}: " in line[1] for part in trial.promises)]
    assert len(promised) >= bool(trial.promises)
    assert all(kept for kept, _ in lines), "\n".join(line for _, line in lines)


@pytest.mark.parametrize(
    ("what", "event", "promise"),
    [
        ("the named arm", partial(simulate_rule.below_the_best, world=CLOSE, m=60), "named arm lies the margin below"),
        ("tries", partial(simulate_uses.tries, effect=-WIDE, kind="0/1", **CLIMB), "any try is chosen"),
        ("tries of equals", partial(simulate_uses.tries, effect=0.0, kind="0/1", **CLIMB), "any try is shown better"),
    ],
)
def test_a_false_claim_is_as_rare_as_is_said_in_few_draws(what, event, promise):
    ((kept, line),) = Trial(what, event, {promise: ("at most", ALPHA)}).lines(40, errors=4)
    assert kept, line


def test_twenty_small_losses_do_not_add_up_where_the_earlier_rule_let_them():
    event = partial(simulate_uses.slide, m=60, margin=WIDE, fresh=True)
    found = {line.split(": twenty")[0]: float(line.split()[0]) for _, line in Trial("twenty", event, {}).lines(15)}
    by = {name: share for name, share in found.items() if "in use is more" in name}
    assert [share for name, share in by.items() if "earlier" in name] > [0.5]
    assert [share for name, share in by.items() if "earlier" not in name] == [0.0]


def test_the_chance_that_the_screen_tells_is_that_of_all_arms_at_once():
    equal = World((0.0,) * 8, prices(8, counting=True), WIDE)
    draws = [as_screened(np.random.default_rng(seed), world=equal, m=60) for seed in range(60)]
    assert abs(np.nanmean([draw["told minus what came true"] for draw in draws])) < 0.26
