"""Counted work times a declared rate: cost that does not depend on the machine it is counted on."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from workbench.errors import ConfigError, unknown_name
from workbench.records import content_hash

MS_PER_HOUR = 3_600_000


@dataclass(frozen=True, slots=True)
class Work:
    """One operation of one request, over ``rows`` rows where its cost grows with them."""

    operation: str
    rows: int = 0


@dataclass(frozen=True, slots=True)
class PriceTable:
    """Rates of local work, with their version.

    Attributes
    ----------
    usd_per_vcpu_hour : float
        Declared price of processor time.
    operations : mapping of str to (float, float)
        vCPU-milliseconds of one operation: a fixed part, and a part for each thousand rows.
    """

    version: str
    machine: str
    usd_per_vcpu_hour: float
    operations: Mapping[str, tuple[float, float]]
    sha256: str

    def vcpu_ms(self, work: Iterable[Work]) -> float:
        """Processor time of the work in vCPU-milliseconds.

        Raises
        ------
        ConfigError
            If an operation has no rate: an unknown price is an error, never 0.
        """
        total = 0.0
        for item in work:
            if item.operation not in self.operations:
                raise ConfigError(unknown_name("operation", item.operation, sorted(self.operations)))
            fixed, per_1k = self.operations[item.operation]
            total += fixed + per_1k * item.rows / 1000
        return total

    def cost_usd(self, work: Iterable[Work]) -> float:
        """Dollars of the work."""
        return self.vcpu_ms(work) * self.usd_per_vcpu_hour / MS_PER_HOUR


@cache
def load_prices(path: Path | None = None) -> PriceTable:
    """Price table of the package, or of a file of the same form."""
    file = path or Path(__file__).with_name("prices.toml")
    text = file.read_text(encoding="utf-8")
    raw = tomllib.loads(text)
    operations = {name: (row["fixed_ms"], row["per_1k_rows_ms"]) for name, row in raw.get("operations", {}).items()}
    return PriceTable(raw["version"], raw["machine"], raw["usd_per_vcpu_hour"], operations, content_hash(text))
