"""Answers as they came, on disk: what was asked is kept as a hash only, so that a replay needs the same request."""

import fcntl
import json
import shlex
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Self

from workbench.codec import from_json, from_plain, to_plain
from workbench.errors import RecordingMiss, WorkbenchError
from workbench.inference.messages import Request, Response
from workbench.records import content_hash
from workbench.telemetry.redaction import redact

FOLDER = "recordings"  # below an evalset


@dataclass(frozen=True, slots=True)
class Recorded:
    """One answer with the hash of the request that its model got; ``occurrence`` counts equal requests from 0.

    ``asked`` is the hash of what the caller asked, where another model answered it.
    """

    request: str
    occurrence: int
    item_id: str
    response: Response
    asked: str = ""

    def to_json(self) -> str:
        """One line; the prompt is not in it."""
        row = {k: v for k, v in to_plain(self.response).items() if v is not None and v != []}
        if (usage := self.response.usage) is not None and not usage.cache_write_long:
            del row["usage"]["cache_write_long"]  # nor is it in lines of before there was this class
        asked = {"asked": self.asked} if self.asked else {}
        row = {"request": self.request, "occurrence": self.occurrence, "item_id": self.item_id, **asked, **row}
        # half of a surrogate pair, which UTF-8 cannot write, stands as JSON's own escape
        return json.dumps(row, ensure_ascii=False).encode(errors="backslashreplace").decode()

    @classmethod
    def from_json(cls, line: str | bytes, source: str = "the line") -> Self:
        """Read one line.

        Raises
        ------
        WorkbenchError
            If it is no recorded answer: it names everything that is wrong.
        """
        told = f"{source} is no recorded answer"
        row = from_json(dict[str, Any], line, told, error=WorkbenchError)
        mine = {name: row.pop(name) for name in ("request", "occurrence", "item_id", "asked") if name in row}
        return from_plain(cls, mine | {"response": {"usage": None} | row}, told, error=WorkbenchError)


class Recordings:
    """Recorded answers of one JSONL file; strict when read, appended to as answers come.

    Parameters
    ----------
    path : Path
        The file; it need not exist where answers are recorded.
    live : bool
        Whether a request without a recording may go to its model and be recorded; otherwise it is an error.
    also : sequence of Path
        Files that are read after it, such as those of other models that a router chooses among.
    """

    def __init__(self, path: Path, *, live: bool = False, also: Sequence[Path] = ()) -> None:
        self.path, self.live = path, live
        self._found: dict[str, list[tuple[int, Recorded]]] = defaultdict(list)  # with their places in the file
        self._used: set[int] = set()  # places of answers that were given already
        self._read: set[tuple[str, int]] = set()
        self._lock = threading.Lock()
        self._size = 0
        for recorded in chain.from_iterable(map(_recorded_lines, (path, *also))):
            self._found[recorded.request].append((self._size, recorded))
            self._size += 1

    def __len__(self) -> int:  # asked with every request, by whoever asks whether there are any
        return self._size

    def unused(self) -> Self:
        """The same answers, none of which was given yet; the files are not read again."""
        other = copy(self)
        other._found = defaultdict(list, {key: list(found) for key, found in self._found.items()})
        other._used, other._read, other._lock = set(), set(), threading.Lock()
        return other

    def count(self, request: Request, item_id: str = "") -> int:
        """How many answers to this request are recorded, for one item or for all."""
        found = self._found.get(request.sha256, ())
        return sum(not item_id or recorded.item_id == item_id for _, recorded in found)

    @property
    def repeats(self) -> int:
        """How many answers every recorded request has at least, up to one that is a copy."""
        found = ([recorded.response for _, recorded in answers] for answers in self._found.values())
        return min((next((i for i in range(len(a)) if is_recorded_copy(a, i)), len(a)) for a in found), default=0)

    def find(self, request: Request, occurrence: int = 0) -> Response | None:
        """One recorded answer, None where there is none; nothing is used up."""
        recorded = self._found.get(request.sha256, ())
        return recorded[occurrence][1].response if occurrence < len(recorded) else None

    def take(self, *requests: Request, item_id: str = "") -> Response | None:
        """Next recorded answer to the first of these requests, or to others to which it may fall back.

        Each is given once: those to the first before those to the others, the item's own before those of other
        items, and else in the order in which they came. None where nothing is left and live answers are taken.

        Raises
        ------
        RecordingMiss
            If there is none and nothing may be asked.
        """
        keys = [request.sha256 for request in (requests[:1] if self.live else requests)]

        def rank(left: tuple[int, Recorded]) -> tuple[int, bool, int]:
            place, recorded = left
            first = (recorded.asked or recorded.request) == keys[0]
            return 0 if first else 1 + keys.index(recorded.request), recorded.item_id != item_id, place

        with self._lock:
            left = [found for key in dict.fromkeys(keys) for found in self._found.get(key, ())]
            if left := [found for found in left if found[0] not in self._used]:
                place, recorded = min(left, key=rank)
                self._used.add(place)
                self._read.add((recorded.request, place))
                return recorded.response
        if self.live:
            return None
        raise self._miss(requests[0], item_id)

    def _miss(self, request: Request, item_id: str) -> RecordingMiss:
        asked = f"request to {request.model} (hash {request.sha256[:12]}, item {item_id or 'not named'})"
        if known := self.count(request):
            said = f"this {asked} has {known} recorded answers in {self.path.name}, and one more was asked for"
        else:
            said = (
                f"no recorded answer to this {asked} among {len(self)} in {self.path.name}: the prompt, a document or "
                "a parameter has changed, or the recording is lost"
            )
        command = record_command(self.path, request.model)
        how = command or f"a client whose recordings are Recordings({str(self.path)!r}, live=True)"
        return RecordingMiss(f"{said}. Record it with: {how}", item_id=item_id, command=command)

    def add(self, request: Request, item_id: str, response: Response, *, asked: Request | None = None) -> None:
        """Append one answer without its secrets; whole lines only, so that a reader never sees a part of one.

        Parameters
        ----------
        request : Request
            What its model got.
        asked : Request, optional
            What the caller asked, where another model answered.
        """
        calls = tuple(replace(call, arguments=redact(call.arguments)) for call in response.tool_calls)
        kept = replace(response, text=redact(response.text), tool_calls=calls)
        key = request.sha256
        with self._lock:
            other = "" if asked is None or asked.sha256 == key else asked.sha256
            recorded = Recorded(key, self.count(request), item_id, kept, other)
            place = len(self)
            self._found[key].append((place, recorded))
            self._size += 1
            self._used.add(place)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed: other processes append to it too
                _drop_part_line(file)
                file.write(f"{recorded.to_json()}\n".encode())

    def read_sha256(self) -> str:
        """Hash of the recordings that were read, whatever else the file holds: an input of the fingerprint."""
        places = dict(self.placed())
        return recordings_sha256([(place, places[place]) for _, place in self._read])

    def placed(self) -> list[tuple[int, Recorded]]:
        """Every recorded answer with its place in the file, in that order; none is used up."""
        return sorted((found for same in self._found.values() for found in same), key=lambda found: found[0])


def recordings_sha256(placed: Iterable[tuple[int, Recorded]]) -> str:
    """Hash of recorded answers with their places: what `Recordings.read_sha256` gives once these were read."""
    ordered = sorted(placed, key=lambda found: (found[1].request, found[0]))
    return content_hash(*(recorded.to_json() for _, recorded in ordered))


def is_recorded_copy(answers: Sequence[Response], place: int) -> bool:
    """Whether an answer is an earlier one again, out of a cache: it took the very same time to say the same."""
    return answers[place].latency_ms > 0 and answers[place] in answers[:place]


def record_command(path: Path, model: str) -> str:
    """Command that records what is missing in a file of an evalset; empty for a file elsewhere."""
    if path.parent.name != FOLDER:
        return ""
    return f"workbench record {shlex.quote(path.parent.parent.name)} --model {shlex.quote(model)}"


def _recorded_lines(path: Path) -> Iterator[Recorded]:
    if not path.is_file():
        return
    whole = path.read_bytes()
    for number, line in enumerate(whole[: whole.rfind(b"\n") + 1].splitlines(), 1):
        yield Recorded.from_json(line, f"{path}:{number}")


def _drop_part_line(file: BinaryIO) -> None:
    """Drop what stands behind the last line end: a kill cut it short, and it will be asked again."""
    if file.seek(0, 2):
        file.seek(-1, 2)
        if file.read() != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
