"""Words that the guard knows, read from ``wordlists.toml``."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from workbench.records import content_hash

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
