"""Notebooks and the grading view in a real JupyterLab, in a real browser, as a person opens them."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.evalset.small_evalset import write
from workbench.config import load_settings
from workbench.quality.labels import label_sheet_rows, write_label_sheet

ROOT = Path(__file__).parents[1]
TENANTS, TOPICS = ("acme", "globex"), 160
KINDS = ("class", "function", "method", "module")
WAIT_S = 300
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("WORKBENCH_TEST_JUPYTERLAB" not in os.environ, reason="set WORKBENCH_TEST_JUPYTERLAB=1: on a "
                       "busy machine a browser's click can come before the kernel listens, and is lost"),
    pytest.mark.timeout(WAIT_S + 200),
]  # fmt: skip


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
    gates = '[retrieval]\nmetric = "ndcg@10"\nmargin = 0.15\n'  # what so few questions can show
    (tmp_path / "evalsets" / "docs_qa" / "gates.toml").write_text(gates, encoding="utf-8")
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
        lab = subprocess.Popen(command, cwd=project, env=env | own, stdout=log, stderr=log)
        try:
            wait_for(lambda: answers(f"http://127.0.0.1:{port}/api/status?token=t"), 60, "JupyterLab does not start")
            yield f"http://127.0.0.1:{port}"
        finally:
            lab.terminate()
            lab.wait(30)


@contextmanager
def opened(server: str, notebook: str) -> Iterator[Any]:
    """Page of a notebook whose kernel listens."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
    if (chromium := shutil.which("chromium")) is None:
        pytest.skip("no chromium on the path")
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.goto(f"{server}/lab/tree/notebooks/{notebook}?token=t", timeout=60_000)
        page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=60_000)
        page.get_by_text("| Idle").wait_for(timeout=60_000)  # what is asked of a kernel before that is lost
        yield page
        browser.close()


def run_all(page: Any) -> None:
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.locator('[data-command="runmenu:run-all"]').click()


def save(page: Any, path: Path, words: str) -> list[dict[str, Any]]:
    """Code cells of the notebook as it is saved once it has the words."""

    def saved() -> bool:
        page.keyboard.press("Control+s")
        return words in path.read_text("utf-8")

    wait_for(saved, 60, "nothing is saved", page.wait_for_timeout)
    return [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]


def test_notebook_runs_top_to_bottom_in_jupyterlab_and_shows_its_decision(project: Path, server: str) -> None:
    with opened(server, "01_retrieval.ipynb") as page:
        run_all(page)
        wait_for(lambda: finished(project), WAIT_S, "the notebook does not end", page.wait_for_timeout)
        code = save(page, project / "notebooks" / "01_retrieval.ipynb", "accept: workbench accept")
        page.locator(".jp-OutputArea-output table.wb-table").first.wait_for(timeout=30_000)
        prices = page.get_by_text("per 1,000 rows").first
        prices.scroll_into_view_if_needed()
        page.wait_for_timeout(1_000)  # formulas are set when they come into view
        assert prices.inner_text().count("$") > 1
        assert page.locator("mjx-container").count() == 0, "dollars are no formula"
        page.get_by_role("link", name="report.html").click()
        page.locator(".lm-TabBar-tabLabel").get_by_text("report.html").wait_for(timeout=30_000)
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert not [o for cell in code for o in cell["outputs"] if o["output_type"] == "error" or o.get("name") == "stderr"]


HOSTILE = "<script>window.ran = 1</script><img src=x onerror='window.ran = 2'> [x](javascript:alert(1)) $x$ and $y$"


@pytest.mark.skipif(find_spec("ipywidgets") is None, reason="ipywidgets, of [widgets], is not installed")
def test_what_is_clicked_in_jupyterlab_is_in_the_sheet_and_a_new_kernel_goes_on(project: Path, server: str) -> None:
    sheet, book = project / "production.jsonl", project / "notebooks" / "grade.ipynb"
    texts = ("plain", HOSTILE, "W" * 600, "שלום \u202e gnp.exe")
    write_label_sheet(sheet, [{"item_id": f"q{i}", "question": text, "answer": text} for i, text in enumerate(texts)])
    source = "from workbench.quality.label_view import LabelView\nLabelView('../production.jsonl', rubric='v1')"
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}  # without it JupyterLab asks for one
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)], metadata=kernel), book)
    with opened(server, book.name) as page:
        run_all(page)
        click(page, "good", "Say first who grades")
        page.get_by_placeholder("your name").fill("ann")
        page.get_by_placeholder("comment").fill("well said")
        click(page, "good", "1 of 4 items are graded")
        assert page.locator(".widget-html pre").all_inner_texts() == [HOSTILE, HOSTILE]
        page.get_by_role("button", name="partly good", exact=True).press("Enter")
        page.get_by_text("2 of 4 items are graded").wait_for()
        wide = page.locator(".widget-html").evaluate_all("all => all.filter(e => e.scrollWidth > e.clientWidth).length")
        click(page, "skip", "1 skipped here")
        assert "[U+202E]" in page.locator(".widget-html pre").first.inner_text()
        assert (page.evaluate("window.ran"), page.locator("mjx-container").count(), wide) == (None, 0, 0)
        page.locator('[data-command="notebook:restart-run-all"], [title^="Restart the kernel and run"]').first.click()
        page.locator(".jp-Dialog .jp-mod-accept").click()
        page.get_by_text("2 of 4 items are graded", exact=True).wait_for(timeout=60_000)
        page.get_by_placeholder("your name").fill("bob")
        click(page, "bad", "3 of 4 items are graded")
    rows = [(r["item_id"], r["question"], r["grade"], r.get("rater"), r["comment"]) for r in label_sheet_rows(sheet)]
    assert rows == [
        ("q0", texts[0], 1.0, "ann", "well said"), ("q1", texts[1], 0.5, "ann", ""), ("q2", texts[2], 0.0, "bob", ""),
        ("q3", texts[3].replace("\u202e", "[U+202E]"), None, None, ""),
    ]  # fmt: skip


def click(page: Any, button: str, told: str) -> None:
    """Click a button of the view, and wait until it has told what it did."""
    page.get_by_role("button", name=button, exact=True).click(timeout=60_000)
    page.get_by_text(told).wait_for(timeout=30_000)


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
