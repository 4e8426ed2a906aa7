import json
import re

import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.evalset.small_evalset import DEV, DOCUMENTS, QUERIES, TEST, settings_in, shared, write
from workbench.errors import EvalsetError
from workbench.evalset.check import check_evalset, check_exit_code, summarise_findings
from workbench.evalset.evalset import load_evalset
from workbench.evalset.findings import Finding
from workbench.evalset.texts import spaceless, words


def check(folder):
    return [
        (f.file.rsplit("/", 1)[-1], f.line, f.severity, f.problem) for f in check_evalset(folder, settings_in(folder))
    ]


def query(key, text, **metadata):
    return {"_id": key, "text": text, "metadata": {"tenant_id": "a", **metadata}}


def test_a_set_without_defects_has_no_findings(tmp_path):
    findings = check_evalset(write(tmp_path), settings_in(tmp_path))
    assert (findings, summarise_findings(findings), check_exit_code(findings)) == ([], "no defect found", 0)


MORE = query("q4", "fourth thing")
DEFECTS = {
    "unknown document": ({"test": [*TEST, "q2\td9\t1"]}, ("test.tsv", 4, "error"), "unknown document 'd9'"),
    "unknown query": ({"test": [*TEST, "q9\td1\t1"]}, ("test.tsv", 4, "error"), "unknown query 'q9'"),
    "judged twice": ({"test": [*TEST, "q2\td2\t1"]}, ("test.tsv", 4, "error"), "on line 2 already"),
    "duplicate query": (
        {"queries": [*QUERIES, query("q1", "x")]}, ("queries.jsonl", 4, "error"), "line 1 has it"
    ),
    "duplicate document": (
        {"documents": [*DOCUMENTS, DOCUMENTS[1]]}, ("corpus.jsonl", 4, "error"), "line 2 has it"
    ),
    "no relevant document": (
        {"queries": [*QUERIES, MORE], "test": [*TEST, "q4\td1\t0"]},
        ("queries.jsonl", 4, "warning"),
        "left out of test: it has no relevant document",
    ),
    "never asked": ({"queries": [*QUERIES, MORE]}, ("queries.jsonl", 4, "warning"), "never asked"),
    "cluster in two splits": (
        {"queries": [*QUERIES, query("q4", "y", cluster="combine")], "test": [*TEST, "q4\td1\t1"]},
        ("queries.jsonl", 4, "error"),
        "has the cluster of 'q1' in dev",
    ),
    "query in two splits": ({"test": [*TEST, "q1\td2\t1"]}, ("test.tsv", 4, "error"), "in dev and in test"),
    "text in two splits": (
        {"queries": [*QUERIES, query("q4", "How to  combine tables?"), query("q5", "another")],
         "dev": [*DEV, "q5\td1\t1"], "test": [*TEST, "q4\td1\t1"]},
        ("queries.jsonl", 1, "warning"),
        "left out of dev: it has the text of 'q4' in test",
    ),
    "text in test and in a split that is not used": (
        {"queries": [*QUERIES, query("q4", "Order by price!")], "train": ["q4\td1\t1"]},
        ("queries.jsonl", 4, "warning"),
        "in train has the text of 'q2' in test",
    ),
    "cluster in dev and in a split that is not used": (
        {"queries": [*QUERIES, query("q4", "y", cluster="combine")], "train": ["q4\td1\t1"]},
        ("queries.jsonl", 4, "warning"),
        "in train has the cluster of 'q1' in dev",
    ),
    "query in test and in a split that is not used": (
        {"train": ["q2\td1\t1"]}, ("train.tsv", 2, "warning"), "judged in test and in train"
    ),
    "query in test and in the train that serves as dev": (
        {"dev": None, "train": [*DEV, "q2\td1\t1"]}, ("train.tsv", 3, "error"), "judged in test and in train"
    ),
    "nothing left to ask": (
        {"dev": ["q1\td1\t0"]}, ("qrels", 0, "error"), "no question of dev is left: 1 are left out, first 'q1'"
    ),
    "empty query": (
        {"queries": [*QUERIES, query("q4", " ")], "test": [*TEST, "q4\td1\t1"]},
        ("queries.jsonl", 4, "error"),
        "empty text",
    ),
    "empty document": (
        {"documents": [*DOCUMENTS, query("d4", "")], "test": [*TEST, "q2\td4\t0"]},
        ("corpus.jsonl", 4, "warning"),
        "1 document has an empty text and no title, and cannot be found; first 'd4'",
    ),
    "empty document that answers a question": (
        {"documents": [*DOCUMENTS, query("d4", "")], "test": [*TEST, "q2\td4\t1"]},
        ("corpus.jsonl", 4, "warning"),
        "document 'd4' has an empty text and no title, so that 'q2', to which it is judged relevant, cannot find it",
    ),
    "bad grade": ({"test": [*TEST, "q2\td1\t0.5"]}, ("test.tsv", 4, "error"), "must be a whole number, found '0.5'"),
    "other tenant": ({"test": [*TEST, "q2\td3\t0"]}, ("test.tsv", 4, "error"), "belongs to tenant 'b'"),
    "mistyped metadata": (
        {"queries": [*QUERIES, query("q4", "z", clustr="order")], "test": [*TEST, "q4\td1\t1"]},
        ("queries.jsonl", 4, "error"),
        "did you mean 'cluster'",
    ),
    "foreign metadata that looks a little like ours": (
        {"queries": [*QUERIES, query("q4", "z", type="fact")], "test": [*TEST, "q4\td1\t1"]},
        ("queries.jsonl", 4, "warning"),
        "first 'type'",
    ),
    "foreign metadata near to ours that holds another thing": (
        {"queries": [*QUERIES, query("q4", "z", references=["w1"])], "test": [*TEST, "q4\td1\t1"]},
        ("queries.jsonl", 4, "warning"),
        "first 'references'",
    ),
    "foreign metadata": (
        {"documents": [*DOCUMENTS, query("d4", "z", url="u", doi="d")]},
        ("corpus.jsonl", 4, "warning"),
        "2 metadata keys",
    ),
    "echo of words": (
        {"documents": [*DOCUMENTS, query("d4", "Give the mean over the rows of each group.\nMore.")],
         "queries": [*QUERIES, query("q4", "how do I get the mean over the rows of every cluster and file")],
         "test": [*TEST, "q4\td4\t1"]},
        ("queries.jsonl", 4, "warning"),
        "repeats the first line of 'd4' (6 words in a row)",
    ),
    "echo by ROUGE-L": (
        {"documents": [*DOCUMENTS, query("d4", "Replaces missing entries with a given constant.")],
         "queries": [*QUERIES, query("q4", "replacing missing entry by given constants")],
         "test": [*TEST, "q4\td4\t1"]},
        ("queries.jsonl", 4, "warning"),
        "ROUGE-L precision",
    ),
}  # fmt: skip


def spoilt(folder, kind):
    """The tiny evalset with one kind of defect."""
    rows = {"dev": DEV, "test": TEST, **DEFECTS[kind][0]}
    return write(folder, **{name: lines for name, lines in rows.items() if lines is not None})


@pytest.mark.parametrize("kind", DEFECTS)
def test_a_defect_is_found_with_file_line_and_weight(tmp_path, kind):
    _, place, problem = DEFECTS[kind]
    findings = [f for f in check(spoilt(tmp_path, kind)) if f[2] == place[2]]
    assert [f[:3] for f in findings] == [place]
    assert problem in findings[0][3]


@pytest.mark.parametrize("kind", DEFECTS)
def test_loading_refuses_what_is_called_an_error_with_file_and_line_and_nothing_else(tmp_path, kind):
    _, (file, line, severity), problem = DEFECTS[kind]
    folder = spoilt(tmp_path, kind)
    if severity == "warning":
        assert load_evalset(folder, settings=settings_in(tmp_path)).split("test").queries
        return
    with pytest.raises(EvalsetError, match=re.escape(problem)) as caught:
        load_evalset(folder, settings=settings_in(tmp_path))
    assert [(d.file.rsplit("/", 1)[-1], d.line) for d in caught.value.defects] == [(file, line)]


def test_questions_that_cannot_be_judged_are_left_out_by_name_and_the_others_asked(tmp_path):
    queries = [*QUERIES, query("q4", "nobody answers this"), query("q5", "Order by price."), query("q6", "new")]
    write(tmp_path, queries=queries, dev=[*DEV, "q5\td2\t1", "q6\td1\t1"], test=[*TEST, "q4\td1\t0"])
    evalset = load_evalset(tmp_path, settings=settings_in(tmp_path))
    assert [q.query_id for q in evalset.split("dev").queries] == ["q1", "q6"]
    assert [q.query_id for q in evalset.split("test").queries] == ["q2", "q3"]
    assert evalset.notes == (
        "1 question is left out of dev: 'q5' has the text of 'q2' in test: 'order by price'",
        "1 question is left out of test: 'q4' has no relevant document (grade above 0) in test",
    )
    assert [f[1:3] for f in check(tmp_path) if "left out" in f[3]] == [(4, "warning"), (5, "warning")]


def test_what_one_notebook_alone_reads_is_checked_by_its_own_reader(tmp_path):
    write(tmp_path)
    (tmp_path / "outcomes.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "traffic.toml").write_text("seed = 1\n", encoding="utf-8")
    row = {"pos": [0], "query": [" "], "answer_key": ["a"]}
    pl.DataFrame(row).write_parquet(tmp_path / "stream.parquet")
    found = check(tmp_path)
    assert [f[:3] for f in found] == [
        ("outcomes.parquet", 0, "error"), ("stream.parquet", 1, "error"), ("traffic.toml", 0, "error")
    ]  # fmt: skip
    assert '"query" must be a text' in found[1][3]


@pytest.mark.parametrize(
    ("name", "content", "line", "problem"),
    [
        ("queries.jsonl", b'{"_id": "q4", "te', 4, "cut short"),
        ("corpus.jsonl", b'{"_id": "d4", "text": "caf\xe9"}\n', 4, "byte 0xe9 at offset"),
        ("corpus.jsonl", b"[]\n", 4, "found list"),
        ("qrels/test.tsv", b"q2\td1\n", 4, "columns"),
        ("gates.toml", b"[retrieval]\nmargin = 2\n", 2, "below 1"),
        ("card.md", b"---\nsynthetic: maybe\n---\n", 1, "true or false"),
        ("card.md", b"# Card\ncaf\xe9\n", 2, "0xe9 at offset 10"),
        ("pairs.jsonl", b"{\n", 1, "not JSON"),
        ("pairs.jsonl", b"{}\n", 1, '"query_a" and "query_b" must be texts'),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_line(tmp_path, name, content, line, problem):
    path = write(tmp_path) / name
    path.write_bytes((path.read_bytes() if path.exists() else b"") + content)
    findings = check(tmp_path)
    assert [f[:3] for f in findings] == [(path.name, line, "error")]
    assert problem in findings[0][3]
    with pytest.raises(EvalsetError, match=re.escape(problem)):
        load_evalset(tmp_path, settings=settings_in(tmp_path))


def test_questions_that_are_all_one_family_cannot_be_split_by_hash(tmp_path):
    queries = [{"_id": f"q{i}", "text": "one and the same"} for i in range(20)]
    write(tmp_path, documents=[{"_id": "d", "text": "x"}], queries=queries, test=[f"q{i}\td\t1" for i in range(20)])
    told = "test has no question: all that are judged are one family, by their clusters or their texts"
    assert ("qrels", 0, "warning", told) in check(tmp_path)


def test_missing_parts_are_findings_and_fail(tmp_path):
    findings = check_evalset(tmp_path / "none", settings_in(tmp_path))
    assert check_exit_code(findings) == 1
    (tmp_path / "bare").mkdir()
    ((where, _, severity, told),) = check(tmp_path / "bare")
    assert (where, severity) == ("bare", "error")
    assert "is no evalset" in told
    (tmp_path / "bare" / "corpus.jsonl").write_text('{"_id": "d", "text": "x"}\n')
    assert "queries.jsonl" in {f[0] for f in check(tmp_path / "bare")}
    write(tmp_path / "unjudged")
    for file in (tmp_path / "unjudged" / "qrels").iterdir():
        file.unlink()
    assert any("no <split>.tsv" in f[3] for f in check(tmp_path / "unjudged"))


def test_a_corpus_that_is_not_there_is_one_finding_and_not_one_a_judgement(tmp_path):
    (write(tmp_path) / "corpus.jsonl").unlink()
    assert [f[:3] for f in check(tmp_path)] == [("corpus.jsonl", 0, "error")]


def test_warnings_alone_do_not_fail(tmp_path):
    findings = check_evalset(write(tmp_path, queries=[*QUERIES, MORE]), settings_in(tmp_path))
    assert check_exit_code(findings) == 0
    assert summarise_findings(findings).endswith("0 errors, 1 warning")


def test_findings_of_one_kind_are_one_line_with_a_count_and_some_lines(tmp_path):
    said = "set the date column of a frame to text"
    documents = [{"_id": f"d{i}", "text": f"{said} {i}"} for i in range(9)]
    queries = [{"_id": f"it's {i}", "text": f"{said} no {i}"} for i in range(9)]
    folder = write(tmp_path, documents=documents, queries=queries, test=[f"it's {i}\td{i}\t1" for i in range(9)])
    findings = check_evalset(folder, settings_in(tmp_path))
    assert sum("repeats the first line" in f.problem for f in findings) == 9
    told = [line for line in summarise_findings(findings).splitlines() if "repeats the first line" in line]
    assert len(told) == 1
    assert told[0].endswith("; and 8 more of this kind, lines 2, 3, 4, 5, 6 ...")
    assert ":1: warning: query \"it's 0\" repeats the first line of 'd0' (" in told[0]
    assert summarise_findings(findings).endswith(f"0 errors, {len(findings)} warnings")
    assert summarise_findings(findings, every=True).splitlines()[:-1] == [str(finding) for finding in findings]


def test_findings_of_other_kinds_files_or_weights_keep_their_lines():
    one = Finding("a.jsonl", 1, "query 'x' has an empty text")
    others = [Finding("b.jsonl", 1, one.problem), Finding("a.jsonl", 2, one.problem, "warning"),
              Finding("a.jsonl", 3, "query 'x' has no text")]  # fmt: skip
    assert summarise_findings([one, *others]).splitlines() == [*map(str, [one, *others]), "3 errors, 1 warning"]
    nowhere = [Finding("qrels", 0, f"{n} are left out") for n in (1, 2)]
    assert summarise_findings(nowhere).splitlines()[0] == "qrels: error: 1 are left out; and 1 more of this kind"


NAMES = ("queries.jsonl", "corpus.jsonl", "qrels/test.tsv", "qrels/dev.tsv", "gates.toml", "card.md", "pairs.jsonl")
LOOSE = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
ROW = st.fixed_dictionaries(
    {},
    optional={
        "_id": LOOSE | st.sampled_from(["q1", "d1"]),
        "text": LOOSE,
        "title": LOOSE,
        "metadata": LOOSE | st.dictionaries(st.sampled_from(["tenant_id", "cluster", "accept", "date", "x"]), LOOSE),
    },
)
CONTENT = (
    st.binary(max_size=60)
    | st.lists(ROW, max_size=3).map(lambda rows: "\n".join(map(json.dumps, rows)).encode())
    | st.lists(st.tuples(*[st.text("qd1\t 0\n", max_size=4)] * 3), max_size=3).map(
        lambda rows: "\n".join("\t".join(row) for row in rows).encode()
    )
    | st.text("[]{}=\"'-\n retival.0", max_size=40).map(str.encode)
    | st.binary(max_size=30).map(lambda tail: b"---\n" + tail + b"\n---\n")
    | st.just(b"[" * 100_000)
)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(NAMES), content=CONTENT)
@example(name="qrels/test.tsv", content=b"\x1c")
@example(name="qrels/test.tsv", content="q1\td1\t1\n\u00a0\n".encode())
def test_checking_reports_any_bytes_in_any_file_and_never_raises(tmp_path, name, content):
    write(tmp_path)
    path = tmp_path / name
    path.write_bytes(content)
    try:
        findings = check_evalset(tmp_path, settings_in(tmp_path))
        assert all(f.line >= 0 and f.problem for f in findings)
    finally:
        path.unlink()


def test_scifact_has_two_questions_of_train_again_in_test_and_they_are_left_out_of_dev(tmp_path):
    findings = check_evalset(shared("scifact"), settings_in(tmp_path))
    assert check_exit_code(findings) == 0
    assert [f.problem.split(":")[0] for f in findings if "has the text of" in f.problem] == [
        "query '871' is left out of dev", "query '1291' is left out of dev"
    ]  # fmt: skip


COPIES = {
    "Japanese": (
        "設定の画面でダークモードを有効にする方法を説明します。",
        "設定の画面でダークモードを有効にする方法を教えて",
    ),
    "Chinese": (
        "在设置页面打开深色模式以后需要重新启动应用程序才能生效。",
        "在设置页面打开深色模式以后需要重新启动应用程序吗",
    ),
    "Russian": (
        "Включает тёмную тему во всех окнах программы сразу.",
        "как включает тёмную тему во всех окнах программы",
    ),
    "Greek": ("Ενεργοποιεί το σκούρο θέμα σε όλα τα παράθυρα.", "πώς ενεργοποιεί το σκούρο θέμα σε όλα τα παράθυρα"),
    "Thai": ("วิธีเปิดโหมดมืดในหน้าการตั้งค่าของแอปพลิเคชัน", "วิธีเปิดโหมดมืดในหน้าการตั้งค่าของแอปพลิเคชัน"),
    "Korean": ("모든 창에서 어두운 테마를 한 번에 켭니다 바로.", "모든 창에서 어두운 테마를 한 번에 켭니다"),
    "Arabic": ("يفعّل الوضع الداكن في كل نوافذ البرنامج دفعة واحدة", "يفعّل الوضع الداكن في كل نوافذ البرنامج"),
    "French": ("Où règle-t-on l'énergie dédiée à l'été élevé déjà.", "où règle-t-on l'énergie dédiée à l'été élevé"),
}
ASKED = {
    "Japanese": ("暗い配色に切り替えるための項目がここにあります。", "夜でも目が疲れない画面にしたい"),
    "Chinese": ("在设置里打开深色模式即可。", "晚上屏幕太亮怎么办"),
    "Russian": ("Включает тёмную тему во всех окнах.", "ночью экран слепит, что делать"),
    "Thai": ("วิธีเปิดโหมดมืดในหน้าการตั้งค่า", "หน้าจอสว่างเกินไปตอนกลางคืน"),
}


@pytest.mark.parametrize("script", COPIES)
def test_copying_is_found_in_any_script(tmp_path, script):
    line, question = COPIES[script]
    documents, queries = [*DOCUMENTS, query("d4", f"{line}\nMore.")], [*QUERIES, query("q4", question)]
    write(tmp_path, documents=documents, queries=queries, dev=DEV, test=[*TEST, "q4\td4\t1"])
    assert sum("repeats the first line of 'd4'" in f[3] for f in check(tmp_path)) == 1


@pytest.mark.parametrize("script", ASKED)
def test_a_question_in_words_of_its_own_is_no_copy_in_any_script(tmp_path, script):
    line, question = ASKED[script]
    documents, queries = [*DOCUMENTS, query("d4", line)], [*QUERIES, query("q4", question)]
    write(tmp_path, documents=documents, queries=queries, dev=DEV, test=[*TEST, "q4\td4\t1"])
    assert not any("repeats the first line" in f[3] for f in check(tmp_path))


@pytest.mark.parametrize("text", ["ﾀﾞｰｸﾓｰﾄﾞｦﾕｳｺｳﾆｽﾙ", "ㄕㄣㄙㄜㄇㄛㄕ"])
def test_kana_of_half_width_and_bopomofo_have_no_blanks_between_words(text):
    assert spaceless(text)
    assert len(words(f"{text} mode")) == len(text) + 1
