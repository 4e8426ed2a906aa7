"""Query streams and labelled pairs: what a cache would see, and which questions may share an answer."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from workbench.errors import Defect, EvalsetError
from workbench.evalset.drawing import draw_requests, read_plan, topics_of
from workbench.evalset.reading import Row, read_jsonl
from workbench.records import DEFAULT_TENANT, content_hash

STREAM_SCHEMA: Mapping[str, Any] = {
    "pos": pl.Int64, "query": pl.String, "answer_key": pl.String, "tenant_id": pl.String, "cluster": pl.String,
    "at": pl.String, "feature": pl.String, "user_id": pl.String,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stream:
    """Requests in the order of their arrival.

    Attributes
    ----------
    queries, answer_keys, tenants, clusters : tuple of str
        One entry a request. Two requests of one tenant and feature may share a cached answer when their answer keys
        are equal; a cache never serves across tenants or features; clusters are what is resampled.
    answers : ndarray of int
        Code of each answer key.
    sha256 : str
        Hash of what was read.
    features : tuple of str
        Likewise, "" where not known.
    synthetic : bool
        Drawn by a plan, not asked by anyone.
    """

    queries: tuple[str, ...]
    answer_keys: tuple[str, ...]
    answers: npt.NDArray[np.int64]
    tenants: tuple[str, ...]
    clusters: tuple[str, ...]
    sha256: str
    features: tuple[str, ...] = ()
    synthetic: bool = False

    @property
    def scopes(self) -> tuple[str, ...]:
        """Tenant and feature of each request: a cache never serves across them."""
        if not any(self.features):
            return self.tenants
        return tuple(f"{t}\x1f{f}" for t, f in zip(self.tenants, self.features, strict=True))

    def __len__(self) -> int:
        return len(self.queries)

    @classmethod
    def of(cls, frame: pl.DataFrame, sha256: str = "", *, synthetic: bool = False) -> "Stream":
        """Stream of a frame with the columns of `STREAM_SCHEMA`, in the order of ``pos``; ``feature`` may lack."""
        rows = frame.sort("pos", maintain_order=True)
        queries, keys, tenants, clusters = (
            tuple(rows[name].to_list()) for name in ("query", "answer_key", "tenant_id", "cluster")
        )
        known = "feature" in rows.columns
        features = tuple(rows["feature"].fill_null("").to_list()) if known else ("",) * len(rows)
        answers = np.unique(np.array(keys), return_inverse=True)[1]
        return cls(queries, keys, answers, tenants, clusters, sha256, features, synthetic)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two questions and whether one answer serves both; ``kind`` names what makes the pair hard."""

    pair_id: str
    query_a: str
    query_b: str
    same_answer: bool
    kind: str = ""
    cluster: str = ""
    tenant_id: str = DEFAULT_TENANT
    split: str = "test"


def load_stream(folder: Path) -> Stream:
    """Stream of an evalset folder: its ``stream.parquet``, else what its ``traffic.toml`` describes.

    Raises
    ------
    EvalsetError
        If there is neither, or a row of it cannot be used.
    """
    path = folder / "stream.parquet"
    if not path.is_file() and (folder / "traffic.toml").is_file():
        return generate_stream(folder)
    if not path.is_file():
        raise EvalsetError(
            f"{folder} has no stream.parquet and no traffic.toml: whether to cache depends on the traffic, which pairs "
            "alone do not show; "
            "import one with: workbench import stream PATH --name NAME"
        )
    data = path.read_bytes()
    try:
        frame = pl.read_parquet(data)
    except pl.exceptions.PolarsError as error:
        raise EvalsetError(f"{path} cannot be read as Parquet: {error}") from error
    rows, defects = stream_of(str(path), list(enumerate(frame.to_dicts(), start=1)))
    if defects:
        raise EvalsetError(f"{path} cannot be used; correct these rows:", defects)
    return Stream.of(rows, hashlib.sha256(data).hexdigest())


def generate_stream(folder: Path) -> Stream:
    """Draw the made-up traffic that ``traffic.toml`` describes from ``queries.jsonl`` and ``pairs.jsonl``.

    The same on every machine; its hash is that of the three files. How it is known which requests may share an
    answer stands in `workbench.evalset.drawing`.

    Raises
    ------
    EvalsetError
        If one of the files cannot be used.
    """
    plan = read_plan(folder / "traffic.toml")
    queries = [row for _, row in read_jsonl(folder / "queries.jsonl")]
    pairs, _ = load_pairs(folder)
    rows = draw_requests(topics_of(queries, pairs, plan), plan)
    found = [folder / name for name in ("traffic.toml", "queries.jsonl", "pairs.jsonl")]
    sha256 = content_hash(*(hashlib.sha256(path.read_bytes()).hexdigest() for path in found if path.is_file()))
    return Stream.of(pl.DataFrame(rows, schema=dict(STREAM_SCHEMA)), sha256, synthetic=True)


def load_pairs(folder: Path) -> tuple[tuple[Pair, ...], str]:
    """Pairs of an evalset folder and the hash of their file; none and "" where there is no ``pairs.jsonl``.

    Raises
    ------
    EvalsetError
        With every line that cannot be used.
    """
    path = folder / "pairs.jsonl"
    if not path.is_file():
        return (), ""
    pairs, defects = pairs_of(str(path), read_jsonl(path))
    if defects:
        raise EvalsetError(f"{path} cannot be used; correct these lines:", defects)
    return tuple(pairs), hashlib.sha256(path.read_bytes()).hexdigest()


def stream_of(file: str, rows: Sequence[Row]) -> tuple[pl.DataFrame, list[Defect]]:
    """Rows as a frame of `STREAM_SCHEMA`, and what is wrong by line.

    ``query`` and ``answer_key`` are needed; ``pos`` defaults to the order of the rows, ``tenant_id`` to one tenant,
    ``cluster`` to the answer key: requests that need one answer share fate; ``at``, ``feature`` and ``user_id`` may
    lack.
    """
    out, defects, seen = [], list[Defect](), dict[int, int]()
    for place, (line, row) in enumerate(rows):
        query, answer = row.get("query"), row.get("answer_key")
        pos = _whole(row.get("pos"), place)
        if not isinstance(query, str) or not query.strip():
            defects.append(Defect(file, line, '"query" must be a text that is not empty'))
        elif answer is None or str(answer) == "":
            defects.append(Defect(file, line, '"answer_key" must name the answer that the request needs'))
        elif pos is None:
            defects.append(Defect(file, line, f'"pos" must be a whole number from 0, found {row["pos"]!r}'))
        elif (first := seen.setdefault(pos, line)) != line:
            defects.append(Defect(file, line, f"position {pos} stands on line {first} already"))
        else:
            at = row.get("at")
            tenant = str(row.get("tenant_id") or DEFAULT_TENANT)
            cluster = str(row.get("cluster") or answer)
            who = (str(row[name]) if row.get(name) else None for name in ("feature", "user_id"))
            out.append((pos, query, str(answer), tenant, cluster, None if at is None else str(at), *who))
    return pl.DataFrame(out, schema=dict(STREAM_SCHEMA), orient="row"), defects


def pairs_of(file: str, rows: Sequence[Row]) -> tuple[list[Pair], list[Defect]]:
    """Rows as pairs, and what is wrong by line; an id is made from the texts where none is given."""
    pairs, defects, seen = list[Pair](), list[Defect](), dict[str, int]()
    for line, row in rows:
        a, b, same = row.get("query_a"), row.get("query_b"), _truth(row.get("same_answer"))
        split = str(row.get("split") or "test")
        if not all(isinstance(text, str) and text.strip() for text in (a, b)):
            defects.append(Defect(file, line, '"query_a" and "query_b" must be texts that are not empty'))
            continue
        if same is None:
            found = repr(row.get("same_answer"))[:40]
            defects.append(Defect(file, line, f'"same_answer" must be 0 or 1, found {found}'))
            continue
        if split not in ("dev", "test"):
            defects.append(Defect(file, line, f'"split" must be dev or test, found {split[:40]!r}'))
            continue
        key = str(row.get("id") or content_hash(str(a), str(b))[:12])
        if (first := seen.setdefault(key, line)) != line:
            defects.append(Defect(file, line, f"pair {key!r} stands on line {first} already"))
            continue
        tenant, cluster = str(row.get("tenant_id") or DEFAULT_TENANT), str(row.get("cluster") or key)
        pairs.append(Pair(key, str(a), str(b), same, str(row.get("kind") or ""), cluster, tenant, split))
    return pairs, defects


def _whole(value: Any, default: int) -> int | None:
    if value is None:
        return default
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return int(number) if number.is_integer() and 0 <= number < 2**53 else None


def _truth(value: Any) -> bool | None:
    texts = {"0": False, "1": True, "false": False, "true": True, "0.0": False, "1.0": True}
    return texts.get(str(value).strip().lower())
