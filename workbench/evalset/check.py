"""Everything wrong with an evalset as a command tells it, and how much of a question is copied from its document."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.config import Settings
from workbench.errors import Defect, EvalsetError
from workbench.evalset.echoes import find_echoes
from workbench.evalset.evalset import find_evalset, split_qrels
from workbench.evalset.findings import Finding, find_findings, finding_of_query
from workbench.evalset.folder import EvalsetContents, read_evalset_folder
from workbench.evalset.follow_ups import needs_turns
from workbench.evalset.outcomes import FILE, load_outcomes
from workbench.evalset.texts import foreign_letter_share, is_latin, spaceless, words
from workbench.evalset.traffic import load_traffic_stream
from workbench.evalset.workload import read_workload_plan
from workbench.records import Document, Query
from workbench.rendering.numbers import counted
from workbench.rendering.progress import Progress, advance, waiting


@dataclass(frozen=True, slots=True)
class EchoScore:
    """ROUGE-L of a question against a line, both in [0, 1].

    ``precision`` is the share of the question's words that stand in the line in the same order,
    ``recall`` the share of the line's words that do in the question.
    """

    precision: float
    recall: float


def echo_scores(
    pairs: Sequence[tuple[str, str]], *, on_progress: Callable[[int, int], None] | None = None
) -> list[EchoScore]:
    """ROUGE-L (Lin 2004) of each (question, line), by ragas with word stems; offline, no model.

    Works inside the running loop of a notebook too: ragas scores asynchronously, in a thread of its own here.
    ``on_progress`` is told pairs done and pairs to do.
    The first call imports ragas (about 4 s); a pair costs about 10 ms. Its tokeniser drops all but a-z and digits, so
    that other scripts are scored by `rouge_l`, over their words or signs as they stand.

    >>> echo_scores([("如何开启深色模式", "如何开启深色模式吗")])
    [EchoScore(precision=1.0, recall=0.8888888888888888)]
    """
    latin = [i for i, pair in enumerate(pairs) if _is_plain("".join(pair))]
    found: dict[int, EchoScore] = {}
    if latin:
        with ThreadPoolExecutor(max_workers=1) as pool:
            for start in range(0, len(latin), _AT_ONCE):
                part = latin[start : start + _AT_ONCE]
                scored = pool.submit(asyncio.run, _rouge([pairs[i] for i in part])).result()
                found |= zip(part, scored, strict=True)
                if on_progress:
                    on_progress(start + len(part), len(latin))
    return [found.get(i) or rouge_l(*pair) for i, pair in enumerate(pairs)]


_AT_ONCE = 200  # pairs between two words on how far it is


def _is_plain(text: str) -> bool:
    return all(c.isascii() or not c.isalnum() for c in text)


def rouge_l(question: str, line: str) -> EchoScore:
    """ROUGE-L over `workbench.evalset.texts.words`: the longest sequence of them that stands in both, in order."""
    asked, there = words(question), words(line)
    before = [0] * (len(there) + 1)
    for word in asked:
        row = [0]
        for i, other in enumerate(there):
            row.append(before[i] + 1 if word == other else max(before[i + 1], row[-1]))
        before = row
    return EchoScore(before[-1] / max(len(asked), 1), before[-1] / max(len(there), 1))


class Ragas(NamedTuple):
    """What is used of ragas: its metrics, and the classes of what they ask a model and an embedder through."""

    metrics: Any
    judge: Any
    vectors: Any
    version: str


def load_ragas() -> Ragas:
    """The one import of ragas, about 4 s the first time: it neither fetches a price list nor reports its use."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    os.environ.setdefault("RAGAS_DO_NOT_TRACK", "true")
    from ragas import __version__
    from ragas.embeddings.base import BaseRagasEmbedding
    from ragas.llms.base import InstructorBaseRagasLLM
    from ragas.metrics import collections

    return Ragas(collections, InstructorBaseRagasLLM, BaseRagasEmbedding, __version__)


async def _rouge(pairs: Sequence[tuple[str, str]]) -> list[EchoScore]:
    collections = load_ragas().metrics
    precision, recall = collections.RougeScore(mode="precision"), collections.RougeScore(mode="recall")
    return [
        EchoScore(
            (await precision.ascore(reference=line, response=question)).value,
            (await recall.ascore(reference=line, response=question)).value,
        )
        for question, line in pairs
    ]


ECHO_WORDS = 6
ECHO_ROUGE = 0.5
_LINE_WORDS = 40
SIGNS_PER_WORD = 3  # of a script without blanks: two or three make a word of Chinese, Japanese or Thai


def check_evalset(path: str | Path, settings: Settings, *, echoes: bool = True) -> list[Finding]:
    """All findings of an evalset, by file and line; an empty list means that none was found.

    Those of `workbench.evalset.findings.find_findings`, whose errors every notebook refuses before work starts; what
    the routing and the caching notebook refuse of ``outcomes.parquet``, ``stream.parquet`` and ``traffic.toml``, which
    they alone read; and more warnings: questions in a script that encoders of English or full text do not read, or that
    need earlier turns, and questions that repeat a relevant document, `ECHO_WORDS` words in a row of
    its title or first line, or ROUGE-L precision and recall of at least `ECHO_ROUGE` against the first line.

    ``echoes`` says whether that last warning is looked for: it needs ragas, which a light install leaves out.

    Cost: about 4 s for ragas on the first call that has a relevant pair to compare, then 1 ms a pair.
    """
    try:
        folder = find_evalset(path, settings)
        with waiting(f"reading {folder.name}"):
            contents = read_evalset_folder(folder, settings)
    except EvalsetError as error:
        return [Finding(str(path), 0, str(error))]
    splits, _ = split_qrels(contents, seed=0)
    with waiting(f"looking for defects of {folder.name}"):
        findings = [
            *find_findings(contents, splits),
            *_findings_of_notebooks(folder),
            *_questions_hard_to_read(contents),
        ]
    if echoes:
        findings += find_echoes(contents)
    return sorted(findings, key=lambda f: (f.file, f.line, f.severity))


def summarise_findings(findings: Sequence[Finding], *, every: bool = False) -> str:
    """Print form: one line a kind of finding in a file, and their number; what ``workbench evalset check`` prints.

    Findings are of a kind if they differ in what they quote and in numbers alone: the first is told, with the lines of
    some others; ``every`` finding has a line of its own if that is asked for.

    >>> print(summarise_findings([Finding("q.jsonl", n, f"query 'q{n}' has an empty text") for n in (2, 5)]))
    q.jsonl:2: error: query 'q2' has an empty text; and 1 more of this kind, line 5
    2 errors, 0 warnings
    """
    kinds: dict[tuple[object, ...], list[Finding]] = {}
    for place, finding in enumerate(findings):
        kind = (finding.file, finding.severity, _VARYING.sub("", finding.problem))
        kinds.setdefault((place,) if every else kind, []).append(finding)
    errors = sum(f.severity == "error" for f in findings)
    count = (
        f"{counted(errors, 'error')}, {counted(len(findings) - errors, 'warning')}" if findings else "no defect found"
    )
    return "\n".join([*(_findings_line(first, others) for first, *others in kinds.values()), count])


# What findings of one kind differ in: what they quote, and numbers.
_VARYING = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\d[\d.,]*""")
_LINES_TOLD = 5


def _findings_line(first: Finding, others: Sequence[Finding]) -> str:
    if not others:
        return str(first)
    lines = [str(f.line) for f in others[:_LINES_TOLD]]
    at = f", line{'s' if len(others) > 1 else ''} {', '.join(lines)}" if others[0].line else ""
    more = " ..." if at and len(others) > _LINES_TOLD else ""
    return f"{first}; and {len(others):,} more of this kind{at}{more}"


def check_exit_code(findings: Sequence[Finding]) -> int:
    """1 where there is an error, else 0; warnings do not fail."""
    return int(any(f.severity == "error" for f in findings))


def _findings_of_notebooks(folder: Path) -> Iterator[Finding]:
    """What one notebook refuses of the file that it alone reads, by the same reader."""
    readers: dict[str, Callable[[], Any]] = {
        FILE: lambda: load_outcomes(folder),
        "stream.parquet": lambda: load_traffic_stream(folder),
        "traffic.toml": lambda: read_workload_plan(folder / "traffic.toml"),
    }
    for name, read in readers.items():
        if (path := folder / name).is_file():
            try:
                read()
            except EvalsetError as error:
                for defect in error.defects or [Defect(str(path), 0, str(error))]:
                    yield Finding(defect.file, defect.line, defect.problem)


FOREIGN_SHARE = 1 / 3
_UNREAD = (
    "the local encoders, of English, do not read them, and no cache serves the question but its repeats; take an "
    "embedder of its language (-p embedder=litellm:MODEL)"
)
HARD_TO_READ: Mapping[str, Callable[[str], bool]] = {
    f"more than a third of characters that are no Latin letters: {_UNREAD}": (
        lambda text: foreign_letter_share(text) > FOREIGN_SHARE and not is_latin(text)
    ),
    f"more than a third of characters that are accents of Latin letters, or emoji: {_UNREAD}": (
        lambda text: foreign_letter_share(text) > FOREIGN_SHARE and is_latin(text)
    ),
    "no blanks between words: full text finds whole phrases alone; add full_text_ngram (-p strategies=...)": spaceless,
    "the form of a follow-up: nothing can be found for it without the turns before it": needs_turns,
}


def _questions_hard_to_read(contents: EvalsetContents) -> Iterator[Finding]:
    """Questions that arms cannot make words of; all of a kind are one warning, at the first."""
    for what, holds in HARD_TO_READ.items():
        if found := [q.query_id for q in contents.queries if holds(q.text)]:
            have = f"and {counted(len(found) - 1, 'other has', 'others have')}" if len(found) > 1 else "has"
            yield finding_of_query(contents, found[0], f"{have} {what}", "warning")


def _echoes(contents: EvalsetContents) -> Iterator[Finding]:
    """Questions written by copying: lexical search finds them, and no user asks them."""
    pairs = list(_relevant_pairs(contents))
    lines = [(query.text, _document_line(document)) for query, document in pairs]
    if any(_is_plain("".join(line)) for line in lines):
        with waiting("import of ragas"):
            load_ragas()  # else its seconds would count as those of the first questions
    bar = Progress("questions compared with their documents", len(pairs))
    scores = echo_scores(lines, on_progress=partial(advance, bar))
    reported: set[str] = set()
    for (query, document), score in zip(pairs, scores, strict=True):
        run = max(_longest_run(query.text, text) for text in (document.title, _document_line(document)))
        if run >= ECHO_WORDS - 1e-9:  # thirds add up to whole words but for rounding
            how = f"{run:.0f} words in a row"
        elif min(score.precision, score.recall) >= ECHO_ROUGE:
            how = f"ROUGE-L precision {score.precision:.2f}, recall {score.recall:.2f}"
        else:
            continue
        if query.query_id not in reported:
            reported.add(query.query_id)
            yield finding_of_query(
                contents, query.query_id, f"repeats the first line of {document.doc_id!r} ({how})", "warning"
            )


def _relevant_pairs(contents: EvalsetContents) -> Iterator[tuple[Query, Document]]:
    queries = {q.query_id: q for q in contents.queries}
    documents = {d.doc_id: d for d in contents.documents}
    for rows in contents.judgements.values():
        for row in rows:
            query, document = queries.get(row.query_id), documents.get(row.doc_id)
            if row.grade > 0 and query is not None and document is not None:
                yield query, document


def _document_line(document: Document) -> str:
    """First line of the text that is not blank, at most 40 words or 120 signs of it: some texts are one line."""
    line = next((line for line in document.text.splitlines() if line.strip()), "")
    line = " ".join(line.split()[:_LINE_WORDS])
    return line[: SIGNS_PER_WORD * _LINE_WORDS] if spaceless(line) else line


def _longest_run(question: str, line: str) -> float:
    """Words of the longest passage that stands in both; a sign of a script without blanks is part of a word."""
    asked, there = words(question), words(line)
    longest, runs = 0.0, [0.0] * (len(there) + 1)
    for word in asked:
        weight = 1 / SIGNS_PER_WORD if spaceless(word) else 1.0
        runs = [0.0, *(runs[i] + weight if word == other else 0.0 for i, other in enumerate(there))]
        longest = max(longest, max(runs))
    return longest
