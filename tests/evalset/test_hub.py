import json
import os
import subprocess
import sys
import time

import pytest

from tests.evalset.small_evalset import settings_in
from workbench.errors import EvalsetError
from workbench.evalset.evalset import load_evalset
from workbench.evalset.imports.hub import load_hub

CARD = """---
configs:
- {config_name: corpus, data_files: [{split: corpus, path: corpus.jsonl}]}
- {config_name: queries, data_files: [{split: queries, path: queries.jsonl}]}
- {config_name: default, data_files: [{split: train, path: train.jsonl}, {split: test, path: test.jsonl}]}
---
"""
FILES = {
    "corpus": [{"_id": "d1", "title": "merge", "text": "Join."}, {"_id": "d2", "title": "", "text": "Sort."}],
    "queries": [{"_id": "q1", "text": "combine"}, {"_id": "q2", "text": "order"}],
    "train": [{"query-id": "q1", "corpus-id": "d1", "score": 1.0}],
    "test": [{"query-id": "q2", "corpus-id": "d2", "score": 2.0}],
}


def collection(folder, **changed):
    """A collection laid out as MTEB's are on the hub."""
    folder.mkdir()
    (folder / "README.md").write_text(CARD)
    for name, rows in (FILES | changed).items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def run(code, **env):
    """Run code in a fresh interpreter that reports every attempt to use a socket."""
    watch = (
        "import sys\n"
        "sys.addaudithook(lambda e, a: print('NETWORK', e, a[-1]) "
        "if e in ('socket.connect', 'socket.getaddrinfo') else None)\n"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | env
    return subprocess.run([sys.executable, "-c", watch + code], env=env, capture_output=True, text=True, check=False)


def test_a_collection_becomes_an_evalset_that_is_found_again_without_datasets(tmp_path, monkeypatch):
    name = collection(tmp_path / "scifact")
    evalset = load_hub(name, settings=settings_in(tmp_path))
    assert evalset.qrels == {"dev": {"q1": {"d1": 1}}, "test": {"q2": {"d2": 2}}}
    assert [d.text for d in evalset.documents] == ["Join.", "Sort."]
    assert "judgements 'found'; files " in evalset.card
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert load_hub(name, settings=settings_in(tmp_path)) == evalset
    assert load_evalset(f"hub:{name}", settings=settings_in(tmp_path)) == evalset


def test_collections_are_read_through_datasets(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError):
        load_hub(collection(tmp_path / "scifact"), settings=settings_in(tmp_path))


@pytest.mark.parametrize(
    ("changed", "arguments", "message"),
    [
        ({}, {"qrels": "none"}, "configuration 'none'.*not found"),
        ({"test": [{"query": "q2", "doc": "d2"}]}, {}, "cannot be loaded|query-id"),
        (
            {"train": [], "test": [{"query-id": "q2", "corpus-id": "d2", "score": 0.5}]},
            {},
            "test:1: the grade must be a whole",
        ),
        ({"queries": [{"_id": "q1", "text": None}, {"_id": "q2", "text": "x"}]}, {}, "queries:1"),
    ],
)
def test_a_collection_of_another_form_is_refused(tmp_path, changed, arguments, message):
    if changed.get("train") == []:
        changed = changed | {"train": changed["test"]}
    with pytest.raises(EvalsetError, match=message):
        load_hub(collection(tmp_path / "odd", **changed), settings=settings_in(tmp_path), **arguments)
    assert not (tmp_path / "cache" / "hub").exists()


def test_local_files_are_read_without_any_network(tmp_path):
    name = collection(tmp_path / "scifact")
    code = f"""
from pathlib import Path
from workbench.config import load_settings
from workbench.evalset.imports.hub import load_hub
root = Path({str(tmp_path)!r})
print(len(load_hub({name!r}, settings=load_settings({{}}, root)).documents))
"""
    done = run(code)
    assert done.stdout.splitlines() == ["2"], done.stderr


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}, "the hub cannot be reached"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
    ],
)
def test_a_hub_name_without_network_fails_within_seconds_and_says_what_to_do(tmp_path, env, message):
    code = f"""
from pathlib import Path
from workbench.config import load_settings
from workbench.evalset.imports.hub import load_hub
load_hub("owner/none", settings=load_settings({{}}, Path({str(tmp_path)!r})))
"""
    started = time.perf_counter()
    done = run(code, **env)
    assert time.perf_counter() - started < 60
    assert message in done.stderr
    assert "load a local BEIR folder" in done.stderr
    assert ("NETWORK" in done.stdout) == (env["HF_HUB_OFFLINE"] == "0")


def test_ids_in_id_judgements_in_qrels_metadata_as_text_and_grades_below_0(tmp_path):
    """As mteb 2 pushes, and as datasets stores objects whose keys differ."""
    name = collection(
        tmp_path / "new",
        corpus=[
            {"id": "d1", "title": "", "text": "Join.", "metadata": '{"tenant_id": "a"}'},
            {"id": "d2", "title": "", "text": "Sort.", "metadata": '{"tenant_id": "b", "n": 1}'},
        ],
        queries=[
            {"id": "q1", "text": "combine", "metadata": '{"tenant_id": "a"}'},
            {"id": "q2", "text": "order", "metadata": '{"tenant_id": "b"}'},
        ],
        test=[{"query-id": "q2", "corpus-id": "d2", "score": 2}, {"query-id": "q2", "corpus-id": "d2b", "score": -1}][
            :1
        ],
        train=[{"query-id": "q1", "corpus-id": "d1", "score": 1}],
    )
    (tmp_path / "new" / "README.md").write_text(CARD.replace("config_name: default", "config_name: qrels"))
    evalset = load_hub(name, settings=settings_in(tmp_path))
    assert evalset.tenants == ("a", "b")
    assert evalset.qrels == {"dev": {"q1": {"d1": 1}}, "test": {"q2": {"d2": 2}}}


def test_grades_below_0_of_a_collection_are_judged(tmp_path):
    judged = [{"query-id": "q2", "corpus-id": "d2", "score": 2}, {"query-id": "q2", "corpus-id": "d1", "score": -1}]
    evalset = load_hub(collection(tmp_path / "trec", test=judged), settings=settings_in(tmp_path))
    assert evalset.qrels["test"] == {"q2": {"d2": 2, "d1": -1}}


def test_a_local_copy_that_was_corrected_is_read_anew_and_a_refused_one_is_not_kept(tmp_path):
    """datasets tells local folders apart by name alone, and would give the first content again."""
    settings = settings_in(tmp_path)
    name = collection(tmp_path / "copy", test=[{"query-id": "q2", "corpus-id": "d9", "score": 1}])
    with pytest.raises(EvalsetError, match="unknown document 'd9'"):
        load_hub(name, settings=settings)
    judged = tmp_path / "copy" / "test.jsonl"
    for doc_id in ("d2", "d1"):
        judged.write_text(json.dumps({"query-id": "q2", "corpus-id": doc_id, "score": 1}) + "\n")
        assert load_hub(name, settings=settings).qrels["test"] == {"q2": {doc_id: 1}}
    (tmp_path / "copy" / "corpus.jsonl").write_text('{"_id": "d1", "text": "New."}\n')
    assert [d.text for d in load_hub(name, settings=settings).documents] == ["New."]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["hub"], "no cache of datasets is left behind"


def test_other_configurations_are_another_collection(tmp_path):
    name = collection(tmp_path / "two", other=[{"query-id": "q2", "corpus-id": "d1", "score": 1}])
    card = CARD.removesuffix("---\n") + "- {config_name: other, data_files: [{split: test, path: other.jsonl}]}\n---\n"
    (tmp_path / "two" / "README.md").write_text(card)
    settings = settings_in(tmp_path)
    assert load_hub(name, settings=settings).qrels["test"] == {"q2": {"d2": 2}}
    judged = load_hub(name, settings=settings, qrels="other").qrels
    assert judged["dev"] | judged["test"] == {"q2": {"d1": 1}}
    lines = card.splitlines(keepends=True)
    (tmp_path / "two" / "README.md").write_text("".join(line for line in lines if "default" not in line))
    with pytest.raises(EvalsetError, match="no configuration default or qrels, but corpus, queries, other"):
        load_hub(name, settings=settings)
