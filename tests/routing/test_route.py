"""An accepted routing decision at work: it routes as it was tested, or refuses."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.reports import samples
from workbench.config import Settings, load_settings
from workbench.errors import (
    AccountRefused,
    BudgetExceeded,
    CallFailed,
    ConfigError,
    ContentRefused,
    ModelMissing,
    Rejected,
    Throttled,
    Unavailable,
)
from workbench.evalset.outcomes import Requests
from workbench.inference.attempt import Books
from workbench.inference.budgets import Budget, Budgets
from workbench.inference.client import Client
from workbench.inference.limits import Limit, RateLimiter
from workbench.inference.messages import CacheUse, Request, Response, Usage
from workbench.inference.prices import load_prices
from workbench.inference.recordings import Recordings
from workbench.records import Claim, Decision, Fingerprint, Rule, content_hash
from workbench.routing.policies import POLICIES, Router
from workbench.routing.route import Routed, load_routed, model_inputs, retrieval_arm
from workbench.state import open_engine
from workbench.telemetry.ledger import Ledger
from workbench.telemetry.spans import Tracing
from workbench.telemetry.traces import load_trace
from workbench.testing import FakeClock, ScriptedModel

SMALL, OTHER = "local/smollm2-135m", "openai/gpt-5.4-nano"
ARMS = ("local/smollm2-135m@bare", "local/qwen2.5-coder-0.5b@top2")
QUALITY, COST = np.array([[1.0, 0.0], [0.0, 1.0]] * 40), np.tile([1e-6, 5e-6], (80, 1))
REQUESTS = Requests(tuple(f"question {i}" for i in range(80)), ("find", "answer") * 40)


def by_feature() -> Router:
    return replace(POLICIES["by_feature"].fit(REQUESTS, QUALITY, COST, ARMS), value_usd=1.0)


def cascade() -> Router:
    sure = np.array([[0.95, 0.9], [0.2, 0.9]] * 40)
    fitted = POLICIES["cascade"].fit(replace(REQUESTS, confidence=sure), QUALITY, COST, ARMS)
    return replace(fitted, value_usd=1.0)


def client_of(router: Router, script=None) -> Client:
    model = ScriptedModel(script or (lambda request: Response(request.model, request.model, Usage(5, output=1))))
    return Client({"local/": model}, Books(load_prices()), routers={"docs": Routed("docs", router)})


def messages(context: str):
    return [{"role": "system", "content": context}, {"role": "user", "content": "question 1"}]


def test_each_feature_goes_to_its_arm_with_its_configuration_of_the_prompt() -> None:
    client = client_of(by_feature())
    asked = {"model": "router/docs", "question": "question 1"}
    found = {f: client.complete(messages, feature=f, **asked) for f in ("find", "answer")}
    assert {f: c.route.arm for f, c in found.items()} == {"find": ARMS[0], "answer": ARMS[1]}
    assert [r.messages[0]["content"] for r in client.providers["local/"].requests] == ["bare", "top2"]
    assert all(c.route.reason.startswith("by_feature") for c in found.values())


def test_cascade_asks_its_first_arm_and_goes_on_only_where_that_is_unsure() -> None:
    for sure, models in ((0.95, [ARMS[0]]), (0.2, [*ARMS])):

        def script(request: Request, sure: float = sure) -> Response:
            return Response(request.model, request.model, Usage(5, output=1), confidence=sure)

        client = client_of(cascade(), script)
        done = client.complete(messages, model="router/docs", feature="answer", question="question 1")
        assert [r.model for r in client.providers["local/"].requests] == [m.partition("@")[0] for m in models]
        assert done.route.arm == models[-1]
        assert done.attempts == len(models)
        prices, asked = load_prices(), [m.partition("@")[0] for m in models]
        assert done.cost_nanos == sum(prices.cost_nanos(model, Usage(5, output=1)) for model in asked)


ASKED = {"model": "router/docs", "feature": "answer", "question": "question 1"}
CHEAP, STRONG = (arm.partition("@")[0] for arm in ARMS)
WHOLE_USAGE = Usage(5, output=1)


@pytest.fixture
def engine(tmp_path: Path):
    return open_engine(f"sqlite:///{tmp_path / 'state.sqlite'}")


def books_on(engine, budget_usd: float = 1.0, **parts) -> Books:
    clock = FakeClock()
    return Books(load_prices(), Budgets(engine, [Budget(budget_usd, "day")], clock), Ledger(engine),
                 clock=clock, **parts)  # fmt: skip


def outermost(engine, done):
    return next(row for row in load_trace(engine, done.trace_id).rows if not row.parent_id)


def failing(clock, error: Exception, *down: str) -> ScriptedModel:
    """Models of which some are down; the others answer with their name."""

    def script(request: Request) -> Response | Exception:
        return error if request.model in down else Response(request.model, request.model, WHOLE_USAGE, confidence=0.95)

    return ScriptedModel(script, clock=clock)


def cascade_client(books: Books, provider: ScriptedModel) -> Client:
    return Client({"": provider}, books, routers={"docs": Routed("docs", cascade())})


@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        (Unavailable("connection refused"), 3), (AccountRefused("no", status=401), 1),
        (ModelMissing("retired", status=404), 1), (Throttled("slow down", status=429), 3),
        (Throttled("slow down", status=429, retry_after_s=90.0), 1),
    ],
)  # fmt: skip
def test_cascade_whose_first_arm_gives_no_answer_asks_its_strong_arm_and_says_so(engine, error, attempts) -> None:
    books = books_on(engine, tracing=Tracing(engine))
    provider = failing(books.clock, error, CHEAP)
    done = cascade_client(books, provider).complete(messages, **ASKED)
    assert [r.model for r in provider.requests] == [CHEAP] * attempts + [STRONG]
    assert books.clock.monotonic() < 5, "nobody waits for one arm while the other can answer"
    said = f"{ARMS[0]} was asked first and gave no answer: {type(error).__name__}"
    assert (done.text, done.route.arm, done.route.reason, done.attempts) == (STRONG, ARMS[1], said, attempts + 1)
    rows = books.ledger.frame().sort("route", descending=True).to_dicts()
    assert [(r["route"], r["reason"]) for r in rows] == [(ARMS[0], "asked first")] * attempts + [(ARMS[1], said)]
    root = outermost(engine, done)
    assert (root.attributes["wb.route"], root.attributes["wb.reason"]) == (ARMS[1], said)


def test_what_the_first_arm_of_a_cascade_had_cost_is_in_the_sum_and_in_the_error(engine) -> None:
    books = books_on(engine)
    down = Unavailable("gone", billed="unknown")
    done = cascade_client(books, failing(books.clock, down, CHEAP)).complete(messages, **ASKED)
    assert done.cost_nanos == int(books.ledger.frame()["cost_nanos"].sum())
    assert done.cost_nanos > load_prices().cost_nanos(STRONG, WHOLE_USAGE)
    with pytest.raises(CallFailed) as raised:
        cascade_client(books, failing(books.clock, down, CHEAP, STRONG)).complete(messages, **ASKED)
    assert [model for model, *_ in raised.value.attempts] == [CHEAP] * 3 + [STRONG] * 3
    assert raised.value.cost_nanos == int(books.ledger.frame()["cost_nanos"].sum()) - done.cost_nanos > 0
    assert "The first arm of the cascade had failed before" in raised.value.__notes__[0]


def test_cascade_of_which_both_arms_are_down_asks_the_fallbacks(engine) -> None:
    books = books_on(engine)
    provider = failing(books.clock, AccountRefused("no", status=401), CHEAP, STRONG)
    done = cascade_client(books, provider).complete(messages, fallbacks=[OTHER], **ASKED)
    assert [r.model for r in provider.requests] == [CHEAP, STRONG, OTHER]
    assert done.text == OTHER


@pytest.mark.parametrize("error", [Rejected("malformed", status=400), ContentRefused("policy", status=400)])
def test_what_any_arm_would_refuse_ends_a_cascade(engine, error) -> None:
    books = books_on(engine)
    provider = failing(books.clock, error, CHEAP)
    with pytest.raises(CallFailed) as raised:
        cascade_client(books, provider).complete(messages, **ASKED)
    assert (raised.value.__cause__, len(provider.requests)) == (error, 1)


def test_a_cascade_whose_first_arm_does_not_fit_the_budget_asks_nothing(engine) -> None:
    books = books_on(engine, 1e-9)
    provider = failing(books.clock, Unavailable("down"))
    with pytest.raises(BudgetExceeded):
        cascade_client(books, provider).complete(messages, fallbacks=[OTHER], **ASKED)
    assert provider.requests == []


def test_a_session_in_which_the_first_arm_of_a_cascade_failed_is_replayed_as_it_was(engine, tmp_path) -> None:
    books = books_on(engine)
    client = cascade_client(books, failing(books.clock, AccountRefused("no", status=401), CHEAP))
    path = tmp_path / "said.jsonl"
    assert replace(client, recordings=Recordings(path, live=True)).complete(messages, **ASKED).text == STRONG
    again = replace(client, recordings=Recordings(path)).complete(messages, **ASKED)
    assert (again.text, again.source, again.route.reason.endswith("RecordingMiss")) == (STRONG, "recording", True)


def test_a_cascade_whose_first_arm_waits_for_our_own_limit_asks_its_strong_arm(engine) -> None:
    clock = FakeClock()
    limiter = RateLimiter(engine, {CHEAP: Limit(requests_per_minute=1)}, clock)
    provider = failing(clock, Unavailable("down"))
    client = cascade_client(Books(load_prices(), limiter=limiter, clock=clock), provider)
    assert [client.complete(messages, **ASKED).text for _ in range(2)] == [CHEAP, STRONG]
    assert clock.monotonic() == 0


def test_a_client_with_a_cascade_asks_hosted_models_for_token_probabilities(tmp_path: Path) -> None:
    settings = replace(accept(tmp_path, cascade()), state_url=f"sqlite:///{tmp_path / 'state.sqlite'}")
    for router, asks in ((cascade(), True), (by_feature(), False)):
        client = Client.open(settings, routers={"docs": Routed("docs", router)})
        assert client.providers[""].logprobs is asks


def test_a_first_answer_without_token_probabilities_stands_in_the_reason(engine) -> None:
    books = books_on(engine, tracing=Tracing(engine))
    provider = ScriptedModel(lambda request: Response(request.model, request.model, WHOLE_USAGE), clock=books.clock)
    done = cascade_client(books, provider).complete(messages, **ASKED)
    said = f"; {ARMS[0]} gave no token probabilities: taken as unsure"
    assert done.route.arm == ARMS[1]
    assert done.route.reason.endswith(said)
    assert [r["reason"].endswith(said) for r in books.ledger.frame().sort("route").to_dicts()] == [True, False]
    assert outermost(engine, done).attributes["wb.reason"].endswith(said)


def test_models_of_a_cascade_share_one_deadline() -> None:
    clock = FakeClock()
    unsure = ScriptedModel(lambda r: Response("?", r.model, Usage(5, output=1), confidence=0.2), clock=clock)
    unsure.delay_ms = 60_000
    router = {"docs": Routed("docs", cascade())}
    client = Client({"local/": unsure}, Books(load_prices(), clock=clock), routers=router)
    asked = {"model": "router/docs", "feature": "answer", "question": "question 1"}
    with pytest.raises(CallFailed, match="AttemptTimeout after 30000 ms"):
        client.complete(messages, deadline_s=90, **asked)  # the first took 60 of them
    assert clock.monotonic() == 90
    with pytest.raises(CallFailed, match="no attempt was made"):
        client.complete(messages, deadline_s=60, **asked)
    assert clock.monotonic() == 150
    assert len(client.complete(messages, deadline_s=121, **asked).text) == 1
    assert [r.model for r in unsure.requests].count(ARMS[1].partition("@")[0]) == 2


class SeenBy:
    """Stands for a fitted predictor, and notes the prompts that it was shown."""

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def predict(self, requests: Requests) -> np.ndarray:
        self.prompts += requests.prompts
        return np.array([[0.0, 1.0]] * len(requests))


def seeing_client(arms: tuple[str, ...]) -> tuple[Client, SeenBy]:
    seen = SeenBy()
    return client_of(Router("seen", arms, seen, np.array([1e-6, 5e-6]))), seen


def test_router_sees_the_question_alone_and_only_the_arm_that_is_asked_makes_its_prompt() -> None:
    client, seen = seeing_client(ARMS)
    made = []

    def retrieved(context: str):
        made.append(context)
        return [{"role": "user", "content": "[doc] a passage\n\nHow do I join?"}]

    client.complete(retrieved, model="router/docs", question="How do I join?")
    assert (seen.prompts, made) == (["How do I join?"], ["top2"])
    with pytest.raises(ConfigError, match="question="):
        client.complete(retrieved, model="router/docs")
    assert made == ["top2"]


def test_without_a_question_the_router_sees_the_text_of_the_last_user_message() -> None:
    client, seen = seeing_client(tuple(arm.partition("@")[0] for arm in ARMS))
    picture = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    parts = [{"type": "text", "text": "What is"}, picture, {"type": "text", "text": "on this?"}]
    before = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    for asked in ("What is this?", parts):
        client.complete([*before, {"role": "user", "content": asked}], model="router/docs")
    client.complete([{"role": "user", "content": "[doc] a passage\n\nWhy?"}], model="router/docs", question="Why?")
    assert seen.prompts == ["What is this?", "What is\non this?", "Why?"]
    with pytest.raises(ConfigError, match="question="):
        client.complete([{"role": "user", "content": [picture]}], model="router/docs")


def test_fixed_messages_are_refused_where_the_router_chooses_configurations() -> None:
    with pytest.raises(ConfigError, match="function that makes the messages"):
        client_of(by_feature()).complete(messages("bare"), model="router/docs")
    with pytest.raises(ConfigError, match="need a router"):
        client_of(by_feature()).complete(messages, model=ARMS[0].partition("@")[0])
    with pytest.raises(ConfigError, match="no router 'doc'"):
        client_of(by_feature()).complete(messages, model="router/doc")


def accept(folder: Path, router: Router, **changed) -> Settings:
    decisions = folder / "evalsets" / "docs" / "decisions"
    decisions.mkdir(parents=True, exist_ok=True)
    recorded = folder / "evalsets" / "docs" / "recordings"
    recorded.mkdir(exist_ok=True)
    files = {"prompts": decisions.parent / "prompts.toml", "hits.jsonl": recorded / "hits.jsonl"}
    for name, path in files.items():
        path.write_text(name, encoding="utf-8")
    inputs = {
        "prices": load_prices().sha256,
        "weights": "minilm-int8:8199be6f699a:254",
        **model_inputs(ARMS, load_prices()),
        **{name: content_hash(name) for name in files},
    } | dict(changed.pop("inputs", {}))
    inputs = {name: value for name, value in inputs.items() if value is not None}
    rule = Rule("correctness", "usd_per_1k_requests", ARMS[1], 0.05, 0.95)
    parameters = dict(changed.pop("parameters", {"kind": "Router", "sha256": router.sha256}))
    claim = Claim("by_feature", parameters, "holds", 1, 1, 1, 0, 0, 0, 1, None, 1.0, 80, 40, 9)
    whole = {
        "notebook": "routing", "question": "?", "profile": "ci", "rule": rule, "verdict": "chosen", "arm": "by_feature",
        "parameters": parameters, "sentence": "", "claims": (claim,), "n_items": 80,
        "n_clusters": 40, "items_needed": None, "test_uses": 1, "fingerprint": Fingerprint(inputs),
        "settings": {"embedder": "minilm"},
    }  # fmt: skip
    (decisions / "routing.json").write_text(Decision(**(whole | changed)).to_json(), encoding="utf-8")
    (decisions / "routing.artefact").write_text(json.dumps({"by_feature": router.save()}), encoding="utf-8")
    return Settings(folder, folder / "cache", folder / "runs", "sqlite://")


def test_accepted_decision_is_loaded_and_routes_as_it_was_fitted(tmp_path: Path) -> None:
    routed = load_routed(accept(tmp_path, by_feature()), "docs")
    assert routed.pick("question 3", "answer").arm == ARMS[1]
    assert routed.pick("question 3", "find").arm == ARMS[0]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"inputs": {"prices": "other"}}, "another prices"),
        ({"inputs": {f"weights of {SMALL}": "other"}}, f"another weights of {SMALL}"),
        ({"inputs": {"price of gone/model": "input 1"}}, "another price of gone/model"),
        ({"inputs": {"prompts": "other"}}, "another prompts"),
        ({"inputs": {"hits.jsonl": "other"}}, "another hits.jsonl"),
        ({"inputs": {"prices": None}}, "does not say with which prices"),
        ({"inputs": {f"price of {SMALL}": None}}, f"does not say with which price of {SMALL}"),
        ({"inputs": {"prompts": None, "hits.jsonl": None}}, "does not say with which prompts, hits.jsonl"),
        ({"fingerprint": Fingerprint()}, "does not say with which prices"),
        ({"parameters": {"sha256": "other"}}, "another router"),
        ({"verdict": "inconclusive"}, "names nothing to use"),
        ({"verdict": "provisional"}, "accept_provisional"),
    ],
)
def test_decision_that_does_not_fit_is_refused(tmp_path: Path, changed, told) -> None:
    with pytest.raises(ConfigError, match=told):
        load_routed(accept(tmp_path, by_feature(), **changed), "docs")


def test_decision_is_refused_when_a_file_that_it_names_or_the_retrieval_behind_it_changes(tmp_path: Path) -> None:
    settings = accept(tmp_path, by_feature())
    folder = tmp_path / "evalsets" / "docs"
    retrieval = folder / "decisions" / "retrieval.json"
    write = partial(Path.write_text, encoding="utf-8")

    def accepted(margin: int) -> str:
        return replace(samples.decision(), notebook="retrieval", parameters={"kind": "Arm", "margin": margin}).to_json()

    write(retrieval, accepted(1))
    write(folder / "recordings" / "found_with.json", json.dumps({"retrieval arm": retrieval_arm(folder)}))
    load_routed(settings, "docs")
    write(retrieval, accepted(2))
    with pytest.raises(ConfigError, match="another retrieval arm"):
        load_routed(settings, "docs")
    write(retrieval, accepted(1))
    write(folder / "prompts.toml", "other")
    with pytest.raises(ConfigError, match="another prompts"):
        load_routed(settings, "docs")
    (folder / "recordings" / "hits.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"another prompts, hits\.jsonl"):
        load_routed(settings, "docs")


def test_decision_on_a_table_of_outcomes_rests_on_no_prompts_and_no_prices_of_models(tmp_path: Path) -> None:
    inputs = {"prices": load_prices().sha256, "outcomes": "abc"}
    settings = accept(tmp_path, by_feature(), fingerprint=Fingerprint(inputs))
    assert load_routed(settings, "docs").pick("question 3", "find").arm == ARMS[0]


@pytest.mark.parametrize(("evalset", "provisional"), [("docs_qa", False), ("routing_demo", True)])
def test_decisions_of_this_project_are_loaded(evalset: str, provisional: bool) -> None:
    root = Path(__file__).parents[2]
    routed = load_routed(replace(load_settings(), root=root), evalset, accept_provisional=provisional)
    assert routed.router.models


def test_provisional_decision_works_when_it_is_asked_for(tmp_path: Path) -> None:
    settings = accept(tmp_path, by_feature(), verdict="provisional")
    assert load_routed(settings, "docs", accept_provisional=True).pick("q", "find").arm == ARMS[0]
    with pytest.raises(ConfigError, match="no routing decision"):
        load_routed(settings, "other")


def test_cache_is_told_the_configuration_that_the_router_chose() -> None:
    uses = []

    class Cache:
        def moment(self):
            return 7

        def find(self, request, who, use):
            uses.append(use)

        def keep(self, request, response, who, use, *, cost_nanos, since):
            uses.append((use, since))

    client = replace(client_of(by_feature()), cache=Cache())
    for feature, configuration in (("find", "bare"), ("answer", "top2")):
        client.complete(messages, question="?", model="router/docs", feature=feature, use=CacheUse("tenant", "v1"))
        chosen = CacheUse("tenant", "v1", configuration=configuration)
        assert uses == [chosen, (chosen, 7)]
        uses.clear()
