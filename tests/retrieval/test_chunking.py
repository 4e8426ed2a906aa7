from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import ConfigError
from workbench.records import Document
from workbench.retrieval.chunking import ByStructure, FixedTokens, WholeDocument
from workbench.testing import WordTokenizer

TOKENS = WordTokenizer()
seeded = settings(derandomize=True, deadline=None)
LINES = st.sampled_from(
    [
        "word and more words",
        "Parameters",
        "----------",
        "# Heading",
        "```",
        "~~~",
        ">>> f(1)",
        "1",
        "",
        "  ",
        "x : int",
        "…",
    ]
)
TEXTS = st.one_of(st.text(max_size=300), st.lists(LINES, max_size=30).map("\n".join))
DOCUMENTS = st.builds(Document, st.just("d"), TEXTS, st.text(max_size=20) | st.just("pandas.merge"))
CHUNKERS = st.one_of(
    st.just(WholeDocument()),
    st.builds(ByStructure, st.integers(1, 30)),
    st.integers(1, 30).flatmap(lambda n: st.builds(FixedTokens, st.just(n), st.integers(0, (n - 1) // 2))),
)


@seeded
@given(DOCUMENTS, CHUNKERS)
def test_every_character_that_is_not_a_space_is_in_a_chunk(document, chunker):
    text = document.full_text
    covered = {i for c in chunker.chunk(document, TOKENS) for i in range(c.start, c.end)}
    assert all(i in covered or char.isspace() for i, char in enumerate(text))


@seeded
@given(DOCUMENTS, CHUNKERS)
def test_chunks_are_stable_and_numbered(document, chunker):
    chunks = chunker.chunk(document, TOKENS)
    assert chunks == chunker.chunk(document, TOKENS)
    assert [c.position for c in chunks] == list(range(len(chunks)))


@seeded
@given(DOCUMENTS, CHUNKERS)
def test_chunk_is_the_text_between_its_offsets(document, chunker):
    for chunk in chunker.chunk(document, TOKENS):
        assert chunk.text.endswith(document.full_text[chunk.start : chunk.end])
        assert chunk.text.strip()
        assert chunk.position > 0 or chunk.text == document.full_text[chunk.start : chunk.end]


@seeded
@given(DOCUMENTS, CHUNKERS)
def test_no_chunk_is_larger_than_asked(document, chunker):
    size = getattr(chunker, "size", getattr(chunker, "max_tokens", None))
    for chunk in chunker.chunk(document, TOKENS):
        assert size is None or len(TOKENS.offsets(chunk.text)) <= size


@pytest.mark.parametrize("chunker", [WholeDocument(), FixedTokens(), ByStructure()])
@pytest.mark.parametrize("text", ["", " \n\t"])
def test_blank_document_has_no_chunk(chunker, text):
    assert chunker.chunk(Document("d", text), TOKENS) == []


@pytest.mark.parametrize("chunker", [FixedTokens(8, 2), ByStructure(8)])
def test_later_chunks_say_what_they_are_of(chunker):
    document = Document("d", " ".join(f"w{i}" for i in range(40)), title="pandas.merge")
    first, *later = chunker.chunk(document, TOKENS)
    assert first.text.startswith("pandas.merge\n")
    assert later
    assert all(chunk.text.startswith("pandas.merge\n") for chunk in later)


def test_title_takes_at_most_half_of_a_chunk():
    document = Document("d", "one two three four five six", title="a b c d e f g h")
    texts = [c.text for c in FixedTokens(4, 0).chunk(document, TOKENS)]
    assert texts[0] == "a b c d"
    assert texts[-3:] == ["a b\none two", "a b\nthree four", "a b\nfive six"]


def test_windows_share_their_overlap():
    chunks = FixedTokens(4, 1).chunk(Document("d", "a b c d e f g h"), TOKENS)
    assert [c.text for c in chunks] == ["a b c d", "d e f g", "g h"]


@pytest.mark.parametrize("chunker", [FixedTokens(60, 0), FixedTokens(60, 20), ByStructure(60)])
def test_a_passage_that_comes_twice_is_at_its_own_place_both_times(chunker):
    """langchain-text-splitters 1.1.3 searches for the text behind it, and finds that of the other product."""
    steps = " ".join(f"Press button {i} and wait until lamp {i} is lit." for i in range(60))
    document = Document("d", f"Product one.\n\n{steps}\n\nProduct two.\n\n{steps}")
    chunks = chunker.chunk(document, TOKENS)
    starts = [c.start for c in chunks]
    assert starts == sorted(set(starts))
    gaps = [document.full_text[one.end : other.start] for one, other in pairwise(chunks)]
    assert not "".join(gaps).strip(), "no chunk jumps over text that is in none"


NUMPYDOC = """Merge frames.

Parameters
----------
left : DataFrame
    The left one.

right : DataFrame
    The right one.

Examples
--------
>>> merge(a, b)
   k  v
0  1  2

>>> merge(b, a)
   k  v
0  1  2"""


def test_sections_are_kept_whole_where_they_fit():
    texts = [c.text for c in ByStructure(40).chunk(Document("d", NUMPYDOC), TOKENS)]
    assert [t.split("\n")[0] for t in texts] == ["Merge frames.", "Examples"]
    texts = [c.text for c in ByStructure(26).chunk(Document("d", NUMPYDOC), TOKENS)]
    assert [t.split("\n")[0] for t in texts] == ["Merge frames.", "Parameters", "Examples", ">>> merge(b, a)"]


def test_doctest_and_its_output_are_not_parted():
    texts = [c.text for c in ByStructure(20).chunk(Document("d", NUMPYDOC), TOKENS)]
    assert all(("merge(a" in t) == (t.count("   k  v") > 0 and "(a" in t) for t in texts)
    assert sum("0  1  2" in t for t in texts) == 2


def test_fenced_block_is_not_cut_at_its_blank_lines():
    code = "```python\n# not a heading\nx = 1\n\ny = 2\n```"
    text = f"Intro words that fill up some of the room here.\n\n{code}\n\nOutro words after it."
    texts = [c.text for c in ByStructure(18).chunk(Document("d", text), TOKENS)]
    assert code in texts


def test_block_that_alone_is_too_long_is_cut_at_lines():
    code = "```\n" + "\n".join(f"call {i}" for i in range(20)) + "\n```"
    texts = [c.text for c in ByStructure(10).chunk(Document("d", code), TOKENS)]
    assert len(texts) > 3
    assert all(line in code.splitlines() for t in texts for line in t.splitlines())


def test_heading_stays_with_what_follows_it():
    text = "# One\n\nalpha beta gamma\n\n# Two\n\ndelta epsilon zeta"
    texts = [c.text for c in ByStructure(5).chunk(Document("d", text), TOKENS)]
    assert texts == ["# One\n\nalpha beta gamma", "# Two\n\ndelta epsilon zeta"]


@pytest.mark.parametrize(
    "build", [lambda: FixedTokens(8, 4), lambda: FixedTokens(8, -1), lambda: FixedTokens(0, 0), lambda: ByStructure(0)]
)
def test_sizes_that_cannot_work_are_refused(build):
    with pytest.raises(ConfigError):
        build()
