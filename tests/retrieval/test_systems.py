"""The user's own system beside ours: where it comes from, what it costs, and that its faults are its own."""

import importlib
import sys

import polars as pl
import pytest

from tests.retrieval.tiny import HYBRID, TEXT, judge, open_bench, project
from workbench.errors import ConfigError, EvalsetError, ProviderError
from workbench.records import Hit, Query, content_hash
from workbench.retrieval.systems import load_systems, system_inputs

MODULE = """from workbench.records import Hit

def hits(query):
    return [Hit("d2", 0.5), Hit("d1", 0.9)]

def numbered(query):
    return [Hit(7, 1), (8, 0.5)]

def pairs(query):
    return (("d2", 2), ("d1", 1))

def ids(query):
    yield from ("d2", "d1")

def nothing(query):
    return []

def faulty(query):
    if query.query_id == "q13":
        raise KeyError("a bug of theirs")
    return [f"{query.tenant_id}.t{i}" for i in range(10)]

def wrong(query):
    return 7
"""
MAIN = """from . import index
import json

def hits(query):
    from their_package.late import last
    return [*index.best(), last]
"""
QUERY = Query("q1", "words", "acme")


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """A project with systems of every form, one module of which can be imported."""
    made = project(tmp_path)
    (tmp_path / "my.run").write_text("q1 Q0 d1 1 2.0 x\nq1 Q0 d2 2 1.0 x\n", encoding="utf-8")
    pl.DataFrame({"query_id": ["q1", "q1"], "doc_id": ["d1", "d2"], "rank": [1, 2]}).write_csv(tmp_path / "hits.csv")
    (tmp_path / "their_search.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.setattr(sys, "path", [*sys.path])
    importlib.invalidate_caches()
    yield made
    sys.modules.pop("their_search", None)


@pytest.mark.parametrize("source", ["my.run", "hits.csv"])
def test_a_run_file_and_a_hits_table_are_arms(settings, source):
    (system,) = load_systems([f"mine={source}@0.25"], settings)
    assert (system.name, system.source, system.cost_usd_per_1k, system.search) == ("mine", source, 0.25, None)
    assert system.run.sort("rank")["doc_id"].to_list() == ["d1", "d2"]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("hits", ["d2", "d1"]), ("pairs", ["d2", "d1"]), ("ids", ["d2", "d1"]), ("numbered", ["7", "8"]),
        ("nothing", []),
    ],
)  # fmt: skip
def test_a_callable_returns_hits_pairs_or_ids_and_its_order_is_kept(settings, function, expected):
    (system,) = load_systems([f"mine=their_search:{function}@1e-3"], settings)
    found = list(system.search(QUERY))
    assert [hit.doc_id for hit in found] == expected
    assert all(isinstance(hit, Hit) for hit in found)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("mine=my.run", "a cost that is not known cannot be compared"),
        ("mine=my.run@", "costs ''"),
        ("mine=my.run@free", "costs 'free'; say its dollars per 1,000 requests"),
        ("mine=my.run@-1", "costs '-1'"),
        ("mine=my.run@nan", "costs 'nan'"),
        ("mine=my.run@inf", "costs 'inf'"),
        ("my.run@1", "is not NAME=PATH@USD or NAME=module:function@USD"),
        ("=my.run@1", "is not NAME=PATH@USD"),
        ("mine=absent.run@1", r"no file .*absent\.run, and 'absent\.run' is not module:function"),
        ("mine=no_such_module:search@1", "cannot be imported: No module named 'no_such_module'"),
        ("mine=their_search:serach@1", "cannot be imported: .*serach"),
        ("mine=their_search:Hit.nothing@1", "cannot be imported"),
        ("mine=os:sep@1", "'os:sep' cannot be called"),
    ],
)
def test_a_system_that_cannot_be_compared_is_refused_before_anything_runs(settings, entry, says):
    with pytest.raises(ConfigError, match=says):
        load_systems([entry], settings)


def test_a_run_that_cannot_be_read_is_refused_with_its_lines(settings):
    (settings.root / "my.run").write_text("q1 Q0 d1 1 2.0 x\nq1 d2\n", encoding="utf-8")
    with pytest.raises(EvalsetError, match=r"my\.run:2: 6 columns"):
        load_systems(["mine=my.run@1"], settings)


@pytest.mark.parametrize("function", ["faulty", "wrong"])
def test_whatever_a_callable_raises_is_an_error_of_that_question(settings, function):
    (system,) = load_systems([f"mine=their_search:{function}@1"], settings)
    with pytest.raises(ProviderError, match="system 'mine' failed on q13"):
        system.search(Query("q13", "words", "acme"))


def test_another_source_is_another_input(settings):
    entry = ["mine=my.run@1", "call=their_search:ids@1"]
    before = system_inputs(load_systems(entry, settings))
    assert set(before) == {"system mine", "system call"}
    assert all(len(digest) == 64 for digest in before.values())
    (settings.root / "my.run").write_text("q1 Q0 d1 1 3.0 x\n", encoding="utf-8")
    (settings.root / "their_search.py").write_text(MODULE + "\n", encoding="utf-8")
    after = system_inputs(load_systems(entry, settings))
    assert all(before[name] != after[name] for name in before)


def test_run_table_and_callable_stand_beside_ours_and_failures_are_their_own(settings):
    """One comparison: the callable fails on one dev and one test question, which counts against it and no other."""
    hits = [(f"q{i:02d}", f"{t}.t{j}", -j) for i in range(72) for t in ("acme",) for j in range(3)]
    rows = "".join(f"{q} Q0 {d} 1 {score} x\n" for q, d, score in hits)
    (settings.root / "my.run").write_text(rows, encoding="utf-8")
    pl.DataFrame(hits, schema=["query_id", "doc_id", "score"], orient="row").write_csv(settings.root / "hits.csv")
    names = ["run=my.run@0.0001", "table=hits.csv@0.0002", "call=their_search:faulty@0.0003"]
    bench = open_bench(settings.root, systems=names)
    dev, _, _, _ = judge(bench, bench.prepare())
    assert {"run", "table", "call", TEXT, HYBRID} <= set(dev.answers)
    assert set(dev.answers["call"].errors) == {"q13"}
    assert "a bug of theirs" in dev.answers["call"].errors["q13"]
    assert all(not answers.errors for name, answers in dev.answers.items() if name != "call")
    failed = dev.of("ndcg@10").filter(pl.col("value").is_null())
    assert failed.select("arm", "item_id").rows() == [("call", "q13")]
    assert (
        dev.answers["run"]
        .run.select("query_id", "doc_id", "rank")
        .equals(dev.answers["table"].run.select("query_id", "doc_id", "rank"))
    )
    facts = {f.name: f for f in dev.facts}
    assert [facts[n].cost_usd_per_1k for n in ("run", "table", "call")] == [0.0001, 0.0002, 0.0003]
    assert facts["run"].latency_p95_ms is None, "a stored run was not timed here"
    assert facts["call"].latency_p95_ms > 0


@pytest.fixture
def package(settings, tmp_path):
    """A system in several files of ``notebooks/``, one of them imported when it is asked."""
    home = tmp_path / "notebooks" / "their_package"
    home.mkdir(parents=True)
    (home / "__init__.py").write_text("", encoding="utf-8")
    (home / "main.py").write_text(MAIN, encoding="utf-8")
    (home / "index.py").write_text("def best():\n    return ['d2']\n", encoding="utf-8")
    (home / "late.py").write_text("last = 'd1'\n", encoding="utf-8")
    (home / "other.py").write_text("nobody = 1\n", encoding="utf-8")
    importlib.invalidate_caches()
    yield home
    for name in [n for n in sys.modules if n.split(".")[0] == "their_package"]:
        sys.modules.pop(name)


def hashed(settings):
    (system,) = load_systems(["mine=their_package.main:hits@1"], settings)
    return system_inputs([system])["system mine"]


def test_a_module_of_the_notebooks_folder_is_found_wherever_the_kernel_works(settings, package):
    (system,) = load_systems(["mine=their_package.main:hits@1"], settings)
    assert [hit.doc_id for hit in system.search(QUERY)] == ["d2", "d1"]


@pytest.mark.parametrize(("file", "counts"), [("main", 1), ("index", 1), ("late", 1), ("__init__", 1), ("other", 0)])
def test_what_a_system_imports_of_the_project_is_part_of_its_hash(settings, package, file, counts):
    before = hashed(settings)
    path = package / f"{file}.py"
    path.write_text(path.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    assert (hashed(settings) != before) == bool(counts)


def test_a_system_in_one_file_has_the_hash_of_that_file(settings):
    (system,) = load_systems(["mine=their_search:hits@1"], settings)
    assert system.sha256 == content_hash((settings.root / "their_search.py").read_bytes())


def test_a_run_whose_ranks_contradict_its_scores_says_so_in_the_report(settings):
    """Distances taken for scores: the last of each list would be the first."""
    rows = "".join(f"q{i:02d} Q0 acme.t{j} {j + 1} {j} x\n" for i in range(72) for j in range(3))
    (settings.root / "my.run").write_text(rows, encoding="utf-8")
    bench = open_bench(settings.root, systems=["mine=my.run@1"])
    judge(bench, bench.prepare())
    told = (bench.folder / "summary.json").read_text(encoding="utf-8")
    assert "my.run: of 72 of 72 questions the ranks contradict the scores" in told
