"""Documents cut into the pieces that are indexed; a chunker is a frozen value, so that it can be an arm.

A chunk after the first begins with the document's title, so that it says what it is of; the title counts
towards the size, so that no encoder cuts the end off.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable

from workbench.errors import ConfigError
from workbench.records import Document

Span = tuple[int, int]
_UNDERLINE = re.compile(r"\s*([-=~^])\1{2,}\s*$")
_HEADING = re.compile(r" {0,3}#{1,6} \S")
_FENCE = re.compile(r"\s*(```|~~~)")
# A line of the first kind after one of the second starts a paragraph.
_OPENS = {("text", "blank"), ("text", "inside"), *(("block", k) for k in ("blank", "text", "inside", "block"))}


class Tokenizer(Protocol):
    """Where the tokens of a text are."""

    def offsets(self, text: str) -> list[Span]:
        """Return ``(start, end)`` in characters of each token, in order."""


@runtime_checkable
class Chunker(Protocol):
    """A way to cut a document; its ``repr`` identifies it in the index."""

    def chunk(self, document: Document, tokenizer: Tokenizer) -> "list[Chunk]":
        """Pieces of the document in order; none if it is blank."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """One piece of a document; ``start`` and ``end`` are characters of its ``full_text``."""

    position: int
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class WholeDocument:
    r"""One chunk a document, however long; an encoder sees as much of it as it can take.

    >>> from workbench.testing import WordTokenizer
    >>> [c.text for c in WholeDocument().chunk(Document("d", "one two", title="T"), WordTokenizer())]
    ['T\none two']
    """

    def chunk(self, document: Document, tokenizer: Tokenizer) -> list[Chunk]:
        """Return the document as one chunk; nothing if it is blank."""
        return _chunks_of_spans(document, "", [(0, len(document.full_text))])


@dataclass(frozen=True, slots=True)
class FixedTokens:
    """Windows of ``size`` tokens, each sharing ``overlap`` tokens with the one before.

    Raises
    ------
    ConfigError
        Unless ``0 <= overlap < size / 2``.

    Examples
    --------
    >>> from workbench.testing import WordTokenizer
    >>> [c.text for c in FixedTokens(size=3, overlap=1).chunk(Document("d", "a b c d e"), WordTokenizer())]
    ['a b c', 'c d e']
    """

    size: int = 256
    overlap: int = 32

    def __post_init__(self) -> None:
        if not 0 <= 2 * self.overlap < self.size:
            raise ConfigError(f"{self!r}: the overlap must be at least 0 and below half of the size")

    def chunk(self, document: Document, tokenizer: Tokenizer) -> list[Chunk]:
        """Cut between tokens; characters between two tokens go with the first of them."""
        text = document.full_text
        starts = _token_starts(text, tokenizer)
        prefix, rest = _chunk_prefix(document, tokenizer, self.size)
        spans, first, room = list[Span](), 0, self.size
        while not spans or first + self.overlap < len(starts):
            end = starts[first + room] if first + room < len(starts) else len(text)
            spans.append((starts[first], end))
            first, room = first + room - self.overlap, rest
        return _chunks_of_spans(document, prefix, spans)


@dataclass(frozen=True, slots=True)
class ByStructure:
    r"""Sections, then paragraphs, packed greedily up to ``max_tokens``.

    A section starts at a numpydoc title (``Parameters`` over dashes) or a markdown heading. What fits in no
    chunk is cut at the next finer level: paragraphs (a fenced block or a doctest is one), lines, tokens.

    Raises
    ------
    ConfigError
        If ``max_tokens`` is below 1.

    Examples
    --------
    >>> from workbench.testing import WordTokenizer
    >>> text = "Sum of it.\n\nReturns\n-------\nfloat\n\nNotes\n-----\nIt is fast."
    >>> [c.text for c in ByStructure(max_tokens=16).chunk(Document("d", text), WordTokenizer())]
    ['Sum of it.\n\nReturns\n-------\nfloat', 'Notes\n-----\nIt is fast.']
    """

    max_tokens: int = 256

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ConfigError(f"{self!r}: max_tokens must be at least 1")

    def chunk(self, document: Document, tokenizer: Tokenizer) -> list[Chunk]:
        """Cut at the coarsest boundary that keeps every chunk within the size."""
        text = document.full_text
        tokens = _token_starts(text, tokenizer)
        prefix, rest = _chunk_prefix(document, tokenizer, self.max_tokens)
        sections, paragraphs, lines = _chunk_boundaries(text)
        units = _chunk_spans_that_fit((0, len(text)), [sections, paragraphs, lines, tokens], tokens, rest)
        spans: list[Span] = []
        for unit in units:
            room = self.max_tokens if len(spans) <= 1 else rest
            if spans and _chunk_token_count(tokens, (spans[-1][0], unit[1])) <= room:
                spans[-1] = (spans[-1][0], unit[1])
            else:
                spans.append(unit)
        return _chunks_of_spans(document, prefix, spans)


def _chunks_of_spans(document: Document, prefix: str, spans: Sequence[Span]) -> list[Chunk]:
    """Chunks of the spans, without blank ends; blank spans are left out."""
    text, out = document.full_text, list[Chunk]()
    for start, end in spans:
        piece = text[start:end].rstrip()
        stripped = piece.lstrip("\n")
        if not stripped:
            continue
        at = end - len(text[start:end]) + len(piece) - len(stripped)
        body = prefix + stripped if out else stripped
        out.append(Chunk(len(out), body, at, at + len(stripped)))
    return out


def _token_starts(text: str, tokenizer: Tokenizer) -> list[int]:
    """First character of each token, the first one moved to 0 so that nothing before it is lost."""
    return [0, *(start for start, _ in tokenizer.offsets(text)[1:])]


def _chunk_prefix(document: Document, tokenizer: Tokenizer, size: int) -> tuple[str, int]:
    """Title that stands before later chunks, at most half of their size, and the tokens left for the text."""
    kept = tokenizer.offsets(document.title)[: size // 2]
    return (f"{document.title[: kept[-1][1]]}\n", size - len(kept)) if kept else ("", size)


def _chunk_token_count(tokens: Sequence[int], span: Span) -> int:
    return bisect_left(tokens, span[1]) - bisect_left(tokens, span[0])


def _chunk_spans_that_fit(
    span: Span, levels: Sequence[Sequence[int]], tokens: Sequence[int], room: int
) -> Iterator[Span]:
    """Span itself if it has room, else its parts at the first of the levels, each fitted in turn."""
    if not levels or _chunk_token_count(tokens, span) <= room:
        yield span
        return
    starts = levels[0]
    inner = starts[bisect_left(starts, span[0]) : bisect_left(starts, span[1])]
    for part in pairwise(sorted({*span, *inner})):
        yield from _chunk_spans_that_fit(part, levels[1:], tokens, room)


def _chunk_boundaries(text: str) -> tuple[list[int], list[int], list[int]]:
    """Characters at which sections, paragraphs and lines start; what follows a title stays with it."""
    sections, paragraphs, starts = list[int](), list[int](), list[int]()
    lines = text.splitlines(keepends=True)
    at, before, titled = 0, "blank", False
    for line, kind in zip(lines, _chunk_line_kinds(lines), strict=True):
        starts.append(at)
        if kind == "title":
            sections.append(at)
        if kind == "title" or (not titled and (kind, before) in _OPENS):
            paragraphs.append(at)
        titled = kind in ("title", "underline") or (titled and kind == "blank")
        at, before = at + len(line), kind
    return sections, paragraphs, starts


def _chunk_line_kinds(lines: Sequence[str]) -> Iterator[str]:
    """Say what each line is: title, underline, block (first of a fence or doctest), inside, blank or text."""
    fence, doctest, kind = "", False, "blank"
    for line, after in pairwise([*lines, ""]):
        mark = _FENCE.match(line)
        if fence:
            kind, fence = "inside", "" if mark and mark[1] == fence else fence
        elif not line.strip():
            kind, doctest = "blank", False
        elif doctest:
            kind = "inside"
        elif mark:
            kind, fence = "block", mark[1]
        elif line.lstrip().startswith(">>>"):
            kind, doctest = "block", True
        elif _UNDERLINE.match(line):
            kind = "underline" if kind == "title" else "text"
        else:
            kind = "title" if _HEADING.match(line) or _UNDERLINE.match(after) else "text"
        yield kind
