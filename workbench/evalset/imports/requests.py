"""A team's own requests in the order they came, and its labelled pairs of questions, as files of an evalset."""

import io
import json
from dataclasses import asdict
from pathlib import Path

from workbench.errors import EvalsetError
from workbench.evalset.imports.documents import Names, named_rows
from workbench.evalset.imports.folder import add_file, import_card
from workbench.evalset.traffic import Pair, pairs_of, stream_of

PAIR_NAMES: Names = {
    "id": ("id", "_id", "pair_id"),
    "query_a": ("query_a", "question1", "sentence1", "text_a"),
    "query_b": ("query_b", "question2", "sentence2", "text_b"),
    "same_answer": ("same_answer", "is_duplicate", "label"),
    "kind": ("kind",),
    "cluster": ("cluster",),
    "tenant_id": ("tenant_id", "tenant"),
    "split": ("split",),
}
STREAM_NAMES: Names = {
    "query": ("query", "text", "question", "prompt"),
    "answer_key": ("answer_key", "answer_id", "intent", "class_id", "label"),
    "pos": ("pos", "position"),
    "tenant_id": ("tenant_id", "tenant"),
    "cluster": ("cluster",),
    "at": ("at", "timestamp", "time"),
    "feature": ("feature",),
    "user_id": ("user_id", "user"),
}
_BY_HAND = "Where the questions come from, and who said which of them may share an answer, how, when"


def import_pairs(path: Path, out: Path) -> Path:
    """Write ``out/pairs.jsonl`` from a CSV, Parquet or JSONL file with one pair a row.

    Columns: ``query_a``, ``query_b``, ``same_answer`` (0 or 1), and where there are any ``id``, ``kind``,
    ``cluster``, ``tenant_id``, ``split`` (dev or test); common other names are known.

    Raises
    ------
    EvalsetError
        With the file and line of everything that cannot be used, or if there are pairs already.
    """
    rows, left_out = named_rows(path, PAIR_NAMES)
    pairs, defects = pairs_of(str(path), rows)
    if defects:
        raise EvalsetError("the pairs cannot be imported; correct these lines:", defects)
    text = "".join(f"{pair_line(pair)}\n" for pair in pairs)
    return add_file(out, "pairs.jsonl", text.encode(), card=import_card({path: left_out}, _BY_HAND))


def pair_line(pair: Pair) -> str:
    """One line of ``pairs.jsonl``."""
    row = asdict(pair)
    return json.dumps({"id": row.pop("pair_id"), **row, "same_answer": int(pair.same_answer)}, ensure_ascii=False)


def import_stream(path: Path, out: Path) -> Path:
    """Write ``out/stream.parquet`` from a CSV, Parquet or JSONL file with one request a row.

    Columns: ``query`` and ``answer_key`` (which requests may share an answer: an intent, a label), and where there
    are any ``pos``, ``tenant_id``, ``cluster`` (default: the answer key), ``at``, ``feature`` (a cache never serves
    across features) and ``user_id``; common other names are known.

    Raises
    ------
    EvalsetError
        With the file and line of everything that cannot be used, or if there is a stream already.
    """
    rows, left_out = named_rows(path, STREAM_NAMES)
    frame, defects = stream_of(str(path), rows)
    if defects:
        raise EvalsetError("the stream cannot be imported; correct these lines:", defects)
    data = io.BytesIO()
    frame.sort("pos").write_parquet(data)
    return add_file(out, "stream.parquet", data.getvalue(), card=import_card({path: left_out}, _BY_HAND))
