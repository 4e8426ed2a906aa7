"""Answers as they came, on disk: what was asked is kept as a hash only, so that a replay needs the same request."""

import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from workbench.errors import RecordingMiss, WorkbenchError
from workbench.inference.messages import Request, Response, ToolCall, Usage
from workbench.records import content_hash
from workbench.telemetry.redaction import redact


@dataclass(frozen=True, slots=True)
class Recorded:
    """One answer with the hash of its request; ``occurrence`` counts equal requests from 0."""

    request: str
    occurrence: int
    item_id: str
    response: Response

    def to_json(self) -> str:
        """One line; the prompt is not in it."""
        row = {k: v for k, v in asdict(self.response).items() if v is not None and v != ()}
        row = {"request": self.request, "occurrence": self.occurrence, "item_id": self.item_id, **row}
        return json.dumps(row, ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> Self:
        """Read one line."""
        row: dict[str, Any] = json.loads(line)
        request, occurrence, item_id = row.pop("request"), row.pop("occurrence"), row.pop("item_id")
        usage = Usage(**row.pop("usage")) if "usage" in row else None
        calls = tuple(ToolCall(**call) for call in row.pop("tool_calls", ()))
        return cls(request, occurrence, item_id, Response(usage=usage, tool_calls=calls, **row))


class Recordings:
    """Recorded answers of one JSONL file; strict when read, appended to as answers come.

    Parameters
    ----------
    path : Path
        The file; it need not exist where answers are recorded.
    live : bool
        Whether a request without a recording may go to its model and be recorded; otherwise it is an error.
    """

    def __init__(self, path: Path, *, live: bool = False) -> None:
        self.path, self.live = path, live
        self._found: dict[str, list[Recorded]] = defaultdict(list)
        self._taken: dict[str, int] = defaultdict(int)
        self._read: set[tuple[str, int]] = set()
        self._lock, self._appending = threading.Lock(), False
        for recorded in sorted(_lines(path), key=lambda r: r.occurrence):
            self._found[recorded.request].append(recorded)

    def __len__(self) -> int:
        return sum(map(len, self._found.values()))

    def count(self, request: Request) -> int:
        """How many answers to this request are recorded."""
        return len(self._found.get(request.sha256, ()))

    def find(self, request: Request, occurrence: int = 0) -> Response | None:
        """One recorded answer, None where there is none; nothing is used up."""
        recorded = self._found.get(request.sha256, ())
        return recorded[occurrence].response if occurrence < len(recorded) else None

    def take(self, *requests: Request) -> Response | None:
        """Next recorded answer to the first of these requests that has one left; None where live answers are taken.

        Raises
        ------
        RecordingMiss
            If there is none and nothing may be asked.
        """
        with self._lock:
            for request in requests[:1] if self.live else requests:
                key, taken = request.sha256, self._taken[request.sha256]
                if taken < self.count(request):
                    self._taken[key] += 1
                    self._read.add((key, taken))
                    return self._found[key][taken].response
        if self.live:
            return None
        raise RecordingMiss(self._miss(requests[0]))

    def _miss(self, request: Request) -> str:
        asked = f"request to {request.model} (hash {request.sha256[:12]})"
        if known := self.count(request):
            return f"this {asked} has {known} recorded answers in {self.path.name}, and one more was asked for"
        return (
            f"no recorded answer to this {asked} among {len(self)} in {self.path.name}: the prompt, a document or a "
            "parameter has changed. Record anew with: workbench record"
        )

    def add(self, request: Request, item_id: str, response: Response) -> None:
        """Append one answer without its secrets; whole lines only, so that a reader never sees a part of one."""
        calls = tuple(replace(call, arguments=redact(call.arguments)) for call in response.tool_calls)
        kept = replace(response, text=redact(response.text), tool_calls=calls)
        with self._lock:
            recorded = Recorded(request.sha256, self.count(request), item_id, kept)
            self._found[recorded.request].append(recorded)
            self._taken[recorded.request] += 1
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                if not self._appending:
                    file.truncate(_whole_lines(self.path))
                    self._appending = True
                file.write(f"{recorded.to_json()}\n".encode())

    def read_sha256(self) -> str:
        """Hash of the recordings that were read, whatever else the file holds: an input of the fingerprint."""
        return content_hash(*(self._found[r][o].to_json() for r, o in sorted(self._read)))


def _lines(path: Path) -> Iterator[Recorded]:
    if not path.is_file():
        return
    for number, line in enumerate(path.read_bytes()[: _whole_lines(path)].splitlines(), 1):
        try:
            yield Recorded.from_json(line.decode())
        except (ValueError, KeyError, TypeError) as error:
            raise WorkbenchError(f"{path}:{number} is no recorded answer: {error}") from error


def _whole_lines(path: Path) -> int:
    """Bytes up to the last line end: what a kill cut short was never complete, and will be asked again."""
    return path.read_bytes().rfind(b"\n") + 1
