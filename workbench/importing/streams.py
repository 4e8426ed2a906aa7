"""A team's own log of questions, in the order they came, as the stream of an evalset."""

import io
from pathlib import Path

from workbench.errors import EvalsetError
from workbench.evaluation.traffic import stream_of
from workbench.importing.folder import add_file, import_card
from workbench.importing.tables import Names, named_rows

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
_BY_HAND = "Where the requests come from, and who said which of them may share an answer, how, when"


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
