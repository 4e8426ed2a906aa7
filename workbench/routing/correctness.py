"""Whether an answer is right, where that needs no judge: it names an accepted name, or says yes or no rightly."""

import re
from collections.abc import Collection, Mapping, Sequence


def names_accepted(text: str, accept: Sequence[str]) -> bool:
    """Whether the text names one of the accepted names as a whole word.

    >>> names_accepted("Use `df.merge(how='left_anti')`.", ["left_anti"]), names_accepted("premerged", ["merge"])
    (True, False)
    """
    return any(re.search(_whole(name), text, re.IGNORECASE) for name in accept)


def says(text: str, accept: Sequence[str]) -> bool:
    """Whether the first word of the text is the accepted one, yes or no.

    >>> says("No, it does not.", ["no"]), says("Nobody knows", ["no"])
    (True, False)
    """
    first = re.match(r"\W*(\w+)", text)
    return first is not None and first[1].casefold() in {a.casefold() for a in accept}


def found_relevant(doc_ids: Sequence[str], grades: Mapping[str, int], *, depth: int = 5) -> bool:
    """Whether one of the first ``depth`` documents was judged relevant."""
    return any(grades.get(doc_id, 0) > 0 for doc_id in doc_ids[:depth])


def is_yes_no(accept: Collection[str]) -> bool:
    """Whether the question is one to be answered by yes or no."""
    return {a.casefold() for a in accept} <= {"yes", "no"}


def _whole(name: str) -> str:
    before = r"(?<!\w)" if name[:1].isalnum() else ""
    after = r"(?!\w)" if name[-1:].isalnum() else ""
    return before + re.escape(name) + after
