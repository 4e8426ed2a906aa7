"""Whether two questions that are near may share an answer: by their words, and by signs that words do not show.

These change a meaning entirely and an embedding hardly ("price > 5" and "price < 5" have a cosine of 0.99), so that two
questions must have the same ones in the same order, and letters that stand alone ("a x b") too. Marks that are
punctuation as often ("x - y", "a file - with rows", "rows / columns", "json -> csv") count between operands; between
plain words they count only where the other question has such a mark too, and another one.
"""

import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache, lru_cache
from pathlib import Path

from workbench.errors import ConfigError, unknown_name
from workbench.evalset.texts import is_latin, units
from workbench.records import content_hash

_SAME = str.maketrans(
    {"\u2212": "-", "\u2013": "-", "\u2264": "<=", "\u2265": ">=", "\u2260": "!=", "\u2192": "->"}
    | dict.fromkeys("\u2018\u2019\u201c\u201d`", "'")
)
_MARKUP = re.compile(r"<[/!]?[A-Za-z][\w:.-]*(?:\s+[\w:-]+=(?:\"[^\"]*\"|'[^']*'|[^\s<>'\"][^\s<>]*))*\s*/?>|\w+://\S+")
_SIGN = re.compile(
    r"(?<!\w)(['\"])(?P<quoted>\w|[^\w'\"]{1,3})\1(?!\w)"
    r"|(?P<code>%[-+#0-9.]*[A-Za-z](?:[^\s'\",;]*%[-+#0-9.]*[A-Za-z])*|\\[A-Za-z])"
    r"|(?P<number>(?<![\w.])\d+(?:\.\d+)?[eE][-+]?\d+(?!\w)|(?<![\w)\]'\"])[-+]\.?\d+(?:[.,]\d+)*(?:[eE][-+]?\d+)?)"
    r"|(?P<plain>(?<![\w.])\d+(?:[.,]\d+)*(?!\w))"
    r"|(?P<weak><-+(?!\d)|[-=]+>|(?<=\s)[-/&](?=\s))"
    r"|(?P<mark>[=!]==?|[-+*/&|^]=|<>|<<|>>|[<>]=?|\*\*|\+\+|&&|\|\||//|[+*|^~\u00d7\u00f7\u00b1]"
    r"|(?<=\b\w)[/&](?=\w\b)|(?<![\w)\]'\"-])-(?=[\w.(])|(?<![\w!?])!(?=[\w(])|\[:|:\]|\[\[|\]\])"
)
_OPERAND = re.compile(r"[A-Za-z]|[-+]?\.?\d.*|.*(?:\w[._]\w|[)\]]$|^[(\[]).*")
# "a" and "I" are words; but "a" before no word, and "A" after one, is a letter
_LETTER = re.compile(r"(?<![\w'\"\\%])(?<!\b\w\.)(?:[B-HJ-Zb-hj-z]|a(?!\s+\w)|(?<=\w\s)A)(?![\w'\"]|\.\w)")


@dataclass(frozen=True, slots=True)
class Signs:
    """``strong`` ones must be equal, ``weak`` ones where both have some; ``letters`` stand alone, in their order."""

    strong: tuple[str, ...]
    weak: tuple[str, ...]
    letters: tuple[str, ...]

    def conflict(self, other: "Signs") -> str:
        """What differs, as ``these / those``; empty for nothing."""
        if self.strong != other.strong:
            return f"{_told(self.strong)} / {_told(other.strong)}"
        if self.weak and other.weak and self.weak != other.weak:
            return f"{_told(self.weak)} / {_told(other.weak)}"
        if self.letters != other.letters and sorted(self.letters) == sorted(other.letters):
            return f"{_told(self.letters)} / {_told(other.letters)}"
        mine, theirs = frozenset(self.letters), frozenset(other.letters)
        cased = sorted(x for x in mine - theirs if x.swapcase() in theirs - mine)
        return f"{_told(cased)} / {_told([x.swapcase() for x in cased])}" if cased else ""


@lru_cache(maxsize=100_000)
def signs_of(text: str) -> Signs:
    """All signs of a text, case kept."""
    text = _MARKUP.sub(" ", text.translate(_SAME))
    every = list(_SIGN.finditer(text))
    signed = any(found.lastgroup == "number" for found in every)
    strong, weak = list[str](), list[str]()
    for found in every:
        kind, sign = found.lastgroup, found[found.lastgroup or 0]
        if kind == "weak" and not (sign in "-/&" and _between_operands(text, found)):
            weak.append(sign)
        elif kind != "plain" or signed:  # which of several numbers has the sign
            strong.append(f"'{sign}'" if kind == "quoted" else sign.lower() if kind == "number" else sign)
    return Signs(tuple(strong), tuple(weak), tuple(_LETTER.findall(text)))


def _between_operands(text: str, sign: re.Match[str]) -> bool:
    before, after = text[: sign.start()].split(), text[sign.end() :].split()
    return bool(before and after and _OPERAND.fullmatch(before[-1]) and _OPERAND.fullmatch(after[0]))


def _told(signs: "tuple[str, ...] | list[str]") -> str:
    return " ".join(signs) or "none"


Words = frozenset[str]


@dataclass(frozen=True, slots=True)
class WordLists:
    """Word lists by use.

    Attributes
    ----------
    antonyms : tuple of (str, str)
        Each word with its opposite.
    opposites : tuple of tuple of frozenset
        The two sides of each topic.
    numbers, synonyms, names : mapping of str to str
        Each word with the one that stands for it.
    sha256 : str
        Hash of all of them, whatever their file looks like.
    """

    negations: Words
    empty: Words
    filler: Words
    antonyms: tuple[tuple[str, str], ...]
    opposites: tuple[tuple[Words, Words], ...]
    numbers: Mapping[str, str]
    synonyms: Mapping[str, str]
    names: Mapping[str, str]
    sha256: str


@cache
def load_words() -> WordLists:
    """Word lists of the package."""
    raw = tomllib.loads(Path(__file__).with_name("wordlists.toml").read_text(encoding="utf-8"))
    sides = [[frozenset(side.split()) for side in line.split("/")] for line in raw["opposites"]]
    return WordLists(
        negations=frozenset(raw["negations"].split()),
        empty=frozenset(raw["empty"].split()),
        filler=frozenset(raw["filler"].split()),
        antonyms=tuple((one, other) for one, _, other in map(str.split, raw["antonyms"])),
        opposites=tuple((one, other) for one, other in sides),
        numbers={word: str(number) for number, word in enumerate(raw["numbers"].split())},
        synonyms=_first_of_line(raw["synonyms"]),
        names=_first_of_line(raw["names"]),
        sha256=content_hash(json.dumps(raw, sort_keys=True)),
    )


def _first_of_line(lines: list[str]) -> Mapping[str, str]:
    return {word: line.split()[0] for line in lines for word in line.split()}


GRAVE = ("opposite", "negation", "antonym")  # kinds of pairs whose wrong answer says the contrary
# Raised with every change of what the checks say: a decision that was made with other rules is stale.
RULES = 2
FEW = 0.5
# The lists of opposites are English: in another script more counts as few, and a word of it may be three signs.
FEW_ELSEWHERE, WORD_SIGNS = 0.6, 3
# quoted values; dotted names; names with an underscore; names before "(" or "="
_CODE = re.compile(
    r"""(?<![\w'"])(?:'[\w .%/:+-]{1,40}'|"[\w .%/:+-]{1,40}")"""
    r"""|(?:[A-Za-z_]\w*\.)+[A-Za-z_]\w*|[A-Za-z]\w*_\w+|[A-Za-z_]\w*(?=[(=])"""
)
_INTO, _OUT_OF = frozenset({"to", "into", "->"}), frozenset({"from"})


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
    figures, names, code : bool
        Not each of them has a number (of a version, a date ...; number words count), a library, product or format,
        or a code word (identifier, argument, quoted value) that the other has not.
    opposites : bool
        As ``antonyms``, with a long list of groups of opposite words.
    direction : bool
        What one turns *into*, the other does not come *from*.
    wording : bool
        Their content words are the same in the same order, or the one is the other in other words altogether: more
        than half of the words of either are not in the other, and they neither begin nor end with the same word. So
        few words exchanged, a clause more or another clause in the same sentence stop a pair, whatever else a longer
        text holds. Filler, endings, near-synonyms and typing errors are no difference. Of a script without blanks
        signs are compared; in every script but Latin it must be more than 60 %, and more than three words or signs.
    signs : bool
        Both have the same operators, signs of numbers, codes of formats and marks in quotes in the same order, and no
        letter that stands alone is a capital in one of them or has another place among them, see
        `workbench.caching.guard`.

    Examples
    --------
    >>> Guard().explain("turn dark mode on", "turn dark mode off")
    ('antonyms: on / off',)
    >>> Guard().allows("when do you open", "what are your opening hours")
    True
    >>> Guard(wording=True).explain("go through a parquet file batch by batch", "go through a csv file batch by batch")
    ('wording: parquet / csv',)
    >>> Guard(wording=True).explain("write a csv", "write a csv that is compressed and quoted throughout")
    ('wording: none / compress, quot, throughout',)
    >>> Guard(signs=True).explain("rows with a price > 5", "rows with a price < 5")
    ('signs: > / <',)
    """

    numbers: bool = True
    negation: bool = True
    antonyms: bool = True
    word_order: bool = True
    entities: bool = False
    figures: bool = False
    names: bool = False
    code: bool = False
    opposites: bool = False
    direction: bool = False
    wording: bool = False
    signs: bool = False

    def allows(self, asked: str, cached: str) -> bool:
        """Whether the cached answer may be served."""
        return _allows(self, asked, cached)

    def explain(self, asked: str, cached: str) -> tuple[str, ...]:
        """Every objection as ``check: what differs``; none where the guard lets the pair pass."""
        return tuple(self._objections(asked, cached))

    def sha256(self, pairs: Iterable[tuple[str, str]]) -> str:
        """Hash of the rules and of what they say of these pairs: it tells whether this is a tested guard."""
        return content_hash(rules_sha256(), *(str(self.allows(asked, cached)) for asked, cached in pairs))

    def _objections(self, asked: str, cached: str) -> Iterator[str]:
        a, b = _features(asked), _features(cached)
        if self.numbers and a.numbers != b.numbers:
            yield f"numbers: {_listed(a.numbers)} / {_listed(b.numbers)}"
        if self.negation and a.negations % 2 != b.negations % 2:
            yield f"negation: {a.negations} / {b.negations}"
        if self.antonyms and (alone := a.words ^ b.words):
            for one, other, stems in _antonyms():
                if alone >= stems:
                    first, second = (one, other) if _stem(one) in a.words else (other, one)
                    yield f"antonyms: {first} / {second}"
        if self.word_order and a.content != b.content and sorted(a.content) == sorted(b.content):
            yield "word_order: the same words in another order"
        if self.entities and a.entities != b.entities:
            yield f"entities: {_listed(a.entities)} / {_listed(b.entities)}"
        yield from self._conflicts(_wording(asked), _wording(cached))
        if self.signs and (differ := signs_of(asked).conflict(signs_of(cached))):
            yield f"signs: {differ}"

    def _conflicts(self, a: "_Wording", b: "_Wording") -> Iterator[str]:
        for check in ("figures", "names", "code"):
            one, other = getattr(a, check), getattr(b, check)
            if getattr(self, check) and one - other and other - one:
                yield f"{check}: {_listed(one - other)} / {_listed(other - one)}"
        if self.opposites:
            for topic, sides in a.poles.items():
                theirs = b.poles.get(topic, {})
                if len(sides) == len(theirs) == 1 and sides.keys() != theirs.keys():
                    yield f"opposites: {next(iter(sides.values()))} / {next(iter(theirs.values()))}"
        if self.direction and (turned := (a.into & b.out_of) | (a.out_of & b.into)):
            yield f"direction: {_listed(frozenset(turned))}"
        if self.wording:
            yield from _rewording(a, b)


def rules_sha256() -> str:
    """Hash of the version of the rules and of their word lists, which no pair needs to reach."""
    return content_hash(str(RULES), load_words().sha256)


def make_guard(checks: Sequence[str]) -> Guard | None:
    """Guard with these checks alone, None for none.

    Raises
    ------
    ConfigError
        If there is no such check.
    """
    known = [f.name for f in fields(Guard)]
    for name in checks:
        if name not in known:
            raise ConfigError(unknown_name("check of the guard", name, known))
    return Guard(**{name: name in checks for name in known}) if checks else None


@lru_cache(maxsize=20_000)  # replays at other thresholds meet the same pairs again
def _allows(guard: Guard, asked: str, cached: str) -> bool:
    return next(guard._objections(asked, cached), None) is None


def _rewording(a: "_Wording", b: "_Wording") -> Iterator[str]:
    mine, theirs = a.counts - b.counts, b.counts - a.counts
    alone = {*mine, *theirs}
    if a.latin and b.latin:  # in Russian one letter turns on into off
        mine, theirs = without_typos(mine, theirs)
    if mine or theirs:
        # who adds or exchanges a part keeps the rest; who says it in other words keeps neither many nor an end
        if min(mine.total(), theirs.total()) <= a.few(b) or a.roots[:1] == b.roots[:1] or a.roots[-1:] == b.roots[-1:]:
            yield f"wording: {_listed(frozenset(mine))} / {_listed(frozenset(theirs))}"
    elif [root for root in a.roots if root not in alone] != [root for root in b.roots if root not in alone]:
        yield "wording: the same words in another order"


@dataclass(frozen=True, slots=True)
class _Features:
    words: frozenset[str]
    content: tuple[str, ...]
    numbers: frozenset[str]
    negations: int
    entities: frozenset[str]


@lru_cache(maxsize=100_000)
def _features(text: str) -> _Features:
    words = load_words()
    lower = text.lower().replace("\u2019", "'").replace("n't", " not")
    tokens = re.findall(r"[^\W\d]+|\d+(?:[.,]\d+)*", lower) if is_latin(lower) else units(lower)
    capitals = re.findall(r"(?<![.!?]\s)(?<=\s)[^\W\d_a-z]\w*", text)
    return _Features(
        words=frozenset(map(_stem, tokens)),
        content=tuple(_stem(w) for w in tokens if w not in words.empty),
        numbers=frozenset(w for w in tokens if w[0].isdigit()),
        negations=sum(w in words.negations for w in tokens),
        entities=frozenset(w.lower() for w in capitals if w != "I"),
    )


@dataclass(frozen=True, slots=True)
class _Wording:
    """What the later checks look at; ``roots`` are the content words without endings, in order.

    ``poles`` has, by topic of opposite words, the side that the text takes and the word that says so.
    """

    roots: tuple[str, ...]
    counts: Counter[str]
    figures: frozenset[str]
    names: frozenset[str]
    code: frozenset[str]
    poles: dict[int, dict[int, str]]
    into: frozenset[str]
    out_of: frozenset[str]
    latin: bool

    def few(self, other: "_Wording") -> float:
        """How many words are few of the shorter one's."""
        shorter = min(len(self.roots), len(other.roots))
        return FEW * shorter if self.latin and other.latin else max(FEW_ELSEWHERE * shorter, WORD_SIGNS)


@lru_cache(maxsize=100_000)
def _wording(text: str) -> _Wording:
    words = load_words()
    lower = text.lower().replace("\u2019", "'").replace("n't", " not").replace("cannot", "can not")
    said = units(lower)
    tokens = [words.numbers.get(w, w) for w in said]
    kept = [w for w in tokens if w not in words.filler]
    roots = tuple(words.synonyms.get(w) or _root(w) for w in kept)
    poles: dict[int, dict[int, str]] = {}
    for word in tokens:
        for topic, side in _topics().get(_root(word), ()):
            poles.setdefault(topic, {})[side] = word
    follows: dict[bool, set[str]] = {True: set(), False: set()}
    marker = ""
    for word in tokens:
        if word in _INTO or word in _OUT_OF:
            marker = word
        elif marker and word not in words.filler:
            follows[marker in _INTO].add(words.synonyms.get(word) or _root(word))
            marker = ""
    return _Wording(
        roots=roots,
        counts=Counter(roots),
        figures=frozenset(
            words.numbers.get(w, w) for w in said if w[0].isdigit() or words.numbers.get(w, "0") not in "01"
        ),
        names=frozenset(words.names[w] for w in tokens if w in words.names),
        code=frozenset(w.strip("'\"").rpartition(".")[2] for w in _CODE.findall(text)),
        poles=poles,
        into=frozenset(follows[True]),
        out_of=frozenset(follows[False]),
        latin=is_latin(text) or not roots,
    )


def content_of(text: str) -> tuple[tuple[str, ...], Counter[str]]:
    """Content words without endings in their order, as the check ``wording`` compares them, and how often each is."""
    found = _wording(text)
    return found.roots, found.counts


def root_of(word: str) -> str:
    """What stands for a word in lower case: a digit for a number word, the first of its synonyms, or its root."""
    word = load_words().numbers.get(word, word)
    return load_words().synonyms.get(word) or _root(word)


@lru_cache(maxsize=1)
def _antonyms() -> tuple[tuple[str, str, frozenset[str]], ...]:
    """Each word and its opposite, and how both stand among the words of a text."""
    return tuple((one, other, frozenset({_stem(one), _stem(other)})) for one, other in load_words().antonyms)


@lru_cache(maxsize=1)
def _topics() -> dict[str, tuple[tuple[int, int], ...]]:
    """Root of a word -> topics of opposite words and its side in each."""
    out: dict[str, tuple[tuple[int, int], ...]] = {}
    for topic, sides in enumerate(load_words().opposites):
        for side, words in enumerate(sides):
            for word in words:
                out[_root(word)] = (*out.get(_root(word), ()), (topic, side))
    return out


@lru_cache(maxsize=100_000)
def _stem(word: str) -> str:
    """Word without its common endings, so that ``closed`` meets ``close``."""
    return re.sub(r"(?:ing|ed|es|s|e)$", "", word) if len(word) > 4 else word


@lru_cache(maxsize=100_000)
def _root(word: str) -> str:
    """As `_stem`, and ``dropping`` meets ``drop``, ``rows`` meets ``row``, ``copies`` meets ``copy``."""
    if len(word) <= 4:
        return word[:-1] if len(word) == 4 and word.endswith("s") and not word.endswith("ss") else word
    bare = re.sub(r"(?:ing|ed|es|s|e)$", "", re.sub(r"ie[sd]$", "ys", word))
    return bare[:-1] if re.search(r"([bdgmnprt])\1$", bare) else bare


def without_typos(mine: Counter[str], theirs: Counter[str]) -> tuple[Counter[str], Counter[str]]:
    """Words of one side alone, less those that are one typing error away from one of the other side."""
    for word in list(mine):
        near = next((other for other in theirs if theirs[other] and _typo(word, other)), None)
        if near is not None:
            both = min(mine[word], theirs[near])
            mine, theirs = mine - Counter({word: both}), theirs - Counter({near: both})
    return mine, theirs


def _typo(one: str, other: str) -> bool:
    """Whether a letter is missing, or two neighbours are swapped, in a word of five letters or more."""
    short, long = sorted((one, other), key=len)
    if len(short) < 5 or short[0] != long[0] or not long.isalpha():
        return False
    if len(long) == len(short) + 1:
        return any(long[:i] + long[i + 1 :] == short for i in range(1, len(long)))
    swaps = (short[:i] + short[i + 1] + short[i] + short[i + 2 :] for i in range(len(short) - 1))
    return len(long) == len(short) and long in swaps


def _listed(words: frozenset[str]) -> str:
    return ", ".join(sorted(words)) or "none"
