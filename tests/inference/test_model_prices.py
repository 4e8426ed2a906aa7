"""Prices of models: exact, never 0 for what is not known, and equal to an independent calculation."""

import tomllib
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.errors import ConfigError, UnknownPrice
from workbench.inference import prices as module
from workbench.inference.local_models import CHAT_MODELS
from workbench.inference.messages import LOCAL, Usage
from workbench.inference.prices import TOKEN_CLASSES, load_prices, project_prices

PRICES = load_prices()
ROWS = tomllib.loads(Path(module.__file__).with_name("models.toml").read_text(encoding="utf-8"))["models"]
HOSTED = [name for name, row in ROWS.items() if "usd_per_mtok" in row]
KEYS = dict(
    zip(
        TOKEN_CLASSES,
        ("input_cost_per_token", "output_cost_per_token", "cache_read_input_token_cost",
         "cache_creation_input_token_cost", "cache_creation_input_token_cost_above_1hr"),
        strict=True,
    )
)  # fmt: skip
COUNTS = st.integers(0, 100_000)


def usages(model: str) -> st.SearchStrategy[Usage]:
    """Usage of the classes that the model has a price for."""
    known = [name for name in TOKEN_CLASSES[1:] if name in PRICES.models[model]]

    def build(counts: dict[str, int]) -> Usage:
        counts["cache_write"] = counts.get("cache_write", 0) + counts.get("cache_write_long", 0)
        return Usage(**counts)

    return st.fixed_dictionaries(dict.fromkeys(["fresh", *known], COUNTS)).map(build)


def litellm_usd(model: str, usage: Usage) -> float:
    import litellm
    from litellm.types.utils import CacheCreationTokenDetails, ModelResponse, PromptTokensDetailsWrapper
    from litellm.types.utils import Usage as Theirs

    written = CacheCreationTokenDetails(
        ephemeral_5m_input_tokens=usage.cache_write - usage.cache_write_long,
        ephemeral_1h_input_tokens=usage.cache_write_long,
    )
    counted = Theirs(
        prompt_tokens=usage.input,
        completion_tokens=usage.output,
        total_tokens=usage.input + usage.output,
        cache_read_input_tokens=usage.cache_read,
        cache_creation_input_tokens=usage.cache_write,
        prompt_tokens_details=PromptTokensDetailsWrapper(
            cached_tokens=usage.cache_read,
            cache_creation_tokens=usage.cache_write,
            cache_creation_token_details=written if usage.cache_write else None,
        ),
    )
    kind = "embedding" if "output" not in PRICES.models[model] else "completion"
    return litellm.completion_cost(ModelResponse(model=model, usage=counted), model=model, call_type=kind)


@pytest.mark.parametrize(
    ("model", "usage", "usd"),
    [
        ("anthropic/claude-sonnet-4-5", Usage.of_prompt(1000, 10, cache_read=600, cache_write=300), 0.001755),
        ("openai/gpt-5.4-mini", Usage.of_prompt(1000, 10, cache_read=800), 0.000255),
        ("gemini/gemini-3.8-flash", Usage.of_prompt(1000, 10, cache_read=800), 0.0002475),
        ("openai/text-embedding-3-small", Usage(fresh=7), 1.4e-7),
    ],
)
def test_cost_is_that_of_the_disjoint_classes_of_token(model, usage, usd):
    assert PRICES.cost_nanos(model, usage) == round(usd * 1e9)
    assert litellm_usd(model, usage) == pytest.approx(usd, rel=1e-12)


@pytest.mark.parametrize("model", HOSTED)
def test_cost_agrees_with_an_independent_calculation_over_all_classes(model):
    @given(usages(model))
    def agrees(usage):
        assert abs(PRICES.cost_nanos(model, usage) - 1e9 * litellm_usd(model, usage)) <= 1

    agrees()


@pytest.mark.parametrize("model", HOSTED)
def test_row_is_that_of_the_price_map_it_names(model):
    import litellm

    theirs = litellm.model_cost.get(model) or litellm.model_cost[model.partition("/")[2]]
    assert ROWS[model]["source"] == "litellm 1.106.2 price map"
    for name, key in KEYS.items():
        price, listed = PRICES.models[model].get(name), theirs.get(key) or None
        assert (price and float(price)) == (listed and pytest.approx(1e9 * listed, rel=1e-12)), name
    tiers = [key for key in theirs if "_above_" in key and not key.endswith("above_1hr")]
    assert not tiers, "a price that grows with the prompt is more than a row can say"


@pytest.mark.parametrize("model", HOSTED)
def test_the_price_of_a_sum_of_calls_is_the_sum_of_their_prices(model):
    """genai-prices 0.2.3 takes five calls of 60,000 tokens for one prompt of 300,000, at twice the price."""
    output = 500 if "output" in PRICES.models[model] else 0
    call, calls = Usage(fresh=60_000, output=output), Usage(fresh=300_000, output=5 * output)
    # each call is rounded up to whole nano-dollars
    assert 0 <= 5 * PRICES.cost_nanos(model, call) - PRICES.cost_nanos(model, calls) < 5


@pytest.mark.parametrize("name", CHAT_MODELS)
def test_local_models_cost_processor_time_at_the_declared_rate(name):
    declared = ROWS[LOCAL + name]["vcpu_ms_per_token"]
    usd_per_ms = Fraction(str(PRICES.usd_per_vcpu_hour)) / 3_600_000
    expected = (
        (1_000_000 * Fraction(str(declared["input"])) + 9 * Fraction(str(declared["output"]))) * usd_per_ms * 10**9
    )
    assert 0 <= PRICES.cost_nanos(LOCAL + name, Usage(fresh=1_000_000, output=9)) - expected < 1
    with pytest.raises(UnknownPrice, match="no price for cache_write tokens"):
        PRICES.cost_nanos(LOCAL + name, Usage(cache_write=1))


def test_what_was_read_from_a_cache_without_a_price_costs_as_much_as_other_input_and_what_was_written_is_a_doubt():
    model = "local/smollm2-135m"
    whole = PRICES.cost_nanos(model, Usage(fresh=1000, output=10))
    assert PRICES.cost_nanos(model, Usage(fresh=200, cache_read=800, output=10)) == whole
    with pytest.raises(UnknownPrice, match="no price for cache_write tokens"):
        PRICES.cost_nanos(model, Usage(fresh=200, cache_read=700, cache_write=100, output=10))


def test_loading_a_row_of_a_project_says_what_it_lacks_and_what_that_means(tmp_path, caplog):
    row = '[models."%s"]\nusd_per_mtok = { %s }\nsource = "a contract"\ndate = 2026-11-29\n'
    rows = [
        row % ("openai/two", "input = 1, output = 4"),
        row % ("openai/three", "input = 1, output = 4, cache_read = 1"),
    ]
    (tmp_path / "models.toml").write_text(
        'version = "2026-11-29"\n' + "\n".join([*rows, row % ("openai/e", "input = 1")])
    )
    prices = project_prices(tmp_path)
    assert prices.cost_nanos("openai/two", Usage(fresh=2, cache_read=8, output=1)) == 14_000
    said = [r.getMessage() for r in caplog.records if r.name == "workbench.inference.prices"]
    assert [line.partition(": ")[2] for line in said] == [
        "openai/two has no price for cache_read tokens, which cost as much as input; nor for cache_write, "
        "cache_write_long: an answer with such tokens is charged what was reserved for it",
        "openai/three has no price for cache_write, cache_write_long: an answer with such tokens is charged what was "
        "reserved for it",
        "openai/e has no price for output: it can embed, and answers nothing",
    ]


@pytest.mark.parametrize("model", PRICES.models)
def test_no_answer_costs_more_than_its_worst_case(model):
    @given(usages(model))
    def fits(usage):
        long = usage.cache_write_long > 0
        worst = PRICES.worst_nanos(model, input_tokens=usage.input, max_tokens=usage.output, keeps_long=long)
        assert PRICES.cost_nanos(model, usage) <= worst

    fits()


def test_the_worst_case_is_at_the_dearest_class_of_input():
    written = Usage(cache_write=1000, output=100)
    model = "anthropic/claude-sonnet-5-5"
    assert PRICES.worst_nanos(model, input_tokens=1000, max_tokens=100) == PRICES.cost_nanos(model, written)
    for_an_hour = Usage(cache_write=1000, output=100, cache_write_long=1000)
    assert PRICES.worst_nanos(model, input_tokens=1000, max_tokens=100, keeps_long=True) == PRICES.cost_nanos(
        model, for_an_hour
    )


def test_a_cache_of_an_hour_without_a_price_is_refused():
    with pytest.raises(UnknownPrice, match="no price for cache_write_long tokens"):
        PRICES.worst_nanos("openai/gpt-5.4-nano", input_tokens=1, max_tokens=1, keeps_long=True)


@pytest.mark.parametrize("usage", [Usage(), Usage(fresh=1)])
def test_an_unknown_model_is_an_error_and_never_free(usage):
    with pytest.raises(UnknownPrice, match=r"did you mean 'openai/gpt-5\.4-mini'") as raised:
        PRICES.cost_nanos("gpt-5.4-mini", usage)
    assert isinstance(raised.value, ConfigError)
    assert raised.value.model == "gpt-5.4-mini"
    assert "models.toml" in str(raised.value)
    with pytest.raises(UnknownPrice):
        PRICES.worst_nanos("gpt-5.4-mini", input_tokens=0, max_tokens=0)


def test_a_class_of_token_without_a_price_is_an_error_and_never_free():
    with pytest.raises(UnknownPrice, match="no price for output tokens, only for input"):
        PRICES.cost_nanos("openai/text-embedding-3-small", Usage(fresh=1, output=1))
    with pytest.raises(UnknownPrice, match="no price for output tokens"):
        PRICES.worst_nanos("openai/text-embedding-3-small", input_tokens=1, max_tokens=1)
    assert PRICES.worst_nanos("openai/text-embedding-3-small", input_tokens=3, max_tokens=0) == 60
    with pytest.raises(UnknownPrice, match="no price for cache_write tokens"):
        PRICES.cost_nanos("openai/gpt-5.4-nano", Usage(cache_write=1))
