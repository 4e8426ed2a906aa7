"""Everything wrong with an evalset, by file and line: what cannot be read, and what would mislead."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from workbench.config import Settings
from workbench.errors import Defect, EvalsetError, unknown_name
from workbench.evaluation.contents import Contents, read_contents
from workbench.evaluation.evalset import find_evalset, split_qrels
from workbench.evaluation.judging import echo_scores
from workbench.evaluation.reading import scan_jsonl
from workbench.evaluation.rows import DOCUMENT_KEYS, QUERY_KEYS
from workbench.records import Document, Query

Severity = Literal["error", "warning"]
ECHO_WORDS = 6
ECHO_ROUGE = 0.5
_LINE_WORDS = 40
_MISTYPED = 0.8  # likeness of two keys: clustr is mistyped, type is not a mistyped style


@dataclass(frozen=True, slots=True)
class Finding(Defect):
    """A defect and its weight: an error makes results wrong, a warning makes them mean less."""

    severity: Severity = "error"

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.severity}: {self.problem}"


def check_evalset(path: str | Path, settings: Settings) -> list[Finding]:
    """All findings of an evalset, by file and line; an empty list means that none was found.

    Errors: a line that cannot be read or used, an id that is unknown or stands twice, an empty text, a query
    without a relevant document, a judged document of another tenant, a mistyped metadata key, and whatever
    connects two splits (a cluster, a query, a text). Warnings: metadata that means nothing here, queries that
    are never asked, and questions that repeat a relevant document: `ECHO_WORDS` words in a row of its title
    or first line, or ROUGE-L precision and recall of at least `ECHO_ROUGE` against the first line.

    Cost: about 4 s for ragas on the first call that has a relevant pair to compare, then 1 ms a pair.
    """
    try:
        folder = find_evalset(path, settings)
        contents = read_contents(folder, settings)
    except EvalsetError as error:
        return [Finding(str(path), 0, str(error))]
    defects = contents.defects
    if (pairs := folder / "pairs.jsonl").exists():
        defects += scan_jsonl(pairs)[1]
    findings = [Finding(d.file, d.line, d.problem) for d in defects]
    for look in (_foreign_keys, _empty_texts, _no_relevant, _other_tenants, _shared_queries, _shared_families, _echoes):
        findings += look(contents)
    return sorted(findings, key=lambda f: (f.file, f.line, f.severity))


def summarise(findings: Sequence[Finding]) -> str:
    """Print form: the findings, one a line, and their number; what ``workbench evalset check`` prints."""
    errors = sum(f.severity == "error" for f in findings)
    count = f"{errors} errors, {len(findings) - errors} warnings" if findings else "no defect found"
    return "\n".join([*map(str, findings), count])


def exit_code(findings: Sequence[Finding]) -> int:
    """1 where there is an error, else 0; warnings do not fail."""
    return int(any(f.severity == "error" for f in findings))


def _of_query(contents: Contents, query_id: str, problem: str, severity: Severity = "error") -> Finding:
    """Finding at the line of a query."""
    file = str(contents.folder / "queries.jsonl")
    return Finding(file, contents.query_lines[query_id], f"query {query_id!r} {problem}", severity)


def _foreign_keys(contents: Contents) -> Iterator[Finding]:
    """Keys near to ours are mistyped: errors. BEIR collections carry others: one warning a file."""
    for file, lines in contents.foreign.items():
        known = QUERY_KEYS if file.endswith("queries.jsonl") else DOCUMENT_KEYS
        strange: list[tuple[int, str]] = []
        for line, keys in lines.items():
            for key in keys:
                if get_close_matches(key, known, n=1, cutoff=_MISTYPED):
                    yield Finding(file, line, unknown_name("metadata key", key, known))
                else:
                    strange.append((line, key))
        if strange:
            line, key = strange[0]
            count = len({name for _, name in strange})
            problem = f"{count} metadata keys mean nothing here and are ignored, first {key!r}"
            yield Finding(file, line, f"{problem}. Known: {', '.join(known)}", "warning")


def _empty_texts(contents: Contents) -> Iterator[Finding]:
    for query in contents.queries:
        if not query.text.strip():
            yield _of_query(contents, query.query_id, "has an empty text")
    for document in contents.documents:
        if not document.full_text.strip():
            file = "corpus.jsonl" if contents.document_lines else "corpus.toml"
            line = contents.document_lines.get(document.doc_id, 0)
            problem = f"document {document.doc_id!r} has an empty text and no title"
            yield Finding(str(contents.folder / file), line, problem)


def _no_relevant(contents: Contents) -> Iterator[Finding]:
    judged: set[str] = set()
    for split, rows in contents.judgements.items():
        asked = {row.query_id for row in rows} & contents.query_lines.keys()
        judged |= asked
        for query_id in asked - {row.query_id for row in rows if row.grade > 0}:
            yield _of_query(contents, query_id, f"has no relevant document (grade above 0) in {split}")
    if unasked := [query_id for query_id in contents.query_lines if query_id not in judged]:
        are = f"and {len(unasked) - 1} others are" if len(unasked) > 1 else "is"
        yield _of_query(contents, unasked[0], f"{are} judged in no split and never asked", "warning")


def _other_tenants(contents: Contents) -> Iterator[Finding]:
    owner = {d.doc_id: d.tenant_id for d in contents.documents}
    asker = {q.query_id: q.tenant_id for q in contents.queries}
    for split, rows in contents.judgements.items():
        file = str(contents.folder / "qrels" / f"{split}.tsv")
        for row in rows:
            asks, owns = asker.get(row.query_id), owner.get(row.doc_id)
            if asks is not None and owns is not None and asks != owns:
                problem = f"document {row.doc_id!r} belongs to tenant {owns!r}, query {row.query_id!r} to {asks!r}"
                yield Finding(file, row.line, problem)


def _shared_queries(contents: Contents) -> Iterator[Finding]:
    home: dict[str, str] = {}
    for split, rows in contents.judgements.items():
        reported: set[str] = set()
        for row in rows:
            first = home.setdefault(row.query_id, split)
            if first != split and row.query_id not in reported:
                reported.add(row.query_id)
                file = str(contents.folder / "qrels" / f"{split}.tsv")
                yield Finding(file, row.line, f"query {row.query_id!r} is judged in {first} and in {split}")


def _shared_families(contents: Contents) -> Iterator[Finding]:
    """Clusters and texts in two splits: tuning on dev would show in test as it would in no new question."""
    splits, _ = split_qrels(contents, seed=0)
    home: dict[tuple[str, str], tuple[str, str]] = {}
    for split, query in ((s, q) for s, qrels in splits.items() for q in contents.queries if q.query_id in qrels):
        for kind, value in (("cluster", query.cluster), ("text", " ".join(_words(query.text)))):
            first, twin = home.setdefault((kind, value), (split, query.query_id))
            if value and first != split and twin != query.query_id:
                problem = f"in {split} has the {kind} of {twin!r} in {first}: {value[:60]!r}"
                yield _of_query(contents, query.query_id, problem)


def _echoes(contents: Contents) -> Iterator[Finding]:
    """Questions written by copying: lexical search finds them, and no user asks them."""
    pairs = list(_relevant_pairs(contents))
    scores = echo_scores([(query.text, _first_line(document)) for query, document in pairs])
    reported: set[str] = set()
    for (query, document), score in zip(pairs, scores, strict=True):
        run = max(_longest_run(query.text, text) for text in (document.title, _first_line(document)))
        if run >= ECHO_WORDS:
            how = f"{run} words in a row"
        elif min(score.precision, score.recall) >= ECHO_ROUGE:
            how = f"ROUGE-L precision {score.precision:.2f}, recall {score.recall:.2f}"
        else:
            continue
        if query.query_id not in reported:
            reported.add(query.query_id)
            yield _of_query(
                contents, query.query_id, f"repeats the first line of {document.doc_id!r} ({how})", "warning"
            )


def _relevant_pairs(contents: Contents) -> Iterator[tuple[Query, Document]]:
    queries = {q.query_id: q for q in contents.queries}
    documents = {d.doc_id: d for d in contents.documents}
    for rows in contents.judgements.values():
        for row in rows:
            query, document = queries.get(row.query_id), documents.get(row.doc_id)
            if row.grade > 0 and query is not None and document is not None:
                yield query, document


def _first_line(document: Document) -> str:
    """First line of the text that is not blank, at most 40 words of it: some texts are one line."""
    line = next((line for line in document.text.splitlines() if line.strip()), "")
    return " ".join(line.split()[:_LINE_WORDS])


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _longest_run(question: str, line: str) -> int:
    """Words of the longest passage that stands in both."""
    asked, there = _words(question), _words(line)
    longest, runs = 0, [0] * (len(there) + 1)
    for word in asked:
        runs = [0, *(runs[i] + 1 if word == other else 0 for i, other in enumerate(there))]
        longest = max(longest, max(runs))
    return longest
