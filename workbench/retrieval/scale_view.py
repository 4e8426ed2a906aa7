"""The scale section: measured now in the full profile, else the committed measurement with its machine and day."""

from dataclasses import replace
from pathlib import Path

from workbench.config import Settings
from workbench.reports.figure import Figure
from workbench.reports.figures import lines
from workbench.retrieval.scaling import Scale, ScalePoint, measure_scale

COMMITTED = Path(__file__).parents[1] / "retrieval" / "scale.json"


def scale_figure(settings: Settings, max_rows: int, *, folder: Path, limit_ms: float | None) -> Figure:
    """Latency of each index against the number of rows, with the limit and what each finds."""
    if max_rows:
        scale = measure_scale(max_rows, settings.cache / "scale")
        scale.save(folder / "scale.json")
    else:
        scale = Scale.load(COMMITTED)
    series: dict[str, list[tuple[float, float]]] = {}
    for point in scale.points:
        series.setdefault(point.index, []).append((point.rows, point.p95_ms))
    caption = f"{_sentence(scale, limit_ms)} Synthetic rows of {scale.dimension} dimensions, one tenant, "
    caption += f"{scale.machine}, measured on {scale.measured_on}."
    figure = lines(series, "rows", "p95 latency, ms", log_x=True, log_y=True, limit=limit_ms)
    return replace(figure, caption=caption)


def _sentence(scale: Scale, limit_ms: float | None) -> str:
    largest = max(p.rows for p in scale.points)
    recalls = ", ".join(f"{p.index} {p.recall_at_10:.2f}" for p in scale.points if p.rows == largest)
    found = f"Recall@10 at {largest:,} rows: {recalls}."
    if limit_ms is None:
        return f"No latency limit is set in gates.toml. {found}"
    crossing = scale.crossing(limit_ms)
    if crossing is None:
        return f"Exact search keeps {limit_ms:g} ms up to {largest:,} rows. {found}"
    faster = [p for p in scale.points if p.rows == crossing and p.p95_ms <= limit_ms]
    best: ScalePoint | None = max(faster, key=lambda p: p.recall_at_10, default=None)
    pays = (
        f"{best.index} keeps it with recall@10 {best.recall_at_10:.2f}" if best else "no index measured here keeps it"
    )
    return f"Exact search passes {limit_ms:g} ms by {crossing:,} rows; {pays}. {found}"
