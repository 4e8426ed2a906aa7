"""Canaries cross no scope, belong to every field of it, and name the field that is left out."""

from dataclasses import fields, replace

import pytest

from workbench.caching import canaries
from workbench.caching.canaries import CHANGES, CanaryRequest, send_canaries
from workbench.caching.scope import Scope
from workbench.testing import HashEmbedder

EMBEDDER = HashEmbedder(64)
FIELDS = [f.name for f in fields(Scope)]


def leave_out(monkeypatch, name):
    """A scope that lacks one of its fields."""
    of = Scope.of.__func__

    def without(cls, *args, **kwargs):
        scope = of(cls, *args, **kwargs)
        return scope and replace(scope, **{name: ""})

    monkeypatch.setattr(Scope, "of", classmethod(without))


def crossed():
    """Fields across which each cache serves."""
    found = {"exact": set(), "semantic": set()}
    for crossing in send_canaries(EMBEDDER, threshold=0.3):
        found[crossing.kind] |= {crossing.change.field} if crossing.crossed else set()
    return found


def test_no_answer_crosses_a_scope_and_every_own_answer_is_served_again():
    found = send_canaries(EMBEDDER, threshold=0.3)
    assert [(c.change.name, c.kind) for c in found if c.crossed or c.unserved] == []
    asked = {kind: {c.change.field for c in found if c.kind == kind and c.asked} for kind in ("exact", "semantic")}
    assert asked == {"exact": set(FIELDS) - {"encoder"}, "semantic": set(FIELDS)}


def test_every_field_of_a_scope_has_its_change_and_a_change_alters_nothing_else():
    assert {c.field for c in CHANGES} == set(FIELDS)
    for change in CHANGES:
        one, other = (
            Scope.of(a.request("q"), a.who, a.use("q"), encoder=a.encoder)
            for a in (CanaryRequest("user"), replace(CanaryRequest("user"), **change.given))
        )
        assert [f for f in FIELDS if getattr(one, f) != getattr(other, f)] == [change.field]


@pytest.mark.parametrize("left_out", FIELDS)
def test_a_field_that_is_left_out_of_the_scope_is_named_by_each_cache_that_rests_on_it(left_out, monkeypatch):
    leave_out(monkeypatch, left_out)
    # the exact cache has no vectors, the semantic one serves nothing where tools are in play
    exact = set() if left_out == "encoder" else {left_out}
    semantic = set() if left_out == "tools" else {left_out}
    assert crossed() == {"exact": exact, "semantic": semantic}


def test_an_answer_for_the_tenant_or_for_a_permission_set_must_be_served_to_another_user(monkeypatch):
    of = Scope.of.__func__

    def of_one_user(cls, request, who, use, **kwargs):
        scope = of(cls, request, who, use, **kwargs)
        return scope and replace(scope, visibility=f"{scope.visibility} {who.user_id}")

    monkeypatch.setattr(Scope, "of", classmethod(of_one_user))
    found = [c for c in send_canaries(EMBEDDER, threshold=0.3) if c.crossed or c.unserved]
    assert {c.change for c in found} == {canaries.ANOTHER_USER}


def test_a_cache_that_serves_nobody_is_found_out(monkeypatch):
    monkeypatch.setattr(Scope, "of", classmethod(lambda *args, **kwargs: None))
    found = send_canaries(EMBEDDER, threshold=0.3)
    assert sum(c.crossed for c in found) == 0
    assert {c.change.field for c in found if c.unserved} == set(FIELDS)


def test_nothing_is_left_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    send_canaries(EMBEDDER, threshold=0.3)
    assert list(tmp_path.iterdir()) == []
