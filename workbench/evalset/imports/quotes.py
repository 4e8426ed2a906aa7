"""Quoted passages as judgements: in which document a quote stands, whatever ids, format and chunks the documents have.

Documents are ranked, not chunks, so a quote says which document is relevant. Whoever keeps quotes beside the questions
need not judge again when documents are parsed, named or cut in another way.
"""

from collections import defaultdict
from collections.abc import Iterable

from workbench.evalset.cells import Unusable, shown
from workbench.records import Document
from workbench.rendering.numbers import counted

_NAMED, _BEGINNING = 3, 4


class Quotes:
    r"""Finds the document that a quote stands in, by its exact words; blanks and line ends count as one blank.

    >>> quotes = Quotes([Document("a.md", "Send it back\nwithin a week."), Document("b.md", "Fees apply.")])
    >>> quotes.document("back  within a week", "default")
    'a.md'
    """

    def __init__(self, documents: Iterable[Document]) -> None:
        self._texts: dict[str, dict[str, str]] = defaultdict(dict)
        for document in documents:
            self._texts[document.tenant_id][document.doc_id] = _one_line(document.full_text)

    def document(self, quote: str, tenant_id: str, doc_id: str = "") -> str:
        """Id of the one document of a tenant that holds the quote; ``doc_id`` is the one that is said to.

        Raises
        ------
        Unusable
            If none holds it, two do, or another than the one that is said to; with what of it is there.
        """
        words, texts = _one_line(quote), self._texts.get(tenant_id, {})
        if not words:
            raise Unusable("the quote is empty")
        found = [key for key, text in texts.items() if words in text]
        if doc_id and (doc_id in found or doc_id not in texts):  # an unknown id is told with the others
            return doc_id
        if doc_id or not found:
            told = f"document {doc_id!r} does not hold" if doc_id else "no document holds"
            raise Unusable(f"{told} the quote {shown(words)}{_beginning(words, texts)}")
        if len(found) > 1:
            more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
            where = f"{counted(len(found), 'document')} ({', '.join(found[:_NAMED])}{more})"
            raise Unusable(f"the quote {shown(words)} stands in {where}; quote more, or name them by id")
        return found[0]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _beginning(words: str, texts: dict[str, str]) -> str:
    """Where the first words of a quote stand, if the whole does not."""
    first = " ".join(words.split()[:_BEGINNING])
    found = [key for key, text in texts.items() if first in text]
    return f"; {found[0]} has its first words, {first!r}" if found and first != words else ""
