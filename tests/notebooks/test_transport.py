"""How a kernel is reached: no port that another process may take before the kernel does."""

import json
import socket
import tempfile
from pathlib import Path

import pytest
from jupyter_client.provisioning.local_provisioner import LocalPortCache

from tests.notebooks.zoo import add_notebook, make_settings
from workbench.config import SystemClock
from workbench.runner import Job, RunRecord, run_headless

REMEMBER = """from ipykernel.connect import get_connection_file
_ = (run_dir / "reached.json").write_text(Path(get_connection_file()).read_text())"""


def run(root: Path) -> tuple[RunRecord, dict[str, str]]:
    settings = make_settings(root)
    add_notebook(settings, "good", "from pathlib import Path", REMEMBER)
    (record,) = run_headless([Job("good", "smoke")], settings=settings, clock=SystemClock())
    return record, json.loads((record.run_dir / "reached.json").read_text()) if record.status == "done" else {}


def test_a_kernel_starts_whoever_takes_the_ports_that_were_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen in parallel runs: the kernel died of "Address already in use", and the check with it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setattr(LocalPortCache, "find_available_port", lambda *_: taken.getsockname()[1])
        record, reached = run(tmp_path)
    assert record.status == "done", record.error
    assert reached["transport"] == "ipc"
    assert not Path(reached["ip"]).parent.exists()


def test_where_the_path_of_a_socket_would_be_too_long_a_port_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder := tmp_path / ("long" * 25)).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    record, reached = run(tmp_path)
    assert record.status == "done", record.error
    assert reached["transport"] == "tcp"
