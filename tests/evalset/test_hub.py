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
            "test:1: the grade must be a whole number, found 0.5",
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
