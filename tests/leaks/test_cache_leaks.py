"""No answer is served outside the scope that it was kept in, and every field of the scope is what keeps it there."""

from dataclasses import dataclass, fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.caching.caches import answer
from workbench.caching.cache import ResponseCache, SemanticCache
from workbench.caching.scope import Scope
from workbench.caching.verifiers import Later
from workbench.inference.messages import CacheUse, Request
from workbench.state import open_engine
from workbench.telemetry.attribution import Attribution
from workbench.testing import HashEmbedder

QUESTION = "how do I reset my password"
NEAR = "how do I reset the password"


@dataclass(frozen=True)
class Asked:
    """One request with everything around it that must not differ; each field can be any text or number."""

    tenant_id: str = "acme"
    user_id: str = "ann"
    visibility: str = "user"
    feature: str = "answer"
    model: str = "local/one"
    max_tokens: int = 100
    seed: int = 0
    stop: str = ""
    schema: str = ""
    system: str = "You help."
    turn: str = ""
    name: str = ""
    tools: str = ""
    corpus_version: str = "v1"
    prompt_version: str = "p1"
    configuration: str = "top2"
    template: str = "Answer briefly: "
    encoder: str = "e"
    locale: str = "en"

    @property
    def who(self) -> Attribution:
        return Attribution(self.tenant_id, self.user_id, self.feature)

    @property
    def use(self) -> CacheUse:
        return self.about(QUESTION)

    def about(self, question: str) -> CacheUse:
        return CacheUse(
            self.visibility,
            self.corpus_version,
            self.locale,
            intent=question,
            prompt_version=self.prompt_version,
            configuration=self.configuration,
        )

    def request(self, question: str = QUESTION) -> Request:
        turn = [{"role": "system", "content": self.turn}] if self.turn else []
        last = {"role": "user", "content": self.template + question} | ({"name": self.name} if self.name else {})
        return Request(
            self.model,
            ({"role": "system", "content": self.system}, *turn, last),
            max_tokens=self.max_tokens,
            seed=self.seed,
            stop=(self.stop,) if self.stop else (),
            tools=({"name": self.tools},) if self.tools else (),
            schema={"title": self.schema} if self.schema else None,
        )

    @property
    def scope(self) -> Scope:
        found = Scope.of(self.request(), self.who, self.use, encoder=self.encoder)
        assert found is not None
        return found


NAMES = [f.name for f in fields(Asked)]
NUMBERS = ("max_tokens", "seed")
# Texts that a key made by joining would confuse: separators, quotes, parts of other values.
ODD = ["a", "b", "ab", "a,b", '","', "|", "a|b", "\x00", "ann", "user", "null", "\u00e9", "e\u0301"]
texts = st.sampled_from(ODD) | st.text(min_size=1)
values = {name: st.integers(1, 50) if name in NUMBERS else texts for name in NAMES}
values |= {name: texts | st.just("") for name in ("prompt_version", "corpus_version", "template")}
values["visibility"] = st.sampled_from(["user", "tenant"]) | texts


def different(one: Asked, name: str, value: object) -> bool:
    """Whether it makes a difference: a user where the answer is that user's, a template that has no version."""
    if name == "template" and one.prompt_version and one.corpus_version:
        return False  # both versions say what stands around the question
    if name == "template":
        return value.strip() != one.template.strip()
    return value != getattr(one, name) and not (name == "user_id" and one.visibility != "user")


@settings(max_examples=150, deadline=None)
@given(st.data(), st.builds(Asked, **values), st.sampled_from(NAMES))
def test_requests_that_differ_in_one_field_never_share_a_scope(data, one, name):
    value = data.draw(values[name])
    other = replace(one, **{name: value})
    assert (one.scope.key != other.scope.key) == different(one, name, value)


@settings(max_examples=150, deadline=None)
@given(st.builds(Asked, **values), st.builds(Asked, **values), st.sets(st.sampled_from(NAMES)))
def test_scopes_are_equal_only_where_everything_is(one, source, moved):
    other = replace(one, **{name: getattr(source, name) for name in moved})
    same = all(not different(one, n, getattr(other, n)) for n in NAMES if n not in ("user_id", "template"))
    same &= not different(one, "template", other.template)  # the versions are the same, or nothing is
    same &= one.user_id == other.user_id or (one.visibility != "user" and other.visibility != "user")
    assert (one.scope.key == other.scope.key) == same


# A change of each field of the scope, by what is different about the request.
CHANGES = {
    "tenant_id": ("tenant_id", "dune"),
    "visibility": ("user_id", "ben"),
    "feature": ("feature", "search"),
    "model": ("model", "local/two"),
    "parameters": ("max_tokens", 101),
    "prompt": ("system", "You help pirates."),
    "tools": ("tools", "delete_all"),
    "corpus_version": ("corpus_version", "v2"),
    "prompt_version": ("prompt_version", "p2"),
    "configuration": ("configuration", "top5"),
    "encoder": ("encoder", "other"),
    "locale": ("locale", "de"),
}


def test_every_field_of_the_scope_has_its_change():
    assert list(CHANGES) == [f.name for f in fields(Scope)]


@pytest.mark.parametrize("left_out", CHANGES)
def test_a_scope_without_one_of_its_fields_is_found_out(left_out):
    def key(asked: Asked) -> str:
        return replace(asked.scope, **{left_out: ""}).key

    leaks = [f for f, change in CHANGES.items() if key(Asked()) == key(replace(Asked(), **dict([change])))]
    assert leaks == [left_out]


@pytest.mark.parametrize("left_out", CHANGES)
def test_a_cache_without_one_of_the_fields_leaks_across_it(left_out, tmp_path, monkeypatch):
    """The leak matrix below turns red for every field that is taken out of the scope."""
    of = Scope.of.__func__

    def without(cls, *args, **kwargs):
        scope = of(cls, *args, **kwargs)
        return scope and replace(scope, **{left_out: ""})

    monkeypatch.setattr(Scope, "of", classmethod(without))
    assert left_out in leaking(tmp_path)


PROMOTED = [field for field in CHANGES if field != "tools"]  # with tools at hand nothing is near anything


@pytest.mark.parametrize("left_out", PROMOTED)
def test_promotions_of_a_cache_without_one_of_the_fields_leak_across_it(left_out, tmp_path, monkeypatch):
    of = Scope.of.__func__

    def without(cls, *args, **kwargs):
        scope = of(cls, *args, **kwargs)
        return scope and replace(scope, **{left_out: ""})

    monkeypatch.setattr(Scope, "of", classmethod(without))
    assert left_out in leaking_by_promotion(tmp_path)


def test_no_cache_serves_across_any_field(tmp_path):
    assert leaking(tmp_path) == []


def test_nothing_is_promoted_across_any_field(tmp_path):
    assert leaking_by_promotion(tmp_path) == []


def leaking_by_promotion(folder) -> list[str]:
    """Fields of the scope across which a text is answered that a verifier promoted later."""
    out = []
    for field in PROMOTED:
        engine, change = open_engine(f"sqlite:///{folder}/{field}.sqlite"), CHANGES[field]
        asked, other = Asked(), replace(Asked(), **dict([change]))
        cache, its_own = _later(engine, asked), _later(engine, other)
        cache.keep(asked.request(), answer("secret"), asked.who, asked.use, cost_nanos=1, since=cache.moment())
        assert cache.find(asked.request(NEAR), asked.who, asked.about(NEAR)) is None
        assert cache.verify_pending() == 1
        assert cache.find(asked.request(NEAR), asked.who, asked.about(NEAR)), "what promotes nothing leaks nothing"
        served = []
        for _ in range(2):
            served += [its_own.find(other.request(q), other.who, other.about(q)) for q in (QUESTION, NEAR)]
            its_own.verify_pending()
        if any(served):
            out.append(field)
        engine.dispose()
    return out


def leaking(folder) -> list[str]:
    """Fields of the scope across which either cache serves the answer of another."""
    engine = open_engine(f"sqlite:///{folder}/state.sqlite")
    out = []
    for field, change in CHANGES.items():
        asked, other = Asked(feature=f"for {field}"), replace(Asked(feature=f"for {field}"), **dict([change]))
        served = []
        for kind in (_near,) if field == "encoder" else (_exact, _near):  # exact answers rest on no vectors
            cache, its_own = kind(engine, asked), kind(engine, other)
            cache.keep(asked.request(), answer("secret"), asked.who, asked.use, cost_nanos=1, since=cache.moment())
            questions = (QUESTION, NEAR) if kind is _near else (QUESTION,)
            own = [cache.find(asked.request(q), asked.who, asked.about(q)) for q in questions]
            assert all(own), "a cache that serves nobody leaks nothing"
            served += [its_own.find(other.request(q), other.who, other.about(q)) for q in questions]
        if any(served):
            out.append(field)
    engine.dispose()
    return out


def _exact(engine, _asked: Asked) -> ResponseCache:
    return ResponseCache(engine)


def _near(engine, asked: Asked) -> SemanticCache:
    return SemanticCache(engine, embedder=Named(asked.encoder), threshold=0.5)


def _later(engine, asked: Asked) -> SemanticCache:
    return SemanticCache(
        engine, embedder=Named(asked.encoder), threshold=0.999, verifier=lambda *_: True, later=Later(0.5)
    )


class Named(HashEmbedder):
    """Two encoders that make the same vectors, so that nothing but their names keeps entries apart."""

    def __init__(self, name: str):
        super().__init__(64)
        object.__setattr__(self, "name", name)

    encoder_id = property(lambda self: self.name)
