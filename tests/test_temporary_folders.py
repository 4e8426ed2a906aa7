"""Temporary folders: nothing of a killed process stays, nothing of a process that lives goes."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from workbench.temporary_folders import temporary_folder

HOLD = """import sys
from workbench.temporary_folders import temporary_folder
with temporary_folder("wb-test-") as folder:
    (folder / "file").touch()
    print(folder, flush=True)
    sys.stdin.read()"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def held_elsewhere(place: Path) -> tuple["subprocess.Popen[str]", Path]:
    env = {**os.environ, "TMPDIR": str(place)}
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", HOLD], env=env, stdin=pipe, stdout=pipe, text=True)
    assert process.stdout
    return process, Path(process.stdout.readline().strip())


def test_what_a_killed_process_left_goes_with_the_next_and_what_lives_stays(place: Path) -> None:
    (alive, kept), (killed, left) = held_elsewhere(place), held_elsewhere(place)
    killed.kill()
    killed.communicate()
    assert left.exists()
    with temporary_folder("wb-test-") as mine, temporary_folder("wb-test-") as another:
        assert {*place.iterdir()} == {kept, mine, another}
    assert (kept / "file").exists()
    assert alive.communicate()[0] == ""
    assert [*place.iterdir()] == []


def test_only_what_was_made_so_is_removed(place: Path) -> None:
    others = [place / "wb-test-notes", place / "wb-test-12345678", place / "wb-test-abcdefgh"]
    for path in others[:2]:
        path.mkdir(mode=0o755)
    (place / "real").mkdir(mode=0o700)
    others[2].symlink_to(place / "real")
    with temporary_folder("wb-test-"):
        pass
    assert all(path.exists() for path in others)


def test_a_folder_that_another_process_takes_before_it_is_locked_is_made_anew(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, taken = os.open, list[int]()

    def late(path: str, flags: int, *more: int, **given: int) -> int:
        if not (flags & os.O_DIRECTORY) or len(taken) == 2:
            return own(path, flags, *more, **given)
        taken.append(flags)
        if len(taken) == 1:
            os.rmdir(path)
        found = own(path, flags, *more, **given)
        os.rmdir(path)
        return found

    monkeypatch.setattr(os, "open", late)
    with temporary_folder("wb-test-") as folder:
        assert folder.is_dir()
        assert len(taken) == 2
    assert [*place.iterdir()] == []
