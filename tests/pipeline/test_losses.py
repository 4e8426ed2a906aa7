"""Faults that are planted into runs are named by the step that they were planted in."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from tests.evalset.small_evalset import settings_in, write
from tests.pipeline.test_flow import PROMPTS, SMALL
from workbench.errors import EvalsetError
from workbench.evalset.evalset import load_evalset
from workbench.inference.call_attempt import Books
from workbench.inference.client import Client
from workbench.inference.prices import project_prices
from workbench.orchestration.flows import Flows
from workbench.pipeline.flow import AnswerPlan, Library, run_items
from workbench.pipeline.losses import KINDS, RIGHT, ItemLoss, Losses, loss_of, losses
from workbench.records import Query
from workbench.testing import ScriptedModel

FAULTS = (RIGHT, "retrieval miss", "rank cut", "context cut", "wrong draft", "check too strict", "refusal")
EACH = 6
LONG = "Joins frames.\n" + "\n".join(f"line {i} of no use" for i in range(60))


def name_of(query_id):
    """Name that answers a question, in no word like it."""
    return "fn_" + "".join("abcdefghij"[int(digit)] for digit in query_id[1:])


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """An evalset with questions, each of which has one fault planted into its search or its model's answers."""
    root = tmp_path_factory.mktemp("planted")
    faults = {f"q{i:02d}": fault for i, fault in enumerate(FAULTS * EACH)}
    documents, queries, judged = [], [], []
    for query_id, fault in faults.items():
        name = name_of(query_id)
        # where the context is cut, the name stands in a long document far from everything that the question says
        text = f"{LONG}\n{name}\n{LONG}" if fault == "context cut" else f"{name} does it."
        documents.append({"_id": f"lib.{name}", "text": text, "title": f"lib.{name}", "metadata": {"tenant_id": "lib"}})
        metadata = {"tenant_id": "lib", "accept": [name], "cluster": f"c{int(query_id[1:]) // 2}"}
        queries.append({"_id": query_id, "text": f"{query_id}: how is it done", "metadata": metadata})
        judged.append(f"{query_id}\tlib.{name}\t1")
    documents += [
        {"_id": f"lib.other{i}", "text": f"other{i}", "title": f"lib.other{i}", "metadata": {"tenant_id": "lib"}}
        for i in range(3)
    ]
    folder = write(root, documents=documents, queries=queries, dev=judged[:2], test=judged[2:])
    (folder / "prompts.toml").write_text(PROMPTS)
    settings = replace(settings_in(root), state_url=f"sqlite:///{root / 'state.sqlite'}")
    return str(folder), settings, faults


def search_for(faults):
    def search(query):
        query_id, others = query.text[:3], ["lib.other0", "lib.other1", "lib.other2"]
        mine = f"lib.{name_of(query_id)}"
        return {"retrieval miss": others, "rank cut": [*others, mine]}.get(faults[query_id], [mine, *others])

    return search


def model_for(faults):
    def said(request):
        query_id = request.messages[1]["content"].rpartition("\n")[2][:3]
        right = f"Use `{name_of(query_id)}`."
        return {
            RIGHT: right,
            "check too strict": f"{right} See [lib.not_retrieved].",
            "refusal": "I cannot tell.",
        }.get(faults[query_id], "Use `other0`.")

    return ScriptedModel(said)


def test_every_planted_fault_is_named_by_its_step(planted):
    folder, settings, faults = planted
    client = Client({"": model_for(faults)}, Books(project_prices(settings.root)))
    library = Library(settings, search_for(faults))
    part = load_evalset(folder, settings=settings).split("test")
    with Flows.open(settings, tools={"client": client, "library": library}) as flows:
        runs = run_items(flows, part, AnswerPlan(folder, SMALL))
        again = run_items(flows, part, AnswerPlan(folder, SMALL))
        assert {query_id: run.run_id for query_id, run in again.items()} == {q: r.run_id for q, r in runs.items()}
        assert len(flows.replay_all().same) == len(runs)
    found = losses(runs, part, library.of(folder))
    named = {item.item_id: item.kind for item in found.items}
    assert named == {query_id: faults[query_id] for query_id in named}
    assert len(named) == len(faults) - 2
    table = found.table()
    assert [row[0] for row in table.rows] == [RIGHT, *KINDS]
    assert sum(row[2].estimate for row in table.rows) == pytest.approx(100)
    assert {row[0]: row[1] for row in table.rows} == {kind: 0 for kind in KINDS} | Counter(named.values())
    assert "by the step that lost them" in found._repr_html_()
    assert repr(found).startswith(f"{100 * found.quality:.1f} of 100 points")


def test_points_have_intervals_over_families():
    dice = random.Random(0)
    items = [ItemLoss(f"q{i}", dice.choice([RIGHT, "wrong draft"]), f"c{i // 4}", 0.001) for i in range(200)]
    rows = {row[0]: row for row in Losses(items).table().rows}
    points = rows["wrong draft"][2]
    assert points.low < points.estimate < points.high
    assert rows["refusal"][2].estimate == 0
    assert sum(row[3] for row in rows.values()) == pytest.approx(1.0)


def test_a_wrong_answer_from_the_cache_is_the_caches(planted):
    folder, settings, _ = planted
    shelf = Library(settings, lambda query: []).of(folder)
    query = Query("q00", "q00: how is it done", "lib", accept=("fn_aa",))
    client = Client({"": ScriptedModel(lambda request: "Use `other0`.")}, Books(project_prices(settings.root)))
    library = Library(settings, lambda query: ["lib.fn_aa"])
    part = replace(load_evalset(folder, settings=settings).split("dev"), queries=(query,))
    with Flows.open(settings, tools={"client": client, "library": library}) as flows:
        run = run_items(flows, part, AnswerPlan(folder, SMALL), key="cache")["q00"]
    fresh = loss_of(run, query, {"lib.fn_aa": 1}, shelf)
    steps = [replace(s, output={**s.output, "source": "cache"}) if s.name == "draft" else s for s in run.steps]
    cached = loss_of(replace(run, steps=steps), query, {"lib.fn_aa": 1}, shelf)
    assert (fresh.kind, cached.kind) == ("wrong draft", "stale cache")
    with pytest.raises(EvalsetError, match="is failed, so nothing says what it lost"):
        loss_of(replace(run, status="failed"), query, {}, shelf)
