"""What is embedded, and what is refused because it is doubtful."""

from dataclasses import replace

import pytest

from tests.caching.caches import USE, WHO, ask
from workbench.caching.scope import Scope, scope_intent
from workbench.inference.messages import CacheUse, Request
from workbench.testing import HashEmbedder, WordTokenizer

USER = {"role": "user", "content": "how old is he"}
EARLIER = ({"role": "user", "content": "who is Ada"}, {"role": "assistant", "content": "a person"})
PARTS = [{"type": "text", "text": "what is", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "this"}]
IMAGE = [{"type": "text", "text": "what is this"}, {"type": "image_url", "image_url": {"url": "data:"}}]


class Counting(HashEmbedder):
    max_tokens = 5

    def offsets(self, text):
        return WordTokenizer().offsets(text)


def said(*messages, use=USE, **other):
    return scope_intent(Request("m", messages, **other), use, Counting())


def test_the_only_user_message_is_the_intent_and_the_system_prompt_is_not():
    assert scope_intent(ask("  reset my password "), USE) == "reset my password"
    assert said({"role": "user", "content": PARTS}) == "what is\nthis"


def test_a_given_intent_takes_its_place():
    use = CacheUse(intent="how old is Ada", corpus_version="v1", prompt_version="1")
    assert said(*EARLIER, {"role": "user", "content": "Answer: how old is Ada?"}, use=use) == "how old is Ada"


@pytest.mark.parametrize(
    ("messages", "use", "other"),
    [
        ((*EARLIER, USER), USE, {}),
        ((USER,), USE, {"temperature": 0.1}),
        ((USER,), USE, {"tools": ({"name": "f"},)}),
        (({"role": "tool", "content": "1"}, USER), CacheUse(intent="x"), {}),
        (({"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}, USER), CacheUse(intent="x"), {}),
        ((USER, {"role": "assistant", "content": "He is"}), CacheUse(intent="x"), {}),
        (({"role": "user", "content": " \n"},), USE, {}),
        (({"role": "user", "content": IMAGE},), USE, {}),
        (({"role": "user", "content": IMAGE},), CacheUse(intent="x"), {}),
        (({"role": "user", "content": None},), USE, {}),
        (({"role": "user", "content": "\ud800"},), USE, {}),
        ((USER,), CacheUse(intent="", prompt_version="1"), {}),
        ((USER,), CacheUse(intent="how old is Ada", corpus_version="v1", prompt_version="1"), {}),
        ((USER,), CacheUse(intent="how old", corpus_version="v1"), {}),
        (({"role": "user", "content": "one two three four five six"},), USE, {}),
    ],
    ids=["earlier turns", "sampled", "tools", "tool result", "tool call", "not the user's turn", "blank", "image",
         "image with intent", "nothing", "half a character", "blank intent", "intent that is not there",
         "prompt without a version", "longer than the encoder takes"],
)  # fmt: skip
def test_what_is_doubtful_has_no_intent(messages, use, other):
    assert said(*messages, use=use, **other) is None


def test_the_longest_text_that_the_encoder_takes_is_taken():
    assert said({"role": "user", "content": "one two three four five"}) == "one two three four five"


def test_an_encoder_that_counts_no_tokens_is_trusted_with_short_texts_only():
    assert scope_intent(ask("é" * 256), USE, HashEmbedder())
    assert scope_intent(ask("é" * 257), USE, HashEmbedder()) is None


@pytest.mark.parametrize(
    ("who", "use"),
    [
        (replace(WHO, tenant_id=""), USE),
        (replace(WHO, user_id=""), CacheUse()),
        (WHO, CacheUse(visibility="")),
    ],
)
def test_without_knowing_whose_the_answer_is_there_is_no_scope(who, use):
    assert Scope.of(ask("x"), who, use, encoder="e") is None


def test_an_answer_for_the_tenant_is_the_same_for_all_its_users():
    keys = {Scope.of(ask("x"), replace(WHO, user_id=u), USE, encoder="e").key for u in ("ann", "ben", "")}
    assert len(keys) == 1


def test_what_stands_around_an_intent_counts_unless_corpus_and_prompt_have_versions():
    def key(text, corpus, prompt):
        use = CacheUse("tenant", corpus, intent=" who is Ada", prompt_version=prompt)
        return Scope.of(ask(text), WHO, use, encoder="e").key

    for versions in (("", ""), ("v1", ""), ("", "p1")):
        assert key("In German: who is Ada", *versions) != key("In French: who is Ada", *versions)
    assert key("she asked about Ada", "", "p1") != key("he asked about Ada", "", "p1")
    assert key("[doc1] ... who is Ada", "v1", "p1") == key("[doc2] ... who is Ada", "v1", "p1")
