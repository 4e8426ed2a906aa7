import numpy as np
import pytest

from workbench.errors import ConfigError
from workbench.retrieval.scale import DIMENSION, Scale, ScalePoint, measure_scale, synthetic_vectors


def scale(*exact_p95: float) -> Scale:
    points = [ScalePoint("exact", 10**i, 1.0, p95, 1.0, 0.1) for i, p95 in enumerate(exact_p95, 3)]
    return Scale("machine", "2026-01-31", DIMENSION, (*points, ScalePoint("hnsw_sq", 10, 1.0, 999.0, 0.9, 0.1)))


def test_a_measurement_names_machine_day_and_what_each_index_finds(tmp_path):
    found = measure_scale(1_000, tmp_path / "scale")
    assert found.machine
    assert found.measured_on.startswith("20")
    by_index = {p.index: p for p in found.points}
    assert {p.rows for p in found.points} == {1_000}
    assert by_index["exact"].recall_at_10 == 1.0
    assert 0.5 < by_index["hnsw_sq"].recall_at_10 <= 1.0
    assert all(0 < p.p50_ms <= p.p95_ms for p in found.points)
    assert not list((tmp_path / "scale").iterdir()), "tables are removed"


def test_a_measurement_survives_the_way_to_disk_and_back(tmp_path):
    scale(1.0, 20.0).save(tmp_path / "scale.json")
    assert Scale.load(tmp_path / "scale.json") == scale(1.0, 20.0)


def test_without_a_committed_measurement_it_says_how_to_make_one(tmp_path):
    with pytest.raises(ConfigError, match="workbench run retrieval --profile full"):
        Scale.load(tmp_path / "scale.json")


@pytest.mark.parametrize(("limit_ms", "rows"), [(0.5, 1_000), (5, 10_000), (20, 100_000), (30, None)])
def test_the_crossing_is_the_smallest_number_of_rows_over_the_limit(limit_ms, rows):
    assert scale(1.0, 20.0, 25.0).crossing(limit_ms) == rows


def test_synthetic_vectors_are_unit_seeded_and_neighbours_like_those_of_texts():
    one, other = (synthetic_vectors(500, np.random.default_rng(s)) for s in (0, 1))
    assert one.shape == (500, DIMENSION)
    assert np.allclose(np.linalg.norm(one, axis=1), 1, atol=1e-5)
    assert np.array_equal(one, synthetic_vectors(500, np.random.default_rng(0)))
    nearest = (one @ other.T).max(1)
    assert nearest.mean() > 0.5, "every vector has a neighbour: independent noise would have none"
