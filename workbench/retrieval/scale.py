"""Until how many rows a store meets a latency limit, told from a measurement and never beyond it.

`workbench.retrieval.scale_measure` makes the measurement; ``scale.json`` is the committed one.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path

from workbench.codec import from_json, to_json, write_whole
from workbench.errors import ConfigError
from workbench.rendering.numbers import counted
from workbench.rendering.table import Column, Table
from workbench.reports.charts import lines
from workbench.reports.figure import Figure

FULL_TEXT = "full_text"
STORES = {"postgres": "PostgreSQL", "lance": "LanceDB"}
NEAR_EXACT = 0.95  # recall@10 from which an index stands for exact search
MONTH_S = 30 * 86_400
COMMITTED = Path(__file__).with_name("scale.json")


@dataclass(frozen=True, slots=True)
class ScalePoint:
    """One index of one store at one number of rows: latency in ms, recall@10 against exact search, seconds to build.

    ``recall_at_10`` is None for words. ``tenant_rows`` is that of a small tenant who was asked in place of the one who
    has nearly all ``rows``. ``per_s`` are requests a second of several clients, ``disk_mb`` is the whole table with
    this index, ``memory_mb`` what searching the table has added to the process and to the store's server, without the
    files that the system keeps in memory by itself; None where that was not measured.
    """

    index: str
    rows: int
    p50_ms: float
    p95_ms: float
    recall_at_10: float | None
    build_s: float
    store: str = "lance"
    tenant_rows: int | None = None
    per_s: float | None = None
    disk_mb: float | None = None
    memory_mb: float | None = None

    @property
    def name(self) -> str:
        """Index and store, named as arms are."""
        return self.index if self.store == "lance" else f"{self.index} · {self.store}"


@dataclass(frozen=True, slots=True)
class Until:
    """Rows up to which a limit is kept: ``low`` keeps it as measured, ``high`` no longer, ``about`` lies between.

    ``low`` is 0 if nothing measured keeps it; ``high`` is None if everything does, and ``about`` in both cases.
    """

    low: int
    about: float | None
    high: int | None

    def __str__(self) -> str:
        if self.high is None:
            return f"with no end seen up to {counted(self.low, 'row')}" if self.low else "as long as nobody measures it"
        if self.about is None:
            return f"under {counted(self.high, 'row')}, the least measured"
        return f"until about {float(f'{self.about:.1g}'):,.0f} rows ({self.low:,} to {self.high:,})"


@dataclass(frozen=True, slots=True)
class Scale:
    """A measurement with its machine and day."""

    machine: str
    measured_on: str
    dimension: int
    points: tuple[ScalePoint, ...]

    def save(self, path: Path) -> None:
        """Write the measurement as JSON."""
        write_whole(path, to_json(self))

    @classmethod
    def load(cls, path: Path) -> "Scale":
        """Read a committed measurement.

        Raises
        ------
        ConfigError
            If there is none, or it is none.
        """
        if not path.is_file():
            raise ConfigError(
                f"no committed measurement at {path}; measure with: workbench run retrieval --profile full"
            )
        return from_json(cls, path.read_bytes(), f"{path} is no measurement")

    def until(self, store: str, kind: str, limit_ms: float) -> Until:
        """Rows of one tenant up to which p95 keeps a limit, for ``vector``, ``full_text`` or ``hybrid`` search.

        Between two numbers of rows p95 is taken to grow as a power of the rows.
        """
        low, high, before = 0, None, 0.0
        for rows, p95_ms in sorted(self._best(store, kind, "p95_ms").items()):
            if p95_ms > limit_ms:
                high = rows
                break
            low, before = rows, p95_ms
        if high is None or not low:
            return Until(low, None, high)
        after = self._best(store, kind, "p95_ms")[high]
        share = math.log(limit_ms / before) / math.log(after / before)
        return Until(low, low * (high / low) ** share, high)

    def per_second(self, store: str, rows: int) -> tuple[float, float, int, int] | None:
        """Least and most hybrid searches a second at the numbers of rows around ``rows``, and these; None beyond."""
        rates = {n: 1 / seconds for n, seconds in self._best(store, "hybrid", "per_s").items()}
        above, below = [n for n in rates if n >= rows], [n for n in rates if n <= rows]
        if not above:
            return None
        ends = max(below, default=min(above)), min(above)
        return min(rates[n] for n in ends), max(rates[n] for n in ends), *ends

    def _best(self, store: str, kind: str, of: str) -> dict[int, float]:
        """Least p95 in ms, or seconds of one request under load, by rows; a hybrid search is the sum of both legs.

        Of vector indices those count that find nearly what exact search does.
        """
        if kind == "hybrid":
            words, vectors = (self._best(store, leg, of) for leg in (FULL_TEXT, "vector"))
            return {rows: words[rows] + vectors[rows] for rows in words.keys() & vectors.keys()}
        found: dict[int, float] = {}
        for p in self.points:
            good = p.recall_at_10 is None if kind == FULL_TEXT else (p.recall_at_10 or 0.0) >= NEAR_EXACT
            if p.store == store and p.tenant_rows is None and good:
                value = p.p95_ms if of == "p95_ms" else 1 / p.per_s if p.per_s else math.inf
                found[p.rows] = min(value, found.get(p.rows, math.inf))
        return found


def scale_figure(scale: Scale, *, limit_ms: float | None, rows: int, requests_per_month: int | None) -> Figure:
    """Latency of each index of each store against the number of rows, with what follows for a corpus.

    Parameters
    ----------
    scale : Scale
        A measurement.
    limit_ms : float or None
        95th percentile to keep.
    rows : int
        Rows of the largest tenant of the corpus.
    requests_per_month : int or None
        How many there are.
    """
    series: dict[str, list[tuple[float, float]]] = {}
    for p in scale.points:
        if p.tenant_rows is None:
            series.setdefault(p.name, []).append((p.rows, p.p95_ms))
    figure = lines(series, "rows", "p95 latency, ms", log_x=True, log_y=True, limit=limit_ms)
    told = [*_kept(scale, limit_ms, rows, requests_per_month), _recalls(scale)]
    told.append(
        f"Synthetic rows of {counted(scale.dimension, 'dimension')}, {scale.machine}, measured on {scale.measured_on}."
    )
    return replace(figure, caption=" ".join(told), data=points_table(scale))


def _kept(scale: Scale, limit_ms: float | None, rows: int, requests_per_month: int | None) -> list[str]:
    """How far each store goes within the limit, hybrid searches first: what it is to stay on PostgreSQL."""
    if limit_ms is None:
        return ["No latency limit is set in gates.toml."]
    measured = {store: name for store, name in STORES.items() if any(p.store == store for p in scale.points)}
    stays = [f"{name} {scale.until(s, 'hybrid', limit_ms)}{_rate_told(scale, s, rows)}" for s, name in measured.items()]
    asked = f" and {requests_per_month / MONTH_S:.2g} requests a second" if requests_per_month else ""
    told = [
        f"Hybrid searches at a p95 of {limit_ms:g} ms: stay on {'; '.join(stays)}.",
        f"Yours: {counted(rows, 'row')} in the largest tenant{asked}.",
    ]
    for leg, kind in {"Vectors": "vector", "Words": FULL_TEXT}.items():
        each = (f"{name} {scale.until(store, kind, limit_ms)}" for store, name in measured.items())
        told.append(f"{leg} alone: {'; '.join(each)}.")
    return told


def _rate_told(scale: Scale, store: str, rows: int) -> str:
    """Requests a second of a store at the rows of a corpus."""
    if (found := scale.per_second(store, rows)) is None:
        return f" (requests a second were not measured at {counted(rows, 'row')})"
    least, most, low, high = found
    at = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return f", or {least:.0f} to {most:.0f} requests a second (at {at} rows)"


def _recalls(scale: Scale) -> str:
    """What each index finds in the largest table it was measured in, and the least that a small tenant found."""
    told = []
    for name in dict.fromkeys(p.name for p in scale.points if p.recall_at_10 is not None and p.index != "exact"):
        mine = [p for p in scale.points if p.name == name]
        last = max(p.rows for p in mine)
        (large,) = (p.recall_at_10 for p in mine if p.rows == last and p.tenant_rows is None)
        small = min((p.recall_at_10 or 0.0 for p in mine if p.tenant_rows is not None), default=None)
        told.append(
            f"{name} {large:.2f} at {counted(last, 'row')}"
            + ("" if small is None else f", {small:.2f} in small tenants")
        )
    return f"Recall@10: {'; '.join(told)}." if told else ""


def points_table(scale: Scale) -> Table:
    """Everything measured, one row for each index, number of rows and tenant."""
    columns = (
        Column("index"), Column("rows", "count"), Column("tenant's rows", "count"),
        Column("p50 ms", "number", digits=1), Column("p95 ms", "number", digits=1),
        Column("recall@10", "number", digits=3), Column("requests/s", "number", digits=0),
        Column("build s", "number", digits=1), Column("disk MB", "number", digits=0),
        Column("memory MB", "number", digits=0),
    )  # fmt: skip
    rows = tuple(
        (p.name, p.rows, p.tenant_rows or p.rows, p.p50_ms, p.p95_ms, p.recall_at_10, p.per_s, p.build_s, p.disk_mb,
         p.memory_mb)
        for p in scale.points
    )  # fmt: skip
    return Table(columns, rows, f"Measured on {scale.measured_on}, {scale.machine}")
