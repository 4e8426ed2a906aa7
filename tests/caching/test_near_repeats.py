"""A stream without answer keys: near repeats go out as a blind sheet, and come back as pairs and answer keys."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from tests.evalset.small_evalset import settings_in
from workbench.caching.cache_claims import PairsServed, pair_families_needed, pairs_served_bounds
from workbench.caching.cache_study import CachingParameters
from workbench.caching.near_repeats import BANDS, NearPair, draw_near_repeats, near_negatives_told, near_repeats_worth
from workbench.caching.stream_replay import shadow_hits
from workbench.caching.threshold_certificate import certify_threshold, count_hits
from workbench.cli import app
from workbench.errors import EvalsetError
from workbench.evalset.gates import PairLimit
from workbench.evalset.imports.pairs_and_streams import import_pair_labels, import_stream, unordered_pair
from workbench.evalset.traffic import Pair, RequestStream, load_traffic_pairs, load_traffic_stream
from workbench.evaluation.compare import spent_confidence
from workbench.testing import HashEmbedder

ASKED = [
    "how do I join two frames", "How do  I join two frames", "how do I join two tables", "join two tables how do I",
    "sort rows by value", "sort all rows by value", "what is a frame", "sort rows by values",
]  # fmt: skip


@pytest.fixture
def mine(tmp_path):
    """Settings, with an evalset ``mine`` of requests that nobody has labelled."""
    settings = settings_in(tmp_path)
    pl.DataFrame({"query": ASKED, "tenant": ["a"] * len(ASKED)}).write_csv(tmp_path / "log.csv")
    import_stream(tmp_path / "log.csv", settings.evalsets / "mine")
    return settings


def drawn(settings, said=None, **given):
    tell = (said if said is not None else []).append
    parameters = CachingParameters(warmup=0)
    path = draw_near_repeats(
        settings.evalsets / "mine", settings, limit=given.pop("limit", 50), tell=tell, embedder=HashEmbedder(),
        parameters=parameters, **{"least": BANDS[-1], **given},
    )  # fmt: skip
    return path, [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path else []


def fill(path, found, /, name="", **labels):
    """Sheet with these labels by a word of the pair; what is not named stays empty."""
    filled = []
    for row in found:
        words = f"{row['query_a']} {row['query_b']}".split()
        given = [label for word, label in labels.items() if word in words]
        filled.append({**row, "same_answer": given[0] if given else None, "judge": name})
    out = path.with_name(f"{name}.jsonl") if name else path
    out.write_text("".join(json.dumps(row) + "\n" for row in filled), encoding="utf-8")
    return out


def test_a_stream_without_answer_keys_is_taken_by_its_words_and_that_is_told(tmp_path):
    (tmp_path / "log.csv").write_text("query\nWhy?\nwhy?\nhow\n", encoding="utf-8")
    said = []
    import_stream(tmp_path / "log.csv", tmp_path / "mine", tell=said.append)
    first, second, third = load_traffic_stream(tmp_path / "mine").answer_keys
    assert first == second != third
    assert any("no column answer_key: only the same words share" in line for line in said)
    assert any("workbench evalset pairs" in line for line in said)


def test_the_sheet_is_blind_and_holds_each_pair_once(mine):
    said = []
    _, rows = drawn(mine, said)
    assert {tuple(row) for row in rows} == {("id", "query_a", "query_b", "same_answer", "judge", "tenant_id")}
    assert {row["same_answer"] for row in rows} == {None}
    pairs = [frozenset((row["query_a"], row["query_b"])) for row in rows]
    assert len(pairs) == len(set(pairs)) == 4
    assert frozenset(("sort rows by value", "sort all rows by value")) in pairs
    assert not any(len({" ".join(text.lower().split()) for text in pair}) == 1 for pair in pairs), "the same words"
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows), "no order that tells"
    assert any(line.startswith("cosine from 0.95 up: 1 pair") for line in said)  # the same words in another order
    assert said[-4].startswith("no pair is worth labelling yet: 3 near repeats in the calibration part cannot give")
    assert said[-3].startswith("of 8 requests, 0 only fill the cache (--warmup,"), "why they are so few"


def test_every_band_gives_as_many_pairs_and_a_limit_of_cosine_is_kept(mine):
    near, few = drawn(mine)[1], drawn(mine, limit=2)[1]
    assert {row["id"] for row in few} < {row["id"] for row in near}
    assert len(few) == 2
    assert len(drawn(mine, least=BANDS[0])[1]) == 1


def test_labels_become_pairs_and_answer_keys_and_one_answer_of_two_is_one_of_all(mine):
    path, rows = drawn(mine)
    said, before = [], load_traffic_stream(mine.evalsets / "mine")
    changed = import_pair_labels([fill(path, rows, tables=1, rows=0)], "mine", settings=mine, tell=said.append)
    assert [p.name for p in changed] == ["pairs.jsonl", "stream.parquet"]
    stream, (pairs, _) = load_traffic_stream(mine.evalsets / "mine"), load_traffic_pairs(mine.evalsets / "mine")
    keys = stream.answer_keys
    assert keys[0] == keys[1] == keys[2] == keys[3]
    assert keys[4:] == before.answer_keys[4:]
    assert stream.clusters == keys
    assert [p.same_answer for p in pairs].count(True) == 2
    assert {p.kind for p in pairs} == {"near repeat"}
    assert {p.cluster for p in pairs if p.same_answer} == {keys[0]}
    families = {p.cluster: {q.split for q in pairs if q.cluster == p.cluster} for p in pairs}
    assert all(len(splits) == 1 for splits in families.values()), "a family is of one split"
    assert len({p.cluster for p in pairs if not p.same_answer}) == 1, "what is labelled together"
    assert said[0].startswith("2 pairs may share an answer: ")
    assert said[1].startswith("2 pairs must not share one; [caching] must_differ_limit")


def test_what_is_labelled_is_not_drawn_again_and_labels_are_never_overwritten(mine):
    path, rows = drawn(mine)
    fill(path, rows, tables=1)
    with pytest.raises(EvalsetError, match="holds labels that the evalset has not; import them"):
        drawn(mine)
    said = []
    import_pair_labels([path], "mine", settings=mine, tell=said.append, partly=True)
    assert said[0] == f"2 rows of {path} left aside, as not filled"
    assert said[-1].endswith("stays provisional; find some at a lower cosine: workbench evalset pairs mine --least 0.7")
    again, rest = drawn(mine)
    assert {row["id"] for row in rest} == {r["id"] for r in rows if "tables" not in f"{r['query_a']} {r['query_b']}"}
    import_pair_labels([fill(again, rest, rows=0)], "mine", settings=mine)
    assert drawn(mine) == (None, [])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"same_answer": None}, "same_answer is not filled"),
        ({"same_answer": "maybe"}, "must be 0 or 1"),
        ({"query_a": "who asked this?"}, "is no request of the stream"),
        ({"tenant_id": "b"}, "is no request of the stream, of tenant 'b'"),
    ],
)
def test_a_row_that_cannot_be_used_is_told_by_line_and_nothing_is_changed(mine, change, told):
    path, rows = drawn(mine)
    rows = [row | {"same_answer": 1} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in [rows[0], rows[1] | change]), encoding="utf-8")
    before = (mine.evalsets / "mine" / "stream.parquet").read_bytes()
    with pytest.raises(EvalsetError, match=told) as caught:
        import_pair_labels([path], "mine", settings=mine)
    assert [d.line for d in caught.value.defects] == [2]
    assert (mine.evalsets / "mine" / "stream.parquet").read_bytes() == before
    assert not (mine.evalsets / "mine" / "pairs.jsonl").exists()


def sheet(settings, *rows):
    path = settings.root / "sheet.csv"
    lines = (f"{a},{b},{same},a,{judge}\n" for a, b, same, judge in rows)
    path.write_text("query_a,query_b,same_answer,tenant_id,judge\n" + "".join(lines), encoding="utf-8")
    return path


def test_a_sheet_that_nobody_has_filled_changes_nothing(mine):
    path, rows = drawn(mine)
    stream = (mine.evalsets / "mine" / "stream.parquet").read_bytes()
    with pytest.raises(EvalsetError, match=r"no row of .* is filled: fill `same_answer`"):
        import_pair_labels([fill(path, rows)], "mine", settings=mine, partly=True)
    assert not (mine.evalsets / "mine" / "pairs.jsonl").exists()
    assert (mine.evalsets / "mine" / "stream.parquet").read_bytes() == stream


def test_labels_that_contradict_each_other_by_way_of_others_are_told_with_the_way(mine):
    one, two, three = ASKED[4], ASKED[5], ASKED[7]
    path = sheet(mine, (one, two, 1, "ann"), (two, three, 1, "ann"), (three, one, 0, "ann"))
    with pytest.raises(EvalsetError, match=r"(?s)sheet\.csv:4: .*by way of .*:3, .*:2 they do") as caught:
        import_pair_labels([path], "mine", settings=mine)
    assert len(caught.value.defects) == 1
    import_pair_labels([sheet(mine, (three, one, 0, "ann"))], "mine", settings=mine)
    with pytest.raises(EvalsetError, match=r"sheet\.csv:3: pair '\w+' says that two texts must not"):
        import_pair_labels([sheet(mine, (one, two, 1, "a"), (two, three, 1, "a"))], "mine", settings=mine)
    with pytest.raises(EvalsetError, match=r"sheet\.csv:2: .* are labelled otherwise already: pair"):
        import_pair_labels([sheet(mine, (one, three, 1, "ann"))], "mine", settings=mine)
    said: list[str] = []
    assert not import_pair_labels([sheet(mine, (one, three, 0, "ann"))], "mine", settings=mine, tell=said.append)
    assert said == ["1 pair is labelled so already, and left aside"]


def test_two_people_are_compared_and_given_answer_keys_are_not_changed(mine):
    one, two = ASKED[4], ASKED[5]
    said, path = [], sheet(mine, (one, two, 1, "ann"), (two, one, 0, "bob"))
    import_pair_labels([path], "mine", settings=mine, tell=said.append)
    assert said[0].startswith("two people judged 1 of 1 pair: the same grade 0 times (0 %), Cohen's kappa 0.00;")
    own = pl.DataFrame({"query": ["why", "how"], "intent": ["x", "y"]})
    own.write_csv(mine.root / "own.csv")
    import_stream(mine.root / "own.csv", mine.evalsets / "own")
    path.write_text("query_a,query_b,same_answer\nwhy,how,1\n", encoding="utf-8")
    with pytest.raises(EvalsetError, match="the answer keys of the stream were given"):
        import_pair_labels([path], "own", settings=mine)


def rephrased(families, each):
    """A stream of questions asked ``each`` times in slightly other words, with vectors of a plane for each family."""
    rng = np.random.default_rng(3)
    texts = [f"question {f} in way {i}" for i in range(each) for f in range(families)]
    vectors = np.zeros((len(texts), 2 * families), np.float32)
    for place in range(len(texts)):
        angle = rng.uniform(0, 0.3)
        vectors[place, 2 * (place % families)] = np.cos(angle)
        vectors[place, 2 * (place % families) + 1] = np.sin(angle)
    frame = pl.DataFrame({"pos": range(len(texts)), "query": texts, "answer_key": texts, "tenant_id": "t",
                          "cluster": texts})  # fmt: skip
    return RequestStream.of(frame), vectors


def test_labels_are_worth_it_from_the_cosine_from_which_a_certificate_would_be_given():
    stream, vectors = rephrased(150, 12)
    found = shadow_hits(stream, vectors)
    worth = near_repeats_worth(stream, found, (), 150, alpha=0.05, confidence=0.95)
    assert worth.least is not None
    assert 0.95 <= worth.least <= 0.99
    families = tuple(text.partition(" in ")[0] for text in stream.queries)
    codes = np.unique(families, return_inverse=True)[1]
    right = replace(stream, answers=codes.astype(np.int64), answer_keys=families, clusters=families)
    labelled = shadow_hits(right, vectors)
    scores, part = np.where(labelled.exact, -np.inf, labelled.similarity), slice(150, 150 + 825)
    counts = count_hits(scores[part], labelled.false[part], codes[part])
    assert certify_threshold(counts, 0.05, 0.95).certified, "what was promised if all are right"


def labelled(*bands, split="test", same=False):
    """Pairs of a family each, with their cosines: a number of them and where they lie."""
    cosines = np.array([cosine for n, cosine in bands for _ in range(n)])
    return [Pair(f"p{i}", f"a{i}", f"b{i}", same, cluster=f"f{i}", split=split) for i in range(len(cosines))], cosines


def test_bands_that_lack_pairs_that_must_differ_are_told_with_about_how_many():
    left = [NearPair("t", "a", f"b{i}", cosine, 1) for i, cosine in enumerate([0.89, 0.93, 0.97])]
    pairs, cosines = labelled((10, 0.97), (40, 0.85))
    told = near_negatives_told(pairs, cosines, left, 0.88, 30)  # bands of 10 families: .88 to .90, to .95, to 1
    assert told.startswith("label about 27 more pairs that must differ between cosine 0.88 and 0.95: "), "20 of 3 in 4"
    assert "needs 30 families of them in the test split where a threshold may lie, and has 10 families" in told
    assert told.endswith("; 2 pairs there have no label")
    more, nearer = labelled((10, 0.89), (10, 0.92), same=True)
    few, near = labelled((5, 0.89))
    told = near_negatives_told([*pairs, *more, *few], np.r_[cosines, nearer, near], left, 0.88, 30)
    assert told.startswith("label about 27 more"), (
        "families have one name in both, and are counted where they are nearest"
    )
    assert told.endswith("and 20 % of the labelled ones there must differ, so that it takes some 135")


def test_pairs_that_must_differ_are_enough_where_every_band_has_its_share_and_dev_is_another_matter():
    pairs, cosines = labelled((10, 0.97), (10, 0.92), (10, 0.89))
    assert near_negatives_told(pairs, cosines, [], 0.88, 30).startswith(
        "pairs that must differ are enough: 30 families"
    )
    of_dev = [replace(pair, split="dev") for pair in pairs]
    assert "about 40 more pairs that must differ between cosine 0.88 and 1.00" in near_negatives_told(
        of_dev, cosines, [], 0.88, 30
    )
    one = [replace(pair, cluster="the same") for pair in pairs]
    assert "and has 1 family" in near_negatives_told(one, cosines, [], 0.88, 30)


@pytest.mark.parametrize("share", [0.02, 0.1])
def test_families_that_are_asked_for_are_those_with_which_the_claim_is_made(share):
    limit, confidence = PairLimit(share=share), spent_confidence(0.95, 1)
    n = pair_families_needed(limit, confidence)

    def status(n):
        pairs, _ = labelled((n, 0.9))
        found = pairs_served_bounds(np.zeros(n, bool), np.ones(n, bool), pairs, confidence)
        return PairsServed(0, n, found.low, found.high).status(limit)

    assert (status(n), status(n - 1)) == (None, "inconclusive")


def test_the_sheet_says_where_pairs_that_must_differ_are_lacking(mine):
    said = []
    path, rows = drawn(mine, said)
    of_each_band = -(-30 // len(BANDS))  # and three families in four are of test
    more = -(-of_each_band * len(BANDS) * 4 // 3)
    assert said[-1].startswith(f"label about {more} more pairs that must differ between cosine 0.50 and 1.00: ")
    import_pair_labels([fill(path, rows, tables=0, rows=0)], "mine", settings=mine)
    assert drawn(mine, said) == (None, [])
    assert said[-2].endswith("there is nothing to label")
    assert "of the labelled ones there must differ" in said[-1]


def test_labels_are_not_worth_it_where_no_certificate_is_in_reach():
    stream, vectors = rephrased(20, 12)
    few = near_repeats_worth(stream, shadow_hits(stream, vectors), (), 20, alpha=0.05, confidence=0.95)
    assert few.least is None
    assert "20 clusters with a hit, a claim needs at least 30" in few.note
    stream, vectors = rephrased(150, 12)
    found = shadow_hits(stream, vectors)
    differ = {
        unordered_pair("t", stream.queries[m], text) for text, m in zip(stream.queries, found.matched, strict=True)
    }
    assert near_repeats_worth(stream, found, differ, 150, alpha=0.05, confidence=0.95).least is None, (
        "all are known to be wrong"
    )
    assert near_repeats_worth(stream, found, (), 5000, alpha=0.05, confidence=0.95).least is None, (
        "nothing after the warm-up"
    )


def test_without_a_certificate_in_reach_nothing_is_drawn_unless_it_is_asked_for(mine):
    said = []
    assert drawn(mine, said, least=None) == (None, [])
    assert said[-1].endswith("pairs for another reason: workbench evalset pairs mine --least 0.9")


def test_the_commands_say_what_comes_next(mine, monkeypatch):
    monkeypatch.setenv("WORKBENCH_ROOT", str(mine.root))
    path, rows = drawn(mine)
    done = CliRunner().invoke(app, ["import", "judgements", str(fill(path, rows, tables=1, rows=0)), "--name", "mine"])
    assert done.exit_code == 0, done.output
    assert done.output.rstrip().endswith("next: workbench run caching --evalset mine")
    refused = CliRunner().invoke(app, ["evalset", "pairs", "none"])
    assert refused.exit_code == 3
    assert "none" in refused.output
