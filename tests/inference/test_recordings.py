"""Recorded answers: none is lost by writing at once, and a replay gives each of them to whoever got it."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from workbench.errors import RecordingMiss, Unavailable, WorkbenchError
from workbench.inference.call_attempt import Books
from workbench.inference.client import Client
from workbench.inference.failover import RetryPolicy
from workbench.inference.messages import Request, Response, Usage
from workbench.inference.prices import load_prices
from workbench.inference.recordings import Recorded, Recordings
from workbench.testing import ScriptedModel

ROOT = Path(__file__).parents[2]
SMALL, STRONG = "local/smollm2-135m", "local/qwen2.5-coder-0.5b"
COMMITTED = sorted((ROOT / "evalsets" / "docs_qa" / "recordings").glob("local-*.jsonl"))


def asking(text: str, model: str = SMALL) -> Request:
    return Request(model, ({"role": "user", "content": text},))


def answer(text: str) -> Response:
    return Response(text, "served", Usage(5, output=1))


def client_of(path: Path, script=(), *, live: bool = False) -> Client:
    once = RetryPolicy(attempts_per_model=1)
    return Client(
        {"": ScriptedModel(script)}, Books(load_prices()), recordings=Recordings(path, live=live), policy=once
    )


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_recordings_are_written_as_they_were_read(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [Recorded.from_json(line).to_json() for line in lines] == lines
    assert len(Recordings(path)) == len(lines) > 0


def test_answers_that_were_given_are_there_again_for_the_next_without_reading_the_file(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    first = Recordings(path, live=True)
    for text in ("one", "two"):
        first.add(asking("q"), "i", answer(text))
    strict = Recordings(path)
    path.unlink()
    for recordings in (strict.unused(), strict.unused(), strict):
        assert [recordings.take(asking("q")).text for _ in range(2)] == ["one", "two"]
        with pytest.raises(RecordingMiss):
            recordings.take(asking("q"))
    given, idle = strict.read_sha256(), strict.unused()
    assert idle.read_sha256() != given
    other = first.unused()
    other.add(asking("q"), "i", answer("three"))
    assert (len(first), len(other)) == (2, 3)


def test_whether_there_are_any_is_known_without_a_look_at_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked with every request: counting them each time makes a replay quadratic."""
    path = tmp_path / "recorded.jsonl"
    recordings = Recordings(path, live=True)
    for text in ("one", "two", "one"):
        recordings.add(asking(text), "i", answer("yes"))
    for each, n in ((recordings, 3), (Recordings(path), 3), (recordings.unused(), 3), (Recordings(tmp_path / "no"), 0)):
        monkeypatch.setattr(each, "_found", None)
        assert (len(each), bool(each)) == (n, n > 0)


def test_recorders_that_begin_while_others_write_delete_nothing(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"

    def record(i: int) -> None:
        for j in range(20):
            Recordings(path, live=True).add(asking(f"{i} {j}"), "q", answer("x" * 500))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(record, range(8)))
    assert len(Recordings(path)) == 160


def test_processes_that_record_at_once_keep_all_lines_whole(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from workbench.inference.messages import Request, Response
from workbench.inference.recordings import Recordings
for j in range(60):
    asked = Request("m", ({"role": "user", "content": f"{sys.argv[2]} {j}"},))
    Recordings(Path(sys.argv[1]), live=True).add(asked, "q", Response("x" * 20_000, "m", None))
"""
    path = tmp_path / "r.jsonl"
    running = [subprocess.Popen([sys.executable, "-c", code, str(path), str(i)], cwd=ROOT) for i in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert len(Recordings(path)) == 180


def test_a_line_that_a_kill_cut_short_is_dropped_by_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    for kept in ("", Recordings(tmp_path / "other.jsonl", live=True).add(asking("a"), "q", answer("a")) or "one"):
        whole = (tmp_path / "other.jsonl").read_text() if kept else ""
        path.write_text(whole + '{"request": "abc", "occ')
        Recordings(path, live=True).add(asking("b"), "q", answer("b"))
        assert [json.loads(line)["text"] for line in path.read_text().splitlines()] == ["a", "b"][not kept :]


def test_a_replay_after_a_failover_gives_the_answers_in_the_order_of_the_session(tmp_path: Path) -> None:
    path, ask = tmp_path / "r.jsonl", [{"role": "user", "content": "q"}]
    script = [answer("own 1"), answer("own 2"), Unavailable("down"), answer("other's"), answer("own 3")]

    def session(client: Client) -> list[str]:
        return [client.complete(ask, model=SMALL, fallbacks=[STRONG]).text for _ in range(4)]

    live = session(client_of(path, script, live=True))
    assert live == ["own 1", "own 2", "other's", "own 3"]
    assert session(client_of(path)) == live
    with pytest.raises(RecordingMiss):
        client_of(path).complete(ask, model=STRONG, max_tokens=9)


def test_equal_requests_get_the_answers_of_their_own_items_and_else_those_left_in_order(tmp_path: Path) -> None:
    path, ask = tmp_path / "r.jsonl", [{"role": "user", "content": "q"}]
    live = client_of(path, [answer(text) for text in "abcd"], live=True)
    for item in ("i2", "i1", "i0", "i1"):
        live.complete(ask, model=SMALL, item_id=item)
    replay = client_of(path)
    found = [replay.complete(ask, model=SMALL, item_id=item).text for item in ("i0", "i1", "i9", "i1")]
    assert found == ["c", "b", "a", "d"]
    with pytest.raises(RecordingMiss, match="has 4 recorded answers"):
        replay.complete(ask, model=SMALL, item_id="i0")


def test_answers_come_in_the_order_of_the_file_and_a_session_is_not_given_its_own(tmp_path: Path) -> None:
    path, request = tmp_path / "r.jsonl", asking("q")
    live = Recordings(path, live=True)
    for text in "abc":
        live.add(request, "i", answer(text))
    assert live.take(request, item_id="i") is None
    replay = Recordings(path)
    assert [replay.find(request, n).text for n in range(3)] == [replay.take(request).text for _ in range(3)]
    assert [json.loads(line)["occurrence"] for line in path.read_text().splitlines()] == [0, 1, 2]


def test_what_a_model_answered_in_place_of_another_says_what_was_asked(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    live = Recordings(path, live=True)
    live.add(asking("q", STRONG), "i", answer("a"), asked=asking("q"))
    live.add(asking("q"), "i", answer("b"), asked=asking("q"))
    first, second = map(json.loads, path.read_text().splitlines())
    assert (first["request"], first["asked"]) == (asking("q", STRONG).sha256, asking("q").sha256)
    assert "asked" not in second
    assert Recordings(path).find(asking("q", STRONG)).text == "a"


def test_half_a_surrogate_pair_is_recorded_and_comes_back(tmp_path: Path) -> None:
    path, said = tmp_path / "r.jsonl", "caf\u00e9 \ud83d half"
    ask = [{"role": "user", "content": "q \ud83d"}]
    assert client_of(path, [answer(said)], live=True).complete(ask, model=SMALL).text == said
    assert "caf\u00e9".encode() in path.read_bytes()
    assert client_of(path).complete(ask, model=SMALL).text == said


def test_tokens_that_are_kept_for_an_hour_are_recorded_only_where_there_are_some(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    usage = Usage(cache_write=9, output=1, cache_write_long=4)
    for text, used in (("long", usage), ("short", Usage(cache_write=9, output=1))):
        Recordings(path, live=True).add(asking(text), "i", Response(text, "served", used))
    long, short = map(json.loads, path.read_text().splitlines())
    assert (long["usage"]["cache_write_long"], "cache_write_long" in short["usage"]) == (4, False)
    assert Recordings(path).find(asking("long")).usage == usage


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (
            lambda row: row | {"latency_ms": "5", "txt": ""},
            "response.latency_ms must be a number, found '5'; response: ",
        ),
        (lambda row: row | {"usage": {"fresh": 1.5}}, "response.usage.fresh must be a whole number, found 1.5"),
        (lambda row: row | {"usage": {"fresh": -1}}, "token counts cannot be negative"),
        (lambda row: {k: v for k, v in row.items() if k != "occurrence"}, "occurrence is missing"),
        (lambda row: [], "it must be an object, found []"),
    ],
)
def test_a_line_that_is_no_answer_is_named_with_everything_wrong_in_it(tmp_path: Path, spoil, says: str) -> None:
    path = tmp_path / "r.jsonl"
    Recordings(path, live=True).add(asking("q"), "i", answer("a"))
    line = path.read_text(encoding="utf-8")
    path.write_text(f"{line}{json.dumps(spoil(json.loads(line)))}\n", encoding="utf-8")
    with pytest.raises(WorkbenchError) as raised:
        Recordings(path)
    assert f"{path}:2 is no recorded answer: " in str(raised.value)
    assert says in str(raised.value)
