"""The whole chain on a tiny evalset: arms, decision, acceptance, and what a check says when something changed."""

import json
import shutil
from contextlib import suppress
from dataclasses import dataclass, replace

import polars as pl
import pytest

from tests.retrieval.stores import pgvector_url
from tests.retrieval.tiny import (
    CODES,
    GATES,
    HYBRID,
    STRATEGIES,
    TEXT,
    Furthest,
    change_query,
    judge,
    open_bench,
    project,
    write_evalset,
)
from workbench.config import SystemClock
from workbench.errors import ConfigError, GateFailed
from workbench.evaluation.gate import Gate, rebuild_reach
from workbench.evaluation.run_record import close_run
from workbench.evaluation.run_summary import Summary, mean_by_arm
from workbench.records import Decision, Hit
from workbench.retrieval.ask_arms import candidate_name
from workbench.retrieval.strategies import Arm, FullText
from workbench.runner import RunRecord, accept_decision


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A first run, its decision accepted as its runner would have left it."""
    root = tmp_path_factory.mktemp("project")
    bench = open_bench(root)
    dev, _, test, decision = judge(bench, bench.prepare())
    bench.gate(decision, test, dev)
    accept_decision(project(root), "retrieval", reason="first of its kind", clock=SystemClock())
    return root, bench, decision, dev, test


@pytest.fixture
def root(first, tmp_path):
    """A copy of the project with its accepted decision and its tables."""
    shutil.copytree(first[0], tmp_path / "copy")
    return tmp_path / "copy"


def again(root, mutate=lambda arm: arm, **given):
    """Run the same again, with arms as the mutation makes them, up to the gate's word on disk."""
    bench = open_bench(root, **given)
    dev, _, test, decision = judge(bench, [mutate(arm) for arm in bench.prepare()])
    with suppress(GateFailed):  # raised after everything is on disk
        bench.gate(decision, test, dev)
    return Gate.load(bench.folder / "gate.json"), decision


class Backwards(FullText):
    """A strategy with a fault: of a hundred hits the worst come first."""

    def search(self, handle, question, k):
        return super().search(handle, question, k)[::-1]


@dataclass(frozen=True)
class BrokenFusion:
    """A fusion that forgets the text leg."""

    def fuse(self, text, vector):
        return list(vector)


def test_the_cheapest_arm_that_holds_is_chosen_and_everything_is_on_disk(first):
    _, bench, decision, dev, test = first
    assert (decision.verdict, decision.arm, decision.rule.reference) == ("chosen", TEXT, HYBRID)
    assert (decision.n_items, decision.n_clusters, decision.test_uses) == (54, 36, 1)
    assert {"rows of the corpus", "price of embed_query", "margin"} <= {f.figure for f in decision.flips}
    folder = bench.folder
    assert Decision.load(folder / "decision.json") == decision
    assert Gate.load(folder / "gate.json").status == "new", "nothing was accepted yet"
    summary = Summary.load(folder / "summary.json")
    assert {p.arm for p in summary.frontier} == {a.name for a in dev.arms}
    assert {(s.slice, s.value) for s in summary.slices} >= {("tenant_id", "acme"), ("style", "s1")}
    scores = pl.read_parquet(folder / "scores.parquet")
    assert set(scores["split"].unique()) == {"dev", "test"}
    assert scores.filter(pl.col("split") == "dev").height == dev.scores.height
    assert not scores["value"].is_null().any()
    assert {a.name for a in dev.arms} > {a.name for a in test.arms} - {HYBRID}


def test_fitting_picking_and_tuning_see_dev_questions_only(first):
    _, _, _, dev, test = first
    asked_on_dev = {q.query_id for q in dev.part.queries}
    assert not asked_on_dev & {q.query_id for q in test.part.queries}
    for answers in dev.answers.values():
        assert set(answers.run["query_id"]) <= asked_on_dev


def test_power_is_told_before_any_arm_has_run(first):
    table = first[1].power()
    assert "54 test questions in 36 families" in table.caption
    assert len(table.rows) == 3


def test_the_same_again_is_identical_and_holds(root):
    gate, decision = again(root)
    assert (gate.status, gate.exit_code) == ("holds", 0)
    assert {c.status for c in gate.claims if c.kind == "sameness"} == {"identical"}
    assert decision.test_uses == 1, "the same arms on the same questions use the test split once"


def test_a_worse_arm_of_the_same_name_is_broken_and_its_items_are_named(root):
    gate, _ = again(root, lambda arm: replace(arm, strategy=Backwards()) if arm.name == TEXT else arm)
    assert (gate.status, gate.exit_code) == ("broken", 1)
    changed = {c.arm: len(c.changed) for c in gate.claims if c.kind == "sameness"}
    assert changed[TEXT] > 20
    assert changed[HYBRID] == 0


def test_a_broken_fusion_is_broken(root):
    def mutate(arm):
        if arm.name != HYBRID:
            return arm
        return replace(arm, strategy=replace(arm.strategy, fusion=BrokenFusion()))

    gate, _ = again(root, mutate)
    assert gate.status == "broken"
    assert {c.arm for c in gate.claims if c.changed} == {HYBRID}


def test_a_changed_query_makes_the_decision_stale_and_is_named(root):
    change_query(root / "evalsets" / "tiny")
    gate, _ = again(root)
    assert (gate.status, gate.exit_code) == ("stale", 2)
    assert "queries changed" in gate.sentence


def test_a_changed_parameter_makes_the_decision_stale_and_is_named(root):
    gate, _ = again(root, depth=50)
    assert gate.status == "stale"
    assert "parameter depth changed" in gate.sentence


def test_hits_of_another_tenant_are_counted_and_break_the_gate(root):
    rows = "".join(f"q{i:02d} Q0 globex.t{i % 30} 1 {1 - i / 100} leaky\n" for i in range(72))
    (root / "leaky.run").write_text(rows, encoding="utf-8")
    bench = open_bench(root, systems=["leaky=leaky.run@0.00001"])
    dev = bench.score(bench.prepare(), "dev")
    finalists = bench.finalists(dev)
    test = bench.test(dev, finalists)
    assert "leaky" in finalists.names, "an own system is always tested"
    asked_by_acme = sum(q.tenant_id == "acme" for s in (dev, test) for q in s.part.queries)
    assert dev.foreign + test.foreign == asked_by_acme > 0
    decision = bench.decide(test, finalists)
    with pytest.raises(GateFailed, match=f"hits of another tenant: {asked_by_acme}"):
        bench.gate(decision, test, dev)


@pytest.mark.parametrize("names", [("''", "it's"), ("\\' OR 1=1 --", "/* */"), ('""', "acme\\")])
def test_tenants_of_any_name_are_asked_costed_and_told_apart(first, tmp_path, names):
    """Names that mean something to a database change nothing: neither hits nor costs nor the decision."""
    renamed = dict(zip(("acme", "globex"), names, strict=True))
    folder = write_evalset(tmp_path / "evalsets" / "tiny")
    for name in ("queries", "corpus"):
        rows = [json.loads(line) for line in _lines(folder / name, 0)]
        for row in rows:
            row["metadata"]["tenant_id"] = renamed[row["metadata"]["tenant_id"]]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    bench = open_bench(tmp_path)
    dev, _, test, decision = judge(bench, bench.prepare())
    bench.gate(decision, test, dev)
    _, _, known, _, before = first
    assert dev.foreign + test.foreign == 0
    assert [(c.arm, c.estimate, c.cost_usd_per_1k) for c in decision.claims] == [
        (c.arm, c.estimate, pytest.approx(c.cost_usd_per_1k)) for c in known.claims
    ]
    assert all(test.answers[arm].run.equals(before.answers[arm].run) for arm in before.answers)
    assert {row[0] for row in bench.contents().rows} == {*names, "all"}


def test_what_is_not_judged_gives_bounds_and_a_list_to_judge(root):
    """The two last topics are judged by nobody; a system that returns them gets bounds in place of a mean."""
    hits = [(i, f"acme.t{topic}") for i in range(72) for topic in (38, 39, i % 36)]
    rows = "".join(f"q{i:02d} Q0 {doc} 1 {-place} new\n" for place, (i, doc) in enumerate(hits))
    (root / "new.run").write_text(rows, encoding="utf-8")
    bench = open_bench(root, systems=["new=new.run@0.00001"])
    dev, _, test, _ = judge(bench, bench.prepare())
    low, high = dev.bounds()["new"]
    assert 0 <= low < high <= 1
    assert "new" in dev.bounds()
    assert TEXT not in dev.bounds()
    shown = dev.table.to_pandas().set_index("arm")
    assert shown.loc["new", ["ndcg@10 at least", "ndcg@10 at most"]].tolist() == [low, high]
    assert f"{low:.3f}" in str(dev)
    assert f"{high:.3f}" in str(dev)
    assert shown["ndcg@10"].dtype == float
    assert shown["ndcg@10"].isna().to_dict() == {arm: arm in dev.bounds() for arm in shown.index}
    sheet = pl.read_ndjson(bench.folder / "to_judge.jsonl")
    assert sheet["grade"].is_null().all()
    assert all(sheet["text"])
    assert all(sheet["query"])
    told = (bench.folder / "summary.json").read_text(encoding="utf-8")
    assert f"workbench import judgements runs/{bench.folder.name}/to_judge.jsonl --name tiny" in told
    listed = sheet.select("query_id", "doc_id").rows()
    judged = {(q, d) for q, grades in test.part.qrels.items() for d in grades}
    assert listed
    assert not judged & set(listed)


def test_a_badly_judged_reference_counts_as_good_as_it_may_be_but_meets_no_floor_by_that(first):
    """Against every claim: its upper bound in the differences, its lower one in its own estimate."""
    _, bench, _, dev, test = first
    blind = {q: {d: g for d, g in grades.items() if g} | {"acme.t39": 0} for q, grades in test.part.qrels.items()}
    unjudged = replace(test, part=replace(test.part, qrels=blind))
    finalists = bench.finalists(dev)
    assert HYBRID in unjudged.bounds()
    claims = {c.arm: c for c in bench.decide(unjudged, finalists).claims}
    low, high = unjudged.bounds()[HYBRID]
    assert claims[HYBRID].estimate == pytest.approx(low)
    assert claims[TEXT].difference == pytest.approx(claims[TEXT].estimate - high)


def test_a_reference_that_is_no_arm_is_refused(first, root):
    dev, wrong = first[3], open_bench(root, reference="whole · vektor")
    with pytest.raises(ConfigError, match="'whole · vektor' is not an arm of this run; there are whole · full_text"):
        wrong.finalists(dev)


def test_two_candidates_of_one_name_are_refused(root):
    (root / "a.run").write_text("q00 Q0 acme.t1 1 1.0 a\n", encoding="utf-8")
    bench = open_bench(root, systems=[f"{TEXT}=a.run@1"])
    with pytest.raises(ConfigError, match="two arms are called 'whole · full_text'"):
        bench.prepare()
    with pytest.raises(ConfigError, match="two arms are called 'mine'"):
        open_bench(root, systems=["mine=a.run@1", "mine=a.run@2"]).prepare()


def test_an_arm_that_the_corpus_is_too_small_for_is_left_out_and_told(root):
    bench = open_bench(root, strategies=["full_text", "vector_ivf_pq", "hybrid_rrf", "hybrid_callables"])
    arms = bench.prepare()
    assert [arm.name for arm in arms] == [TEXT, HYBRID, "whole · hybrid_callables"]
    said = "whole · vector_ivf_pq is left out: IvfPq() needs 256 chunks, the corpus has 80"
    assert said in bench.arms_table(arms).caption
    judge(bench, arms)
    assert f"{said}." in Summary.load(bench.folder / "summary.json").warnings
    with pytest.raises(ConfigError, match="no arm can be asked on this corpus: whole · vector_ivf_pq is left out"):
        open_bench(root, strategies=["vector_ivf_pq"]).prepare()


def test_a_plain_collection_of_known_answers_is_decided_without_bounds(tmp_path):
    """As most public collections are: no tenants, no families, relevant documents only, one split."""
    folder = tmp_path / "evalsets" / "tiny"
    write_evalset(folder)
    rows = [line.split("\t") for split in ("dev", "test") for line in _lines(folder / "qrels" / f"{split}.tsv")]
    (folder / "qrels" / "dev.tsv").unlink()
    known = "".join(f"{q}\t{d}\t1\n" for q, d, grade in rows if grade == "2")
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{known}", encoding="utf-8")
    for name in ("queries", "corpus"):
        plain = [{k: v for k, v in json.loads(line).items() if k != "metadata"} for line in _lines(folder / name, 0)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in plain), encoding="utf-8")
    bench = open_bench(tmp_path, strategies=[*STRATEGIES, "hybrid_callables"])
    _, _, test, decision = judge(bench, bench.prepare())
    assert decision.n_clusters == decision.n_items >= 30, "each question is its own family"
    assert bench.evalset.tenants == ("default",)
    assert test.bounds() == {}
    warnings = Summary.load(bench.folder / "summary.json").warnings
    assert any("name relevant documents only" in w for w in warnings)
    assert any("hybrid_callables is left out: no document matches" in w for w in warnings)
    assert Summary.load(bench.folder / "summary.json").slices == ()
    assert any(w.startswith("only test is judged: split 1:3 by cluster") for w in warnings)


def _lines(path, header=1):
    return path.with_suffix(path.suffix or ".jsonl").read_text(encoding="utf-8").splitlines()[header:]


def test_runs_that_begin_in_the_same_second_have_folders_of_their_own(root):
    folders = {open_bench(root).folder for _ in range(3)}
    assert len(folders) == 3


def test_an_arm_in_a_table_row_can_be_run_again(first):
    _, bench, _, dev, _ = first
    query = dev.part.queries[0]
    namespace = _names()
    for arm in dev.arms:
        rebuilt = eval(repr(arm), namespace)
        assert rebuilt == arm
        assert bench.searcher.search(rebuilt, query, 10) == bench.searcher.search(arm, query, 10)


def test_a_new_build_of_an_accepted_random_index_holds_and_a_worse_one_is_broken(tmp_path):
    write_evalset(tmp_path / "evalsets" / "tiny", gates=GATES.replace("margin = 0.25", "margin = 0.2"))
    good, worse = Arm("codes", CODES), Arm("codes", Furthest(CODES.index))

    def run(arm):
        bench = open_bench(tmp_path, reference="codes", depth=20)  # beyond all rows LanceDB scans them
        arms = bench.prepare()
        bench.searcher.prepare(arm)
        bench.searcher.rebuild_index(arm)
        dev, _, test, decision = judge(bench, [*arms, arm])
        with suppress(GateFailed):
            bench.gate(decision, test, dev)
        return bench.folder, decision.claim("codes")

    def sameness(folder):
        return next(c for c in Gate.load(folder / "gate.json").claims if (c.kind, c.arm) == ("sameness", "codes"))

    folder, claim = run(good)
    assert claim.spread[1] > 0
    assert abs(claim.estimate - claim.spread[0]) <= rebuild_reach(claim.spread, 0.2)
    close_run(RunRecord(folder, "running", "retrieval", "ci"), SystemClock(), status="done", gate="new")
    accept_decision(project(tmp_path), "retrieval", reason="first of its kind", clock=SystemClock())
    again, new = run(good)
    assert new.estimate != claim.estimate, "another build"
    assert (sameness(again).status, sameness(again).changed) == ("holds", ())
    assert sameness(run(worse)[0]).status == "broken"


def _names():
    from workbench.retrieval import chunking, strategies
    from workbench.retrieval import index_kinds as indexing
    from workbench.retrieval import tenant as filters

    return {name: getattr(m, name) for m in (chunking, filters, indexing, strategies) for name in vars(m)} | {
        "Hit": Hit
    }


def test_ten_questions_end_in_silence_and_not_in_a_fault(tmp_path):
    """With so few that dev holds one family nothing can be fitted, and nothing is said of any arm."""
    bench = open_bench(tmp_path, strategies=["full_text", "vector", "hybrid_weighted"], reference="")
    dev_query = bench.evalset.split("dev").queries[0].query_id
    qrels = tmp_path / "evalsets" / "tiny" / "qrels"
    for split, keep in (
        ("dev", {dev_query}),
        ("test", {q.query_id for q in bench.evalset.split("test").queries[:9]}),
    ):
        head, *rows = (qrels / f"{split}.tsv").read_text(encoding="utf-8").splitlines()
        kept = [row for row in rows if row.split("\t")[0] in keep]
        (qrels / f"{split}.tsv").write_text("\n".join([head, *kept]) + "\n", encoding="utf-8")
    few = open_bench(tmp_path, strategies=["full_text", "vector", "hybrid_weighted"], reference="")
    dev, _, test, decision = judge(few, few.prepare())
    assert decision.verdict == "inconclusive"
    assert "too few questions" in decision.sentence
    assert any("hybrid_weighted is left out: fitting needs at least 2" in why for why in few.left_out)
    few.gate(decision, test, dev)
    gate = Gate.load(few.folder / "gate.json")
    assert (gate.status, gate.exit_code) == ("inconclusive", 2)


def test_every_embedder_is_an_input_and_its_arms_are_made(tmp_path):
    one, two = open_bench(tmp_path), open_bench(tmp_path, embedders=["minilm", "wordllama"])
    assert {
        "weights wordllama",
        "encoder probe wordllama",
        "rate embed_query:wordllama",
    } <= two.inputs.keys() - one.inputs
    arms = {candidate_name(arm) for arm in two.prepare()}
    assert "whole · wordllama · vector" in {*arms, *(why.partition(" is left out")[0] for why in two.left_out)}
    assert arms >= {"whole · full_text", "whole · vector"}


def test_arms_compete_in_two_stores_and_the_report_sets_them_side_by_side(tmp_path):
    given = {"stores": ["lance", "postgres"], "strategies": ["full_text", "vector"], "reference": ""}
    bench = open_bench(tmp_path, store_url=pgvector_url(), **given)
    arms = bench.prepare()
    dev, *_ = judge(bench, arms)
    names = [candidate_name(arm) for arm in arms]
    assert names == ["whole · full_text", "whole · full_text · postgres", "whole · vector", "whole · vector · postgres"]
    values = mean_by_arm(dev.scores, "ndcg@10")
    assert values["whole · vector"] == pytest.approx(values["whole · vector · postgres"], abs=1e-6)
    (section,) = [s for s in Summary.load(bench.folder / "summary.json").sections if "two stores" in s.title + s.note]
    assert [row[0] for row in section.rows] == ["whole · full_text", "whole · vector"]
