"""What cannot be used of a table of outcomes is refused, with the place."""

import numpy as np
import polars as pl
import pytest

from tests.routing.routing_tables import planted
from workbench.errors import EvalsetError
from workbench.evalset.outcomes import load_outcomes, outcomes_of
from workbench.routing.curves import curve_folds

SMALL = planted(40)


def test_table_becomes_matrices_with_the_cheapest_model_first():
    outcomes = outcomes_of(SMALL)
    assert outcomes.models == ("small", "large")
    assert outcomes.quality.shape == (40, 2)
    one = SMALL.filter((pl.col("prompt_id") == outcomes.prompt_ids[7]) & (pl.col("model") == "large"))
    assert outcomes.quality[7, 1] == one["quality"][0]
    assert outcomes.cost_usd[7, 1] == one["cost_usd"][0]


def test_a_models_configurations_are_models_of_their_own():
    terse = SMALL.filter(pl.col("model") == "small").with_columns(config=pl.lit("terse"))
    both = pl.concat([SMALL.with_columns(config=pl.lit(None, pl.String)), terse])
    assert set(outcomes_of(both).models) == {"small", "small@terse", "large"}


REFUSED = {
    "a quality above 1": (SMALL.with_columns(quality=pl.lit(1.5)), "quality must be in [0, 1]"),
    "a quality that is missing": (SMALL.with_columns(quality=pl.lit(None, pl.Float64)), "quality must be in"),
    "a negative cost": (SMALL.with_columns(cost_usd=-pl.col("cost_usd")), "cost_usd must be 0 or more"),
    "an unknown cost": (SMALL.with_columns(cost_usd=pl.lit(None, pl.Float64)), "never taken for 0"),
    "a row that stands twice": (pl.concat([SMALL, SMALL.head(1)]), "the same prompt and model"),
    "a model without a prompt": (SMALL.head(79), "1 prompt is not answered by every model (large)"),
    "one model": (SMALL.filter(pl.col("model") == "small"), "at least two to choose from"),
    "two texts of one prompt": (
        SMALL.with_columns(prompt=pl.when(pl.int_range(pl.len()) == 0).then(pl.lit("other")).otherwise("prompt")),
        "1 prompt has two texts, first 'p00000'",
    ),
    "a prompt in two folds": (
        SMALL.with_columns(split=pl.when(pl.col("model") == "small").then(pl.lit("dev")).otherwise(pl.lit("test"))),
        "prompts have two splits",
    ),
    "a text in two folds": (
        SMALL.with_columns(
            prompt=pl.lit("the same"),
            split=pl.when(pl.col("prompt_id") < "p00020").then(pl.lit("dev")).otherwise(pl.lit("test")),
        ),
        "prompt texts are in dev and in test",
    ),
    "a cluster in two folds": (
        SMALL.with_columns(
            cluster=pl.lit("one"),
            split=pl.when(pl.col("prompt_id") < "p00020").then(pl.lit("dev")).otherwise(pl.lit("test")),
        ),
        "clusters are in dev and in test",
    ),
    "a text in two clusters": (
        SMALL.with_columns(prompt=pl.lit("the same"), cluster="prompt_id"),
        "prompt text is in two clusters",
    ),
    "a missing column": (SMALL.drop("cost_usd"), "no column cost_usd"),
    "no rows": (SMALL.clear(), "has no rows"),
    "another split": (SMALL.with_columns(split=pl.lit("train2")), "split must be dev (or train) or test"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused_with_its_place(case):
    table, says = REFUSED[case]
    with pytest.raises(EvalsetError) as caught:
        outcomes_of(table)
    assert says in str(caught.value)


def test_no_cluster_is_in_dev_and_test_nor_in_two_folds():
    table = SMALL.with_columns(cluster=pl.col("prompt_id").str.slice(0, 5))
    outcomes = outcomes_of(table)
    dev, test = outcomes.part("dev"), outcomes.part("test")
    assert len(dev)
    assert len(test)
    assert not set(dev.clusters) & set(test.clusters)
    clusters = np.array([f"c{i // 4}" for i in range(40)])
    folds = curve_folds(clusters)
    assert all(len(set(folds[clusters == c])) == 1 for c in set(clusters))
    assert set(folds) == set(range(5))


def test_prompts_of_the_same_text_share_a_cluster():
    table = SMALL.with_columns(prompt=pl.when(pl.col("prompt_id") < "p00010").then(pl.lit("same")).otherwise("prompt"))
    assert len(set(outcomes_of(table).clusters)) == 31


def test_train_serves_as_dev_where_the_table_names_it():
    split = pl.when(pl.col("prompt_id") < "p00020").then(pl.lit("train")).otherwise(pl.lit("test"))
    assert len(outcomes_of(SMALL.with_columns(split=split)).part("dev")) == 20


def test_folder_without_outcomes_says_how_to_make_them(tmp_path):
    with pytest.raises(EvalsetError, match="workbench import outcomes"):
        load_outcomes(tmp_path)
