import pytest

from tests.evalset.small_evalset import settings_in, write
from workbench.errors import EvalsetError
from workbench.evalset.evalset import load_evalset
from workbench.evalset.gates import GatePolicy, PairLimit, scan_gates


def test_what_gates_toml_says_is_used_and_the_rest_defaults(tmp_path):
    (write(tmp_path) / "gates.toml").write_text(
        '[retrieval]\nmargin = 0.03\nfloor = 0.5\nlatency_p95_ms = 150\non_inconclusive = "warn"\n'
        "[caching]\nalpha = 0.02\n"
    )
    evalset = load_evalset(tmp_path, settings=settings_in(tmp_path))
    assert evalset.policy("retrieval") == GatePolicy(margin=0.03, floor=0.5, latency_p95_ms=150, on_inconclusive="warn")
    assert evalset.policy("caching") == GatePolicy(metric="false_hit_rate", alpha=0.02)
    assert "gates" in evalset.inputs


def test_without_gates_toml_the_stated_defaults_hold(tmp_path):
    policy = load_evalset(write(tmp_path), settings=settings_in(tmp_path)).policy("retrieval")
    assert (policy.metric, policy.margin, policy.confidence) == ("ndcg@10", 0.02, 0.95)
    assert (policy.floor, policy.latency_p95_ms) == (None, None)


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("[retrieval]\nmargin = 0.02\nmargn = 0.1\n", 3, "did you mean 'margin'"),
        ("[retreival]\nmargin = 0.02\n", 1, "did you mean 'retrieval'"),
        ("# ours\n[retrieval]\nmargin = 0\n", 3, "above 0"),
        ("[retrieval]\nconfidence = 95\n", 2, "above 0.5 and below 1"),
        ("[retrieval]\nfloor = true\n", 2, "[retrieval]: floor must be a number, found True"),
        ("[retrieval]\nfloor = nan\n", 2, "a number from 0 to 1 is expected"),
        ("[retrieval]\nlatency_p95_ms = 0x" + "f" * 6000 + "\n", 2, "above 0 and below 1,000,000,000,000 is expected"),
        ('[retrieval]\nmetric = ""\n', 2, "a metric's name"),
        ('[retrieval]\nmargin = "0.02"\n', 2, "margin must be a number, found '0.02'"),
        ("[retrieval]\nrequests_per_month = 5.0\n", 2, "requests_per_month must be a whole number, found 5.0"),
        ("[retrieval]\nmetric = 0x" + "f" * 6000 + "\n", 2, "metric must be text, found (a huge number)"),
        ('[routing]\non_inconclusive = "ignore"\n', 2, "must be 'fail', 'warn' or 'pass', found 'ignore'"),
        ("[caching]\nmust_differ_limit = 1.5\n", 2, "whole number"),
        ("[caching]\nmust_differ_limit = true\n", 2, "must be a number, found True"),
        ("[caching]\nmust_differ_limit = -1\n", 2, "whole number"),
        ("retrieval = 3\n", 1, "must be a section"),
        ("[retrieval\n", 1, "not TOML"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_by_its_line(tmp_path, text, line, problem):
    (write(tmp_path) / "gates.toml").write_text(text)
    policies, defects = scan_gates(tmp_path / "gates.toml")
    assert not policies
    assert [d.line for d in defects] == [line]
    assert problem in defects[0].problem
    with pytest.raises(EvalsetError, match=rf"gates\.toml:{line}"):
        load_evalset(tmp_path, settings=settings_in(tmp_path))


@pytest.mark.parametrize(
    ("written", "limit"),
    [("0", PairLimit(count=0)), ("0.0", PairLimit(count=0)), ("1", PairLimit(count=1)), ("1.0", PairLimit(count=1)),
     ("3", PairLimit(count=3)), ("0.02", PairLimit(share=0.02)), ("2e-2", PairLimit(share=0.02))],
)  # fmt: skip
def test_a_limit_of_pairs_goes_by_its_value_not_by_how_it_is_written(tmp_path, written, limit):
    (write(tmp_path) / "gates.toml").write_text(f"[caching]\nmust_differ_limit = {written}\n")
    assert scan_gates(tmp_path / "gates.toml")[0]["caching"].pair_limit == limit


def test_a_limit_of_pairs_is_a_count_or_a_share():
    assert PairLimit(count=2).most(1000) == 2
    assert PairLimit(share=0.02).most(149) == 2
    for both in ({}, {"count": 0, "share": 0.1}):
        with pytest.raises(ValueError, match="a count or a share"):
            PairLimit(**both)
