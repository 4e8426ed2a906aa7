"""Corpora that are built at run time and pinned by a lock, so that judgements stay true to their texts.

``corpus.toml`` says what to build, ``corpus.lock`` holds a hash for each document. A machine whose installed
versions differ gets the pinned ones in a private folder, read by a child process; other texts are refused.

Documents are ranked, not chunks, so a quote says which document of a corpus is relevant. Whoever keeps quotes beside
the questions need not judge again when documents are parsed, named or cut in another way.
"""

import datetime as dt
import json
import os
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from workbench.codec import write_whole
from workbench.config import Settings
from workbench.errors import Defect, EvalsetError, unknown_name
from workbench.evalset.cells import Unusable, shown_cell
from workbench.evalset.docstrings import NAMESPACES
from workbench.evalset.texts import text_key
from workbench.records import Document, Query, content_hash
from workbench.rendering.numbers import counted
from workbench.rendering.progress import waiting

READER = Path(__file__).with_name("docstrings.py")
HASH_CHARS = 16


def load_corpus(folder: Path, settings: Settings) -> tuple[list[Document], str]:
    """Documents that ``corpus.toml`` in ``folder`` describes, and the hash of the whole corpus.

    The first call builds (some seconds a library, longer where a pinned version must be installed); later ones
    read the built file from the cache.

    Raises
    ------
    EvalsetError
        If there is no lock, or what was built is not what the lock pins.
    """
    lock = folder / "corpus.lock"
    if not lock.is_file():
        raise EvalsetError(f"{lock} is missing; write it with: workbench evalset lock {folder}")
    pinned, manifest = _read_corpus_lock(lock), corpus_lock_hash(folder)
    built = settings.cache / "corpora" / f"{folder.name}-{manifest[:HASH_CHARS]}.jsonl"
    documents = _read_built_corpus(built) if built.is_file() else build_corpus(folder, settings)
    found = {d.doc_id: d.content_hash[:HASH_CHARS] for d in documents}
    if found != pinned:
        built.unlink(missing_ok=True)
        raise EvalsetError(_corpus_difference(lock, pinned, found))
    if not built.is_file():
        _write_built_corpus(documents, built)
    return documents, manifest


def corpus_lock_hash(folder: Path) -> str:
    """Hash of ``corpus.lock``, which is that of the whole corpus; "" if there is no lock."""
    lock = folder / "corpus.lock"
    return content_hash(lock.read_bytes()) if lock.is_file() else ""


def count_locked_documents(folder: Path) -> int:
    """How many documents ``corpus.lock`` pins.

    Raises
    ------
    EvalsetError
        If the lock is missing or cannot be read.
    """
    return len(_read_corpus_lock(folder / "corpus.lock"))


def build_corpus(folder: Path, settings: Settings) -> list[Document]:
    """Build every document afresh, sorted by id; the lock is not looked at."""
    recipe = _read_corpus_recipe(folder / "corpus.toml")
    documents = []
    for library, version in recipe["libraries"].items():
        released = recipe.get("released", {}).get(library, {})
        with waiting(f"{folder.name}: documents of {library} {version}"):
            rows = _read_corpus_library(library, version, settings)
        documents += [_corpus_docstring_document(library, version, raw, released) for raw in rows]
    return sorted(documents, key=lambda d: d.doc_id)


def write_corpus_lock(folder: Path, settings: Settings) -> int:
    """Pin the corpus as it is built now; returns how many documents it has."""
    documents = build_corpus(folder, settings)
    lines = [f"{d.doc_id}\t{d.content_hash[:HASH_CHARS]}\n" for d in documents]
    (folder / "corpus.lock").write_text("".join(lines), encoding="utf-8")
    return len(lines)


def _read_corpus_lock(lock: Path) -> dict[str, str]:
    rows = [line.split("\t") for line in lock.read_text(encoding="utf-8").splitlines()]
    if bad := [number for number, row in enumerate(rows, 1) if len(row) != 2]:
        problem = Defect(str(lock), bad[0], "an id and a hash parted by a tab are expected")
        raise EvalsetError(f"{lock} cannot be read; restore it from version control", [problem])
    return {doc_id: digest for doc_id, digest in rows}


def _read_corpus_recipe(path: Path) -> dict[str, Any]:
    try:
        recipe = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise EvalsetError(f"{path}: not TOML: {error}") from error
    if recipe.get("kind") != "docstrings":
        raise EvalsetError(f"{path}: kind must be 'docstrings', found {recipe.get('kind')!r}")
    libraries = recipe.get("libraries")
    if not isinstance(libraries, dict) or not libraries:
        raise EvalsetError(f"{path}: [libraries] must give the version of each library to read")
    for library in libraries:
        if library not in NAMESPACES:
            raise EvalsetError(f"{path}: {unknown_name('library', library, list(NAMESPACES))}")
    return recipe


def _read_corpus_library(library: str, version: str, settings: Settings) -> list[dict[str, Any]]:
    """Run the docstring reader on exactly this version; the first line it prints names the version it saw."""
    env = dict(os.environ)
    if metadata.version(library) != version:
        env["PYTHONPATH"] = str(_install_corpus_library(library, version, settings))
    command = [sys.executable, str(READER), library]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EvalsetError(f"reading the docstrings of {library} {version} failed:\n{done.stderr[-2000:]}")
    head, *rows = map(json.loads, done.stdout.splitlines())
    if head["version"] != version:
        raise EvalsetError(f"asked for {library} {version}, the child process read {head['version']}")
    return rows


def _install_corpus_library(library: str, version: str, settings: Settings) -> Path:
    """Install one pinned library away from the environment, once."""
    target = settings.cache / "libraries" / f"{library}-{version}"
    if not target.is_dir():
        part = target.with_name(f"{target.name}.{os.getpid()}.part")
        pip = [sys.executable, "-m", "pip", "install", "-q", "--only-binary=:all:", "--target", str(part)]
        done = subprocess.run([*pip, f"{library}=={version}"], capture_output=True, text=True, check=False)
        if done.returncode:
            raise EvalsetError(
                f"the corpus needs {library} {version}, {metadata.version(library)} is installed, and pip could not "
                f"fetch the pinned one: {done.stderr[-500:]}"
            )
        part.rename(target)
    return target


def _corpus_docstring_document(library: str, version: str, raw: dict[str, Any], released: dict[str, str]) -> Document:
    month = _library_release_month(raw["added"], released) or _library_release_month(version, released)
    if month is None:
        raise EvalsetError(f"corpus.toml gives no month for {library} {version} under [released.{library}]")
    return Document(
        doc_id=raw["id"],
        title=raw["id"],
        text=raw["text"],
        tenant_id=library,
        document_type=raw["kind"],
        date=dt.date.fromisoformat(f"{month}-01"),
        aliases=tuple(raw["aliases"]),
    )


def _library_release_month(version: str | None, released: dict[str, str]) -> str | None:
    """Month of a release; 2.2.0 is found under "2.2"."""
    if version is None:
        return None
    return released.get(version) or released.get(version.removesuffix(".0"))


def _write_built_corpus(documents: list[Document], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ([d.doc_id, d.text, d.title, d.tenant_id, d.document_type, str(d.date), list(d.aliases)] for d in documents)
    write_whole(path, "".join(json.dumps(row) + "\n" for row in rows))


def _read_built_corpus(path: Path) -> list[Document]:
    documents = []
    for line in path.read_text(encoding="utf-8").splitlines():
        doc_id, text, title, tenant_id, kind, date, aliases = json.loads(line)
        when = dt.date.fromisoformat(date)
        documents.append(Document(doc_id, text, title, tenant_id, kind, when, tuple(aliases)))
    return documents


def _corpus_difference(lock: Path, pinned: dict[str, str], found: dict[str, str]) -> str:
    missing, new = sorted(pinned.keys() - found.keys()), sorted(found.keys() - pinned.keys())
    changed = sorted(k for k in pinned.keys() & found.keys() if pinned[k] != found[k])
    shown = ", ".join((missing + new + changed)[:5])
    return (
        f"the corpus built here is not the one that {lock} pins: {counted(len(missing), 'document')} missing, "
        f"{len(new)} new, "
        f"{len(changed)} with another text (first: {shown}). Judgements hold only for the pinned texts; another "
        "corpus needs an evalset of its own."
    )


_NAMED, _BEGINNING = 3, 4


class CorpusQuotes:
    r"""Finds the document that a quote stands in, by its exact words; blanks and line ends count as one blank.

    >>> quotes = CorpusQuotes([Document("a.md", "Send it back\nwithin a week."), Document("b.md", "Fees apply.")])
    >>> quotes.document("back  within a week", "default")
    'a.md'
    """

    def __init__(self, documents: Iterable[Document]) -> None:
        self._texts: dict[str, dict[str, str]] = defaultdict(dict)
        for document in documents:
            self._texts[document.tenant_id][document.doc_id] = _quote_on_one_line(document.full_text)

    def document(self, quote: str, tenant_id: str, doc_id: str = "") -> str:
        """Id of the one document of a tenant that holds the quote; ``doc_id`` is the one that is said to.

        Raises
        ------
        Unusable
            If none holds it, two do, or another than the one that is said to; with what of it is there.
        """
        words, texts = _quote_on_one_line(quote), self._texts.get(tenant_id, {})
        if not words:
            raise Unusable("the quote is empty")
        found = [key for key, text in texts.items() if words in text]
        if doc_id and (doc_id in found or doc_id not in texts):  # an unknown id is told with the others
            return doc_id
        if doc_id or not found:
            told = f"document {doc_id!r} does not hold" if doc_id else "no document holds"
            raise Unusable(f"{told} the quote {shown_cell(words)}{_quote_beginning(words, texts)}")
        if len(found) > 1:
            more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
            where = f"{counted(len(found), 'document')} ({', '.join(found[:_NAMED])}{more})"
            raise Unusable(f"the quote {shown_cell(words)} stands in {where}; quote more, or name them by id")
        return found[0]


def _quote_on_one_line(text: str) -> str:
    return " ".join(text.split())


def _quote_beginning(words: str, texts: dict[str, str]) -> str:
    """Where the first words of a quote stand, if the whole does not."""
    first = " ".join(words.split()[:_BEGINNING])
    found = [key for key, text in texts.items() if first in text]
    return f"; {found[0]} has its first words, {first!r}" if found and first != words else ""


def questions_in_corpus(queries: Iterable[Query], documents: Iterable[Document]) -> frozenset[str]:
    """Ids of the questions that are documents too: same id *and* same text, be it with the title or without.

    Such a document is no hit for its own question. The id alone would drop what merely shares a number, as BEIR does;
    keeping it counts the question among its answers.

    >>> from workbench.records import Document, Query
    >>> notes = [Document("1", "Taxes are too high."), Document("2", "Lower them.")]
    >>> sorted(questions_in_corpus([Query("1", "taxes are too  high"), Query("2", "Who pays?")], notes))
    ['1']
    """
    asked = {q.query_id: q.text for q in queries}
    both = ((asked[d.doc_id], d) for d in documents if d.doc_id in asked)
    return frozenset(d.doc_id for text, d in both if text_key(text) in {text_key(d.text), text_key(d.full_text)})
