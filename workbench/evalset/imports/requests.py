"""A team's own requests in the order they came, and its labelled pairs of questions, as files of an evalset."""

import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType

from workbench.errors import EvalsetError
from workbench.evalset.files import Names, TableFile, named_rows, read_table
from workbench.evalset.imports.folder import Tell, add_file, import_card, say_nothing, tell_left_out
from workbench.evalset.traffic import Pair, pairs_of, stream_of, words_key
from workbench.rendering.progress import waiting

PAIR_NAMES: Names = {
    "id": ("id", "_id", "pair_id"),
    "query_a": ("query_a", "question1", "sentence1", "text_a"),
    "query_b": ("query_b", "question2", "sentence2", "text_b"),
    "same_answer": ("same_answer", "is_duplicate", "label"),
    "kind": ("kind",),
    "cluster": ("cluster",),
    "tenant_id": ("tenant_id", "tenant"),
    "split": ("split",),
    "batch": ("batch",),
}
STREAM_NAMES: Names = {
    "query": ("query", "text", "question", "prompt"),
    "answer_key": ("answer_key", "answer_id", "intent", "class_id", "label"),
    "pos": ("pos", "position"),
    "tenant_id": ("tenant_id", "tenant"),
    "cluster": ("cluster",),
    "at": ("at", "timestamp", "time", "created_at", "created", "datetime", "date", "ts", "start_time", "startTime"),
    "feature": ("feature",),
    "user_id": ("user_id", "user"),
    "turns": ("turns", "history", "earlier_turns", "previous_turns"),
}
SAME_WORDS = (
    "only the same words share an answer key; label near repeats to tell which others may: workbench evalset pairs NAME"
)
_BY_HAND = "Where the questions come from, and who said which of them may share an answer, how, when"


@waiting("import of pairs")
def import_pairs(
    path: Path, out: Path, *, rename: Mapping[str, str] = MappingProxyType({}), tell: Tell = say_nothing
) -> Path:
    """Write ``out/pairs.jsonl`` from a CSV, Parquet or JSONL file with one pair a row.

    Columns: ``query_a``, ``query_b``, ``same_answer`` (0 or 1), and where there are any ``id``, ``kind``,
    ``cluster``, ``tenant_id``, ``split`` (dev, test or spent, see `workbench.evalset.traffic.Pair`), ``batch`` (of
    pairs written later); common other names are known, ``rename`` (yours -> ours) gives others. ``tell`` takes a line
    on what was left out.

    Raises
    ------
    EvalsetError
        With the file and line of everything that cannot be used, or if there are pairs already.
    ConfigError
        If a column to rename is not there.
    """
    rows, rest = named_rows(read_table(path, rename), PAIR_NAMES, ("query_a", "query_b", "same_answer"))
    pairs, defects = pairs_of(str(path), rows)
    if defects:
        raise EvalsetError("the pairs cannot be imported; correct these lines:", defects)
    text = "".join(f"{pair_line(pair)}\n" for pair in pairs)
    done = add_file(out, "pairs.jsonl", text.encode(), card=import_card({path: rest}, _BY_HAND))
    tell_left_out({path: rest}, (), tell)
    return done


def pair_line(pair: Pair) -> str:
    """One line of ``pairs.jsonl``; the first batch is not named."""
    row = {name: value for name, value in asdict(pair).items() if name != "batch" or value}
    return json.dumps({"id": row.pop("pair_id"), **row, "same_answer": int(pair.same_answer)}, ensure_ascii=False)


def _understood(table: TableFile, names: Names) -> str:
    """Which column was taken for what."""
    taken = {ours: next((name for name in theirs if name in table.columns), "") for ours, theirs in names.items()}
    return f"columns: {', '.join(f'{ours} = {name}' for ours, name in taken.items() if name)}"


@waiting("import of a stream")
def import_stream(
    path: Path, out: Path, *, rename: Mapping[str, str] = MappingProxyType({}), tell: Tell = say_nothing
) -> Path:
    """Write ``out/stream.parquet`` from a CSV, Parquet or JSONL file with one request a row.

    Columns: ``query``, and where there are any ``answer_key`` (which requests may share an answer: an intent, a label;
    without it the same words alone share one), ``at`` (when it came), ``pos`` (its place, which then decides the
    order), ``tenant_id``, ``cluster`` (default: the answer key), ``feature`` (a cache never serves across features),
    ``user_id`` and ``turns`` (what was said before, a text or a list: a cache serves after the same turns alone);
    common other names are known, ``rename`` (yours -> ours) gives others. ``tell`` takes a line on the order and on
    what was left out.

    Raises
    ------
    EvalsetError
        With the file and line of everything that cannot be used, or if there is a stream already.
    ConfigError
        If a column to rename is not there.
    """
    table = read_table(path, rename)
    rows, rest = named_rows(table, STREAM_NAMES, ("query",))
    unlabelled = not set(STREAM_NAMES["answer_key"]) & set(table.columns)
    for _, row in rows if unlabelled else ():
        row["answer_key"] = words_key(row["query"]) if isinstance(row["query"], str) else None
    frame, defects, notes = stream_of(str(path), rows)
    if defects:
        times = [name for name in STREAM_NAMES["at"] if name in table.columns and name not in rest]
        odd = times and any(defect.problem.startswith('"at"') for defect in defects)
        told = (
            f" (or leave the times out, then the order of the rows counts: --rename {times[0]}=unused)" if odd else ""
        )
        raise EvalsetError(f"the stream cannot be imported; correct these lines{told}:", defects)
    data = io.BytesIO()
    frame.sort("pos").write_parquet(data)
    if unlabelled:
        notes.append(f"no column answer_key: {SAME_WORDS} (or name yours: --rename YOURS=answer_key)")
    notes.append(_understood(table, STREAM_NAMES))
    card = import_card({path: rest}, _BY_HAND, notes)
    done = add_file(out, "stream.parquet", data.getvalue(), card=card)
    tell_left_out({path: rest}, notes, tell)
    return done
