"""What a guard that reads words cannot see: operators, signs, codes of formats, marks in quotes, case of a letter.

These change a meaning entirely and an embedding hardly ("price > 5" and "price < 5" have a cosine of 0.99), so that
two questions must have the same ones in the same order. Marks that are punctuation as often ("x - y", "a file - with
rows", "rows / columns", "json -> csv") count between operands; between plain words they count only where the other
question has such a mark too, and another one.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

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
    r"|(?<=\b\w)[/&](?=\w\b)|(?<![\w)\]'\"-])-(?=[\w.(])|(?<![\w!?])!(?=[\w(])|\[:|:\])"
)
_OPERAND = re.compile(r"[A-Za-z]|[-+]?\.?\d.*|.*(?:\w[._]\w|[)\]]$|^[(\[]).*")
# "a" and "I" are words
_LETTER = re.compile(r"(?<![\w'\"\\%])(?<!\b\w\.)[B-HJ-Zb-hj-z](?![\w'\"]|\.\w)")


@dataclass(frozen=True, slots=True)
class Signs:
    """``strong`` ones must be equal, ``weak`` ones where both questions have some; ``letters`` stand alone."""

    strong: tuple[str, ...]
    weak: tuple[str, ...]
    letters: frozenset[str]

    def conflict(self, other: "Signs") -> str:
        """What differs, as ``these / those``; empty for nothing."""
        if self.strong != other.strong:
            return f"{_listed(self.strong)} / {_listed(other.strong)}"
        if self.weak and other.weak and self.weak != other.weak:
            return f"{_listed(self.weak)} / {_listed(other.weak)}"
        cased = sorted(x for x in self.letters - other.letters if x.swapcase() in other.letters - self.letters)
        return f"{_listed(cased)} / {_listed([x.swapcase() for x in cased])}" if cased else ""


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
    return Signs(tuple(strong), tuple(weak), frozenset(_LETTER.findall(text)))


def _between_operands(text: str, sign: re.Match[str]) -> bool:
    before, after = text[: sign.start()].split(), text[sign.end() :].split()
    return bool(before and after and _OPERAND.fullmatch(before[-1]) and _OPERAND.fullmatch(after[0]))


def _listed(signs: "tuple[str, ...] | list[str]") -> str:
    return " ".join(signs) or "none"
