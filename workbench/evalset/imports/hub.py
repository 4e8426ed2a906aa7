"""What is read through ``datasets``: local Parquet files, and collections of the hub when one is named."""

import os
import tempfile
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

from workbench.config import Settings
from workbench.errors import EvalsetError
from workbench.evalset.evalset import Evalset, hub_folder, load_evalset
from workbench.evalset.files import Judgement, Row, documents_of, grade_of, queries_of
from workbench.evalset.imports.folder import write_folder
from workbench.inference.weights import why_unreachable


def read_parquet(path: Path) -> list[dict[str, Any]]:
    """Rows of a local Parquet file, as they are stored: no address inside one is followed.

    Raises
    ------
    EvalsetError
        If there is no such file, or it is no Parquet.
    """
    if not path.is_file():
        raise EvalsetError(f"no file {path}")
    datasets = _datasets()
    with tempfile.TemporaryDirectory() as cache:
        table = _reading(
            f"{path} cannot be read as Parquet; write it again",
            lambda: datasets.Dataset.from_parquet(str(path), cache_dir=cache, keep_in_memory=True),
        )
    return _rows(table)


def load_hub(
    name: str,
    *,
    settings: Settings,
    corpus: str = "corpus",
    queries: str = "queries",
    qrels: str = "default",
    qrels_name: str | None = None,
    revision: str | None = None,
) -> Evalset:
    """Fetch a retrieval collection of the hub once, keep it as an evalset folder in the cache, and load that.

    Naming it is the permission to use the network; `load_evalset` with ``hub:NAME`` finds it again without.

    Parameters
    ----------
    name : str
        As on the hub, ``owner/name``, or the folder of a local copy.
    corpus, queries, qrels : str
        Its configurations; the defaults are MTEB's.
    qrels_name : str, optional
        Where the judgements are a collection of their own, as BEIR's ``NAME-qrels``.
    revision : str, optional
        Commit or tag to fetch; without one, what is newest (said in the card).

    Raises
    ------
    EvalsetError
        Within seconds when there is no network, and when the collection is not of this form.
    """
    local = Path(name).is_dir()
    name = str(Path(name).resolve()) if local else name
    out = hub_folder(name, settings)
    if out.is_dir():
        return load_evalset(out, settings=settings)
    datasets = _datasets()
    if not local:
        _require_network(name)

    def fetch(source: str, config: str) -> dict[str, list[Row]]:
        asked = f"{source!r} (configuration {config!r}) cannot be loaded"
        cache = str(settings.cache / "datasets")
        found = _reading(asked, lambda: datasets.load_dataset(source, config, revision=revision, cache_dir=cache))
        return {split: list(enumerate(_rows(table), start=1)) for split, table in found.items()}

    documents, _, defects = documents_of(f"{name}:{corpus}", list(chain(*fetch(name, corpus).values())))
    questions, _, problems = queries_of(f"{name}:{queries}", list(chain(*fetch(name, queries).values())))
    if defects or problems:
        raise EvalsetError(f"{name!r} is not in BEIR's form:", [*defects, *problems])
    splits = fetch(qrels_name or name, qrels)
    try:
        judgements = {split: [_judgement(line, row) for line, row in rows] for split, rows in splits.items()}
    except (KeyError, ValueError) as error:
        raise EvalsetError(f"{name!r}: judgements need query-id, corpus-id and score: {error!r}") from error
    card = f"# {name}\nFetched from the hub, revision {revision or 'not pinned: the newest of that day'}.\n"
    write_folder(out, documents=documents, queries=questions, judgements=judgements, card=card)
    return load_evalset(out, settings=settings)


def _datasets() -> Any:
    """Import ``datasets`` so that it reports no use and draws no bars."""
    os.environ.setdefault("HF_UPDATE_DOWNLOAD_COUNTS", "0")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import datasets

    datasets.disable_progress_bars()
    return datasets


def _reading(asked: str, read: Callable[[], Any]) -> Any:
    """Run ``read``; whatever ``datasets`` says about files, names and networks becomes one error."""
    from datasets.exceptions import DatasetsError

    try:
        return read()
    except (DatasetsError, OSError, ValueError) as error:  # ValueError: pyarrow's, and unknown configurations
        reason = error.__cause__ or error
        raise EvalsetError(f"{asked}: {type(reason).__name__}: {reason}") from error


def _require_network(name: str) -> None:
    """Refuse at once what ``datasets`` would try for 23 s."""
    if reason := why_unreachable():
        raise EvalsetError(
            f"hub collection {name!r} was asked for, but the hub cannot be reached: {reason}, or load a local BEIR "
            f"folder, or copy {name!r} here and give its folder"
        )


def _rows(table: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.with_format("arrow")[:].to_pylist()
    return rows


def _judgement(line: int, row: dict[str, Any]) -> Judgement:
    if (grade := grade_of(row["score"])) is None:
        raise ValueError(f"score {row['score']!r} is no whole number from 0")
    return Judgement(line, str(row["query-id"]), str(row["corpus-id"]), grade)
