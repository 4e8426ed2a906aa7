"""The notebook in a real JupyterLab, in a real browser, as a person opens it."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.evalset.small_evalset import write
from workbench.config import load_settings

ROOT = Path(__file__).parents[1]
TENANTS, TOPICS = ("acme", "globex"), 160
KINDS = ("class", "function", "method", "module")
WAIT_S = 300


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The retrieval notebook as it is committed, above a small docs_qa of two tenants."""
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    documents, queries, qrels = [], [], {"dev": [], "test": []}
    for topic in range(TOPICS):
        for tenant in TENANTS:
            name = f"{tenant}.topic{topic}"
            owner = {"tenant_id": tenant, "document_type": KINDS[topic % 4]}
            text = f"Handles case{topic}, which follows case{topic - 1}, in the {tenant} way."
            documents.append({"_id": name, "title": name, "text": text, "metadata": owner})
            if topic < 60:
                asked = {"tenant_id": tenant, "cluster": f"family{topic}"}
                queries.append({"_id": f"q.{name}", "text": f"who handles case{topic}?", "metadata": asked})
                qrels["dev" if topic < 20 else "test"].append(f"q.{name}\t{name}\t1")
    write(tmp_path / "evalsets" / "docs_qa", documents=documents, queries=queries, **qrels)
    weights = load_settings(start=ROOT).cache / "weights"
    shutil.copytree(weights, tmp_path / "data" / ".cache" / "weights")
    return tmp_path


@pytest.fixture
def server(project: Path) -> Iterator[str]:
    """Address of a JupyterLab that serves the project's notebooks."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    own = {f"JUPYTER_{name}_DIR": str(project / "jupyter" / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    env = {k: v for k, v in os.environ.items() if not k.startswith("WORKBENCH_")}
    options = ["--no-browser", "--ip=127.0.0.1", f"--port={port}", "--allow-root", "--IdentityProvider.token=t"]
    command = [sys.executable, "-m", "jupyterlab", *options, "--ServerApp.port_retries=0", "--LabApp.news_url="]
    with (project / "server.log").open("wb") as log:
        lab = subprocess.Popen(command, cwd=project / "notebooks", env=env | own, stdout=log, stderr=log)
        try:
            wait_for(lambda: answers(f"http://127.0.0.1:{port}/api/status?token=t"), 60, "JupyterLab does not start")
            yield f"http://127.0.0.1:{port}"
        finally:
            lab.terminate()
            lab.wait(30)


@pytest.mark.slow
@pytest.mark.skipif("WORKBENCH_TEST_JUPYTERLAB" not in os.environ, reason="set WORKBENCH_TEST_JUPYTERLAB=1: on a busy "
                    "machine a browser's click can come before the kernel listens, and is lost")  # fmt: skip
@pytest.mark.timeout(WAIT_S + 200)
def test_notebook_runs_top_to_bottom_in_jupyterlab_and_shows_its_decision(project: Path, server: str) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
    if (chromium := shutil.which("chromium")) is None:
        pytest.skip("no chromium on the path")
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.goto(f"{server}/lab/tree/01_retrieval.ipynb?token=t")
        page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=60_000)
        page.get_by_text("| Idle").wait_for(timeout=60_000)  # what is asked of a kernel before that is lost
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.locator('[data-command="runmenu:run-all"]').click()
        wait_for(lambda: finished(project), WAIT_S, "the notebook does not end", page.wait_for_timeout)
        page.keyboard.press("Control+s")
        path = project / "notebooks" / "01_retrieval.ipynb"
        wait_for(lambda: "gate: stale" in path.read_text("utf-8"), 60, "nothing is saved", page.wait_for_timeout)
        page.locator(".jp-OutputArea-output table.wb-table").first.wait_for(timeout=30_000)
        browser.close()
    code = [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert not [o for cell in code for o in cell["outputs"] if o["output_type"] == "error" or o.get("name") == "stderr"]


def finished(project: Path) -> bool:
    """Whether the last cell has left its result."""
    return any((project / "runs").glob("*/gate.json"))


def wait_for(ready: Any, seconds: float, problem: str, pause: Any = lambda ms: time.sleep(ms / 1000)) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, problem
        pause(300)


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except OSError:
        return False
    return True
