"""An invoice beside the ledger: the difference by day, model and class of token, and its likeliest cause.

Three shapes are read: a CSV of one's own, a FOCUS export, and the pages that vendors' usage and cost interfaces return
(OpenAI ``organization/usage/completions``, Anthropic ``usage_report/messages`` and ``cost_report``), saved as JSON.
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import polars as pl

from workbench.costs.spend import CLASS_OF, NO_TOKENS, Spend, signed_nanos
from workbench.errors import ConfigError
from workbench.inference.messages import LOCAL
from workbench.inference.prices import NANOS_PER_USD, PriceTable
from workbench.telemetry.ledger import TOKENS

METERS = ("input", "cache_read", "cache_write", "output", NO_TOKENS)
SCHEMA = {"day": pl.String, "model": pl.String, "meter": pl.String, "tokens": pl.Int64, "cost_nanos": pl.Int64}
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
_NEAR = 0.02  # of what a cause would explain
_SAME_RATE = 0.005
_MOST_TOKENS = 2**53
_Line = tuple[str, str, str, int | None, int | None]  # day, model, meter, tokens, nano-dollars
# Names by which exports call a class of token, without what stands between words.
_METER_NAMES: Mapping[str, str] = {
    "input": "input", "inputtokens": "input", "uncachedinputtokens": "input", "prompttokens": "input",
    "fresh": "input", "cacheread": "cache_read", "cachereadinputtokens": "cache_read", "cachedinput": "cache_read",
    "cachedinputtokens": "cache_read", "inputcachedtokens": "cache_read", "cachewrite": "cache_write",
    "cachewriteinputtokens": "cache_write", "cachecreationephemeral5minputtokens": "cache_write",
    "cachecreationephemeral1hinputtokens": "cache_write", "cachecreationinputtokens": "cache_write",
    "output": "output", "outputtokens": "output", "completiontokens": "output", "none": NO_TOKENS, "": NO_TOKENS,
}  # fmt: skip
_CSV_NAMES: Mapping[str, Sequence[str]] = {
    "day": ("day", "date", "ChargePeriodStart", "usage_date"),
    "model": ("model", "SkuId", "model_version"),
    "meter": ("meter", "SkuMeter", "token_type", "token_class"),
    "tokens": ("tokens", "ConsumedQuantity", "usage_quantity", "quantity"),
    "cost": ("cost_usd", "BilledCost", "cost", "amount_usd"),
}


def read_invoice(*paths: Path) -> pl.DataFrame:
    """Lines of an invoice: day, model, meter, tokens, cost_nanos; null is what the files do not say.

    >>> read_invoice(Path("usage.json"), Path("cost.json"))  # doctest: +SKIP

    Parameters
    ----------
    *paths : Path
        Files of one invoice, of any of the shapes; lines of the same day, model and class add up.

    Raises
    ------
    ConfigError
        If a file is of none of the shapes, with what it holds.
    """
    lines = list[_Line]()
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8-sig")
            found = _invoice_pages(json.loads(text)) if text.lstrip()[:1] in ("{", "[") else _invoice_csv_lines(text)
            lines += map(_countable_invoice_tokens, found)
        except (*_UNREADABLE, csv.Error) as error:
            worded = isinstance(
                error, OSError | ValueError | csv.Error
            )  # else a field is not there, or of another kind
            told = str(error) if worded else "it lacks fields"
            raise ConfigError(
                f"{path} is no invoice that can be read ({told}); it is a CSV with day, model, meter, tokens and "
                "cost_usd, a FOCUS export, or a page of a vendor's usage or cost interface as JSON"
            ) from error
    frame = pl.DataFrame(lines, SCHEMA, orient="row")
    known = [pl.when(pl.col(n).is_not_null().any()).then(pl.col(n).sum()).alias(n) for n in ("tokens", "cost_nanos")]
    return frame.group_by("day", "model", "meter").agg(known).sort("day", "model", "meter")


def _countable_invoice_tokens(line: _Line) -> _Line:
    """Refuse more tokens than a whole number of 64 bits can sum."""
    if line[3] is not None and abs(line[3]) >= _MOST_TOKENS:
        raise ValueError(f"{line[3]} is no number of tokens")
    return line


def _invoice_csv_lines(text: str) -> Iterator[_Line]:
    table = csv.DictReader(io.StringIO(text, newline=""))
    names = {
        key: next((n for n in options if n in (table.fieldnames or ())), "") for key, options in _CSV_NAMES.items()
    }
    if lacking := [key for key in ("day", "model", "meter") if not names[key]]:
        raise ValueError(f"no column for {', '.join(lacking)} among {', '.join(table.fieldnames or ())}")
    for row in table:
        _refuse_invoice_currency(row.get("BillingCurrency") or row.get("currency") or "USD")
        tokens, cost = row.get(names["tokens"]), row.get(names["cost"])
        yield (
            _invoice_day(row[names["day"]]), invoice_model(row[names["model"]]), _invoice_meter(row[names["meter"]]),
            _invoice_token_count(tokens) if tokens else None, signed_nanos(cost) if cost else None,
        )  # fmt: skip


def _invoice_pages(found: Any) -> Iterator[_Line]:
    """Lines of one page, or of a list of pages."""
    for page in found if isinstance(found, list) else [found]:
        for bucket in page["data"]:
            start = bucket.get("starting_at") or datetime.fromtimestamp(bucket["start_time"], UTC).isoformat()
            for result in bucket["results"]:
                yield from _invoice_line_of_result(_invoice_day(start), result)


def _invoice_line_of_result(day: str, result: Mapping[str, Any]) -> Iterator[_Line]:
    model = invoice_model(result.get("model") or "")
    if "token_type" in result:  # Anthropic, cost: in cents
        _refuse_invoice_currency(result["currency"])
        cents = signed_nanos(result["amount"])
        yield day, model, _invoice_meter(result["token_type"] or ""), None, cents // 100
    elif "uncached_input_tokens" in result:  # Anthropic, usage
        written = result.get("cache_creation") or {}
        counts = (result["uncached_input_tokens"], result["cache_read_input_tokens"], sum(written.values()))
        for meter, n in zip(METERS, (*counts, result["output_tokens"]), strict=False):
            yield day, model, meter, int(n), None
    elif "input_tokens" in result:  # OpenAI, usage: what was cached is a part of the input
        read, write = result.get("input_cached_tokens") or 0, result.get("input_cache_write_tokens") or 0
        counts = (result["input_tokens"] - read - write, read, write)
        for meter, n in zip(METERS, (*counts, result["output_tokens"]), strict=False):
            yield day, model, meter, int(n), None
    else:  # OpenAI, cost: "model, class"
        _refuse_invoice_currency(result["amount"]["currency"])
        name, _, meter = (result["line_item"] or "").rpartition(", ")
        yield day, invoice_model(name), _invoice_meter(meter), None, signed_nanos(str(result["amount"]["value"]))


def _refuse_invoice_currency(name: str) -> None:
    if name.upper() != "USD":
        raise ValueError(f"amounts are in {name}, and the ledger is in USD: convert them first")


def _invoice_token_count(text: str) -> int:
    try:
        return int(Decimal(text))
    except (InvalidOperation, OverflowError):
        raise ValueError(f"{text!r} is no number of tokens") from None


def _invoice_day(text: str) -> str:
    moment = datetime.fromisoformat(text.strip())
    return f"{moment.astimezone(UTC) if moment.tzinfo else moment:%Y-%m-%d}"


def _invoice_meter(text: str) -> str:
    name = re.sub(r"[^a-z0-9]", "", text.lower())
    if name not in _METER_NAMES:
        raise ValueError(f"{text!r} is no class of tokens; known are {', '.join(METERS)}")
    return _METER_NAMES[name]


def invoice_model(name: str) -> str:
    """Name of a model without its vendor and its date, as invoices and requests write them differently.

    >>> invoice_model("openai/gpt-4o-2024-08-06"), invoice_model("claude-sonnet-4-5-20250929")
    ('gpt-4o', 'claude-sonnet-4-5')
    """
    return re.sub(r"-(\d{4}-\d{2}-\d{2}|\d{8})$", "", name.rpartition("/")[2].strip())


@dataclass(frozen=True, slots=True)
class InvoiceDifference:
    """One day, model and class of token of which invoice and ledger say different things, with the likeliest cause.

    ``by_nanos`` is what the invoice asks more; tokens and amounts are None where the invoice does not tell them.
    """

    day: str
    model: str
    meter: str
    ledger_tokens: int
    invoice_tokens: int | None
    ledger_nanos: int
    invoice_nanos: int | None
    cause: str

    @property
    def by_nanos(self) -> int:
        """Nano-dollars that the invoice asks more than the ledger has."""
        return 0 if self.invoice_nanos is None else self.invoice_nanos - self.ledger_nanos


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """What invoice and ledger say of the models on the invoice.

    ``elsewhere`` are models of the ledger that the invoice does not have: another vendor bills them.
    """

    differences: tuple[InvoiceDifference, ...]
    ledger_nanos: int
    invoice_nanos: int
    elsewhere: tuple[str, ...]


def reconcile_invoice(
    spend: Spend, invoice: pl.DataFrame, prices: PriceTable, *, rounding_usd: float = 0.005
) -> Reconciliation:
    """Compare an invoice with the ledger of the same period.

    Parameters
    ----------
    invoice : polars.DataFrame
        From `read_invoice`.
    rounding_usd : float
        Amounts of one day, model and class that differ by less are the same: many invoices are told in cents.
    """
    hosted = spend.rows.filter(~pl.col("model_asked").str.starts_with(LOCAL))
    names = {model: invoice_model(model) for model in hosted["model_asked"].unique()}
    billed = set(invoice["model"].unique())
    hosted = hosted.with_columns(pl.col("model_asked").replace(names).alias("model"))
    mine = Spend(hosted.filter(pl.col("model").is_in(list(billed))), spend.since, spend.until)
    day = pl.col("started").str.slice(0, 10)
    ledger = mine.by_class(prices, day=day, model=pl.col("model"))
    cells = ledger.join(invoice, on=["day", "model", "meter"], how="full", coalesce=True, suffix="_billed")
    cells = cells.with_columns(pl.col("tokens", "cost_nanos").fill_null(0)).sort("day", "model", "meter")
    told = _Invoice(cells, _retried_invoice_tokens(mine.rows), invoice, ledger, round(rounding_usd * NANOS_PER_USD))
    return Reconciliation(
        tuple(told.differences()),
        mine.total_nanos,
        int(invoice["cost_nanos"].sum() or 0),
        tuple(sorted(model for model, plain in names.items() if plain not in billed)),
    )


def _retried_invoice_tokens(rows: pl.DataFrame) -> dict[tuple[str, str, str], int]:
    """Tokens of the answers of calls that had failed before at the same model: what their failed attempts may bill."""
    failed = rows.filter(pl.col("status").is_in(["error", "unknown"])).select("call_id", "model")
    tries = failed.group_by("call_id", "model").len("tries")
    answers = rows.filter(pl.col("status") == "ok").join(tries, on=["call_id", "model"])
    day = pl.col("started").str.slice(0, 10).alias("day")
    sums = answers.group_by(day, "model").agg((pl.col(n) * pl.col("tries")).sum() for n in TOKENS)
    return {
        (row["day"], row["model"], CLASS_OF[name]): row[name] for row in sums.iter_rows(named=True) for name in TOKENS
    }


class _Invoice:
    """Cells of ledger and invoice side by side, with what tells the causes apart."""

    def __init__(
        self, cells: pl.DataFrame, retried: Mapping[tuple[str, str, str], int], invoice: pl.DataFrame,
        ledger: pl.DataFrame, rounding: int,
    ) -> None:  # fmt: skip
        self.cells = {(r["day"], r["model"], r["meter"]): r for r in cells.iter_rows(named=True)}
        self.retried, self.rounding = retried, rounding
        self.billed_days, self.own_days = set(invoice["day"]), set(ledger["day"])
        self.has_cost, self.has_tokens = (bool(invoice[n].is_not_null().any()) for n in ("cost_nanos", "tokens"))

    def differences(self) -> Iterator[InvoiceDifference]:
        for (day, model, meter), cell in self.cells.items():
            tokens = (cell["tokens_billed"] or 0) if self.has_tokens else None
            cost = (cell["cost_nanos_billed"] or 0) if self.has_cost else None
            same_cost = cost is None or abs(cost - cell["cost_nanos"]) <= self.rounding
            if same_cost and (tokens is None or tokens == cell["tokens"]):
                continue
            cause = self._cause(day, model, meter)
            yield InvoiceDifference(day, model, meter, cell["tokens"], tokens, cell["cost_nanos"], cost, cause)

    def _cause(self, day: str, model: str, meter: str) -> str:
        if day not in self.billed_days:
            return "missing day: not on the invoice"
        if day not in self.own_days:
            return "missing day: not in the ledger"
        if meter == NO_TOKENS:
            return "booked without tokens, which is not on the invoice"
        found = self._cache_cause(day, model, meter) or self._price_cause(day, model, meter)
        more, again = self._more_tokens(day, model, meter), self.retried.get((day, model, meter), 0)
        if found is None and more is not None and again and _near_invoice_amount(more, again):
            found = "retry billed"
        return found or "not explained"

    def _more_tokens(self, day: str, model: str, meter: str) -> float | None:
        """Tokens that the invoice has more; told by its amount at the ledger's price where it tells no tokens."""
        cell = self._cell(day, model, meter)
        if self.has_tokens:
            return float((cell["tokens_billed"] or 0) - cell["tokens"])
        unit = self._unit(day, model, meter)
        return ((cell["cost_nanos_billed"] or 0) - cell["cost_nanos"]) / unit if unit else None

    def _cache_cause(self, day: str, model: str, meter: str) -> str | None:
        """What was read from the vendor's cache, billed as plain input, or billed twice."""
        cached = self._cell(day, model, "cache_read")
        if meter not in ("input", "cache_read") or not cached["tokens"]:
            return None
        full, paid = self._unit(day, model, "input"), cached["cost_nanos_billed"]
        at_full = (
            full
            and paid
            and _near_invoice_amount(paid, full * cached["tokens"])
            and not _near_invoice_amount(paid, cached["cost_nanos"])
        )
        if meter == "cache_read" and at_full and (not self.has_tokens or cached["tokens_billed"] == cached["tokens"]):
            return "cache read at full price"
        here = self._more_tokens(day, model, meter)
        there = self._more_tokens(day, model, "input" if meter == "cache_read" else "cache_read")
        if here is None or there is None:
            return None
        gained, lost = (here, there) if meter == "input" else (there, here)
        if _near_invoice_amount(gained, cached["tokens"]) and _near_invoice_amount(lost, -cached["tokens"]):
            return "cache read at full price"
        if _near_invoice_amount(here, cached["tokens"]) and abs(there) <= _NEAR * cached["tokens"]:
            return "cache read billed twice"
        return None

    def _price_cause(self, day: str, model: str, meter: str) -> str | None:
        """Another price for the same tokens; where the invoice tells none, the ratio of the day before or after."""
        cell, ratio = self._cell(day, model, meter), self._ratio(day, model, meter)
        if ratio is None:
            return None
        if self.has_tokens:
            is_price = (cell["tokens_billed"] or 0) == cell["tokens"]
        else:
            days = sorted(self.billed_days & self.own_days)
            at = days.index(day)
            beside = [self._ratio(d, model, meter) for d in (*days[at - 1 : at], *days[at + 1 : at + 2])]
            is_price = any(other and abs(other / ratio - 1) <= _SAME_RATE for other in beside)
        return f"price changed: {ratio:.3g} times the ledger's" if is_price else None

    def _ratio(self, day: str, model: str, meter: str) -> float | None:
        cell = self._cell(day, model, meter)
        paid, own = cell["cost_nanos_billed"], cell["cost_nanos"]
        return paid / own if paid and own else None

    def _unit(self, day: str, model: str, meter: str) -> float:
        cell = self._cell(day, model, meter)
        return float(cell["cost_nanos"] / cell["tokens"]) if cell["tokens"] else 0.0

    def _cell(self, day: str, model: str, meter: str) -> Mapping[str, Any]:
        nothing = {"tokens": 0, "cost_nanos": 0, "tokens_billed": 0, "cost_nanos_billed": 0}
        return self.cells.get((day, model, meter), nothing)


def _near_invoice_amount(found: float, wanted: float) -> bool:
    return bool(wanted) and abs(found - wanted) <= _NEAR * abs(wanted)


def invoice_differences_by_cause(differences: Iterable[InvoiceDifference]) -> dict[str, int]:
    """Nano-dollars of the differences of each cause; a price change of any size is one cause.

    >>> invoice_differences_by_cause([])
    {}
    """
    sums = dict[str, int]()
    for found in differences:
        cause = found.cause.partition(":")[0]
        sums[cause] = sums.get(cause, 0) + found.by_nanos
    return sums
