"""The answer flow takes the way that its drafts deserve, and its records replay without models."""

import base64
import json
from dataclasses import dataclass, replace

import pytest
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.evalset.small_evalset import settings_in, write
from tests.telemetry.collector import collector
from workbench.caching.cache import ResponseCache
from workbench.config import load_settings
from workbench.errors import FlowError, StepFailed
from workbench.evalset.evalset import load_evalset
from workbench.evalset.imports.log_import import RUN, import_log
from workbench.evalset.imports.log_reader import read_log
from workbench.inference.budgets import Budget, Budgets
from workbench.inference.call_attempt import Books
from workbench.inference.client import Client
from workbench.inference.messages import Route
from workbench.inference.prices import project_prices
from workbench.inference.recordings import Recordings
from workbench.orchestration.flows import Flows
from workbench.pipeline.flow import AnswerPlan, Library, answer, check, is_vague, names_in
from workbench.retrieval.systems import read_system_run
from workbench.routing.recorded_hits import recorded_hit_rows
from workbench.routing.recorded_outcomes import recording_file
from workbench.state import open_engine
from workbench.telemetry.attribution import attributed
from workbench.telemetry.ledger import Ledger
from workbench.telemetry.traces import load_trace
from workbench.testing import ScriptedModel

SMALL, STRONG = "local/smollm2-135m", "local/qwen2.5-coder-0.5b"
PROMPTS = """
models = ["local/smollm2-135m"]
[feature.answer]
system = "Answer for {tenant}."
max_tokens = 40
[feature.find]
system = "Search query for {tenant}."
max_tokens = 20
[context.bare]
[context.top2]
documents = 1
characters = 200
[context.top5]
documents = 2
characters = 200
"""


def document(doc_id, text):
    return {"_id": doc_id, "text": text, "title": doc_id, "metadata": {"tenant_id": doc_id.partition(".")[0]}}


DOCUMENTS = [
    {
        "_id": "lib.Frame.merge",
        "text": "Join two frames by a key.",
        "title": "lib.Frame.merge",
        "metadata": {"tenant_id": "lib"},
    },
    {
        "_id": "lib.concat",
        "text": "Put frames below each other.",
        "title": "lib.concat",
        "metadata": {"tenant_id": "lib"},
    },
    {
        "_id": "other.merge",
        "text": "Merge of another library.",
        "title": "other.merge",
        "metadata": {"tenant_id": "other"},
    },
]
QUERIES = [{"_id": "q1", "text": "how do I join two frames", "metadata": {"tenant_id": "lib"}},
           {"_id": "q2", "text": "how do I stack", "metadata": {"tenant_id": "lib"}}]  # fmt: skip
GOOD, UNKNOWN = "Use `merge`.", "Use `no_such_thing`."


@pytest.fixture
def project(tmp_path):
    folder = write(
        tmp_path, documents=DOCUMENTS, queries=QUERIES, dev=["q1\tlib.Frame.merge\t1"], test=["q2\tlib.concat\t1"]
    )
    (folder / "prompts.toml").write_text(PROMPTS)
    return str(folder), replace(settings_in(tmp_path), state_url=f"sqlite:///{tmp_path / 'state.sqlite'}")


def asked(project, script, *, question="how do I join two frames", client=None, search=None, model=SMALL, **plan):
    """Run the flow once, and return its result, its run and the requests that models got."""
    evalset, settings = project
    scripted = ScriptedModel(script or ())
    client = client or Client({"": scripted}, Books(project_prices(settings.root)))
    library = Library(settings, search or (lambda query: ["lib.Frame.merge", "lib.concat"]))
    with Flows.open(settings, tools={"client": client, "library": library}) as flows:
        result = flows.run(answer, question, tenant_id="lib", plan=AnswerPlan(evalset, model, **plan).to_plain())
        (run,) = flows.durable.runs()
        run = flows.show(run.run_id)
        assert flows.replay(run.run_id).result == result
    return result, run, scripted.requests


def steps(run):
    return [step.name for step in run.steps]


def test_a_good_draft_is_the_answer(project):
    result, run, requests = asked(project, [GOOD])
    assert (result["status"], result["answer"], result["drafts"]) == ("answered", GOOD, 1)
    assert (result["documents"], result["model"]) == (["lib.Frame.merge"], SMALL)
    assert steps(run) == ["retrieve", "draft", "look_up", "check"]
    assert len(requests) == 1


def test_a_bad_draft_is_tried_again_with_wider_context(project):
    result, run, requests = asked(project, [UNKNOWN, GOOD])
    assert (result["status"], result["drafts"]) == ("answered", 2)
    assert result["reasons"] == [["it names nothing that exists"]]
    assert steps(run) == ["retrieve", *["draft", "look_up", "check"] * 2]
    assert "lib.concat" not in requests[0].messages[1]["content"]
    assert "lib.concat" in requests[1].messages[1]["content"]


def test_then_the_stronger_model_is_asked(project):
    result, _, requests = asked(project, [UNKNOWN, UNKNOWN, GOOD], strong=STRONG)
    assert (result["status"], result["model"], result["drafts"]) == ("answered", STRONG, 3)
    assert [request.model for request in requests] == [SMALL, SMALL, STRONG]


def test_it_refuses_with_the_reasons(project):
    result, _, _ = asked(project, [UNKNOWN, "", "See [lib.other]. Use `merge`."], strong=STRONG)
    assert (result["status"], result["answer"], result["drafts"]) == ("refused", "", 3)
    assert result["reasons"] == [
        ["it names nothing that exists"],
        ["it is empty", "it names nothing that exists"],
        ["it cites lib.other, which was not retrieved"],
    ]


def test_without_a_check_the_first_draft_is_the_answer(project):
    result, run, _ = asked(project, [UNKNOWN], check=False)
    assert (result["status"], result["answer"]) == ("answered", UNKNOWN)
    assert steps(run) == ["retrieve", "draft"]


def test_a_vague_question_is_rewritten_before_the_search(project):
    searched = []

    def search(query):
        searched.append(query.text)
        return ["lib.Frame.merge"]

    _, run, requests = asked(project, ["join frames by key", GOOD], rewrite=True, search=search)
    assert steps(run)[:2] == ["find", "retrieve"]
    assert searched == ["join frames by key"]
    assert requests[1].messages[1]["content"].endswith("how do I join two frames")  # the question itself is answered


def test_a_question_that_names_something_is_searched_as_it_is(project):
    _, run, _ = asked(project, [GOOD], rewrite=True, question="what does merge_asof do")
    assert steps(run)[0] == "retrieve"


def test_another_tenants_name_does_not_exist(project):
    _, settings = project
    shelf = Library(settings, lambda query: []).of(project[0])
    assert shelf.named("merge", "lib") == ["lib.Frame.merge"]
    assert shelf.named("merge", "other") == ["other.merge"]
    assert shelf.named("df.merge", "lib") == ["lib.Frame.merge"]
    assert shelf.named("lib.Frame.merge", "lib") == ["lib.Frame.merge"]
    assert shelf.named("lib.Series.merge", "lib") == []
    assert shelf.named("nothing", "lib") == []


def test_the_tool_stands_in_the_trace_with_its_input_and_output(project):
    evalset, settings = project
    client = Client({"": ScriptedModel([GOOD])}, Books(project_prices(settings.root)))
    library = Library(settings, lambda query: ["lib.Frame.merge"])
    with Flows.open(settings, tools={"client": client, "library": library}) as flows:
        flows.run(answer, "join", tenant_id="lib", plan=AnswerPlan(evalset, SMALL).to_plain())
        flows.durable.tracing.flush()
        (run,) = flows.durable.runs()
        trace = load_trace(flows.durable._state, run.trace_id)
    tool = next(row for row in trace.rows if row.operation == "execute_tool")
    assert tool.name == "execute_tool look_up"
    assert json.loads(tool.attributes["gen_ai.tool.call.arguments"])["args"] == [["merge"], "lib", evalset]
    assert json.loads(tool.attributes["gen_ai.tool.call.result"]) == {"merge": ["lib.Frame.merge"]}
    assert {row.operation for row in trace.rows} >= {"invoke_workflow", "retrieval", "execute_tool"}


def exported(project, monkeypatch, question="join"):
    """Spans of one flow as an OTLP back end gets them, as the lines of a file of it."""
    evalset, settings = project
    client = Client({"": ScriptedModel([GOOD])}, Books(project_prices(settings.root)))
    library = Library(settings, lambda query: ["lib.Frame.merge", "lib.concat"])
    with collector() as live:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", live.url)
        with Flows.open(settings, tools={"client": client, "library": library}) as flows:
            flows.run(answer, question, tenant_id="lib", plan=AnswerPlan(evalset, SMALL).to_plain())
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.extend(live.spans)
    told = MessageToDict(request)
    for span in told["resourceSpans"][0]["scopeSpans"][0]["spans"]:  # in JSON, OTLP has ids as hexadecimal digits
        span |= {k: base64.b64decode(span[k]).hex() for k in ("traceId", "spanId", "parentSpanId") if k in span}
    return told


def test_what_our_own_spans_say_of_a_search_is_imported_as_a_run_with_the_same_documents(
    project, monkeypatch, tmp_path
):
    path = tmp_path / "otlp.jsonl"
    path.write_text(json.dumps(exported(project, monkeypatch)) + "\n")
    log = read_log("otlp", [path])
    assert [(s.query, [doc for doc, _ in s.hits]) for s in log.searches] == [
        ("join", ["lib.Frame.merge", "lib.concat"])
    ]
    import_log(log, tmp_path / "out", project_prices(tmp_path))
    run = read_system_run(tmp_path / "out" / RUN)
    assert run["doc_id"].to_list() == ["lib.Frame.merge", "lib.concat"]


@pytest.mark.parametrize("kept", ["1", "0"])
def test_what_was_searched_and_found_is_kept_where_content_is_and_without_secrets(project, monkeypatch, kept):
    monkeypatch.setenv("WORKBENCH_CAPTURE_CONTENT", kept)
    monkeypatch.setenv("ACME_API_KEY", "swordfish-42")
    told = exported(project, monkeypatch, "join swordfish-42")
    (span,) = (s for s in told["resourceSpans"][0]["scopeSpans"][0]["spans"] if s["name"] == "retrieval retrieve")
    found = {a["key"]: a["value"]["stringValue"] for a in span["attributes"] if a["key"].startswith("gen_ai.retrieval")}
    assert "swordfish" not in json.dumps(told)
    if kept == "0":
        assert found == {}
    else:
        assert json.loads(found["gen_ai.retrieval.documents"]) == [{"id": "lib.Frame.merge"}, {"id": "lib.concat"}]
        assert found["gen_ai.retrieval.query.text"].startswith("join ")


def test_budgets_hold_and_the_ledger_says_for_whom(project):
    evalset, settings = project
    engine = open_engine(settings.state_url)
    ledger, prices = Ledger(engine), project_prices(settings.root)
    books = Books(prices, Budgets(engine, (Budget(1e-9, "total", name="tiny"),)), ledger)
    library = Library(settings, lambda query: ["lib.Frame.merge"])
    plan = AnswerPlan(evalset, SMALL).to_plain()
    for budgets, expected in ((books, "BudgetExceeded"), (Books(prices, ledger=ledger), "")):
        client = Client({"": ScriptedModel([GOOD])}, budgets)
        with Flows.open(settings, tools={"client": client, "library": library}) as flows, attributed(user_id="u1"):
            if expected:
                with pytest.raises(StepFailed, match=expected):
                    flows.run(answer, "join", tenant_id="lib", plan=plan, key=expected)
            else:
                flows.run(answer, "join", tenant_id="lib", plan=plan, key=expected)
    with engine.connect() as connection:
        rows = connection.exec_driver_sql("select tenant_id, user_id, feature, status from wb_ledger").all()
    engine.dispose()
    assert rows == [("lib", "u1", "answer", "ok")]


def test_names_and_vagueness():
    assert names_in("df.groupby('a').agg(...) or `value_counts`, never iterrows()") == [
        "df.groupby", "agg", "value_counts", "iterrows",
    ]  # fmt: skip
    assert names_in("Join the two tables.") == []
    assert is_vague("How do I join the two tables?")


def test_a_check_says_everything_that_is_wrong():
    found = {"text": "x" * 601, "finish": "length"}
    assert check(found, [], {}) == [
        "it was cut off in its first sentence",
        "it has more than 600 characters",
        "it names nothing that exists",
    ]


def test_recorded_answers_of_docs_qa_replay_through_the_flow(tmp_path):
    """The flow asks what was recorded: no model is there, and nothing may be asked live."""
    settings = replace(load_settings(), state_url=f"sqlite:///{tmp_path / 'state.sqlite'}")
    evalset = load_evalset("docs_qa", settings=settings)
    hits = {row["query_id"]: row["doc_ids"] for row in recorded_hit_rows(evalset, "hits.jsonl")}
    by_text = {(q.text, q.tenant_id): hits[q.query_id] for q in evalset.queries}
    client = Client({}, Books(project_prices(settings.root)), recordings=Recordings(recording_file(evalset, SMALL)))
    library = Library(settings, lambda query: by_text[query.text, query.tenant_id])
    plan = AnswerPlan("docs_qa", SMALL).to_plain()
    with Flows.open(settings, tools={"client": client, "library": library}) as flows:
        results = [flows.run(answer, q.text, tenant_id=q.tenant_id, plan=plan) for q in evalset.queries[:20]]
        assert {result["status"] for result in results} <= {"answered", "refused"}
        report = flows.replay_all()
        assert (len(report.same), report.different) == (20, {})
        with pytest.raises(FlowError, match="RecordingMiss"):
            flows.run(answer, evalset.queries[0].text, tenant_id="pandas", plan=plan | {"model": STRONG})


@dataclass(frozen=True)
class ByLength:
    """Routes short questions to the small model with little context, others to the strong one with more."""

    name: str = "docs"
    models: tuple[str, ...] = (f"{SMALL}@top2", f"{STRONG}@top5")
    cascade: bool = False
    first: Route = Route(SMALL, "top2", f"{SMALL}@top2")

    def pick(self, text, feature, *, confidence=None):
        return self.first if len(text) < 10 else Route(STRONG, "top5", f"{STRONG}@top5", "long")

    def instead(self, text, feature):
        return self.pick(text, feature)


def test_a_router_chooses_model_and_context_and_its_choice_replays(project):
    model = ScriptedModel(lambda request: GOOD)
    client = Client({"": model}, Books(project_prices(project[1].root)), routers={"docs": ByLength()})
    result, run, _ = asked(project, None, client=client, model="router/docs")
    assert (result["model"], result["documents"]) == (STRONG, ["lib.Frame.merge", "lib.concat"])
    assert run.steps[1].output["source"] == "model"


def test_an_answer_from_the_cache_replays_as_one_from_the_cache(project):
    evalset, settings = project
    engine = open_engine(settings.state_url)
    ledger, model = Ledger(engine), ScriptedModel(lambda request: GOOD)
    client = Client({"": model}, Books(project_prices(settings.root), ledger=ledger), cache=ResponseCache(engine))
    library, plan = Library(settings, lambda query: ["lib.Frame.merge"]), AnswerPlan(evalset, SMALL).to_plain()
    with Flows.open(settings, tools={"client": client, "library": library}) as flows:
        for key in ("1", "2"):
            flows.run(answer, "join", tenant_id="lib", plan=plan, key=key)
        rows = statuses(engine)
        assert rows == ["ok", "cached"]
        sources = [flows.show(run.run_id).steps[1].output["source"] for run in flows.durable.runs()]
        assert sorted(sources) == ["cache", "model"]
        assert len(flows.replay_all().same) == 2
    assert statuses(engine) == rows, "a replay asks nothing, so it writes nothing into the ledger"
    engine.dispose()
    assert len(model.requests) == 1


def statuses(engine):
    with engine.connect() as connection:
        return [s for (s,) in connection.exec_driver_sql("select status from wb_ledger order by started")]
