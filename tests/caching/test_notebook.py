"""The whole chain on a small stream: replay, certificate, decision, acceptance, and what a check says afterwards."""

import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.evalset.small_evalset import settings_in, write
from workbench.caching.claims import bounds_of_pairs
from workbench.caching.notebook import CachingExperiment
from workbench.caching.study import CachingParameters
from workbench.caching.tables import pairs_table
from workbench.config import SystemClock
from workbench.errors import ConfigError, EvalsetError, GateFailed
from workbench.evalset.gates import PairLimit
from workbench.evalset.imports.requests import pair_line
from workbench.evalset.traffic import Pair, load_stream
from workbench.evaluation.gate import Gate
from workbench.evaluation.provenance import build_parameters
from workbench.evaluation.summary import Summary
from workbench.reports.page import write_report
from workbench.runner import accept
from workbench.testing import HashEmbedder

ROOT = Path(__file__).parents[2]
FIRST_CHECKS = ("numbers", "negation", "antonyms", "word_order", "entities")
INTENTS, REQUESTS = 45, 1600
GATES = "[caching]\nalpha = {alpha}\n"


def word(number, end):
    """A word without digits, so that the guard sees no number in it."""
    return "".join(chr(ord("g") + int(d)) for d in str(number)) + end


def write_stream(folder, *, confused=0.0, alpha=0.2, pairs=()):
    """Requests of 45 intents in words of their own; a share ``confused`` needs the answer of another intent."""
    rng = np.random.default_rng(0)
    rows = []
    for pos in range(REQUESTS):
        intent = int(rng.integers(INTENTS))
        words = [word(intent, c) for c in rng.choice(list("abcdef"), 4, replace=False)]
        answer = intent if rng.random() >= confused else int(rng.integers(INTENTS))
        text = " ".join([*words, word(int(rng.integers(400)), "x")])
        rows.append((pos, text, f"a{answer}", f"t{pos % 2}", f"c{intent}"))
    folder.mkdir(parents=True, exist_ok=True)
    columns = ["pos", "query", "answer_key", "tenant_id", "cluster"]
    pl.DataFrame(rows, schema=columns, orient="row").write_parquet(folder / "stream.parquet")
    if pairs:
        (folder / "pairs.jsonl").write_text("".join(pair_line(p) + "\n" for p in pairs), encoding="utf-8")
    (folder / "gates.toml").write_text(GATES.format(alpha=alpha), encoding="utf-8")


def open_bench(root, **given):
    given = {"evalset": "tiny", "warmup": 100, "draws": 5, "guard": list(FIRST_CHECKS), **given}
    parameters = build_parameters(CachingParameters, given)
    return CachingExperiment(parameters, settings_in(root), embedder=HashEmbedder(256))


def judge(bench):
    semantic = bench.semantic()
    certified = bench.certify(semantic)
    replayed = bench.replay(certified, semantic)
    decision = bench.decide(replayed)
    tables = certified.table, bench.must_differ(certified, semantic), replayed.table, bench.simulate(semantic)
    bench.save(decision, replayed, *tables)
    return decision, replayed, semantic


def antonyms(i, split):
    """Two questions that differ in one word and need different answers."""
    about = f"{word(i, 'a')} {word(i, 'b')}"
    return Pair(f"{split}{i}", f"{about} on now", f"{about} off now", False, "antonym", f"p{i}", split=split)


DIFFER = [antonyms(i, split) for i in range(3) for split in ("dev", "test")]


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    write_stream(settings_in(root).evalsets / "tiny", confused=0.02, pairs=DIFFER)
    bench = open_bench(root)
    decision, replayed, semantic = judge(bench)
    bench.gate(decision, replayed, bench.scopes(semantic))
    accept(bench.settings, "caching", reason="first", clock=SystemClock())
    return root, bench, decision, replayed, semantic


def test_near_questions_of_one_answer_are_cached_behind_the_guard(first):
    _, _, decision, _, _ = first
    assert decision.verdict == "chosen"
    assert decision.arm.startswith("semantic@")
    assert decision.arm.endswith("+guard")
    assert decision.rule.direction == "lower"
    chosen = decision.claim(decision.arm)
    assert chosen.high <= decision.rule.margin == 0.2
    assert chosen.cost_usd_per_1k < decision.claim("exact").cost_usd_per_1k <= decision.claim("off").cost_usd_per_1k
    flips = {flip.figure: flip for flip in decision.flips}
    assert {"repeat rate", "alpha", "price of call", "price of embed_query"} <= flips.keys()
    assert flips["alpha"].around == (max(chosen.high, chosen.estimate), 0.2)


def test_pairs_that_must_differ_keep_the_unguarded_threshold_above_them(first):
    _, bench, decision, _, semantic = first
    nearest = semantic.pair_similarity.max()
    plain = next(c for c in decision.claims if c.arm.startswith("semantic") and "+" not in c.arm)
    assert plain.parameters["threshold"] > nearest
    assert bench.study.lowest(bench.guard, semantic) == pytest.approx(0.3)


def test_a_limit_that_is_a_share_lets_no_contrary_through_on_dev(first):
    _, bench, _, _, semantic = first
    dev = [replace(antonyms(i, "dev"), kind="object") for i in range(400)]
    contrary = [replace(p, kind="opposite") if i == 1 else p for i, p in enumerate(dev)]
    test = [antonyms(i, "test") for i in range(1000)]
    near = np.full(1400, 0.2)
    near[:5] = (0.9, 0.7, 0.5, 0.45, 0.4)
    cases = ((0.02, dev, 0.5025), (0.02, contrary, 0.7025), (0.005, contrary, 0.9025), (4, dev, 0.4025))
    for limit, pairs, at in cases:
        changed = replace(semantic, pair_similarity=near)
        study = replace(bench.study, pairs=(*pairs, *test), must_differ_limit=PairLimit.of(limit), confidence=0.95)
        assert study.lowest(None, changed) == pytest.approx(at)


def test_a_threshold_serves_so_few_dev_pairs_that_the_test_can_be_expected_to_show_its_share(first):
    """Six of 300 just keep 2 % on dev; of as many others most draws then show a bound above it."""
    _, bench, _, _, semantic = first
    near = np.full(600, 0.2)
    near[:6] = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
    pairs = tuple(replace(antonyms(i, split), kind="object") for split in ("dev", "test") for i in range(300))
    study = replace(bench.study, pairs=pairs, must_differ_limit=PairLimit(share=0.02), confidence=0.95)
    assert study.lowest(None, replace(semantic, pair_similarity=near)) == pytest.approx(0.9025)


def test_spent_pairs_neither_choose_a_threshold_nor_show_a_claim(first):
    _, bench, _, _, semantic = first
    pairs = (*bench.study.pairs, *(replace(antonyms(i, "spent"), cluster=f"s{i}") for i in range(50)))
    seen = replace(semantic, pair_similarity=np.r_[semantic.pair_similarity, np.ones(50)])
    study, (arm, *_) = replace(bench.study, pairs=pairs), [r.arm for r in first[3].results if r.arm.kind == "semantic"]
    assert study.lowest(None, seen) == bench.study.lowest(None, semantic)
    assert study.pairs_served(arm, seen) == bench.study.pairs_served(arm, semantic)


def test_pairs_are_counted_by_kind_on_test_alone_with_the_bound_of_their_share():
    pairs = [Pair(f"{k}{i}", "a", f"b {k}", k == "same", k, f"f{i}", split=split)
             for i in range(80) for k in ("number", "order", "same") for split in ("dev", "test")]  # fmt: skip
    near = np.array([p.cluster != "f0" for p in pairs])
    passed = np.array([p.same_answer or (p.kind == "number" and p.cluster == "f1") for p in pairs])
    rows = {(r[0], r[1]): r[2:] for r in pairs_table(pairs, [("x", near, passed)]).rows}
    assert rows["number", "must differ"][:4] == (80, 79, 1 - 1 / 79, 1)
    assert rows["order", "must differ"][:4] == (80, 79, 1.0, 0)
    assert rows["same", "may share"] == (80, 79, 0.0, 79, None)
    assert rows["all", "must differ"][3] == 1
    assert 1 / 160 < rows["all", "must differ"][4] < rows["order", "must differ"][4] < 0.04
    told = pairs_table(pairs, [("x", near, passed)], confidence=0.9995)
    assert "99.95 % bound" in told.caption, "of the confidence that is left for this use of the test part"
    strict = {(r[0], r[1]): r[2:] for r in told.rows}
    assert strict["all", "must differ"][4] > rows["all", "must differ"][4]
    parted = pairs_table([replace(p, batch="second" * (p.cluster < "f2")) for p in pairs], [("x", near, passed)]).rows
    counts = {(r[0], r[1]): r[2] for r in parted if str(r[0]).startswith("batch")}
    assert counts["batch second", "must differ"] == 2 * counts["batch second", "may share"] == 24
    assert counts["batch first", "must differ"] == 160 - 24


def test_nothing_served_never_shows_less_than_one_pair_served():
    pairs = [Pair(str(i), "a", f"b{i}", False, "k", f"f{i // 4}") for i in range(400)]
    of, one = np.ones(400, dtype=bool), np.arange(400) == 7
    none = bounds_of_pairs(~of, of, pairs)
    assert 0.0074 < none.high <= bounds_of_pairs(one, of, pairs).high < 0.015


def test_made_up_traffic_is_at_most_provisional_and_says_so(tmp_path):
    folder = settings_in(tmp_path).evalsets / "tiny"
    write_stream(folder)
    real = load_stream(folder)
    (folder / "card.md").write_text("---\nsynthetic: false\n---\n# tiny\n", encoding="utf-8")
    (folder / "stream.parquet").unlink()
    plan = (settings_in(ROOT).evalsets / "docs_qa" / "traffic.toml").read_text(encoding="utf-8")
    (folder / "traffic.toml").write_text(plan.partition("[[same_words]]")[0], encoding="utf-8")
    tenants = [(t, f"{t} family {i}") for t in ("pandas", "polars", "numpy", "pyarrow") for i in range(12)]
    rows = [{"_id": c, "text": f"{c} {word(n, 'x')}", "metadata": {"tenant_id": t, "cluster": c, "feature": "answer",
             "reference": c}} for n, (t, c) in enumerate(tenants)]  # fmt: skip
    document = {"_id": "d1", "text": "x", "metadata": {"tenant_id": "pandas"}}
    dev, test = ([f"{family}\td1\t1"] for _, family in tenants[:2])
    write(folder, documents=[document], queries=rows, dev=dev, test=test)
    bench = open_bench(tmp_path, warmup=100)
    decision, _, _ = judge(bench)
    assert len(real) != len(bench.study.stream) == 6000
    assert (decision.synthetic, decision.verdict) == (True, "provisional")
    page = write_report(bench.folder).read_text(encoding="utf-8")
    assert "Rests on synthetic traffic" in page
    assert "drawn from traffic.toml" in page


def test_the_report_shows_the_verdict_and_both_denominators(first):
    _, bench, decision, _, _ = first
    page = write_report(bench.folder).read_text(encoding="utf-8")
    for words in (decision.sentence.split(":")[0], "error rate", "alpha 0.200", "answered wrongly"):
        assert words in page
    slices = Summary.load(bench.folder / "summary.json").slices
    assert {row.slice for row in slices} == {"tenant_id", "age of the cache"}, "by the names of the other notebooks"


def test_the_same_run_again_holds(first):
    root, *_ = first
    bench = open_bench(root)
    decision, replayed, semantic = judge(bench)
    bench.gate(decision, replayed, bench.scopes(semantic))
    gate = Gate.load(bench.folder / "gate.json")
    assert (gate.status, gate.exit_code) == ("holds", 0)
    assert {c.status for c in gate.claims if c.kind == "sameness"} == {"identical"}


def test_a_cache_that_suddenly_errs_breaks_the_gate(first):
    root, *_ = first
    bench = open_bench(root)
    decision, replayed, semantic = judge(bench)
    wrong = pl.when(pl.col("arm") == decision.arm).then(1.0).otherwise("value")
    erring = replace(replayed, scores=replayed.scores.with_columns(value=wrong))
    with pytest.raises(GateFailed):
        bench.gate(decision, erring, bench.scopes(semantic))
    assert Gate.load(bench.folder / "gate.json").status == "broken"


def gate_of(bench):
    decision, replayed, semantic = judge(bench)
    with suppress(GateFailed):
        bench.gate(decision, replayed, bench.scopes(semantic))
    return Gate.load(bench.folder / "gate.json")


def test_another_price_of_a_call_makes_the_decision_stale(first):
    gate = gate_of(open_bench(first[0], call_usd=0.5))
    assert (gate.status, gate.exit_code) == ("stale", 2)
    assert "call_usd" in gate.sentence


def test_another_stream_makes_the_decision_stale(first, tmp_path):
    """One request fewer, everything else as it was."""
    shutil.copytree(first[0], tmp_path / "copy")
    path = settings_in(tmp_path / "copy").evalsets / "tiny" / "stream.parquet"
    pl.read_parquet(path).head(-1).write_parquet(path)
    gate = gate_of(open_bench(tmp_path / "copy"))
    assert (gate.status, gate.exit_code) == ("stale", 2)
    assert "other inputs (stream changed)" in gate.sentence


def test_answers_that_do_not_follow_the_question_keep_the_cache_off(tmp_path):
    write_stream(settings_in(tmp_path).evalsets / "tiny", confused=0.8, alpha=0.1)
    decision, _, _ = judge(open_bench(tmp_path, guard=[]))
    assert (decision.verdict, decision.arm) == ("keep_reference", "off")
    assert decision.items_needed is None


def test_a_costly_wrong_answer_keeps_the_cache_off_though_it_is_certified(tmp_path):
    write_stream(settings_in(tmp_path).evalsets / "tiny", confused=0.05, alpha=0.3)
    free = judge(open_bench(tmp_path, guard=[]))[0]
    dear = judge(open_bench(tmp_path, guard=[], false_hit_usd=5.0))[0]
    assert free.arm.startswith("semantic")
    assert (dear.verdict, dear.arm) == ("keep_reference", "off")


@pytest.mark.parametrize(
    ("given", "says"), [({"guard": ["numbrs"]}, "did you mean 'numbers'"), ({"warmup": 1600}, "leaves nothing")]
)
def test_what_cannot_be_used_is_refused_before_anything_is_computed(first, given, says):
    with pytest.raises(ConfigError, match=says):
        open_bench(first[0], **given)


def test_without_a_stream_there_is_nothing_to_decide(tmp_path):
    folder = settings_in(tmp_path).evalsets / "tiny"
    write_stream(folder, pairs=DIFFER)
    (folder / "stream.parquet").unlink()
    with pytest.raises(EvalsetError, match="import stream"):
        open_bench(tmp_path)


def test_a_verifier_of_the_users_is_an_arm_with_its_price_and_fails_closed(tmp_path):
    settings = settings_in(tmp_path)
    write_stream(settings.evalsets / "tiny", confused=0.02, pairs=DIFFER)
    own = "def same(a, b):\n    return a.split()[0][:2] == b.split()[0][:2]\n\ndef bad(a, b):\n    1 / 0\n"
    (settings.root / "my_check_of_pairs.py").write_text(own, encoding="utf-8")
    names = ["my_check_of_pairs:same@0.5", "my_check_of_pairs:bad@0"]
    bench = open_bench(tmp_path, verifiers=names)
    decision, replayed, _ = judge(bench)
    results = {r.arm.name.partition("+guard")[2]: r for r in replayed.results if r.arm.verifier}
    same, bad = results["+my_check_of_pairs:same"], results["+my_check_of_pairs:bad"]
    assert same.served.hits.any()
    assert not bad.served.hits.any()
    assert same.arm.verifier.usd_per_check == pytest.approx(0.0005)
    (row, _) = bench.verifiers(replayed).rows
    assert row[5] == pytest.approx(1000 * same.check_rate * 0.0005)
    assert "verifier my_check_of_pairs:same@0.5" in decision.fingerprint.inputs
    assert "parameter verifiers" not in open_bench(tmp_path).inputs
