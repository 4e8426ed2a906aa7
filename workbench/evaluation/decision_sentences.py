"""A decision in words: every number of a sentence is a field of the claims that the tables show."""

from collections.abc import Sequence

from workbench.records import Claim, Rule, Verdict
from workbench.rendering.numbers import counted, monthly, number, percent, usd

# More than this many times the items there are is no plan.
PRACTICAL = 20


def signed(value: float) -> str:
    """Difference with its sign, as the tables show it.

    >>> signed(0.0123)
    '+0.012'
    """
    return number(value, 3, signed=True)


def cost_words(claim: Claim, before: Claim | None, rule: Rule) -> str:
    """What an arm costs a month at the rule's volume, and what it saves or adds where that counts."""
    now, usual = rule.monthly_usd(claim.cost_usd_per_1k), None if before is None else before.cost_usd_per_1k
    at = f"{monthly(now)} at {counted(rule.requests_per_month, 'request')}"
    if before is None or usual is None or before.arm == claim.arm:
        return f"It costs {at}"
    was, change = rule.monthly_usd(usual), f"{percent(abs(1 - claim.cost_usd_per_1k / usual))}" if usual else ""
    if rule.counts(claim.cost_usd_per_1k, usual):
        return (
            f"It costs {monthly(now)} instead of {monthly(was)} at "
            f"{counted(rule.requests_per_month, 'request')}, {change} less"
        )
    if rule.counts(usual, claim.cost_usd_per_1k):
        return f"It costs {at}, {monthly(now - was)} more"
    return f"It costs {at}, which counts as the same as {monthly(was)}"


def distance(claim: Claim) -> str:
    """How far an arm may lie below the best of the others, in numbers."""
    same = [-p.unseen for p in claim.pairs if p.other == claim.best and p.unseen]
    return f"{signed(claim.difference)} against {claim.best}, at least {signed(min([claim.low, *same]))}"


def _alone_words(claim: Claim, rule: Rule) -> str:
    """Nothing is shown of an arm that is compared with none."""
    return f"no other of the arms tested could be had for the money ({rule.metric} {claim.estimate:.3f})"


def _near_words(rule: Rule) -> str:
    return f"shown at {percent(rule.confidence)} confidence to lie at most {rule.margin:g} {rule.metric} below the best"


def sentence_now(sentence: str, claim: Claim, rule: Rule) -> str:
    """Sentence of a verdict that was accepted earlier, in the words of today."""
    former = f"{_near_words(rule)} for the money;"
    return sentence if claim.best else sentence.replace(former, f"{_alone_words(claim, rule)};")


def chosen_sentence(choice: Claim, in_use: Claim | None, rule: Rule, verdict: Verdict, *, n_arms: int) -> str:
    """Sentence of an arm that is chosen, provisionally or not, or as an upgrade.

    ``n_arms`` are those that it is shown to lie near the best of: itself, and those that it was compared with.
    """
    start = {"provisional": "Provisionally use", "upgrade": "Upgrade to"}.get(
        verdict, "Use" if in_use else "Start with"
    )
    if not choice.best:
        shown = _alone_words(choice, rule)
    else:
        shown = f"{_near_words(rule)} of {counted(n_arms, 'arm')} tested for the money ({distance(choice)})"
    return f"{start} {choice.arm}: {shown}. {cost_words(choice, in_use, rule)}.{_gain_words(choice, in_use)}"


def _gain_words(choice: Claim, in_use: Claim | None) -> str:
    """The difference from the arm in use, whichever way it goes."""
    pair = choice.against(in_use.arm) if in_use else None
    if pair is None:
        return ""
    between = f"between {signed(pair.low)} and {signed(pair.high)}"
    return f" Against {pair.other}, which is in use: {signed(pair.difference)}, {between}."


def keep_sentence(claims: Sequence[Claim], kept: Claim, rule: Rule) -> str:
    """Sentence of an arm in use that stays."""
    others = [c for c in claims if c.arm != kept.arm]
    if not others:
        return f"Keep {kept.arm}: no other arm came near it on the dev questions."
    near = f"{_near_words(rule)} for the money ({distance(kept)})" if kept.best else _alone_words(kept, rule)
    one = "the other arm" if len(others) == 1 else f"none of the {counted(len(others), 'other')}"
    return (
        f"Keep {kept.arm}: {near}; {one} is {'not ' if len(others) == 1 else ''}shown to be worth a change. "
        f"{cost_words(kept, None, rule)}."
    )


def none_sentence(claims: Sequence[Claim], rule: Rule) -> str:
    """Sentence where no arm is good enough and no further question would make one so."""
    best = max(claims, key=lambda c: c.estimate)
    stands = f"{best.arm} with {best.estimate:.3f} [{best.estimate_low:.3f}, {best.estimate_high:.3f}]"
    if rule.floor is not None and all(c.estimate_high < rule.floor for c in claims):
        return f"Nothing meets the floor of {rule.floor:g} {rule.metric}: the best is {stands}."
    limits = [f"the floor of {rule.floor:g} {rule.metric}"] if rule.floor is not None else []
    if rule.latency_limit_ms is not None:
        limits.append(f"the latency limit of {rule.latency_limit_ms:g} ms (95th percentile)")
    if not limits:
        return f"Nothing is good enough for the money: the best is {stands}."
    return f"Nothing is good enough and meets {' and '.join(limits)}: the best is {stands}."


def few_sentence(why: str, in_use: Claim | None) -> str:
    """Sentence where too few questions speak."""
    return f"Cannot tell: {why}.{f' Keep {in_use.arm} meanwhile.' if in_use else ''}"


def open_sentence(unsettled: Sequence[Claim], nearest: Claim | None, rule: Rule, in_use: Claim | None) -> str:
    """Sentence where further questions would tell, and how many."""
    names = ", ".join(c.arm for c in unsettled)
    are = "is" if len(unsettled) == 1 else "are"
    keep = f" Keep {in_use.arm} meanwhile." if in_use else ""
    needed = more_words(nearest, rule) if nearest else ""
    return f"Cannot tell yet whether {names} {are} good enough.{needed}{keep}"


def more_words(claim: Claim, rule: Rule) -> str:
    """How many further items would settle an open claim, and what those there are can show."""
    could = ""
    if claim.status == "inconclusive" and -1 < claim.low < -rule.margin:  # a margin of 1 would be none
        could = f" With those there are, a margin of {-claim.low:.3f} could be shown for {claim.arm}."
    if claim.items_needed is None:
        return f" For {claim.arm} no number can be planned: {claim.note or 'its claim is not open'}.{could}"
    few, many = claim.items_needed
    if few > PRACTICAL * claim.n_items:
        return f" No practical number of further questions would settle {claim.arm}: {few:,} at least.{could}"
    told = f"between {few:,} and {many:,}" if many else f"at least {few:,}"
    told = f"{few:,}" if few == many else told
    return f" Label {told} more questions to settle {claim.arm}.{could}"


def upgrade_note(better: Claim, choice: Claim, rule: Rule) -> str:
    """What a dearer arm that is shown better costs, a month and for each further good answer."""
    pair = better.against(choice.arm)
    if pair is None or not pair.better:
        raise ValueError(f"{better.arm} is not shown to be better than {choice.arm}")
    extra = better.cost_usd_per_1k - choice.cost_usd_per_1k
    each, most, least = (extra / 1000 / gain for gain in (pair.difference, pair.low, pair.high))
    what = f"Given up: {better.arm}, which is in use," if better.arm == rule.reference else f"Upgrade: {better.arm}"
    worth = "is not set" if rule.point_usd is None else f"says {monthly(rule.point_usd)} for a hundredth"
    return (
        f"{what} is shown better by {signed(pair.difference)} {rule.metric} (at least {signed(pair.low)}) for "
        f"{monthly(rule.monthly_usd(extra))} more, {usd(each)} per further good answer ({usd(least)} to {usd(most)}); "
        f"it is not chosen: point_usd in gates.toml {worth}."
    )


def tied_note(others: Sequence[Claim], choice: Claim, rule: Rule) -> list[str]:
    """Which other arms are good enough too and cost the same: the choice among them is no finding."""
    same = [
        c
        for c in others
        if not rule.counts(choice.cost_usd_per_1k, c.cost_usd_per_1k)
        and not rule.counts(c.cost_usd_per_1k, choice.cost_usd_per_1k)
        and (pair := choice.against(c.arm)) is not None
        and not pair.better
    ]
    if not same:
        return []
    names = ", ".join(f"{c.arm} ({number(c.estimate - choice.estimate, 3, signed=True)})" for c in same)
    return [f"Good enough at the same cost, and not told apart from {choice.arm}: {names}."]
