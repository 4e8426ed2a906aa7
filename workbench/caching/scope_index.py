"""Vectors of one scope in memory: only a hint where to look, since what is served is read from the database again."""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from workbench.caching.cache_entries import EntryNews, is_stored_unit_vector, is_stored_unread_vector

Vector = npt.NDArray[np.float32]
_SMALLEST = 16


class ScopeIndex:
    """Entries of a scope in the order in which they were written; thread-safe, searched without holding the lock.

    Memory: 4 bytes a dimension and about 250 bytes an entry, at most twice that while the matrix doubles.

    Attributes
    ----------
    version, removed : int
        What of the scope's history is in here.
    used : dict of int to int
        When entries were used last, microseconds by version, as far as the database has not been told.
    """

    def __init__(self, dimension: int) -> None:
        self.lock = threading.RLock()
        self.version = self.removed = 0
        self.polled_s = self.told_s = -np.inf
        self.used: dict[int, int] = {}
        self._dimension = dimension
        self._matrix: Vector = np.zeros((_SMALLEST, dimension), np.float32)
        self._versions = np.zeros(_SMALLEST, np.int64)  # 0 where the entry is gone
        self._created_us = np.zeros(_SMALLEST, np.int64)
        self._size = 0
        self._places: dict[int, int] = {}
        self._questions: dict[bytes, int] = {}
        self._question_of: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self._places)

    def take(self, news: EntryNews, *, oldest_us: float = -np.inf) -> list[int]:
        """Bring the index up to date, without what is too old; returns the versions whose vectors are of no use."""
        n = self._dimension
        good = [
            row for row in news.rows if is_stored_unit_vector(row.vector, n) or is_stored_unread_vector(row.vector, n)
        ]
        with self.lock:
            self._append(good)
            size = self._size
            old = (self._created_us[:size] <= oldest_us) & (self._versions[:size] > 0)
            gone = set(self._versions[:size][old].tolist())
            for version in gone if news.alive is None else gone | (self._places.keys() - news.alive):
                self.forget(version)
            self.version, self.removed = news.version, news.removed
        return sorted({row.version for row in news.rows} - {row.version for row in good})

    def version_of(self, question: str) -> int | None:
        """Version of the entry with exactly this question."""
        return self._questions.get(bytes.fromhex(question))

    def nearest(self, vector: Vector) -> tuple[int, np.float32] | None:
        """Version of the nearest entry, the oldest of several, and its cosine; None where no cosine is above 0."""
        while True:
            with self.lock:  # rows below the size stay where they are, whatever is appended meanwhile
                matrix, versions, size = self._matrix, self._versions, self._size
            if not size:
                return None
            cosines = matrix[:size] @ vector
            best = int(cosines.argmax())
            if cosines[best] <= 0:
                return None
            if version := int(versions[best]):
                return version, cosines[best]

    def note_used(self, version: int, now_us: int) -> None:
        """Remember that an entry was served: after all that happened before, also where the clock stands still."""
        with self.lock:
            last = next(reversed(self.used.values()), 0)
            self.used.pop(version, None)
            self.used[version] = max(now_us, last) + 1

    def take_used(self) -> dict[int, int]:
        """Uses that the database has not been told of."""
        with self.lock:
            used, self.used = self.used, {}
            return used

    def forget(self, version: int) -> None:
        """Drop one entry."""
        with self.lock:
            place = self._places.pop(version, None)
            if place is None:
                return
            question = self._question_of.pop(version)
            if self._questions.get(question) == version:
                del self._questions[question]
            self._versions[place] = 0
            self._matrix[place] = 0
            if self._size > 4 * _SMALLEST and len(self) < self._size // 2:
                self._compact()

    def _append(self, rows: Sequence[Any]) -> None:
        start, end = self._size, self._size + len(rows)
        if end > len(self._matrix):
            self._resize(slice(0, start), max(end, 2 * len(self._matrix)))
        if rows:
            self._matrix[start:end] = np.frombuffer(b"".join(row.vector for row in rows), "<f4").reshape(len(rows), -1)
            self._versions[start:end] = [row.version for row in rows]
            self._created_us[start:end] = [row.created_us for row in rows]
        for place, row in enumerate(rows, start):
            self._places[row.version] = place
            question = bytes.fromhex(row.question)
            self._questions[question], self._question_of[row.version] = row.version, question
        self._size = end

    def _compact(self) -> None:
        alive = np.flatnonzero(self._versions[: self._size])
        self._resize(alive, len(alive))
        self._size = len(alive)
        self._places = {int(version): place for place, version in enumerate(self._versions)}

    def _resize(self, kept: "slice | npt.NDArray[np.intp]", capacity: int) -> None:
        """New arrays with the rows that are kept in front; a search that runs goes on with the old ones."""
        matrix = np.zeros((capacity, self._dimension), np.float32)
        versions, created_us = np.zeros(capacity, np.int64), np.zeros(capacity, np.int64)
        for new, old in ((matrix, self._matrix), (versions, self._versions), (created_us, self._created_us)):
            rows = old[kept]
            new[: len(rows)] = rows
        self._matrix, self._versions, self._created_us = matrix, versions, created_us
