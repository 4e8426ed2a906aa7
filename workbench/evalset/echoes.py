"""How much of a question is copied from its document: ROUGE-L by ragas, and the longest run of words."""

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from workbench.evalset.findings import Finding, finding_of_query
from workbench.evalset.folder import EvalsetContents
from workbench.evalset.texts import spaceless, words
from workbench.records import Document, Query
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
    that other scripts are scored by `echo_rouge_l`, over their words or signs as they stand.

    >>> echo_scores([("如何开启深色模式", "如何开启深色模式吗")])
    [EchoScore(precision=1.0, recall=0.8888888888888888)]
    """
    latin = [i for i, pair in enumerate(pairs) if _is_plain_echo("".join(pair))]
    found: dict[int, EchoScore] = {}
    if latin:
        with ThreadPoolExecutor(max_workers=1) as pool:
            for start in range(0, len(latin), _AT_ONCE):
                part = latin[start : start + _AT_ONCE]
                scored = pool.submit(asyncio.run, _rouge_by_ragas([pairs[i] for i in part])).result()
                found |= zip(part, scored, strict=True)
                if on_progress:
                    on_progress(start + len(part), len(latin))
    return [found.get(i) or echo_rouge_l(*pair) for i, pair in enumerate(pairs)]


_AT_ONCE = 200  # pairs between two words on how far it is


def _is_plain_echo(text: str) -> bool:
    return all(c.isascii() or not c.isalnum() for c in text)


def echo_rouge_l(question: str, line: str) -> EchoScore:
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


async def _rouge_by_ragas(pairs: Sequence[tuple[str, str]]) -> list[EchoScore]:
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


def find_echoes(contents: EvalsetContents) -> Iterator[Finding]:
    """Questions written by copying: lexical search finds them, and no user asks them."""
    pairs = list(_echo_pairs(contents))
    lines = [(query.text, _first_document_line(document)) for query, document in pairs]
    if any(_is_plain_echo("".join(line)) for line in lines):
        with waiting("import of ragas"):
            load_ragas()  # else its seconds would count as those of the first questions
    bar = Progress("questions compared with their documents", len(pairs))
    scores = echo_scores(lines, on_progress=partial(advance, bar))
    reported: set[str] = set()
    for (query, document), score in zip(pairs, scores, strict=True):
        run = max(_longest_echo(query.text, text) for text in (document.title, _first_document_line(document)))
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


def _echo_pairs(contents: EvalsetContents) -> Iterator[tuple[Query, Document]]:
    queries = {q.query_id: q for q in contents.queries}
    documents = {d.doc_id: d for d in contents.documents}
    for rows in contents.judgements.values():
        for row in rows:
            query, document = queries.get(row.query_id), documents.get(row.doc_id)
            if row.grade > 0 and query is not None and document is not None:
                yield query, document


def _first_document_line(document: Document) -> str:
    """First line of the text that is not blank, at most 40 words or 120 signs of it: some texts are one line."""
    line = next((line for line in document.text.splitlines() if line.strip()), "")
    line = " ".join(line.split()[:_LINE_WORDS])
    return line[: SIGNS_PER_WORD * _LINE_WORDS] if spaceless(line) else line


def _longest_echo(question: str, line: str) -> float:
    """Words of the longest passage that stands in both; a sign of a script without blanks is part of a word."""
    asked, there = words(question), words(line)
    longest, runs = 0.0, [0.0] * (len(there) + 1)
    for word in asked:
        weight = 1 / SIGNS_PER_WORD if spaceless(word) else 1.0
        runs = [0.0, *(runs[i] + weight if word == other else 0.0 for i, other in enumerate(there))]
        longest = max(longest, max(runs))
    return longest
