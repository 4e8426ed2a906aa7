"""An accepted decision against its own evidence: untouched it stands, and whatever is tampered with is named."""

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from workbench.codec import write_whole
from workbench.config import Settings, SystemClock, load_settings
from workbench.errors import ConfigError, WorkbenchError
from workbench.evalset.evalset import load_evalset
from workbench.evaluation.decision import ArmFacts, decide, make_claims
from workbench.evaluation.finalists import beside
from workbench.evaluation.flips import flip_points
from workbench.evaluation.in_use import note_test_use
from workbench.evaluation.provenance import provenance
from workbench.evaluation.run_record import close_run, open_run
from workbench.inference.prices import project_prices
from workbench.project.verify import WRITTEN, Verification, decisions_named, statement, verify
from workbench.records import Claim, Decision, Fingerprint, Rule, content_hash, file_hash
from workbench.runner import accept

ROOT = Path(__file__).parents[2]
ARMS = {"full_text": 0.55, "vector": 0.5, "hybrid": 0.6}
GATES = "[retrieval]\nmargin = 0.1\nfloor = 0.2\n"


def git(root: Path, *words: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(root), *who, *words], check=True, capture_output=True)


def commit(root: Path, message: str) -> None:
    git(root, "add", "-A")
    git(root, "commit", "-qm", message)


def write_evalset(folder: Path) -> None:
    (folder / "qrels").mkdir(parents=True)
    ids = {"dev": [f"d{i}" for i in range(12)], "test": [f"t{i}" for i in range(80)]}
    rows = [
        {"_id": i, "text": f"what is {i}", "metadata": {"cluster": f"c{i[:-1]}{i[-1]}"}}
        for s in ids.values()
        for i in s
    ]
    (folder / "queries.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    documents = [{"_id": f"doc-{r['_id']}", "text": f"it is {r['_id']}"} for r in rows]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(r) + "\n" for r in documents), encoding="utf-8")
    for split, asked in ids.items():
        lines = ["query-id\tcorpus-id\tscore", *(f"{i}\tdoc-{i}\t1" for i in asked)]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "gates.toml").write_text(GATES, encoding="utf-8")
    (folder / "card.md").write_text("By hand.\n", encoding="utf-8")


def drawn_scores() -> pl.DataFrame:
    rng = np.random.default_rng(1)
    ease = rng.uniform(-0.3, 0.3, 80)
    frames = []
    for arm, mean in ARMS.items():
        value = np.clip(mean + ease + rng.normal(0, 0.05, 80), 0, 1)
        items = [f"t{i}" for i in range(80)]
        frames.append(pl.DataFrame({"arm": arm, "item_id": items, "repeat": 0, "metric": "ndcg@10", "value": value}))
    return pl.concat(frames).with_columns(pl.col("repeat").cast(pl.Int32), split=pl.lit("test"))


def decided(settings: Settings, scores: pl.DataFrame, *, margin: float = 0.1) -> Decision:
    """What a run of these arms would decide, by the engine itself."""
    evalset = load_evalset("own", settings=settings)
    rule = Rule("ndcg@10", "usd_per_1k_requests", "", margin, 0.95, 0.2)
    clusters = pl.DataFrame(
        {"item_id": list(evalset.split("test").clusters), "cluster": [*evalset.split("test").clusters.values()]}
    )
    facts = [ArmFacts(arm, {}, 1.0 + i, 20.0, i) for i, arm in enumerate(sorted(set(scores["arm"])))]
    rows = scores.join(clusters, on="item_id")
    against = rows.with_columns(value=pl.coalesce("against", "value")) if "against" in rows.columns else None
    claims = make_claims(rows, facts, rule, against=against)
    outcome = decide(claims, rule, order={f.name: f.order for f in facts}, n_dev_clusters=12)
    asked = {"evalset": "own", "seed": 0}
    inputs = evalset.inputs | {"parameter evalset": "'own'", "parameter seed": "0", "weights": "minilm:1"}
    inputs |= {"gates": evalset.policy("retrieval").sha256, "prices": project_prices(settings.root).sha256}
    shares = {outcome.arm: 1.0}
    found = Decision(
        "retrieval", "?", "ci", rule, outcome.verdict, outcome.arm, {}, outcome.sentence, claims, 80, 80,
        outcome.items_needed, 1, Fingerprint(inputs, provenance(settings.root)), asked, False,
        (*outcome.notes, *beside(claims, rule, outcome, shares)), shares, "own", 92, 12,
    )  # fmt: skip
    return replace(found, flips=flip_points(found))


def accepted(settings: Settings, decision: Decision, scores: pl.DataFrame) -> Path:
    """Accept it as `workbench accept` does."""
    record = open_run(settings, "retrieval", profile="ci", parameters={"evalset": "own"}, clock=SystemClock())
    scores.write_parquet(record.run_dir / "scores.parquet")
    (record.run_dir / "decision.json").write_text(decision.to_json(), encoding="utf-8")
    close_run(record, SystemClock(), status="done", gate="new")
    note_test_use(settings, settings.evalsets / "own", "retrieval", use_of(decision))
    return accept(settings, "retrieval", reason="first", clock=SystemClock())


def use_of(decision: Decision) -> str:
    split = content_hash(decision.fingerprint.inputs["qrels/test"])[:8]
    return f"{split}{content_hash(*sorted(decision.arms))[:8]}"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository in which gates were committed, then a run was made, then its decision accepted."""
    root = tmp_path_factory.mktemp("verify") / "project"
    write_evalset(root / "evalsets" / "own")
    (root / ".gitignore").write_text("data/\nruns/\n", encoding="utf-8")
    git(root, "init", "-q")
    commit(root, "questions and gates")
    settings, scores = load_settings({}, start=root), drawn_scores()
    accepted(settings, decided(settings, scores), scores)
    commit(root, "the first decision")
    return root


@pytest.fixture
def project(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path / "project")
    return tmp_path / "project"


def look(root: Path, **given: str) -> Verification:
    return verify(root / "evalsets/own/decisions/retrieval.json", **given)


def test_what_nobody_touched_stands_and_what_cannot_be_told_is_named(project: Path) -> None:
    found = look(project)
    assert found.holds, found.of("contradicted")
    not_told = ["input weights", "choice on dev", "parameters of the other arms", "scores of the arms",
                "what was written"]  # fmt: skip
    assert [c.name for c in found.of("not verified")] == not_told
    verified = {c.name for c in found.of("verified")}
    assert {
        "claim of hybrid",
        "verdict",
        "sentence",
        "gates fixed before",
        "rule kept once scores were seen",
    } <= verified
    assert {"input qrels/test", "input prices", "uses of the test split", "uses kept", "committed"} <= verified


# --- twelve and more ways to tamper; each changes the project, and is named by the check that finds it


def edit(root: Path, name: str, old: str, new: str) -> None:
    path = root / "evalsets/own" / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def rewrite(root: Path, change: Callable[[Decision], Decision]) -> None:
    """Change the decision; the anchor is the same decision."""
    for name in ("retrieval.json", "anchor/retrieval.json"):
        path = root / "evalsets/own/decisions" / name
        write_whole(path, change(Decision.load(path)).to_json())


def change_scores(root: Path, how: Callable[[pl.DataFrame], pl.DataFrame], name: str = "retrieval") -> None:
    path = root / f"evalsets/own/decisions/{name}.scores.parquet"
    how(pl.read_parquet(path)).write_parquet(path)


def a_better_score(root: Path) -> None:
    first = (pl.col("arm") == "hybrid") & (pl.col("item_id") == "t3")
    change_scores(root, lambda f: f.with_columns(value=pl.when(first).then(1.0).otherwise("value")))


def a_row_less(root: Path) -> None:
    change_scores(root, lambda f: f.filter(~((pl.col("arm") == "vector") & (pl.col("item_id") == "t5"))))


def another_judgement(root: Path) -> None:
    edit(root, "qrels/test.tsv", "t3\tdoc-t3\t1", "t3\tdoc-t4\t1")


def another_price(root: Path) -> None:
    text = (ROOT / "workbench/inference/prices.toml").read_text(encoding="utf-8")
    assert "usd_per_vcpu_hour = " in text
    (root / "prices.toml").write_text(
        text.replace("usd_per_vcpu_hour = ", "usd_per_vcpu_hour = 1", 1), encoding="utf-8"
    )


def a_lower_floor_in_the_gates(root: Path) -> None:
    edit(root, "gates.toml", "floor = 0.2", "floor = 0.1")


def a_margin_that_suits_the_decision(root: Path) -> None:
    """The rule is changed everywhere, all is computed anew, and both are committed: only the history knows."""
    edit(root, "gates.toml", "margin = 0.1", "margin = 0.2")
    settings = load_settings({}, start=root)
    before = Decision.load(root / "evalsets/own/decisions/retrieval.json")
    anew = decided(settings, drawn_scores(), margin=0.2)
    kept = Fingerprint(anew.fingerprint.inputs, before.fingerprint.provenance)
    rewrite(
        root, lambda d: replace(anew, accepted_because=d.accepted_because, accepted_on=d.accepted_on, fingerprint=kept)
    )
    commit(root, "tidy up")


def an_arm_out_of_the_decision(root: Path) -> None:
    rewrite(root, lambda d: replace(d, claims=tuple(c for c in d.claims if c.arm != "vector")))


def an_arm_out_of_everything(root: Path) -> None:
    """Claims and scores are those of two arms, computed as if there had never been a third."""
    settings, left = load_settings({}, start=root), drawn_scores().filter(pl.col("arm") != "vector")
    anew = decided(settings, left)
    rewrite(root, lambda d: replace(anew, accepted_because=d.accepted_because, accepted_on=d.accepted_on))
    change_scores(root, lambda f: f.filter(pl.col("arm") != "vector"))


def a_use_less(root: Path) -> None:
    """Another set of arms had been judged on this split before; its line is taken out, and that is committed."""
    path = root / "evalsets/own/decisions/retrieval.uses"
    mine = path.read_text(encoding="utf-8")
    path.write_text(f"{mine}{mine[:8]}ffffffff\n", encoding="utf-8")
    commit(root, "a second look")
    path.write_text(mine, encoding="utf-8")
    commit(root, "clean up")


def a_use_that_is_not_counted(root: Path) -> None:
    path = root / "evalsets/own/decisions/retrieval.uses"
    mine = path.read_text(encoding="utf-8")
    path.write_text(f"{mine[:8]}eeeeeeee\n{mine}", encoding="utf-8")


def another_verdict(root: Path) -> None:
    rewrite(root, lambda d: replace(d, verdict="keep_reference"))


def another_arm(root: Path) -> None:
    rewrite(root, lambda d: replace(d, arm="hybrid" if d.arm != "hybrid" else "vector"))


def a_polished_sentence(root: Path) -> None:
    rewrite(root, lambda d: replace(d, sentence=d.sentence.replace("95 %", "99 %")))


def a_polished_bound(root: Path) -> None:
    def narrower(d: Decision) -> Decision:
        first = replace(d.claims[0], estimate_low=d.claims[0].estimate_low + 0.02)
        return replace(d, claims=(first, *d.claims[1:]))

    rewrite(root, narrower)


def fewer_items_needed(root: Path) -> None:
    rewrite(root, lambda d: replace(d, items_needed=(1, 2)))


def another_anchor(root: Path) -> None:
    change_scores(root, lambda f: f.with_columns(value=pl.col("value") * 0.9), "anchor/retrieval")


def an_input_taken_out(root: Path) -> None:
    def without(d: Decision) -> Decision:
        inputs = {name: value for name, value in d.fingerprint.inputs.items() if name != "qrels/test"}
        return replace(d, fingerprint=Fingerprint(inputs, d.fingerprint.provenance))

    rewrite(root, without)


def another_parameter(root: Path) -> None:
    rewrite(root, lambda d: replace(d, settings=d.settings | {"seed": 7}))


def another_family(root: Path) -> None:
    edit(root, "queries.jsonl", '"ct3"', '"ct4"')


def cheaper_than_what_it_uses(root: Path) -> None:
    def cheaper(d: Decision) -> Decision:
        claims = (replace(c, amounts={"call": 2 * c.cost_usd_per_1k + 1}) for c in d.claims)
        return replace(d, claims=tuple(claims), rates={"call": 1.0}, flips=())

    rewrite(root, cheaper)


def more_simulated_than_said(root: Path) -> None:
    (root / "evalsets/own/card.md").write_text("---\nsynthetic: true\n---\nMade up.\n", encoding="utf-8")


def a_share_below_zero(root: Path) -> None:
    rewrite(root, lambda d: replace(d, chosen_share={d.arm: -1.0}))


def shares_that_are_taken_out(root: Path) -> None:
    rewrite(root, lambda d: replace(d, chosen_share={}))


def a_larger_corpus(root: Path) -> None:
    rewrite(root, lambda d: replace(d, n_documents=92_000))


def more_questions(root: Path) -> None:
    rewrite(root, lambda d: replace(d, n_items=800))


def more_families(root: Path) -> None:
    rewrite(root, lambda d: replace(d, n_clusters=800))


def another_objective(root: Path) -> None:
    rewrite(root, lambda d: replace(d, rule=replace(d.rule, objective="usd")))


def another_end(root: Path) -> None:
    """It stands longer than its claims say: all but one figure is as computed."""

    def longer(d: Decision) -> Decision:
        first, *others = flip_points(d)
        return replace(d, flips=(replace(first, stands=((None, None),)), *others))

    rewrite(root, longer)


def a_price_of_its_own(root: Path) -> None:
    rewrite(root, lambda d: replace(d, rates={"embed_query:minilm": 1e-9}, flips=()))


TAMPERINGS = {
    a_share_below_zero: "chosen_share",
    shares_that_are_taken_out: "chosen_share",
    a_larger_corpus: "n_documents",
    more_questions: "n_items",
    more_families: "n_clusters",
    another_objective: "objective",
    another_end: "flips of margin",
    a_price_of_its_own: "rates",
    a_better_score: "estimate of hybrid",
    a_row_less: "rows",
    another_judgement: "input qrels/test",
    another_price: "input prices",
    a_lower_floor_in_the_gates: "rule",
    a_margin_that_suits_the_decision: "rule kept once scores were seen",
    an_arm_out_of_the_decision: "arms",
    an_arm_out_of_everything: "uses of the test split",
    a_use_less: "uses kept",
    a_use_that_is_not_counted: "uses of the test split",
    another_verdict: "verdict",
    another_arm: "chosen arm",
    a_polished_sentence: "sentence",
    a_polished_bound: "estimate_low of full_text",
    fewer_items_needed: "items_needed",
    another_anchor: "scores of the anchor",
    an_input_taken_out: "input qrels/test",
    another_parameter: "input parameter seed",
    another_family: "input queries",
    cheaper_than_what_it_uses: "cost of hybrid",
    more_simulated_than_said: "synthetic",
}


@pytest.mark.parametrize("tamper", TAMPERINGS, ids=lambda tamper: tamper.__name__)
def test_each_tampering_is_named(project: Path, tamper: Callable[[Path], None]) -> None:
    tamper(project)
    found = look(project)
    assert not found.holds
    assert TAMPERINGS[tamper] in {c.name for c in found.of("contradicted")}


def another(value: object) -> object:
    """Some other value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return f"{value}x"
    if isinstance(value, int | float):
        return value + 1
    return {"x": 1.0} if isinstance(value, dict) else (1.0, 1.0)


# Fields that are told together, under another name than their own.
TOLD_AS = {"latency_p95_ms": "latencies", "cost_usd_per_1k": "costs", "amounts": "costs"}
TOLD_AS |= {"fingerprint": "versions", "use": "use", "limit": "rule", **WRITTEN}


@pytest.mark.parametrize("of", [Decision, Claim, Rule])
def test_every_field_of_a_decision_is_computed_again_or_named_as_what_cannot_be(project: Path, of: type) -> None:
    path = project / "evalsets/own/decisions/retrieval.json"
    whole, passed = Decision.load(path), []
    for name in (f.name for f in fields(of)):
        if of is Decision:
            changed = {name: another(getattr(whole, name))}
        elif of is Claim:
            first = replace(whole.claims[0], **{name: another(getattr(whole.claims[0], name))})
            changed = {"claims": (first, *whole.claims[1:])}
        else:
            changed = {"rule": replace(whole.rule, **{name: another(getattr(whole.rule, name))})}
        try:
            path.write_text(replace(whole, **changed).to_json(), encoding="utf-8")
            found = look(project)
        except (WorkbenchError, TypeError, AttributeError, ValueError):
            continue  # it is no decision any more
        told = " ".join(f"{c.name} {c.told}" for c in found.of("not verified"))
        if found.holds and TOLD_AS.get(name, name) not in told:
            passed.append(name)
    assert passed == []


def test_a_margin_that_was_changed_with_the_decision_says_which_it_was(project: Path) -> None:
    a_margin_that_suits_the_decision(project)
    told = {c.name: c.told for c in look(project).of("contradicted")}
    assert told["rule kept once scores were seen"].endswith("by another rule: margin was 0.1, is 0.2")
    assert "that has other gates" in told["gates fixed before"]
    assert told.keys() == {"rule kept once scores were seen", "gates fixed before"}  # all else was made to fit


def test_a_sealed_hash_stands_in_for_the_history(project: Path) -> None:
    shutil.rmtree(project / ".git")
    unsealed = {c.name for c in look(project).of("not verified")}
    assert {"gates fixed before", "nothing taken back"} <= unsealed
    seal = file_hash(project / "evalsets/own/gates.toml")
    assert "gates fixed before" in {c.name for c in look(project, sealed=seal).of("verified")}
    assert "gates fixed before" in {c.name for c in look(project, sealed=seal.upper()).of("verified")}
    assert "gates fixed before" in {c.name for c in look(project, sealed="0" * 64).of("contradicted")}
    with pytest.raises(ConfigError, match="64 digits of 0-9a-f; found 'zzz'"):
        look(project, sealed="zzz")


def test_parameters_that_are_not_those_of_the_chosen_arm_are_told(project: Path) -> None:
    path = project / "evalsets/own/decisions/retrieval.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(raw | {"parameters": {"another": 1}}), encoding="utf-8")
    assert "parameters" in {c.name for c in look(project).of("contradicted")}


@pytest.mark.parametrize("change", [{"test_uses": 10**400}, {"rule": {"requests_per_month": 10**400}}])
def test_a_number_beyond_all_floats_contradicts_and_stops_nothing(project: Path, change: dict[str, object]) -> None:
    path = project / "evalsets/own/decisions/retrieval.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    raw |= {name: (raw[name] | value) if isinstance(value, dict) else value for name, value in change.items()}
    path.write_text(json.dumps(raw), encoding="utf-8")
    assert look(project).of("contradicted")


def test_gates_that_came_with_the_decision_show_nothing(project: Path) -> None:
    shutil.rmtree(project / ".git")
    git(project, "init", "-q")
    commit(project, "all at once")
    (told,) = [c.told for c in look(project).of("not verified") if c.name == "gates fixed before"]
    assert told.startswith("the gates came with the decision, in one commit, so that nothing shows which was first")
    edit(project, "gates.toml", "floor", " floor")
    assert "committed" in {c.name for c in look(project).of("not verified")}


def test_values_that_are_only_bounded_are_kept_with_the_scores(original: Path, tmp_path: Path) -> None:
    shutil.copytree(original, tmp_path / "p", ignore=shutil.ignore_patterns("decisions", "runs", "data"))
    settings = load_settings({}, start=tmp_path / "p")
    bounded = drawn_scores().with_columns(against=pl.when(pl.col("arm") == "vector").then(pl.col("value") + 0.01))
    path = accepted(settings, decided(settings, bounded), bounded)
    assert verify(path).holds
    kept = pl.read_parquet(path.with_suffix(".scores.parquet"))
    kept.drop("against").write_parquet(path.with_suffix(".scores.parquet"))
    assert not verify(path).holds


def test_statement_is_in_toto_with_every_check_and_the_hashes_of_what_it_is_about(project: Path) -> None:
    a_better_score(project)
    told = json.loads(statement([look(project)], now=datetime(2026, 12, 24, tzinfo=UTC), root=project))
    assert told["_type"] == "https://in-toto.io/Statement/v1"
    path = "evalsets/own/decisions/retrieval.scores.parquet"
    assert {"name": path, "digest": {"sha256": file_hash(project / path)}} in told["subject"]
    predicate = told["predicate"]
    assert predicate["result"] == "FAILED"
    assert "own/retrieval: estimate of hybrid" in predicate["failedTests"]
    assert "own/retrieval: input weights" in predicate["warnedTests"]
    assert {c["status"] for c in predicate["checks"]} == {"verified", "contradicted", "not verified"}
    assert predicate["timeVerified"] == "2026-12-24T00:00:00+00:00"


def test_a_decision_is_named_by_file_or_by_evalset_and_notebook(project: Path) -> None:
    settings = load_settings({}, start=project)
    path = settings.evalsets / "own/decisions/retrieval.json"
    assert decisions_named(["own/retrieval"], settings) == decisions_named([], settings) == [path]
    with pytest.raises(ConfigError, match=r"there is no decision .*routing\.json; name a file, or EVALSET/NOTEBOOK"):
        decisions_named(["own/routing"], settings)


def test_files_that_are_gone_contradict_a_decision(project: Path) -> None:
    (project / "evalsets/own/decisions/retrieval.scores.parquet").unlink()
    (told,) = [c.told for c in look(project).of("contradicted")]
    assert "cannot be read" in told


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda d: replace(d, settings={"evalset": "own", "seed": "seven"}), "files"),
        (lambda d: replace(d, settings={"evalset": "own"}), "input parameter seed"),
        (lambda d: replace(d, claims=()), "files"),
    ],
)
def test_a_decision_that_was_mangled_is_told_and_breaks_nothing(project: Path, change: Callable, named: str) -> None:
    rewrite(project, change)
    assert named in {c.name for c in look(project).of("contradicted")}


def test_scores_without_a_column_are_told(project: Path) -> None:
    change_scores(project, lambda f: f.drop("value"))
    (told,) = [c.told for c in look(project).of("contradicted") if c.name == "files"]
    assert "value" in told


def test_nothing_in_a_decision_is_an_option_of_git_or_a_path(project: Path, tmp_path: Path) -> None:
    out = tmp_path / "written"
    rewrite(project, lambda d: replace(d, fingerprint=Fingerprint(d.fingerprint.inputs, {"commit": f"--output={out}"})))
    assert look(project).holds
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("written")]
    rewrite(project, lambda d: replace(d, notebook="../../../elsewhere"))
    with pytest.raises(ConfigError, match="says that it is a decision of"):
        look(project)


# --- the decisions of this repository


SLOW = [
    pytest.param(name, marks=pytest.mark.slow)
    for name in ("docs_qa/caching", "docs_qa/pipeline", "routing_demo/routing")
]


@pytest.mark.parametrize(
    "name", ["docs_qa/routing", "docs_qa/retrieval", "docs_qa/quality", "docs_qa/stack", "caching_demo/caching", *SLOW]
)
def test_decisions_of_this_repository_stand(name: str) -> None:
    (path,) = decisions_named([name], load_settings({}, start=ROOT))
    contradicted = verify(path).of("contradicted")
    if stale := [c.name for c in contradicted if c.name.startswith("input ")]:
        pytest.skip(f"stale, to be accepted anew: {', '.join(stale)}")
    assert contradicted == []


QWEN, FILE_OF_QWEN = "local/qwen2.5-coder-0.5b", "local-qwen2.5-coder-0.5b.jsonl"


@pytest.fixture
def docs_qa(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "evalsets/docs_qa", tmp_path / "evalsets/docs_qa")
    return tmp_path


def test_a_swapped_recording_is_named_and_so_are_the_scores_that_it_changes(docs_qa: Path) -> None:
    path = docs_qa / "evalsets/docs_qa/recordings/local-qwen2.5-coder-0.5b.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        if line["item_id"].startswith("answer:") and line["item_id"].endswith(":top2"):
            line["text"] = "I do not know."
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    found = {c.name for c in verify(docs_qa / "evalsets/docs_qa/decisions/routing.json").of("contradicted")}
    assert {"input recordings of local/qwen2.5-coder-0.5b", "scores of local/qwen2.5-coder-0.5b@top2"} <= found


@pytest.mark.parametrize(
    ("name", "file", "old", "new", "named"),
    [
        ("stack", f"recordings/{FILE_OF_QWEN}", '"output": ', '"output": 1', f"input recordings of {QWEN}"),
        ("stack", "traffic.toml", "seed = ", "seed = 1", "input stream"),
        ("stack", "decisions/caching.json", '"numbers": false', '"numbers": true', "input cache"),
        ("quality", "judges.toml", 'prompt = """', 'prompt = """\n', "input judges.toml"),
        ("retrieval", "decisions/retrieval.artefact", "hybrid_weighted", "full_text", "arm of retrieval.artefact"),
    ],
)  # fmt: skip
def test_what_a_decision_was_put_together_from_is_named_where_it_changed(
    docs_qa: Path, name: str, file: str, old: str, new: str, named: str
) -> None:
    path = docs_qa / "evalsets/docs_qa" / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    found = {c.name for c in verify(docs_qa / f"evalsets/docs_qa/decisions/{name}.json").of("contradicted")}
    assert named in found


@pytest.mark.slow
def test_another_price_of_a_model_is_named_and_so_are_the_costs_that_it_changes(docs_qa: Path) -> None:
    text = 'version = "2026-12-01"\n[models."local/qwen2.5-coder-0.5b"]\nusd_per_mtok = { input = 1, output = 2 }\n'
    text += 'source = "mine"\ndate = 2026-12-01\n'
    (docs_qa / "models.toml").write_text(text, encoding="utf-8")
    found = {c.name for c in verify(docs_qa / "evalsets/docs_qa/decisions/routing.json").of("contradicted")}
    assert {"input price of local/qwen2.5-coder-0.5b", "cost of local/qwen2.5-coder-0.5b@top2"} <= found


@pytest.mark.slow
def test_a_router_that_is_not_the_tested_one_is_named(docs_qa: Path) -> None:
    path = docs_qa / "evalsets/docs_qa/decisions/routing.artefact"
    routers = json.loads(path.read_text(encoding="utf-8"))
    arm = next(iter(routers))
    routers[arm]["overhead_usd"] = 0.5
    path.write_text(json.dumps(routers), encoding="utf-8")
    found = {c.name for c in verify(docs_qa / "evalsets/docs_qa/decisions/routing.json").of("contradicted")}
    assert {f"router {arm}", f"cost of {arm}"} <= found
