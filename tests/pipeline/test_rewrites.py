"""Vague questions are rewritten or not: an axis of the pipeline notebook, recorded before it is measured."""

import importlib
import re
import sys

import pytest
from typer.testing import CliRunner

from tests.pipeline.test_flow import SMALL, STRONG
from tests.pipeline.test_notebook import DEV, TEST, recorded_project, right
from workbench.cli import app
from workbench.errors import ConfigError, RecordingMiss
from workbench.evalset.evalset import load_evalset
from workbench.evaluation.fingerprint import build_parameters
from workbench.inference.call_attempt import Books
from workbench.inference.client import Client
from workbench.inference.messages import Response, Usage
from workbench.inference.prices import project_prices
from workbench.inference.recordings import FOLDER
from workbench.pipeline.notebook import PipelineExperiment, PipelineParameters
from workbench.pipeline.rewrites import record_rewrites, rewritten_file
from workbench.testing import ScriptedModel

OWN = "def short(question, tenant_id):\n    return f'{tenant_id}: ' + question.split()[2]\n"
WRITTEN, DRAFTED = Usage(50, output=5), Usage(100, output=10)


def said(request):
    """A query is the question's own word; an answer is that of the first document that is shown."""
    text = request.messages[1]["content"]
    if "Search query" in request.messages[0]["content"]:
        return Response(f" about {text.split()[2]} ", request.model, WRITTEN)
    return Response(f"Use `{re.search(r'fn_q[0-9]+', text)[0]}`.", request.model, DRAFTED)


def search(query):
    """Documents about the question that a query names, but for hard ones the wrong ones."""
    name = re.search(r"q[0-9]+", query.text)[0]
    found = f"lib.fn_{name}" if right(name, SMALL, "top2") else "lib.fn_q02"
    return [found, "lib.fn_q04" if found != "lib.fn_q04" else "lib.fn_q06"]


@pytest.fixture
def project(tmp_path):
    return recorded_project(tmp_path)


@pytest.fixture
def model():
    return ScriptedModel(said)


@pytest.fixture
def recorded(project, model):
    """Record with a scripted model; returns how many requests failed."""

    def record(by=SMALL, **given):
        client = Client({"": model}, Books(project_prices(project.root)))
        told = {"max_cost_usd": 1.0, "tell": lambda text: None} | given
        return record_rewrites("flows", by, settings=project, client=client, search=search, **told)

    return record


def experiment(settings, *rewrites, **given):
    return PipelineExperiment(PipelineParameters("flows", rewrites=rewrites, **given), settings)


def test_a_rewriter_is_an_axis_beside_none(project, recorded, model):
    assert recorded() == 0
    asked = len(model.requests)
    assert asked == DEV + TEST + 2 * 2 * (DEV + TEST) - unchanged()
    run = experiment(project, "off", SMALL)
    names = [arm.name for arm in run.prepare()]
    assert len(names) == 2 * (6 + 4)  # without documents a search changes nothing
    assert names[6] == "smollm2-135m@top2 · rewritten by smollm2-135m"
    assert "qwen2.5-coder-0.5b@top5 · rewritten by smollm2-135m · checked" in names
    arms = [arm for arm in run.prepare() if arm.name.startswith("smollm2-135m@top2") and not arm.plan.check]
    scored = run.score(arms, "test")
    plain, rewritten = (scored.runs[name] for name in scored.names)
    for query_id, one in rewritten.items():
        assert [s.name for s in one.steps] == ["find", "retrieve", "draft"]
        assert one.steps[0].output == f"about {query_id}"
        assert one.steps[1].output == search_of(query_id)
        spent = run.cost_usd(one) - run.cost_usd(plain[query_id])
        assert spent == pytest.approx(run.prices.cost_nanos(SMALL, WRITTEN) / 1e9)
        assert sum(run.amounts(one).values()) > sum(run.amounts(plain[query_id]).values())
    lost = {row[0]: row[1] for row in run.losses(scored, scored.names[1]).table().rows}
    assert lost["retrieval miss"] == sum(not right(q, SMALL, "top2") for q in rewritten)
    assert run.replay(scored, scored.names[1]).equal
    assert {"rewrites.jsonl", rewritten_file(run.evalset, SMALL).name} <= run.inputs.keys()
    assert recorded() == 0
    assert len(model.requests) == asked, "what is recorded is not asked again"


def search_of(query_id):
    class Asked:
        text = query_id

    return search(Asked)


def unchanged():
    """Requests that are the same with and without rewriting, and recorded: they show the same documents."""
    same = [q for q in (f"q{i:02d}" for i in range(DEV + TEST)) if search_of(q)[0] == f"lib.fn_{q}"]
    both = [q for q in same if search_of(q)[1] == "lib.fn_q00"]
    return 2 * (len(same) + len(both))  # top2 shows the first one here, top5 both


def test_other_recordings_and_what_rests_on_them_stay_as_they_are(project, recorded):
    without = PipelineExperiment(PipelineParameters("flows"), project)
    recorded()
    again = PipelineExperiment(PipelineParameters("flows"), project)
    assert again.inputs == without.inputs
    assert not [name for name in again.inputs if "rewr" in name]
    scored = again.score(again.prepare()[:1], "dev")
    assert scored.scores.equals(without.score(without.prepare()[:1], "dev").scores)


def test_what_is_not_recorded_is_told_before_anything_is_run(project, recorded):
    with pytest.raises(RecordingMiss) as missed:
        experiment(project, "off", SMALL)
    assert f"workbench record flows --rewrites {SMALL}" in str(missed.value)
    assert f"of {DEV + TEST} of {DEV + TEST} vague questions" in str(missed.value)
    recorded(questions=5)
    with pytest.raises(RecordingMiss, match=f"of {DEV + TEST - 5} of {DEV + TEST} vague questions"):
        experiment(project, SMALL)
    recorded(models=(SMALL,))
    experiment(project, SMALL, models=(SMALL,))
    with pytest.raises(RecordingMiss, match=f"of {STRONG} with top2.*--rewrites {SMALL}"):
        experiment(project, SMALL)


def test_a_function_of_one_s_own_rewrites(project, recorded, model):
    (project.root / "own_rewriter.py").write_text(OWN)
    try:
        assert recorded("own_rewriter:short") == 0
        assert not [r for r in model.requests if "Search query" in r.messages[0]["content"]]
        run = experiment(project, "own_rewriter:short", checks=("off",))
        (arm,) = [arm for arm in run.prepare() if arm.name.startswith("qwen2.5-coder-0.5b@top2")]
        assert arm.name == "qwen2.5-coder-0.5b@top2 · rewritten by own_rewriter:short"
        scored = run.score([arm], "dev")
        assert {one.steps[0].output for one in scored.runs[arm.name].values()} == {f"lib: q{i:02d}" for i in range(DEV)}
        assert run.replay(scored, arm.name).equal
        before = run.inputs["rewriter own_rewriter:short"]
        (project.root / "own_rewriter.py").write_text(f"# shorter\n{OWN}")
        assert experiment(project, "own_rewriter:short").inputs["rewriter own_rewriter:short"] != before
    finally:
        sys.modules.pop("own_rewriter", None)
        importlib.invalidate_caches()


def test_what_cannot_rewrite_is_refused(project, recorded, model):
    for name in ("on", "", "a b:c"):
        with pytest.raises(ConfigError, match="rewrites are 'off', a model"):
            PipelineParameters("flows", rewrites=(name,))
    with pytest.raises(ConfigError, match="rewrites needs at least one value"):
        build_parameters(PipelineParameters, {"rewrites": []})
    with pytest.raises(ConfigError, match="unknown model 'local/other'"):
        recorded("local/other")
    with pytest.raises(ConfigError, match="unknown model 'local/other'"):
        experiment(project, "local/other")
    with pytest.raises(ConfigError, match="'nowhere:rewrite' cannot be imported"):
        recorded("nowhere:rewrite")
    with pytest.raises(ConfigError, match="found no max_cost_usd"):
        recorded(max_cost_usd=None)
    with pytest.raises(ConfigError, match="questions is a number from 1 on"):
        recorded(questions=0)
    assert model.requests == []
    assert not rewritten_file(load_evalset("flows", settings=project), SMALL).exists()
    assert not (project.evalsets / "flows" / FOLDER / "rewrites.jsonl").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--rewrites", "nowhere:rewrite"], "rewriter 'nowhere:rewrite' cannot be imported"),
        (["--rewrites", SMALL, "--repeat", "2"], "--rewrites records each answer once, without --repeat"),
        (["--rewrites", SMALL, "--sample", "3"], "without --repeat, --retrieval, --questions and --rewrites; found 3"),
        (["--rewrites", "on"], "rewrites are 'off', a model of prompts.toml"),
    ],
)
def test_the_command_says_what_it_cannot_record(options, told):
    done = CliRunner().invoke(app, ["record", "docs_qa", *options])
    assert (done.exit_code, told in done.stderr) == (3, True), done.output
