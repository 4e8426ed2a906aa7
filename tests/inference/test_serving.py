"""Local models at an address: the same answers under the same name as in this process."""

import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from workbench.config import load_settings
from workbench.errors import ContextTooLong
from workbench.inference.hosted_models import LiteLLMProvider
from workbench.inference.local_models import (
    CONTEXT_TOKENS,
    LocalModels,
    local_provider,
    served_local_name,
    start_llama_server,
)
from workbench.inference.messages import LOCAL, Request
from workbench.inference.weights import WEIGHTS, fetch

MODEL, KEY = "local/smollm2-135m", "k" * 32
ASKED = Request(MODEL, ({"role": "user", "content": "Name three cities of France."},), max_tokens=12)


def test_without_an_address_local_models_are_in_this_process(tmp_path):
    assert isinstance(local_provider(tmp_path, {}), LocalModels)


def test_with_an_address_they_are_asked_there(tmp_path):
    found = local_provider(
        tmp_path, {"WORKBENCH_LLM_API_BASE": "http://127.0.0.1:1/v1", "WORKBENCH_LLM_API_KEY": "k" * 9}
    )
    assert isinstance(found, LiteLLMProvider)
    assert found.api_base == "http://127.0.0.1:1/v1"
    assert "k" * 9 not in repr(found)


@pytest.fixture(scope="module")
def weights():
    folder = load_settings().cache / "weights"
    if not (folder / WEIGHTS["smollm2-135m"].file_name).is_file():
        pytest.skip("needs the weights; fetch them with: workbench models fetch smollm2-135m")
    return folder


@pytest.fixture(scope="module")
def server(weights):
    name = MODEL.removeprefix(LOCAL)
    return start_llama_server(name, fetch(name, weights), threads=1, parallel=2, api_key=KEY)


def provider(server):
    address = f"{server.listening_address}/v1"
    return local_provider(Path(), {"WORKBENCH_LLM_API_BASE": address, "WORKBENCH_LLM_API_KEY": KEY})


@pytest.mark.slow
def test_the_answer_over_http_is_the_answer_in_this_process(server, weights):
    here, there = LocalModels(weights), provider(server)
    for request in (ASKED, replace(ASKED, max_tokens=3, stop=("e",))):
        mine, theirs = (it.complete(request, timeout_s=120) for it in (here, there))
        assert replace(mine, latency_ms=0) == replace(theirs, latency_ms=0)
        assert theirs.model == served_local_name(MODEL)
    shown = []
    assert there.complete(ASKED, timeout_s=120, on_text=shown.append).usage.output == 12
    assert len(shown) > 1
    again = there.complete(ASKED, timeout_s=120)
    assert again.usage.cache_read == 0, "a cost does not depend on what was asked before"


@pytest.mark.slow
def test_a_prompt_that_does_not_fit_is_the_same_error_over_http(server):
    with pytest.raises(ContextTooLong):
        provider(server).complete(
            replace(ASKED, messages=({"role": "user", "content": "word " * (CONTEXT_TOKENS + 100)},)), timeout_s=120
        )


@pytest.mark.slow
def test_nobody_without_the_key_may_ask_it(server):
    request = urllib.request.Request(
        f"{server.listening_address}/v1/chat/completions", b"{}", {"Content-Type": "application/json"}
    )
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(request, timeout=20)
    with raised.value:
        assert raised.value.code == 401
    assert server.listening_address.startswith("http://127.0.0.1:")
