"""The real engine with the real small model, where its weights are at hand; text is never compared with a fixed one."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from workbench.config import load_settings
from workbench.errors import (
    AttemptTimeout,
    ConfigError,
    ContextTooLong,
    ModelMissing,
    ProviderError,
    Rejected,
    Unavailable,
    WeightsError,
)
from workbench.inference.local_models import (
    CHAT_MODELS,
    CONTEXT_TOKENS,
    LocalModels,
    served_local_name,
    start_llama_server,
)
from workbench.inference.messages import Request
from workbench.inference.weights import WEIGHTS

MODEL = "local/smollm2-135m"
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
PATIENT_S = 120.0


def asked(text, **changed):
    return Request(MODEL, ({"role": "user", "content": text},), **{"max_tokens": 16, **changed})


@pytest.fixture(scope="module")
def local():
    folder = load_settings().cache / "weights"
    file = folder / WEIGHTS["smollm2-135m"].file_name
    if not file.is_file():
        pytest.skip(f"needs {file}; fetch it with: workbench models fetch smollm2-135m")
    models = LocalModels(folder, threads=1)
    models.server(MODEL)  # its loading is not part of what is timed
    return models


def test_a_model_that_nobody_knows_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown local model 'smollm'; did you mean 'smollm2-135m'\?"):
        LocalModels(tmp_path).complete(Request("local/smollm", ({"role": "user", "content": "?"},)), timeout_s=1)


def test_a_model_whose_weights_cannot_be_had_is_one_for_another_model_to_answer(tmp_path):
    asked = Request("local/qwen2.5-coder-0.5b", ({"role": "user", "content": "?"},))
    with pytest.raises(ModelMissing, match=r"put it at .* by hand"):
        LocalModels(tmp_path).complete(asked, timeout_s=PATIENT_S)


class Engine:
    """Answers with the name of its model when the test lets it; counts how many answers are under way at once."""

    def __init__(self, name):
        self.name, self.free, self.begun = name, threading.Event(), threading.Semaphore(0)
        self.at_once, self.most, self.lock = 0, 0, threading.Lock()
        self.free.set()

    def handle_chat_completions(self, body, take):
        with self.lock:
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        self.begun.release()
        assert self.free.wait(PATIENT_S)
        take({"choices": [{"delta": {"content": self.name}, "finish_reason": "stop"}]})
        with self.lock:
            self.at_once -= 1


class Faked(LocalModels):
    """Local models on engines that are no llama.cpp; those in ``held`` do not end loading before they are let."""

    def __init__(self, **parts):
        super().__init__("nowhere", **parts)
        self.engines = {name: Engine(name) for name in CHAT_MODELS}
        self.held = {name: threading.Event() for name in CHAT_MODELS}
        self.loads, self.broken = [], set()

    def load(self, name):
        self.loads.append(name)
        assert self.held[name].wait(PATIENT_S)
        if name in self.broken:
            raise WeightsError("no source")
        return self.engines[name]

    def ask(self, name, timeout_s=PATIENT_S):
        return self.complete(Request(f"local/{name}", asked("?").messages), timeout_s=timeout_s).text


SMALL, OTHER = CHAT_MODELS


def test_a_model_that_is_loading_keeps_nobody_from_one_that_is_loaded():
    models = Faked()
    models.held[SMALL].set()
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(models.ask, OTHER)
        assert models.ask(SMALL) == SMALL
        assert not slow.done()
        models.held[OTHER].set()
        assert slow.result(PATIENT_S) == OTHER


def test_who_asks_while_a_model_loads_goes_on_in_time_and_the_model_loads_on_once():
    models = Faked()
    for _ in range(2):
        with pytest.raises(AttemptTimeout, match="still being loaded") as raised:
            models.ask(SMALL, timeout_s=0.05)
        assert raised.value.billed == "no"
    models.held[SMALL].set()
    assert models.ask(SMALL) == SMALL
    assert models.loads == [SMALL]


def test_a_model_that_could_not_be_loaded_is_tried_again_by_the_next_who_asks():
    models = Faked()
    models.held[SMALL].set()
    models.broken.add(SMALL)
    with pytest.raises(ModelMissing, match="no source"):
        models.ask(SMALL)
    models.broken.clear()
    assert models.ask(SMALL) == SMALL


def test_a_request_whose_turn_does_not_come_is_not_begun_and_not_billed():
    models = Faked()
    models.held[SMALL].set()
    engine = models.engines[SMALL]
    engine.free.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(models.ask, SMALL)
        assert engine.begun.acquire(timeout=PATIENT_S)
        with pytest.raises(AttemptTimeout, match=r"its turn did not come|still being loaded") as raised:
            models.ask(SMALL, timeout_s=0.05)
        assert raised.value.billed == "no"
        engine.free.set()
        assert first.result(PATIENT_S) == SMALL
    assert models.ask(SMALL) == SMALL
    assert engine.begun.acquire(blocking=False), "the last"
    assert not engine.begun.acquire(blocking=False), "the one in between was never begun"


@pytest.mark.parametrize("parallel", [1, 3])
def test_so_many_answers_at_a_time_as_the_engine_has_places_and_the_others_wait(parallel):
    models = Faked(parallel=parallel)
    models.held[SMALL].set()
    engine = models.engines[SMALL]
    engine.free.clear()
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(models.ask, SMALL) for _ in range(8)]
        for _ in range(parallel):
            assert engine.begun.acquire(timeout=PATIENT_S)
        engine.free.set()
        assert [answer.result(PATIENT_S) for answer in answers] == [SMALL] * 8
    assert engine.most == parallel


def test_an_answer_that_began_late_and_ran_out_of_time_says_so():
    models = Faked()
    engine = models.engines[SMALL]
    engine.free.clear()
    threading.Timer(0.6, models.held[SMALL].set).start()
    with pytest.raises(AttemptTimeout) as raised:
        models.ask(SMALL, timeout_s=2.0)
    engine.free.set()
    assert raised.value.billed == "no" or raised.value.cut


@pytest.mark.parametrize(("said", "threads"), [(None, 1), ("3", 3)])
def test_threads_are_one_unless_the_environment_says_otherwise(monkeypatch, tmp_path, said, threads):
    monkeypatch.delenv("WORKBENCH_LLM_THREADS", raising=False)
    if said:
        monkeypatch.setenv("WORKBENCH_LLM_THREADS", said)
    assert LocalModels(tmp_path).threads == threads


@pytest.mark.parametrize("said", ["0", "two", "-1", "1.5", ""])
def test_threads_that_are_no_number_are_refused(monkeypatch, tmp_path, said):
    monkeypatch.setenv("WORKBENCH_LLM_THREADS", said)
    with pytest.raises(ConfigError, match="WORKBENCH_LLM_THREADS must be a whole number from 1"):
        LocalModels(tmp_path)


def test_what_served_names_the_weights():
    for name in CHAT_MODELS:
        assert served_local_name(f"local/{name}") == f"local/{name}@{WEIGHTS[name].sha256[:8]}"


@pytest.mark.slow
def test_a_file_that_is_no_model_is_a_typed_error(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + b"\0" * 1000)
    with pytest.raises(Unavailable, match=r"cannot load model\.gguf") as raised:
        start_llama_server("smollm2-135m", tmp_path / "model.gguf", threads=1, parallel=1)
    assert raised.value.billed == "no"


@pytest.mark.slow
def test_the_same_question_has_the_same_answer_and_its_tokens_are_counted(local):
    answers = [local.complete(asked("Name three cities of France."), timeout_s=PATIENT_S) for _ in range(3)]
    assert len({(a.text, a.usage, a.confidence, a.finish_reason) for a in answers}) == 1
    (usage,) = {a.usage for a in answers}
    assert (usage.output, answers[0].finish_reason) == (16, "length")
    assert usage.cache_read == 0 < usage.fresh < 60, "a cost does not depend on what was asked before"
    assert 0 < answers[0].confidence <= 1
    assert answers[0].model == served_local_name(MODEL)
    longer = local.complete(asked("Name three cities of France, and nothing else."), timeout_s=PATIENT_S)
    assert longer.usage.fresh > usage.fresh


@pytest.mark.slow
def test_a_streamed_answer_is_the_whole_answer(local):
    shown = []
    streamed = local.complete(asked("Say hello."), timeout_s=PATIENT_S, on_text=shown.append)
    whole = local.complete(asked("Say hello."), timeout_s=PATIENT_S)
    assert "".join(shown) == streamed.text == whole.text
    assert len(shown) > 1
    assert whole.first_token_ms is None
    assert 0 < streamed.first_token_ms < streamed.latency_ms


@pytest.mark.slow
def test_a_generation_that_is_late_is_left_in_time_and_stops(local):
    started = time.monotonic()
    with pytest.raises(AttemptTimeout) as raised:
        local.complete(asked("Write a very long story.", max_tokens=3000), timeout_s=0.5)
    assert time.monotonic() - started < 15.0
    assert raised.value.retryable
    assert_free_again(local)


@pytest.mark.slow
def test_a_prompt_that_takes_too_long_to_read_is_left_in_time_and_reading_stops(local):
    started = time.monotonic()
    with pytest.raises(AttemptTimeout):
        local.complete(asked("word " * 3500), timeout_s=0.5)
    assert time.monotonic() - started < 15.0
    assert_free_again(local)


def assert_free_again(local):
    """The one slot of the model takes the next request long before the one that was left could have ended."""
    local.complete(asked("Hi", max_tokens=1), timeout_s=60)
    assert not [t.name for t in threading.enumerate() if t.name.startswith("in_time")], "nothing was left running"


@pytest.mark.slow
def test_a_reader_that_raises_ends_the_generation_with_its_own_error(local):
    def read(text):
        raise KeyError(text)

    with pytest.raises(KeyError):
        local.complete(asked("Write a very long story.", max_tokens=3000), timeout_s=PATIENT_S, on_text=read)
    assert_free_again(local)


@pytest.mark.slow
def test_an_answer_fulfils_its_schema(local):
    found = local.complete(asked("Give a city of France as JSON.", schema=CITY, max_tokens=60), timeout_s=PATIENT_S)
    assert isinstance(found.json()["city"], str)
    assert list(found.json()) == ["city"]


@pytest.mark.slow
def test_a_tool_may_be_offered_also_to_a_stream(local):
    shown = []
    request = asked("What is the weather in Paris?", tools=(TOOL,), max_tokens=24)
    found = local.complete(request, timeout_s=PATIENT_S, on_text=shown.append)
    assert found.text == "".join(shown)
    assert found.text or found.tool_calls
    assert all(json.loads(call.arguments) for call in found.tool_calls)


@pytest.mark.slow
@pytest.mark.parametrize("changed", [{"schema": {"type": "nonsense"}}, {"tools": ({"type": "nonsense"},)}])
def test_what_the_engine_cannot_use_is_rejected(local, changed):
    with pytest.raises(Rejected) as raised:
        local.complete(asked("Hi", **changed), timeout_s=PATIENT_S)
    assert (raised.value.retryable, raised.value.billed) == (False, "no")


@pytest.mark.slow
def test_a_prompt_that_does_not_fit_is_told_before_any_work(local):
    started = time.monotonic()
    with pytest.raises(ContextTooLong, match=str(CONTEXT_TOKENS)):
        local.complete(asked("word " * (CONTEXT_TOKENS + 100)), timeout_s=PATIENT_S)
    assert time.monotonic() - started < 15.0


@pytest.mark.slow
def test_four_threads_get_the_answers_that_one_gets(local):
    questions = [asked(f"Say the number {i}.", max_tokens=8) for i in range(4)]
    alone = [local.complete(q, timeout_s=PATIENT_S).text for q in questions]
    together: dict[int, str] = {}

    def ask(i):
        together[i] = local.complete(questions[i], timeout_s=PATIENT_S).text

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[i] for i in range(4)] == alone


@pytest.mark.slow
def test_an_answer_that_the_context_cuts_off_is_no_answer(local):
    with pytest.raises(ProviderError) as raised:
        local.complete(asked("word " * (CONTEXT_TOKENS - 40), max_tokens=400), timeout_s=280)
    assert isinstance(raised.value, ContextTooLong), raised.value
    assert "fill its 4096 tokens" in str(raised.value)
