"""Inputs as practitioners bring them, each of which failed once: every row of README.md has its outcome here."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ir_measures
import polars as pl
import pytest

from tests.evalset.small_evalset import settings_in
from tests.notebooks.cells import run_cells
from tests.retrieval.test_twins import DEFAULTS, EXACT, check_told
from tests.retrieval.tiny import STRATEGIES, TEXT, judge, open_bench
from workbench.caching.cache_study import CachingParameters
from workbench.caching.notebook import CachingExperiment
from workbench.config import load_settings
from workbench.errors import EvalsetError
from workbench.evalset.check import check_evalset
from workbench.evalset.evalset import Evalset, load_evalset
from workbench.evalset.imports.document_tables import import_tables
from workbench.evalset.imports.outcome_tables import OutcomeRepairs, import_outcomes
from workbench.evalset.imports.pairs_and_streams import import_pairs, import_stream
from workbench.evalset.outcomes import load_outcomes
from workbench.evalset.traffic import load_traffic_stream
from workbench.evaluation.fingerprint import build_parameters
from workbench.inference.encoders import MiniLM
from workbench.records import Decision
from workbench.retrieval.metrics import measure_all
from workbench.retrieval.notebook import RetrievalExperiment, RetrievalParameters, to_judge
from workbench.retrieval.systems import read_system_run
from workbench.testing import HashEmbedder, WordTokenizer

HERE = Path(__file__).parent
FILES = HERE / "import"
COSTS = {"strong": 10.0, "weak": 1.0, "medium": 3.0}


def brought(name: str, root: Path) -> Path:
    """The case as the evalset of a project."""
    return Path(shutil.copytree(HERE / name, settings_in(root).evalsets / "tiny"))


def loaded(name: str, root: Path) -> Evalset:
    return load_evalset(brought(name, root), settings=settings_in(root))


def refused(load: Callable[[], Any], out: Path) -> EvalsetError:
    """What an import says that takes nothing; nothing of it is left."""
    with pytest.raises(EvalsetError) as caught:
        load()
    assert not out.exists()
    return caught.value


def own_id(query_id: str, doc_id: str) -> bool:
    return query_id == doc_id != "1"


@pytest.mark.slow
def test_question_is_document(tmp_path):
    """Also with a question "1" beside an unrelated document "1", which is a hit like any other."""
    folder = brought("question_is_document", tmp_path)
    more = {
        "corpus.jsonl": json.dumps({"_id": "1", "text": "a note on number one alone"}),
        "queries.jsonl": json.dumps({"_id": "1", "text": "number one note"}),
        "qrels/test.tsv": "1\t1\t1",
    }
    for name, line in more.items():
        with (folder / name).open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
    right = [line.split("\t")[:2] for line in (folder / "qrels" / "test.tsv").read_text().splitlines()[1:]]
    lines = [f"{q} Q0 {d} 1 {score} mine" for q, answer in right for d, score in ((q, 2.0), (answer, 1.0)) if d]
    (tmp_path / "mine.trec").write_text("\n".join(dict.fromkeys(lines)) + "\n", encoding="utf-8")
    bench = open_bench(tmp_path, strategies=list(STRATEGIES), reference="", systems=["mine=mine.trec@1"])
    parts = [bench.score(bench.prepare(), split) for split in ("dev", "test")]
    for part in parts:
        assert len(part.answers) == len(STRATEGIES) + 1
        for answers in part.answers.values():
            found = answers.run.select("query_id", "doc_id").rows()
            assert found
            assert not [pair for pair in found if own_id(*pair)]
        assert not [pair for pair in to_judge(part).select("query_id", "doc_id").rows() if own_id(*pair)]
        mine = part.of("ndcg@10").filter(pl.col("arm") == "mine")
        assert set(mine["value"]) == {1.0}
    one = [answers.run for part in parts if "1" in part.part.qrels for answers in part.answers.values()]
    assert [run.filter(pl.col("query_id") == "1")["doc_id"][0] for run in one] == ["1"] * (len(STRATEGIES) + 1)
    assert [f.severity for f in check_evalset("tiny", bench.settings) if "itself a document" in f.problem] == [
        "warning"
    ]


def test_negative_grades(tmp_path):
    qrels = {q: grades for split in loaded("negative_grades", tmp_path).qrels.values() for q, grades in split.items()}
    assert {min(grades.values()) for grades in qrels.values()} == {-1}
    assert len(qrels) == 4
    worst_first = [(q, d, -float(g)) for q, grades in qrels.items() for d, g in grades.items()]
    run = tmp_path / "worst.run"
    run.write_text("".join(f"{q} Q0 {d} 1 {s} mine\n" for q, d, s in worst_first))
    ours = measure_all(read_system_run(run), qrels, ["ndcg@10", "judged@10", "mrr@10"])
    theirs = ir_measures.calc_aggregate(
        [ir_measures.nDCG @ 10],
        [ir_measures.Qrel(q, d, g) for q, grades in qrels.items() for d, g in grades.items()],
        [ir_measures.ScoredDoc(*row) for row in worst_first],
    )
    assert ours["ndcg@10"].mean() == pytest.approx(theirs[ir_measures.nDCG @ 10], abs=1e-9)
    assert set(ours["judged@10"]) == {1.0}
    assert set(ours["mrr@10"]) == {1 / 3}, "behind -1 and 0"


def test_judged_without_positive(tmp_path):
    evalset = loaded("judged_without_positive", tmp_path)
    judged = pl.read_csv(HERE / "judged_without_positive" / "qrels" / "test.tsv", separator="\t")
    best = dict(judged.group_by("query-id").agg(pl.col("score").max()).rows())
    without = {q for q, grade in best.items() if grade < 1}
    never = {query.query_id for query in evalset.queries} - best.keys()
    assert (len(without), len(never)) == (3, 1)
    asked = {q for split in evalset.qrels.values() for q in split}
    assert asked == best.keys() - without
    notes = " ".join(evalset.notes)
    assert all(f"'{q}' has no relevant document (grade above 0)" in notes for q in without)
    assert all(f"query '{q}' is judged in no split and never asked" in notes for q in never)
    bench = open_bench(tmp_path, strategies=["full_text", "vector"], reference="")
    decision = judge(bench, bench.prepare())[-1]
    assert decision.sentence
    assert all(f"'{q}'" in bench.contents().caption for q in without | never)


@pytest.mark.slow
def test_chinese(tmp_path):
    brought("chinese", tmp_path)
    parameters = build_parameters(RetrievalParameters, {**DEFAULTS, "evalset": "tiny"})
    minilm = MiniLM(load_settings().cache / "weights")
    bench = RetrievalExperiment(parameters, settings_in(tmp_path), embedder=minilm, tokenizer=WordTokenizer())
    decision = judge(bench, bench.prepare())[-1]
    assert decision.verdict
    told = bench.contents().caption
    assert "60 of 60 questions have more than a third of characters that the encoder minilm" in told
    assert "60 of 60 questions are in a script without blanks between words" in told


@pytest.mark.slow
def test_part_numbers(tmp_path):
    brought("part_numbers", tmp_path)
    bench = open_bench(tmp_path, **DEFAULTS)
    decision = check_told(bench, bench.prepare(), {EXACT: TEXT})
    assert decision.verdict


@pytest.mark.parametrize("name", ["run_sigmoid.tsv", "run_small.tsv"])
def test_runs_of_close_scores(name):
    found = measure_all(read_system_run(FILES / name), {"q1": {"z-right": 1}}, ["mrr@10", "ndcg@10"])
    assert [float(values[0]) for values in found.values()] == [1.0, 1.0]
    rows = [line.split() for line in (FILES / name).read_text().splitlines()]
    hits = [ir_measures.ScoredDoc(row[0], row[2], float(row[4])) for row in rows]
    measures = [ir_measures.RR @ 10, ir_measures.nDCG @ 10]
    theirs = ir_measures.calc_aggregate(measures, [ir_measures.Qrel("q1", "z-right", 1)], hits)
    assert [theirs[m] for m in measures] == [1.0, 1.0]


def test_rl_null(tmp_path):
    path, out = FILES / "rl_null.csv", tmp_path / "out"
    (empty,) = [n for n, line in enumerate(path.read_text().splitlines(), start=1) if re.search(r",$", line)]
    error = refused(lambda: import_outcomes(path, out, repairs=OutcomeRepairs(costs=COSTS)), out)
    assert [defect.line for defect in error.defects] == [empty]
    assert "medium" in str(error)
    outcomes = load_outcomes(import_outcomes(path, out, repairs=OutcomeRepairs(costs=COSTS, drop_incomplete=True)))
    assert set(outcomes.models) == set(COSTS)
    assert len(outcomes) == 79


def test_rl_flags(tmp_path):
    path, out, costs = FILES / "rl_flags.csv", tmp_path / "out", {n: COSTS[n] for n in ("strong", "weak")}
    error = refused(lambda: import_outcomes(path, out, repairs=OutcomeRepairs(costs=costs)), out)
    assert "difficulty, is_multiturn" in str(error)
    assert "--models A,B" in str(error)
    said: list[str] = []
    done = import_outcomes(path, out, repairs=OutcomeRepairs(costs=costs, models=("strong", "weak")), tell=said.append)
    assert load_outcomes(done).models == ("weak", "strong")
    assert "left out: is_multiturn, difficulty" in " ".join(said)


@pytest.mark.parametrize(("name", "cell"), [("lc_dollar.csv", "$0.001"), ("lc_comma.csv", "0,001")])
def test_costs_that_are_no_numbers(tmp_path, name, cell):
    error = refused(lambda: import_outcomes(FILES / name, tmp_path / "out"), tmp_path / "out")
    assert f"{name}:2: cost_usd '{cell}' is no number; write 0.001" in str(error)
    assert [defect.line for defect in error.defects] == list(range(2, 162))
    assert "no cost is recorded" not in str(error)


def test_l_callid(tmp_path):
    path, out = FILES / "l_callid.csv", tmp_path / "out"
    error = refused(lambda: import_outcomes(path, out), out)
    assert re.search(r"column 'id' are all different.*--rename id=call_id", str(error))
    assert len(load_outcomes(import_outcomes(path, out, repairs=OutcomeRepairs({"id": "call_id"})))) == 80


def test_l_epochs(tmp_path):
    path = FILES / "l_epochs.csv"
    out = import_outcomes(path, tmp_path / "out")
    stored, given = pl.read_parquet(out / "outcomes.parquet"), pl.read_csv(path)
    assert len(stored) == len(given)
    assert stored["repeat"].n_unique() == len(given) // len(given.unique(["prompt_id", "model"])) > 1
    outcomes = load_outcomes(out)
    assert len(outcomes) == given["prompt_id"].n_unique()
    assert "its repeats are averaged" in outcomes.notes[0]


def test_streams_in_order_and_newest_first(tmp_path):
    said: dict[str, list[str]] = {"st_ok": [], "st_newest_first": []}
    for name, lines in said.items():
        import_stream(FILES / f"{name}.csv", tmp_path / name, tell=lines.append)
    assert "in this order already" in said["st_ok"][0]
    assert "newest first" in said["st_newest_first"][0]
    one, other = ((tmp_path / name / "stream.parquet").read_bytes() for name in said)
    assert one == other, "the same inputs, so the same decision"
    stream = load_traffic_stream(tmp_path / "st_newest_first")
    assert (len(stream), len(set(stream.queries))) == (1500, 853)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["st_ok", "st_newest_first"])
def test_a_stream_of_exact_repeats_alone_ends_in_a_verdict(tmp_path, name):
    settings = settings_in(tmp_path)
    import_stream(FILES / f"{name}.csv", settings.evalsets / "tiny")
    parameters = build_parameters(CachingParameters, {"evalset": "tiny", "draws": 3})
    bench = CachingExperiment(parameters, settings, embedder=HashEmbedder(256))
    run_cells("03_caching.ipynb", bench)
    assert Decision.load(bench.folder / "decision.json").arm == "exact"


QUESTIONS = '{"id": 1, "question": "refund time?", "relevant": "007"}\n'


def test_docs_semi(tmp_path):
    (tmp_path / "q.jsonl").write_text(QUESTIONS)
    out = import_tables(corpus=FILES / "docs_semi.csv", queries=tmp_path / "q.jsonl", out=tmp_path / "out")
    documents = [json.loads(line) for line in (out / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(d["_id"], d["title"]) for d in documents] == [
        ("007", "Refunds"),
        ("008", "Passwords"),
        ("009", "Invoices"),
    ]
    assert documents[2]["text"] == "Invoices are under Billing, as PDF."


@pytest.mark.parametrize("by", ["tables", "outcomes", "pairs", "stream", "run"])
def test_docs_dupcol(tmp_path, by):
    path, out = FILES / "docs_dupcol.csv", tmp_path / "out"
    (tmp_path / "q.jsonl").write_text(QUESTIONS)
    load = {
        "tables": lambda: import_tables(corpus=path, queries=tmp_path / "q.jsonl", out=out),
        "outcomes": lambda: import_outcomes(path, out),
        "pairs": lambda: import_pairs(path, out),
        "stream": lambda: import_stream(path, out),
        "run": lambda: read_system_run(path),
    }[by]
    assert "two columns are called 'text' (columns 3, 4)" in str(refused(load, out))


def test_mix_q(tmp_path):
    rows = [{"_id": str(i), "text": f"document {i}"} for i in (7, 8, 9)]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = import_tables(corpus=tmp_path / "c.jsonl", queries=FILES / "mix_q.jsonl", out=tmp_path / "out")
    judged = load_evalset(out, settings=settings_in(tmp_path)).qrels
    found = {(q, d): grade for split in judged.values() for q, docs in split.items() for d, grade in docs.items()}
    assert found == {("1", "7"): 1, ("2", "8"): 1, ("3", "9"): 1, ("4", "7"): 2, ("4", "9"): 1}


@pytest.mark.parametrize("suffix", [".tsv", ".csv"])
def test_r1_float(tmp_path, suffix):
    case, path = HERE / "negative_grades", FILES / f"r1_float{suffix}"
    out = import_tables(corpus=case / "corpus.jsonl", queries=case / "queries.jsonl", qrels=path, out=tmp_path / "out")
    given = pl.read_csv(path, separator="\t" if suffix == ".tsv" else ",").rows()
    stored = [line.split("\t") for line in (out / "qrels" / "test.tsv").read_text().splitlines()[1:]]
    assert {(q, d, float(g)) for q, d, g in stored} == {(str(q), d, g) for q, d, g in given}


CASES = {
    "question_is_document/": test_question_is_document,
    "negative_grades/": test_negative_grades,
    "judged_without_positive/": test_judged_without_positive,
    "chinese/": test_chinese,
    "part_numbers/": test_part_numbers,
    "import/run_sigmoid.tsv, run_small.tsv": test_runs_of_close_scores,
    "import/rl_null.csv": test_rl_null,
    "import/rl_flags.csv": test_rl_flags,
    "import/lc_dollar.csv, lc_comma.csv": test_costs_that_are_no_numbers,
    "import/l_callid.csv": test_l_callid,
    "import/l_epochs.csv": test_l_epochs,
    "import/st_newest_first.csv, st_ok.csv": test_streams_in_order_and_newest_first,
    "import/docs_semi.csv": test_docs_semi,
    "import/docs_dupcol.csv": test_docs_dupcol,
    "import/mix_q.jsonl": test_mix_q,
    "import/r1_float.tsv, r1_float.csv": test_r1_float,
}


def test_every_row_of_the_table_has_its_test():
    lines = (HERE / "README.md").read_text(encoding="utf-8").splitlines()
    rows = [line.split("|")[1].strip() for line in lines if line.startswith("| ")][1:]
    assert rows == list(CASES)
    named = {f"import/{name.rpartition('/')[2]}" for row in rows for name in row.split(", ") if "." in name}
    assert named == {f"import/{path.name}" for path in FILES.iterdir()}
