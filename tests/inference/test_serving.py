"""A local model in a child process: the same answers under the same name, and a crash that is only an error."""

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from workbench.config import load_settings
from workbench.errors import ConfigError, ConnectionLost, ContextTooLong, Unavailable
from workbench.inference.hosted import LiteLLMProvider
from workbench.inference.local import CONTEXT_TOKENS, LocalModels, local_provider, served_name, serving
from workbench.inference.messages import Request
from workbench.inference.weights import WEIGHTS

MODEL = "local/smollm2-135m"
ASKED = Request(MODEL, ({"role": "user", "content": "Name three cities of France."},), max_tokens=12)
PARENT = """
import sys
from pathlib import Path
from workbench.inference.local import serving
with serving("smollm2-135m", Path(sys.argv[1])) as server:
    print(server.pid, flush=True)
    sys.stdin.read()
"""


def test_without_an_address_local_models_are_in_this_process(tmp_path):
    assert isinstance(local_provider(tmp_path, {}), LocalModels)


def test_with_an_address_they_are_asked_there(tmp_path):
    found = local_provider(
        tmp_path, {"WORKBENCH_LLM_API_BASE": "http://127.0.0.1:1/v1", "WORKBENCH_LLM_API_KEY": "k" * 9}
    )
    assert isinstance(found, LiteLLMProvider)
    assert found.api_base == "http://127.0.0.1:1/v1"
    assert "k" * 9 not in repr(found)


def test_a_model_that_nobody_knows_is_not_served(tmp_path):
    with pytest.raises(ConfigError, match="unknown local model"), serving("local/other", tmp_path):
        pass


@pytest.fixture(scope="module")
def weights():
    folder = load_settings().cache / "weights"
    if not (folder / WEIGHTS["smollm2-135m"].file_name).is_file():
        pytest.skip("needs the weights; fetch them with: workbench models fetch smollm2-135m")
    return folder


@pytest.fixture(scope="module")
def server(weights):
    with serving(MODEL, weights, parallel=2) as running:
        yield running


@pytest.mark.slow
def test_the_answer_over_http_is_the_answer_in_this_process(server, weights):
    here, there = LocalModels(weights), server.provider()
    for request in (ASKED, replace(ASKED, max_tokens=3, stop=("e",))):
        mine, theirs = (provider.complete(request, timeout_s=120) for provider in (here, there))
        assert replace(mine, latency_ms=0) == replace(theirs, latency_ms=0)
        assert theirs.model == served_name(MODEL)
    shown = []
    assert there.complete(ASKED, timeout_s=120, on_text=shown.append).usage.output == 12
    assert len(shown) > 1
    again = there.complete(ASKED, timeout_s=120)
    assert again.usage.cache_read == 0, "a cost does not depend on what was asked before"


@pytest.mark.slow
def test_a_prompt_that_does_not_fit_is_the_same_error_over_http(server):
    with pytest.raises(ContextTooLong):
        server.provider().complete(
            replace(ASKED, messages=({"role": "user", "content": "word " * (CONTEXT_TOKENS + 100)},)), timeout_s=120
        )


@pytest.mark.slow
def test_nobody_else_may_ask_it_and_nobody_can_read_its_key(server):
    request = urllib.request.Request(f"{server.address}/chat/completions", b"{}", {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(request, timeout=20)
    with raised.value:
        assert raised.value.code == 401
    assert server.address.startswith("http://127.0.0.1:")
    for shown in ("cmdline", "environ"):
        if (file := Path(f"/proc/{server.pid}/{shown}")).exists():
            assert server.api_key not in file.read_text(errors="replace")


@pytest.mark.slow
def test_a_child_that_is_killed_in_mid_call_is_a_typed_error(weights):
    with serving(MODEL, weights) as victim:
        provider, began = victim.provider(), threading.Event()
        provider.complete(replace(ASKED, max_tokens=1), timeout_s=120)
        killing = threading.Thread(target=lambda: (began.wait(60), os.kill(victim.pid, signal.SIGKILL)))
        killing.start()
        started = time.monotonic()
        with pytest.raises(ConnectionLost) as raised:
            provider.complete(
                Request(MODEL, ({"role": "user", "content": "Write a very long story."},), max_tokens=3000),
                timeout_s=120,
                on_text=lambda text: began.set(),
            )
        killing.join()
        assert time.monotonic() - started < 30
        assert (raised.value.retryable, raised.value.billed, raised.value.streamed) == (True, "unknown", True)
        with pytest.raises(Unavailable, match="refused") as refused:
            provider.complete(ASKED, timeout_s=20)
        assert refused.value.billed == "no"


@pytest.mark.slow
def test_the_child_ends_with_its_parent_however_that_ends(weights):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(weights)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    with parent:
        child = int(parent.stdout.readline())
        os.kill(child, 0)
        parent.kill()
    for _ in range(100):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{child}/stat").exists() and Path(f"/proc/{child}/stat").read_text().split()[2] == "Z":
            return  # ended; whoever adopted it has not looked yet
        time.sleep(0.05)
    raise AssertionError(f"process {child} outlived its parent")
