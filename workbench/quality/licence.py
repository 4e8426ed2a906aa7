"""A judge's licence: whether its verdicts may gate, may inform, or are refused, and why.

A judge is measured against labels that are not its own, per metric and slice. Inside a gate it enters only as the
control variate of `workbench.quality.ppi`, on people's labels, never raw; so a gating judge is one that saves labels.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.special import bdtrc

from workbench.errors import ConfigError
from workbench.evaluation.compare import MIN_CLUSTERS, MIN_DIFFERING, bootstrap_t, most_worse_clusters, pairwise
from workbench.quality.labels import Truth
from workbench.quality.ppi import label_factor
from workbench.rendering.numbers import counted, percent
from workbench.rendering.table import Column, Table

Status = Literal["may gate", "may inform", "refused"]
ALL = "all"
PARTS = ("model", "prompt", "rubric", "parameters", "anchors")
# Why a judge is refused, in the order in which it is told.
REFUSALS = {
    "moved": "it is not the judge that was measured: {0} moved",
    "changed": "it answers otherwise than it did, under the same name: {0}",
    "no labels": "no label of a person or a program fits the metric and the rubric",
    "few labels": "too few labels: {0}",
    "unparseable": "too many answers are no verdict: {0}",
    "constant": "it says the same of everything",
    "order": "its verdict flips with the order of the answers: {0}",
    "wrong way": "it goes against the labels: {0}",
    "chance": "it cannot be told from chance: {0}",
}


@dataclass(frozen=True, slots=True)
class LicenceRule:
    """What a judge must show; every limit can be set where the metric is.

    Attributes
    ----------
    kappa_floor : float
        A gating judge's kappa is shown to lie above it; 0.4 is where "moderate" begins (Landis and Koch 1977).
    label_factor_limit : float
        A gating judge leaves at most this share of the labels to be made; above it, it is not worth its upkeep.
    flip_limit, unknown_limit : float
        Largest share of pairs whose verdict turns with the order, and of answers without a verdict.
    threshold : float
        A score or label from here on is a yes.
    confidence : float
        Of each one-sided bound.
    """

    kappa_floor: float = 0.4
    label_factor_limit: float = 0.9
    flip_limit: float = 0.1
    unknown_limit: float = 0.05
    threshold: float = 0.5
    confidence: float = 0.95
    min_clusters: int = MIN_CLUSTERS


@dataclass(frozen=True, slots=True)
class JudgeAgreement:
    """How far a judge and the labels agree on one slice; shares in [0, 1], None where there is nothing to divide by.

    ``base_rate`` is the share that the labels call good, ``judge_rate`` what the judge does; ``constant`` is the
    agreement of a judge that always says what is said more often. ``chance_above`` is the chance that one that knows
    nothing goes as far with the labels as this one, ``chance_below`` as far against them. All count whole clusters.
    """

    n: int
    n_clusters: int
    agreement: float
    kappa: float
    kappa_low: float
    sensitivity: float | None
    specificity: float | None
    base_rate: float
    judge_rate: float
    constant: float
    beats_constant: bool
    chance_above: float
    chance_below: float
    label_factor: float
    label_factor_high: float


@dataclass(frozen=True, slots=True)
class Licence:
    """What one judge may do for one metric on one slice; it expires when what it rests on moves.

    Attributes
    ----------
    truth : str
        "human", or "code" where a program computed what is right.
    rests_on : mapping of str to str
        Hashes or names by part: `PARTS`.
    reasons : tuple of (str, str)
        Kind (a key of `REFUSALS`, or "inform only") and sentence of each.
    warnings : tuple of str
        What makes a licence mean less, such as a judge of the same family as what it judges.
    """

    judge: str
    metric: str
    slice: str
    status: Status
    truth: str
    rests_on: Mapping[str, str]
    agreement: JudgeAgreement | None
    flip_rate: float | None
    unknown_rate: float
    reasons: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()

    def expired(self, now: Mapping[str, str]) -> list[str]:
        """Parts that are no longer as they were when the judge was measured; any one ends the licence."""
        return [part for part in PARTS if self.rests_on.get(part) != now.get(part)]


@dataclass(frozen=True, slots=True)
class LicenceAnchors:
    """Verdicts on fixed items, before and now, by which a judge that changed behind its name is told.

    ``before`` and ``now`` are by item; ``noise`` is (differing, compared) among repeats of one and the same judge.
    """

    before: Mapping[str, float]
    now: Mapping[str, float]
    noise: tuple[int, int] = (0, 0)

    def changed(self, threshold: float, confidence: float) -> str:
        """What changed, "" where no more did than the judge's own repeats would have.

        Exact: the binomial tail of so many changes at the upper bound of the noise (Clopper and Pearson 1934).
        """
        both = sorted(self.before.keys() & self.now.keys())
        if not both:
            raise ConfigError("the anchors were judged before or now, none both times; judge the same items again")
        k = sum((self.before[i] >= threshold) != (self.now[i] >= threshold) for i in both)
        differing, compared = self.noise
        level = float(most_worse_clusters(np.array(differing), compared, confidence)) if compared else 0.0
        tail = float(bdtrc(k - 1, len(both), level))
        if k and tail < 1 - confidence:
            least = f"where repeats differ in at most {percent(level, 1)}"
            return f"{k} of {counted(len(both), 'anchor')} got another verdict, {least}"
        return ""


@dataclass(frozen=True, slots=True)
class LicenceEvidence:
    """What is known of one judge beside its scores.

    ``flips`` is (pairs whose verdict turned with the order, pairs asked both ways), None for a judge of single answers.
    """

    rests_on: Mapping[str, str]
    flips: tuple[int, int] | None = None
    anchors: LicenceAnchors | None = None
    measured: Mapping[str, str] | None = None
    judged_models: Sequence[str] = field(default=())
    model: str = ""


def measure_licence_agreement(
    labels: npt.NDArray[np.float64],
    judged: npt.NDArray[np.float64],
    clusters: npt.NDArray[np.int64],
    rule: LicenceRule,
    *,
    seed: int = 0,
) -> JudgeAgreement:
    """``measure_licence_agreement(labels, judged, codes, LicenceRule()).kappa``: of shape (n,) arrays in [0, 1]."""
    y, f = (np.asarray(v >= rule.threshold, float) for v in (labels, judged))
    p, q, agree = float(y.mean()), float(f.mean()), np.asarray(y == f, float)
    po, pe = float(agree.mean()), p * q + (1 - p) * (1 - q)
    kappa = (po - pe) / (1 - pe) if pe < 1 else 0.0
    moved_pe = (y - p) * (2 * q - 1) + (f - q) * (2 * p - 1)
    linear = kappa + ((agree - po) * (1 - pe) - (1 - po) * moved_pe) / (1 - pe) ** 2 if pe < 1 else np.zeros(len(y))
    both = np.stack([agree, np.asarray(y == float(p >= 0.5), float)])
    better = pairwise(both, both, clusters, confidence=rule.confidence, seed=seed)
    above, below = _licence_chances((labels - labels.mean()) * (judged - judged.mean()), clusters, seed)
    factor, factor_high = label_factor(labels, judged, clusters, confidence=rule.confidence)
    return JudgeAgreement(
        n=len(y),
        n_clusters=int(clusters.max()) + 1,
        agreement=po,
        kappa=kappa,
        kappa_low=_licence_kappa_low(linear, agree, pe, clusters, rule.confidence, seed),
        sensitivity=float(f[y == 1].mean()) if (y == 1).any() else None,
        specificity=float(1 - f[y == 0].mean()) if (y == 0).any() else None,
        base_rate=p,
        judge_rate=q,
        constant=max(p, 1 - p),
        beats_constant=bool(better.low[0, 1] > 0),
        chance_above=above,
        chance_below=below,
        label_factor=factor,
        label_factor_high=factor_high,
    )


def _licence_kappa_low(
    linear: npt.NDArray[np.float64], agree: npt.NDArray[np.float64], pe: float, clusters: npt.NDArray[np.int64],
    confidence: float, seed: int,
) -> float:  # fmt: skip
    """Lower bound of kappa, by the bootstrap-t of its linearised values.

    Where judge and labels differ in fewer than 10 clusters that does not keep its level: there each such cluster
    counts as lost whole, by the exact bound of their share (Clopper and Pearson 1934).
    """
    m = int(clusters.max()) + 1
    lost = np.unique(clusters[agree < 1]).size
    if pe >= 1:
        return 0.0
    if lost >= MIN_DIFFERING:
        return float(bootstrap_t(linear[None], clusters, confidence=confidence, seed=seed).low[0])
    sizes = np.bincount(clusters)
    share = float(most_worse_clusters(np.array(lost), m, confidence)) * float(sizes.max() / sizes.mean())
    return (max(1 - share, 0.0) - pe) / (1 - pe)


def _licence_chances(
    products: npt.NDArray[np.float64], clusters: npt.NDArray[np.int64], seed: int, draws: int = 4000
) -> tuple[float, float]:
    """Chance of a covariance as high, and as low, if labels and verdicts had nothing to do with each other.

    The signs of whole clusters are drawn at random (the wild bootstrap with the null imposed: Cameron, Gelbach and
    Miller 2008): a judge that is hardly ever wrong leaves the bootstrap-t without a spread, and this not.
    """
    sums = np.bincount(clusters, products)
    signs = np.random.default_rng(seed).integers(0, 2, (draws, sums.size)) * 2 - 1
    drawn, found = signs @ sums, float(sums.sum())
    above, below = (int((drawn >= found - 1e-12).sum()), int((drawn <= found + 1e-12).sum()))
    return (above + 1) / (draws + 1), (below + 1) / (draws + 1)


def license_judge(
    verdicts: pl.DataFrame,
    truth: Truth,
    evidence: LicenceEvidence,
    *,
    rule: LicenceRule | None = None,
    slice_by: str = "",
) -> list[Licence]:
    """``license_judge(verdicts, truth, evidence)[0].status``: licence of one judge for one metric, by slice.

    Parameters
    ----------
    verdicts : DataFrame
        Scores of one judge and one metric (columns arm, item_id, metric, value, cluster; of repeats the mean counts),
        value null for an answer without a verdict.
    truth : Truth
        Labels that are not a model's.
    slice_by : str
        Column of ``verdicts`` whose values are licensed one by one beside all together.

    Raises
    ------
    ConfigError
        If there are verdicts of several judges or metrics, or none.
    """
    rule = rule or LicenceRule()
    names = verdicts.select("arm", "metric").unique()
    if len(names) != 1:
        raise ConfigError(f"a licence is for one judge and one metric, found {names.rows()[:5]}")
    parts = [(ALL, verdicts)]
    if slice_by:
        parts += [(str(name), part) for (name,), part in sorted(verdicts.group_by(slice_by), key=lambda g: str(g[0]))]
    return [_license(part, name, truth, evidence, rule) for name, part in parts]


def _license(
    verdicts: pl.DataFrame, slice_: str, truth: Truth, evidence: LicenceEvidence, rule: LicenceRule
) -> Licence:
    judge, metric = verdicts.select("arm", "metric").row(0)
    unknown = float(verdicts["value"].null_count() / len(verdicts))
    means = verdicts.group_by("item_id").agg(pl.col("value").mean(), pl.col("cluster").first()).drop_nulls("value")
    both = means.join(truth.frame.rename({"value": "label"}), on="item_id").sort("item_id")
    found = None
    if len(both) > 1:
        codes = np.unique(both["cluster"].to_numpy(), return_inverse=True)[1]
        found = measure_licence_agreement(both["label"].to_numpy(), both["value"].to_numpy(), codes, rule)
    flips = evidence.flips
    flip_rate = flips[0] / flips[1] if flips and flips[1] else None
    reasons = tuple(_licence_refusals(found, evidence, unknown, flip_rate, means["value"].to_numpy(), rule))
    status: Status = "refused"
    if not reasons and found is not None:
        reasons = tuple(("inform only", text) for text in _licence_doubts(found, rule))
        status = "may inform" if reasons else "may gate"
    return Licence(
        judge, metric, slice_, status, truth.source, dict(evidence.rests_on), found, flip_rate, unknown, reasons,
        tuple(_licence_warnings(evidence, truth)),
    )  # fmt: skip


def _licence_refusals(
    found: JudgeAgreement | None, evidence: LicenceEvidence, unknown: float, flip_rate: float | None,
    judged: npt.NDArray[np.float64], rule: LicenceRule,
) -> list[tuple[str, str]]:  # fmt: skip
    """Every reason that refuses the judge; of those that follow from one another the first alone."""
    why: dict[str, str] = {}
    before = evidence.measured
    if before is not None and (moved := [p for p in PARTS if before.get(p) != evidence.rests_on.get(p)]):
        why["moved"] = ", ".join(moved)
    if evidence.anchors and (told := evidence.anchors.changed(rule.threshold, rule.confidence)):
        why["changed"] = told
    if unknown > rule.unknown_limit:
        why["unparseable"] = f"{percent(unknown, 1)}, at most {percent(rule.unknown_limit)} may be"
    if flip_rate is not None and flip_rate > rule.flip_limit:
        why["order"] = f"{percent(flip_rate, 1)} of pairs, at most {percent(rule.flip_limit)} may"
    if "unparseable" not in why:  # what is left of its verdicts tells of those that were none
        why |= _licence_knows_nothing(found, judged, rule)
    return [(kind, text.format(why[kind])) for kind, text in REFUSALS.items() if kind in why]


def _licence_knows_nothing(
    found: JudgeAgreement | None, judged: npt.NDArray[np.float64], rule: LicenceRule
) -> dict[str, str]:
    """Why its verdicts tell nothing of the labels: one reason, the first that holds."""
    why: dict[str, str] = {}
    if len(judged) > 1 and float(np.ptp(judged)) == 0:
        why["constant"] = ""
    elif found is None:
        why["no labels"] = ""
    elif found.n_clusters < rule.min_clusters:
        why["few labels"] = (
            f"{found.n} in {counted(found.n_clusters, 'cluster')}, "
            f"{counted(rule.min_clusters, 'cluster is', 'clusters are')} needed"
        )
    elif found.chance_below <= 1 - rule.confidence:
        why["wrong way"] = f"it says yes less often where the labels do, kappa {found.kappa:+.2f}"
    elif found.chance_above > 1 - rule.confidence:
        why["chance"] = f"kappa {found.kappa:+.2f}, which chance alone reaches in {percent(found.chance_above)}"
    return why


def _licence_doubts(found: JudgeAgreement, rule: LicenceRule) -> list[str]:
    """Why a judge that knows something may still not gate."""
    doubts = []
    if found.kappa_low < rule.kappa_floor:
        doubts.append(
            f"kappa {found.kappa:.2f}, bound {found.kappa_low:.2f}, is not shown to reach {rule.kappa_floor:g}"
        )
    if not found.beats_constant:
        agreed, constant = percent(found.agreement, 1), percent(found.constant, 1)
        doubts.append(f"agreement {agreed} is not shown to beat the constant's {constant}")
    if found.label_factor > rule.label_factor_limit:
        left = math.ceil(100 * found.label_factor)
        doubts.append(f"{left} of 100 labels are still needed, so that it saves too few")
    return doubts


def _licence_warnings(evidence: LicenceEvidence, truth: Truth) -> list[str]:
    out = []
    if truth.source == "code":
        out.append("the truth is a program's check, no person's label")
    if truth.left_out:
        out.append(f"left out: {counted(truth.left_out, 'label')} of models, programs or other rubrics")
    mine = licence_model_family(evidence.model)
    if kin := sorted({m for m in evidence.judged_models if mine and licence_model_family(m) == mine}):
        out.append(f"the judge judges its own family: {', '.join(kin)}")
    return out


def licence_model_family(model: str) -> str:
    """Family of a model by its name, "" where it names none.

    >>> [licence_model_family(name) for name in ("openai/gpt-5.4-nano", "local/qwen2.5-coder-0.5b@1d96", "qwen3-4b")]
    ['gpt', 'qwen', 'qwen']
    """
    found = re.match(r"[a-z]+", model.rpartition("/")[2].lower())
    return found[0] if found else ""


def licences_table(licences: Sequence[Licence]) -> Table:
    """What each judge may do and why not more, one row a licence; what a judge's name holds is shown, never run."""
    columns = (
        Column("judge"), Column("metric"), Column("slice"), Column("licence"), Column("truth"),
        Column("labels", "count"), Column("share of labels still needed", "share"), Column("why"),
    )  # fmt: skip
    rows = []
    for each in licences:
        a = each.agreement
        why = "; ".join([text for _, text in each.reasons] + list(each.warnings))
        told = (a.n, a.label_factor) if a else (0, None)
        rows.append((each.judge, each.metric, each.slice, each.status, each.truth, *told, why))
    return Table(columns, tuple(rows), "What each judge may do")


def licence_agreement_table(licences: Sequence[Licence]) -> Table:
    """How far each judge and the labels agree, one row a licence."""
    columns = (
        Column("judge"), Column("slice"), Column("agreement", "share"), Column("always the same", "share"),
        Column("kappa", "number", digits=2), Column("sensitivity", "share"), Column("specificity", "share"),
        Column("share that is good", "share"), Column("flips with order", "share"), Column("no verdict", "share"),
    )  # fmt: skip
    rows = []
    for each in licences:
        a = each.agreement
        told = (a.agreement, a.constant, a.kappa, a.sensitivity, a.specificity, a.base_rate) if a else [None] * 6
        rows.append((each.judge, each.slice, *told, each.flip_rate, each.unknown_rate))
    return Table(columns, tuple(rows), "Where judges and labels agree")
