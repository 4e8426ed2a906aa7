"""What a text is made of: its words in any script, the scripts of its letters, and the key that its spellings share."""

import re
import unicodedata
from functools import cache

# Thai to Burmese, Khmer, kana of both widths, bopomofo, and ideographs: no blanks stand between their words.
_SIGNS = (
    "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3100-\u312f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff66-\uff9f\U00020000-\U0003ffff"
)
_EMOJI = "\u2600-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff"
_SYMBOLS = "\u00b5\u03bc\u03a9\u03c0"  # of micro, ohm and pi, in any language
_SIGN, _NUMBER = re.compile(f"[{_SIGNS}]"), r"|\d+(?:[.,:/]\d+)*"


def words(text: str) -> list[str]:
    """Words of a text, case folded; of a script that puts no blanks between words, its signs one by one.

    Vowel signs and accents are part of their word, however they are written.

    >>> words("Œuvre von É"), words("深色 mode"), words("डार्क मोड")
    (['œuvre', 'von', 'é'], ['深', '色', 'mode'], ['डार्क', 'मोड'])
    """
    found = re.compile(r"\w+") if text.isascii() else _pattern(f"[^\\W{_SIGNS}]")
    return found.findall(unicodedata.normalize("NFC", text.casefold()))


@cache
def _pattern(letter: str, number: str = "") -> re.Pattern[str]:
    """Signs one by one, and runs of letters with their marks: Python's own classes have no marks."""
    blocks = range(0x300, 0x20000), range(0xE0100, 0xE01F0)
    marks = "".join(c for block in blocks for c in map(chr, block) if unicodedata.category(c)[0] == "M")
    return re.compile(f"[{_SIGNS}]|{letter}+(?:[{_SIGN.sub('', marks)}]{letter}*)*{number}")


def units(text: str) -> list[str]:
    """What of a text is compared one by one: words without digits or underscores, signs, emoji, numbers.

    Of a text that has none of them all that is no blank.

    >>> units("open 深色 in v2.5 🌙"), units("? !")
    (['open', '深', '色', 'in', 'v', '2.5', '🌙'], ['?', '!'])
    """
    letter, rest = f"[^\\W\\d_{_SIGNS}]", f"{_NUMBER}|[{_EMOJI}]"
    found = re.compile(rf"[A-Za-z]+{_NUMBER}") if text.isascii() else _pattern(letter, rest)
    return found.findall(unicodedata.normalize("NFC", text)) or [c for c in text if not c.isspace()]


def is_latin(text: str) -> bool:
    """Whether a text has letters, and none of another script than Latin.

    >>> is_latin("Œuvre: 5 µs"), is_latin("тёмная тема"), is_latin("🌙")
    (True, False, False)
    """
    letters = [c for c in text if c.isalpha() and c not in _SYMBOLS]
    return bool(letters) and (text.isascii() or all("LATIN" in unicodedata.name(c, "") for c in letters))


def foreign_letter_share(text: str) -> float:
    """Share of the characters of a text that are letters of another script than Latin, marks, or emoji.

    An encoder of English knows next to none of them; of accents every one is a mark of its own. Blanks do not count.

    >>> foreign_letter_share("dark mode"), foreign_letter_share("тёмная")
    (0.0, 1.0)
    >>> foreign_letter_share("für große Dateien") < 0.1
    True
    """
    if text.isascii():
        return 0.0
    seen = [c for c in unicodedata.normalize("NFD", text) if not c.isspace()]
    strange = (unicodedata.category(c) in ("Mn", "Mc", "So") or (c.isalpha() and not is_latin(c)) for c in seen)
    return sum(strange) / max(len(seen), 1)


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
