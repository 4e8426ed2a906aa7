"""The ledger under the names of FOCUS, the FinOps Open Cost and Usage Specification (focus.finops.org).

One row per hour, tenant, feature, purpose, model, price and class of token. What was spent without tokens (corrections,
reservations that nobody settled) is an adjustment. ``BilledCost`` sums to the ledger to the nano-dollar.

Version 1.4 names who sells and who hosts a service (``ServiceProviderName``, ``HostProviderName``); up to 1.2 it was
``ProviderName`` and ``PublisherName``. It also has the line of an invoice (``InvoiceDetailId``), which is null as the
invoice's own id is: nobody knows them before there is one.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal, get_args

import polars as pl

from workbench.costs.spend import NO_TOKENS, Spend
from workbench.errors import ConfigError, unknown_name
from workbench.inference.messages import LOCAL
from workbench.inference.prices import NANOS_PER_USD, PriceTable

Version = Literal["1.2", "1.4"]
PROVIDERS: Mapping[Version, tuple[str, str]] = {
    "1.2": ("ProviderName", "PublisherName"),
    "1.4": ("ServiceProviderName", "HostProviderName"),
}
ADDED: Mapping[Version, tuple[str, ...]] = {"1.2": (), "1.4": ("InvoiceDetailId",)}  # columns of one version alone
COLUMNS = (
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingAccountType", "BillingCurrency",
    "BillingPeriodEnd", "BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription",
    "ChargeFrequency", "ChargePeriodEnd", "ChargePeriodStart", "CommitmentDiscountStatus", "ConsumedQuantity",
    "ConsumedUnit", "ContractedCost", "ContractedUnitPrice", "EffectiveCost", "InvoiceId", "InvoiceIssuerName",
    "ListCost", "ListUnitPrice", "PricingCategory", "PricingCurrency", "PricingCurrencyContractedUnitPrice",
    "PricingCurrencyEffectiveCost", "PricingCurrencyListUnitPrice", "PricingQuantity", "PricingUnit", "RegionId",
    "RegionName", "ResourceId", "ResourceName", "ResourceType", "ServiceCategory", "ServiceName",
    "ServiceSubcategory", "SkuId", "SkuMeter", "SkuPriceDetails", "SkuPriceId", "SubAccountId", "SubAccountName",
    "SubAccountType", "Tags", "x_TokenType",
)  # fmt: skip
_COSTS = ("BilledCost", "EffectiveCost", "ContractedCost", "ListCost", "PricingCurrencyEffectiveCost")
_UNIT_PRICES = (
    "ListUnitPrice", "ContractedUnitPrice", "PricingCurrencyListUnitPrice", "PricingCurrencyContractedUnitPrice",
)  # fmt: skip
_MILLION = 1_000_000
_UNNAMED = "unattributed"


@dataclass(frozen=True, slots=True)
class BillingAccount:
    """Who pays: the account's id, and its name where it has one."""

    account_id: str
    name: str = ""


def focus_frame(spend: Spend, prices: PriceTable, account: BillingAccount, *, version: Version = "1.4") -> pl.DataFrame:
    """Rows of the ledger in FOCUS names, all as text, amounts as exact decimals; null where FOCUS wants null.

    >>> focus_frame(spend, prices, BillingAccount("acme-prod")).write_csv("costs.csv")  # doctest: +SKIP

    Raises
    ------
    ConfigError
        If the version is not one that is known, or the account has no id.
    """
    if version not in PROVIDERS:
        raise ConfigError(unknown_name("FOCUS version", version, get_args(Version)))
    if not account.account_id:
        raise ConfigError("FOCUS needs the id of the account that pays; give one, such as the name of the project")
    keys = {"hour": pl.col("started").str.slice(0, 13)}
    keys |= {name: pl.col(name) for name in ("tenant_id", "feature", "purpose", "model_asked", "price_version")}
    rows = [
        _focus_row(row, account, PROVIDERS[version]) for row in spend.by_class(prices, **keys).iter_rows(named=True)
    ]
    names = sorted((*COLUMNS, *PROVIDERS[version], *ADDED[version]))
    return pl.DataFrame(rows, {name: pl.String for name in names})


def _focus_row(
    row: Mapping[str, str | int], account: BillingAccount, sellers: tuple[str, str]
) -> dict[str, str | None]:
    start = datetime.fromisoformat(f"{row['hour']}:00:00")
    month = start.replace(day=1, hour=0)
    cost, tokens, model, meter = int(row["cost_nanos"]), int(row["tokens"]), str(row["model_asked"]), str(row["meter"])
    money = _focus_decimal(Decimal(cost) / NANOS_PER_USD)
    vendor = model.partition("/")[0] or _UNNAMED
    tenant, used = str(row["tenant_id"]), meter != NO_TOKENS
    tags = {name: row[name] for name in ("feature", "purpose") if row[name]}
    found: dict[str, str | None] = dict.fromkeys((*COLUMNS, *ADDED["1.4"]))
    found |= dict.fromkeys(_COSTS, money)
    found |= dict.fromkeys((*sellers, "InvoiceIssuerName"), vendor)
    found |= {
        "BillingAccountId": account.account_id,
        "BillingAccountName": account.name or account.account_id,
        "BillingAccountType": "Project",
        "BillingCurrency": "USD",
        "PricingCurrency": "USD",
        "BillingPeriodStart": _focus_utc(month),
        "BillingPeriodEnd": _focus_utc((month + timedelta(days=32)).replace(day=1)),
        "ChargeCategory": "Usage" if used else "Adjustment",
        "ChargeDescription": f"{meter} tokens of {model}" if used else f"adjustment of {model}",
        "ChargeFrequency": "Usage-Based" if used else "One-Time",
        "ChargePeriodStart": _focus_utc(start),
        "ChargePeriodEnd": _focus_utc(start + timedelta(hours=1)),
        "ServiceCategory": "AI and Machine Learning",
        "ServiceSubcategory": "Generative AI",
        "ServiceName": "local inference" if model.startswith(LOCAL) else "model inference",
        "SubAccountId": tenant or None,
        "SubAccountName": tenant or None,
        "SubAccountType": "Tenant" if tenant else None,
        "Tags": json.dumps(tags),
    }
    return found | (_focus_quantity_and_price(meter, model, str(row["price_version"]), cost, tokens) if used else {})


def _focus_quantity_and_price(meter: str, model: str, price: str, cost: int, tokens: int) -> dict[str, str | None]:
    """Quantity and unit price, per million tokens; the unit price is what was paid."""
    unit = _focus_decimal(Decimal(cost) / NANOS_PER_USD * _MILLION / tokens)
    found: dict[str, str | None] = dict.fromkeys(_UNIT_PRICES, unit)
    return found | {
        "ConsumedQuantity": _focus_decimal(Decimal(tokens)),
        "ConsumedUnit": "Tokens",
        "PricingCategory": "Standard",
        "PricingQuantity": _focus_decimal(Decimal(tokens) / _MILLION),
        "PricingUnit": "1000000 Tokens",
        "SkuId": model or _UNNAMED,
        "SkuMeter": meter,
        "SkuPriceId": f"{model or _UNNAMED}:{price or 'unpriced'}:{meter}",
        "ResourceId": model or _UNNAMED,
        "ResourceName": model or _UNNAMED,
        "ResourceType": "Model",
        "x_TokenType": meter,
    }


def _focus_decimal(value: Decimal) -> str:
    """Plain decimal text, without an exponent and with a point: readers take a column of whole numbers for integers."""
    whole, _, part = f"{value:f}".partition(".")
    return f"{whole}.{part.rstrip('0') or '0'}"


def _focus_utc(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
