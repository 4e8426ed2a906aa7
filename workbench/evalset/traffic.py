"""Query streams and labelled pairs: what a cache would see, and which questions may share an answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from workbench.errors import Defect, EvalsetError
from workbench.evalset.cells import (
    Unusable,
    id_cell,
    name_cell,
    shown_cell,
    times_of_cells,
    truth_cell,
    turns_cell,
    whole_cell,
)
from workbench.evalset.files import Row, read_jsonl, read_table, refuse_file
from workbench.evalset.folder import queries_of_rows
from workbench.evalset.follow_ups import needs_turns
from workbench.evalset.workload import draw_workload, read_workload_plan, workload_topics
from workbench.records import DEFAULT_TENANT, content_hash, file_hash
from workbench.rendering.numbers import counted
from workbench.rendering.progress import waiting

STREAM_SCHEMA: Mapping[str, Any] = {
    "pos": pl.Int64, "query": pl.String, "answer_key": pl.String, "tenant_id": pl.String, "cluster": pl.String,
    "at": pl.String, "feature": pl.String, "user_id": pl.String, "turns": pl.String,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class RequestStream:
    """Requests in the order of their arrival.

    Attributes
    ----------
    queries, answer_keys, tenants, clusters : tuple of str
        One entry per request. Two requests of one tenant and feature may share a cached answer when their answer keys
        are equal; a cache never serves across tenants or features; clusters are what is resampled.
    answers : ndarray of int
        Code of each answer key.
    sha256 : str
        Hash of what was read.
    features : tuple of str
        Likewise, "" where not known.
    turns : tuple of str
        What was said before in the same conversation, as text, "" for nothing.
    synthetic : bool
        Drawn by a plan.
    """

    queries: tuple[str, ...]
    answer_keys: tuple[str, ...]
    answers: npt.NDArray[np.int64]
    tenants: tuple[str, ...]
    clusters: tuple[str, ...]
    sha256: str
    features: tuple[str, ...] = ()
    synthetic: bool = False
    turns: tuple[str, ...] = ()

    @cached_property
    def scopes(self) -> tuple[str, ...]:
        """Tenant, feature and earlier turns of each request; a follow-up whose turns are not known is alone in its."""
        known = (c if any(c) else ("",) * len(self) for c in (self.features, self.turns))
        scopes = tuple("\x1f".join(row) for row in zip(self.tenants, *known, strict=True))
        return tuple(f"{scope}\x1f{i}" if i in self.follow_ups else scope for i, scope in enumerate(scopes))

    @cached_property
    def follow_ups(self) -> frozenset[int]:
        """Requests that need earlier turns, which are not given: a cache misses them."""
        given = self.turns or ("",) * len(self)
        return frozenset(i for i, text in enumerate(self.queries) if not given[i] and needs_turns(text))

    def __len__(self) -> int:
        return len(self.queries)

    @classmethod
    def of(cls, frame: pl.DataFrame, sha256: str = "", *, synthetic: bool = False) -> "RequestStream":
        """Stream of a frame with the columns of `STREAM_SCHEMA`, by ``pos``; ``feature`` and ``turns`` may lack."""
        rows = frame.sort("pos", maintain_order=True)
        queries, keys, tenants, clusters = (
            tuple(rows[name].to_list()) for name in ("query", "answer_key", "tenant_id", "cluster")
        )
        features, turns = (
            tuple(rows[name].fill_null("").to_list()) if name in rows.columns else ("",) * len(rows)
            for name in ("feature", "turns")
        )
        answers = np.unique(np.array(keys), return_inverse=True)[1]
        return cls(queries, keys, answers, tenants, clusters, sha256, features, synthetic, turns)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two questions and whether one answer serves both.

    ``kind`` names what makes the pair hard, ``batch`` the later writing that it belongs to ("" for the first).
    ``split`` is ``dev`` (chooses a threshold and teaches a verifier), ``test`` (shows what is claimed), or ``spent``:
    after a test pair was seen and a guard was changed, it only tells which requests may share an answer.
    """

    pair_id: str
    query_a: str
    query_b: str
    same_answer: bool
    kind: str = ""
    cluster: str = ""
    tenant_id: str = DEFAULT_TENANT
    split: str = "test"
    batch: str = ""


def same_words(text: str) -> str:
    """What of a text counts where only the same words may share an answer.

    >>> same_words("How  do I JOIN?") == same_words("how do i join?")
    True
    """
    return " ".join(text.casefold().split())


def words_answer_key(text: str) -> str:
    """Answer key of a request where nothing says which requests may share an answer: that of its words."""
    return content_hash(same_words(text))[:16]


@waiting("reading the stream")
def load_traffic_stream(folder: Path) -> RequestStream:
    """Stream of an evalset folder: its ``stream.parquet``, else what its ``traffic.toml`` describes.

    Raises
    ------
    EvalsetError
        If there is neither, or a row of it cannot be used.
    """
    path = folder / "stream.parquet"
    if not path.is_file() and (folder / "traffic.toml").is_file():
        return generate_traffic_stream(folder)
    if not path.is_file():
        raise EvalsetError(
            f"{folder} has no stream.parquet and no traffic.toml: whether to cache depends on the traffic, which pairs "
            "alone do not show; "
            "import one with: workbench import stream PATH --name NAME"
        )
    rows, defects, _ = traffic_stream_of_rows(str(path), read_table(path).rows)
    if defects:
        raise EvalsetError(f"{path} cannot be used; correct these rows:", defects)
    return RequestStream.of(rows, file_hash(path))


def generate_traffic_stream(folder: Path) -> RequestStream:
    """Draw the made-up traffic that ``traffic.toml`` describes from ``queries.jsonl`` and ``pairs.jsonl``.

    The same on every machine; its hash is that of the three files. How it is known which requests may share an
    answer stands in `workbench.evalset.workload`.

    Raises
    ------
    EvalsetError
        If one of the files cannot be used, with every question that cannot, or if a customer of the plan asks none.
    """
    plan = read_workload_plan(folder / "traffic.toml")
    path = folder / "queries.jsonl"
    queries, _, defects = queries_of_rows(str(path), read_jsonl(path))
    refuse_file(path, defects)
    pairs, _ = load_traffic_pairs(folder)
    rows = draw_workload(workload_topics(queries, pairs, plan), plan)
    found = [folder / name for name in ("traffic.toml", "queries.jsonl", "pairs.jsonl")]
    sha256 = content_hash(*(file_hash(path) for path in found if path.is_file()))
    return RequestStream.of(pl.DataFrame(rows, schema=dict(STREAM_SCHEMA)), sha256, synthetic=True)


def load_traffic_pairs(folder: Path) -> tuple[tuple[Pair, ...], str]:
    """Pairs of an evalset folder and the hash of their file; none and "" where there is no ``pairs.jsonl``.

    Raises
    ------
    EvalsetError
        With every line that cannot be used.
    """
    path = folder / "pairs.jsonl"
    if not path.is_file():
        return (), ""
    pairs, defects = traffic_pairs_of_rows(str(path), read_jsonl(path))
    if defects:
        raise EvalsetError(f"{path} cannot be used; correct these lines:", defects)
    return tuple(pairs), file_hash(path)


def traffic_stream_of_rows(file: str, rows: Sequence[Row]) -> tuple[pl.DataFrame, list[Defect], list[str]]:
    """Rows as a frame of `STREAM_SCHEMA`, what is wrong by line, and a sentence on where the order is from.

    ``query`` and ``answer_key`` are needed; ``tenant_id`` defaults to one tenant, ``cluster`` to the answer key:
    requests that need one answer share fate; ``feature``, ``user_id`` and ``turns`` (text or list) may lack. The order
    is that of ``pos``; of the times ``at`` where there is no ``pos``, in any zone; else that of the rows.
    """
    places, times, defects, notes = _traffic_stream_order(file, rows)
    out, seen = [], dict[int, int]()
    for (line, row), pos, at in zip(rows, places, times, strict=True):
        try:
            query, answer = row.get("query"), id_cell("answer_key", row.get("answer_key"))
            if not isinstance(query, str) or not query.strip():
                raise Unusable('"query" must be a text that is not empty')
            if answer is None:
                raise Unusable('"answer_key" must name the answer that the request needs')
            if (first := seen.setdefault(pos, line)) != line:
                raise Unusable(f"position {pos} stands on line {first} already")
            tenant, cluster, *who = (
                name_cell(name, row.get(name)) for name in ("tenant_id", "cluster", "feature", "user_id")
            )
            turns = turns_cell(row.get("turns"))
        except Unusable as error:
            defects.append(Defect(file, line, str(error)))
        else:
            given = (tenant or DEFAULT_TENANT, cluster or answer, at, *(name or None for name in who), turns)
            out.append((pos, query, answer, *given))
    return pl.DataFrame(out, schema=dict(STREAM_SCHEMA), orient="row"), defects, notes


def _traffic_stream_order(
    file: str, rows: Sequence[Row]
) -> tuple[list[int], list[str | None], list[Defect], list[str]]:
    """Position and time of each row, what is wrong with them, and how the order was told."""
    in_order, none = list(range(len(rows))), list[str | None]([None] * len(rows))
    times, wrong = list[tuple[float, str]](), list[tuple[int, str]]()
    if any(row.get("at") is not None for _, row in rows):
        times, wrong = times_of_cells("at", [(line, row.get("at")) for line, row in rows])
    texts: list[str | None] = [text for _, text in times] or none
    if any(row.get("pos") is not None for _, row in rows):
        places, defects = list[int](), list[Defect]()
        for place, (line, row) in enumerate(rows):
            try:
                pos = whole_cell("pos", row.get("pos"))
                places.append(place if pos is None else pos)
            except Unusable as error:
                places.append(-place - 1)
                defects.append(Defect(file, line, str(error)))
        kept = texts if times else [None if row.get("at") is None else str(row["at"]) for _, row in rows]
        moments = [times[i][0] for i in sorted(in_order, key=places.__getitem__)] if times else []
        odd = "; the times (at) contradict it" if any(a > b for a, b in pairwise(moments)) else ""
        return places, kept, defects, [f"the order is that of the column pos{odd}"]
    if wrong:
        return in_order, none, [Defect(file, line, problem) for line, problem in wrong], []
    if not times:
        return in_order, none, [], ["no row has a time (at): the order of the rows is taken for that of arrival"]
    moments = [moment for moment, _ in times]
    newest_first = moments[0] > moments[-1] and all(a >= b for a, b in pairwise(moments))
    by_time = sorted(in_order, key=lambda i: (moments[i], -i if newest_first else i))
    places = [0] * len(rows)
    for pos, i in enumerate(by_time):
        places[i] = pos
    moved = f"{sum(p != i for i, p in enumerate(places)):,} of {counted(len(rows), 'row')} stood elsewhere"
    how = "newest first" if newest_first else moved if by_time != in_order else "in this order already"
    return places, texts, [], [f"the requests are ordered by time (at); the file had them {how}"]


def traffic_pairs_of_rows(file: str, rows: Sequence[Row]) -> tuple[list[Pair], list[Defect]]:
    """Rows as pairs, and what is wrong by line; an id is made from the texts where none is given."""
    pairs, defects, seen = list[Pair](), list[Defect](), dict[str, int]()
    for line, row in rows:
        try:
            pair = _traffic_pair(row)
            if (first := seen.setdefault(pair.pair_id, line)) != line:
                raise Unusable(f"pair {pair.pair_id!r} stands on line {first} already")
        except Unusable as error:
            defects.append(Defect(file, line, str(error)))
        else:
            pairs.append(pair)
    return pairs, defects


def _traffic_pair(row: Mapping[str, Any]) -> Pair:
    a, b = row.get("query_a"), row.get("query_b")
    if not (isinstance(a, str) and isinstance(b, str) and a.strip() and b.strip()):
        raise Unusable('"query_a" and "query_b" must be texts that are not empty')
    same, split = truth_cell("same_answer", row.get("same_answer")), row.get("split") or "test"
    if split not in ("dev", "test", "spent"):
        raise Unusable(f'"split" must be dev, test or spent, found {shown_cell(split)}')
    key = id_cell("id", row.get("id")) or content_hash(a, b)[:12]
    kind, cluster, tenant, batch = (
        name_cell(name, row.get(name)) for name in ("kind", "cluster", "tenant_id", "batch")
    )
    return Pair(key, a, b, same, kind, cluster or key, tenant or DEFAULT_TENANT, str(split), batch)
