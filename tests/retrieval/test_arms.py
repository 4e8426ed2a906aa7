import ast
import json

import pytest

from workbench.errors import ConfigError
from workbench.inference.prices import load_prices
from workbench.records import parameters_of
from workbench.retrieval import chunking, strategies
from workbench.retrieval import index_kinds as indexing
from workbench.retrieval import rerank as reranking
from workbench.retrieval import tenant as filters
from workbench.retrieval.arms import CHUNKERS, FITTED, STRATEGIES, build_arm, make_arm, make_arms
from workbench.retrieval.notebook import RetrievalParameters
from workbench.retrieval.rerank import CrossEncoderRanker, LearnedRanker
from workbench.retrieval.strategies import Arm, Hybrid, Weighted

NAMES = {name: value for m in (chunking, filters, indexing, reranking, strategies) for name, value in vars(m).items()}
LANCE = [name for name in STRATEGIES if name != "vector_hnsw"]
FITTED_ARMS = [
    make_arm("tokens", "hybrid_weighted", Hybrid(fusion=Weighted(0.35)), embedder="minilm"),
    make_arm("whole", "reranked", LearnedRanker((0.1,) * 8, Hybrid(depth=50)), embedder="litellm:openai/x"),
]


@pytest.mark.parametrize("arm", [*make_arms(list(CHUNKERS), LANCE), *FITTED_ARMS], ids=lambda arm: arm.name)
def test_the_print_of_an_arm_evaluates_to_an_equal_arm(arm):
    rebuilt = eval(repr(arm), dict(NAMES))
    assert rebuilt == arm
    assert isinstance(rebuilt, Arm)
    assert len(repr(arm)) < 320, "it must be read in a table row"


@pytest.mark.parametrize(
    "arm", [*make_arms(["tokens"], [*LANCE, "cross_encoder:some/model"]), *FITTED_ARMS], ids=lambda arm: arm.name
)
def test_every_arm_is_built_again_from_what_a_decision_holds(arm):
    assert build_arm(json.loads(json.dumps(parameters_of(arm)))) == arm


def test_no_two_arms_of_the_grid_are_equal():
    arms = make_arms(list(CHUNKERS), LANCE)
    assert len({repr(arm).replace(repr(arm.name), "") for arm in arms}) == len(arms) == 27
    assert len({arm.name for arm in arms}) == len(arms)


def test_arms_come_in_the_order_of_the_strategies_because_that_breaks_ties_of_cost():
    arms = make_arms(["structure", "whole"], ["hybrid_rrf", "full_text"])
    names = ["structure · hybrid_rrf", "whole · hybrid_rrf", "structure · full_text", "whole · full_text"]
    assert [arm.name for arm in arms] == names


def test_another_embedder_is_part_of_the_name_where_it_is_used():
    arms = make_arms(["whole"], ["full_text", "vector"], embedders=["litellm:m"])
    assert [arm.name for arm in arms] == ["whole · full_text", "whole · litellm:m · vector"]


def test_every_embedder_has_its_vector_arms_full_text_stays_one_and_an_index_is_compared_once():
    names = ["full_text", "vector", "vector_hnsw_sq", "rescored:minilm"]
    arms = make_arms(["whole"], names, embedders=["minilm", "wordllama"])
    assert {arm.name: arm.embedders for arm in arms} == {
        "whole · full_text": ("minilm",),
        "whole · vector": ("minilm",),
        "whole · wordllama · vector": ("wordllama",),
        "whole · vector_hnsw_sq": ("minilm",),
        "whole · wordllama · rescored:minilm": ("wordllama", "minilm"),
    }
    prices = load_prices()
    cost = {arm.name: prices.cost_usd(arm.work(1_000_000)) for arm in arms}
    assert cost["whole · wordllama · vector"] < cost["whole · vector"] < cost["whole · wordllama · rescored:minilm"]


def test_every_store_has_the_arms_that_it_can_have_and_is_told_where_it_is_not_the_first():
    arms = make_arms(["whole"], ["full_text", "vector_ivf_pq", "vector_hnsw"], stores=["lance", "postgres"])
    assert [arm.name.removeprefix("whole · ") for arm in arms] == [
        "full_text",
        "full_text · postgres",
        "vector_ivf_pq",
        "vector_hnsw · postgres",
    ]
    assert [build_arm(parameters_of(arm)) for arm in arms] == arms
    rates = load_prices().rate_inputs(work for arm in arms for work in arm.work(0))
    assert [*rates] == ["rate full_text:postgres", "rate vector_hnsw:postgres"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"stores": ["postgress"]}, "unknown store 'postgress'; did you mean 'postgres'"),
        ({"stores": []}, "store names must be at least one"),
        ({"embedders": ["minilm", "minilm"]}, "embedder names must be at least one and all different"),
        ({"embedders": ["wordlama"]}, "unknown embedder 'wordlama'; did you mean 'wordllama'"),
        (
            {"stores": ["postgres"]},
            r"strategy 'vector_ivf_pq' needs an index that none of the stores \['postgres'\] has; add a store",
        ),
    ],
)
def test_an_embedder_or_a_store_that_cannot_be_used_is_refused(given, says):
    with pytest.raises(ConfigError, match=says):
        make_arms(["whole"], ["vector_ivf_pq"], **given)


def test_another_store_alone_says_which_strategies_to_give_with_it_and_takes_them():
    with pytest.raises(ConfigError, match="give strategies too, without vector_ivf_pq, ") as refused:
        RetrievalParameters(stores=("postgres",))
    told = ast.literal_eval(str(refused.value).partition("strategies=")[2])
    assert {"full_text", "vector"} <= set(told) < set(RetrievalParameters().strategies)
    assert RetrievalParameters(stores=("postgres",), strategies=tuple(told)).stores == ("postgres",)


def test_strategies_that_must_be_fitted_first_are_left_out():
    assert make_arms(["whole"], list(FITTED)) == []


def test_a_cross_encoder_is_named_by_its_model():
    (arm,) = make_arms(["whole"], ["cross_encoder:some/model"])
    assert arm.strategy == CrossEncoderRanker("some/model")


@pytest.mark.parametrize(
    ("chunkers", "names", "says"),
    [
        (["whole"], ["vektor"], "unknown strategy 'vektor'; did you mean 'vector'?"),
        (["hole"], ["vector"], "unknown chunker 'hole'; did you mean 'whole'?"),
        (["cross_encoder:m"], ["vector"], "unknown chunker 'cross_encoder:m'"),
        (["whole"], ["cross_encoder:"], "unknown strategy 'cross_encoder:'"),
        (["whole", "whole"], ["vector"], "chunker names must be at least one and all different"),
        (["whole"], [], "strategy names must be at least one"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused(chunkers, names, says):
    with pytest.raises(ConfigError, match=says.replace("?", r"\?")):
        make_arms(chunkers, names)


def test_every_strategy_of_the_grid_has_a_price():
    prices = load_prices()
    for arm in [*make_arms(["whole"], LANCE), FITTED_ARMS[0]]:
        assert prices.cost_usd(arm.work(1000)) > 0


def test_an_embedder_other_than_the_calibrated_one_has_a_price_of_its_own_or_none():
    """The rate of the local MiniLM must not pass for that of a provider's model."""
    (arm,) = make_arms(["whole"], ["vector"], embedders=["litellm:openai/text-embedding-3-small"])
    with pytest.raises(ConfigError, match="unknown operation 'embed_query:litellm:openai/text-embedding-3-small'"):
        load_prices().cost_usd(arm.work(1000))


@pytest.mark.parametrize(
    ("place", "change", "says"),
    [
        ("strategy", {"kind": "Hybird"}, "strategy: unknown kind 'Hybird'; did you mean 'Hybrid'?"),
        ("strategy", {"depht": 3}, "strategy: unknown field 'depht'; did you mean 'depth'?"),
        ("strategy", {"depth": "3"}, "strategy: depth must be a whole number, found '3'"),
        ("strategy", {"fusion": {"kind": "WholeDocument"}}, "strategy: fusion"),
        ("chunker", {"kind": "RRF", "k": 60}, "chunker must be an instance of Chunker, found RRF()"),
        ("text_index", {"kind": ""}, "text_index: unknown kind ''. Known: Arm, "),
        ("text_index", {"stem": 1}, "text_index: stem must be true or false, found 1"),
    ],
)
def test_an_arm_that_cannot_be_built_again_says_which_part_and_why(place, change, says):
    raw = json.loads(json.dumps(parameters_of(make_arms(["whole"], ["hybrid_rrf"])[0])))
    raw[place] |= change
    with pytest.raises(ConfigError) as raised:
        build_arm(raw)
    assert str(raised.value).startswith("the arm 'whole · hybrid_rrf' cannot be built again: ")
    assert says in str(raised.value)


def test_an_arm_with_a_filter_that_finds_nothing_is_not_built_again():
    raw = json.loads(json.dumps(parameters_of(make_arms(["whole"], ["hybrid_callables"])[0])))
    raw["strategy"]["where"]["values"] = []
    with pytest.raises(ConfigError, match=r"strategy: where: OneOf\('document_type', ...\) has no values"):
        build_arm(raw)
