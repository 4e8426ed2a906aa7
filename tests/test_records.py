"""What a document and a question are made of is checked where they are made."""

import datetime as dt
from typing import Any

import pandas as pd
import pytest

from workbench.errors import ConfigError
from workbench.records import Document, Query

MISSING = (None, float("nan"), 7, b"bytes")


@pytest.mark.parametrize("value", MISSING)
@pytest.mark.parametrize("name", ["doc_id", "text", "title", "tenant_id", "document_type"])
def test_a_field_of_a_document_that_is_no_text_is_refused_by_its_name(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^{name} of Document .* must be text, found "):
        Document(**({"doc_id": "d", "text": "words"} | {name: value}))


@pytest.mark.parametrize("value", MISSING)
@pytest.mark.parametrize("name", ["query_id", "text", "tenant_id", "cluster", "feature", "style", "reference"])
def test_a_field_of_a_question_that_is_no_text_is_refused_by_its_name(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^{name} of Query .* must be text, found "):
        Query(**({"query_id": "q", "text": "words"} | {name: value}))


def test_a_list_of_names_is_taken_and_a_text_in_its_place_is_not_taken_for_its_letters() -> None:
    names: Any = ["one", "two"]
    document, query = Document("d", "words", aliases=names), Query("q", "words", accept=names)
    assert document.aliases == query.accept == ("one", "two")
    assert len({document, Document("d", "words", aliases=("one", "two"))}) == 1
    for wrong in ("one", ["one", None], None, {"one": 1}):
        odd: Any = wrong
        with pytest.raises(ConfigError, match="aliases of Document 'd' must be a list of texts, found"):
            Document("d", "words", aliases=odd)
        with pytest.raises(ConfigError, match="accept of Query 'q' must be a list of texts, found"):
            Query("q", "words", accept=odd)


def test_a_date_is_a_day_and_nothing_is_taken_for_one() -> None:
    day = dt.date(2026, 1, 31)
    for moment in (dt.datetime(2026, 1, 31, 9, 30, tzinfo=dt.UTC), pd.Timestamp("2026-01-31 09:30")):
        document = Document("d", "words", date=moment)
        assert (document.date, type(document.date)) == (day, dt.date)
        assert document.content_hash == Document("d", "words", date=day).content_hash
    for wrong in (pd.NaT, "2026-01-31", 20_000, float("nan")):
        odd: Any = wrong
        with pytest.raises(ConfigError, match="date of Document 'd' must be a date or None, found "):
            Document("d", "words", date=odd)
