"""What texts share: words in any script, whether a question is a document, and which questions are one family."""

import re
from collections.abc import Iterable

from workbench.records import Document, Query

# Thai to Burmese, Khmer, kana, and the ideographs of Chinese and Japanese: no blanks stand between their words.
_SIGNS = (
    "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_SIGN, _UNIT = re.compile(f"[{_SIGNS}]"), re.compile(f"[{_SIGNS}]|[^\\W{_SIGNS}]+")


def words(text: str) -> list[str]:
    """Words of a text, case folded; of a script that puts no blanks between words, its signs one by one.

    >>> words("Œuvre von É"), words("深色 mode")
    (['œuvre', 'von', 'é'], ['深', '色', 'mode'])
    """
    return _UNIT.findall(text.casefold())


def spaceless(text: str) -> bool:
    """Whether more than a tenth of the letters of a text are of a script that puts no blanks between words.

    >>> spaceless("如何开启深色模式"), spaceless("how to open 深色"), spaceless("Как включить")
    (True, True, False)
    """
    letters = [c for c in text if c.isalpha()]
    return sum(bool(_SIGN.match(c)) for c in letters) > 0.1 * len(letters)


def text_key(text: str) -> str:
    """What two spellings of one text share: its words, or the text itself where it has none."""
    return " ".join(words(text)) or text.strip()


def own_documents(queries: Iterable[Query], documents: Iterable[Document]) -> frozenset[str]:
    """Ids of the questions that are documents too: same id *and* same text, be it with the title or without.

    Such a document is no hit for its own question. The id alone would drop what merely shares a number, as BEIR does;
    keeping it counts the question among its answers.

    >>> from workbench.records import Document, Query
    >>> notes = [Document("1", "Taxes are too high."), Document("2", "Lower them.")]
    >>> sorted(own_documents([Query("1", "taxes are too  high"), Query("2", "Who pays?")], notes))
    ['1']
    """
    asked = {q.query_id: q.text for q in queries}
    both = ((asked[d.doc_id], d) for d in documents if d.doc_id in asked)
    return frozenset(d.doc_id for text, d in both if text_key(text) in {text_key(d.text), text_key(d.full_text)})


def families(queries: Iterable[Query]) -> dict[str, str]:
    """Family of each question: its cluster, and one family for clusters that share a question's text.

    Two questions of one text stand and fall together, whatever clusters they were given; tuned on one of them, an arm
    has seen the other.

    >>> from workbench.records import Query
    >>> families([Query("1", "Why?", cluster="a"), Query("2", "why", cluster="b"), Query("3", "How?", cluster="c")])
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
