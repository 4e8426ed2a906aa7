"""A team's own labelled pairs of questions: whether one answer may serve both."""

import json
from pathlib import Path

from workbench.errors import EvalsetError
from workbench.evaluation.traffic import Pair, pairs_of
from workbench.importing.folder import add_file, import_card
from workbench.importing.tables import Names, named_rows

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
    row = {
        "id": pair.pair_id, "query_a": pair.query_a, "query_b": pair.query_b, "same_answer": int(pair.same_answer),
        "kind": pair.kind, "cluster": pair.cluster, "tenant_id": pair.tenant_id, "split": pair.split,
    }  # fmt: skip
    return json.dumps(row, ensure_ascii=False)
