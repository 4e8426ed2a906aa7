"""FOCUS rows sum to the ledger, and neither the official validator nor the table of 1.4 has anything against them.

``focus-validator`` 2.2.1, the newest, brings the rules of FOCUS 1.2 alone and refuses 1.3 and 1.4 by name. So it
cannot look at what they changed: who sells and hosts, and the line of an invoice. For these, `SPEC` is what the text of
1.4 says of our columns. The validator needs Python 3.12: it cannot be installed beside the package, which runs on 3.11.
It is run where `VALIDATOR` names the command of an environment that has it, or one is on the path.
"""

import json
import os
import re
import shutil
import subprocess
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.costs.rows import random_rows, spend_of
from tests.costs.test_cost_bridge import prices
from tests.telemetry.rows import row
from workbench.costs.focus import COLUMNS, BillingAccount, focus_frame
from workbench.errors import ConfigError

__all__ = ["prices"]
VALIDATOR = "WORKBENCH_FOCUS_VALIDATOR"
ACCOUNT = BillingAccount("acme-prod", "Acme")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 40))
def test_billed_cost_and_tokens_sum_to_the_ledger(prices, seed, n):
    rows = random_rows(seed, n)
    frame = focus_frame(spend_of(rows), prices, ACCOUNT)
    assert sum(map(Decimal, frame["BilledCost"])) * 10**9 == sum(r.cost_nanos for r in rows)
    tokens = sum(r.fresh_tokens + r.cache_read_tokens + r.cache_write_tokens + r.output_tokens for r in rows)
    assert sum(map(Decimal, frame["ConsumedQuantity"].drop_nulls())) == tokens


def test_a_call_is_split_by_the_prices_of_its_classes(prices):
    usage = {"fresh_tokens": 1000, "cache_read_tokens": 5000, "cache_write_tokens": 400, "output_tokens": 100}
    spend = spend_of([row("a", 0, 2_400_000, model_asked="cheap", tenant_id="acme", feature="find", **usage)])
    found = {r["SkuMeter"]: r for r in focus_frame(spend, prices, ACCOUNT).rows(named=True)}
    assert {m: r["BilledCost"] for m, r in found.items()} == {
        "input": "0.001", "cache_read": "0.0005", "cache_write": "0.0005", "output": "0.0004",
    }  # fmt: skip
    assert found["cache_read"]["ListUnitPrice"] == "0.1"
    assert found["input"]["PricingQuantity"] == "0.001"
    assert found["input"]["Tags"] == '{"feature": "find", "purpose": "product"}'


def test_versions_name_the_seller_as_they_do(prices):
    spend = spend_of([row("a", 0, 1, model_asked="openai/x", fresh_tokens=1)])
    assert focus_frame(spend, prices, ACCOUNT)["ServiceProviderName"].to_list() == ["openai"]
    assert focus_frame(spend, prices, ACCOUNT, version="1.2")["ProviderName"].to_list() == ["openai"]
    with pytest.raises(ConfigError, match=r"1\.4"):
        focus_frame(spend, prices, ACCOUNT, version="1.3")
    with pytest.raises(ConfigError, match="account"):
        focus_frame(spend, prices, BillingAccount(""))


APPLICABLE = (
    "ACCOUNT_NAMING_SUPPORTED", "MULTIPLE_SUB_ACCOUNT_TYPES_SUPPORTED", "NEGOTIATED_PRICING_SUPPORTED",
    "PUBLIC_PRICE_LIST_SUPPORTED", "USAGE_MEASUREMENT_SUPPORTED", "UNIT_PRICING_SUPPORTED", "SUB_ACCOUNT_SUPPORTED",
    "RESOURCE_TYPE_ASSIGNMENT_SUPPORTED", "TAGGING_SUPPORTED",
)  # fmt: skip
# It asks for an invoice's id with every charge; nobody knows it before there is an invoice, and then FOCUS wants null.
UNKNOWABLE = {"InvoiceId-C-005-C"}
# In a file without a charge it counts one that has none of the allowed values.
OF_NO_ROW = re.compile(r"(ChargeCategory|ChargeFrequency|ServiceCategory|ServiceSubcategory)-C-00[034]-[MO]")
FOUND = os.environ.get(VALIDATOR) or shutil.which("focus-validator")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(FOUND is None, reason=f"no focus-validator on the path, and {VALIDATOR} names no command")
@pytest.mark.parametrize(("calls", "excused"), [(0, OF_NO_ROW), (200, None)])
def test_the_official_validator_finds_nothing(prices, tmp_path, calls, excused):
    file, command = tmp_path / "costs.csv", Path(FOUND or "")
    focus_frame(spend_of(random_rows(1, calls)), prices, ACCOUNT, version="1.2").write_csv(file)
    # it reads a file of its own from below the working directory, and its exit code is 0 whatever it finds
    (home,) = command.resolve().parents[1].glob("lib/python*/site-packages")
    given = [str(command), "--data-file", str(file), "--validate-version", "1.2", "--block-download",
             "--applicability-criteria", ",".join(APPLICABLE)]  # fmt: skip
    done = subprocess.run(given, capture_output=True, text=True, check=False, cwd=home, timeout=250)
    failed = set(re.findall(r"(\S+): FAIL", done.stdout + done.stderr))
    passed = re.search(r"Pass: (\d+)", done.stdout + done.stderr)
    assert passed is not None, done.stderr[-2000:]
    assert int(passed[1]) > 200
    assert {rule for rule in failed - UNKNOWABLE if not (excused and excused.fullmatch(rule))} == set()


# What the text of FOCUS 1.4 says of each column of its dataset "Cost and Usage" that we write: type, whether it may be
# null, and the allowed values that we can have. 1.3 brought who sells and hosts, 1.4 the line of an invoice.
SPEC = """
BilledCost Decimal no | BillingAccountId String no | BillingAccountName String yes | BillingAccountType String no
BillingCurrency Currency no | BillingPeriodEnd Time no | BillingPeriodStart Time no
ChargeCategory String no Usage,Purchase,Tax,Credit,Adjustment | ChargeClass String yes Correction
ChargeDescription String yes | ChargeFrequency String no One-Time,Recurring,Usage-Based
ChargePeriodEnd Time no | ChargePeriodStart Time no | CommitmentDiscountStatus String yes Used,Unused
ConsumedQuantity Decimal yes | ConsumedUnit String yes | ContractedCost Decimal no | ContractedUnitPrice Decimal yes
EffectiveCost Decimal no | HostProviderName String no | InvoiceDetailId String yes | InvoiceId String yes
InvoiceIssuerName String no | ListCost Decimal no | ListUnitPrice Decimal yes
PricingCategory String yes Standard,Dynamic,Committed,Other | PricingCurrency Currency no
PricingCurrencyContractedUnitPrice Decimal yes | PricingCurrencyEffectiveCost Decimal no
PricingCurrencyListUnitPrice Decimal yes | PricingQuantity Decimal yes | PricingUnit String yes
RegionId String yes | RegionName String yes | ResourceId String yes | ResourceName String yes | ResourceType String yes
ServiceCategory String no AI_and_Machine_Learning | ServiceName String no | ServiceProviderName String no
ServiceSubcategory String no AI_Platforms,Generative_AI | SkuId String yes | SkuMeter String yes
SkuPriceDetails JSON yes | SkuPriceId String yes | SubAccountId String yes | SubAccountName String yes
SubAccountType String yes | Tags JSON yes
"""
COLUMN = re.compile(r"(\w+) (String|Decimal|Time|Currency|JSON) (yes|no) ?([\w,-]*)")
FORMS = {
    "Decimal": r"-?\d+\.\d+", "Time": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "Currency": "[A-Z]{3}", "String": "(?s).+",
    "JSON": r"\{.*\}",
}  # fmt: skip
GONE = ("ProviderName", "PublisherName")  # since 1.4


@pytest.mark.parametrize("calls", [0, 300])
def test_columns_of_1_4_are_those_of_its_text_in_name_type_nullability_and_values(prices, calls):
    frame = focus_frame(spend_of(random_rows(3, calls)), prices, ACCOUNT)
    assert (len(frame) > 100) == (calls > 0)
    spec = {name: (kind, null == "yes", values) for name, kind, null, values in COLUMN.findall(SPEC)}
    ours = [name for name in frame.columns if not name.startswith("x_")]
    assert frame.columns == [*sorted(spec), "x_TokenType"]  # columns of one's own come last
    assert not set(GONE) & set(frame.columns)
    for name in ours:
        kind, nullable, values = spec[name]
        told = frame[name]
        assert nullable or told.null_count() == 0, name
        allowed = {value.replace("_", " ") for value in values.split(",")} if values else None
        for value in told.drop_nulls().unique():
            assert re.fullmatch(FORMS[kind], value), (name, value)
            assert allowed is None or value in allowed, (name, value)
            assert kind != "JSON" or isinstance(json.loads(value), dict), (name, value)


def test_columns_of_1_4_are_null_together_and_amounts_are_price_times_quantity(prices):
    found = focus_frame(spend_of(random_rows(3, 300)), prices, ACCOUNT).rows(named=True)
    together = [
        ("InvoiceId", "InvoiceDetailId"), ("SubAccountId", "SubAccountName"), ("SubAccountId", "SubAccountType"),
        ("ConsumedQuantity", "ConsumedUnit"), ("PricingQuantity", "PricingUnit"), ("SkuPriceId", "SkuId"),
        ("SkuPriceId", "PricingCategory"), ("ResourceId", "ResourceType"),
    ]  # fmt: skip
    kinds = {(r["ChargeCategory"], r["SkuPriceId"] is None) for r in found}
    assert kinds == {("Usage", False), ("Adjustment", True)}
    for r in found:
        assert all((r[one] is None) == (r[other] is None) for one, other in together)
        assert (r["ChargeCategory"] == "Usage") == (r["ConsumedQuantity"] is not None)
        assert r["BillingPeriodStart"] <= r["ChargePeriodStart"] < r["ChargePeriodEnd"] <= r["BillingPeriodEnd"]
        if r["SkuPriceId"] is not None:
            for price, cost in (("ListUnitPrice", "ListCost"), ("ContractedUnitPrice", "ContractedCost")):
                product = Decimal(r[price]) * Decimal(r["PricingQuantity"])
                assert product == pytest.approx(Decimal(r[cost]), rel=Decimal("1e-20"))


def test_the_line_of_an_invoice_is_of_1_4_alone(prices):
    spend = spend_of(random_rows(3, 20))
    old, new = (set(focus_frame(spend, prices, ACCOUNT, version=v).columns) for v in ("1.2", "1.4"))
    assert old == {*COLUMNS, *GONE}
    assert new - old == {"ServiceProviderName", "HostProviderName", "InvoiceDetailId"}
