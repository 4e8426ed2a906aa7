"""Collections of the Hugging Face hub, read through ``datasets`` when one is named, and kept as evalset folders."""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from workbench.config import Settings
from workbench.errors import EvalsetError
from workbench.evalset.cells import settled_cell
from workbench.evalset.evalset import Evalset, hub_folder, load_evalset
from workbench.evalset.files import Judgement, Names, Row, TableFile
from workbench.evalset.folder import (
    DOCUMENT_KEYS,
    QUERY_KEYS,
    documents_of_rows,
    folder_judgement_defects,
    queries_of_rows,
    write_evalset_folder,
)
from workbench.evalset.imports.document_tables import (
    DOCUMENT_NAMES,
    QUERY_NAMES,
    beir_rows_of_table,
    judgements_of_table,
)
from workbench.inference.weights import why_weights_unreachable
from workbench.rendering.progress import waiting

_ON_HUB = re.compile(r"\w[\w.-]*(?:/\w[\w.-]*)?")
QRELS_CONFIGURATIONS = ("default", "qrels")  # mteb 1 and BEIR's mirrors; mteb 2 where there are several


@dataclass(frozen=True, slots=True)
class _AskedCollection:
    """What is read of a collection: its name, its configurations, where the judgements are, and which revision."""

    name: str
    corpus: str = "corpus"
    queries: str = "queries"
    qrels: str | None = None
    qrels_name: str | None = None
    revision: str | None = None

    def told(self, folder_sha256: str) -> str:
        """Line of the card by which a kept collection is known to be what is asked for."""
        parts = [f"documents {self.corpus!r}", f"questions {self.queries!r}", f"judgements {self.qrels or 'found'!r}"]
        parts += [f"of {self.qrels_name!r}"] if self.qrels_name else []
        revision = f"revision {self.revision or 'not pinned: the newest of that day'}"
        return f"Read: {', '.join(parts)}; {f'files {folder_sha256}' if folder_sha256 else revision}."


def load_hub(
    name: str,
    *,
    settings: Settings,
    corpus: str = "corpus",
    queries: str = "queries",
    qrels: str | None = None,
    qrels_name: str | None = None,
    revision: str | None = None,
) -> Evalset:
    """Fetch a retrieval collection of the hub once, keep it as an evalset folder in the cache, and load that.

    Naming it is the permission to use the network; `load_evalset` with ``hub:NAME`` finds it again without. It is read
    anew if other configurations or another revision are asked for, and, of a local copy, if a file of it has changed.

    Parameters
    ----------
    name : str
        As on the hub, ``owner/name``, or the folder of a local copy.
    corpus, queries : str
        Its configurations; the defaults are MTEB's. Ids stand in ``_id`` or ``id``.
    qrels : str, optional
        Configuration of the judgements; without one ``default``, or ``qrels`` where there is no ``default``.
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
    asked = _AskedCollection(str(Path(name).resolve()) if local else name, corpus, queries, qrels, qrels_name, revision)
    out = hub_folder(asked.name, settings)
    told = asked.told(_hub_folder_hash(Path(name)) if local else "")
    if _is_kept_hub_folder(out, told, as_before=not local and asked == _AskedCollection(asked.name)):
        return load_evalset(out, settings=settings)
    datasets = _import_datasets()
    if not local:
        _require_hub_network(asked.name)
    with waiting(f"reading {asked.name}"), _hub_cache(settings, local=local) as cache:

        def fetch(source: str, config: str) -> dict[str, list[Row]]:
            problem = f"{source!r} (configuration {config!r}) cannot be loaded"
            found = _reading_hub(
                problem, lambda: datasets.load_dataset(source, config, revision=revision, cache_dir=str(cache))
            )
            return {split: list(enumerate(_hub_rows(table), start=1)) for split, table in found.items()}

        judged_in = qrels or _hub_judgements_of(datasets, qrels_name or asked.name, revision)
        _keep_hub_folder(out, asked, judged_in, fetch, f"# {asked.name}\n{told}\n")
    try:
        return load_evalset(out, settings=settings)
    except EvalsetError:
        shutil.rmtree(out)  # what no notebook can open is not kept
        raise


def read_hub_collection(name: str, config: str, split: str, *, settings: Settings) -> list[dict[str, Any]]:
    """Rows of one configuration of a collection; without ``split`` those of all splits.

    Parameters
    ----------
    name : str
        As on the hub, ``owner/name``, which permits the network; or a folder, of which nothing is kept.
    config : str
        Configuration; "" where there is one.

    Raises
    ------
    EvalsetError
        If it cannot be loaded, or has no such split.
    """
    datasets, local = _import_datasets(), Path(name).is_dir()
    if not local and (Path(name).exists() or not _ON_HUB.fullmatch(name)):
        raise EvalsetError(f"{name!r} is no folder, and no name of the hub, which is NAME or OWNER/NAME")
    if not local:
        _require_hub_network(name)
    with waiting(f"reading {name}"), _hub_cache(settings, local=local) as cache:
        problem = f"{name!r}{f' (configuration {config!r})' if config else ''} cannot be loaded"
        found = _reading_hub(problem, lambda: datasets.load_dataset(name, config or None, cache_dir=str(cache)))
        if split and split not in found:
            raise EvalsetError(f"{name!r} has no split {split!r}, but {', '.join(found)}")
        return list(chain(*(_hub_rows(found[each]) for each in ([split] if split else found))))


def _keep_hub_folder(
    out: Path, asked: _AskedCollection, qrels: str, fetch: Callable[[str, str], dict[str, list[Row]]], card: str
) -> None:
    """Read the three configurations and write their evalset folder, in place of one that was read before."""

    def rows_of(config: str, names: Names, keys: tuple[str, ...]) -> tuple[str, list[Row], list[Any]]:
        table = _hub_table(f"{asked.name}:{config}", list(chain(*fetch(asked.name, config).values())))
        rows, _, wrong = beir_rows_of_table(table, names, keys)
        return str(table.path), rows, wrong

    file, rows, wrong = rows_of(asked.corpus, DOCUMENT_NAMES, DOCUMENT_KEYS)
    documents, document_lines, defects = documents_of_rows(file, rows)
    file, rows, odd = rows_of(asked.queries, QUERY_NAMES, QUERY_KEYS)
    questions, query_lines, problems = queries_of_rows(file, rows)
    judgements: dict[str, list[Judgement]] = {}
    for split, rows in fetch(asked.qrels_name or asked.name, qrels).items():
        splits, unread, _ = judgements_of_table(
            _hub_table(f"{asked.qrels_name or asked.name}:{qrels}:{split}", rows), split=split
        )
        judgements |= splits
        problems += unread
        for name, found in splits.items():
            problems += folder_judgement_defects(f"{asked.name}:{qrels}:{name}", found, query_lines, document_lines)
    if defects or problems or wrong or odd:
        raise EvalsetError(f"{asked.name!r} is not in BEIR's form:", [*wrong, *defects, *odd, *problems])
    if out.exists():
        shutil.rmtree(out)
    write_evalset_folder(out, documents=documents, queries=questions, judgements=judgements, card=card)


def _hub_table(label: str, rows: list[Row]) -> TableFile:
    return TableFile(Path(label), tuple(dict.fromkeys(key for _, row in rows for key in row)), tuple(rows))


def _is_kept_hub_folder(out: Path, told: str, *, as_before: bool) -> bool:
    """Whether what is asked for was read before; a card that does not tell how is of a time without a choice."""
    if not out.is_dir():
        return False
    card = (out / "card.md").read_text(encoding="utf-8") if (out / "card.md").is_file() else ""
    return told in card or (as_before and "Read: " not in card)


def _hub_folder_hash(folder: Path) -> str:
    """Hash of a local copy: names and contents of its files."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and ".git" not in path.parts):
        digest.update(str(path.relative_to(folder)).encode(errors="surrogateescape") + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


@contextmanager
def _hub_cache(settings: Settings, *, local: bool) -> Iterator[Path]:
    """Where ``datasets`` keeps what it made; of a local folder nothing is kept, as it is told apart by name alone."""
    if not local:
        yield settings.cache / "datasets"
        return
    settings.cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.cache, prefix=".datasets-") as folder:
        yield Path(folder)


def _hub_judgements_of(datasets: Any, source: str, revision: str | None) -> str:
    """Configuration that holds the judgements, where nobody named one."""
    known = _reading_hub(
        f"{source!r} cannot be loaded", lambda: datasets.get_dataset_config_names(source, revision=revision)
    )
    found = [name for name in QRELS_CONFIGURATIONS if name in known]
    if not found:
        told = f"{source!r} has no configuration {' or '.join(QRELS_CONFIGURATIONS)}, but {', '.join(known)}"
        raise EvalsetError(f"{told}; name the one with the judgements: --qrels NAME")
    return found[0]


def _import_datasets() -> Any:
    """Import ``datasets`` so that it reports no use and draws no bars."""
    os.environ.setdefault("HF_UPDATE_DOWNLOAD_COUNTS", "0")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import datasets

    datasets.disable_progress_bars()
    return datasets


def _reading_hub(asked: str, read: Callable[[], Any]) -> Any:
    """Run ``read``; whatever ``datasets`` says about files, names and networks becomes one error."""
    from datasets.exceptions import DatasetsError

    try:
        return read()
    except (DatasetsError, OSError, ValueError) as error:  # ValueError: pyarrow's, and unknown configurations
        reason = error.__cause__ or error
        raise EvalsetError(f"{asked}: {type(reason).__name__}: {reason}") from error


def _require_hub_network(name: str) -> None:
    """Refuse at once what ``datasets`` would try for 23 s."""
    if reason := why_weights_unreachable():
        raise EvalsetError(
            f"hub collection {name!r} was asked for, but the hub cannot be reached: {reason}, or load a local BEIR "
            f"folder, or copy {name!r} here and give its folder"
        )


def _hub_rows(table: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.with_format("arrow")[:].to_pylist()
    return [settled_cell(row) for row in rows]
