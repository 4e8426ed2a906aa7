"""The quality experiment, which asks whether any judge may gate, and what the answers that it would gate are like."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from workbench.codec import NEUTRAL, RANGE, Range
from workbench.errors import ConfigError, unknown_name
from workbench.evaluation.compare import SCORES_SCHEMA
from workbench.evaluation.decision import ArmFacts
from workbench.evaluation.experiment import PairedExperiment
from workbench.evaluation.fingerprint import BESIDE, SEED
from workbench.evaluation.run_summary import PRODUCTION, ItemCase, ScoredArms, Summary, WeekRow
from workbench.inference.prices import DECLARED
from workbench.quality.answer_metrics import METRICS, MeasuredAnswer, score_answers
from workbench.quality.feedback import load_feedback_candidates
from workbench.quality.judges import (
    FILE,
    AnswersToJudge,
    Judge,
    JudgedAnswers,
    answers_to_judge,
    judges_of,
    recorded_judge_verdicts,
)
from workbench.quality.label_view import LabelView, view_or_table
from workbench.quality.labels import Truth
from workbench.quality.licence import (
    Licence,
    LicenceEvidence,
    LicenceRule,
    licence_agreement_table,
    licences_table,
    license_judge,
)
from workbench.quality.ppi import PPIEstimate, labels_for, next_labels, ppi_mean
from workbench.quality.production import (
    GroupWeeks,
    production_by_group,
    production_groups_table,
    rated_production_calls,
    read_graded_production,
)
from workbench.quality.subgroups import nobody_worse
from workbench.records import Decision, content_hash, parameters_of
from workbench.rendering.numbers import counted
from workbench.rendering.table import Column, Interval, Table
from workbench.reports.charts import weekly
from workbench.reports.ending import Notebook
from workbench.reports.figure import Figure
from workbench.state import open_engine

SHEET = "production.jsonl"  # below the project, where a graded file names no other
FEEDBACK = "feedback"  # in place of a file of graded calls: what users said
OVERLAP = ("chrf", "string_similarity", "token_f1")  # what a program can say of an answer beside its reference
SHARES = (0.05, 0.1, 0.2)  # of answers that two judges see differently, for the power before any is asked


@dataclass(frozen=True, slots=True)
class QualityParameters:
    """Parameters of ``05_quality``; the notebook's cell has the same names and defaults.

    ``judges`` are those of ``judges.toml``, none for all; ``overlap`` metrics of answer and reference, each a judge
    at the threshold that agrees best on dev; ``labelled`` the share of test answers that have a label where it is
    shown what a judge saves; ``production`` a file of graded calls, or ``feedback`` for what users said:
    it is shown and decides nothing.
    """

    evalset: str = "docs_qa"
    judges: tuple[str, ...] = ()
    overlap: tuple[str, ...] = OVERLAP
    labelled: float = field(default=0.3, metadata={RANGE: Range(0, 1, ends=False)})
    reference: str = ""
    seed: int = field(default=0, metadata=SEED)
    production: str = field(default="", metadata={NEUTRAL: "", BESIDE: True})

    def __post_init__(self) -> None:
        for name in self.overlap:
            if name not in METRICS:
                raise ConfigError(unknown_name("metric of answers", name, sorted(METRICS)))


@dataclass(frozen=True, slots=True)
class OverlapJudge:
    """A metric of answer and reference that says yes from a threshold on."""

    metric: str
    threshold: float

    @property
    def name(self) -> str:
        """Name of the arm."""
        return f"{self.metric} from {self.threshold:.2f}"


@dataclass(frozen=True, slots=True)
class ConstantJudge:
    """What any judge has to beat: it says the same of everything."""

    says_yes: bool

    @property
    def name(self) -> str:
        """Name of the arm."""
        return f"always {'yes' if self.says_yes else 'no'}"


AnyJudge = Judge | OverlapJudge | ConstantJudge


@dataclass(frozen=True, eq=False, repr=False)
class JudgedSplit(ScoredArms):
    """Agreement of every judge with the truth on one split; ``verdicts`` are what they said, by arm and item."""

    words = ("question", "right", "verdict")
    verdicts: pl.DataFrame
    answers: AnswersToJudge

    @property
    def table(self) -> Table:
        """Share of answers on which each judge agrees with the truth, and what a verdict costs."""
        means = dict(self.scores.group_by("arm").agg(pl.col("value").fill_null(0).mean()).rows())
        unknown = dict(self.verdicts.group_by("arm").agg(pl.col("value").is_null().mean()).rows())
        yes = dict(self.verdicts.group_by("arm").agg(pl.col("value").mean()).rows())
        columns = (
            Column("judge"), Column("agreement", "share"), Column("says yes", "share"), Column("no verdict", "share"),
            Column("USD per 1,000 verdicts", "usd"),
        )  # fmt: skip
        rows = tuple((f.name, means[f.name], yes[f.name], unknown[f.name], f.cost_usd_per_1k) for f in self.facts)
        return Table(columns, rows, f"Judges on {self.split}: agreement with the accepted-name check")

    def cases(self, metric: str) -> Mapping[str, ItemCase]:
        """Answers with what was right and what each judge said."""
        values: dict[str, dict[str, float | None]] = {}
        for arm, item, value in self.of(metric).select("arm", "item_id", "value").iter_rows():
            values.setdefault(item, {})[arm] = value
        said: dict[str, dict[str, tuple[str, ...]]] = {}
        for arm, item, value in self.verdicts.select("arm", "item_id", "value").iter_rows():
            told = "no verdict" if value is None else f"{value:g}"
            said.setdefault(item, {})[arm] = (told,)
        truth = dict(self.answers.truth.frame.rows())
        mine = [i for i in self.answers.items if self.answers.splits[i.item_id] == self.split]
        return {
            i.item_id: ItemCase(
                i.item_id, i.question, (f"{truth[i.item_id]:g}",), said.get(i.item_id, {}), values.get(i.item_id, {}),
                f"answer: {i.answer}",
            )
            for i in mine
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class FewLabels:
    """Verdicts of one judge with and without a label, what it leaves of each label, and what follows for all."""

    labelled: pl.DataFrame
    rest: pl.DataFrame
    left: npt.NDArray[np.float64]
    found: PPIEstimate


class QualityExperiment(PairedExperiment[QualityParameters, JudgedSplit], Notebook[QualityParameters, JudgedSplit]):
    """Steps of the quality notebook, in the order in which it calls them."""

    notebook = "quality"
    question = "Which judge is the cheapest whose agreement with the truth is good enough to gate?"
    title = "Quality: may any judge gate?"
    parameters_class = QualityParameters
    items = "answers"
    spreads = tuple(share**0.5 for share in SHARES)
    cost_note = "Cost is that of the recorded verdicts' tokens; a comparison of texts by a program is counted as free."

    def examine(self) -> None:
        """Load recorded answers, their truth, the recorded verdicts of every judge, and what production calls showed.

        Raises
        ------
        ConfigError
            If a judge is not known.
        EvalsetError
            If the graded calls or the candidates cannot be read.
        """
        self.waiting = [c for c in load_feedback_candidates(self.evalset.path) if c.status == "open"]
        given = self.parameters.production
        self._calls = read_graded_production(self.settings.root / given) if given not in ("", FEEDBACK) else None
        what = JudgedAnswers.load(self.evalset)
        self.what, self.answers = what, answers_to_judge(self.evalset, what, self.prices)
        known = {judge.name: judge for judge in judges_of(self.evalset, what)}
        for name in self.parameters.judges:
            if name not in known:
                raise ConfigError(unknown_name("judge", name, sorted(known)))
        self.judges = [known[name] for name in self.parameters.judges or known]
        self.said: dict[str, pl.DataFrame] = {}
        self._read = {FILE: content_hash((self.evalset.path / FILE).read_bytes())}
        for judge in self.judges:
            self.said[judge.name], self._read[f"verdicts of {judge.name}"] = recorded_judge_verdicts(
                self.evalset, judge, self.answers.items, self.prices
            )
        self._read[f"answers of {what.model}"] = self.answers.recordings_sha256

    def arm_names(self) -> Sequence[str]:
        """Judges and the constant ones; a comparison with the reference at any threshold, which dev sets."""
        asked = self.parameters.reference
        compared = [asked] if asked.rpartition(" from ")[0] in self.parameters.overlap else []
        return [*(ConstantJudge(said).name for said in (True, False)), *(j.name for j in self.judges), *compared]

    def read(self) -> Mapping[str, str]:
        """Read what users said, if that is shown."""
        self.groups, self.graded = self._graded()
        return {**self.evalset.inputs, **self._read}

    def clusters(self, split: str) -> Mapping[str, str]:
        """Question family of each judged answer of a split."""
        return {i.item_id: i.cluster for i in self.answers.items if self.answers.splits[i.item_id] == split}

    def contents(self) -> Table:
        """What is judged: answers, right ones, and where the truth comes from."""
        truth, rows = dict(self.answers.truth.frame.rows()), []
        for split in ("dev", "test"):
            clusters = self.clusters(split)
            right = float(np.mean([truth[i] for i in clusters]))
            rows.append((split, len(clusters), len(set(clusters.values())), right, self.answers.truth.source))
        columns = (
            Column("split"), Column("answers", "count"), Column("clusters", "count"), Column("right", "share"),
            Column("truth"),
        )  # fmt: skip
        told = f"Answers of {self.what.model} with {self.what.context}. Right is what {self.what.rubric}, by a program."
        return Table(columns, tuple(rows), told)

    def prepare(self) -> list[AnyJudge]:
        """Judges, simplest first: the constant, comparisons with the reference at their best on dev, and models."""
        truth = dict(self.answers.truth.frame.rows())
        dev = list(self.clusters("dev"))
        labels = np.array([truth[i] for i in dev])
        judges: list[AnyJudge] = [ConstantJudge(bool(labels.mean() >= 0.5))]
        scored = self._overlap()
        for metric in self.parameters.overlap:
            values = np.array([scored[metric].get(i, 0.0) for i in dev])
            cuts = np.round(np.unique(values), 2)
            best = max(cuts.tolist(), key=lambda cut: (float(np.mean((values >= cut) == (labels >= 0.5))), cut))
            judges.append(OverlapJudge(metric, float(best)))
        return [*judges, *self.judges]

    def score(self, arms: Sequence[AnyJudge], split: str) -> JudgedSplit:
        """Agreement of every judge with the truth, one row an answer; what is no verdict is a failure."""
        truth = dict(self.answers.truth.frame.rows())
        frames, facts, rows = [], [], []
        for place, arm in enumerate(arms):
            said = self._verdicts(arm).filter(pl.col("item_id").is_in(list(self.clusters(split))))
            frames.append(said)
            usd = float(said["cost_usd"].fill_null(0).mean() or 0.0)  # type: ignore[arg-type]
            amounts = {f"{arm.name}{DECLARED}": 1000 * usd} if usd else {}
            facts.append(ArmFacts(arm.name, self._parameters(arm, said), 1000 * usd, None, place, amounts=amounts))
            for item, value, error, cluster, tenant, cost in said.select(
                "item_id", "value", "error", "cluster", "tenant_id", "cost_usd"
            ).iter_rows():
                same = None if value is None else float((value >= 0.5) == (truth[item] >= 0.5))
                rows.append((arm.name, item, 0, "agreement", same, error, cluster, tenant, None, cost))
        scores = pl.DataFrame(rows, schema=SCORES_SCHEMA, orient="row").with_columns(slice_tenant_id="tenant_id")
        return JudgedSplit(split, tuple(arms), scores, tuple(facts), pl.concat(frames), self.answers)

    def licences(self, test: JudgedSplit) -> list[Licence]:
        """Licence of every judge that was tested, over all and by tenant; the constant has none to get."""
        out = []
        for arm in test.arms:
            if isinstance(arm, ConstantJudge):
                continue
            said = test.verdicts.filter(pl.col("arm") == arm.name)
            rests = arm.rests_on(said) if isinstance(arm, Judge) else {"model": "", "prompt": "", **_rests(arm)}
            model = arm.model if isinstance(arm, Judge) else ""
            evidence = LicenceEvidence(rests, judged_models=[self.what.model], model=model)
            out += license_judge(said, self._truth(test.split), evidence, rule=LicenceRule(), slice_by="tenant_id")
        return out

    def licences_table(self, found: Sequence[Licence]) -> Table:
        """What each judge may do, and why not more."""
        return licences_table(found)

    def agreement_table(self, found: Sequence[Licence]) -> Table:
        """How far judges and labels agree, by tenant."""
        return licence_agreement_table(found)

    def saved(self, test: JudgedSplit) -> Table:
        """What each judge saves of the labels, if only a share of the test answers had one: PPI++, by family."""
        truth, rows = dict(self._truth(test.split).frame.rows()), []
        for arm, few in self._from_few(test):
            found = few.found
            rows.append((arm.name, found.n_labels, Interval(found.mean, found.low, found.high), found.label_factor))
        columns = (
            Column("judge"), Column("labels", "count"), Column("right", "interval"),
            Column("share of labels still needed", "share"),
        )  # fmt: skip
        real = float(np.mean([truth[i] for i in self.clusters(test.split)]))
        return Table(columns, tuple(rows), f"Quality from a few labels and all verdicts. With every label: {real:.3f}.")

    def next_hour(self, test: JudgedSplit, most: int = 10) -> Table:
        """Which answers to label next beside the judge that saves most, by how much each shrinks its interval."""
        columns = (
            Column("answer"), Column("cluster"), Column("labels of its cluster", "count"),
            Column("half width of the interval", "number", digits=4), Column("shrinks by", "share"),
        )  # fmt: skip
        known = self._from_few(test)
        if not known:
            return Table(columns, (), "Where the next hour goes. Too few answers of a judge to tell.")
        arm, few = min(known, key=lambda each: each[1].found.label_factor)
        order = np.random.default_rng(self.parameters.seed).permutation(len(few.rest))  # of equals any is as good
        rest, found, margin = few.rest[order], few.found, self.policy.margin
        codes = np.unique(pl.concat([few.labelled, rest])["cluster"].to_numpy(), return_inverse=True)[1]
        names = rest.select("item_id", "cluster").rows()
        coming = next_labels(found, few.left, rest["value"].to_numpy(), codes, most=most)
        rows = [(*names[each.place], each.in_cluster, each.reach, each.shrinks) for each in coming]
        needed, there = labels_for(found, margin), found.n_items
        told = (
            f"{counted(needed, 'label')} would narrow the interval to {margin:g} on either side. Now "
            f"{found.n_labels:,} of "
        )
        told += f"{counted(there, 'answer has', 'answers have')} a label"
        if needed > there:
            told += f"; when all have one, {counted(needed - there, 'more answer is', 'more answers are')} still needed"
        return Table(columns, tuple(rows), f"Where the next hour goes. With {arm.name} as the judge, {told}.")

    def _from_few(self, test: JudgedSplit) -> list[tuple[AnyJudge, FewLabels]]:
        """Every judge beside labels of a share of the families; none where those are fewer than 30."""
        p, truth, out = self.parameters, dict(self._truth(test.split).frame.rows()), []
        for arm in test.arms:
            said = test.verdicts.filter(pl.col("arm") == arm.name).drop_nulls("value").sort("item_id")
            families = sorted(set(said["cluster"]))
            drawn = set(np.random.default_rng(p.seed).permutation(families)[: max(30, int(p.labelled * len(families)))])
            has = said["cluster"].is_in(sorted(drawn))
            mine, rest = said.filter(has), said.filter(~has)
            if mine["cluster"].n_unique() < 30 or not len(rest):
                continue
            labels, judged = np.array([truth[i] for i in mine["item_id"]]), mine["value"].to_numpy()
            codes = np.unique(pl.concat([mine, rest])["cluster"].to_numpy(), return_inverse=True)[1]
            found = ppi_mean(labels, judged, rest["value"].to_numpy(), clusters=codes, seed=p.seed)
            out.append((arm, FewLabels(mine, rest, labels - found.weight * judged, found)))
        return out

    def left_worse(self) -> Table:
        """Whether the accepted routing is worse for any tenant or feature than the best other arm that was tested."""
        path = self.evalset.path / "decisions" / "routing.json"
        scores = path.with_suffix(".scores.parquet")
        decision = Decision.load(path) if path.is_file() and scores.is_file() else None
        others = [c for c in decision.claims if c.arm != decision.arm] if decision else []
        if decision is None or not others:
            return Table.of(("by", "group"), [], "Is anybody left worse? No routing is accepted that could be compared")
        parts = pl.col("item_id").str.split(":").list
        frame = pl.read_parquet(scores).with_columns(feature=parts.get(0), query_id=parts.get(1))
        who = [(q.query_id, q.cluster, q.tenant_id) for q in self.evalset.queries]
        known = pl.DataFrame(who, schema=["query_id", "cluster", "tenant_id"], orient="row")
        other = max(others, key=lambda c: c.estimate).arm
        return nobody_worse(
            frame.join(known, on="query_id"), decision.arm, other, margin=decision.rule.margin,
            by=("tenant_id", "feature"), confidence=decision.rule.confidence, seed=self.parameters.seed,
        ).table  # fmt: skip

    def production(self) -> Table:
        """Share of good production calls, of all and by feature and tenant, and whether it has dropped."""
        if self.groups:
            return production_groups_table(self.groups, self.graded)
        told = f"{PRODUCTION}. Nothing is known of it: workbench quality draw {SHEET} --since DATE draws calls as a "
        told += "sheet, workbench quality grade takes a person's or a judge's grades, and production= shows them."
        return Table.of(("group",), [], told)

    def weeks(self) -> tuple[Figure, ...]:
        """The same as a figure; none without graded calls."""
        return (weekly(self._weeks()),) if self._weeks() else ()

    def label_sheet(self) -> Sequence[LabelView | Table]:
        """``display(*run.label_sheet())``: the sheet of the graded file, to grade item by item; none of no sheet.

        Headless, and without the extra ``[widgets]``, a table that says how to grade it.
        """
        given = self.parameters.production
        name = given.removesuffix(".graded.jsonl") + ".jsonl" if given.endswith(".graded.jsonl") else SHEET
        return view_or_table(self.settings.root / name, live=self.record is not None)

    def candidates(self, most: int = 5) -> Table:
        """Answers that users found bad and that wait for a person; text that may name somebody is kept back."""
        n, rows = len(self.waiting), []
        for c in self.waiting[:most]:
            private = any(flag.startswith("personal data") for flag in c.flags)
            texts = ("kept back", "kept back") if private else (c.question, c.comment)
            rows.append((c.candidate_id, c.tenant_id, c.feature, *texts, "; ".join(c.flags) or None))
        columns = (
            Column("candidate"), Column("tenant", limit=80), Column("feature", limit=80), Column("question", limit=200),
            Column("comment", limit=200), Column("flags"),
        )  # fmt: skip
        told = f"What users found bad. {n:,} wait for a person"
        told += f": workbench feedback list {self.evalset.name}, then approve or reject." if n else "."
        told += f" The first {most} of them." if n > most else ""
        return Table(columns, tuple(rows), told)

    def summarise(
        self, decision: Decision, test: JudgedSplit, tables: Sequence[Table] = (), dev: JudgedSplit | None = None
    ) -> Summary:
        """Everything the report shows, with the weeks of production."""
        return replace(super().summarise(decision, test, tables, dev), weeks=self._weeks())

    def _graded(self) -> tuple[list[GroupWeeks], str]:
        given = self.parameters.production
        if not given:
            return [], ""
        if (graded := self._calls) is None:
            engine = open_engine(self.settings.state_url)
            try:
                graded = rated_production_calls(engine)
            finally:
                engine.dispose()
            told = f"{counted(len(graded), 'call')} on which users said something; those who do are not all users."
        else:
            by = ", ".join(filter(None, sorted(graded["grader"].drop_nulls().unique()))) or "nobody who is named"
            stands_for = float(graded["sample_weight"].sum())
            told = f"{counted(len(graded), 'graded call')} of {Path(given).name}, which stand for {stands_for:,.0f}, "
            told += f"graded by {by}."
        return production_by_group(graded), told

    def _weeks(self) -> tuple[WeekRow, ...]:
        return tuple(week for group in self.groups for week in group.weeks)

    def warnings(self, test: JudgedSplit, dev: JudgedSplit | None) -> Sequence[str]:
        """What makes a pass mean less."""
        if self.answers.truth.source != "code":
            return self.evalset.notes
        return [
            *self.evalset.notes,
            "The truth is the accepted-name check, a program: no person labelled the answers",
        ]

    def _truth(self, split: str) -> Truth:
        items = list(self.clusters(split))
        return replace(self.answers.truth, frame=self.answers.truth.frame.filter(pl.col("item_id").is_in(items)))

    def _overlap(self) -> dict[str, dict[str, float]]:
        """Value of each overlap metric by item."""
        answers = [
            MeasuredAnswer(i.item_id, i.answer, i.question, i.reference, cluster=i.cluster, tenant_id=i.tenant_id)
            for i in self.answers.items
        ]
        frame = score_answers("", answers, self.parameters.overlap).drop_nulls("value")
        return {
            name: dict(frame.filter(pl.col("metric") == name).select("item_id", "value").rows())
            for name in self.parameters.overlap
        }

    def _verdicts(self, arm: AnyJudge) -> pl.DataFrame:
        if isinstance(arm, Judge):
            return self.said[arm.name].select(*SCORES_SCHEMA, "model_served")
        scored = self._overlap()[arm.metric] if isinstance(arm, OverlapJudge) else {}
        rows = []
        for i in self.answers.items:
            if isinstance(arm, ConstantJudge):
                value: float | None = float(arm.says_yes)
            else:
                found = scored.get(i.item_id)
                value = None if found is None else float(found >= arm.threshold)
            error = None if value is not None else "no value"
            rows.append(
                (arm.name, i.item_id, 0, self.what.metric, value, error, i.cluster, i.tenant_id, None, 0.0, None)
            )
        return pl.DataFrame(rows, schema=SCORES_SCHEMA | {"model_served": pl.String}, orient="row")

    def _parameters(self, arm: AnyJudge, said: pl.DataFrame) -> dict[str, Any]:
        return parameters_of(arm) | (arm.rests_on(said) if isinstance(arm, Judge) else {})


def _rests(arm: OverlapJudge) -> dict[str, str]:
    return {"rubric": "", "parameters": arm.name, "anchors": ""}
