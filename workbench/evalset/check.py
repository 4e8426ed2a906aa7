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
from workbench.evalset.texts import foreign_letter_share, is_latin, spaceless
from workbench.evalset.traffic import load_traffic_stream
from workbench.evalset.workload import read_workload_plan
from workbench.rendering.numbers import counted
from workbench.rendering.progress import waiting


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
