"""A challenger beside the live calls: users notice nothing, its money is its own, and what it shows is kept."""

import csv
import math
import threading
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
from typer.testing import CliRunner

from tests.evalset.small_evalset import write
from tests.inference.test_streams import FOREVER_S
from tests.routing.test_accepted_router import by_feature, cascade
from tests.routing.test_accepted_router import messages as configured
from workbench.caching.cache import ResponseCache
from workbench.cli import app
from workbench.config import SystemClock
from workbench.errors import ConfigError, EvalsetError, Rejected, Unavailable, UnknownPrice
from workbench.inference.budgets import DEFAULT_BUDGETS, Budget, Budgets
from workbench.inference.call_attempt import Books, worst_attempt_nanos
from workbench.inference.client import Client
from workbench.inference.messages import CacheUse, Request, Response, ToolCall, Usage
from workbench.inference.prices import load_prices
from workbench.inference.rate_limits import RateLimit, RateLimiter
from workbench.inference.recordings import Recordings
from workbench.quality.judges import Judge
from workbench.quality.sampling import sample_trace_fraction
from workbench.quality.shadow import Shadow
from workbench.quality.shadow_pairs import EXIT_CODES, ShadowEvidence, ShadowVerdict
from workbench.routing.accepted_router import Routed
from workbench.state import open_engine
from workbench.telemetry.attribution import attributed
from workbench.telemetry.ledger import Ledger
from workbench.telemetry.spans import Tracing
from workbench.testing import ScriptedModel

LIVE, OTHER = "local/qwen2.5-coder-0.5b", "local/smollm2-135m"
ASK = [{"role": "system", "content": "Name a function."}, {"role": "user", "content": "How do I join two frames?"}]
USAGE = Usage(10, output=5)


def right(request, answer):
    """Answer of the live model is right, every other is not."""
    return float(answer.startswith(LIVE))


def same(request, answer):
    return 1.0


@pytest.fixture
def engine(tmp_path):
    engine = open_engine(f"sqlite:///{tmp_path / 'state.sqlite'}")
    yield engine
    engine.dispose()


@pytest.fixture
def any_engine(state_url):
    """Once of each kind of database."""
    engine = open_engine(state_url)
    yield engine
    engine.dispose()


def client_of(engine, shadow, script=None, **parts):
    model = ScriptedModel(script or (lambda request: Response(request.model, request.model, USAGE)))
    limiter = RateLimiter(engine, parts.pop("limits", {}))
    books = Books(load_prices(), Budgets(engine, parts.pop("budgets", DEFAULT_BUDGETS)), Ledger(engine), limiter)
    return Client({"local/": model}, books, shadow=shadow, **parts)


def shadow_of(challenger=OTHER, metric=same, **values):
    """Shadow of every call; where a test says no confidence, no verdict ends it."""
    return Shadow(
        "nano", challenger, metric, **{"margin": 0.1, "budget_usd": 1.0, "rate": 1.0, "confidence": 1 - 1e-12} | values
    )


def found_of(engine):
    """Verdict and pairs; every call that was drawn came to one end."""
    evidence = ShadowEvidence(engine)
    verdict, pairs = evidence.verdict("nano"), evidence.pairs("nano")
    counts = verdict.counts
    assert counts["drawn"] == len(pairs) + counts["dropped"] + counts["refused"] + counts["lost"]
    return verdict, pairs


def purposes(engine):
    return Counter(Ledger(engine).frame()["purpose"])


def spent_nanos(engine, purpose):
    frame = Ledger(engine).frame()
    return frame.filter(frame["purpose"] == purpose)["cost_nanos"].sum()


def test_drawn_calls_are_asked_again_and_written_down_as_a_shadows(any_engine):
    shadow = shadow_of(metric=right, rate=0.4)
    client = client_of(any_engine, shadow)
    with attributed(tenant_id="acme", feature="search"):
        done = [client.complete(ASK, model=LIVE) for _ in range(30)]
    shadow.close()
    drawn = {d.call_id for d in done if sample_trace_fraction(d.call_id, "nano") < 0.4}
    assert 0 < len(drawn) < 30
    verdict, pairs = found_of(any_engine)
    assert {p.call_id for p in pairs} == drawn
    assert {(p.live_model, p.live_score, p.score, p.error) for p in pairs} == {(LIVE, 1.0, 0.0, "")}
    assert (verdict.counts["offered"], verdict.counts["drawn"]) == (30, len(drawn))
    rows = [r for r in Ledger(any_engine).frame().to_dicts() if r["purpose"] == "shadow"]
    assert {r["item_id"] for r in rows} == drawn
    assert {(r["tenant_id"], r["feature"], r["model_asked"]) for r in rows} == {("acme", "search", OTHER)}
    assert purposes(any_engine) == {"product": 30, "shadow": len(drawn)}


def test_only_what_a_model_answered_a_user_in_words_is_drawn(engine, tmp_path):
    def say(request):
        asked = request.messages[-1]["content"]
        calls = (ToolCall("1", "find", "{}"),) if asked == "call a tool" else ()
        return Response("" if calls else asked, request.model, USAGE, tool_calls=calls)

    shadow = shadow_of(only={"feature": "answer"})
    client = client_of(engine, shadow, say, cache=ResponseCache(engine))
    asked = {"model": LIVE, "tenant_id": "acme", "feature": "answer"}
    use = CacheUse("tenant")
    drawn = [client.complete(ASK, **asked, use=use)]
    assert client.complete(ASK, **asked, use=use).source == "cache"
    assert client.complete([{"role": "user", "content": "call a tool"}], **asked).response.tool_calls
    client.complete(ASK, **asked | {"feature": "other"})
    client.complete(ASK, **asked, purpose="eval")
    recorded = replace(client, recordings=Recordings(tmp_path / "recordings", live=True))
    drawn.append(recorded.complete(ASK, **asked, item_id="q1"))
    replayed = replace(client, recordings=Recordings(tmp_path / "recordings"))
    assert replayed.complete(ASK, **asked, item_id="q1").source == "recording"
    stream, left = client.stream(ASK, **asked), client.stream(ASK, **asked)
    assert "".join(stream) == stream.result.text
    drawn.append(stream.result)
    pieces = iter(left)
    next(pieces)
    pieces.close()
    shadow.close()
    verdict, pairs = found_of(engine)
    assert {p.call_id for p in pairs} >= {d.call_id for d in drawn}
    assert 3 <= verdict.counts["offered"] <= 4  # the one that was left may have had all its text by then


class Gated:
    """A challenger that hangs until the test says so."""

    def __init__(self):
        self.begun, self.released = threading.Event(), threading.Event()

    def __call__(self, request):
        self.begun.set()
        assert self.released.wait(FOREVER_S)
        return "late"


def test_a_challenger_that_hangs_holds_nobody_up_and_has_failed(engine):
    gate = Gated()
    shadow = shadow_of(gate, timeout_s=0.1, close_s=5.0)
    client = client_of(engine, shadow)
    assert client.complete(ASK, model=LIVE).text == LIVE  # comes back although the gate is shut
    assert gate.begun.wait(FOREVER_S)
    assert client.complete(ASK, model=LIVE).text == LIVE
    shadow.close()
    assert not gate.released.is_set()
    gate.released.set()
    _, pairs = found_of(engine)
    assert [(p.score, p.live_score, p.error.partition(":")[0]) for p in pairs] == [(0.0, 1.0, "AttemptTimeout")] * 2


def test_challengers_that_never_come_back_do_not_fill_the_process_with_threads(engine):
    gate = Gated()
    shadow = shadow_of(gate, timeout_s=0.01)
    client = client_of(engine, shadow)
    before = threading.active_count()
    for _ in range(30):
        client.complete(ASK, model=LIVE)
        while shadow._open:
            threading.Event().wait(0.005)
    hung = threading.active_count() - before
    gate.released.set()
    shadow.close()
    verdict, pairs = found_of(engine)
    assert hung <= 12
    assert len(pairs) == 9
    assert verdict.counts["refused"] == 21


@pytest.mark.parametrize("error", [ValueError("no\x00\x1b[31m"), SystemExit("no"), Unavailable("down")])
def test_a_challenger_that_raises_has_the_worst_score(engine, error):
    def raises(request):
        raise error

    shadow = shadow_of(raises)
    client = client_of(engine, shadow)
    assert [client.complete(ASK, model=LIVE).text for _ in range(3)] == [LIVE] * 3
    shadow.close()
    verdict, pairs = found_of(engine)
    assert [(p.score, p.live_score) for p in pairs] == [(0.0, 1.0)] * 3
    assert all(p.error.startswith(type(error).__name__) for p in pairs)
    assert verdict.counts["failed"] == 3


def test_a_model_that_fails_is_cooled_down_for_the_shadow_alone(engine):
    def say(request):
        if request.model == OTHER:
            raise Unavailable("down", billed="no")
        return Response(request.model, request.model, USAGE)

    shadow = shadow_of(close_s=30.0)
    client = client_of(engine, shadow, say)
    for _ in range(4):
        client.complete(ASK, model=LIVE)
    shadow.close()
    assert found_of(engine)[0].counts["failed"] == 4
    assert client.cooldowns.admits(OTHER)


def test_what_the_shadow_spends_is_its_own_and_never_above_its_budget(any_engine):
    worst = worst_attempt_nanos(load_prices(), Request(OTHER, tuple(ASK)))
    shadow = shadow_of(budget_usd=1.3 * worst / 1e9)
    client = client_of(any_engine, shadow, budgets=[Budget(1.0, "day")])
    for _ in range(30):
        assert client.complete(ASK, model=LIVE).text == LIVE
        while shadow._open:
            threading.Event().wait(0.001)
    shadow.close()
    verdict, pairs = found_of(any_engine)
    assert 0 < len(pairs) < 30
    assert verdict.counts["refused"] == 30 - len(pairs)
    assert verdict.spent_usd == pytest.approx(spent_nanos(any_engine, "shadow") / 1e9)
    assert 0 < verdict.spent_usd <= verdict.budget_usd
    table = {r["scope"]: r["spent_nanos"] for r in client.books.budgets.table().to_dicts()}
    assert table["all"] == spent_nanos(any_engine, "product")  # the product's budget does not pay for it
    more = shadow_of(budget_usd=1.0)  # raised: it goes on
    client_of(any_engine, more).complete(ASK, model=LIVE)
    more.close()
    assert len(found_of(any_engine)[1]) == len(pairs) + 1


def test_a_challenger_of_ones_own_is_charged_before_it_is_asked(engine):
    asked = []
    shadow = shadow_of(lambda request: asked.append(request) or "mine", cost_usd=0.3)
    client = client_of(engine, shadow)
    for _ in range(5):
        client.complete(ASK, model=LIVE)
    shadow.close()
    verdict, pairs = found_of(engine)
    assert (len(asked), len(pairs), verdict.counts["refused"]) == (3, 3, 2)
    assert verdict.spent_usd == pytest.approx(0.9)
    assert purposes(engine) == {"product": 5, "shadow": 3}


def test_a_challenger_may_ask_something_else_instead(engine):
    def shorter(request):
        return replace(request, model=OTHER, messages=request.messages[1:], max_tokens=7)

    shadow = shadow_of(shorter)
    client = client_of(engine, shadow)
    client.complete(ASK, model=LIVE)
    shadow.close()
    asked = client.providers["local/"].requests[-1]
    assert (asked.model, len(asked.messages), asked.max_tokens) == (OTHER, 1, 7)
    assert found_of(engine)[1][0].nanos == spent_nanos(engine, "shadow") > 0


def test_a_model_without_a_price_ends_the_shadow_and_is_told(engine, caplog):
    shadow = shadow_of(lambda request: request.to("local/nobody"))
    client = client_of(engine, shadow)
    for _ in range(3):
        client.complete(ASK, model=LIVE)
    shadow.close()
    verdict, pairs = found_of(engine)
    assert (pairs, verdict.counts["refused"]) == ([], 3)
    assert "nothing more is asked: UnknownPrice: " in caplog.text
    assert "local/nobody" in caplog.text


def test_a_full_queue_drops_and_counts_and_close_waits_no_longer_than_it_says(engine):
    gate = Gated()
    shadow = shadow_of(gate, queue_size=2, close_s=0.5)
    client = client_of(engine, shadow)
    client.complete(ASK, model=LIVE)
    assert gate.begun.wait(FOREVER_S)
    for _ in range(5):
        client.complete(ASK, model=LIVE)
    assert shadow._counts["dropped"] == 3  # two wait behind the one that hangs
    clock = SystemClock()
    began = clock.monotonic()
    shadow.close()
    assert clock.monotonic() - began < 5  # not the minute that the challenger has; machines stall
    assert not gate.released.is_set()
    client.complete(ASK, model=LIVE)  # a closed shadow takes nothing and harms nobody
    gate.released.set()
    verdict, pairs = found_of(engine)
    assert (verdict.counts["drawn"], verdict.counts["dropped"], pairs) == (6, 6, [])


def test_the_rate_limit_of_the_product_gives_the_shadow_no_turn(engine):
    shadow = shadow_of()
    client = client_of(
        engine, shadow, limits={LIVE: RateLimit(requests_per_minute=4), OTHER: RateLimit(requests_per_minute=1)}
    )
    for _ in range(4):
        client.complete(ASK, model=LIVE, deadline_s=5.0)
    shadow.close()
    assert len(found_of(engine)[1]) == 4
    assert client.complete(ASK, model=OTHER, deadline_s=5.0).text == OTHER  # its one turn is still there


def test_another_process_goes_on_with_the_evidence_until_it_is_decided(any_engine):
    first = shadow_of(metric=right, confidence=0.95)
    client = client_of(any_engine, first)
    for _ in range(4):
        client.complete(ASK, model=LIVE)
    first.close()
    assert found_of(any_engine)[0].status == "inconclusive"
    again = shadow_of(metric=right, confidence=0.95)
    client = client_of(any_engine, again)
    assert again._watch.pairs == 4
    assert again._watch.won == first._watch.won
    for _ in range(12):
        client.complete(ASK, model=LIVE)
        while again._open:
            threading.Event().wait(0.001)
    again.close()
    verdict, pairs = found_of(any_engine)
    assert (verdict.status, verdict.decided_at) == ("broken", len(pairs))
    assert 4 < len(pairs) < 16  # what comes after the verdict costs nothing
    third = shadow_of(metric=right, confidence=0.95)
    client_of(any_engine, third).complete(ASK, model=LIVE)
    third.close()
    assert len(found_of(any_engine)[1]) == len(pairs)


def test_a_forked_process_has_threads_of_its_own(engine):
    shadow = shadow_of()
    client = client_of(engine, shadow)
    client.complete(ASK, model=LIVE)
    while shadow._open or shadow._counts:  # what is counted is written after the pair has come to its end
        threading.Event().wait(0.001)
    (parents,) = shadow._threads
    shadow._pid = -1  # as a child sees it
    client.complete(ASK, model=LIVE)
    assert parents not in shadow._threads
    shadow.close()
    verdict, pairs = found_of(engine)
    assert (len(pairs), verdict.counts["offered"]) == (2, 2)


def test_evidence_for_another_question_is_not_gone_on_with(engine):
    client_of(engine, shadow_of())
    for changed in (
        {"margin": 0.2},
        {"metric": right},
        {"challenger": LIVE},
        {"confidence": 0.9},
        {"only": {"feature": "a"}},
    ):
        with pytest.raises(ConfigError, match=r"for another question .* give a new name"):
            client_of(engine, shadow_of(**changed))
    client_of(engine, shadow_of(budget_usd=3.0, rate=0.5))
    assert ShadowEvidence(engine).verdict("nano").budget_usd == 3.0


def test_what_cannot_be_scored_counts_against_either_verdict(engine):
    def untold(request, answer):
        if answer == OTHER:
            raise ValueError("no idea")
        return 2.0  # no score either

    shadow = shadow_of(metric=untold)
    client = client_of(engine, shadow)
    for _ in range(30):
        client.complete(ASK, model=LIVE)
    shadow.close()
    verdict, pairs = found_of(engine)
    assert {(p.live_score, p.score, p.error) for p in pairs} == {(None, None, "")}
    assert verdict.counts["unscored"] == len(pairs) == 30
    assert verdict.status == "inconclusive"
    assert (verdict.claim.low, verdict.claim.high) == pytest.approx((-1, 1), abs=0.01)


def test_a_judge_is_paid_by_the_shadows_budget(engine):
    def say(request):
        asked = request.messages[-1]["content"]
        said = ("no" if OTHER in asked else "yes") if asked.startswith("Good?") else request.model
        return Response(said, request.model, USAGE)

    judge = Judge("strict", LIVE, "Good? {question} {answer}", "v1")
    shadow = shadow_of(metric=judge)
    client = client_of(engine, shadow, say, budgets=[Budget(1.0, "day")])
    client.complete(ASK, model=LIVE)
    shadow.close()
    verdict, (pair,) = found_of(engine)
    assert (pair.live_score, pair.score, verdict.rule.metric) == (1.0, 0.0, "judge strict")
    assert purposes(engine) == {"product": 1, "shadow": 1, "judge": 2}
    assert verdict.spent_usd * 1e9 == pytest.approx(spent_nanos(engine, "shadow") + spent_nanos(engine, "judge"))
    assert pair.nanos == spent_nanos(engine, "shadow")


def test_metrics_by_name_look_at_the_request_alone(engine):
    shadow = shadow_of(metric="groundedness")
    client = client_of(
        engine, shadow, lambda r: Response("join frames" if r.model == LIVE else "join melons", r.model, USAGE)
    )
    client.complete(ASK, model=LIVE)
    shadow.close()
    (pair,) = found_of(engine)[1]
    assert (pair.live_score, pair.score) == (1.0, 0.5)


def test_a_router_may_be_live_or_challenger_and_messages_are_made_once(engine):
    made = []

    def messages(configuration):
        made.append(configuration)
        return configured(configuration)

    shadow = shadow_of(lambda request: request.to(OTHER))
    client = client_of(engine, shadow, routers={"docs": Routed("docs", by_feature())})
    done = client.complete(messages, model="router/docs", question="question 1", feature="answer")
    shadow.close()
    assert made == ["top2"] == [done.route.configuration]
    live, other = client.providers["local/"].requests
    assert (other.model, other.messages) == (OTHER, live.messages)


def test_a_router_that_needs_several_prompts_is_no_challenger_since_a_live_call_has_one(engine):
    routers = {"docs": Routed("docs", cascade())}
    for name in ("docs", "none"):
        with pytest.raises(ConfigError, match=f"asks router '{name}', .* give a function that makes the request"):
            client_of(engine, shadow_of(f"router/{name}"), routers=routers)


def test_what_the_caller_changes_afterwards_is_not_asked(engine):
    gate = Gated()
    shadow = shadow_of(lambda request: gate(request) and request.to(OTHER))
    client = client_of(engine, shadow)
    messages = [dict(message) for message in ASK]
    client.complete(messages, model=LIVE)
    messages[1]["content"] = "changed"
    messages.append({"role": "assistant", "content": LIVE})
    gate.released.set()
    shadow.close()
    assert list(client.providers["local/"].requests[-1].messages) == ASK


def test_a_database_that_is_gone_loses_pairs_and_no_answer(engine, caplog, monkeypatch):
    shadow = shadow_of()
    client = client_of(engine, shadow)

    add = shadow._evidence.add

    def gone(name, counts, pair=None):
        if pair:
            raise OSError("gone")
        add(name, counts)

    monkeypatch.setattr(shadow._evidence, "add", gone)
    assert client.complete(ASK, model=LIVE).text == LIVE
    shadow.close()
    verdict, pairs = found_of(engine)
    assert (pairs, verdict.counts["lost"]) == ([], 1)
    assert "a pair was lost" in caplog.text


def test_what_the_end_of_the_program_keeps_from_being_asked_is_no_failure_of_the_challenger(engine, monkeypatch):
    shadow = shadow_of()
    client = client_of(engine, shadow)
    start = threading.Thread.start

    def refuse(thread):
        if not thread.name.startswith("shadow"):
            raise RuntimeError("can't create new thread at interpreter shutdown")
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert client.complete(ASK, model=LIVE).text == LIVE
        shadow.close()
    verdict, pairs = found_of(engine)
    assert (pairs, verdict.counts["lost"]) == ([], 1)


def test_answers_without_a_metric_wait_for_people_who_do_not_know_whose_they_are(any_engine, tmp_path):
    secret = "Bearer abcdefghijklmnop"

    def say(request):
        if request.model == OTHER and len(model.requests) > 22:
            raise Rejected("no", billed="no")
        return Response(f"=cmd {request.model} {secret}", request.model, USAGE)

    shadow = shadow_of(metric=None, margin=0.3, confidence=0.95)
    client = client_of(any_engine, shadow, say)
    model = client.providers["local/"]
    for _ in range(12):
        client.complete(ASK, model=LIVE)
    shadow.close()
    evidence, path = ShadowEvidence(any_engine), tmp_path / "sheet.csv"
    assert evidence.verdict("nano").counts["waiting"] == 12  # the failed one too: alone it would be no fair evidence
    assert evidence.verdict("nano").claim is None
    assert [p.score for p in evidence.pairs("nano") if p.error] == [0.0]
    assert evidence.sheet("nano", path) == 12
    for name in (evidence.sheet, partial(evidence.label, rater="ann", rubric="v1", at="")):
        with pytest.raises(ConfigError, match="did you mean 'nano'"):
            name("nanno", path)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24
    assert "abcdefghijklmnop" not in path.read_text(encoding="utf-8")
    assert all(row["answer"].startswith("'=") for row in rows if row["answer"])
    first = Counter(LIVE in row["answer"] for row in rows if row["item_id"].endswith(":1"))
    assert min(first[True], first[False]) > 0  # either may come first
    rows.sort(key=lambda row: not row["answer"], reverse=True)
    for row in rows[:-1]:  # one answer of the last pair has no label
        row["value"] = "1" if LIVE in row["answer"] or not row["answer"] else "0"  # kind to what failed
    foreign = tmp_path / "foreign.csv"
    foreign.write_text(f"item_id,value\n{rows[0]['item_id']},1\nzz:1,0\n", encoding="utf-8")
    with pytest.raises(EvalsetError, match=r"1 row of .* without a pair of shadow 'nano', such as 'zz:1'"):
        evidence.label("nano", foreign, rater="ann", rubric="v1", at="")
    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.DictWriter(file, rows[0], delimiter=";")  # as a spreadsheet saves it in half of Europe
        out.writeheader()
        out.writerows(rows)
    assert evidence.label("nano", path, rater="ann", rubric="v1", at="2026-11-30T12:00:00+00:00") == 11
    verdict = evidence.verdict("nano")
    assert (verdict.status, verdict.counts["waiting"], verdict.claim.difference) == ("broken", 1, -1.0)
    assert evidence.label("nano", path, rater="ann", rubric="v1", at="2026-11-30T12:01:00+00:00") == 0


def test_the_verdict_is_written_in_the_parts_of_a_decision(engine, tmp_path):
    shadow = shadow_of(metric=right, confidence=0.95)
    client = client_of(engine, shadow)
    for _ in range(15):
        client.complete(ASK, model=LIVE)
    shadow.close()
    verdict = ShadowEvidence(engine).verdict("nano")
    path = verdict.write(tmp_path / "docs_qa")
    assert path == tmp_path / "docs_qa" / "decisions" / "shadow" / "nano.json"
    assert ShadowVerdict.load(path) == verdict
    assert verdict.sentence.startswith(f"{OTHER} is worse than {LIVE} by more than the margin of 0.1 of ")
    assert "may be looked at at any time; spent $0.0000" in verdict.sentence
    assert verdict.sentence.endswith(" of $1.")
    assert (verdict.rule.reference, verdict.claim.arm, EXIT_CODES[verdict.status]) == (LIVE, OTHER, 1)
    assert verdict.claim.low <= verdict.claim.difference <= verdict.claim.high <= -verdict.rule.margin
    assert 0 < verdict.claim.cost_usd_per_1k < pairs_usd(verdict)
    path.write_text(path.read_text(encoding="utf-8").replace('"broken"', '"fine"'), encoding="utf-8")
    with pytest.raises(ConfigError, match="status must be"):
        ShadowVerdict.load(path)


def pairs_usd(verdict):
    """What the live answers cost per 1,000, as the note says it."""
    return float(verdict.claim.note.split("$")[1].split()[0])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"margin": 0.0}, "margin and delta must be"),
        ({"confidence": 1.0}, "margin and delta must be"),
        ({"rate": 0.0}, "rate must be in"),
        ({"close_s": 0.0}, "rate must be in"),
        ({"rate": "0.5"}, "rate must be in"),
        ({"close_s": math.nan}, "rate must be in .* found rate=1.0, timeout_s=60.0, close_s=nan"),
        ({"timeout_s": math.inf}, "rate must be in"),
        ({"workers": 1.5}, "rate must be in"),
        ({"challenger": 5}, "challenger of shadow 'nano' can be neither asked nor called, found 5"),
        ({"metric": 5}, "metric of shadow 'nano' can be neither asked nor called, found 5"),
        ({"only": {"feature": 5}}, "only of shadow 'nano' names texts, found feature=5"),
        ({"budget_usd": -1.0}, "dollars, 0 or more"),
        ({"cost_usd": float("nan")}, "dollars, 0 or more"),
        ({"only": {"fature": "a"}}, "did you mean 'feature'"),
        ({"metric": "token_f1"}, "live calls have no reference"),
        ({"metric": Judge("pair", LIVE, "{answer_a} {answer_b}", "v1")}, "must judge single answers"),
    ],
)
def test_bad_values_are_refused_before_anything_begins(values, message):
    with pytest.raises(ConfigError, match=message):
        shadow_of(**values)


def test_what_does_not_fit_the_client_is_refused_with_it(engine):
    with pytest.raises(ConfigError, match="the name of a shadow"):
        Shadow("../x", OTHER, same, margin=0.1, budget_usd=1.0)
    with pytest.raises(UnknownPrice):
        client_of(engine, shadow_of("local/nobody"))
    with pytest.raises(ConfigError, match="no provider for model"):
        client_of(engine, shadow_of("openai/gpt-5.4-nano"))
    with pytest.raises(ConfigError, match="give the client's books budgets"):
        Client({"local/": ScriptedModel()}, Books(load_prices()), shadow=shadow_of())
    books = Books(load_prices(), Budgets(engine), Ledger(engine), tracing=Tracing(engine, capture_content=False))
    with pytest.raises(ConfigError, match="WORKBENCH_CAPTURE_CONTENT=0"):
        Client({"local/": ScriptedModel()}, books, shadow=shadow_of(metric=None))
    client_of(engine, shadow_of())
    with pytest.raises(ConfigError, match="did you mean 'nano'"):
        ShadowEvidence(engine).verdict("nanno")


def shown(arguments, code, monkeypatch, any_engine):
    monkeypatch.setenv("WORKBENCH_STATE_URL", any_engine.url.render_as_string(hide_password=False))
    done = CliRunner().invoke(app, ["shadow", *arguments])
    assert done.exit_code == code, done.output
    return done.output


def test_the_command_line_tells_what_a_shadow_has_shown(engine, tmp_path, monkeypatch):
    def told(code, *arguments):
        return shown(arguments, code, monkeypatch, engine)

    assert told(0, "list") == "no shadow has begun\n"
    shadow = shadow_of(metric=None, confidence=0.95)
    client = client_of(engine, shadow, lambda request: Response("ok", f"{request.model}\x1b[31m\nforged", USAGE))
    for _ in range(60):
        client.complete(ASK, model=LIVE)
    shadow.close()
    assert "nobody can tell yet" in told(2, "verdict", "nano")
    sheet = tmp_path / "sheet.csv"
    assert told(0, "sheet", "nano", str(sheet)).startswith("60 pairs wait")
    sheet.write_text(sheet.read_text(encoding="utf-8").replace(",ok,,", ",ok,1,"), encoding="utf-8")
    assert told(0, "label", "nano", str(sheet), "--rater", "ann", "--rubric", "v1") == "60 pairs are labelled\n"
    said, *rest = told(0, "verdict", "nano").splitlines()
    assert said.startswith(f"{OTHER} is non-inferior to {LIVE}")
    assert "\x1b" not in said
    assert len(rest) == 1
    write(tmp_path / "evalsets" / "mine")
    monkeypatch.setenv("WORKBENCH_ROOT", str(tmp_path))
    path = tmp_path / "evalsets" / "mine" / "decisions" / "shadow" / "nano.json"
    assert "written: " in told(0, "verdict", "nano", "--evalset", "mine")
    assert ShadowVerdict.load(path).status == "holds"
    assert "holds" in told(0, "list")
    assert "no shadow has begun" not in told(0, "list")
    assert "did you mean 'nano'" in told(3, "verdict", "nanno")
