"""Outcomes of a team, RouterBench and RouteLLM become the same table; every repair is a choice, and counted."""

import pickle

import polars as pl
import pytest

from tests.routing.routing_tables import planted
from workbench.errors import ConfigError, EvalsetError
from workbench.evalset.evalset import load_evalset
from workbench.evalset.imports.logs import Repairs, import_outcomes
from workbench.evalset.outcomes import load_outcomes

LONG = planted(40)


def card(folder):
    return (folder / "card.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_long_table_comes_through_every_format_unchanged(tmp_path, suffix):
    path = tmp_path / f"mine{suffix}"
    {".csv": LONG.write_csv, ".jsonl": LONG.write_ndjson, ".parquet": LONG.write_parquet}[suffix](path)
    outcomes = load_outcomes(import_outcomes(path, tmp_path / "out"))
    LONG.write_parquet(tmp_path / "direct.parquet")
    direct = load_outcomes(import_outcomes(tmp_path / "direct.parquet", tmp_path / "direct"))
    assert (outcomes.quality == direct.quality).all()
    assert outcomes.cost_usd == pytest.approx(direct.cost_usd, rel=1e-12)
    assert outcomes.requests.prompts == direct.requests.prompts


def test_routerbench_s_wide_shape_keeps_its_costs_and_its_tasks(tmp_path):
    wide = pl.DataFrame(
        {
            "sample_id": ["a", "b"], "prompt": ["x", "y"], "eval_name": ["mbpp", "arc"],
            "m1": [1.0, 0.0], "m2": [0.5, 1.0], "m1|total_cost": [0.2, 0.4], "m2|total_cost": [0.01, 0.03],
            "m1|model_response": ["s", "t"], "oracle_model_to_route_to": ["m1", "m2"],
        }
    )  # fmt: skip
    wide.write_csv(tmp_path / "wide.csv")
    outcomes = load_outcomes(import_outcomes(tmp_path / "wide.csv", tmp_path / "out"))
    assert outcomes.models == ("m2", "m1")
    assert outcomes.quality.tolist() == [[0.5, 1.0], [1.0, 0.0]]
    assert outcomes.cost_usd.tolist() == [[0.01, 0.2], [0.03, 0.4]]
    assert outcomes.requests.features == ("mbpp", "arc")


def test_routellm_s_wide_shape_needs_its_costs_declared(tmp_path):
    path = tmp_path / "gsm8k.csv"
    path.write_text('prompt,weak/model,gpt-4\n"How, many?",True,True\nWhy?,False,True\n', encoding="utf-8")
    with pytest.raises(EvalsetError, match="no cost is recorded for gpt-4, weak/model; declare"):
        import_outcomes(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    folder = import_outcomes(path, tmp_path / "out", repairs=Repairs(costs={"gpt-4": 10, "weak/model": 0.2}))
    outcomes = load_outcomes(folder)
    assert outcomes.models == ("weak/model", "gpt-4")
    assert outcomes.cost_usd[0].tolist() == [0.0002, 0.01]
    assert outcomes.quality.mean(0).tolist() == [0.5, 1.0]
    assert "declared, not recorded, USD per 1,000 requests: gpt-4 10, weak/model 0.2" in card(folder)


def test_pickle_is_refused_unread_with_the_reason(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was read",))

    (tmp_path / "x.pkl").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(EvalsetError, match=r"runs whatever code it holds.*to_parquet"):
        import_outcomes(tmp_path / "x.pkl", tmp_path / "out")


def test_prompts_that_a_model_missed_are_refused_or_dropped_and_counted(tmp_path):
    LONG.head(79).write_parquet(tmp_path / "x.parquet")
    with pytest.raises(EvalsetError, match="--drop-incomplete"):
        import_outcomes(tmp_path / "x.parquet", tmp_path / "out")
    folder = import_outcomes(tmp_path / "x.parquet", tmp_path / "out", repairs=Repairs(drop_incomplete=True))
    assert len(load_outcomes(folder)) == 39
    assert "1 prompts that some model did not answer were left out" in card(folder)


def test_two_texts_of_one_prompt_are_refused_or_the_common_one_is_taken(tmp_path):
    three = pl.concat([LONG, LONG.filter(pl.col("model") == "small").with_columns(model=pl.lit("tiny"))])
    odd = (pl.col("prompt_id") == "p00000") & (pl.col("model") == "tiny")
    three.with_columns(prompt=pl.when(odd).then(pl.lit("other")).otherwise("prompt")).write_csv(tmp_path / "x.csv")
    with pytest.raises(EvalsetError, match="--most-common-text"):
        import_outcomes(tmp_path / "x.csv", tmp_path / "out")
    folder = import_outcomes(tmp_path / "x.csv", tmp_path / "out", repairs=Repairs(texts="most_common"))
    assert "other" not in load_outcomes(folder).requests.prompts
    assert "1 prompt ids had a second text" in card(folder)


def test_rows_are_left_out_and_columns_renamed_as_asked(tmp_path):
    flagged = LONG.with_columns(seen=pl.col("prompt_id") < "p00010").rename({"quality": "mark"})
    flagged.write_parquet(tmp_path / "x.parquet")
    repairs = Repairs(rename={"mark": "quality"}, without={"seen": "true"})
    folder = import_outcomes(tmp_path / "x.parquet", tmp_path / "out", repairs=repairs)
    assert len(load_outcomes(folder)) == 30
    assert "20 rows with seen = true were left out" in card(folder)
    with pytest.raises(ConfigError, match="no column nothing"):
        import_outcomes(tmp_path / "x.parquet", tmp_path / "two", repairs=Repairs(rename={"nothing": "x"}))


def test_imported_folder_is_an_evalset_with_its_gate(tmp_path):
    from tests.evalset.small_evalset import settings_in

    settings = settings_in(tmp_path)
    LONG.write_parquet(tmp_path / "x.parquet")
    import_outcomes(tmp_path / "x.parquet", settings.evalsets / "mine")
    evalset = load_evalset("mine", settings=settings)
    assert evalset.policy("routing").metric == "correctness"
    assert not evalset.synthetic
    with pytest.raises(EvalsetError, match="exists already"):
        import_outcomes(tmp_path / "x.parquet", settings.evalsets / "mine")
