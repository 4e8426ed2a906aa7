import numpy as np
import pytest

from tests.retrieval.stores import KINDS, open_kind, pgvector_url
from workbench.errors import ConfigError
from workbench.retrieval import scale as scale_measure
from workbench.retrieval.postgres_server import server_memory_mb
from workbench.retrieval.scale import (
    COMMITTED,
    DIMENSION,
    FULL_TEXT,
    Scale,
    ScalePoint,
    Until,
    measure_scale,
    scale_figure,
    synthetic_texts,
    synthetic_vectors,
)


def scale(*exact_p95: float, store: str = "postgres", words_ms: float = 0.5, recall: float = 0.9) -> Scale:
    """Exact search at 1,000, 10,000 ... rows, words that are always quick, and an index that finds too little."""
    points = []
    for i, p95 in enumerate(exact_p95, 3):
        points += [
            ScalePoint("exact", 10**i, 1.0, p95, 1.0, 0.1, store, per_s=1000 / p95),
            ScalePoint(FULL_TEXT, 10**i, 1.0, words_ms, None, 0.1, store, per_s=1000 / words_ms),
            ScalePoint("index", 10**i, 1.0, 0.1, recall, 0.1, store, per_s=9999.0),
            ScalePoint("exact", 10**i, 1.0, 0.001, 1.0, 0.1, store, tenant_rows=10),
        ]
    return Scale("machine", "2026-01-31", DIMENSION, tuple(points))


@pytest.mark.parametrize("kind", KINDS)
def test_a_measurement_names_machine_day_and_what_each_index_finds(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(scale_measure, "CLIENTS_S", 0.2)
    monkeypatch.setattr(scale_measure, "PASSES", 1)
    monkeypatch.setattr(scale_measure, "STEPS", (400,))
    monkeypatch.setattr(scale_measure, "SMALL_TENANTS", (10, 1_000))
    place = tmp_path / "scale" if kind == "lance" else pgvector_url()
    found = measure_scale(1_000, {kind: place})
    assert found.machine
    assert found.measured_on.startswith("20")
    large, small = ([p for p in found.points if (p.tenant_rows is None) == whole] for whole in (True, False))
    by_index = {p.index: p for p in large}
    assert set(by_index) == {FULL_TEXT, "exact", {"lance": "hnsw_sq", "postgres": "hnsw"}[kind]}
    assert {p.tenant_rows for p in small} == {10}, "a tenant of 1,000 is not below one of 400"
    assert by_index["exact"].recall_at_10 == 1.0
    assert by_index[FULL_TEXT].recall_at_10 is None
    assert all(0.5 < (p.recall_at_10 or 1.0) <= 1.0 for p in found.points)
    assert all(0 < p.p50_ms <= p.p95_ms for p in found.points)
    assert all(p.per_s and p.disk_mb and p.memory_mb is not None for p in large)
    assert by_index["exact"].disk_mb < max(p.disk_mb for p in large)
    if kind == "lance":
        assert not list(place.iterdir()), "tables are removed"
    else:
        assert open_kind(kind, str(tmp_path), DIMENSION).describe().rows == 0
        assert 10 < (server_memory_mb(place) or 0) < 4_000


def test_a_measurement_survives_the_way_to_disk_and_back(tmp_path):
    scale(1.0, 20.0).save(tmp_path / "scale.json")
    assert Scale.load(tmp_path / "scale.json") == scale(1.0, 20.0)


def test_without_a_committed_measurement_it_says_how_to_make_one(tmp_path):
    with pytest.raises(ConfigError, match="workbench run retrieval --profile full"):
        Scale.load(tmp_path / "scale.json")


@pytest.mark.parametrize(
    ("limit_ms", "until"),
    [(0.05, Until(0, None, 1_000)), (0.5, Until(0, None, 1_000)), (30, Until(100_000, None, None))],
)
def test_nothing_is_said_beyond_what_was_measured(limit_ms, until):
    assert scale(1.0, 20.0, 25.0).until("postgres", "vector", limit_ms) == until


@pytest.mark.parametrize(
    ("limit_ms", "low", "about"), [(10, 1_000, 10_000), (1, 1_000, 1_000), (31.6228, 10_000, 31_623)]
)
def test_between_two_numbers_of_rows_latency_grows_as_a_power(limit_ms, low, about):
    found = scale(1.0, 10.001, 100.0).until("postgres", "vector", limit_ms)
    assert (found.low, found.high) == (low, low * 10)
    assert found.about == pytest.approx(about, rel=0.001)


def test_an_index_counts_only_if_it_finds_nearly_all():
    assert scale(1.0, 20.0).until("postgres", "vector", 5).high == 10_000
    assert scale(1.0, 20.0, recall=0.96).until("postgres", "vector", 5).high is None


def test_a_hybrid_search_is_both_legs():
    both = scale(1.0, 2.0, words_ms=4.0)
    assert both.until("postgres", "hybrid", 5).high == 10_000
    assert both.until("postgres", "vector", 5) == both.until("postgres", FULL_TEXT, 5) == Until(10_000, None, None)
    least, most, low, high = both.per_second("postgres", 5_000)
    assert (low, high) == (1_000, 10_000)
    assert (least, most) == (pytest.approx(1000 / 6), pytest.approx(200))
    assert both.per_second("postgres", 10)[2:] == (1_000, 1_000)
    assert both.per_second("postgres", 10_001) is None
    assert both.per_second("lance", 10) is None


def told(measured: Scale, **given) -> str:
    return scale_figure(measured, **{"limit_ms": 10, "rows": 2_400, "requests_per_month": 100_000} | given).caption


def test_the_figure_says_until_when_to_stay():
    assert "stay on PostgreSQL until about 5,000 rows (1,000 to 10,000), or 50 to 667 requests" in told(scale(1, 19.5))
    assert "Yours: 2,400 rows in the largest tenant and 0.039 requests a second." in told(scale(1.0, 20.0))
    assert "stay on PostgreSQL with no end seen up to 10,000 rows" in told(scale(1.0, 2.0))
    assert "stay on PostgreSQL under 1,000 rows, the least measured" in told(scale(11.0, 12.0))
    assert "requests a second were not measured at 20,000 rows" in told(scale(1.0, 2.0), rows=20_000)
    assert "No latency limit is set in gates.toml." in told(scale(1.0, 2.0), limit_ms=None)
    assert "PostgreSQL" not in told(scale(1.0, 2.0, store="lance"))


def test_the_committed_measurement_is_of_both_stores_and_fits_a_caption():
    scale = Scale.load(COMMITTED)
    assert {p.store for p in scale.points} == {"lance", "postgres"}
    for limit_ms in (1, 50, 150, 1_000):
        caption = told(scale, limit_ms=limit_ms)
        assert "stay on PostgreSQL" in caption
        assert caption.endswith(f"measured on {scale.measured_on}."), "nothing is cut"


def test_synthetic_vectors_are_unit_seeded_and_neighbours_like_those_of_texts():
    one, other = (synthetic_vectors(500, np.random.default_rng(s)) for s in (0, 1))
    assert one.shape == (500, DIMENSION)
    assert np.allclose(np.linalg.norm(one, axis=1), 1, atol=1e-5)
    assert np.array_equal(one, synthetic_vectors(500, np.random.default_rng(0)))
    nearest = (one @ other.T).max(1)
    assert nearest.mean() > 0.5, "every vector has a neighbour: independent noise would have none"


def test_synthetic_texts_are_seeded_differ_in_length_and_share_words():
    texts = synthetic_texts(2_000, 20, np.random.default_rng(0))
    assert texts == synthetic_texts(2_000, 20, np.random.default_rng(0))
    assert {len(text.split()) for text in texts} == set(range(10, 31))
    assert 0.08 < np.mean([" w0 " in f" {text} " for text in texts]) < 0.2
