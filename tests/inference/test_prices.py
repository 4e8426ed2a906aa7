import pytest

from workbench.errors import ConfigError
from workbench.inference.prices import Rate, Work, load_prices, project_prices

TABLE = """version = "2026-01-31"
machine = "test"
usd_per_vcpu_hour = 3.6
[operations.scan]
fixed_ms = 2.0
per_1k_rows_ms = 0.5
["operations"."embed_query:litellm:m"]
usd = 0.000002
"""


@pytest.fixture
def prices(tmp_path):
    (tmp_path / "prices.toml").write_text(TABLE, encoding="utf-8")
    return load_prices(tmp_path / "prices.toml")


def test_cost_is_counted_work_times_its_rate(prices):
    """A dollar is 1e6 milliseconds here."""
    assert prices.cost_usd([Work("scan")]) == pytest.approx(2e-6)
    assert prices.cost_usd([Work("scan", 4000), Work("scan")]) == pytest.approx(6e-6)
    assert prices.cost_usd([]) == 0


def test_what_is_paid_to_others_is_added_in_dollars(prices):
    assert prices.operations["embed_query:litellm:m"] == Rate(usd=0.000002)
    assert prices.cost_usd([Work("scan"), Work("embed_query:litellm:m")]) == pytest.approx(4e-6)


def test_an_unknown_operation_is_an_error_and_never_zero(prices):
    with pytest.raises(ConfigError, match="unknown operation 'scna'; did you mean 'scan'") as raised:
        prices.cost_usd([Work("scan"), Work("scna")])
    assert "prices.toml" in str(raised.value)


def test_a_project_has_its_own_prices_or_those_of_the_package(tmp_path, prices):
    assert project_prices(tmp_path) == prices
    assert project_prices(tmp_path / "elsewhere") == load_prices()


def test_another_table_is_another_input(prices):
    assert prices.sha256 != load_prices().sha256
    assert len(prices.sha256) == 64


@pytest.mark.parametrize("text", ["version = ", 'version = "1"\n', TABLE + "[operations.x]\nfixed = 1\n"])
def test_a_file_that_is_no_price_table_is_refused_by_name(tmp_path, text):
    path = tmp_path / "own.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"own\.toml is not a price table"):
        load_prices(path)


def test_the_rates_of_the_package_name_their_machine_and_version():
    prices = load_prices()
    assert prices.version
    assert prices.machine
    assert prices.usd_per_vcpu_hour > 0
    assert all(rate.fixed_ms > 0 for rate in prices.operations.values())
