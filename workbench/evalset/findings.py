"""What is wrong with an evalset, by file and line: told by `workbench evalset check`, refused before any run.

An *error* makes results wrong: `workbench evalset check` fails on it, and no notebook opens an evalset that has one.
A *warning* makes them mean less. A question that cannot be judged, or that would carry an answer from test into dev, is
one of the warnings: it is left out by name, before work starts.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from workbench.errors import Defect, unknown_name
from workbench.evalset.corpus import questions_in_corpus
from workbench.evalset.files import scan_jsonl
from workbench.evalset.folder import DOCUMENT_KEYS, QUERY_KEYS, EvalsetContents, fits_folder_key
from workbench.evalset.texts import words
from workbench.evalset.traffic import traffic_pairs_of_rows
from workbench.rendering.numbers import counted

Severity = Literal["error", "warning"]
Splits = Mapping[str, Mapping[str, Mapping[str, int]]]
USED = ("dev", "test")
NAMED = 20  # questions or documents that a note names
POOLED_SHARE = 0.5  # of the questions, that have a document judged not relevant where documents were pooled
_MISTYPED = 0.8  # likeness of two keys: clustr is mistyped, type is not a mistyped style


@dataclass(frozen=True, slots=True)
class Finding(Defect):
    """A defect and its weight: an error makes results wrong, a warning makes them mean less."""

    severity: Severity = "error"

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.severity}: {self.problem}"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A judged question that is not asked in a split, and why."""

    split: str
    query_id: str
    why: str


def find_findings(contents: EvalsetContents, splits: Splits) -> list[Finding]:
    """Everything that can be told without measuring texts; ``splits`` as `workbench.evalset.evalset.split_qrels`.

    Errors: a line that cannot be read or used, an id that is unknown or stands twice, an empty question, a judged
    document of another tenant, a mistyped metadata key, a cluster or a question that is in dev and in test, and a split
    of which no question is left. Warnings: questions that are left out (`left_out_questions`), never asked, or
    documents themselves, documents with no text, judgements that are no pool, metadata that means nothing here, and
    what a split that is not used shares with another one.
    """
    defects = [*contents.defects, *_pair_findings(contents)]
    findings = [Finding(d.file, d.line, d.problem) for d in defects]
    for look in (
        _foreign_key_findings,
        _empty_query_findings,
        _empty_document_findings,
        _never_asked_findings,
        _other_tenant_findings,
        _own_document_findings,
    ):
        findings += look(contents)
    for compare in (_left_out_findings, _shared_query_findings, _shared_family_findings, _known_answer_findings):
        findings += compare(contents, splits)
    return findings


def left_out_questions(contents: EvalsetContents, splits: Splits) -> list[LeftOut]:
    """Questions that are judged and not asked.

    Those without a relevant document that can be found, and those of dev whose text stands in test again: tuned on,
    they would show there as they would in no new question.
    """
    texts = {q.query_id: " ".join(words(q.text)) for q in contents.queries}
    empty, itself = set(_empty_id_findings(contents)), _question_judged_itself(contents)
    out, asked = [], dict[str, dict[str, str]]()
    for split, qrels in splits.items():
        asked[split] = {}
        for query_id, grades in qrels.items():
            if query_id not in contents.query_lines:
                continue
            relevant = {doc_id for doc_id, grade in grades.items() if grade > 0}
            if relevant - empty:
                asked[split].setdefault(texts.get(query_id, ""), query_id)
            else:
                out.append(LeftOut(split, query_id, _no_answer_finding(split, relevant, query_id in itself)))
    without = {o.query_id for o in out if o.split == "dev"}
    for query_id in splits.get("dev", {}):
        text = texts.get(query_id)
        twin = asked.get("test", {}).get(text) if text else None
        if twin not in (None, query_id) and query_id not in without:
            out.append(LeftOut("dev", query_id, f"has the text of {twin!r} in test: {str(text)[:60]!r}"))
    return out


def _no_answer_finding(split: str, relevant: Collection[str], judged_itself: bool) -> str:
    """Why no arm can find an answer to a question; ``relevant`` are the documents that are, all of them empty."""
    if relevant:
        return f"has no relevant document with a text in {split}: {min(relevant)!r} is empty"
    if judged_itself:
        return f"has no relevant document in {split} but itself"
    return f"has no relevant document (grade above 0) in {split}"


def _question_judged_itself(contents: EvalsetContents) -> set[str]:
    own = questions_in_corpus(contents.queries, contents.documents)
    judged = (row for rows in contents.judgements.values() for row in rows)
    return {row.query_id for row in judged if row.grade > 0 and row.query_id == row.doc_id and row.doc_id in own}


def finding_of_query(contents: EvalsetContents, query_id: str, problem: str, severity: Severity = "error") -> Finding:
    """Finding at the line of a query."""
    file = str(contents.folder / "queries.jsonl")
    return Finding(file, contents.query_lines[query_id], f"query {query_id!r} {problem}", severity)


def _pair_findings(contents: EvalsetContents) -> list[Defect]:
    path = contents.folder / "pairs.jsonl"
    if not path.exists():
        return []
    rows, defects = scan_jsonl(path)
    return [*defects, *traffic_pairs_of_rows(str(path), rows)[1]]


def _foreign_key_findings(contents: EvalsetContents) -> Iterator[Finding]:
    """Keys near to ours that hold what ours would are mistyped: errors. BEIR collections carry others: one warning."""
    for file, lines in contents.foreign.items():
        known = QUERY_KEYS if file.endswith("queries.jsonl") else DOCUMENT_KEYS
        strange: list[tuple[int, str]] = []
        for line, keys in lines.items():
            for key, value in keys.items():
                near = get_close_matches(key, known, n=1, cutoff=_MISTYPED)
                if near and fits_folder_key(near[0], value):
                    yield Finding(file, line, unknown_name("metadata key", key, known))
                else:
                    strange.append((line, key))
        if strange:
            line, key = strange[0]
            count = len({name for _, name in strange})
            means = counted(count, "metadata key means nothing here and is", "metadata keys mean nothing here and are")
            problem = f"{means} ignored, first {key!r}"
            yield Finding(file, line, f"{problem}. Known: {', '.join(known)}", "warning")


def _empty_query_findings(contents: EvalsetContents) -> Iterator[Finding]:
    for query in contents.queries:
        if not query.text.strip():
            yield finding_of_query(contents, query.query_id, "has an empty text")


def _empty_id_findings(contents: EvalsetContents) -> list[str]:
    return [d.doc_id for d in contents.documents if not d.full_text.strip()]


def _empty_document_findings(contents: EvalsetContents) -> Iterator[Finding]:
    """Nothing can find an empty document; one that answers a question lowers every arm alike."""
    wanted: dict[str, str] = {}
    for row in (row for rows in contents.judgements.values() for row in rows if row.grade > 0):
        wanted.setdefault(row.doc_id, row.query_id)
    file = str(contents.folder / ("corpus.jsonl" if contents.document_lines else "corpus.toml"))
    for doc_id in (empty := _empty_id_findings(contents)):
        if doc_id in wanted:
            problem = f"document {doc_id!r} has an empty text and no title, so that {wanted[doc_id]!r}, to which it is "
            problem += "judged relevant, cannot find it"
            yield Finding(file, contents.document_lines.get(doc_id, 0), problem, "warning")
    if others := [d for d in empty if d not in wanted]:
        problem = (
            f"{counted(len(others), 'document has', 'documents have')} an empty text and no title, and "
            f"cannot be found; first {others[0]!r}"
        )
        yield Finding(file, contents.document_lines.get(others[0], 0), problem, "warning")


def _own_document_findings(contents: EvalsetContents) -> Iterator[Finding]:
    if own := questions_in_corpus(contents.queries, contents.documents):
        first = next(q.query_id for q in contents.queries if q.query_id in own)
        others = f", and so are {counted(len(own) - 1, 'other')}" if len(own) > 1 else ""
        problem = f"is itself a document (same id and same text){others}: no question is a hit of its own"
        yield finding_of_query(contents, first, problem, "warning")


def _known_answer_findings(contents: EvalsetContents, splits: Splits) -> Iterator[Finding]:
    """A few documents judged not relevant make no pool."""
    out = {(each.split, each.query_id) for each in left_out_questions(contents, splits)}
    for split, qrels in splits.items():
        asked = {query_id: grades for query_id, grades in qrels.items() if (split, query_id) not in out}
        if said := known_answers(asked, split):
            yield Finding(str(contents.folder / "qrels"), 0, said, "warning")


def notes_of_findings(contents: EvalsetContents, splits: Splits) -> list[str]:
    """What `find_findings` warns of that readers of a result should know, beside the questions that are left out."""
    looks = (_never_asked_findings(contents), _own_document_findings(contents), _empty_document_findings(contents))
    found = [list(look) for look in (*looks, _known_answer_findings(contents, splits))]
    notes = []
    for each in found:
        notes += [finding.problem for finding in each[:NAMED]]
        notes += [f"and {len(each) - NAMED} more of this kind"] if len(each) > NAMED else []
    return notes


def known_answers(qrels: Mapping[str, Mapping[str, int]], split: str) -> str:
    """How judgements are read of which some, but few, say "not relevant"; "" where none does, or enough do.

    Where documents were pooled and judged, nearly every question has some that turned out not to be relevant.
    """
    refused = sum(any(grade <= 0 for grade in grades.values()) for grades in qrels.values())
    if not refused or refused >= POOLED_SHARE * len(qrels):
        return ""
    return (
        f"only {refused} of {counted(len(qrels), 'question')} of {split} have a document judged not relevant, "
        "which is no pool: "
        "the judgements are read as known answers, and what they do not name counts as not relevant"
    )


def _never_asked_findings(contents: EvalsetContents) -> Iterator[Finding]:
    judged = {row.query_id for rows in contents.judgements.values() for row in rows}
    if unasked := [query_id for query_id in contents.query_lines if query_id not in judged]:
        are = f"and {counted(len(unasked) - 1, 'other is', 'others are')}" if len(unasked) > 1 else "is"
        yield finding_of_query(contents, unasked[0], f"{are} judged in no split and never asked", "warning")


def _left_out_findings(contents: EvalsetContents, splits: Splits) -> Iterator[Finding]:
    gone = left_out_questions(contents, splits)
    for each in gone:
        yield finding_of_query(contents, each.query_id, f"is left out of {each.split}: it {each.why}", "warning")
    for split, qrels in splits.items():
        out = {each.query_id for each in gone if each.split == split}
        if out and not qrels.keys() & contents.query_lines.keys() - out:
            problem = f"no question of {split} is left: {len(out)} are left out, first {min(out)!r}"
            yield Finding(str(contents.folder / "qrels"), 0, problem)
        elif split in USED and not qrels:
            problem = f"{split} has no question: all that are judged are one family, by their clusters or their texts"
            yield Finding(str(contents.folder / "qrels"), 0, problem, "warning")


def _other_tenant_findings(contents: EvalsetContents) -> Iterator[Finding]:
    owner = {d.doc_id: d.tenant_id for d in contents.documents}
    asker = {q.query_id: q.tenant_id for q in contents.queries}
    for split, rows in contents.judgements.items():
        file = str(contents.folder / "qrels" / f"{split}.tsv")
        for row in rows:
            asks, owns = asker.get(row.query_id), owner.get(row.doc_id)
            if asks is not None and owns is not None and asks != owns:
                problem = f"document {row.doc_id!r} belongs to tenant {owns!r}, query {row.query_id!r} to {asks!r}"
                yield Finding(file, row.line, problem)


def _shared_query_findings(contents: EvalsetContents, splits: Splits) -> Iterator[Finding]:
    home: dict[str, str] = {}
    for split in _used_splits_first(contents.judgements):
        reported: set[str] = set()
        for row in contents.judgements[split]:
            first = home.setdefault(row.query_id, split)
            if first != split and row.query_id not in reported:
                reported.add(row.query_id)
                file = str(contents.folder / "qrels" / f"{split}.tsv")
                problem = f"query {row.query_id!r} is judged in {first} and in {split}"
                # train serves as dev where there is none
                roles = {name if name in splits else "dev" for name in (first, split)}
                yield Finding(file, row.line, problem, _shared_split_weight(roles))


def _shared_family_findings(contents: EvalsetContents, splits: Splits) -> Iterator[Finding]:
    """Clusters, and texts of a split that is not used, in two splits; `left_out_questions` has those of dev, test."""
    home: dict[tuple[str, str], tuple[str, str]] = {}
    for split in _used_splits_first(splits):
        for query in (q for q in contents.queries if q.query_id in splits[split]):
            for kind, value in (("cluster", query.cluster), ("text", " ".join(words(query.text)))):
                first, twin = home.setdefault((kind, value), (split, query.query_id))
                severity = _shared_split_weight({first, split})
                told = kind == "cluster" or severity == "warning"
                if value and first != split and twin != query.query_id and told:
                    problem = f"in {split} has the {kind} of {twin!r} in {first}: {value[:60]!r}"
                    yield finding_of_query(contents, query.query_id, problem, severity)


def _used_splits_first(splits: Iterable[str]) -> list[str]:
    """Dev and test before splits that are not used, so that what they share is told as theirs."""
    return sorted(splits, key=lambda split: (split not in USED, split))


def _shared_split_weight(splits: set[str]) -> Severity:
    """Weight of what two splits share: tuning on dev would show in test as it would in no new question."""
    return "error" if splits == set(USED) else "warning"
