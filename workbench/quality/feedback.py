"""What users say of answers, and how a bad one becomes a question of the evalset: by a person, never by itself.

``record`` is what a product calls. A thumbs-down makes a candidate with its trace; a person approves, edits or rejects
it; what is approved joins the evalset with where it came from. Feedback chooses what is looked at; it is no metric:
those who press a button are not all users.
"""

import fcntl
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import sqlalchemy as sa

from workbench.config import Clock, Settings, SystemClock, load_settings
from workbench.errors import ConfigError, EvalsetError
from workbench.evalset.evalset import find_evalset
from workbench.evalset.files import read_jsonl
from workbench.records import content_hash
from workbench.rendering.table import Table
from workbench.state import create_tables, open_engine, reading_engine
from workbench.telemetry.redaction import redact
from workbench.telemetry.traces import Trace, stored_trace

FILE = "candidates.jsonl"
_MOST_KEPT = 4000  # characters of a comment, a question and an answer that are kept
Status = Literal["open", "approved", "rejected"]
_TABLE = sa.Table(
    "wb_feedback",
    sa.MetaData(),
    sa.Column("feedback_id", sa.Text, primary_key=True),
    *(sa.Column(name, sa.Text, nullable=False) for name in ("trace_id", "comment", "user_id", "at")),
    sa.Column("score", sa.Float, nullable=False),
)
# What may name a person. A match is a flag for a person to look at, and no match is no promise.
PERSONAL = {
    "e-mail address": re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]+"),
    "telephone number": re.compile(r"(?<![\w.])(?:\+|00)?\d[\d ()/-]{7,}\d(?![\w.])"),
    "IBAN": re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b"),
    "IP address": re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])"),
}


@dataclass(frozen=True, slots=True)
class Feedback:
    """What one user said of one answer; ``score`` in [0, 1], 0 is a thumbs-down."""

    feedback_id: str
    trace_id: str
    score: float
    comment: str
    user_id: str
    at: str

    @property
    def thumbs_down(self) -> bool:
        """Whether the answer was found bad."""
        return self.score < 0.5


@dataclass(frozen=True, slots=True)
class Candidate:
    """A question that may join the evalset.

    Attributes
    ----------
    flags : tuple of str
        What a person has to look at: duplicates, personal data.
    status : {"open", "approved", "rejected"}
        Only `approve_feedback_candidate` and `reject_feedback_candidate` change it, each with the name of who decided.
    """

    candidate_id: str
    trace_id: str
    question: str
    answer: str
    tenant_id: str
    feature: str
    comment: str
    at: str
    flags: tuple[str, ...] = ()
    status: Status = "open"
    by: str = ""
    reason: str = ""


def record(
    trace_id: str,
    score: float,
    comment: str = "",
    *,
    user_id: str = "",
    settings: Settings | None = None,
    clock: Clock | None = None,
) -> Feedback:
    """``feedback.record(completion.trace_id, 0, "wrong function", user_id="u7")``: keep what a user said.

    The same user may think again: the last word on a trace counts. Secrets in a comment are not kept.

    Raises
    ------
    ConfigError
        If the score is not in [0, 1] or there is no trace id.
    """
    if not 0 <= score <= 1 or not trace_id:
        raise ConfigError(f"feedback is a score in [0, 1] on a trace, found {score!r} on {trace_id!r}")
    at = (clock or SystemClock()).now().isoformat(timespec="seconds")
    said = redact(comment.replace("\0", ""))[:_MOST_KEPT].encode("utf-8", "replace").decode()
    found = Feedback(content_hash(trace_id, user_id)[:32], trace_id, float(score), said, user_id, at)
    engine = open_engine((settings or load_settings()).state_url)
    try:
        create_tables(engine, _TABLE)
        with engine.begin() as connection:
            connection.execute(_TABLE.delete().where(_TABLE.c.feedback_id == found.feedback_id))
            connection.execute(_TABLE.insert(), asdict(found))
    finally:
        engine.dispose()
    return found


def all_feedback(engine: sa.Engine) -> list[Feedback]:
    """Everything that users said, oldest first."""
    create_tables(engine, _TABLE)
    with reading_engine(engine).begin() as connection:
        rows = connection.execute(sa.select(_TABLE).order_by(_TABLE.c.at, _TABLE.c.feedback_id)).mappings()
        return [Feedback(**row) for row in rows]


def feedback_trace_scores(engine: sa.Engine) -> sa.Select[tuple[str, float]]:
    """Query for ``trace_id`` and ``score`` of every trace on which users said something; of several the lowest."""
    create_tables(engine, _TABLE)
    return sa.select(_TABLE.c.trace_id, sa.func.min(_TABLE.c.score).label("score")).group_by(_TABLE.c.trace_id)


def collect_feedback_candidates(evalset: str | Path, settings: Settings) -> tuple[int, tuple[str, ...]]:
    """Make a candidate of every thumbs-down that is none yet; returns how many, and traces that are not stored."""
    folder = find_evalset(evalset, settings)
    engine = open_engine(settings.state_url)
    new, lost = [], []
    try:
        known = load_feedback_candidates(folder)
        seen = {c.trace_id for c in known}
        asked = [(c.question, f"candidate {c.candidate_id}") for c in known if c.status != "rejected"]
        asked += [(str(row.get("text", "")), f"question {row.get('_id')}") for _, row in _feedback_queries(folder)]
        for said in all_feedback(engine):
            if not said.thumbs_down or said.trace_id in seen:
                continue
            seen.add(said.trace_id)
            if (trace := stored_trace(engine, said.trace_id)) is None:
                lost.append(said.trace_id)
                continue
            found = _feedback_candidate(said, trace, asked)
            asked.append((found.question, f"candidate {found.candidate_id}"))
            new.append(found)
    finally:
        engine.dispose()
    _append_feedback(folder / FILE, [asdict(c) for c in new])
    return len(new), tuple(lost)


def load_feedback_candidates(folder: Path) -> list[Candidate]:
    """Candidates of an evalset, each as it stands after all that was decided.

    Raises
    ------
    EvalsetError
        If a line is no candidate.
    """
    path, out = folder / FILE, dict[str, Candidate]()
    known = {f.name for f in fields(Candidate)}
    for number, row in read_jsonl(path) if path.is_file() and path.stat().st_size else []:
        if row.keys() != known or row["status"] not in get_args(Status):
            raise EvalsetError(f"{path}:{number} is no candidate; its fields are {', '.join(sorted(known))}")
        out[row["candidate_id"]] = Candidate(**{**row, "flags": tuple(row["flags"])})
    return list(out.values())


def approve_feedback_candidate(
    evalset: str | Path,
    candidate_id: str,
    settings: Settings,
    *,
    by: str,
    relevant: Sequence[str] = (),
    question: str = "",
    reference: str = "",
    accept: Sequence[str] = (),
    cluster: str = "",
    clock: Clock | None = None,
) -> Candidate:
    """Add an open candidate to the evalset's questions, with who approved it and the trace it came from.

    It joins dev: questions that were chosen because the system failed on them would make test unlike what is asked.
    ``question`` is the text as the person edited it; with ``relevant`` its documents are judged in ``qrels/dev.tsv``.

    Raises
    ------
    ConfigError
        If nobody's name is given, the candidate is not open, or it is flagged and was not edited.
    """
    folder = find_evalset(evalset, settings)
    found = _open_feedback_candidate(folder, candidate_id, by)
    if found.flags and not question:
        raise ConfigError(
            f"candidate {candidate_id} is flagged: {'; '.join(found.flags)}. Give the question as it should stand, or "
            "reject it"
        )
    if not (relevant or accept or reference):
        raise ConfigError(
            f"candidate {candidate_id} needs what is right: relevant documents, accepted names, a reference"
        )
    day = (clock or SystemClock()).now().date().isoformat()
    query_id = f"feedback-{candidate_id}"
    metadata: dict[str, Any] = {
        "tenant_id": found.tenant_id or "default", "feature": found.feature, "style": "feedback",
        "cluster": cluster or query_id, "accept": list(accept), "reference": reference,
        "provenance": {"trace_id": found.trace_id, "approved_by": by, "approved_on": day},
    }  # fmt: skip
    _append_feedback(
        folder / "queries.jsonl", [{"_id": query_id, "text": question or found.question, "metadata": metadata}]
    )
    if relevant:
        path = folder / "qrels" / "dev.tsv"
        lines = [] if path.is_file() else ["query-id\tcorpus-id\tscore"]
        _append_feedback_lines(path, [*lines, *(f"{query_id}\t{doc_id}\t1" for doc_id in relevant)])
    return _decide_feedback_candidate(folder, found, "approved", by, "")


def reject_feedback_candidate(
    evalset: str | Path, candidate_id: str, settings: Settings, *, by: str, reason: str
) -> Candidate:
    """Close an open candidate; it is not proposed again."""
    folder = find_evalset(evalset, settings)
    return _decide_feedback_candidate(
        folder, _open_feedback_candidate(folder, candidate_id, by), "rejected", by, reason
    )


def feedback_candidates_table(candidates: Sequence[Candidate]) -> Table:
    """One row a candidate; what users and models wrote is shown, never run."""
    rows = [(c.candidate_id, c.status, c.tenant_id, c.feature, c.question, c.answer, c.comment, "; ".join(c.flags),
             c.trace_id) for c in candidates]  # fmt: skip
    names = ("candidate", "status", "tenant", "feature", "question", "answer", "comment", "flags", "trace")
    return Table.of(names, rows, "Candidates from feedback")


def feedback_personal_data(text: str) -> list[str]:
    """Kinds of personal data that a text seems to hold.

    >>> feedback_personal_data("mail me at jane.doe@example.com"), feedback_personal_data("sort by 2 columns")
    (['e-mail address'], [])
    """
    return [kind for kind, pattern in PERSONAL.items() if pattern.search(text)]


def _feedback_candidate(said: Feedback, trace: Trace, asked: Sequence[tuple[str, str]]) -> Candidate:
    question, answer, tenant_id, feature = feedback_exchange(trace)
    flags = [f"personal data: {kind}" for kind in feedback_personal_data(f"{question}\n{said.comment}")]
    key = _key(question)
    flags += [f"same question as {where}" for text, where in asked if _key(text) == key][:1]
    if not question:
        flags.append("the trace keeps no content")
    return Candidate(
        content_hash(said.trace_id)[:12], said.trace_id, question[:_MOST_KEPT], answer[:_MOST_KEPT], tenant_id, feature,
        said.comment, said.at, tuple(flags),
    )  # fmt: skip


def feedback_exchange(trace: Trace) -> tuple[str, str, str, str]:
    """The last question and answer that a trace keeps, its tenant and feature."""
    question = answer = tenant_id = feature = ""
    for row in trace.rows:
        kept = row.attributes
        tenant_id, feature = str(kept.get("wb.tenant_id") or tenant_id), str(kept.get("wb.feature") or feature)
        question = _last_feedback_message(kept.get("gen_ai.input.messages"), "user") or question
        answer = _last_feedback_message(kept.get("gen_ai.output.messages"), "assistant") or answer
    return question, answer, tenant_id, feature


def _last_feedback_message(messages: object, role: str) -> str:
    """Text of the last message of a role; what is no list of messages has none."""
    try:
        parsed = json.loads(messages) if isinstance(messages, str) else messages
    except ValueError:
        return ""
    for message in reversed(parsed if isinstance(parsed, list) else []):
        if isinstance(message, dict) and message.get("role", role) == role:
            parts = message.get("parts") or [message]
            texts = [str(p.get("content") or "") for p in parts if isinstance(p, dict)]
            if any(texts):
                return "\n".join(filter(None, texts))
    return ""


def _key(question: str) -> str:
    return " ".join(re.findall(r"\w+", question.casefold()))


def _feedback_queries(folder: Path) -> list[tuple[int, dict[str, Any]]]:
    path = folder / "queries.jsonl"
    return read_jsonl(path) if path.is_file() else []


def _open_feedback_candidate(folder: Path, candidate_id: str, by: str) -> Candidate:
    if not by.strip():
        raise ConfigError("a person approves or rejects; say who with by=")
    known = {c.candidate_id: c for c in load_feedback_candidates(folder)}
    if candidate_id not in known:
        raise ConfigError(f"{folder.name} has no candidate {candidate_id!r}; there are {', '.join(known) or 'none'}")
    if (found := known[candidate_id]).status != "open":
        raise ConfigError(f"candidate {candidate_id} is {found.status} already, by {found.by}")
    return found


def _decide_feedback_candidate(folder: Path, candidate: Candidate, status: Status, by: str, reason: str) -> Candidate:
    decided = replace(candidate, status=status, by=by, reason=reason)
    _append_feedback(folder / FILE, [asdict(decided)])
    return decided


def _append_feedback(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    _append_feedback_lines(path, [json.dumps(row, ensure_ascii=True) for row in rows])


def _append_feedback_lines(path: Path, lines: Sequence[str]) -> None:
    """Append whole lines, one writer at a time, also behind a last line without an end."""
    if not lines:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        end = file.seek(0, 2)
        if end:
            file.seek(end - 1)
        start = b"\n" if end and file.read(1) != b"\n" else b""
        file.write(start + "".join(f"{line}\n" for line in lines).encode())
