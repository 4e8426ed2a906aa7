"""What goes over the wire to a hosted model, and what comes back, by real HTTP; faults are in tests/faults."""

import json
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from workbench.errors import AccountRefused, MalformedAnswer, ProviderError, Rejected
from workbench.inference.hosted_models import LiteLLMProvider, load_litellm
from workbench.inference.messages import Request, ToolCall, Usage
from workbench.inference.prices import load_prices

ROOT = Path(__file__).parents[2]
MESSAGES = ({"role": "user", "content": "Hi"},)
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}


@contextmanager
def answering(*answers, labelled=True):
    """Server that gives these bodies in turn, a list as a stream of events; what was asked is in ``.asked``.

    A stream is called one, or JSON where it is not ``labelled`` right.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            server.asked.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            answer = coming.pop(0)
            stream = isinstance(answer, list)
            events = (
                "".join(f"data: {json.dumps(event)}\n\n" for event in answer) + "data: [DONE]\n\n" if stream else ""
            )
            body = (events or json.dumps(answer)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream" if stream and labelled else "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            """Keep the terminal for pytest."""

    coming = list(answers)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.address = [], f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def streamed(server, model, shown):
    request = Request(model, MESSAGES)
    return LiteLLMProvider(f"{server.address}/v1", "key").complete(request, timeout_s=30, on_text=shown.append)


def openai(message, *, finish="stop", logprobs=None, usage=None):
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish, "logprobs": logprobs}
    usage = usage or {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
    return {"id": "x", "object": "chat.completion", "created": 1, "model": "m-1", "choices": [choice], "usage": usage}


def chunk(delta, finish=None, **more):
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}] if delta is not None else []
    return {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m-1", "choices": choices, **more}


def ask(server, request, **options):
    return LiteLLMProvider(f"{server.address}/v1", "key", **options).complete(request, timeout_s=30)


def test_the_request_is_sent_as_it_is_and_nothing_is_added():
    request = Request("openai/m", MESSAGES, max_tokens=7, temperature=0.5, seed=3, stop=("\n",))
    with answering(openai({"content": "Hello"})) as server:
        ask(server, request)
    assert server.asked == [
        (
            "/v1/chat/completions",
            {
                "model": "m",
                "messages": list(MESSAGES),
                "max_tokens": 7,
                "temperature": 0.5,
                "seed": 3,
                "stop": ["\n"],
            },
        )
    ]


def test_a_local_model_keeps_its_name_at_another_address():
    with answering(openai({"content": "Hello"})) as server:
        ask(server, Request("local/smollm2-135m", MESSAGES))
    assert server.asked[0][1]["model"] == "smollm2-135m"


def test_a_schema_is_asked_for_strictly_and_read_as_json():
    with answering(openai({"content": '{"city": "Paris"}'})) as server:
        answer = ask(server, Request("openai/m", MESSAGES, schema=SCHEMA))
    assert answer.json() == {"city": "Paris"}
    asked = server.asked[0][1]["response_format"]
    assert asked == {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}


def test_tool_calls_come_whole_also_out_of_a_stream():
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
    other = {"id": "c2", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    parts = [
        chunk({"tool_calls": [{"index": 0, **call, "function": {"name": "weather", "arguments": '{"city": '}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '"Paris"}'}}]}),
        chunk({"tool_calls": [{"index": 1, **other}]}),
        chunk({}, "tool_calls"),
        chunk(None, usage={"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}),
    ]
    request = Request("openai/m", MESSAGES, tools=(TOOL,))
    with answering(openai({"content": None, "tool_calls": [call, other]}, finish="tool_calls"), parts) as server:
        provider = LiteLLMProvider(f"{server.address}/v1", "key")
        answers = [provider.complete(request, timeout_s=30, on_text=on_text) for on_text in (None, str)]
    for answer in answers:
        assert answer.tool_calls == (ToolCall("c1", "weather", '{"city": "Paris"}'), ToolCall("c2", "weather", "{}"))
        assert (answer.text, answer.finish_reason, answer.usage) == ("", "tool_calls", Usage(fresh=10, output=2))
    assert all(body["tools"] == [TOOL] for _, body in server.asked)


@pytest.mark.parametrize("model", ["openai/m", "mistral/m", "deepseek/m", "xai/m", "together_ai/m", "ollama/m"])
def test_a_whole_answer_in_the_place_of_a_stream_is_an_error_and_never_an_empty_answer(model):
    shown = []
    with answering(openai({"content": "Hello"})) as server, pytest.raises(MalformedAnswer, match="one JSON body came"):
        streamed(server, model, shown)
    assert (shown, len(server.asked)) == ([], 1)


@pytest.mark.parametrize("model", ["openai/m", "mistral/m"])
def test_a_stream_that_a_server_calls_json_is_read_all_the_same(model):
    usage = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
    events = [chunk({"content": "Hel"}), chunk({"content": "lo"}), chunk({}, "stop"), chunk(None, usage=usage)]
    shown = []
    with answering(events, labelled=False) as server:
        answer = streamed(server, model, shown)
    assert (answer.text, "".join(shown), answer.usage) == ("Hello", "Hello", Usage(10, output=2))


def test_confidence_is_the_geometric_mean_probability_where_it_is_asked_for_and_comes():
    logprobs = {
        "content": [{"token": t, "logprob": p, "bytes": None, "top_logprobs": []} for t, p in [("a", -1), ("b", -3)]]
    }
    with answering(openai({"content": "ab"}, logprobs=logprobs), openai({"content": "ab"})) as server:
        sure = ask(server, Request("openai/m", MESSAGES), logprobs=True)
        unsure = ask(server, Request("openai/m", MESSAGES))
    assert sure.confidence == pytest.approx(0.1353)
    assert unsure.confidence is None
    assert [body.get("logprobs") for _, body in server.asked] == [True, None]


CLAUDE = {
    "id": "m1", "type": "message", "role": "assistant", "model": "claude-x", "stop_reason": "end_turn",
    "content": [{"type": "text", "text": "Hello"}],
    "usage": {
        "input_tokens": 100, "cache_read_input_tokens": 600, "cache_creation_input_tokens": 300, "output_tokens": 10,
    },
}  # fmt: skip


def test_cache_marks_reach_the_vendor_and_its_token_classes_stay_disjoint():
    marked = {"type": "text", "text": "A long preamble", "cache_control": {"type": "ephemeral"}}
    request = Request("anthropic/claude-sonnet-4-5", ({"role": "user", "content": [marked]},), max_tokens=20)
    with answering(CLAUDE) as server:
        answer = LiteLLMProvider(server.address, "key").complete(request, timeout_s=30)
    ((_, body),) = server.asked
    assert body["messages"][0]["content"] == [marked]
    assert body["max_tokens"] == 20
    assert "seed" not in body, "a vendor that has no seed is not asked for one"
    assert answer.usage == Usage(fresh=100, cache_read=600, cache_write=300, output=10)
    assert answer.usage.input == 1000
    assert answer.text == "Hello"


@pytest.mark.parametrize("model", [m for m in load_prices().models if "embedding" not in m])
def test_every_priced_model_takes_a_request_with_the_defaults(model):
    litellm = load_litellm()
    given = LiteLLMProvider("http://127.0.0.1:9/v1")._arguments(Request(model, MESSAGES), 5, stream=False)
    name, vendor, _, _ = litellm.get_llm_provider(given["model"])
    sent = {key: given[key] for key in ("max_tokens", "temperature", "seed") if key in given}
    taken = litellm.get_optional_params(model=name, custom_llm_provider=vendor, **sent)  # raises for what is not taken
    assert ("temperature" in taken) == ("temperature" in sent)


def test_a_temperature_that_a_model_does_not_take_is_left_out_where_it_is_0_and_refused_where_it_is_another():
    with answering(CLAUDE) as server:
        provider = LiteLLMProvider(server.address, "key")
        provider.complete(Request("anthropic/claude-opus-5-5", MESSAGES), timeout_s=30)
        with pytest.raises(Rejected, match="temperature"):
            provider.complete(Request("anthropic/claude-opus-5-5", MESSAGES, temperature=0.5), timeout_s=30)
    ((_, body),) = server.asked
    assert "temperature" not in body


def test_probabilities_are_asked_for_only_where_the_model_gives_them():
    with answering(CLAUDE, openai({"content": "ab"})) as server:
        provider = LiteLLMProvider(server.address, "key", logprobs=True)
        assert provider.complete(Request("anthropic/claude-opus-5-5", MESSAGES), timeout_s=30).confidence is None
        provider.complete(Request("openai/gpt-4o-mini", MESSAGES), timeout_s=30)
    assert [body.get("logprobs") for _, body in server.asked] == [None, True]


def test_a_prompt_that_cannot_be_written_is_rejected_before_it_is_sent():
    with answering() as server, pytest.raises(Rejected, match="surrogates") as raised:
        ask(server, Request("openai/m", ({"role": "user", "content": "half \ud83d"},)))
    assert (raised.value.billed, server.asked) == ("no", [])


def test_without_a_key_nothing_is_sent_and_it_is_said(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(AccountRefused, match="OPENAI_API_KEY") as raised:
        LiteLLMProvider().complete(Request("openai/m", MESSAGES), timeout_s=30)
    assert raised.value.billed == "no"


def test_a_model_of_no_vendor_is_rejected():
    with pytest.raises(Rejected, match="nosuch/model"):
        LiteLLMProvider().complete(Request("nosuch/model", MESSAGES), timeout_s=30)


def test_a_vendor_s_key_is_never_sent_to_another_address(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-vendor")
    seen = []
    with answering(openai({"content": "Hello"})) as server:
        plain = server.RequestHandlerClass.do_POST
        server.RequestHandlerClass.do_POST = lambda handler: (
            seen.append(handler.headers["Authorization"]),
            plain(handler),
        )
        LiteLLMProvider(f"{server.address}/v1").complete(Request("local/m", MESSAGES), timeout_s=30)
    assert seen == ["Bearer none"]


def test_the_key_is_not_shown():
    assert "secret" not in repr(LiteLLMProvider("http://127.0.0.1/v1", "secret"))


def test_litellm_is_loaded_by_the_first_call_and_not_before():
    code = """
import sys
import workbench.inference.client, workbench.inference.failover, workbench.inference.recordings, workbench.testing
from workbench.inference.messages import Request
from workbench.inference.hosted_models import LiteLLMProvider
from workbench.inference.local_models import local_provider
provider = LiteLLMProvider("http://127.0.0.1:9/v1")
heavy = {"litellm", "openai", "httpx", "xllamacpp", "huggingface_hub"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
try:
    provider.complete(Request("openai/m", ({"role": "user", "content": "Hi"},)), timeout_s=30)
except Exception as error:
    print(type(error).__name__, "litellm" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "Unavailable True\n", done.stderr
    assert done.stderr == "", "nothing is printed beside the error"


def test_every_error_of_a_provider_is_one_that_callers_can_tell_apart():
    kinds = set(ProviderError.__subclasses__())
    assert {kind.__name__ for kind in kinds if kind.retryable} == {
        "Throttled", "Unavailable", "AttemptTimeout", "ConnectionLost", "MalformedAnswer", "AnswerMismatch",
    }  # fmt: skip
    assert not ProviderError("?").retryable


def test_a_replay_loads_neither_litellm_nor_the_engine(tmp_path):
    code = """
import sys
from pathlib import Path
from workbench.inference.call_attempt import Books
from workbench.inference.client import Client
from workbench.inference.messages import Request, Response, Usage
from workbench.inference.prices import load_prices
from workbench.inference.hosted_models import LiteLLMProvider
from workbench.inference.recordings import Recordings
from workbench.inference.local_models import local_provider
folder = Path(sys.argv[1])
asked = Request("local/smollm2-135m", ({"role": "user", "content": "Hi"},))
Recordings(folder / "r.jsonl", live=True).add(asked, "q1", Response("Hello", asked.model, Usage(fresh=9, output=1)))
providers = {"local/": local_provider(folder), "": LiteLLMProvider()}
client = Client(providers, Books(load_prices()), recordings=Recordings(folder / "r.jsonl"))
print(client.complete(asked.messages, model=asked.model).text, {"litellm", "xllamacpp", "openai"} & set(sys.modules))
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "Hello set()\n", done.stderr
