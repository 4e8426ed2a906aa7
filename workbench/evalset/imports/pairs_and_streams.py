"""A team's own requests in the order they came, and labelled pairs of questions: from tables, and from filled sheets.

Pairs of a filled sheet of near repeats join the answer keys of the stream too. A row of the sheet: id, query_a,
query_b, ``same_answer`` to fill (0 or 1), ``judge``, tenant_id. It tells neither how near the two are nor which cache
would serve them.
"""

import io
import json
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import polars as pl

from workbench.codec import write_whole
from workbench.config import Settings
from workbench.errors import Defect, EvalsetError
from workbench.evalset.cells import Unusable, id_cell, name_cell, shown_cell, truth_cell
from workbench.evalset.evalset import find_evalset
from workbench.evalset.files import Names, TableFile, named_table_rows, read_parquet, read_table
from workbench.evalset.folder import (
    Tell,
    add_evalset_file,
    folder_import_card,
    tell_nothing,
    tell_rows_left_out,
    writing_evalset_files,
)
from workbench.evalset.imports.judgement_sheets import (
    FILL,
    nothing_filled_in_sheets,
    opinions_of_sheets,
    sheet_agreement,
)
from workbench.evalset.traffic import (
    Pair,
    load_traffic_pairs,
    load_traffic_stream,
    same_words,
    traffic_pairs_of_rows,
    traffic_stream_of_rows,
    words_answer_key,
)
from workbench.records import DEFAULT_TENANT, content_hash
from workbench.rendering.numbers import counted
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
    path: Path, out: Path, *, rename: Mapping[str, str] = MappingProxyType({}), tell: Tell = tell_nothing
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
    rows, rest = named_table_rows(read_table(path, rename), PAIR_NAMES, ("query_a", "query_b", "same_answer"))
    pairs, defects = traffic_pairs_of_rows(str(path), rows)
    if defects:
        raise EvalsetError("the pairs cannot be imported; correct these lines:", defects)
    text = "".join(f"{pair_line(pair)}\n" for pair in pairs)
    done = add_evalset_file(out, "pairs.jsonl", text.encode(), card=folder_import_card({path: rest}, _BY_HAND))
    tell_rows_left_out({path: rest}, (), tell)
    return done


def pair_line(pair: Pair) -> str:
    """One line of ``pairs.jsonl``; the first batch is not named."""
    row = {name: value for name, value in asdict(pair).items() if name != "batch" or value}
    return json.dumps({"id": row.pop("pair_id"), **row, "same_answer": int(pair.same_answer)}, ensure_ascii=False)


def _pair_columns_understood(table: TableFile, names: Names) -> str:
    """Which column was taken for what."""
    taken = {ours: next((name for name in theirs if name in table.columns), "") for ours, theirs in names.items()}
    return f"columns: {', '.join(f'{ours} = {name}' for ours, name in taken.items() if name)}"


@waiting("import of a stream")
def import_stream(
    path: Path, out: Path, *, rename: Mapping[str, str] = MappingProxyType({}), tell: Tell = tell_nothing
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
    rows, rest = named_table_rows(table, STREAM_NAMES, ("query",))
    unlabelled = not set(STREAM_NAMES["answer_key"]) & set(table.columns)
    for _, row in rows if unlabelled else ():
        row["answer_key"] = words_answer_key(row["query"]) if isinstance(row["query"], str) else None
    frame, defects, notes = traffic_stream_of_rows(str(path), rows)
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
    notes.append(_pair_columns_understood(table, STREAM_NAMES))
    card = folder_import_card({path: rest}, _BY_HAND, notes)
    done = add_evalset_file(out, "stream.parquet", data.getvalue(), card=card)
    tell_rows_left_out({path: rest}, notes, tell)
    return done


PAIR_SHEET = "pairs_to_judge.jsonl"
KIND = "near repeat"
DEV_ONE_IN = 4  # families is of dev
_NAMES: Names = {**{k: PAIR_NAMES[k] for k in ("id", "query_a", "query_b", "same_answer", "tenant_id")},
                 "judge": ("judge", "annotator", "assessor")}  # fmt: skip
Key = tuple[str, str, str]  # tenant and the two texts, in order
Edge = tuple[str, str]  # another answer key, and where it is said that both are one answer


def unordered_pair(tenant_id: str, one: str, other: str) -> Key:
    """What a pair of texts is known by, whichever comes first.

    >>> unordered_pair("t", "Why?", "how") == unordered_pair("t", "how", "Why?")
    True
    """
    first, second = sorted((same_words(one), same_words(other)))
    return tenant_id, first, second


@dataclass(frozen=True, slots=True)
class PairLabel:
    """One filled row: the pair, what it was said to be, by whom and where."""

    file: str
    line: int
    query_a: str
    query_b: str
    tenant_id: str
    grade: int
    judge: str

    @property
    def pair(self) -> Key:
        """What two opinions are about."""
        return unordered_pair(self.tenant_id, self.query_a, self.query_b)

    @property
    def named(self) -> str:
        """The pair in a message."""
        return f"{shown_cell(self.query_a)} and {shown_cell(self.query_b)}"

    @property
    def brief(self) -> str:
        """The pair in a list."""
        return self.named

    @property
    def where(self) -> str:
        """Place in the sheets."""
        return f"{self.file}:{self.line}"


def is_pair_sheet(path: Path) -> bool:
    """Whether a table has a sheet's columns of pairs, and none of documents."""
    columns = set(read_table(path).columns)
    return {"query_a", "query_b"} <= columns and "doc_id" not in columns


def filled_pairs(sheet: Path) -> set[Key]:
    """Pairs of a sheet that somebody has labelled."""
    rows, _ = named_table_rows(read_table(sheet), _NAMES, ("query_a", "query_b", "same_answer"))
    return {
        unordered_pair(
            name_cell("tenant_id", row["tenant_id"]) or DEFAULT_TENANT, str(row["query_a"]), str(row["query_b"])
        )
        for _, row in rows
        if row["same_answer"] is not None
    }


@waiting("import of labelled pairs")
def import_pair_labels(
    paths: Sequence[Path], evalset: str | Path, *, settings: Settings, tell: Tell = tell_nothing, partly: bool = False
) -> list[Path]:
    """Add filled sheets of near repeats to an evalset; gives the files that changed: pairs and stream.

    Pairs that share an answer give their requests one answer key, and so do pairs of such pairs. Where two people
    labelled one pair, the first counts, and ``tell`` says how often they agree.

    Parameters
    ----------
    paths : sequence of Path
        Sheets: query_a, query_b, same_answer, and where there are any tenant_id and judge.
    evalset : str or Path
        Name or folder, with the ``stream.parquet`` that the pairs were drawn from.
    partly : bool
        Leave rows whose same_answer is empty aside, and count them, instead of refusing the sheet.

    Raises
    ------
    EvalsetError
        With the line of every row that is not filled, stands twice, is of no request of the stream, or contradicts
        others, or if no row is filled; nothing is changed then.
    """
    folder = find_evalset(evalset, settings)
    if not (folder / "stream.parquet").is_file():
        raise EvalsetError(f"{folder} has no stream.parquet, of which the pairs could be; import one first")
    stream, (known, _) = load_traffic_stream(folder), load_traffic_pairs(folder)
    asked = zip(stream.tenants, map(same_words, stream.queries), stream.answer_keys, strict=True)
    keys = {(tenant, text): key for tenant, text, key in asked}
    rows, defects = list[PairLabel](), list[Defect]()
    stems = [path.stem for path in paths]
    for path in paths:
        found, wrong, empty = _read_filled_pairs(
            path, path.stem if stems.count(path.stem) == 1 else str(path), keys, partly=partly
        )
        if empty:
            tell(f"{counted(empty, 'row')} of {path} left aside, as not filled")
        rows, defects = rows + found, defects + wrong
    first, second, twice = opinions_of_sheets(rows)
    said = {unordered_pair(pair.tenant_id, pair.query_a, pair.query_b): pair.same_answer for pair in known}
    labels = [label for label in first.values() if said.get(label.pair) != bool(label.grade)]
    if again := len(first) - len(labels):
        tell(f"{counted(again, 'pair is', 'pairs are')} labelled so already, and left aside")
    defects += [*twice, *_pairs_labelled_again(labels, known)]
    roots, contradictions = _joined_stream_keys(labels, known, keys)
    made_up = {words_answer_key(query) for query in stream.queries}
    if roots and not set(stream.answer_keys) <= made_up:
        told = (
            "the answer keys of the stream were given, not made of its words: they are not changed by labels of pairs"
        )
        defects.append(Defect(str(folder / "stream.parquet"), 0, told))
    if defects := [*defects, *contradictions]:
        raise EvalsetError(f"the pairs cannot be added to {folder}; correct these lines:", defects)
    if not rows:
        raise EvalsetError(nothing_filled_in_sheets(paths, "same_answer"))
    if not labels:
        return []
    for line in sheet_agreement(first, second, "pair"):
        tell(line)
    return _write_pairs(folder, labels, known, keys, roots, tell)


def _read_filled_pairs(
    path: Path, judge: str, keys: Mapping[tuple[str, str], str], *, partly: bool
) -> tuple[list[PairLabel], list[Defect], int]:
    """Filled rows, what cannot be used, and how many rows are empty and left aside."""
    rows, defects, empty = list[PairLabel](), list[Defect](), 0
    for line, row in named_table_rows(read_table(path), _NAMES, ("query_a", "query_b", "same_answer"))[0]:
        if partly and row["same_answer"] is None:
            empty += 1
            continue
        try:
            rows.append(_pair_label(path, line, row, judge, keys))
        except Unusable as error:
            defects.append(Defect(str(path), line, str(error)))
    return rows, defects, empty


def _pair_label(
    path: Path, line: int, row: Mapping[str, Any], judge: str, keys: Mapping[tuple[str, str], str]
) -> PairLabel:
    tenant = name_cell("tenant_id", row["tenant_id"]) or DEFAULT_TENANT
    for name in ("query_a", "query_b"):
        if (tenant, same_words(str(row[name] or ""))) not in keys:
            raise Unusable(f'"{name}" {shown_cell(row[name])} is no request of the stream, of tenant {tenant!r}')
    if row["same_answer"] is None:
        raise Unusable(f"same_answer is not filled (1: one answer serves both, 0: it does not): {FILL}")
    same, judge = truth_cell("same_answer", row["same_answer"]), name_cell("judge", row["judge"]).strip() or judge
    id_cell("id", row["id"])
    return PairLabel(str(path), line, row["query_a"], row["query_b"], tenant, int(same), judge)


def _pairs_labelled_again(labels: Iterable[PairLabel], known: Sequence[Pair]) -> list[Defect]:
    """Rows about pairs that the evalset has with the other label."""
    there = {unordered_pair(p.tenant_id, p.query_a, p.query_b): p.pair_id for p in known}
    told = "are labelled otherwise already: pair"
    return [
        Defect(x.file, x.line, f"{x.named} {told} {there[x.pair]!r} of pairs.jsonl") for x in labels if x.pair in there
    ]


def _joined_stream_keys(
    labels: Sequence[PairLabel], known: Sequence[Pair], keys: Mapping[tuple[str, str], str]
) -> tuple[dict[str, str], list[Defect]]:
    """New key of each answer key that is joined to another, and the rows that contradict what was said."""
    edges: dict[str, list[Edge]] = {}
    said: list[tuple[str, str, str, bool, str, PairLabel | None]]
    said = [(x.query_a, x.query_b, x.tenant_id, bool(x.grade), x.where, x) for x in labels]
    said += [(p.query_a, p.query_b, p.tenant_id, p.same_answer, f"pair {p.pair_id!r}", None) for p in known]
    differ = []
    for a, b, tenant, same, where, label in said:
        one, other = keys.get((tenant, same_words(a))), keys.get((tenant, same_words(b)))
        if one is None or other is None:
            continue  # a known pair of texts that nobody asked
        if same:
            edges.setdefault(one, []).append((other, where))
            edges.setdefault(other, []).append((one, where))
        else:
            differ.append((one, other, where, label))
    last = {label.where: label for label in labels}
    defects = []
    for one, other, where, label in differ:
        if (path := _stream_key_path(edges, one, other)) is not None:
            at = label or next((last[step] for step in path if step in last), None)
            if at is not None:
                others = ", ".join(path) or "the stream"
                told = f"{where} says that two texts must not share an answer, and by way of {others} they do"
                defects.append(Defect(at.file, at.line, told))
    return _stream_key_roots(edges), defects


def _stream_key_path(edges: Mapping[str, Sequence[Edge]], start: str, end: str) -> list[str] | None:
    """Where it is said, step by step, that two answer keys are one; None where it is not."""
    came, queue = dict[str, tuple[str, str]](), deque([start])
    while queue:
        here = queue.popleft()
        if here == end:
            steps = list[str]()
            while here != start:
                here, where = came[here]
                steps.append(where)
            return steps[::-1]
        for there, where in edges.get(here, ()):
            if there != start and there not in came:
                came[there] = here, where
                queue.append(there)
    return None


def _stream_key_roots(edges: Mapping[str, Sequence[Edge]]) -> dict[str, str]:
    """The least key of all that are joined, by key."""
    roots = dict[str, str]()
    for start in sorted(edges):
        queue = [] if start in roots else [start]
        while queue:
            here = queue.pop()
            if here not in roots:
                roots[here] = start
                queue += [there for there, _ in edges[here]]
    return {key: root for key, root in roots.items() if key != root}


def _write_pairs(
    folder: Path,
    labels: Sequence[PairLabel],
    known: Sequence[Pair],
    keys: Mapping[tuple[str, str], str],
    roots: Mapping[str, str],
    tell: Tell,
) -> list[Path]:
    """Append the pairs, join the answer keys of the stream, and say what was done."""
    pairs, path = _labelled_pairs(labels, known, keys, roots), folder / "pairs.jsonl"
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    before += "" if not before or before.endswith("\n") else "\n"
    frame, stream = read_parquet(folder / "stream.parquet"), folder / "stream.parquet"
    joined = pl.col("answer_key").replace(roots)
    same_name = pl.col("cluster") == pl.col("answer_key")
    changed = frame.with_columns(cluster=pl.when(same_name).then(joined).otherwise("cluster"), answer_key=joined)
    moved = int((changed["answer_key"] != frame["answer_key"]).sum())
    data = io.BytesIO()
    changed.write_parquet(data)
    with writing_evalset_files(folder):
        write_whole(path, before + "".join(f"{pair_line(pair)}\n" for pair in pairs))
        if moved:
            write_whole(stream, data.getvalue())
    same = sum(pair.same_answer for pair in pairs)
    tell(
        f"{counted(same, 'pair')} may share an answer: "
        f"{counted(moved, 'request of the stream has', 'requests of the stream have')} another's "
        "answer key now"
    )
    if same < len(pairs):
        limit = "[caching] must_differ_limit in gates.toml (0 unless set) says how many a cache may serve, beside alpha"
        tell(f"{counted(len(pairs) - same, 'pair')} must not share one; {limit}")
    elif not any(not pair.same_answer for pair in known):
        lower = f"find some at a lower cosine: workbench evalset pairs {folder.name} --least 0.7"
        tell(
            f"no pair is known that must not share an answer, without which a semantic cache stays provisional; {lower}"
        )
    return [path, stream] if moved else [path]


def _labelled_pairs(
    labels: Sequence[PairLabel],
    known: Sequence[Pair],
    keys: Mapping[tuple[str, str], str],
    roots: Mapping[str, str],
) -> list[Pair]:
    """Pairs with family and split: what is labelled together is one family, and a family is of one split."""
    edges = dict[str, list[Edge]]()
    homes = dict[str, tuple[str, str]]()
    for pair in known:
        for text in (pair.query_a, pair.query_b):
            homes.setdefault(keys.get((pair.tenant_id, same_words(text)), ""), (pair.cluster, pair.split))
    ends = {
        label.pair: [roots.get(key, key) for key in (keys[label.tenant_id, text] for text in label.pair[1:])]
        for label in labels
    }
    for one, other in ends.values():
        edges.setdefault(one, []).append((other, ""))
        edges.setdefault(other, []).append((one, ""))
    families, out = _stream_key_roots(edges), list[Pair]()
    for key, home in list(homes.items()):
        homes.setdefault(families.get(roots.get(key, key), roots.get(key, key)), home)
    for label in labels:
        root = families.get(ends[label.pair][0], ends[label.pair][0])
        split = "dev" if int(content_hash(root)[:8], 16) % DEV_ONE_IN == 0 else "test"
        cluster, split = homes.get(root, (root, split))
        split = "dev" if split == "spent" else split  # its family has been seen
        name = content_hash(*label.pair)[:12]
        tenant, same = label.tenant_id, bool(label.grade)
        out.append(Pair(name, label.query_a, label.query_b, same, KIND, cluster, tenant, split))
    return out
