"""Whatever a file holds, an importer loads it whole or says what is wrong; nothing half is left, no library speaks."""

import io
import json
import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.evalset.small_evalset import DOCUMENTS, QUERIES, settings_in, write
from workbench.costs.invoices import read_invoice
from workbench.errors import ConfigError, EvalsetError
from workbench.evalset.files import scan_jsonl, scan_qrels
from workbench.evalset.imports.document_tables import import_tables
from workbench.evalset.imports.hub import load_hub
from workbench.evalset.imports.judgement_sheets import import_judgements
from workbench.evalset.imports.outcome_tables import OutcomeRepairs, import_outcomes
from workbench.evalset.imports.pairs_and_streams import import_pair_labels, import_pairs, import_stream
from workbench.evalset.outcomes import load_outcomes
from workbench.evalset.traffic import load_traffic_pairs, load_traffic_stream
from workbench.project.new_evalset import understand_evalset
from workbench.project.new_evalset import write_new_evalset as write_own
from workbench.retrieval.systems import read_system_run

QUICK, MANY = 50, 500
# What practitioners' cells hold, each beside values that are right.
ODD = st.sampled_from(
    ["", " ", "nan", "NaN", "null", "$0.001", "0,001", "1,234.5", "100 %", "C", "PASS", "1.2", "-1", "1e999",
     "007", "7.0", "a;b", '["d1", 2]', "['d1']", '{"d1": 2}', '{"tenant_id": "a"}', '{"a": 1, "a": 2}', "yesterday",
     "٣", "\x00", "ÿ", "2026-01-06T12:00:00Z", "2026-01-06 12:00", "1767700800", 'a "quote', "two\nlines",
     "tab\there", "x" * 200_000]
)  # fmt: skip
PLAIN = st.sampled_from(["1", "0", "0.5", "d1", "d2", "q1", "q2", "small", "large", "a question", "test", "true"])
VALUES = (
    st.none() | st.booleans() | st.integers(-2, 9) | st.floats() | st.lists(st.integers(0, 3), max_size=2)
    | st.dictionaries(st.sampled_from(["d1", "id", "tenant_id"]), st.integers(0, 3) | st.text(max_size=3), max_size=2)
)  # fmt: skip
CELLS = PLAIN | PLAIN | PLAIN | ODD | st.text(max_size=5)
COLUMNS = {
    "corpus": ["_id", "text", "title", "metadata", "tenant_id", "date", "aliases"],
    "queries": ["id", "query", "relevant", "metadata", "accept", "cluster"],
    "qrels": ["query_id", "doc_id", "grade", "split"],
    "outcomes": ["prompt_id", "prompt", "model", "quality", "cost_usd", "latency_ms", "split", "epoch"],
    "wide": ["prompt", "small", "large", "small_cost", "large|total_cost", "hard"],
    "pairs": ["id", "query_a", "query_b", "same_answer", "split", "tenant"],
    "stream": ["query", "answer_key", "at", "pos", "tenant", "user_id"],
    "run": ["query_id", "doc_id", "score", "rank"],
    "judgements": ["query_id", "doc_id", "grade", "judge", "text"],
    "labels": ["query_a", "query_b", "same_answer", "judge", "tenant_id"],
    "own": ["slug", "markdown", "heading", "tenant_id"],
    "asked": ["q", "relevant_doc", "cluster"],
    "invoice": ["day", "model", "meter", "tokens", "cost_usd"],
}


ALL_FORMS = ["csv", "semicolons", "tsv", "jsonl", "parquet", "trec", "bytes"]


@st.composite
def files(draw: st.DrawFn, kind: str) -> tuple[str, bytes]:
    """Suffix and bytes of a table of this kind: right, right but for a cell or two, or of any content; at times cut."""
    mode = draw(st.sampled_from(["right", "right", "nearly", "nearly", "wild"]))
    forms = ["csv", "bytes"] if kind == "invoice" else ALL_FORMS
    form = draw(st.sampled_from(forms if mode == "wild" else [f for f in forms if f != "bytes"][:5]))
    if form == "bytes":
        return draw(st.sampled_from([".csv", ".jsonl", ".parquet", ".tsv", ".run"])), draw(st.binary(max_size=60))
    columns = draw(st.permutations(COLUMNS[kind]))
    columns = columns[: draw(st.integers(2, len(columns)))] if mode == "wild" else columns
    cells = CELLS if form in ("csv", "semicolons", "tsv", "trec") else CELLS | VALUES
    places = draw(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(columns)), min_size=1, max_size=2))
    rows = []
    for i in range(draw(st.sampled_from([4, 6, 2, 0] if mode == "wild" else [4, 6, 8]))):
        odd = [mode == "wild" or (mode == "nearly" and (i, name) in places) for name in columns]
        rows.append([draw(cells) if o else right(kind, n, i) for o, n in zip(odd, columns, strict=True)])
    if mode == "wild" and draw(st.booleans()):
        columns = [*columns[:-1], columns[0]]
    suffix, data = RENDER[form](columns, rows)
    cut = draw(st.integers(0, len(data))) if mode == "wild" and draw(st.booleans()) else len(data)
    return suffix, data[:cut]


def right(kind: str, name: str, i: int) -> Any:
    """A value that fits the column."""
    fitting = {
        "_id": f"d{i}", "id": f"q{i}", "text": "words", "query": f"question {i}", "relevant": "d1",
        "tenant_id": "a", "date": "2024-01-31", "query_id": f"q{i % 2 + 1}", "doc_id": f"d{i // 2 + 1}", "grade": i - 1,
        "prompt_id": f"p{i // 2}", "prompt": f"question {i // 2 if kind == 'outcomes' else i}", "split": "test",
        "model": ["small", "large"][i % 2], "quality": i % 2, "cost_usd": 0.01, "small": i % 2, "large": 1, "at": i,
        "small_cost": 0.1, "large|total_cost": 0.2, "query_a": f"a{i}", "query_b": "b", "same_answer": i % 2, "pos": i,
        "answer_key": "k", "metadata": '{"tenant_id": "a"}', "title": "t", "aliases": "[]",
        "score": 1.0 / (i + 1), "rank": i, "latency_ms": 3, "hard": 0.5, "accept": "x", "epoch": 0,
        "judge": "me", "slug": f"d{i}", "markdown": "# words", "heading": "t", "q": f"question {i}",
        "relevant_doc": "d1", "day": f"2026-11-0{i + 1}", "meter": "input", "tokens": 10 * i, "cluster": "c",
    }  # fmt: skip
    if kind == "judgements":  # what nobody judged of the small evalset
        fitting |= {"query_id": f"q{i % 2 + 1}", "doc_id": f"d{2 - i % 2}", "judge": f"judge {i // 2}", "text": None}
    if kind == "labels":  # of the requests of `ASKED`
        fitting |= {"query_a": f"request {i}", "query_b": f"request {i + 1}"}
    return fitting.get(name, "words")


def delimited(separator: str, suffix: str) -> Callable[..., tuple[str, bytes]]:
    def render(columns: list[str], rows: list[list[Any]]) -> tuple[str, bytes]:
        quoted = [['"' + str("" if c is None else c).replace('"', '""') + '"' for c in row] for row in [columns, *rows]]
        return suffix, "\n".join(separator.join(row) for row in quoted).encode(errors="replace")

    return render


def jsonl(columns: list[str], rows: list[list[Any]]) -> tuple[str, bytes]:
    lines = (
        "{" + ", ".join(f"{json.dumps(n)}: {json.dumps(c)}" for n, c in zip(columns, row, strict=True)) + "}"
        for row in rows
    )
    return ".jsonl", "\n".join(lines).encode()


def parquet(columns: list[str], rows: list[list[Any]]) -> tuple[str, bytes]:
    """Columns of one type where their cells have one, else of their texts."""
    data = io.BytesIO()
    names = list(dict.fromkeys(columns))
    series = []
    for i, name in enumerate(names):
        cells = [row[i] for row in rows]
        plain = len({type(cell) for cell in cells} - {type(None)}) == 1 and {} not in cells
        series.append(pl.Series(name, cells if plain else [None if c is None else str(c) for c in cells], strict=False))
    pl.DataFrame(series).write_parquet(data)
    return ".parquet", data.getvalue()


def trec(columns: list[str], rows: list[list[Any]]) -> tuple[str, bytes]:
    return ".run", "\n".join(f"{row[0]} Q0 {row[-1]} 1 {row[1]} tag" for row in rows).encode(errors="replace")


RENDER = {
    "csv": delimited(",", ".csv"), "semicolons": delimited(";", ".csv"), "tsv": delimited("\t", ".tsv"),
    "jsonl": jsonl, "parquet": parquet, "trec": trec,
}  # fmt: skip
_FOREIGN = re.compile(
    r"Traceback|polars|pyo3|ComputeError|SchemaError|KeyError|AttributeError|UnicodeError", re.IGNORECASE
)


def attempt(load: Callable[[], object], out: Path) -> bool:
    """Whether it loaded; an error of ours must leave nothing, and say nothing of what it is built on."""
    try:
        load()
    except (EvalsetError, ConfigError) as error:
        said = str(error).replace(str(out.parent), "")
    else:
        return True
    assert not _FOREIGN.search(said), said
    assert not out.exists()
    assert [p.name for p in out.parent.iterdir() if p.name.startswith(".")] == []
    return False


def folder_of(base: Path) -> Path:
    """An empty folder: one for each example."""
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir()
    return base


def put(folder: Path, stem: str, file: tuple[str, bytes]) -> Path:
    path = folder / f"{stem}{file[0]}"
    path.write_bytes(file[1])
    return path


def tables(data: st.DataObject, folder: Path) -> None:
    corpus, queries = (put(folder, kind, data.draw(files(kind))) for kind in ("corpus", "queries"))
    qrels = put(folder, "qrels", data.draw(files("qrels"))) if data.draw(st.booleans()) else None
    out = folder / "out"
    if attempt(lambda: import_tables(corpus=corpus, queries=queries, qrels=qrels, out=out), out):
        for name in ("corpus.jsonl", "queries.jsonl"):
            assert scan_jsonl(out / name)[1] == []
        assert all(scan_qrels(path)[1] == [] for path in (out / "qrels").iterdir())


def outcomes(data: st.DataObject, folder: Path) -> None:
    path = put(folder, "log", data.draw(files(data.draw(st.sampled_from(["outcomes", "wide"])))))
    repairs = OutcomeRepairs(
        drop_incomplete=data.draw(st.booleans()),
        costs={"small": 1.0} if data.draw(st.booleans()) else {},
        models=("small", "large") if data.draw(st.integers(0, 3)) == 0 else (),
        texts=data.draw(st.sampled_from(["refuse", "most_common"])),
    )
    if attempt(lambda: import_outcomes(path, folder / "out", repairs=repairs), folder / "out"):
        assert len(load_outcomes(folder / "out").models) >= 2


def pairs(data: st.DataObject, folder: Path) -> None:
    path = put(folder, "table", data.draw(files("pairs")))
    if attempt(lambda: import_pairs(path, folder / "out"), folder / "out"):
        assert load_traffic_pairs(folder / "out")[0]


def stream(data: st.DataObject, folder: Path) -> None:
    path = put(folder, "table", data.draw(files("stream")))
    if attempt(lambda: import_stream(path, folder / "out"), folder / "out"):
        assert len(load_traffic_stream(folder / "out"))


def run(data: st.DataObject, folder: Path) -> None:
    path = put(folder, "hits", data.draw(files("run")))
    found = []
    if attempt(lambda: found.append(read_system_run(path)), folder / "out"):
        assert found[0].columns == ["query_id", "doc_id", "rank", "score"]
        assert len(found[0])


def judgements(data: st.DataObject, folder: Path) -> None:
    where = settings_in(folder)
    judged = {"dev": ["q1\td1\t1"], "test": ["q2\td2\t1"]}
    mine = write(where.evalsets / "mine", documents=DOCUMENTS, queries=QUERIES, **judged)
    sheet = put(folder, "sheet", data.draw(files("judgements")))
    before = {path.name: path.read_bytes() for path in (mine / "qrels").iterdir()}
    if not attempt(lambda: import_judgements([sheet], "mine", settings=where), folder / "out"):
        assert {path.name: path.read_bytes() for path in (mine / "qrels").iterdir()} == before
    assert all(scan_qrels(path)[1] == [] for path in (mine / "qrels").iterdir())


ASKED = pl.DataFrame({"query": [f"request {i}" for i in range(9)], "tenant": ["a"] * 9})


@cache
def stream_of_asked() -> dict[str, bytes]:
    """Files of the imported stream, which each example labels anew."""
    with TemporaryDirectory() as folder:
        path, out = Path(folder) / "asked.csv", Path(folder) / "out"
        ASKED.write_csv(path)
        import_stream(path, out)
        return {file.name: file.read_bytes() for file in out.iterdir()}


def labels(data: st.DataObject, folder: Path) -> None:
    where = settings_in(folder)
    mine = where.evalsets / "mine"
    mine.mkdir(parents=True)
    for name, held in stream_of_asked().items():
        (mine / name).write_bytes(held)
    sheet = put(folder, "sheet", data.draw(files("labels")))
    before, partly = (mine / "stream.parquet").read_bytes(), data.draw(st.booleans())
    if attempt(lambda: import_pair_labels([sheet], "mine", settings=where, partly=partly), folder / "out"):
        assert load_traffic_pairs(mine)[0]
        assert len(load_traffic_stream(mine)) == len(ASKED)
    else:
        assert (mine / "stream.parquet").read_bytes() == before
        assert not (mine / "pairs.jsonl").exists()


def own(data: st.DataObject, folder: Path) -> None:
    documents, questions = (put(folder, kind, data.draw(files(kind))) for kind in ("own", "asked"))
    out = folder / "out"

    def whole() -> None:
        write_own(understand_evalset([str(documents)], questions, settings=settings_in(folder)), out, sources=["files"])

    if attempt(whole, out):
        assert all(scan_jsonl(out / name)[1] == [] for name in ("corpus.jsonl", "queries.jsonl"))
        assert all(scan_qrels(path)[1] == [] for path in (out / "qrels").iterdir())


USAGE = {"data": [{"start_time": 1767225600, "results": [
    {"model": "m", "input_tokens": 9, "input_cached_tokens": 2, "output_tokens": 1},
    {"amount": {"value": 0.5, "currency": "usd"}, "line_item": "m, input"},
]}]}  # fmt: skip
PLACES = [("data",), ("data", 0), ("data", 0, "start_time"), ("data", 0, "results"), ("data", 0, "results", 0),
          ("data", 0, "results", 0, "input_tokens"), ("data", 0, "results", 1, "amount"),
          ("data", 0, "results", 1, "amount", "value"), ("data", 0, "results", 1, "line_item")]  # fmt: skip


def invoice(data: st.DataObject, folder: Path) -> None:
    if data.draw(st.booleans()):
        path = put(folder, "bill", data.draw(files("invoice")))
    else:
        page = json.loads(json.dumps(USAGE))
        *way, last = data.draw(st.sampled_from(PLACES))
        holder: Any = page
        for key in way:
            holder = holder[key]
        holder[last] = data.draw(st.just(holder[last]) | CELLS | VALUES)
        path = put(folder, "bill", (".json", json.dumps(page).encode()))
    found: list[pl.DataFrame] = []
    if attempt(lambda: found.append(read_invoice(path)), folder / "out"):
        assert found[0].columns == ["day", "model", "meter", "tokens", "cost_nanos"]


HUB_CARD = "---\nconfigs:\n" + "".join(
    f"- {{config_name: {config}, data_files: [{{split: test, path: {file}}}]}}\n"
    for config, file in (("corpus", "corpus.jsonl"), ("queries", "queries.jsonl"), ("default", "qrels.jsonl"))
) + "---\n"  # fmt: skip


def hub(data: st.DataObject, folder: Path) -> None:
    copy = folder / "copy"
    copy.mkdir()
    (copy / "README.md").write_text(HUB_CARD)
    names = {
        "corpus": ["_id", "text", "title", "metadata"],
        "queries": ["id", "text"],
        "qrels": ["query-id", "corpus-id", "score"],
    }
    for stem, columns in names.items():
        rows = [
            [hub_cell(name, i, data.draw(CELLS | VALUES), data.draw(st.integers(0, 19)) == 0) for name in columns]
            for i in range(data.draw(st.integers(1, 4)))
        ]
        (copy / f"{stem}.jsonl").write_bytes(jsonl(columns, rows)[1])
    where = settings_in(folder)
    kept = []
    if attempt(lambda: kept.append(load_hub(str(copy), settings=where)), folder / "out"):
        assert load_hub(str(copy), settings=where) == kept[0]
    else:
        assert not list((folder / "cache" / "hub").glob("*"))


def hub_cell(name: str, i: int, cell: Any, odd: bool) -> Any:
    fitting = {"_id": f"d{i}", "id": f"q{i}", "text": "words", "title": "", "metadata": None, "query-id": f"q{i}",
               "corpus-id": "d0", "score": 1}  # fmt: skip
    return cell if odd else fitting[name]


IMPORTERS = {f.__name__: f for f in (tables, outcomes, pairs, stream, run, judgements, labels, own, invoice)}
ANYHOW = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]


def try_out(importer: Callable[[st.DataObject, Path], None], base: Path, examples: int) -> None:
    @settings(max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=ANYHOW)
    @given(data=st.data())
    def any_file(data: st.DataObject) -> None:
        importer(data, folder_of(base / "one"))

    any_file()


@pytest.mark.parametrize("name", IMPORTERS)
def test_any_file_is_loaded_whole_or_refused(tmp_path, name):
    try_out(IMPORTERS[name], tmp_path, QUICK)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", [*IMPORTERS, "hub"])
def test_any_of_many_files_is_loaded_whole_or_refused(tmp_path, name):
    try_out({**IMPORTERS, "hub": hub}[name], tmp_path, MANY)


def test_any_local_collection_is_loaded_whole_or_refused(tmp_path):
    """The reader of the hub takes most of a second per collection."""
    try_out(hub, tmp_path, QUICK // 5)
