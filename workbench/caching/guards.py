"""A second look at the words of two near questions: what embeddings do not tell apart is often one word."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

_NEGATIONS = frozenset({"not", "no", "never", "without", "cannot", "cant", "dont", "doesnt", "isnt", "wont"})
_ANTONYMS = (
    ("enable", "disable"), ("on", "off"), ("increase", "decrease"), ("raise", "lower"), ("before", "after"),
    ("with", "without"), ("start", "stop"), ("open", "close"), ("add", "remove"), ("activate", "deactivate"),
    ("import", "export"), ("upgrade", "downgrade"), ("buy", "sell"), ("first", "last"), ("minimum", "maximum"),
)  # fmt: skip
_EMPTY = frozenset({
    "a", "an", "the", "of", "in", "is", "are", "was", "were", "be", "do", "does", "did", "i", "my", "me", "you",
    "your", "we", "our", "it", "its", "this", "that",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Guard:
    """Lexical guard: a hit whose two questions differ in one of these ways is treated as a miss.

    It helps against adversarial wording (polarity, quantity, direction), not against intents that are confused;
    it costs hits where people say the same with and without a number. So it is an arm, never a default.

    Attributes
    ----------
    numbers : bool
        Both name the same numbers.
    negation : bool
        Both hold an even, or both an odd number of negations.
    antonyms : bool
        Neither has a word where the other has its opposite.
    word_order : bool
        They are not the same content words in another order.
    entities : bool
        Both name the same capitalised words, apart from the first word of a sentence. Off by default: it needs
        traffic that is written with capitals.

    Examples
    --------
    >>> Guard().explain("turn dark mode on", "turn dark mode off")
    ('antonyms: on / off',)
    >>> Guard().allows("when do you open", "what are your opening hours")
    True
    """

    numbers: bool = True
    negation: bool = True
    antonyms: bool = True
    word_order: bool = True
    entities: bool = False

    def allows(self, asked: str, cached: str) -> bool:
        """Whether the cached answer may be served."""
        return next(self._objections(asked, cached), None) is None

    def explain(self, asked: str, cached: str) -> tuple[str, ...]:
        """Every objection as ``check: what differs``; none where the guard lets the pair pass."""
        return tuple(self._objections(asked, cached))

    def _objections(self, asked: str, cached: str) -> Iterator[str]:
        a, b = _features(asked), _features(cached)
        if self.numbers and a.numbers != b.numbers:
            yield f"numbers: {_listed(a.numbers)} / {_listed(b.numbers)}"
        if self.negation and a.negations % 2 != b.negations % 2:
            yield f"negation: {a.negations} / {b.negations}"
        if self.antonyms:
            for one, other in _ANTONYMS:
                x, y = ((_stem(one) in side.words, _stem(other) in side.words) for side in (a, b))
                if x[0] != y[0] and x[1] != y[1]:
                    first, second = (one, other) if x[0] else (other, one)
                    yield f"antonyms: {first} / {second}"
        if self.word_order and a.content != b.content and sorted(a.content) == sorted(b.content):
            yield "word_order: the same words in another order"
        if self.entities and a.entities != b.entities:
            yield f"entities: {_listed(a.entities)} / {_listed(b.entities)}"


@dataclass(frozen=True, slots=True)
class _Features:
    words: frozenset[str]
    content: tuple[str, ...]
    numbers: frozenset[str]
    negations: int
    entities: frozenset[str]


@lru_cache(maxsize=100_000)
def _features(text: str) -> _Features:
    tokens = re.findall(r"[^\W\d]+|\d+(?:[.,]\d+)*", text.lower().replace("\u2019", "'").replace("n't", " not"))
    capitals = re.findall(r"(?<![.!?]\s)(?<=\s)[^\W\d_a-z]\w*", text)
    return _Features(
        words=frozenset(map(_stem, tokens)),
        content=tuple(_stem(w) for w in tokens if w not in _EMPTY),
        numbers=frozenset(w for w in tokens if w[0].isdigit()),
        negations=sum(w in _NEGATIONS for w in tokens),
        entities=frozenset(w.lower() for w in capitals if w != "I"),
    )


@lru_cache(maxsize=100_000)
def _stem(word: str) -> str:
    """Word without its common endings, so that ``closed`` meets ``close``."""
    return re.sub(r"(?:ing|ed|es|s|e)$", "", word) if len(word) > 4 else word


def _listed(words: frozenset[str]) -> str:
    return ", ".join(sorted(words)) or "none"
