"""The progress object, without a kernel (with one: tests/notebooks/test_zoo.py)."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from typer.testing import CliRunner

from tests.evalset.small_evalset import settings_in, write
from tests.evalset.test_hub import collection
from tests.evalset.test_log_tools import FILES, LOGS
from tests.telemetry.rows import row
from workbench.caching.near_repeats import draw_near_repeats
from workbench.cli import app
from workbench.cli.import_commands import TOOLS, import_app
from workbench.evalset.imports.pairs_and_streams import import_stream
from workbench.project.new_evalset import understand_evalset
from workbench.rendering import progress
from workbench.rendering.progress import MIME_TYPE, Progress, waiting
from workbench.rendering.text import cell_html
from workbench.retrieval.ingest import eval_vectors
from workbench.state import open_engine
from workbench.telemetry.ledger import Ledger
from workbench.telemetry.spans import Tracing
from workbench.telemetry.traces import latest_traces
from workbench.testing import HashEmbedder


def test_silent_outside_of_ipython(capsys) -> None:
    bar = Progress("questions", 3)
    bar.update(1)
    bar.done("3 questions")
    assert capsys.readouterr() == ("", "")


def test_all_three_forms_say_the_same() -> None:
    bar = Progress("a < b", 40)
    bar.update(12)
    bundle = bar._repr_mimebundle_()
    assert bundle["text/plain"] == "a < b 12/40"
    assert bundle["text/html"] == cell_html('<label>a &lt; b 12/40 <progress max="40" value="12"></progress></label>')
    assert bundle[MIME_TYPE] == {"label": "a < b", "done": 12, "total": 40, "sentence": "", "told": "a < b 12/40"}


def test_what_stays_is_the_closing_sentence_without_a_bar() -> None:
    bar = Progress("fit", 1)
    bar.done("fit: learned on 40 prompts")
    assert bar._repr_mimebundle_()["text/html"] == cell_html("<label>fit: learned on 40 prompts</label>")


def test_a_bar_without_a_step_is_never_shown() -> None:
    InteractiveShell.instance()
    try:
        with capture_output() as shown:
            Progress("chunks", 1)
            Progress("questions", 4).update(1)
    finally:
        InteractiveShell.clear_instance()
    assert [output.data["text/plain"] for output in shown.outputs] == ["questions 1/4"]


class Moving:
    """A clock that is moved by hand."""

    s = 0.0

    def now(self):
        raise NotImplementedError

    def monotonic(self) -> float:
        return self.s

    def sleep(self, seconds: float) -> None:
        self.s += seconds


def test_work_that_cannot_tell_how_far_it_is_says_how_long_it_takes(capsys) -> None:
    clock, lines = Moving(), []
    with waiting("index of 9 rows", clock=clock):
        clock.s = 4.0
        time.sleep(1.2)  # two looks, at work that is not long yet
        assert capsys.readouterr().err == ""
        for clock.s in (12.0, 23.0):
            deadline = time.monotonic() + 10
            while not (told := capsys.readouterr().err) and time.monotonic() < deadline:
                time.sleep(0.05)
            lines.append(told)
    assert lines == ["index of 9 rows, 12 s so far\n", "index of 9 rows, 23 s so far\n"]


def test_work_of_no_known_length_has_a_bar_without_an_end_and_closes_with_its_time() -> None:
    clock = Moving()
    bar = Progress("index", 0, clock=clock)
    assert bar._repr_mimebundle_()["text/html"] == cell_html("<label>index <progress></progress></label>")
    InteractiveShell.instance()
    try:
        with capture_output() as shown:
            bar.finish()
            clock.sleep(9)
            bar.wait()
            bar.finish()
    finally:
        InteractiveShell.clear_instance()
    assert [output.data["text/plain"] for output in shown.outputs][-1] == "index, 9 s"
    assert len(shown.outputs) == 2


def test_work_of_known_length_closes_with_its_steps_and_its_time() -> None:
    clock = Moving()
    bar = Progress("MB of wordllama fetched", 16, clock=clock)
    InteractiveShell.instance()
    try:
        with capture_output() as shown:
            bar.update(3)
            clock.sleep(9)
            bar.finish()
    finally:
        InteractiveShell.clear_instance()
    assert [output.data["text/plain"] for output in shown.outputs][-1] == "16 MB of wordllama fetched, 9 s"


def test_long_work_says_its_rate_and_the_time_left() -> None:
    clock = Moving()
    bar = Progress("prompts embedded", 14_000, clock=clock)
    clock.sleep(4)
    bar.update(64)
    assert repr(bar) == "prompts embedded 64/14,000"
    clock.sleep(6)
    bar.update(200)
    assert repr(bar) == "prompts embedded 200/14,000, 20 a second, 11 min 30 s left"
    bar.update(14_000)
    assert repr(bar) == "prompts embedded 14,000/14,000"
    bar.done("14,000 prompts")
    assert repr(bar) == "14,000 prompts"


def test_where_nothing_can_be_drawn_there_is_a_line_every_ten_seconds(capsys) -> None:
    clock = Moving()
    bar = Progress("questions", 1_000, clock=clock)
    for done in range(1, 36):
        clock.sleep(1)
        bar.update(done)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"questions {n}/1,000, 1 a second, {left} left" for n, left in
                     ((10, "16 min 30 s"), (20, "16 min 20 s"), (30, "16 min 10 s"))]  # fmt: skip


def test_work_inside_of_work_is_told_in_its_place(capsys) -> None:
    clock, lines = Moving(), []

    def line(at: float) -> None:
        clock.s, deadline = at, time.monotonic() + 10
        while not (told := capsys.readouterr().err) and time.monotonic() < deadline:
            time.sleep(0.05)
        lines.append(told)

    with waiting("import of tables", clock=clock):
        with waiting("reading x.csv", clock=clock):
            line(12.0)
        line(23.0)
    assert lines == ["reading x.csv, 12 s so far\n", "import of tables, 23 s so far\n"]


@pytest.fixture
def all_is_long(monkeypatch) -> None:
    """What is told of work that takes 5 or 10 seconds is told of any."""
    for name in ("LONG_S", "LINE_S", "_MIN_INTERVAL_S"):
        monkeypatch.setattr(progress, name, 0.0)
    monkeypatch.setattr(progress, "_LOOK_S", 0.001)


N = 3_000


def csv_of(path: Path, header: str, line: str) -> str:
    """A table large enough that somebody looks while it is read; ``{0}`` is the number of the row, ``{1}`` 0 or 1."""
    path.write_text("\n".join([header, *(line.format(i, i % 2) for i in range(N))]) + "\n", encoding="utf-8")
    return str(path)


def of_tables(root: Path) -> list[str]:
    corpus = csv_of(root / "c.csv", "id,text", "d{0},words {0}")
    return ["out", "--corpus", corpus, "--queries", csv_of(root / "q.csv", "id,question,relevant", "q{0},ask {0},d{0}")]


def of_judgements(root: Path) -> list[str]:
    documents = [{"_id": f"d{i}", "text": f"words {i}"} for i in range(N)]
    queries = [{"_id": "q1", "text": "ask"}, {"_id": "q2", "text": "other"}]
    write(root / "evalsets" / "mine", documents=documents, queries=queries, dev=["q1\td0\t1"], test=["q2\td0\t1"])
    return [csv_of(root / "sheet.csv", "query_id,doc_id,grade", "q1,d{0},1"), "--name", "mine"]


def of_labels(root: Path) -> list[str]:
    import_stream(Path(csv_of(root / "log.csv", "query", "ask {0}")), root / "evalsets" / "mine")
    return [csv_of(root / "sheet.csv", "query_a,query_b,same_answer", "ask 0,ask {0},0"), "--name", "mine", "--partly"]


# What each command that imports is given; the logs of tools have one reader for all.
IMPORTS: dict[str, Callable[[Path], list[str]]] = {
    "tables": of_tables,
    "outcomes": lambda root: [
        csv_of(root / "log.csv", "prompt,small,large,small_cost,large_cost", "ask {0},{1},1,0.1,0.2"), "--name", "out",
    ],
    "hub": lambda root: [collection(root / "copy")],
    "judgements": of_judgements,
    "stream": lambda root: [csv_of(root / "log.csv", "query,intent", "ask {0},i{0}"), "--name", "out"],
    "pairs": lambda root: [csv_of(root / "p.csv", "query_a,query_b,same_answer", "ask {0},b,{1}"), "--name", "out"],
    "promptfoo": lambda root: [str(LOGS / FILES["promptfoo"][0]), "--name", "out"],
}  # fmt: skip


@pytest.mark.usefixtures("all_is_long")
@pytest.mark.parametrize("command", IMPORTS)
def test_an_import_that_takes_long_says_so(tmp_path, monkeypatch, command) -> None:
    (tmp_path / "evalsets").mkdir()
    for name in ("ROOT", "CACHE"):
        monkeypatch.setenv(f"WORKBENCH_{name}", str(tmp_path))
    done = CliRunner().invoke(app, ["import", command, *IMPORTS[command](tmp_path)])
    assert done.exit_code == 0, done.output
    assert ", 0 s so far" in done.output or "1 s so far" in done.output


def test_every_import_is_looked_at() -> None:
    assert {str(command.name) for command in import_app.registered_commands} == IMPORTS.keys() | TOOLS.keys()


def read_ledger(root: Path) -> None:
    ledger = Ledger(open_engine(f"sqlite:///{root}/state.sqlite"))
    ledger.add([row(f"c{i}", 0, i) for i in range(N)])
    ledger.columns(["tenant_id", "cost_nanos"])


def list_traces(root: Path) -> None:
    engine = open_engine(f"sqlite:///{root}/state.sqlite")
    tracing = Tracing(engine)
    with tracing.span("call"):
        pass
    tracing.close()
    assert latest_traces(engine).rows


def embed(root: Path) -> None:
    eval_vectors([f"text {i}" for i in range(100)], HashEmbedder(8), root)


def sheet_of_pairs(root: Path) -> None:
    settings = settings_in(root)
    import_stream(Path(csv_of(root / "log.csv", "query", "ask {0}")), settings.evalsets / "mine")
    draw_near_repeats(settings.evalsets / "mine", settings, limit=5, tell=len, least=0.5, embedder=HashEmbedder(8))


def own_documents(root: Path) -> None:
    (root / "q.txt").write_text("why?\n", encoding="utf-8")
    understand_evalset(
        [csv_of(root / "c.csv", "id,text", "d{0},words {0}")], root / "q.txt", settings=settings_in(root)
    )


@pytest.mark.usefixtures("all_is_long")
@pytest.mark.parametrize(
    ("work", "said"),
    [
        (read_ledger, "reading the ledger, 0 s so far"),
        (list_traces, "reading the traces, 0 s so far"),
        (embed, "texts embedded 64/100, "),
        (sheet_of_pairs, "requests embedded 64/3,000, "),
        (sheet_of_pairs, "nearest earlier requests of 3,000, "),
        (own_documents, "c.csv, 0 s so far"),
    ],
)
def test_other_work_that_takes_long_says_so(tmp_path, capsys, work, said) -> None:
    """Another thread looks at it, and on a busy machine comes too late for a part that takes milliseconds."""
    told = ""
    for again in map(str, range(20)):
        (tmp_path / again).mkdir()
        work(tmp_path / again)
        if said in (told := told + capsys.readouterr().err):
            break
    assert said in told
