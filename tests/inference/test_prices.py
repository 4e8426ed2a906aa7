from decimal import Decimal
from pathlib import Path

import pytest

from workbench.errors import ConfigError
from workbench.inference import prices as module
from workbench.inference.prices import Rate, Work, load_prices, nanos, project_prices

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


def test_a_file_that_was_edited_is_read_anew(tmp_path, prices):
    file = tmp_path / "prices.toml"
    file.write_text(file.read_text().replace("usd_per_vcpu_hour", "# before\nusd_per_vcpu_hour"))
    assert load_prices(file).sha256 != prices.sha256
    assert load_prices(file) is load_prices(file)


def test_another_table_is_another_input(prices):
    assert prices.sha256 != load_prices().sha256
    assert len(prices.sha256) == 64


@pytest.mark.parametrize("text", ["version = ", 'version = "1"\n', TABLE + "[operations.x]\nfixed = 1\n"])
def test_a_file_that_is_no_price_table_is_refused_by_name(tmp_path, text):
    path = tmp_path / "own.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"own\.toml is not a price table"):
        load_prices(path)


@pytest.mark.parametrize("value", ['"x"', "nan", "inf", "-2.0", "true", "1e12"])
@pytest.mark.parametrize("what", ["usd_per_vcpu_hour = 3.6", "fixed_ms = 2.0", "usd = 0.000002"])
def test_a_rate_that_is_no_amount_is_refused_with_its_name(tmp_path, what, value):
    path, name = tmp_path / "own.toml", what.split()[0]
    path.write_text(TABLE.replace(what, f"{name} = {value}"), encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"own\.toml is not a price table: {name}.* is a number"):
        load_prices(path)


def test_a_file_that_is_no_text_is_refused_by_name(tmp_path):
    (path := tmp_path / "models.toml").write_bytes(b"[models.x]\n\xe4")
    with pytest.raises(ConfigError, match=r"models\.toml is not a price table: not UTF-8 at byte 11"):
        project_prices(tmp_path)
    path.unlink()
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_prices(path)


def test_a_model_whose_name_steers_a_terminal_is_told_escaped(tmp_path, caplog):
    (tmp_path / "models.toml").write_text(MODELS.replace("mine/m", "\\u001b[31m\\r\\nforged"), encoding="utf-8")
    project_prices(tmp_path)
    (told,) = caplog.messages
    assert "forged" in told
    assert not set("\x1b\r\n") & set(told)


def test_the_rates_of_the_package_name_their_machine_and_version():
    prices = load_prices()
    assert prices.version
    assert prices.machine
    assert prices.usd_per_vcpu_hour > 0
    assert all(rate.fixed_ms > 0 for rate in prices.operations.values())


MODELS = """version = "2026-02-01"
[models."mine/m"]
usd_per_mtok = { input = 0.0005, output = 2 }
source = "contract"
date = 2026-02-01
"""


def test_a_project_adds_models_without_touching_what_decisions_rest_on(tmp_path):
    (tmp_path / "models.toml").write_text(MODELS, encoding="utf-8")
    own, ours = project_prices(tmp_path), load_prices()
    assert own.models.keys() - ours.models.keys() == {"mine/m"}
    assert own.models.items() > ours.models.items()
    assert own.sha256 == ours.sha256
    assert own.models_sha256 != ours.models_sha256
    assert own.version != ours.version


def test_the_version_changes_whenever_anything_does(tmp_path):
    versions = {load_prices().version}
    for name, text in {
        "rate": TABLE,
        "hour": TABLE.replace("3.6", "3.7"),
        "models": MODELS,
        "price": MODELS.replace("= 2 }", "= 3 }"),
        "source": MODELS.replace("contract", "invoice"),
    }.items():
        file = tmp_path / f"{name}.toml"
        file.write_text(text, encoding="utf-8")
        versions.add((load_prices(file) if "[operations" in text else load_prices(None, file)).version)
    assert len(versions) == 6
    assert all(version.startswith("2026-") and "+" in version for version in versions)


@pytest.mark.parametrize(
    "broken",
    [
        MODELS.replace('source = "contract"', ""),
        MODELS.replace("input = 0.0005", "input = -1"),
        MODELS.replace("input = 0.0005", "input = nan"),
        MODELS.replace("input = 0.0005", "inputs = 1"),
        MODELS.replace("input = 0.0005, ", ""),
        MODELS.replace("usd_per_mtok", "usd_per_token"),
        MODELS.replace("date", "vcpu_ms_per_token = { input = 1 }\ndate"),
        MODELS.replace("version", "versions"),
        MODELS.replace("{ input = 0.0005, output = 2 }", "3"),
        MODELS.replace("{ input = 0.0005, output = 2 }", '"input"'),
        MODELS.replace("input = 0.0005", "input = true"),
        MODELS.replace("input = 0.0005", "input = 1e400"),
        MODELS.replace("input = 0.0005", "input = 1e99999999"),  # made exact, it would fill the memory
        MODELS.replace("input = 0.0005", "input = 1e-99999999"),
        MODELS + "a = " + "[" * 5000 + "]" * 5000,
    ],
    ids=range(15),
)
def test_prices_of_models_that_cannot_be_read_are_refused_by_name(tmp_path, broken):
    (tmp_path / "models.toml").write_text(broken, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"models\.toml is not a price table"):
        project_prices(tmp_path)


def test_the_calibration_writes_rates_and_leaves_models_alone():
    rates = Path(module.__file__).with_name("prices.toml").read_text(encoding="utf-8")
    assert "[models" not in rates  # the file is written anew by each calibration


@pytest.mark.parametrize(
    ("usd", "expected"),
    [(0, 0), (1, 10**9), (0.1 + 0.2, 300_000_001), (1e-10, 1), (0.00032, 320_000), (Decimal("1e-9"), 1), (1e6, 10**15)],
)
def test_dollars_become_whole_nano_dollars_rounded_up(usd, expected):
    assert nanos(usd) == expected


@pytest.mark.parametrize("usd", [-1e-12, float("nan"), float("inf"), float("-inf")])
def test_what_is_no_amount_of_money_is_refused(usd):
    with pytest.raises(ValueError, match=r"negative|Invalid literal"):
        nanos(usd)
