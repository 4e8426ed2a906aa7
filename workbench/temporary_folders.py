"""Temporary folders: each goes with what it was made for, and what a killed process left goes with the next one."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

_RANDOM = 8  # characters that `tempfile` adds to a prefix
_MINE: set[Path] = set()  # of this process


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """``with temporary_folder("workbench-kernel-") as folder:`` a new one, removed in the end.

    A process that is killed leaves its own behind: the next call with this prefix removes it. Each is locked while
    its process lives, so that none of a process that lives, in another container or of another user, is removed.

    >>> with temporary_folder("workbench-example-") as folder:
    ...     (folder / "file").touch()
    >>> folder.exists()
    False
    """
    _remove_left_behind(prefix)
    folder, lock = _locked_temporary_folder(prefix)
    _MINE.add(path := Path(folder.name))
    try:
        yield path
    finally:
        folder.cleanup()
        _MINE.discard(path)
        os.close(lock)


def remove_temporary_folders(prefix: str) -> None:
    """Remove the folders of this process at once, for one that ends without leaving what it is in."""
    for path in list(_MINE):
        if path.name.startswith(prefix):
            shutil.rmtree(path, ignore_errors=True)


def _locked_temporary_folder(prefix: str) -> "tuple[TemporaryDirectory[str], int]":
    """A new folder and the descriptor that holds its lock; before it is locked, another process may remove it."""
    while True:
        folder = TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True)
        with suppress(FileNotFoundError):
            lock = os.open(folder.name, os.O_RDONLY | os.O_DIRECTORY)
            with suppress(OSError):  # where nothing can be locked, nothing is removed either
                fcntl.flock(lock, fcntl.LOCK_EX)
            if os.path.exists(folder.name):
                return folder, lock
            os.close(lock)
        folder.cleanup()


def _remove_left_behind(prefix: str) -> None:
    for path in Path(gettempdir()).glob(prefix + "?" * _RANDOM):
        with suppress(OSError):  # no folder, gone meanwhile, another user's, or locked by a process that lives
            found = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                told = os.fstat(found)
                if (told.st_uid, told.st_mode & 0o777) == (os.getuid(), 0o700):  # as `tempfile` makes them
                    fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(found)
