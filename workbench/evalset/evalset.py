"""An evalset: questions, judgements and documents of one folder, in dev and test, with their hashes."""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from workbench.config import Settings
from workbench.errors import Defect, EvalsetError, SplitError, unknown_name
from workbench.evalset.corpus import questions_in_corpus
from workbench.evalset.files import Judgement
from workbench.evalset.findings import NAMED, POOLED_SHARE, USED, find_findings, left_out_questions, notes_of_findings
from workbench.evalset.folder import EvalsetContents, read_evalset_folder
from workbench.evalset.gates import GatePolicy, default_gate_policy
from workbench.evalset.texts import text_key
from workbench.records import Document, Query
from workbench.rendering.numbers import counted
from workbench.rendering.progress import waiting

Qrels = Mapping[str, Mapping[str, int]]  # by question, the grade of each document that was judged
DEV_SHARE = 0.25
HUB = "hub:"
READ_BY = {
    "outcomes.parquet": "`workbench run routing`",
    "stream.parquet": "`workbench run caching`",
    "traffic.toml": "`workbench run caching`",
}


@dataclass(frozen=True, slots=True)
class Split:
    """The queries that have judgements in one split, and the judgements: query id -> document id -> grade.

    ``of_dev`` are the query ids of the evalset's dev, whichever split this is.
    """

    name: str
    queries: tuple[Query, ...]
    qrels: Qrels
    of_dev: frozenset[str] = frozenset()

    @property
    def pooled(self) -> bool:
        """Whether at least half of the questions have a document that was judged and turned out not to be relevant.

        Else the judgements list known answers, as most public collections do: whatever they do not list counts as not
        relevant, and the share of judged hits says nothing. A few such documents among known answers are no pool.
        """
        refused = sum(any(grade <= 0 for grade in grades.values()) for grades in self.qrels.values())
        return 0 < refused >= POOLED_SHARE * len(self.qrels)

    @property
    def clusters(self) -> dict[str, str]:
        """Cluster of each query id: the unit that is resampled."""
        return {q.query_id: q.cluster for q in self.queries}

    def relevant(self, query_id: str) -> set[str]:
        """Documents that answer a question."""
        return {doc_id for doc_id, grade in self.qrels[query_id].items() if grade > 0}

    def require_dev(self, doing: str) -> None:
        """Refuse questions that are not of dev; ``doing`` names what dev alone may do.

        Raises
        ------
        SplitError
            If there is one.
        """
        require_dev((q.query_id for q in self.queries), self.of_dev, doing)


def require_dev(items: Iterable[str], dev: Collection[str], doing: str) -> None:
    """Refuse items that are not of dev where test would show what was fitted or chosen on it.

    Raises
    ------
    SplitError
        If any item is not among those of ``dev``.
    """
    if strangers := sorted(set(items).difference(dev)):
        raise SplitError(
            f"{doing} may see dev alone, found {counted(len(strangers), 'item that is', 'items that are')} not "
            f"of dev, first {strangers[0]!r}; "
            "hand over the dev split",
            strangers,
        )


@dataclass(frozen=True, slots=True)
class Evalset:
    """One folder of questions and judgements; made by `load_evalset`.

    Attributes
    ----------
    qrels : dict
        Split -> query id -> document id -> grade (0 = judged, not relevant).
    inputs : dict
        sha256 of each file read, by name: queries, corpus, qrels/<split>, gates. A built corpus has that of
        its manifest. The card decides nothing and is not among them.
    gates : dict
        Policy by notebook, for the notebooks that ``gates.toml`` names; `policy` has the defaults.
    synthetic : bool
        The card declares the questions or the traffic simulated: nothing here can be more than provisional.
    notes : tuple of str
        What was done that the files do not say, such as how dev and test were made.
    """

    name: str
    path: Path
    queries: tuple[Query, ...]
    qrels: dict[str, Qrels]
    documents: tuple[Document, ...]
    inputs: dict[str, str]
    card: str
    gates: dict[str, GatePolicy]
    synthetic: bool
    notes: tuple[str, ...] = ()

    def split(self, name: str) -> Split:
        """Give the queries and judgements of one split; a query is in it when it has judgements there.

        Raises
        ------
        EvalsetError
            If there is no such split.
        """
        if name not in self.qrels:
            raise EvalsetError(f"evalset {self.name}: {unknown_name('split', name, tuple(self.qrels))}")
        qrels = self.qrels[name]
        asked = tuple(q for q in self.queries if q.query_id in qrels)
        return Split(name, asked, qrels, frozenset(self.qrels.get("dev", ())))

    def require_questions(self) -> None:
        """Refuse an evalset of which dev or test has no question to ask.

        Raises
        ------
        EvalsetError
            If there is none, with what the folder holds instead.
        """
        if not (without := [split for split in USED if not self.qrels.get(split)]):
            return
        found = [f"{file}, which {doing} reads" for file, doing in READ_BY.items() if (self.path / file).exists()]
        instead = f"; it holds {' and '.join(found)}" if found else ""
        asked = ", ".join(f"{split}: {len(self.qrels.get(split, {}))}" for split in USED)
        raise EvalsetError(
            f"evalset {self.name} has no judged question in {' and '.join(without)} ({asked}){instead}; "
            "retrieval needs queries.jsonl, qrels/ and a corpus, and a family of questions for each split"
        )

    def policy(self, notebook: str) -> GatePolicy:
        """Give what ``gates.toml`` asks of a notebook, or the defaults."""
        return self.gates.get(notebook) or default_gate_policy(notebook)

    @property
    def tenants(self) -> tuple[str, ...]:
        """Tenants that own a document or ask a question, sorted."""
        return tuple(sorted({d.tenant_id for d in self.documents} | {q.tenant_id for q in self.queries}))


@waiting("reading the evalset")
def load_evalset(source: str | Path, *, settings: Settings, seed: int = 0, build: bool = True) -> Evalset:
    """Load an evalset by name, by folder (ours, or BEIR's as it is), or one fetched from the hub before.

    Parameters
    ----------
    source : str or Path
        A name below ``evalsets/``, a folder, or ``hub:NAME`` for what `workbench.evalset.imports.hub.load_hub`
        fetched; nothing is ever fetched here.
    settings : Settings
        Where evalsets and the cache are.
    seed : int
        Of the split by cluster, used only where the folder has no dev (or train) judgements beside test.
    build : bool
        Whether a corpus that is built is there; without it the evalset has no documents, and the hash of their lock.

    Raises
    ------
    EvalsetError
        If there is no such evalset, or with everything that `workbench evalset check` calls an error, by file and
        line. What it calls a warning loads; questions that are left out are named in ``notes``.
    """
    folder = find_evalset(source, settings)
    contents = read_evalset_folder(folder, settings, build=build)
    splits, notes = split_qrels(contents, seed=seed)
    errors = [Defect(f.file, f.line, f.problem) for f in find_findings(contents, splits) if f.severity == "error"]
    if errors:
        raise EvalsetError(f"evalset {folder} cannot be used; {counted(len(errors), 'place')} to correct:", errors)
    qrels, unasked = _leave_out_questions(contents, splits)
    queries, joined = _join_families(contents.queries, qrels)
    return Evalset(
        name=folder.name,
        path=folder,
        queries=queries,
        qrels=qrels,
        documents=tuple(contents.documents),
        inputs=contents.inputs,
        card=contents.card,
        gates=contents.gates,
        synthetic=contents.synthetic,
        notes=(*notes, *unasked, *joined, *notes_of_findings(contents, splits)),
    )


class Load(Protocol):
    """``load_evalset``, or what stands in for it."""

    def __call__(self, source: str | Path, *, settings: Settings, seed: int = 0) -> Evalset:
        """Load an evalset."""


def load_each_once() -> Load:
    """``load_evalset`` that reads an evalset once, for what looks at it several times and does not compute with it."""
    found: dict[tuple[str, int], Evalset] = {}

    def load(source: str | Path, *, settings: Settings, seed: int = 0) -> Evalset:
        key = str(source), seed
        if key not in found:
            found[key] = load_evalset(source, settings=settings, seed=seed)
        return found[key]

    return load


def _join_families(queries: Sequence[Query], qrels: Mapping[str, Qrels]) -> tuple[tuple[Query, ...], list[str]]:
    """Questions with the families that they are resampled by, and a note where texts joined some clusters."""
    family: dict[str, str] = {}
    for split in USED:
        family |= question_families(q for q in queries if q.query_id in qrels.get(split, {}))
    moved = [q for q in queries if family.get(q.query_id, q.cluster) != q.cluster]
    if not moved:
        return tuple(queries), []
    told = ", ".join(repr(q.query_id) for q in moved[:NAMED]) + (" and others" if len(moved) > NAMED else "")
    note = f"questions of one text are one family, whatever clusters they were given; that moves {told}"
    return tuple(replace(q, cluster=family.get(q.query_id, q.cluster)) for q in queries), [note]


def _leave_out_questions(contents: EvalsetContents, splits: dict[str, Qrels]) -> tuple[dict[str, Qrels], list[str]]:
    """Judgements of the questions that are asked, and for each split a sentence that names the others."""
    gone = left_out_questions(contents, splits)
    without = {(each.split, each.query_id) for each in gone}
    asked: dict[str, Qrels] = {}
    for name, qrels in splits.items():
        asked[name] = {q: grades for q, grades in qrels.items() if (name, q) not in without}
    notes = []
    for split in splits:
        mine = [f"{each.query_id!r} {each.why}" for each in gone if each.split == split]
        more = f"; and {len(mine) - NAMED} more, which `workbench evalset check` names" if len(mine) > NAMED else ""
        if mine:
            notes.append(
                f"{counted(len(mine), 'question is', 'questions are')} left out of {split}: "
                f"{'; '.join(mine[:NAMED])}{more}"
            )
    return asked, notes


def find_evalset(source: str | Path, settings: Settings) -> Path:
    """Folder that a name, a path or ``hub:NAME`` means.

    Raises
    ------
    EvalsetError
        If there is none, with the nearest name, or if it holds no file of an evalset, with what it holds instead.
    """
    text = str(source)
    if text.startswith(HUB):
        folder = hub_folder(text.removeprefix(HUB), settings)
        if not folder.is_dir():
            raise EvalsetError(f"{text} is not on this machine; fetch it with `workbench import hub {text[4:]}`")
        return folder
    named = settings.evalsets / text
    if named.is_dir() and ".." not in Path(text).parts:  # a path is one from where one stands
        return require_evalset(named, text, settings)
    if Path(source).is_dir():
        return require_evalset(Path(source).resolve(), text, settings)
    if not settings.evalsets.is_dir():
        raise EvalsetError(
            f"{text!r} is no folder, and you are not in a project: {settings.root} has no evalsets/; change into the "
            "folder that holds evalsets/ and notebooks/, or name it with WORKBENCH_ROOT"
        )
    known = sorted(p.name for p in settings.evalsets.glob("*") if p.is_dir())
    raise EvalsetError(f"{unknown_name('evalset', text, known)} (below {settings.evalsets}), and no folder either")


# Any one of these makes a folder an evalset, if perhaps one that lacks something.
PARTS = (
    "queries.jsonl", "corpus.jsonl", "corpus.toml", "qrels", "outcomes.parquet", "stream.parquet", "traffic.toml",
    "pairs.jsonl", "prompts.toml", "judges.toml", "gates.toml", "card.md", "decisions", "recordings",
)  # fmt: skip


def require_evalset(folder: Path, given: str, settings: Settings) -> Path:
    """Refuse a folder that is no evalset; ``given`` is how it was named.

    Raises
    ------
    EvalsetError
        With what it holds, and how it could become one.
    """
    if _is_evalset(folder):
        return folder
    told = f"{given!r} is no evalset: {folder} holds neither questions (queries.jsonl) nor a corpus nor anything else "
    told += f"of one; it holds {_held_in_evalset(folder)}"
    if below := _evalsets_in(folder):
        raise EvalsetError(f"{told}; evalsets in it are {below}: name one of them")
    known = f"; or name one of {there}" if (there := _evalsets_in(settings.evalsets)) else ""
    make = f"make one of documents and questions: workbench new NAME --documents {given} --questions FILE"
    raise EvalsetError(f"{told}; {make}{known}")


def _is_evalset(folder: Path) -> bool:
    return any((folder / part).exists() for part in PARTS)


def _evalsets_in(folder: Path) -> str:
    found = sorted(p.name for p in folder.glob("*") if _is_evalset(p))
    return ", ".join([*found[:NAMED], *([f"{len(found) - NAMED} more"] if len(found) > NAMED else [])])


def _held_in_evalset(folder: Path) -> str:
    """What a folder holds at its first level: files by their endings, the most frequent first, and folders."""
    inside = list(folder.iterdir())
    kinds = Counter("folder" if p.is_dir() else p.suffix.lower() or p.name for p in inside)
    most = kinds.most_common(NAMED)
    rest = len(inside) - sum(count for _, count in most)
    told = [counted(count, kind, kind if kind != "folder" else "folders") for kind, count in most]
    return ", ".join([*told, *([counted(rest, "other")] if rest else [])]) or "nothing"


def hub_folder(name: str, settings: Settings) -> Path:
    """Where a collection of the hub is kept once it was fetched."""
    return settings.cache / "hub" / name.replace("/", "--")


def split_qrels(contents: EvalsetContents, *, seed: int) -> tuple[dict[str, Qrels], tuple[str, ...]]:
    """Judgements by split, with dev and test wherever there are any, and a sentence on how they were made.

    A question that is itself a document is not judged by it. Questions of one text come into one split.
    """
    own = questions_in_corpus(contents.queries, contents.documents)
    splits = {name: _qrels_of_split(rows, own) for name, rows in contents.judgements.items()}
    if not splits or {"dev", "test"} <= splits.keys():
        return splits, ()
    if {"train", "test"} <= splits.keys():
        splits["dev"] = splits.pop("train")
        return splits, (f"no dev split: the {counted(len(splits['dev']), 'question')} of train serve as dev",)
    pool = next((name for name in ("test", "dev", "train") if name in splits), min(splits))
    judged = splits.pop(pool)
    family = question_families(q for q in contents.queries if q.query_id in judged)
    without = {each.query_id for each in left_out_questions(contents, {pool: judged})}
    dev = dev_clusters({family[q] for q in judged if q in family and q not in without}, seed)
    splits["dev"] = {q: grades for q, grades in judged.items() if family.get(q) in dev}
    splits["test"] = {q: grades for q, grades in judged.items() if family.get(q) not in dev}
    sizes = f"{counted(len(splits['dev']), 'question')} in dev, {len(splits['test'])} in test"
    return splits, (f"only {pool} is judged: split 1:3 by cluster, by hash with seed {seed} ({sizes})",)


def _qrels_of_split(rows: Iterable[Judgement], own: Collection[str]) -> Qrels:
    """Grades by question and document; ``own`` are the questions that are documents themselves."""
    qrels: dict[str, dict[str, int]] = {}
    for row in rows:
        grades = qrels.setdefault(row.query_id, {})
        if row.doc_id != row.query_id or row.query_id not in own:
            grades[row.doc_id] = row.grade
    return qrels


def dev_clusters(clusters: set[str], seed: int, share: float = DEV_SHARE) -> set[str]:
    """Clusters whose hash falls into the lowest share: a cluster that is added later moves no other one.

    At least one is in dev, and where there are two or more, at least one in test.
    """
    ranked = sorted((_cluster_fraction(cluster, seed), cluster) for cluster in clusters)
    count = sum(fraction < share for fraction, _ in ranked)
    return {cluster for _, cluster in ranked[: max(1, min(count, len(ranked) - 1))]}


def _cluster_fraction(cluster: str, seed: int) -> float:
    """Hash of a cluster as a number in [0, 1)."""
    return int(hashlib.sha256(f"{seed}:{cluster}".encode()).hexdigest()[:13], 16) / 16**13


def question_families(queries: Iterable[Query]) -> dict[str, str]:
    """Family of each question: its cluster, and one family for clusters that share a question's text.

    Two questions of one text stand and fall together, whatever clusters they were given; tuned on one of them, an arm
    has seen the other.

    >>> from workbench.records import Query
    >>> asked = Query("1", "Why?", cluster="a"), Query("2", "why", cluster="b"), Query("3", "How?", cluster="c")
    >>> question_families(asked)
    {'1': 'a', '2': 'a', '3': 'c'}
    """
    queries, home = list(queries), dict[str, str]()

    def root(node: str) -> str:
        while home.setdefault(node, node) != node:
            node = home[node]
        return node

    for query in queries:
        cluster, text = root(f"cluster {query.cluster}"), root(f"text {text_key(query.text)}")
        first, second = sorted((cluster, text))  # clusters stand before texts, so that a family has a cluster's name
        home[second] = first
    return {q.query_id: root(f"cluster {q.cluster}").removeprefix("cluster ") for q in queries}
