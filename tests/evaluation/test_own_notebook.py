"""A notebook of one's own: its parameters, its arms, how they are scored, a table; everything else is the base's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl
import pytest

from tests.retrieval.tiny import project
from workbench.config import SystemClock
from workbench.errors import ConfigError, GateFailed, SplitError
from workbench.evaluation.compare import SCORES_SCHEMA
from workbench.evaluation.decision import ArmFacts
from workbench.evaluation.experiment import Experiment, PairedExperiment
from workbench.evaluation.gate import Gate
from workbench.evaluation.run_summary import ItemCase, ScoredArms, Summary, item_cases
from workbench.records import Query, content_hash, parameters_of
from workbench.rendering.table import Table
from workbench.reports.ending import Notebook
from workbench.runner import accept_decision, list_runs


@dataclass(frozen=True)
class AnswerParameters:
    """Parameters of the notebook."""

    evalset: str = "tiny"
    shares: tuple[float, ...] = (0.85, 0.8, 0.4)
    reference: str = ""
    seed: int = 0


@dataclass(frozen=True)
class Answerer:
    """An arm: it answers a share of the questions rightly, always the same ones."""

    share: float

    def answer(self, query: Query) -> str:
        """Answer a question."""
        return "right" if int(content_hash(query.query_id)[:4], 16) / 16**4 < self.share else "wrong"


@dataclass(frozen=True, eq=False, repr=False)
class AnsweredQuestions(ScoredArms):
    """Answers of one split."""

    queries: Sequence[Query]
    answers: Mapping[str, Mapping[str, list[str]]]

    @property
    def table(self) -> Table:
        """Share of right answers."""
        means = self.scores.group_by("arm", maintain_order=True).agg(pl.col("value").mean())
        return Table.of(("arm", "right"), means.rows(), f"Answers on {self.split}")

    def cases(self, metric: str) -> Mapping[str, ItemCase]:
        """Questions with their answers."""
        expected = {q.query_id: ["right"] for q in self.queries}
        return item_cases(self.of(metric), self.queries, expected=expected, returned=self.answers)


class AnswerExperiment(
    PairedExperiment[AnswerParameters, AnsweredQuestions], Notebook[AnswerParameters, AnsweredQuestions]
):
    """Which answerer is good enough?"""

    notebook, title = "pipeline", "Answers: who is good enough"
    question = "Which answerer is the cheapest that is good enough?"
    parameters_class, spreads = AnswerParameters, (0.6, 0.9)

    def prepare(self) -> list[Answerer]:
        """Arms, simplest first."""
        return [Answerer(share) for share in self.parameters.shares]

    def score(self, arms: Sequence[Answerer], split: str) -> AnsweredQuestions:
        """Ask every arm every question."""
        part, rows, facts, answers = self.evalset.split(split), [], [], {}
        for place, arm in enumerate(arms):
            name, cost = f"answers {arm.share:.0%}", 10 * arm.share
            answers[name] = {q.query_id: [arm.answer(q)] for q in part.queries}
            facts.append(ArmFacts(name, parameters_of(arm), cost, None, place))
            rows += [
                (name, q.query_id, 0, "correctness", float(arm.answer(q) == "right"), None, q.cluster, q.tenant_id,
                 None, cost / 1000)
                for q in part.queries
            ]  # fmt: skip
        scores = pl.DataFrame(rows, schema=SCORES_SCHEMA, orient="row").with_columns(slice_tenant_id="tenant_id")
        return AnsweredQuestions(split, tuple(arms), scores, tuple(facts), part.queries, answers)


GATES = "[pipeline]\nmargin = 0.4\n"
EXTRA = Table.of(("who",), [("all",)], "Who was asked? All of them.")


@pytest.fixture
def settings(tmp_path, monkeypatch):
    settings = project(tmp_path)
    (settings.evalsets / "tiny" / "gates.toml").write_text(GATES, encoding="utf-8")
    monkeypatch.setenv("WORKBENCH_ROOT", str(tmp_path))
    monkeypatch.delenv("WORKBENCH_CACHE", raising=False)
    monkeypatch.delenv("WORKBENCH_RUNS", raising=False)
    monkeypatch.delenv("WORKBENCH_RUN_DIR", raising=False)
    return settings


def steps(run, arms=None):
    """Every step of the notebook up to the saved decision."""
    dev = run.score(arms or run.prepare(), "dev")
    finalists = run.finalists(dev)
    test = run.test(dev, finalists)
    decision = run.decide(test, finalists)
    figures = (run.forest(decision), run.frontier(finalists, dev), run.slices(decision, test))
    assert all("svg" in figure._repr_html_() for figure in figures)
    run.save(decision, test, EXTRA, dev=dev)
    return dev, finalists, test, decision


def test_a_whole_run_is_decided_saved_gated_reported_and_holds_when_it_is_checked_again(settings):
    run = AnswerExperiment.start()
    assert dict(run.config.rows)["shares"] == "0.85, 0.8, 0.4"
    dev, finalists, test, decision = steps(run)
    assert (decision.notebook, decision.verdict, decision.arm) == ("pipeline", "chosen", "answers 80%")
    assert decision.settings == {"evalset": "tiny", "shares": [0.85, 0.8, 0.4], "reference": "", "seed": 0}
    assert {"parameter shares", "queries", "qrels/test", "prices"} <= decision.fingerprint.inputs.keys()
    assert "answers 80%" in repr(test) + repr(finalists)
    run.gate(decision, test, dev)
    assert Gate.load(run.folder / "gate.json").status == "new"
    summary = Summary.load(run.folder / "summary.json")
    until, *shown = [s.title for s in summary.sections]
    assert until == "Until when does this decision stand?"
    assert shown == ["Who was asked?", "Answers on dev", "Answers on test"]
    assert {p.arm for p in summary.frontier} == set(dev.names)
    (record,) = list_runs(settings)
    assert (record.status, record.notebook, record.parameters["evalset"]) == ("done", "pipeline", "tiny")
    assert "Who was asked?" in record.report.read_text(encoding="utf-8")
    accept_decision(settings, "pipeline", reason="the first", clock=SystemClock())
    again = AnswerExperiment.start()
    _, _, test, decision = steps(again)
    again.gate(decision, test)
    assert Gate.load(again.folder / "gate.json").status == "holds"


def test_an_arm_that_answers_worse_under_its_name_breaks_the_accepted_decision(settings):
    run = AnswerExperiment.start()
    dev, _, test, decision = steps(run)
    run.gate(decision, test, dev)
    accept_decision(settings, "pipeline", reason="the first", clock=SystemClock())
    again = AnswerExperiment.start()
    dev = again.score(again.prepare(), "dev")
    finalists = again.finalists(dev)
    test = again.test(dev, finalists)
    worse = pl.when(pl.col("arm") == "answers 80%").then(0.0).otherwise("value")
    test = replace(test, scores=test.scores.with_columns(value=worse))
    decision = again.decide(test, finalists)
    with pytest.raises(GateFailed):
        again.gate(decision, test, dev)
    found = Gate.load(again.folder / "gate.json")
    assert {c.arm for c in found.claims if c.changed} == {"answers 80%"}
    with pytest.raises(ConfigError, match="the accepted arms answers 85%, answers 40% are not among this run's arms"):
        again.test(dev.only({"answers 80%"}), finalists)


def test_regressions_are_read_between_the_decided_arm_and_the_one_in_use(settings):
    run = AnswerExperiment.start(reference="answers 85%")
    _, finalists, test, decision = steps(run)
    assert finalists.roles["answers 85%"] == "in use, named by you"
    table = run.regressions(decision, test)
    assert [c.name for c in table.columns] == ["question", "expected", "answers 85% returned", "answers 80% returned"]
    assert table.rows
    assert {row[2:] for row in table.rows} == {("right", "wrong")}
    assert run.regressions(decision, test.only({"answers 80%"})) is None, "one arm alone loses against none"


def test_test_questions_pick_no_finalists_and_unknown_names_are_refused(settings):
    run = AnswerExperiment.start(reference="answers 99%")
    with pytest.raises(SplitError, match="picking finalists may see dev alone"):
        run.finalists(run.score(run.prepare(), "test"))
    with pytest.raises(ConfigError, match="reference 'answers 99%' is not an arm of this run"):
        run.finalists(run.score(run.prepare(), "dev"))
    with pytest.raises(ConfigError, match="unknown parameter 'share'; did you mean 'shares'"):
        AnswerExperiment.start(share=(0.1,))


def test_power_is_planned_at_the_confidence_that_the_uses_of_the_test_split_leave(settings):
    run = AnswerExperiment.start()
    assert "at 97.00 % confidence: use 1 of this test split" in run.power().caption
    before = [row[1] for row in run.power().rows]
    steps(run)
    assert "at 99.00 % confidence: use 2 of this test split" in run.power().caption
    assert all(now < was for now, was in zip([row[1] for row in run.power().rows], before, strict=True))


def test_what_is_not_paired_needs_no_score(settings):
    """An experiment that judges in its own way, as caching does, has no step that it could not do."""
    assert not {"score", "finalists", "test", "power"} & set(dir(Experiment))
    with pytest.raises(TypeError, match=r"abstract method '?score"):
        type("Incomplete", (PairedExperiment,), {})(AnswerParameters(), settings)
