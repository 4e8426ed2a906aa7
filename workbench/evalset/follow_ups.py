"""Whether a question needs earlier turns to be understood: "and in pyarrow?", "why?", "the same but descending".

By word lists, in a dozen languages: it finds what begins, points back or breaks off as a follow-up does, where it is
short. A follow-up that says so in no such way is not found; who keeps its turns in the key needs none of this.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from workbench.evalset.texts import spaceless, units

# What is longer names its own subject.
SHORT_WORDS, SHORT_SIGNS, FRAGMENT_WORDS = 7, 26, 3

Phrases = tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class _FollowUpLists:
    polite: frozenset[str]
    openers: Phrases
    anaphors: Phrases
    endings: Phrases
    bare: Phrases
    fragments: frozenset[str]


@cache
def _follow_up_lists() -> _FollowUpLists:
    raw = tomllib.loads(Path(__file__).with_name("follow_ups.toml").read_text(encoding="utf-8"))
    phrases = {name: tuple(tuple(units(p)) for p in raw[name]) for name in ("openers", "anaphors", "endings", "bare")}
    return _FollowUpLists(frozenset(raw["polite"].split()), fragments=frozenset(raw["fragments"].split()), **phrases)


@lru_cache(maxsize=100_000)
def needs_turns(text: str) -> bool:
    """Whether a question says too little without the turns before it.

    >>> [needs_turns(text) for text in ("And in pyarrow?", "why?", "the same but descending", "那删除呢")]
    [True, True, True, True]
    >>> needs_turns("how do I sort a frame so that it is descending?"), needs_turns("merge_asof")
    (False, False)
    """
    lists, said = _follow_up_lists(), units(text.lower())
    while said and said[0] in lists.polite:
        said = said[1:]
    while said and said[-1] in lists.polite:
        said = said[:-1]
    if not said or len(said) > (SHORT_SIGNS if spaceless(text) else SHORT_WORDS):
        return False
    return (
        any(_follow_up_phrase_at(said, phrase, 0) and len(said) > len(phrase) for phrase in lists.openers)
        or any(_follow_up_phrase_at(said, phrase, len(said) - len(phrase)) for phrase in lists.endings)
        or any(_follow_up_phrase_at(said, phrase, i) for phrase in lists.anaphors for i in range(len(said)))
        or (said[0] in lists.fragments and len(said) <= FRAGMENT_WORDS)
        or _is_bare_follow_up(said)
    )


def _follow_up_phrase_at(said: Sequence[str], phrase: Sequence[str], place: int) -> bool:
    return place >= 0 and tuple(said[place : place + len(phrase)]) == tuple(phrase)


def _is_bare_follow_up(said: Sequence[str]) -> bool:
    """Whether phrases that say nothing alone, one after the other, are all of a text."""
    left = list(said)
    while left:
        found = max((p for p in _follow_up_lists().bare if _follow_up_phrase_at(left, p, 0)), key=len, default=())
        if not found:
            return False
        left = left[len(found) :]
    return True
