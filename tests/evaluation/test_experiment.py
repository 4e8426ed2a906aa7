"""What every notebook shares: parameters, the run folder, the record of test uses, saving and the gate."""

import json
import os
import re
import shutil

import pytest

import workbench
from tests.retrieval.tiny import change_query, judge, open_bench, project, write_evalset
from workbench.config import SystemClock
from workbench.errors import ConfigError, EvalsetError, RunError
from workbench.evaluation.provenance import build_parameters, encoder_probe, parameter_inputs
from workbench.evaluation.run_record import close_run
from workbench.evaluation.start import as_declared
from workbench.records import Decision
from workbench.retrieval.notebook import RetrievalParameters
from workbench.runner import RunRecord, accept
from workbench.testing import HashEmbedder


@pytest.fixture
def bench(tmp_path):
    return open_bench(tmp_path)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"evalst": "x"}, "unknown parameter 'evalst'; did you mean 'evalset'?"),
        ({"depth": "100"}, "depth must be a whole number, found '100'"),
        ({"depth": True}, "depth must be a whole number, found True"),
        ({"chunkers": "whole"}, "chunkers must be a list, found 'whole'"),
        ({"chunkers": ["whole", 3]}, "chunkers[1] must be text, found 3"),
        ({"evalset": 3, "seed": 0.5}, "evalset must be text, found 3; seed must be a whole number, found 0.5"),
    ],
)
def test_a_parameter_that_cannot_be_used_is_refused_with_its_name(given, says):
    with pytest.raises(ConfigError) as raised:
        build_parameters(RetrievalParameters, given)
    assert says in str(raised.value)


def test_lists_become_tuples_so_that_parameters_can_be_compared():
    assert build_parameters(RetrievalParameters, {"chunkers": ["whole"]}).chunkers == ("whole",)
    assert build_parameters(RetrievalParameters, {}) == RetrievalParameters()


def test_an_unknown_notebook_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="unknown notebook 'retrievel'; did you mean 'retrieval'"):
        workbench.start("retrievel")


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"evalset": "tiyn"}, EvalsetError, "unknown evalset 'tiyn'; did you mean 'tiny'?"),
        ({"systems": ["mine"]}, ConfigError, "a cost that is not known cannot be compared"),
        ({"rebuilds": 5}, ConfigError, "rebuilds = 5: a number from 8 to 1,000, or 0, is expected"),
        ({"rebuilds": -1}, ConfigError, "rebuilds = -1: "),
    ],
)
def test_what_can_be_refused_is_refused_before_a_run_folder_is_made(tmp_path, given, error, says):
    with pytest.raises(error) as raised:
        open_bench(tmp_path, **given)
    assert says in str(raised.value)
    assert not (tmp_path / "runs").exists()


def test_a_runs_folder_that_cannot_be_written_says_what_to_set(tmp_path):
    project(tmp_path).runs.write_text("a file, not a folder", encoding="utf-8")
    with pytest.raises(RunError, match=r"cannot write a run below .*; set WORKBENCH_RUNS to a writable folder"):
        open_bench(tmp_path)


def test_the_config_shows_every_parameter_and_the_rule(bench):
    rows = dict(bench.config.rows)
    assert rows["chunkers"] == "whole"
    assert rows["systems"] == "none"
    assert rows["gate: margin"] == "0.25"
    assert rows["accepted decision"] == "none yet"


def test_each_set_of_arms_is_one_use_of_the_test_split_however_often_it_is_judged(bench):
    count = bench.count_test_use
    assert [count(["a", "b"]), count(["b", "a"]), count(["a"]), count(["a", "b"])] == [1, 1, 2, 1]
    assert not (bench.evalset.path / "decisions").exists(), "only accepting a decision writes there"


def test_the_same_arms_by_another_seed_are_another_use(tmp_path):
    assert [open_bench(tmp_path, seed=seed).count_test_use(["a"]) for seed in (0, 1, 2, 1, 0)] == [1, 2, 3, 2, 1]


def without_questions(folder, n):
    """Leave out the first n questions of test."""
    qrels = folder / "qrels" / "test.tsv"
    head, *rows = qrels.read_text(encoding="utf-8").splitlines()
    gone = list(dict.fromkeys(row.split("\t")[0] for row in rows))[:n]
    kept = [row for row in rows if row.split("\t")[0] not in gone]
    qrels.write_text("\n".join([head, *kept]) + "\n", encoding="utf-8")


def rename_questions(folder):
    """Questions of test that nobody has been asked."""
    for path in (folder / "queries.jsonl", folder / "qrels" / "test.tsv", folder / "qrels" / "dev.tsv"):
        path.write_text(re.sub(r"\bq(\d\d)\b", r"new\1", path.read_text(encoding="utf-8")), encoding="utf-8")


def another_grade(folder):
    qrels = folder / "qrels" / "test.tsv"
    qrels.write_text(qrels.read_text(encoding="utf-8").replace("\t2\n", "\t3\n", 1), encoding="utf-8")


def a_line_end(folder):
    qrels = folder / "qrels" / "test.tsv"
    qrels.write_text(qrels.read_text(encoding="utf-8") + "\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "use"),
    [
        (another_grade, 4),
        (a_line_end, 4),
        (lambda folder: without_questions(folder, 1), 4),
        (lambda folder: without_questions(folder, 40), 4),
        (rename_questions, 1),
    ],
    ids=["a grade", "a line end", "a question left out", "most left out", "new questions"],
)
def test_only_new_questions_make_a_test_split_that_nobody_has_looked_at(tmp_path, change, use):
    """Judgements that are mended and items that are left out once scores are known give no alpha back."""
    bench = open_bench(tmp_path)
    assert [bench.count_test_use([arm]) for arm in "abc"] == [1, 2, 3]
    change(tmp_path / "evalsets" / "tiny")
    changed = open_bench(tmp_path)
    assert f"use {use} of this test split" in changed.power().caption or use == 1
    assert [changed.count_test_use([arm]) for arm in "aba"] == [use, use + 1, use]
    assert [open_bench(tmp_path).count_test_use([arm]) for arm in "ad"] == [use, use + 2]


def test_uses_of_another_split_of_the_same_questions_count_in_another_clone_too(tmp_path):
    """The items of the accepted decision are committed with its scores, and the list of uses with them."""
    bench = open_bench(tmp_path, reference="")
    dev, _, test, decision = judge(bench, bench.prepare())
    bench.gate(decision, test, dev)
    record = RunRecord(bench.folder, "running", "retrieval", "ci", parameters={"evalset": "tiny"})
    close_run(record, SystemClock(), status="done", gate="new")
    accept(project(tmp_path), "retrieval", reason="first", clock=SystemClock())
    shutil.rmtree(tmp_path / "data", ignore_errors=True)
    shutil.rmtree(project(tmp_path).cache, ignore_errors=True)
    another_grade(tmp_path / "evalsets" / "tiny")
    assert open_bench(tmp_path).count_test_use(decision.arms) == 2


def test_the_fingerprint_names_every_input(bench):
    inputs = bench.fingerprint().inputs
    assert {"queries", "corpus", "qrels/dev", "qrels/test", "gates", "weights", "encoder probe", "prices"} <= set(
        inputs
    )
    assert {f"parameter {name}" for name in ("chunkers", "strategies", "depth", "seed", "embedder")} <= set(inputs)
    assert json.dumps(inputs)


def test_only_what_gates_toml_asks_of_this_notebook_makes_its_decision_stale(tmp_path):
    def gates_input(text):
        (tmp_path / "evalsets" / "tiny" / "gates.toml").write_text(text, encoding="utf-8")
        return open_bench(tmp_path).inputs["gates"]

    open_bench(tmp_path)
    asked = gates_input("[retrieval]\nmargin = 0.03\n")
    assert gates_input("# why\n[caching]\nalpha = 0.2\n\n[retrieval]\nmargin = 0.03  # ours\n") == asked
    assert gates_input("[retrieval]\nmargin = 0.04\n") != asked
    assert gates_input("[retrieval]\nmargin = 0.02\n") == gates_input("[caching]\nalpha = 0.2\n"), "the default"


def test_an_evalset_from_elsewhere_is_told_by_its_name_and_content_wherever_it_lies(tmp_path):
    found = []
    for where in ("here", "there"):
        folder = write_evalset(tmp_path / where / "mine")
        bench = open_bench(tmp_path / where, evalset=str(folder))
        found.append(bench)
        assert bench.evalset.path == folder
    assert found[0].inputs == found[1].inputs
    assert re.fullmatch(r"mine@[0-9a-f]{8}", found[0].parameters.evalset)
    assert str(tmp_path) not in json.dumps(found[0].inputs) + found[0].config.to_text()
    change_query(tmp_path / "there" / "mine")
    changed = open_bench(tmp_path / "there", evalset=str(tmp_path / "there" / "mine"))
    assert changed.parameters.evalset != found[0].parameters.evalset


def test_provenance_is_shown_and_decides_nothing(bench):
    fingerprint = bench.fingerprint()
    assert {"python", "machine", "version lancedb"} <= set(fingerprint.provenance)
    assert fingerprint.changed(type(fingerprint)(fingerprint.inputs, {"python": "4.0"})) == []


def test_git_is_asked_once_in_a_run_however_often_its_inputs_are_compared(tmp_path, monkeypatch):
    """A run that is checked compares its inputs at each step; where the code stands is noted when it begins."""
    asked, git = tmp_path / "asked", tmp_path / "bin" / "git"
    git.parent.mkdir()
    git.write_text(f'#!/bin/sh\necho "$3" >> "{asked}"\necho 0123456789ab\n', encoding="utf-8")
    git.chmod(0o755)
    monkeypatch.setenv("PATH", f"{git.parent}:{os.environ['PATH']}")
    checked = open_bench(tmp_path)
    checked.accepted = Decision("retrieval", "?", "ci", checked.rule(), "chosen", "a", {}, "", (), 0, 0, None, 1,
                                checked.fingerprint())  # fmt: skip
    assert [checked.rechecks for _ in range(3)] == [True] * 3
    checked.inputs = {**checked.inputs, "queries": "other"}
    assert not checked.rechecks
    assert checked.fingerprint().provenance["commit"] == "0123456789ab"
    assert asked.read_text(encoding="utf-8").split() == ["rev-parse", "status"]


def test_another_encoder_probes_otherwise_and_the_same_one_the_same():
    assert encoder_probe(HashEmbedder(16)) == encoder_probe(HashEmbedder(16))
    assert encoder_probe(HashEmbedder(16)) != encoder_probe(HashEmbedder(16, seed=1))


def test_a_decision_accepted_with_one_embedder_in_one_store_rests_on_what_it_did():
    """Parameters that came later, at the value that says nothing, make no decision stale."""
    told = parameter_inputs(RetrievalParameters(embedders=("minilm",)))
    assert told["parameter embedder"] == "'minilm'"
    assert not {"parameter embedders", "parameter stores"} & told.keys()
    more = parameter_inputs(RetrievalParameters(embedders=("minilm", "wordllama"), stores=("lance", "postgres")))
    assert more["parameter embedders"] == "('minilm', 'wordllama')"
    assert more["parameter stores"] == "('lance', 'postgres')"


def test_the_old_name_of_a_parameter_is_its_one_value_and_not_both():
    assert build_parameters(RetrievalParameters, {"embedder": "minilm"}).embedders == ("minilm",)
    with pytest.raises(ConfigError, match="'embedder' and 'embedders' are the same; give 'embedders' alone"):
        build_parameters(RetrievalParameters, {"embedder": "minilm", "embedders": ["wordllama"]})


def test_settings_of_a_decision_run_in_an_older_and_a_newer_notebook():
    older, newer = {"evalset", "embedder"}, {"evalset", "embedders", "stores"}
    kept = {"evalset": "mine", "embedders": ["minilm"], "stores": ["lance"]}
    assert as_declared("retrieval", kept, older) == {"evalset": "mine", "embedder": "minilm"}
    assert as_declared("retrieval", {"embedder": "minilm"}, newer) == {"embedders": ["minilm"]}
    assert as_declared("retrieval", kept, newer) == kept
    two = {"embedders": ["minilm", "wordllama"], "stores": ["postgres"]}
    assert as_declared("retrieval", two, older) == two, "an older cell cannot hold them, and says so"
    assert as_declared("mine", {"embedder": "x"}, newer) == {"embedder": "x"}
