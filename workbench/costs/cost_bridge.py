"""Why one period cost more than another: price, volume, tokens per call, model mix and cache rate, closing exactly.

What a period cost is the product of five things that are read off its rows (of calls of the product and all others):

    calls x share not served from our cache x sum over models of
        share of the model's attempts x attempts x tokens of each class x reference price x price level

The reference price of a class of tokens is today's list price, the price level what was paid for one reference dollar.
Each cause gets its Shapley value (Shapley 1953): its effect, averaged over all orders in which the five may change from
one period to the other. So no order is preferred, and the five add up to the difference without a remainder. What costs
without tokens (corrections, reservations that nobody settled) has a line of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from math import factorial

import polars as pl

from workbench.costs.spend import CLASS_OF, Spend
from workbench.inference.messages import Usage
from workbench.inference.prices import TOKEN_CLASSES, PriceTable
from workbench.telemetry.ledger import TOKENS

CAUSES = ("price", "volume", "tokens per call", "model mix", "cache rate")
WITHOUT_TOKENS = "without tokens"
_FINE = 10**6  # a term of one model is rounded to a millionth of a nano-dollar, so that fractions stay small


@dataclass(frozen=True, slots=True)
class Bridge:
    """What a period cost, what each cause added, and what the next one cost; ``before + effects == after``.

    Attributes
    ----------
    effects : mapping of str to int
        Nano-dollars by cause: `CAUSES`, then "without tokens".
    unlisted : tuple of str
        Models without a list price: a shift between their classes of tokens counts as their price, not as cache rate.
    """

    before_nanos: int
    effects: Mapping[str, int]
    after_nanos: int
    unlisted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _BridgeModel:
    """One model in one period: attempts, tokens of each by class, what they cost and what they cost at list price."""

    attempts: int
    prompt: Fraction
    output: Fraction
    read: Fraction
    write: Fraction
    level: Fraction


@dataclass(frozen=True, slots=True)
class _BridgePeriod:
    calls: int
    asked: Fraction  # share of the calls that went to a model
    repeats: Fraction  # attempts with tokens for each of those
    models: Mapping[str, _BridgeModel]
    bare_nanos: int
    total_nanos: int


def cost_bridge(before: Spend, after: Spend, prices: PriceTable) -> Bridge:
    """Split the difference between what two periods cost into its causes, to the nano-dollar.

    >>> cost_bridge(load_spend(ledger, since="2026-10-01", until="2026-11-01"),
    ...             load_spend(ledger, since="2026-11-01", until="2026-12-01"), prices)  # doctest: +SKIP

    Parameters
    ----------
    prices : PriceTable
        Tells how much dearer one class of tokens is than another; a constant factor in it changes nothing.
    """
    models = sorted({*before.rows["model_asked"].unique(), *after.rows["model_asked"].unique()})
    reference = {model: _bridge_list_price(model, prices) for model in models}
    one, two = _bridge_period(before, reference), _bridge_period(after, reference)
    known = {model: (one.models.get(model) or two.models[model], two.models.get(model) or one.models[model])
             for model in models if model in one.models or model in two.models}  # fmt: skip
    first, last = one.total_nanos - one.bare_nanos, two.total_nanos - two.bare_nanos
    worth = {frozenset[str](): Fraction(first), frozenset(CAUSES): Fraction(last)}
    for size in range(1, len(CAUSES)):
        for changed in map(frozenset, combinations(CAUSES, size)):
            worth[changed] = _bridge_period_cost(changed, one, two, known, reference)
    exact, effects, given = Fraction(0), dict[str, int](), 0
    for cause in CAUSES:
        exact += _bridge_shapley(cause, worth)
        effects[cause] = round(exact) - given
        given += effects[cause]
    effects[WITHOUT_TOKENS] = two.bare_nanos - one.bare_nanos
    unlisted = tuple(model for model in models if model in known and model not in prices.models)
    return Bridge(one.total_nanos, effects, two.total_nanos, unlisted)


def _bridge_list_price(model: str, prices: PriceTable) -> dict[str, Fraction]:
    """List price of a token of each class; what has none is priced as input, a model without any as 1 for each."""
    listed = prices.models.get(model, {})
    plain = listed.get("input", Fraction(0))
    found = {name: listed.get(name, plain) for name in TOKEN_CLASSES}
    return found if any(found.values()) else dict.fromkeys(TOKEN_CLASSES, Fraction(1))


def _bridge_period(spend: Spend, reference: Mapping[str, Mapping[str, Fraction]]) -> _BridgePeriod:
    tokens = pl.sum_horizontal(TOKENS)
    used = spend.rows.filter(tokens > 0)
    sums = used.group_by("model_asked").agg(pl.len(), pl.col(*TOKENS, "cost_nanos").sum()).sort("model_asked")
    models = {
        row["model_asked"]: _bridge_model(row, reference[row["model_asked"]]) for row in sums.iter_rows(named=True)
    }
    bare = int(spend.rows.filter(tokens == 0)["cost_nanos"].sum()) + sum(
        row["cost_nanos"] for row in sums.iter_rows(named=True) if not models[row["model_asked"]].level
    )
    calls, asked = spend.rows["call_id"].n_unique(), used["call_id"].n_unique()
    return _BridgePeriod(
        calls=calls,
        asked=Fraction(asked, calls or 1),
        repeats=Fraction(len(used), asked or 1),
        models=models,
        bare_nanos=bare,
        total_nanos=spend.total_nanos,
    )


def _bridge_model(row: Mapping[str, int], reference: Mapping[str, Fraction]) -> _BridgeModel:
    n, prompt = row["len"], row["fresh_tokens"] + row["cache_read_tokens"] + row["cache_write_tokens"]
    listed = sum((row[name] * reference[kind] for name, kind in CLASS_OF.items()), Fraction(0))
    return _BridgeModel(
        attempts=n,
        prompt=Fraction(prompt, n),
        output=Fraction(row["output_tokens"], n),
        read=Fraction(row["cache_read_tokens"], prompt or 1),
        write=Fraction(row["cache_write_tokens"], prompt or 1),
        level=row["cost_nanos"] / listed if listed else Fraction(0),
    )


def _bridge_period_cost(
    changed: frozenset[str],
    one: _BridgePeriod,
    two: _BridgePeriod,
    known: Mapping[str, tuple[_BridgeModel, _BridgeModel]],
    reference: Mapping[str, Mapping[str, Fraction]],
) -> Fraction:
    """What a period would have cost in which some causes are those of the later one, and the rest those of the first.

    What a period without any call cannot tell (its mix, its tokens) is taken from the other.
    """

    def from_(cause: str) -> _BridgePeriod:
        wanted, other = (two, one) if cause in changed else (one, two)
        return wanted if cause == "volume" or wanted.models or not other.models else other

    def late(cause: str) -> int:
        return int(cause in changed)

    calls, cached = from_("volume").calls, from_("cache rate")
    mix, repeats = from_("model mix"), from_("tokens per call").repeats
    attempts = sum(model.attempts for model in mix.models.values()) or 1
    total = Fraction(0)
    for name, model in mix.models.items():
        versions, price = known[name], reference[name]
        size, rate, level = (versions[late(cause)] for cause in ("tokens per call", "cache rate", "price"))
        input_price = price["input"] + rate.read * (price["cache_read"] - price["input"])
        input_price += rate.write * (price["cache_write"] - price["input"])
        listed = size.prompt * input_price + size.output * price["output"]
        term = calls * cached.asked * repeats * Fraction(model.attempts, attempts) * level.level * listed
        total += Fraction(round(term * _FINE), _FINE)
    return total


def _bridge_shapley(cause: str, worth: Mapping[frozenset[str], Fraction]) -> Fraction:
    """Effect of a cause, averaged over all orders in which the causes can change."""
    others, n = [c for c in CAUSES if c != cause], len(CAUSES)
    total = Fraction(0)
    for size in range(n):
        share = Fraction(factorial(size) * factorial(n - size - 1), factorial(n))
        for before in map(frozenset, combinations(others, size)):
            total += share * (worth[before | {cause}] - worth[before])
    return total


def cost_what_if(spend: Spend, prices: PriceTable, instead: Mapping[str, str]) -> dict[str, int]:
    """Nano-dollars of the same tokens under other choices: as booked, at today's prices, asked elsewhere, uncached.

    What has no tokens, and what a model without a list price cost, stays as it was booked. A model that is asked in the
    place of another is taken to use as many tokens; whether its answers are as good is for the routing notebook.

    Parameters
    ----------
    instead : mapping of str to str
        Models that are asked in the place of others.

    Raises
    ------
    UnknownPrice
        If a model that would be asked has no list price.
    """
    for other in instead.values():
        prices.cost_nanos(other, Usage(fresh=1))
    tokens = pl.sum_horizontal(TOKENS)
    used = spend.rows.filter(tokens > 0).group_by("model_asked").agg(pl.col(*TOKENS, "cost_nanos").sum())
    kept = spend.total_nanos - int(used["cost_nanos"].sum())
    today = elsewhere = Fraction(kept)
    for row in used.iter_rows(named=True):
        model, booked = row["model_asked"], Fraction(row["cost_nanos"])
        today += _cost_at_list(row, model, prices) if model in prices.models else booked
        other = instead.get(model, model)
        elsewhere += _cost_at_list(row, other, prices) if other in prices.models else booked
    found = {"as booked": spend.total_nanos, "at today's prices": round(today)}
    if instead:
        found["with " + ", ".join(f"{b} for {a}" for a, b in instead.items())] = round(elsewhere)
    saved = int(spend.rows["saved_nanos"].sum())
    return found | ({"without our own cache": spend.total_nanos + saved} if saved else {})


def _cost_at_list(row: Mapping[str, int], model: str, prices: PriceTable) -> Fraction:
    price = (
        _bridge_list_price(model, prices)
        if any(prices.models[model].values())
        else dict.fromkeys(TOKEN_CLASSES, Fraction(0))
    )
    return sum((row[name] * price[kind] for name, kind in CLASS_OF.items()), Fraction(0))
