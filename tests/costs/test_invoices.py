"""Four causes, planted in three shapes of an invoice, are each found and named; an invoice that agrees has none."""

import csv
import json
from dataclasses import dataclass, replace
from decimal import Decimal

import polars as pl
import pytest

from tests.costs.rows import spend_of
from tests.costs.test_cost_bridge import prices
from tests.telemetry.rows import row
from workbench.costs.focus import BillingAccount, focus_frame
from workbench.costs.invoices import (
    METERS,
    invoice_differences_by_cause,
    invoice_model,
    read_invoice,
    reconcile_invoice,
)
from workbench.errors import ConfigError
from workbench.inference.messages import Usage

__all__ = ["prices"]
GROUP_DAY, MODEL = pl.col("started").str.slice(0, 10), pl.col("model_asked")
DAYS = [f"2026-11-{day:02d}" for day in range(1, 11)]
CLASSES = METERS[:4]


@dataclass(frozen=True)
class Line:
    day: str
    model: str
    meter: str
    tokens: int
    cost: Decimal  # dollars


def ledger(prices):
    """Ten days of two models; each tenth call failed once and was asked again."""
    rows = []
    for d, day in enumerate(DAYS):
        for i in range(20):
            model = ("cheap", "dear")[i % 2]
            usage = Usage(fresh=90_000 + 1000 * d + 37 * i, cache_read=51_000 + 700 * d, cache_write=8000 + 10 * i,
                          output=12_000 + 111 * d * i)  # fmt: skip
            started = f"{day}T{i:02d}:00:00+00:00"
            failed = i % 10 < 2
            if failed:
                rows.append(row(f"{day} {i}", 0, 0, model_asked=model, status="error", started=started))
            rows.append(row(f"{day} {i}", int(failed), prices.cost_nanos(model, usage), model_asked=model,
                            fresh_tokens=usage.fresh, cache_read_tokens=usage.cache_read, started=started,
                            cache_write_tokens=usage.cache_write, output_tokens=usage.output))  # fmt: skip
    return rows


def honest(rows, prices):
    frame = spend_of(rows).by_class(prices, day=GROUP_DAY, model=MODEL)
    return [Line(r["day"], r["model"], r["meter"], r["tokens"], Decimal(r["cost_nanos"]) / 10**9)
            for r in frame.iter_rows(named=True)]  # fmt: skip


def unit(prices, model, meter):
    return Decimal(prices.models[model][meter].numerator) / prices.models[model][meter].denominator / 10**9


def with_tokens(line, more, prices):
    return replace(line, tokens=line.tokens + more, cost=line.cost + more * unit(prices, line.model, line.meter))


def missing_day(lines, rows, prices):
    return [line for line in lines if line.day != DAYS[4]]


def price_changed(lines, rows, prices):
    return [replace(line, cost=line.cost * Decimal("1.25")) if line.day >= DAYS[6] and line.model == "dear"
            and line.meter == "output" else line for line in lines]  # fmt: skip


def full_price(lines, rows, prices):
    """On one day what was read from the cache is billed as input."""
    read = {line.model: line.tokens for line in lines if line.day == DAYS[3] and line.meter == "cache_read"}
    out = []
    for line in lines:
        if line.day == DAYS[3] and line.meter == "cache_read":
            continue
        out.append(
            with_tokens(line, read[line.model], prices) if line.day == DAYS[3] and line.meter == "input" else line
        )
    return out


def billed_twice(lines, rows, prices):
    """On one day what was read from the cache is billed as such, and as input too."""
    read = {line.model: line.tokens for line in lines if line.day == DAYS[3] and line.meter == "cache_read"}
    return [with_tokens(line, read[line.model], prices) if line.day == DAYS[3] and line.meter == "input" else line
            for line in lines]  # fmt: skip


def retry_billed(lines, rows, prices):
    names = ("fresh_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens")
    again = [r for r in rows if r.attempt == 1 and r.started.startswith(DAYS[5])]
    more = {(r.model_asked, m): 0 for r in again for m in CLASSES}
    for r in again:
        for name, meter in zip(names, CLASSES, strict=True):
            more[r.model_asked, meter] += getattr(r, name)
    return [with_tokens(line, more[line.model, line.meter], prices) if line.day == DAYS[5] else line for line in lines]


PLANTED = {
    "missing day": missing_day, "price changed": price_changed, "cache read at full price": full_price,
    "cache read billed twice": billed_twice, "retry billed": retry_billed,
}  # fmt: skip


def as_csv(lines, folder):
    file = folder / "invoice.csv"
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(["date", "model", "token_type", "tokens", "cost_usd"])
        writer.writerows([x.day, f"{x.model}-2026-01-31", x.meter, x.tokens, f"{x.cost:.9f}"] for x in lines)
    return [file]


def as_focus(lines, folder):
    file = folder / "focus.csv"
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(["BilledCost", "ChargePeriodStart", "SkuId", "SkuMeter", "ConsumedQuantity", "BillingCurrency"])
        writer.writerows(
            [f"{x.cost:.9f}", f"{x.day}T00:00:00Z", x.model, x.meter, f"{x.tokens}.0", "USD"] for x in lines
        )
    return [file]


def as_cost_pages(lines, folder):
    """The vendor's cost page alone: amounts in cents, no tokens."""
    kinds = {"input": "uncached_input_tokens", "cache_read": "cache_read_input_tokens",
             "cache_write": "cache_creation.ephemeral_5m_input_tokens", "output": "output_tokens"}  # fmt: skip
    data = [
        {"starting_at": f"{day}T00:00:00Z", "results": [
            {"amount": f"{x.cost * 100:.6f}", "currency": "USD", "model": x.model, "token_type": kinds[x.meter]}
            for x in lines if x.day == day]}
        for day in sorted({x.day for x in lines})
    ]  # fmt: skip
    file = folder / "cost.json"
    file.write_text(json.dumps({"data": data, "has_more": False}), encoding="utf-8")
    return [file]


SHAPES = {"csv": as_csv, "focus": as_focus, "vendor": as_cost_pages}


@pytest.mark.parametrize("shape", SHAPES)
def test_an_invoice_that_agrees_has_no_difference(prices, shape, tmp_path):
    rows = [*ledger(prices), row("x", 0, 10**9, model_asked="local/y", fresh_tokens=1),
            row("z", 0, 10**9, model_asked="other/z", fresh_tokens=1)]  # fmt: skip
    lines = honest([r for r in rows if r.model_asked in ("cheap", "dear")], prices)
    found = reconcile_invoice(spend_of(rows), read_invoice(*SHAPES[shape](lines, tmp_path)), prices)
    assert found.differences == ()
    assert found.elsewhere == ("other/z",)
    assert abs(found.ledger_nanos - found.invoice_nanos) < 1000


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cause", PLANTED)
def test_a_planted_cause_is_named_in_each_shape_and_no_other(prices, shape, cause, tmp_path):
    rows = ledger(prices)
    lines = PLANTED[cause](honest(rows, prices), rows, prices)
    found = reconcile_invoice(spend_of(rows), read_invoice(*SHAPES[shape](lines, tmp_path)), prices)
    assert set(invoice_differences_by_cause(found.differences)) == {cause}
    assert abs(sum(d.by_nanos for d in found.differences) - (found.invoice_nanos - found.ledger_nanos)) < 1000


def test_a_day_that_the_ledger_has_not_is_told_from_one_that_the_invoice_has_not(prices, tmp_path):
    rows = ledger(prices)
    lines = honest(rows, prices)
    kept = [r for r in rows if not r.started.startswith(DAYS[2])]
    found = reconcile_invoice(spend_of(kept), read_invoice(*as_csv(lines, tmp_path)), prices)
    assert {d.cause for d in found.differences} == {"missing day: not in the ledger"}


def test_what_nothing_explains_is_called_so(prices, tmp_path):
    rows = ledger(prices)
    lines = [with_tokens(x, 777, prices) if (x.day, x.model, x.meter) == (DAYS[1], "dear", "output") else x
             for x in honest(rows, prices)]  # fmt: skip
    (found,) = reconcile_invoice(spend_of(rows), read_invoice(*as_csv(lines, tmp_path)), prices).differences
    assert (found.cause, found.invoice_tokens - found.ledger_tokens) == ("not explained", 777)


def test_our_own_focus_export_reconciles_with_the_ledger(prices, tmp_path):
    rows = ledger(prices)
    file = tmp_path / "own.csv"
    focus_frame(spend_of(rows), prices, BillingAccount("a")).write_csv(file)
    assert reconcile_invoice(spend_of(rows), read_invoice(file), prices).differences == ()


def test_usage_pages_of_two_vendors_are_read_with_disjoint_classes(tmp_path):
    written = {"ephemeral_1h_input_tokens": 1, "ephemeral_5m_input_tokens": 2}
    openai = {"object": "page", "data": [{"object": "bucket", "start_time": 1793491200, "results": [
        {"object": "organization.usage.completions.result", "input_tokens": 1000, "output_tokens": 500,
         "input_cached_tokens": 800, "num_model_requests": 5, "model": "gpt-x-2026-01-31"}]}]}  # fmt: skip
    anthropic = {"data": [{"starting_at": "2026-11-01T00:00:00Z", "results": [
        {"uncached_input_tokens": 200, "cache_creation": written,
         "cache_read_input_tokens": 800, "output_tokens": 500, "model": "y"}]}]}  # fmt: skip
    files = tmp_path / "o.json", tmp_path / "a.json"
    for file, page in zip(files, (openai, anthropic), strict=True):
        file.write_text(json.dumps(page), encoding="utf-8")
    lines = {(r["model"], r["meter"]): r["tokens"] for r in read_invoice(*files).iter_rows(named=True)}
    assert lines == {
        ("gpt-x", "input"): 200, ("gpt-x", "cache_read"): 800, ("gpt-x", "cache_write"): 0, ("gpt-x", "output"): 500,
        ("y", "input"): 200, ("y", "cache_read"): 800, ("y", "cache_write"): 3, ("y", "output"): 500,
    }  # fmt: skip
    assert read_invoice(files[0])["day"].unique().to_list() == ["2026-11-01"]
    assert read_invoice(files[0])["cost_nanos"].null_count() == 4


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a,b\n1,2\n",
        "{}",
        "[1]",
        "day,model,meter\n2026-11-01,m,colour\n",
        "[" * 100_000,
        "day,model,meter,tokens\n2026-11-01,m,input,many\n",
        "day,model,meter,tokens\n2026-11-01,m,input,inf\n",
        "day,model,meter,tokens\n2026-11-01,m,input,9223372036854775808\n",
        "day,model,meter,cost_usd,currency\n2026-11-01,m,input,1,EUR\n",
        "day,model,meter\nyesterday,m,input\n",
        '{"data": [{"start_time": 1e30, "results": []}]}',
    ],
)
def test_a_file_of_another_shape_is_refused_by_name(tmp_path, text):
    file = tmp_path / "x"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="no invoice that can be read"):
        read_invoice(file)
    with pytest.raises(ConfigError, match="gone"):
        read_invoice(tmp_path / "gone")


def test_names_of_models_are_compared_without_vendor_and_date():
    assert invoice_model("vertex_ai/gemini-x@20260101") == "gemini-x@20260101"
    assert invoice_model("a/b/c-20260131") == "c"
