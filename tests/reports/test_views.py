"""What is told agrees with what is shown: sentences, tables, statuses and money."""

import re
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.reports import samples
from tests.reports.drawn import drawn
from workbench.inference.prices import PriceTable, Rate, Work, nanos
from workbench.records import Decision, Rule
from workbench.rendering.table import Table
from workbench.reports.run import (
    DIFFERENCE,
    against_table,
    change_words,
    close_call_label,
    decision_table,
    key_facts,
    label_of,
    month_column,
    month_usd,
    needed_table,
    pairs_table,
    rule_pairs,
    scope_of,
    status_words,
)

NAMES = ("plain", "cheap", "rich", "other", "more")  # no digits: every number of a sentence is a finding
RULE = Rule("quality", "usd_per_1k_requests", "", 0.05, 0.95)
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?")
DECISIONS = st.builds(
    lambda n, means, usd, reference, anchor, **rest: drawn(
        replace(
            RULE,
            reference=NAMES[reference] if reference is not None and reference < n else "",
            anchor=NAMES[anchor] if anchor is not None and anchor < n else "",
            margin=rest["margin"],
            floor=rest["floor"],
            use=rest["use"],
            point_usd=rest["point_usd"],
            requests_per_month=rest["volume"],
        ),
        means[:n],
        usd[:n],
        names=NAMES[:n],
        n_clusters=rest["n_clusters"],
        n_dev_clusters=rest["n_dev"],
        noise=0.05,
        seed=rest["seed"],
    ),
    n=st.integers(1, 5),
    means=st.lists(st.sampled_from([0.6, 0.3, 0.55, 0.59, 0.8]), min_size=5, max_size=5),
    usd=st.lists(st.sampled_from([0.0, 0.0000687, 0.05, 0.1, 0.5, 1.2, 40.0]), min_size=5, max_size=5),
    reference=st.none() | st.integers(0, 4),
    anchor=st.none() | st.integers(0, 4),
    margin=st.sampled_from([0.01, 0.03, 0.05]),
    floor=st.sampled_from([None, None, None, 0.4, 0.58, 0.9]),
    use=st.integers(1, 3),
    point_usd=st.sampled_from([None, 1.0, 50.0]),
    volume=st.sampled_from([1_000, 100_000, 2_500_000]),
    n_clusters=st.sampled_from([80, 30, 8]),
    n_dev=st.sampled_from([40, 40, 40, 2]),
    seed=st.integers(0, 50),
)


def shown(decision: Decision) -> set[str]:
    """Numbers that a reader of the report can look up: in the rows of its tables, the rule, the head."""
    tables = [decision_table(decision), against_table(decision), needed_table(decision)]
    tables.append(pairs_table(rule_pairs(decision), "Rule"))
    text = "\n".join([*(table.to_text() for table in tables if isinstance(table, Table)), *scope_of(decision)])
    counts = {str(len(decision.claims)), str(len(decision.claims) - 1)}  # how many arms
    return {found.rstrip(".,") for found in NUMBER.findall(text)} | counts


IN_USE = replace(RULE, reference="plain")
TOLD, CHOSEN = (
    drawn(rule, [0.6, 0.3, 0.8], [0.1, 0.05, 1.2], names=NAMES[:3])
    for rule in (IN_USE, replace(IN_USE, point_usd=50.0))
)
CHEAPER = drawn(IN_USE, [0.6, 0.6, 0.6], [2.0, 0.1, 0.1], names=NAMES[:3], noise=0.02)


def test_the_examples_are_an_upgrade_that_is_told_one_that_is_chosen_and_a_tie() -> None:
    assert [d.verdict for d in (TOLD, CHOSEN, CHEAPER)] == ["keep_reference", "upgrade", "chosen"]
    assert "per further good answer" in TOLD.notes[0]
    assert "not told apart" in CHEAPER.notes[0]


@settings(max_examples=60, deadline=None)
@example(TOLD)
@example(CHOSEN)
@example(CHEAPER)
@given(DECISIONS)
def test_every_number_of_a_sentence_or_a_note_stands_in_a_row(decision: Decision) -> None:
    rows = shown(decision)
    facts = " ".join(f"{value} {remark}" for _, value, remark in key_facts(decision))
    for told in (decision.sentence, *decision.notes, facts):
        for found in NUMBER.findall(told):
            assert found.rstrip(".,") in rows, (found, told)


def unsigned(told: str) -> str:
    return told.lstrip("+\N{MINUS SIGN}")


@settings(max_examples=60, deadline=None)
@example(CHOSEN)
@example(CHEAPER)
@given(DECISIONS)
def test_the_distance_that_the_sentence_tells_is_the_one_in_the_row_of_the_decided_arm(decision: Decision) -> None:
    table = decision_table(decision)
    assert table.mark is not None
    row = dict(zip([c.name for c in table.columns], table.cells()[table.mark], strict=True))
    told = re.search(r"\((\S+) against (\w+), at least (\S+)\)", decision.sentence)
    alone = not decision.claim(decision.arm).best
    assert told or alone or decision.verdict in ("inconclusive", "none_meets_floor")
    if told:
        middle, low, _ = NUMBER.findall(row[DIFFERENCE])
        assert (unsigned(told[1]), told[2], unsigned(told[3])) == (middle, row["that other"], low)
    gain = re.search(r"Against (\w+), which is in use: (\S+), between (\S+) and (\S+)\.", decision.sentence)
    against = against_table(decision)
    if gain and against:
        (cell,) = (texts[2] for texts in against.cells() if texts[0] == gain[1])
        assert [unsigned(value) for value in gain.groups()[1:]] == NUMBER.findall(cell)


@settings(max_examples=60, deadline=None)
@given(DECISIONS)
def test_no_arm_is_compared_with_itself_and_every_status_has_a_reader_s_word(decision: Decision) -> None:
    table = against_table(decision)
    assert (table is None) == (len(decision.claims) == 1)
    assert table is None or decision.arm not in {row[0] for row in table.rows}
    words = {status_words(c, decision.rule) for c in decision.claims}
    assert words <= {"good enough", "too far below", "cannot tell", "the same", "in use", "not compared"}
    assert all(c.best != c.arm for c in decision.claims)
    assert (label_of(decision) == "Start with") == (decision.verdict == "chosen" and not decision.rule.reference)


@given(
    cost=st.lists(st.integers(0, 10**9), min_size=1, max_size=50),
    volume=st.integers(1, 10**7),
)
def test_dollars_a_month_are_the_mean_of_the_ledger_s_rows_times_the_volume(cost: list[int], volume: int) -> None:
    rule = replace(RULE, requests_per_month=volume)
    usd_per_1k = sum(cost) / 1e9 / len(cost) * 1000
    exact, told = sum(cost) * volume / len(cost) / 1e9, month_usd(usd_per_1k, rule)
    if told == "under $0.05":
        assert 0 < exact < 0.05 + 1e-9
    else:
        assert abs(float(told.removeprefix("$").replace(",", "")) - exact) <= (0.0051 if exact < 100.001 else 0.501)


@given(
    fixed_ms=st.floats(0.0, 50.0),
    per_1k_rows_ms=st.floats(0.0, 5.0),
    rows=st.integers(0, 10**6),
    volume=st.integers(1, 10**7),
)
def test_dollars_a_month_are_the_declared_rates_times_the_counted_work(
    fixed_ms: float, per_1k_rows_ms: float, rows: int, volume: int
) -> None:
    rate = Rate(fixed_ms=fixed_ms, per_1k_rows_ms=per_1k_rows_ms)
    prices = PriceTable("v", "machine", 0.05, {"search": rate}, {}, "", "")
    each = prices.cost_usd([Work("search", rows)])
    rule = replace(RULE, requests_per_month=volume)
    exact = volume * (fixed_ms + per_1k_rows_ms * rows / 1000) * 0.05 / 3_600_000
    assert rule.monthly_usd(1000 * each) == pytest.approx(exact)
    assert nanos(each) * volume / 1e9 == pytest.approx(exact, abs=volume * 1e-9), "as the ledger adds it up"
    table = decision_table(drawn(rule, [0.5], [1000 * each], names=["plain"], n_clusters=2))
    told = dict(zip([c.name for c in table.columns], table.cells()[0], strict=True))
    assert told[month_column(rule)] == month_usd(1000 * each, rule)


@pytest.mark.parametrize(
    ("status", "arm", "word"),
    [
        ("identical", samples.REFERENCE, "in use"), ("identical", samples.CHOSEN, "the same"),
        ("holds", samples.CHOSEN, "good enough"), ("broken", samples.CHOSEN, "too far below"),
        ("inconclusive", samples.CHOSEN, "cannot tell"),
    ],
)  # fmt: skip
def test_statuses_in_a_reader_s_words(status: str, arm: str, word: str) -> None:
    claim = next(c for c in samples.claims() if c.arm == arm)
    assert status_words(replace(claim, status=status), samples.RULE) == word


def test_a_rate_has_the_words_of_certificates() -> None:
    rule = replace(samples.RULE, direction="lower", reference="off")
    claim = replace(samples.claims()[1], best="")
    words = [status_words(replace(claim, status=s), rule) for s in ("holds", "identical", "broken", "inconclusive")]
    assert words == ["certified", "none wrong", "too many wrong", "cannot tell"]


def test_the_table_names_the_other_arm_and_hides_what_says_nothing() -> None:
    table = decision_table(samples.decision())
    names = [c.name for c in table.columns]
    assert names == [
        "arm", "role", "nDCG@10", "difference from the best other for the money", "that other", "status",
        "a month at 100,000 requests", "p95 latency", "coverage", "how often chosen",
    ]  # fmt: skip
    chosen = dict(zip(names, table.cells()[1], strict=True))
    assert (chosen["that other"], chosen["role"], chosen["how often chosen"]) == (samples.REFERENCE, "chosen", "64 %")
    bare = decision_table(drawn(RULE, [0.6, 0.6], [0.1, 0.2], names=NAMES[:2], latency_ms=[None, None]))
    assert not {"p95 latency", "coverage", "how often chosen"} & {c.name for c in bare.columns}
    assert "all of them scored" in bare.caption


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        (2.0, 0.1, "$190 less, 95 %"), (0.1, 2.0, "$190 more"), (0.1, 0.1, "the same"),
        (0.1, 0.05, "$5.00 less, too little to count"), (0.0000650, 0.0000687, "under $0.05 more, too little to count"),
    ],
)  # fmt: skip
def test_a_change_of_cost_says_whether_it_counts(before: float, now: float, told: str) -> None:
    assert change_words(before, now, RULE) == told


def test_a_share_under_80_percent_is_a_close_call_only_where_something_was_chosen() -> None:
    decided = samples.decision()
    assert close_call_label(decided) == "a close call: chosen in 64 % of 200 resamples"
    assert close_call_label(replace(decided, verdict="keep_reference")) == ""
    assert close_call_label(replace(decided, chosen_share={})) == ""


def test_the_head_says_on_what_it_was_decided_as_far_as_it_is_known() -> None:
    assert scope_of(samples.decision())[0] == "evalset docs_qa"
    old = replace(samples.decision(), evalset="", n_documents=0, n_dev_clusters=0)
    assert scope_of(old) == ["300 test questions in 104 families"]
