"""Chat models in this process: small, with no key and no network, on llama.cpp."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from workbench.config import count_from
from workbench.errors import (
    AttemptTimeout,
    ConfigError,
    ContextTooLong,
    MalformedAnswer,
    ModelMissing,
    ProviderError,
    Rejected,
    Unavailable,
    WeightsError,
    unknown_name,
)
from workbench.inference.hosted_models import HostedAnswer, LiteLLMProvider, Provider
from workbench.inference.messages import LOCAL, Request, Response, Usage
from workbench.inference.provider_errors import error_of_status
from workbench.inference.streams import stream_in_time
from workbench.inference.weights import WEIGHTS, fetch

CHAT_MODELS = ("smollm2-135m", "qwen2.5-coder-0.5b")
CONTEXT_TOKENS = 4096


def local_threads() -> int:
    """Threads of one answer: 1, or what ``WORKBENCH_LLM_THREADS`` says, which `count_from` reads."""
    return count_from("WORKBENCH_LLM_THREADS", 1)


@dataclass(slots=True)
class LocalModels:
    """Models of `CHAT_MODELS`, each loaded when it is first asked and kept.

    Attributes
    ----------
    weights : Path
        Folder of the model files.
    threads : int
        Processor threads of one answer; ``WORKBENCH_LLM_THREADS`` sets the default. Few, because on a busy machine two
        threads of which one waits are slower than one (ggml-org/llama.cpp#29258).
    parallel : int
        Answers at a time of one model; further requests wait for their turn.

    What a request waits for, a model that is loaded or its turn, is a part of its time, and nothing is asked meanwhile.
    It waits for its turn for half of its time at most, so that what is left is enough for an answer.
    """

    weights: Path
    threads: int = field(default_factory=local_threads)
    parallel: int = 1
    _engines: dict[str, "_LocalEngine"] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def complete(self, request: Request, *, timeout_s: float, on_text: Callable[[str], None] | None = None) -> Response:
        """Answer one request.

        A generation that is late or no longer read stops with its next token, or its next 512 tokens of prompt. A model
        that is still loading at the end of the time goes on to load, for the requests that come next.

        Raises
        ------
        ContextTooLong
            If prompt and answer do not fit the model.
        ModelMissing
            If its weights are not on disk and no source gives them.
        AttemptTimeout, Rejected, Unavailable, MalformedAnswer
            If the time ran out (``billed`` is "no" where the engine had not begun), or the engine refuses the request,
            fails, or says nothing.
        """
        asked = time.monotonic()
        answer = HostedAnswer(request.model, on_text, model=served_local_name(request.model))
        ask = partial(self._ask, request, asked + timeout_s / 2)
        try:
            with closing(stream_in_time(ask, timeout_s=timeout_s, asked=request.model)) as chunks:
                _local_turn(chunks, request.model)
                answer.started = time.monotonic()
                for chunk in chunks:
                    _read_llama_chunk(chunk, answer)
            return _whole_llama_answer(answer, request)
        except WeightsError as error:
            raise ModelMissing(str(error)) from error
        except ProviderError as error:
            error.streamed = answer.shown
            if isinstance(error, AttemptTimeout):
                error.cut = answer.started - asked > timeout_s / 10
            raise

    def server(self, model: str) -> Any:
        """Engine of one model, loaded if need be; requests for it wait while it is loading, others do not."""
        return self._engine(model).loaded.result()

    def load(self, name: str) -> Any:
        """Load a model; called once for each."""
        return start_llama_server(name, fetch(name, self.weights), threads=self.threads, parallel=self.parallel)

    def _engine(self, model: str) -> "_LocalEngine":
        name = _known_local_model(model)
        with self._lock:
            if engine := self._engines.get(name):
                return engine
            engine = self._engines[name] = _LocalEngine(threading.Semaphore(self.parallel))
        try:
            engine.loaded.set_result(self.load(name))
        except BaseException as error:  # noqa: BLE001  raised again for each who waits, of which this is one
            with self._lock:
                del self._engines[name]  # the next to ask tries again
            engine.loaded.set_exception(error)
        return engine

    def _ask(self, request: Request, turn_by: float, give: Callable[[Mapping[str, Any]], bool]) -> None:
        """Give an empty chunk when the turn has come, then those of the engine."""
        engine, body = self._engine(request.model), _llama_body(request)
        server, left_s = engine.loaded.result(), turn_by - time.monotonic()
        if left_s <= 0 or not engine.turns.acquire(timeout=left_s):
            raise AttemptTimeout(f"{request.model}: its turn did not come in half of the attempt's time", billed="no")
        try:
            if not give({}):
                _llama_generate(server, body, request.model, give)
        finally:
            engine.turns.release()


@dataclass(slots=True)
class _LocalEngine:
    turns: threading.Semaphore
    loaded: Future[Any] = field(default_factory=Future)


def _local_turn(chunks: Iterator[Mapping[str, Any]], model: str) -> None:
    try:
        next(chunks)
    except AttemptTimeout as error:
        if error.billed == "no":
            raise
        raise AttemptTimeout(f"{model}: still being loaded at the end of the attempt's time", billed="no") from None


def served_local_name(model: str) -> str:
    """Name of a local model with the beginning of its weights' hash: what served an answer, exactly.

    >>> served_local_name("local/smollm2-135m")
    'local/smollm2-135m@b179c952'
    """
    name = _known_local_model(model)
    return f"{LOCAL}{name}@{WEIGHTS[name].sha256[:8]}"


def _known_local_model(model: str) -> str:
    if (name := model.removeprefix(LOCAL)) not in CHAT_MODELS:
        raise ConfigError(unknown_name("local model", name, CHAT_MODELS))
    return name


def start_llama_server(model: str, path: Path, *, threads: int, parallel: int, api_key: str = "") -> Any:
    """Load a GGUF file into a llama.cpp server, which also listens on a port of the loopback interface.

    Raises
    ------
    Unavailable
        If the engine cannot use the file, for example for want of memory.
    """
    import xllamacpp

    p = xllamacpp.CommonParams()
    p.model.path = str(path)
    p.n_parallel, p.n_ctx = parallel, CONTEXT_TOKENS * parallel  # the engine divides n_ctx over its slots
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = threads
    p.n_batch = p.n_ubatch  # a prompt can be left after each batch; the computation is the same
    p.model_alias = {served_local_name(model)}
    p.cache_prompt = False  # a cost must not depend on what was asked before
    p.warmup, p.verbosity, p.cache_ram_mib = False, -1, 0
    p.api_keys = [api_key or os.urandom(16).hex()]  # what listens is nobody else's business
    try:
        return xllamacpp.Server(p)
    except Exception as error:  # the engine has no error classes of its own
        raise Unavailable(f"llama.cpp cannot load {path.name}: {error}; is there memory left?") from error


def _llama_body(request: Request) -> dict[str, Any]:
    body: dict[str, Any] = {
        "messages": [dict(m) for m in request.messages],
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "seed": request.seed if request.seed is not None else -1,
        "stream": True,
        "stream_options": {"include_usage": True},
        "logprobs": True,
        "return_progress": True,  # else nothing could stop it while it reads the prompt
        "cache_prompt": False,
    }
    if request.stop:
        body["stop"] = list(request.stop)
    if request.tools:
        body["tools"] = [dict(t) for t in request.tools]
        del body["logprobs"]  # the engine refuses both together
    if request.schema:
        body["response_format"] = {"type": "json_schema", "json_schema": {"schema": dict(request.schema)}}
    return body


def _llama_generate(engine: Any, body: dict[str, Any], model: str, give: Callable[[Mapping[str, Any]], bool]) -> None:
    def take(chunk: Any) -> bool:  # True stops the generation
        return any([give(part) for part in (chunk if isinstance(chunk, list) else [chunk])])

    try:
        engine.handle_chat_completions(body, take)
    except (ValueError, RuntimeError) as error:  # what the engine raises for a body that it cannot use
        raise Rejected(f"{model}: the engine refuses the request: {str(error)[:300]}", status=400) from error


def _read_llama_chunk(chunk: Mapping[str, Any], answer: HostedAnswer) -> None:
    if "error" in chunk:
        error = chunk["error"]
        said = f"{answer.asked}: {str(error.get('message', error))[:300]}"
        if error.get("type") == "exceed_context_size_error":
            raise ContextTooLong(said, status=400)
        raise error_of_status(int(error.get("code") or 500), {}, said)
    if usage := chunk.get("usage"):
        answer.usage = Usage.of_prompt(usage["prompt_tokens"], usage["completion_tokens"])
    for choice in chunk.get("choices") or ():
        delta = choice.get("delta") or {}
        answer.finish = choice.get("finish_reason") or answer.finish
        answer.logprobs += [token["logprob"] for token in (choice.get("logprobs") or {}).get("content") or ()]
        for call in delta.get("tool_calls") or ():
            function = call.get("function") or {}
            answer.call(call.get("index") or 0, call.get("id"), function.get("name"), function.get("arguments"))
        answer.say(delta.get("content") or "")


def _whole_llama_answer(answer: HostedAnswer, request: Request) -> Response:
    if not answer.finish:
        raise MalformedAnswer(f"{request.model}: the engine ended without an answer", billed="unknown")
    output = answer.usage.output if answer.usage else 0
    if answer.finish == "length" and 0 < output < request.max_tokens:
        raise ContextTooLong(
            f"{request.model}: prompt and answer fill its {CONTEXT_TOKENS} tokens after {output} of "
            f"{request.max_tokens} tokens of answer; shorten the prompt or ask for fewer",
            billed="unknown",
        )
    return answer.response()


def local_provider(weights: Path, env: Mapping[str, str] | None = None) -> Provider:
    """Provider of ``local/NAME``: here, or at ``WORKBENCH_LLM_API_BASE`` with ``WORKBENCH_LLM_API_KEY``."""
    env = os.environ if env is None else env
    if address := env.get("WORKBENCH_LLM_API_BASE"):
        return LiteLLMProvider(address, env.get("WORKBENCH_LLM_API_KEY", ""), logprobs=True)
    return LocalModels(weights)
