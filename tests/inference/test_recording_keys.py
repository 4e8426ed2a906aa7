"""What changes an answer is in the key of its recording and of its place in a cache; a replay asks nobody."""

import json
import subprocess
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults.misbehaving_server import misbehaving_server
from workbench.caching.scope import Scope
from workbench.errors import RecordingMiss
from workbench.inference.batch import BatchItem, complete_batch
from workbench.inference.call_attempt import Books
from workbench.inference.client import Client
from workbench.inference.messages import ROLES, CacheUse, Request, Response, Usage
from workbench.inference.prices import load_prices
from workbench.inference.recordings import Recordings
from workbench.telemetry.attribution import Attribution
from workbench.testing import ScriptedModel

ROOT = Path(__file__).parents[2]
WHO, USE = Attribution(tenant_id="acme", user_id="u"), CacheUse("tenant")
NAMES = st.text(alphabet="ab\u00e9\ud83d", min_size=1, max_size=3)
VALUES = st.recursive(
    NAMES | st.integers(0, 2) | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2),
    max_leaves=4,
)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=3)
MESSAGES = st.builds(lambda role, content, more: {**more, "role": role, "content": content}, st.sampled_from(ROLES),
                     NAMES, OBJECTS)  # fmt: skip
DRAWN: dict[str, st.SearchStrategy[Any]] = {
    "model": NAMES,
    "messages": st.lists(MESSAGES, min_size=1, max_size=2).map(tuple),
    "max_tokens": st.integers(0, 3),
    "temperature": st.sampled_from([0.0, 0.5, 1.0]),
    "seed": st.none() | st.integers(0, 2),
    "stop": st.lists(NAMES, max_size=2).map(tuple),
    "tools": st.lists(OBJECTS, max_size=2).map(tuple),
    "schema": st.none() | OBJECTS,
}
OTHER = {"model": "local/qwen2.5-coder-0.5b", "max_tokens": 9, "temperature": 0.5, "seed": 7, "stop": ("\n",),
         "tools": ({"type": "function", "function": {"name": "f"}},), "schema": {"type": "string"},
         "messages": ({"role": "user", "content": "other"},)}  # fmt: skip
ASKED = Request("local/smollm2-135m", ({"role": "user", "content": "q"},))


@dataclass(frozen=True, slots=True)
class LaterRequest(Request):
    """A request as a later version may have it."""

    effort: str = ""


def same(name: str, one: Any, other: Any) -> bool:
    """Whether two values of a field are the same on the wire; the order of keys tells only in tools and schemas."""
    spelled = [json.dumps(value, sort_keys=name not in ("tools", "schema")) for value in (one, other)]
    return spelled[0] == spelled[1]


def keys_of(request: Request) -> tuple[str, str]:
    scope = Scope.of(request, WHO, USE, encoder="exact")
    assert scope is not None
    return request.sha256, scope.key


def test_each_field_of_a_request_is_drawn_here_and_changed_here():
    assert set(DRAWN) == set(OTHER) == {f.name for f in fields(Request)}


@pytest.mark.parametrize("name", [f.name for f in fields(Request)])
def test_requests_that_differ_in_one_field_alone_share_no_recording_and_no_cache_scope(name):
    @settings(deadline=None, max_examples=60)
    @given(st.fixed_dictionaries(DRAWN), DRAWN[name])
    def check(values: dict[str, Any], other_value: Any) -> None:
        one, other = Request(**values), Request(**values | {name: other_value})
        if same(name, values[name], other_value):
            assert keys_of(one) == keys_of(other)
            return
        assert one.sha256 != other.sha256
        if name != "messages":  # of the last message the exact cache keeps the question beside the scope
            assert keys_of(one)[1] != keys_of(other)[1]
        with TemporaryDirectory() as folder:
            path = Path(folder) / "r.jsonl"
            Recordings(path, live=True).add(one, "i", Response("a", "m", None))
            with pytest.raises(RecordingMiss):
                Recordings(path).take(other, item_id="i")
            assert Recordings(path).take(one, item_id="i") is not None

    check()


def test_the_order_of_a_schema_s_keys_is_part_of_it_since_models_answer_in_it():
    name, age = {"name": {"type": "string"}}, {"age": {"type": "integer"}}
    one, other = ({"type": "object", "properties": given} for given in (name | age, age | name))
    for field in ("schema", "tools"):
        pair = [replace(ASKED, **{field: (v,) if field == "tools" else v}) for v in (one, other)]
        assert len({keys_of(request) for request in pair}) == len({r.sha256 for r in pair}) == 2


def test_a_field_that_a_later_version_adds_is_in_the_key_once_it_is_used():
    later = LaterRequest(ASKED.model, ASKED.messages)
    assert later.sha256 == ASKED.sha256, "recordings outlive a new field that nobody uses"
    assert len({keys_of(replace(later, effort=effort)) for effort in ("", "low", "high")}) == 3
    assert len({replace(later, effort=effort).sha256 for effort in ("", "low", "high")}) == 3


def test_keys_of_committed_recordings_are_as_they_were():
    assert ASKED.sha256 == "7905790de85c2f87d392810cb0e933360516fcfc6631c54a1145ea6423e1a2d6"


@pytest.mark.parametrize("name", [f.name for f in fields(Request)])
def test_every_field_reaches_the_model_by_the_client_and_by_a_batch(name):
    asked = replace(ASKED, **{name: OTHER[name]})
    model = ScriptedModel(lambda request: Response('"x"', request.model, Usage(1, output=1)))
    client = Client({"": model}, Books(load_prices()))
    given = {f.name: getattr(asked, f.name) for f in fields(asked)}
    client.complete(given.pop("messages"), **given)
    complete_batch(client, [BatchItem("i", asked)], max_cost_usd=1.0, tell=lambda _: None)
    assert model.requests == [asked, asked]


def test_a_miss_names_the_item_and_what_records_it(tmp_path: Path):
    path = tmp_path / "evalsets" / "my docs" / "recordings" / "local-smollm2-135m.jsonl"
    client = Client({}, Books(load_prices()), recordings=Recordings(path))
    with pytest.raises(RecordingMiss, match="item answer:q1:bare") as raised:
        client.complete(ASKED.messages, model=ASKED.model, item_id="answer:q1:bare")
    command = "workbench record 'my docs' --model local/smollm2-135m"
    assert (raised.value.item_id, raised.value.command) == ("answer:q1:bare", command)
    assert str(raised.value).endswith(f"Record it with: {command}")
    with pytest.raises(RecordingMiss, match="live=True") as raised:
        Recordings(tmp_path / "r.jsonl").take(ASKED)
    assert raised.value.command == ""


KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "DEEPSEEK_API_KEY", "HF_TOKEN",
        "WORKBENCH_LLM_API_KEY")  # fmt: skip
BASES = ("OPENAI_BASE_URL", "OPENAI_API_BASE", "ANTHROPIC_BASE_URL", "DEEPSEEK_API_BASE", "WORKBENCH_LLM_API_BASE")
REPLAY = """
import sys
from pathlib import Path
reached = []
sys.addaudithook(lambda event, given: reached.append(event) if event in ("socket.connect", "socket.getaddrinfo") else 0)
from workbench.errors import RecordingMiss
from workbench.inference.call_attempt import Books
from workbench.inference.client import Client
from workbench.inference.prices import load_prices
from workbench.inference.hosted_models import LiteLLMProvider
from workbench.inference.recordings import Recordings
from workbench.inference.local_models import local_provider
folder = Path(sys.argv[1])
providers = {"local/": local_provider(folder), "": LiteLLMProvider()}
client = Client(providers, Books(load_prices()), recordings=Recordings(folder / "r.jsonl"))
for model in ("local/smollm2-135m", "openai/gpt-5.4-nano", "anthropic/claude-sonnet-4-5"):
    for text in ("recorded", "not recorded"):
        for on_text in (None, len):
            try:
                said = client.complete([{"role": "user", "content": text}], model=model, on_text=on_text).text
            except RecordingMiss:
                said = "miss"
            print(said, end=" ")
print(reached)
"""


def test_with_every_key_set_a_replay_reaches_nobody(tmp_path: Path):
    live = Recordings(tmp_path / "r.jsonl", live=True)
    for model in ("local/smollm2-135m", "openai/gpt-5.4-nano", "anthropic/claude-sonnet-4-5"):
        for _ in range(2):
            live.add(Request(model, ({"role": "user", "content": "recorded"},)), "", Response("hit", model, Usage(1)))
    with misbehaving_server() as server:
        env = {"PATH": "", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
        env |= dict.fromkeys(KEYS, "sk-0123456789") | dict.fromkeys(BASES, server.address)
        command = [sys.executable, "-c", REPLAY, str(tmp_path)]
        done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split(" ", 12) == ["hit", "hit", "miss", "miss"] * 3 + ["[]\n"], done.stderr
    assert server.seen == []
