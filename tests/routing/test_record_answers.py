"""`record` spends what it may in all, refuses before it asks, goes on where it stopped, and says what it did."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.routing.answered import MODELS, answered
from tests.routing.test_retrieved import Search, accept
from workbench.config import Settings
from workbench.errors import ConfigError, Unavailable
from workbench.evalset.evalset import Evalset
from workbench.inference.batch import estimate_batch
from workbench.inference.client import Client
from workbench.inference.messages import Request, Response, Usage
from workbench.inference.prices import load_prices
from workbench.inference.recordings import Recordings
from workbench.rendering.numbers import usd
from workbench.routing.record_answers import record_answers, requests_of_first
from workbench.routing.recorded_hits import keep_search_hits, renew_hits
from workbench.routing.recorded_outcomes import recorded_outcomes, recorded_requests_of, recording_file
from workbench.testing import FakeClock, ScriptedModel


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path, tmp_path / "cache", tmp_path / "runs", f"sqlite:///{tmp_path / 'state.sqlite'}")


@pytest.fixture
def unanswered(tmp_path: Path) -> Evalset:
    """Evalset with what its accepted retrieval found, and no answer."""
    evalset = answered(tmp_path)
    accept(evalset, margin=1)
    renew_hits(evalset, Search("merge"), lambda _: None)
    keep_search_hits(evalset, [("default", "?")], Search("merge"))
    for model in MODELS:
        recording_file(evalset, model).unlink()
    return evalset


def worst_usd(evalset: Evalset, model: str) -> float:
    return estimate_batch([a.request for a in recorded_requests_of(evalset, models=[model])], load_prices()).worst_usd


def client_of(settings: Settings, script: Callable[[Request], Response]) -> tuple[Client, ScriptedModel]:
    model = ScriptedModel(script)
    return Client.open(settings, clock=FakeClock(), providers={"": model}), model


def says(request: Request) -> Response:
    return Response("?", request.model, Usage(50, output=5))


def test_one_estimate_over_all_models_is_refused_before_any_is_asked(settings: Settings, unanswered: Evalset) -> None:
    each = {model: worst_usd(unanswered, model) for model in MODELS}
    client, model = client_of(settings, says)
    told: list[str] = []
    for limit in (None, sum(each.values()) * 0.999):
        assert limit is None or limit > max(each.values())
        with pytest.raises(ConfigError, match=re.escape(f"may cost {usd(sum(each.values()), up=True)}, ")):
            record_answers("docs", settings=settings, max_cost_usd=limit, tell=told.append, client=client)
    assert model.requests == []
    assert not [m for m in MODELS if recording_file(unanswered, m).exists()]
    assert f"still to ask: 20 requests, at most {usd(sum(each.values()), up=True)}" in told[0]


def test_all_models_together_spend_no_more_than_was_allowed(settings: Settings, unanswered: Evalset) -> None:
    limit = sum(worst_usd(unanswered, model) for model in MODELS)

    def fails_often(request: Request) -> Response:
        if request.model == MODELS[1]:
            return says(request)
        raise Unavailable("half an answer", billed="unknown")  # charged in full, each time

    client, _ = client_of(settings, fails_often)
    client = replace(client, policy=replace(client.policy, attempts_per_model=4, cooldown_failures=1000))
    failed = record_answers("docs", settings=settings, max_cost_usd=limit, tell=lambda _: None, client=client)
    spent = client.books.ledger.frame()["cost_nanos"].sum() / 1e9
    assert failed > 10
    assert 2 * worst_usd(unanswered, MODELS[0]) < spent <= limit


def test_it_says_what_came_of_each_model_and_goes_on_where_it_stopped(settings: Settings, unanswered: Evalset) -> None:
    client, model = client_of(settings, says)
    told: list[str] = []
    common = {"settings": settings, "tell": told.append, "client": client}
    assert record_answers("docs", models=MODELS[:1], max_cost_usd=1.0, **common) == 0
    assert len(model.requests) == 10
    assert told[-1].startswith(f"{MODELS[0]}: 10 answers (10 asked now for $0.0000")
    del told[:]
    assert record_answers("docs", max_cost_usd=1.0, **common) == 0
    assert len(model.requests) == 20
    assert "docs: 10 of 20 answers are recorded; still to ask: 10 requests" in told[0]
    assert told[1] == f"{MODELS[0]}: 10 answers (0 asked now for $0), 0 errors"
    assert told[-1].startswith(f"{MODELS[1]}: 10 answers (10 asked now for $0.000")
    del told[:]
    assert (
        record_answers("docs", settings=settings, tell=told.append, client=client) == 0
    )  # nothing to pay, no limit needed
    assert len(model.requests) == 20
    assert [line.startswith(("docs", *MODELS)) for line in told] == [True] * 3


def test_repeats_need_a_temperature_and_are_told_from_what_a_cache_gave(
    settings: Settings, unanswered: Evalset
) -> None:
    client, model = client_of(settings, says)
    common = {"settings": settings, "max_cost_usd": 1.0, "tell": lambda _: None, "client": client}
    for wrong in ({"repeats": 0}, {"repeats": -1}, {"questions": 0}, {"questions": -5}):
        with pytest.raises(ConfigError, match="is a number from 1 on"):
            record_answers("docs", **wrong, **common)
    with pytest.raises(ConfigError, match=r"repeats=2 at temperature 0 says nothing more; .* set temperature"):
        record_answers("docs", repeats=2, **common)
    assert model.requests == []
    prompts = unanswered.path / "prompts.toml"
    prompts.write_text("temperature = 0.7\n" + prompts.read_text())
    record_answers("docs", models=MODELS[:1], **common)
    record_answers("docs", repeats=2, **common)  # goes on where it stopped: the first answers are not asked for again
    assert len(model.requests) == 40
    assert {(r.temperature, r.seed) for r in model.requests} == {(0.7, None)}
    record_answers("docs", repeats=2, **common)
    assert len(model.requests) == 40
    frame, _, notes = recorded_outcomes(unanswered, load_prices())
    assert frame.group_by("prompt_id", "model", "config").len()["len"].unique().to_list() == [2]
    recordings = Recordings(recording_file(unanswered, MODELS[0]), live=True)
    asked = next(a for a in recorded_requests_of(unanswered, models=MODELS[:1]))
    timed = replace(says(asked.request), latency_ms=812.5)
    for _ in range(2):  # a cache gives the answer again, with its time
        recordings.add(asked.request, asked.item_id, timed)
    again, _, told = recorded_outcomes(unanswered, load_prices())
    assert len(again) == len(frame) + 1
    assert told == [*notes, "no repeats, but copies of earlier ones, as of a cache: 1 recorded answer"]


def test_the_first_questions_are_found_without_going_through_all_requests_for_each(unanswered: Evalset) -> None:
    class Counted(tuple):
        passes = 0

        def __iter__(self):
            Counted.passes += 1
            return super().__iter__()

    asked = Counted(list(recorded_requests_of(unanswered, models=MODELS)) * 3)
    questions = list(dict.fromkeys(a.query.query_id for a in tuple(asked)))
    Counted.passes = 0
    found = requests_of_first(asked, 2)
    assert Counted.passes <= 2
    assert list(dict.fromkeys(a.query.query_id for a in found)) == questions[:2]
    assert len(found) == sum(a.query.query_id in questions[:2] for a in asked)
    assert requests_of_first(asked, len(questions) + 1) == list(asked)
