"""A decision's file says until when it stands, and what it says is what the rule then decides."""

import json
from dataclasses import replace

import pytest

from tests.benchmarks.simulate_flips import changes
from tests.command_line import workbench
from tests.evaluation.test_decision import frame, near
from workbench.errors import ConfigError
from workbench.evaluation.decision import ArmFacts, decide, make_claims
from workbench.evaluation.flip_points import decided_at_prices, decided_by_rule, flip_points, flips_table, former_units
from workbench.inference.prices import load_prices
from workbench.records import Decision, Fingerprint, FlipPoint, Rule

MODELS = """version = "2027-01-01"
[models."local/smollm2-135m"]
source = "a letter"
date = "2027-01-01"
usd_per_mtok = {{ input = {usd}, output = {usd} }}
"""


@pytest.fixture(scope="module")
def decision():
    """Half the price and a little worse: chosen at a margin of 0.05."""
    import numpy as np

    base = np.random.default_rng(0).random(240) * 0.4 + 0.5
    scores = frame(best=base, cheap=near(base, -0.01))
    used = [{"openai/gpt-x as declared": 9.0}, {"local/smollm2-135m input": 1e5, "embed_query": 1000.0}]
    rates = {name: load_prices().rate(name) for amounts in used for name in amounts}
    costs = [sum(n * rates[name] for name, n in amounts.items()) for amounts in used]
    facts = [
        ArmFacts(name, {}, costs[i], (300.0, 120.0)[i], i, amounts=used[i])
        for i, name in enumerate(scores["arm"].unique(maintain_order=True))
    ]
    rule = Rule("correctness", "usd_per_1k_requests", "best", 0.05, 0.95)
    claims = make_claims(scores, facts, rule)
    found = decide(claims, rule, order={"best": 0, "cheap": 1}, n_dev_clusters=40)
    made = Decision("routing", "?", "ci", rule, found.verdict, found.arm, {}, "", claims, 240, 120, None, 1,
                    Fingerprint(), n_dev_clusters=40, rates=rates)  # fmt: skip
    return replace(made, flips=flip_points(made))


def test_random_changes_flip_what_the_file_foretells():
    found = list(changes(24, seed=1))
    assert [c for c in found if c.foretold != c.same] == []
    assert sum(not c.same for c in found) >= 5


def test_the_ends_are_the_last_values_at_which_the_rule_gives_the_same(decision):
    flips = {f.figure: f for f in decision.flips}
    assert flips.keys() == {"price of openai/gpt-x", "price of local/smollm2-135m", "price of embed_query", "margin",
                            "requests", "latency limit"}  # fmt: skip
    low, high = flips["margin"].around
    costs = [c.cost_usd_per_1k for c in decision.claims]
    assert low == pytest.approx(-decision.claim("cheap").low)
    assert decided_by_rule(decision, replace(decision.rule, margin=low), costs).arm == "cheap"
    assert decided_by_rule(decision, replace(decision.rule, margin=low * (1 - 1e-15)), costs).verdict == "inconclusive"
    assert flips["margin"].below == "Cannot tell yet: best"
    assert high is None
    dearest = flips["price of local/smollm2-135m"]
    assert dearest.now == 1.0
    assert dearest.around[1] > 100
    assert dearest.unit.startswith("times today's $")
    assert "per million input" in dearest.unit
    assert flips["price of embed_query"].unit == "times today's $0.0667 per million"
    formerly = former_units(decision)["price of embed_query"]
    assert formerly == "times today's $6.668e-08 per one", "as accepted decisions have it, which verify still takes"
    assert flips["latency limit"].now is None
    assert flips["latency limit"].around == (pytest.approx(100.0), None)
    assert "stands to" in flips_table(decision).to_text()


def test_a_price_list_flips_it_without_a_model_call(decision, tmp_path):
    assert decided_at_prices(decision, load_prices()) is None
    path = tmp_path / "models.toml"
    path.write_text(MODELS.format(usd=200), encoding="utf-8")
    found = decided_at_prices(decision, load_prices(models=path))
    assert (found.verdict, found.arm) == ("keep_reference", "best")
    with pytest.raises(ConfigError, match="no price"):
        decided_at_prices(replace(decision, rates=decision.rates | {"local/gone input": 1.0}), load_prices())


def test_a_file_from_before_flip_points_is_read_and_says_so(decision):
    raw = json.loads(decision.to_json())
    del raw["flips"], raw["rates"]
    for claim in raw["claims"]:
        del claim["amounts"]
    old = Decision.from_json(json.dumps(raw))
    assert old.flips is None
    assert "Not computed" in flips_table(old).caption
    assert Decision.from_json(old.to_json()) == old
    half = json.loads(decision.to_json())
    del half["claims"][0]["amounts"]
    with pytest.raises(ConfigError, match="amounts is missing"):
        Decision.from_json(json.dumps(half))


def test_intervals_that_are_apart_are_all_told():
    flip = FlipPoint("margin", "", 0.03, ((0.02, 0.04), (0.06, None)))
    assert [flip.holds_at(x) for x in (0.01, 0.02, 0.05, 0.06)] == [False, True, False, True]
    assert flip.around == (0.02, 0.04)


def test_watch_lists_what_flips(decision, tmp_path):
    folder = tmp_path / "evalsets" / "shop" / "decisions"
    folder.mkdir(parents=True)
    (folder / "routing.json").write_text(decision.to_json(), encoding="utf-8")
    old = replace(decision, notebook="retrieval", flips=None)
    (folder / "retrieval.json").write_text(old.to_json(), encoding="utf-8")
    (tmp_path / "new.toml").write_text(MODELS.format(usd=200), encoding="utf-8")

    def watch(*lists):
        return workbench(tmp_path, "watch", *lists)

    done = watch(str(tmp_path / "new.toml"))
    assert done.returncode == 1, done.stderr
    assert "shop/routing  flips: Use cheap -> Keep what you have best. Keep best:" in done.stdout
    assert "shop/retrieval  not known: accepted before" in done.stdout
    done = watch()
    assert done.returncode == 0, done.stderr
    assert "shop/routing  stands: Use cheap" in done.stdout
    assert watch("gone.toml").returncode == 3
    (tmp_path / "binary.toml").write_bytes(b"\x9a\x00[]")
    for lists, told in ((["binary.toml"], "no price list"), (["new.toml"] * 2, "both of the form of models.toml")):
        done = watch(*(str(tmp_path / name) for name in lists))
        assert done.returncode == 3
        assert done.stderr.startswith("error: ")
        assert told in done.stderr
    unpriced = replace(decision, rates=decision.rates | {"gone/model input": 1e-6})
    (folder / "pipeline.json").write_text(replace(unpriced, notebook="pipeline").to_json(), encoding="utf-8")
    done = watch()
    assert done.returncode == 3, done.stderr
    assert "shop/pipeline  not known: no price: unknown model 'gone/model'" in done.stdout
    assert "shop/routing  stands: Use cheap" in done.stdout, "what has prices is still looked at"
