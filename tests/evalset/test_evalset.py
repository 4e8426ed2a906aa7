import hashlib
import json
import sys
from types import SimpleNamespace

import pytest

from tests.evalset.small_evalset import DOCUMENTS, QUERIES, settings_in, shared, write
from workbench.errors import ConfigError, EvalsetError
from workbench.evalset.evalset import PARTS, find_evalset, load_evalset, require_evalset
from workbench.records import Document


def plain(n, **cluster_of):
    return [{"_id": f"q{i}", "text": f"question {i}", "metadata": cluster_of.get(f"q{i}", {})} for i in range(n)]


def test_a_folder_loads_by_name_and_by_path(tmp_path):
    folder = write(tmp_path / "evalsets" / "mine")
    settings = settings_in(tmp_path)
    named, by_path = load_evalset("mine", settings=settings), load_evalset(folder, settings=settings)
    assert named == by_path
    assert named.name == "mine"
    assert named.tenants == ("a", "b")
    assert sorted({q.cluster for q in named.queries}) == ["combine", "order", "outer"]
    test = named.split("test")
    assert [q.query_id for q in test.queries] == ["q2", "q3"]
    assert test.qrels == {"q2": {"d2": 2}, "q3": {"d3": 1}}
    assert test.clusters == {"q2": "order", "q3": "outer"}
    with pytest.raises(EvalsetError, match="did you mean 'test'"):
        named.split("tset")
    with pytest.raises(EvalsetError, match="did you mean 'mine'"):
        load_evalset("mien", settings=settings)


def test_a_folder_that_is_no_evalset_is_told_with_what_it_holds_and_what_to_do(tmp_path):
    settings = settings_in(tmp_path)
    docs = tmp_path / "docs"
    (docs / "guide").mkdir(parents=True)
    for name in ("a.md", "b.MD", "c.png"):
        (docs / name).write_text("x", encoding="utf-8")
    with pytest.raises(EvalsetError, match="'docs' is no evalset") as raised:
        require_evalset(docs, "docs", settings)
    told = str(raised.value)
    assert f"{docs} holds neither questions (queries.jsonl) nor a corpus" in told
    assert "it holds 2 .md, 1 folder, 1 .png; " in told or "it holds 2 .md, 1 .png, 1 folder; " in told
    assert told.endswith("workbench new NAME --documents docs --questions FILE")
    write(settings.evalsets / "mine")
    with pytest.raises(EvalsetError, match="FILE; or name one of mine"):
        find_evalset(docs, settings)
    with pytest.raises(EvalsetError, match="it holds 1 folder; evalsets in it are mine: name one of them"):
        find_evalset(settings.evalsets, settings)
    (settings.evalsets / "empty").mkdir()
    with pytest.raises(EvalsetError, match="it holds nothing; make one"):
        load_evalset("empty", settings=settings)
    assert find_evalset("mine", settings) == settings.evalsets / "mine"


@pytest.mark.parametrize("part", PARTS)
def test_any_part_makes_a_folder_an_evalset_that_may_lack_others(tmp_path, part):
    (tmp_path / "mine" / part).mkdir(parents=True)
    assert find_evalset(tmp_path / "mine", settings_in(tmp_path)) == tmp_path / "mine"


def test_inputs_are_the_hashes_of_the_files_and_the_card_is_not_among_them(tmp_path):
    folder = write(tmp_path / "mine")
    (folder / "card.md").write_text("---\nsynthetic: true\n---\n# Card\n")
    evalset = load_evalset(folder, settings=settings_in(tmp_path))
    assert evalset.synthetic
    assert sorted(evalset.inputs) == ["corpus", "qrels/dev", "qrels/test", "queries"]
    assert evalset.inputs["queries"] == hashlib.sha256((folder / "queries.jsonl").read_bytes()).hexdigest()
    with (folder / "qrels" / "test.tsv").open("a") as file:
        file.write("q2\td1\t0\n")
    changed = load_evalset(folder, settings=settings_in(tmp_path)).inputs
    assert {k for k in changed if changed[k] != evalset.inputs[k]} == {"qrels/test"}


def test_plain_beir_gets_one_tenant_and_each_query_its_own_cluster(tmp_path):
    rows = [{"_id": i, "text": "x"} for i in ("d1", 2)]
    write(tmp_path, documents=rows, queries=[{"_id": "q", "text": "y"}], test=["q\t2\t1"])
    evalset = load_evalset(tmp_path, settings=settings_in(tmp_path))
    assert evalset.tenants == ("default",)
    assert [q.cluster for q in evalset.queries] == ["q"]
    assert evalset.documents[1].doc_id == "2"


def test_train_serves_as_dev_with_all_its_queries(tmp_path):
    write(tmp_path, documents=DOCUMENTS, queries=QUERIES, train=["q1\td1\t1", "q2\td2\t1"], test=["q3\td3\t1"])
    evalset = load_evalset(tmp_path, settings=settings_in(tmp_path))
    assert set(evalset.qrels) == {"dev", "test"}
    assert len(evalset.split("dev").queries) == 2
    assert "train serve as dev" in evalset.notes[0]


def test_without_dev_or_train_clusters_are_split_one_to_three_and_stay_when_more_come(tmp_path):
    def split(n, seed):
        families = {f"q{i}": {"cluster": f"family {i // 2}"} for i in range(n)}
        lines = [f"q{i}\td1\t1" for i in range(n)]
        write(tmp_path, documents=[{"_id": "d1", "text": "x"}], queries=plain(n, **families), test=lines)
        return load_evalset(tmp_path, settings=settings_in(tmp_path), seed=seed)

    before, after, other = split(400, 0), split(600, 0), split(400, 1)
    dev, test = before.split("dev"), before.split("test")
    assert not set(dev.clusters.values()) & set(test.clusters.values())
    assert 0.18 < len(dev.queries) / 400 < 0.32
    assert "seed 0" in before.notes[0]
    assert set(dev.qrels) <= set(after.qrels["dev"])
    assert set(test.qrels) <= set(after.qrels["test"])
    assert set(dev.qrels) != set(other.qrels["dev"])


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("seed", range(8))
def test_even_a_tiny_set_has_both_splits(tmp_path, n, seed):
    write(tmp_path, documents=[{"_id": "d", "text": "x"}], queries=plain(n), test=[f"q{i}\td\t1" for i in range(n)])
    evalset = load_evalset(tmp_path, settings=settings_in(tmp_path), seed=seed)
    assert evalset.split("dev").queries
    assert evalset.split("test").queries


def test_a_corpus_toml_is_built_by_the_retrieval_layer(tmp_path, monkeypatch):
    def load_corpus(folder, settings):
        if "broken" in (folder / "corpus.toml").read_text():
            raise ConfigError("corpus.toml is broken")
        return [Document(d, "text", tenant_id=t) for d, t in (("d1", "a"), ("d2", "a"), ("d3", "b"))], "manifest"

    built = SimpleNamespace(load_corpus=load_corpus, corpus_lock_hash=None)
    monkeypatch.setitem(sys.modules, "workbench.evalset.corpus", built)
    folder = write(tmp_path)
    (folder / "corpus.jsonl").unlink()
    (folder / "corpus.toml").write_text("fine")
    evalset = load_evalset(folder, settings=settings_in(tmp_path))
    assert (len(evalset.documents), evalset.inputs["corpus"]) == (3, "manifest")
    (folder / "corpus.toml").write_text("broken")
    with pytest.raises(EvalsetError, match=r"corpus\.toml: corpus\.toml is broken"):
        load_evalset(folder, settings=settings_in(tmp_path))


def test_an_evalset_of_outcomes_alone_has_no_queries(tmp_path):
    (tmp_path / "outcomes.parquet").write_bytes(b"read elsewhere")
    evalset = load_evalset(tmp_path, settings=settings_in(tmp_path))
    assert (evalset.queries, evalset.documents, evalset.qrels) == ((), (), {})


def test_all_defects_are_in_one_error(tmp_path):
    write(tmp_path, queries=[*QUERIES, {"_id": "q1", "text": "again"}, {"_id": "q9", "text": 5}])
    with (tmp_path / "qrels" / "test.tsv").open("a") as file:
        file.write("q2\tnone\t1\n")
    with pytest.raises(EvalsetError) as caught:
        load_evalset(tmp_path, settings=settings_in(tmp_path))
    places = [(d.file.rsplit("/", 1)[-1], d.line) for d in caught.value.defects]
    assert places == [("queries.jsonl", 4), ("queries.jsonl", 5), ("test.tsv", 4)]


def test_hub_names_are_never_fetched_by_loading(tmp_path):
    with pytest.raises(EvalsetError, match="workbench import hub mteb/scifact"):
        load_evalset("hub:mteb/scifact", settings=settings_in(tmp_path))


def test_metadata_that_cannot_be_used_is_named(tmp_path):
    bad = [{"accept": "x"}, {"cluster": [3]}, {"accept": [1]}]
    write(
        tmp_path, queries=[{"_id": f"q{i}", "text": "x", "metadata": m} for i, m in enumerate(bad)], test=["q0\td1\t1"]
    )
    documents = [*DOCUMENTS, {"_id": "d4", "text": "x", "metadata": {"date": "May 2024"}}, {"_id": "a\tb", "text": "x"}]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(d) + "\n" for d in documents))
    with pytest.raises(EvalsetError) as caught:
        load_evalset(tmp_path, settings=settings_in(tmp_path))
    places = {(d.file.rsplit("/", 1)[-1], d.line) for d in caught.value.defects}
    assert places == {
        ("queries.jsonl", 1),
        ("queries.jsonl", 2),
        ("queries.jsonl", 3),
        ("corpus.jsonl", 4),
        ("corpus.jsonl", 5),
    }


def test_scifact_loads_as_it_is(tmp_path):
    folder = shared("scifact")
    evalset = load_evalset(folder, settings=settings_in(tmp_path))
    assert (len(evalset.documents), len(evalset.queries)) == (5183, 1109)
    assert len(evalset.split("test").queries) == 300
    assert sum(map(len, evalset.split("test").qrels.values())) == 339
    assert len(evalset.split("dev").queries) == 807, "two of 809 stand in test again"


def test_anthropic_docs_load_as_they_are(tmp_path):
    evalset = load_evalset(shared("anthropic_docs"), settings=settings_in(tmp_path))
    sizes = [len(evalset.split(name).queries) for name in ("dev", "test")]
    assert sum(sizes) == 100
    assert 15 <= sizes[0] <= 35
