"""Outcomes of a team, RouterBench and RouteLLM become the same table; every repair is a choice, and counted."""

import json
import pickle

import polars as pl
import pytest

from tests.routing.routing_tables import planted
from workbench.errors import ConfigError, EvalsetError
from workbench.evalset.evalset import load_evalset
from workbench.evalset.imports.outcome_tables import OutcomeRepairs, import_outcomes
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


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_fraction_and_a_key_that_come_after_many_rows_are_kept(tmp_path, suffix):
    """polars 2.1.0 looks at 100 rows of dicts: of those after them it drops the fractions, and keys that are new."""
    rows = [
        {"prompt_id": f"p{i}", "prompt": f"question {i}", "model": model, "quality": 1, "cost_usd": 1}
        for i in range(150)
        for model in ("small", "large")
    ]
    rows[-2]["feature"] = "search"
    rows[-1] |= {"quality": 0.5, "cost_usd": 0.25, "feature": "search"}
    path = tmp_path / f"mine{suffix}"
    whole = pl.DataFrame(rows, infer_schema_length=None)
    path.write_text("\n".join(map(json.dumps, rows)) if suffix == ".jsonl" else whole.write_csv(), encoding="utf-8")
    stored = pl.read_parquet(import_outcomes(path, tmp_path / "out") / "outcomes.parquet")
    last = stored.filter(pl.col("prompt_id") == "p149", pl.col("model") == "large").row(0, named=True)
    assert (last["quality"], last["cost_usd"], last["feature"]) == (0.5, 0.25, "search")


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
    says = r"no cost is recorded for gpt-4, weak/model \(of 4 calls, first on line 2\); declare"
    with pytest.raises(EvalsetError, match=says):
        import_outcomes(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    folder = import_outcomes(path, tmp_path / "out", repairs=OutcomeRepairs(costs={"gpt-4": 10, "weak/model": 0.2}))
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
    folder = import_outcomes(tmp_path / "x.parquet", tmp_path / "out", repairs=OutcomeRepairs(drop_incomplete=True))
    assert len(load_outcomes(folder)) == 39
    assert "left out: 1 prompt that some model did not answer" in card(folder)


def test_two_texts_of_one_prompt_are_refused_or_the_common_one_is_taken(tmp_path):
    three = pl.concat([LONG, LONG.filter(pl.col("model") == "small").with_columns(model=pl.lit("tiny"))])
    odd = (pl.col("prompt_id") == "p00000") & (pl.col("model") == "tiny")
    three.with_columns(prompt=pl.when(odd).then(pl.lit("other")).otherwise("prompt")).write_csv(tmp_path / "x.csv")
    with pytest.raises(EvalsetError, match="--most-common-text"):
        import_outcomes(tmp_path / "x.csv", tmp_path / "out")
    folder = import_outcomes(tmp_path / "x.csv", tmp_path / "out", repairs=OutcomeRepairs(texts="most_common"))
    assert "other" not in load_outcomes(folder).requests.prompts
    assert "1 prompt id had a second text" in card(folder)


def test_rows_are_left_out_and_columns_renamed_as_asked(tmp_path):
    flagged = LONG.with_columns(seen=pl.col("prompt_id") < "p00010").rename({"quality": "mark"})
    flagged.write_parquet(tmp_path / "x.parquet")
    repairs = OutcomeRepairs(rename={"mark": "quality"}, without={"seen": "true"})
    folder = import_outcomes(tmp_path / "x.parquet", tmp_path / "out", repairs=repairs)
    assert len(load_outcomes(folder)) == 30
    assert "left out: 20 rows with seen = true" in card(folder)
    with pytest.raises(ConfigError, match="no column nothing"):
        import_outcomes(tmp_path / "x.parquet", tmp_path / "two", repairs=OutcomeRepairs(rename={"nothing": "x"}))


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


def wide(folder, text, name="wide.csv", **repairs):
    """Import a wide CSV of this text; gives the outcomes and what was said."""
    (folder / name).write_text(text, encoding="utf-8")
    said = []
    out = import_outcomes(folder / name, folder / "out", repairs=OutcomeRepairs(**repairs), tell=said.append)
    return load_outcomes(out), "\n".join(said)


def refused(folder, text, kind=EvalsetError, name="wide.csv", **repairs):
    (folder / name).write_text(text, encoding="utf-8")
    with pytest.raises(kind) as caught:
        import_outcomes(folder / name, folder / "out", repairs=OutcomeRepairs(**repairs))
    assert not (folder / "out").exists()
    return str(caught.value)


def rows_of(n, cell="1", at=3):
    """A wide table of three models; the third of row ``at`` holds ``cell``."""
    lines = [f"question {i},{i % 2},{1 - i % 2},{cell if i == at else 1}" for i in range(n)]
    return "\n".join(["prompt,strong,weak,medium", *lines]) + "\n"


COSTS = {"strong": 10, "weak": 1, "medium": 3}


@pytest.mark.parametrize("cell", ["", "nan", "NaN", "null", "N/A"])
def test_a_model_does_not_vanish_for_one_cell_without_a_value(tmp_path, cell):
    said = refused(tmp_path, rows_of(8, cell), costs=COSTS)
    assert "wide.csv:5: quality is missing: prompt 'question 3', model 'medium'" in said
    assert "--drop-incomplete" in said
    outcomes, told = wide(tmp_path, rows_of(8, cell), costs=COSTS, drop_incomplete=True)
    assert set(outcomes.models) == set(COSTS)
    assert len(outcomes) == 7
    assert "left out: 1 prompt that some model did not answer" in told


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("1.2", "medium must be in [0, 1], found '1.2'"),
        ("-1", "medium must be in [0, 1], found '-1'"),
        ("error", "medium 'error' is no number"),
        ("100 %", "medium '100 %' is no number; write 1"),
        ("PASS", "medium 'PASS' is no number; write 1"),
        ("I", "medium 'I' is no number; write 0"),
        ('"0,5"', "medium '0,5' is no number; write 0.5"),
    ],
)
@pytest.mark.parametrize("drop", [False, True])
def test_a_model_does_not_vanish_for_one_cell_of_another_kind(tmp_path, cell, says, drop):
    assert f"wide.csv:5: {says}" in refused(tmp_path, rows_of(8, cell), costs=COSTS, drop_incomplete=drop)


FLAGS = "prompt,strong,weak,is_multiturn,difficulty\n" + "".join(
    f"question {i},{i % 2 == 0},{i % 3 == 0},{i % 2 == 0},0.{i}\n" for i in range(8)
)


def test_flags_are_no_models_and_the_models_can_be_named(tmp_path):
    costs = {"strong": 10, "weak": 1}
    said = refused(tmp_path, FLAGS, costs=costs)
    assert "difficulty, is_multiturn" in said
    assert "--models A,B" in said
    outcomes, told = wide(tmp_path, FLAGS, costs=costs, models=["strong", "weak"])
    assert outcomes.models == ("weak", "strong")
    assert "2 models, strong, weak (named by --models)" in told
    assert "left out: is_multiturn, difficulty" in told


def test_a_cost_or_a_model_of_no_column_is_refused(tmp_path):
    said = refused(tmp_path, FLAGS, ConfigError, costs={"strong": 1, "weakk": 1}, models=["strong", "weak"])
    assert "--cost: unknown model 'weakk'; did you mean 'weak'?" in said
    assert "unknown column 'strnog'; did you mean 'strong'?" in refused(tmp_path, FLAGS, ConfigError, models=["strnog"])


def test_the_column_that_rows_were_left_out_by_is_no_model(tmp_path):
    costs, flags = {"strong": 10, "weak": 1}, FLAGS.replace(",difficulty", ",seen").replace(",0.", ",0.0")
    outcomes, told = wide(tmp_path, flags, costs=costs, models=["strong", "weak"], without={"is_multiturn": "true"})
    assert len(outcomes) == 4
    assert "left out: 4 rows with is_multiturn = true" in told
    text = "prompt,a,b,seen\n" + "".join(f"p{i},1,0,{'' if i else 1}\n" for i in range(8))
    (tmp_path / "two").mkdir()
    outcomes, _ = wide(tmp_path / "two", text, costs={"a": 1, "b": 2}, without={"seen": "1.0"})
    assert outcomes.models == ("a", "b")
    assert len(outcomes) == 7, "rows that do not say are kept"
    text = "prompt,a,b,seen\n" + "".join(f"p{i},1,0,{i % 2 == 0}\n" for i in range(8))
    (tmp_path / "three").mkdir()
    outcomes, _ = wide(tmp_path / "three", text, costs={"a": 1, "b": 2}, without={"seen": "true"})
    assert (outcomes.models, len(outcomes)) == (("a", "b"), 4), "what is left of it reads like right and wrong"


@pytest.mark.parametrize("joint", ["|total_cost", "_cost", "_cost_usd", " cost", ".cost", ":total_cost", "-cost"])
def test_a_cost_beside_a_model_is_its_cost_and_no_model(tmp_path, joint):
    lines = [f"p{i},{i % 2},0.01,1,0.2,0.5" for i in range(6)]
    text = "\n".join([f"prompt,gpt-5.5,gpt-5.5{joint},m2,m2{joint},difficulty", *lines]) + "\n"
    outcomes, told = wide(tmp_path, text)
    assert outcomes.models == ("gpt-5.5", "m2")
    assert outcomes.cost_usd[0].tolist() == [0.01, 0.2]
    assert "they have a cost beside them" in told
    assert "left out: difficulty" in told


def test_quality_latency_and_tokens_of_a_wide_table_are_found_by_their_names(tmp_path):
    names = ["quality", "cost_usd", "latency_s", "tokens_in", "latency"]
    header = ",".join(["prompt", *(f"{m}_{n}" for m in ("a", "b") for n in names)])
    lines = [f"p{i},{i % 2},0.1,1.5,10,3,1,0.2,0.5,20,3" for i in range(6)]
    outcomes, told = wide(tmp_path, "\n".join([header, *lines]) + "\n")
    assert outcomes.models == ("a", "b")
    assert outcomes.latency_ms[0].tolist() == [1500.0, 500.0]
    assert "a_latency: seconds or milliseconds? --rename a_latency=a_latency_ms, or a_latency_s" in told


def long(**columns):
    """A long CSV of four prompts and two models."""
    rows = [
        {"prompt_id": f"p{i}", "prompt": f"question {i}", "model": m, "quality": (i + j) % 2, "cost_usd": usd}
        for i in range(4)
        for j, (m, usd) in enumerate((("small", 0.01), ("large", 0.02)))
    ]  # fmt: skip
    frame = pl.DataFrame(rows).with_columns(pl.col("quality", "cost_usd").cast(pl.String))
    return frame.with_columns(**columns)


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("cost_usd", "$0.001", "cost_usd '$0.001' is no number; write 0.001"),
        ("cost_usd", "0,001", "cost_usd '0,001' is no number; write 0.001"),
        ("cost_usd", "-1", "cost_usd must be 0 or more, found '-1'"),
        ("quality", "C", "quality 'C' is no number; write 1"),
        ("quality", "100 %", "quality '100 %' is no number; write 1"),
        ("quality", "85", "quality must be in [0, 1], found '85'"),
        ("latency_ms", "1.2s", "latency_ms '1.2s' is no number; write the number alone"),
        ("confidence", "1.5", "confidence must be in [0, 1], found '1.5'"),
        ("tokens_in", "1.5", '"tokens_in" must be a whole number from 0'),
        ("prompt", "", "prompt is empty"),
        ("model", "", "model is empty"),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_what_is_found_and_what_to_write_is_told_with_the_line(tmp_path, column, value, says, suffix):
    odd = pl.when(pl.int_range(pl.len()) == 5).then(pl.lit(value))
    frame = long(**{column: odd.otherwise(column if column in long().columns else pl.lit("1"))})
    path = tmp_path / f"x{suffix}"
    {".csv": frame.write_csv, ".jsonl": frame.write_ndjson, ".parquet": frame.write_parquet}[suffix](path)
    with pytest.raises(EvalsetError) as caught:
        import_outcomes(path, tmp_path / "out")
    assert [d.line for d in caught.value.defects] == [7 if suffix == ".csv" else 6]
    assert says in str(caught.value)
    assert "no cost is recorded" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_nan_is_missing_for_quality_and_cost_in_every_format(tmp_path, suffix):
    nan = pl.when(pl.int_range(pl.len()) == 2).then(float("nan"))
    frame = long().with_columns(
        quality=nan.otherwise(pl.col("quality").cast(pl.Float64)),
        cost_usd=pl.when(pl.col("model") == "small").then(float("nan")).otherwise(0.02),
    )
    path = tmp_path / f"x{suffix}"
    if suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in frame.to_dicts()))
        assert "NaN" in path.read_text()
    else:
        {".csv": frame.write_csv, ".parquet": frame.write_parquet}[suffix](path)
    with pytest.raises(EvalsetError, match=rf"x\{suffix}:{4 if suffix == '.csv' else 3}: quality is missing"):
        import_outcomes(path, tmp_path / "out", repairs=OutcomeRepairs(costs={"small": 1}))
    with pytest.raises(EvalsetError, match=r"no cost is recorded for small \(of 3 calls"):
        import_outcomes(path, tmp_path / "out", repairs=OutcomeRepairs(drop_incomplete=True))
    done = import_outcomes(path, tmp_path / "out", repairs=OutcomeRepairs(drop_incomplete=True, costs={"small": 1}))
    outcomes = load_outcomes(done)
    assert len(outcomes) == 3
    assert outcomes.cost_usd[0].tolist() == [0.001, 0.02]


def test_ids_of_calls_are_told_from_ids_of_prompts(tmp_path):
    frame = long().with_columns(id=pl.format("call-{}", pl.int_range(pl.len()))).drop("prompt_id")
    frame.write_csv(tmp_path / "x.csv")
    with pytest.raises(EvalsetError, match=r"column 'id' are all different.*--rename id=call_id"):
        import_outcomes(tmp_path / "x.csv", tmp_path / "out")
    outcomes = load_outcomes(
        import_outcomes(tmp_path / "x.csv", tmp_path / "out", repairs=OutcomeRepairs({"id": "call_id"}))
    )
    assert len(outcomes) == 4
    frame.rename({"id": "prompt_id"}).write_csv(tmp_path / "y.csv")
    with pytest.raises(EvalsetError, match=r"column 'prompt_id' are all different"):
        import_outcomes(tmp_path / "y.csv", tmp_path / "two")


@pytest.mark.parametrize("column", [None, "repeat", "epoch"])
def test_several_answers_of_every_prompt_are_repeats_and_no_items(tmp_path, column):
    twice = pl.concat([long(), long().with_columns(quality=pl.lit("1"))])
    if column:
        twice = twice.with_columns(pl.int_range(pl.len()).over("prompt_id", "model").alias(column))
    twice.write_csv(tmp_path / "x.csv")
    said = []
    done = import_outcomes(tmp_path / "x.csv", tmp_path / "out", tell=said.append)
    stored = pl.read_parquet(done / "outcomes.parquet")
    assert sorted(stored["repeat"].to_list()) == [0] * 8 + [1] * 8
    outcomes = load_outcomes(done)
    assert outcomes.quality.tolist() == [[0.5, 1.0], [1.0, 0.5]] * 2
    assert "its repeats are averaged" in outcomes.notes[0]


def test_one_row_that_stands_twice_is_no_repeat(tmp_path):
    pl.concat([long(), long().head(1)]).write_csv(tmp_path / "x.csv")
    with pytest.raises(EvalsetError, match="give a column `repeat`") as caught:
        import_outcomes(tmp_path / "x.csv", tmp_path / "out")
    assert [d.line for d in caught.value.defects] == [2, 10]
    with_epochs = pl.concat([long(), long().head(1)]).with_columns(epoch=1)
    with_epochs.write_csv(tmp_path / "x.csv")
    with pytest.raises(EvalsetError, match="the same prompt and model stand in another row"):
        import_outcomes(tmp_path / "x.csv", tmp_path / "out")


LM_EVAL = {
    "doc_id": 0, "doc": {"question": "q", "n": 1}, "target": "4", "arguments": {"gen_args_0": {"arg_0": "q"}},
    "resps": [["4"]], "filtered_resps": ["4"], "filter": "none", "metrics": ["acc"], "doc_hash": "h", "acc": 1.0,
}  # fmt: skip
PROMPTFOO = {
    "promptIdx": 0, "testIdx": 0, "provider": {"id": "openai:gpt", "label": ""}, "prompt": {"raw": "q 0", "label": "l"},
    "vars": {"x": 1}, "response": {"output": "a", "cached": False}, "success": True, "score": 1, "latencyMs": 12,
    "cost": 0.01, "namedScores": {},
}  # fmt: skip


def test_lines_of_lm_eval_say_what_they_lack(tmp_path):
    other = {**LM_EVAL, "doc": {"question": 3}, "target": 4, "resps": [[["-1.0", "False"]]], "acc": float("nan")}
    text = "".join(json.dumps(row) + "\n" for row in (LM_EVAL, other))
    assert "samples of lm-eval" in refused(tmp_path, text, name="samples.jsonl")


def test_lines_of_promptfoo_say_what_they_lack_and_can_be_named(tmp_path):
    rows = [
        {**PROMPTFOO, "prompt": {"raw": f"q {i}"}, "provider": {"id": m}, "score": (i + j) % 2}
        for i in range(3)
        for j, m in enumerate(("a", "b"))
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    said = refused(tmp_path, text, name="out.jsonl")
    assert "column 'score' for the quality of a call and no column `model`" in said
    assert "provider.id" in said
    said = refused(tmp_path, text, name="out.jsonl", rename={"provider.id": "model"})
    assert 'out.jsonl:1: "prompt" must be a text, found an object that has the fields raw' in said
    (tmp_path / "out.jsonl").write_text(text)
    rename = {"provider.id": "model", "prompt.raw": "prompt"}
    outcomes = load_outcomes(
        import_outcomes(tmp_path / "out.jsonl", tmp_path / "ok", repairs=OutcomeRepairs(rename=rename))
    )
    assert (outcomes.models, len(outcomes)) == (("a", "b"), 3)
    assert outcomes.latency_ms[0].tolist() == [12.0, 12.0]


def test_a_price_that_was_not_needed_is_told(tmp_path):
    long().write_csv(tmp_path / "x.csv")
    said = []
    import_outcomes(tmp_path / "x.csv", tmp_path / "out", repairs=OutcomeRepairs(costs={"small": 1}), tell=said.append)
    assert "--cost of small was not needed: each of its calls has a recorded cost" in said
