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
class Rate:
    """Price of one operation: vCPU-milliseconds, fixed and for each thousand rows, and dollars paid to others."""

    fixed_ms: float = 0.0
    per_1k_rows_ms: float = 0.0
    usd: float = 0.0


@dataclass(frozen=True, slots=True)
class PriceTable:
    """Rates of counted work, with their version.

    Attributes
    ----------
    usd_per_vcpu_hour : float
        Declared price of processor time.
    operations : mapping of str to Rate
        Rate of each operation by its name.
    """

    version: str
    machine: str
    usd_per_vcpu_hour: float
    operations: Mapping[str, Rate]
    sha256: str

    def cost_usd(self, work: Iterable[Work]) -> float:
        """Dollars of the work.

        Raises
        ------
        ConfigError
            If an operation has no rate: an unknown price is an error, never 0.
        """
        total = 0.0
        for item in work:
            if (rate := self.operations.get(item.operation)) is None:
                problem = unknown_name("operation", item.operation, sorted(self.operations))
                raise ConfigError(f"{problem}. Copy the package's prices.toml into the project and add its rate")
            vcpu_ms = rate.fixed_ms + rate.per_1k_rows_ms * item.rows / 1000
            total += vcpu_ms * self.usd_per_vcpu_hour / MS_PER_HOUR + rate.usd
        return total


@cache
def load_prices(path: Path | None = None) -> PriceTable:
    """Price table of the package, or of a file of the same form.

    Raises
    ------
    ConfigError
        If the file is no price table.
    """
    file = path or Path(__file__).with_name("prices.toml")
    text = file.read_text(encoding="utf-8")
    try:
        raw = tomllib.loads(text)
        operations = {name: Rate(**row) for name, row in raw["operations"].items()}
        return PriceTable(raw["version"], raw["machine"], raw["usd_per_vcpu_hour"], operations, content_hash(text))
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file} is not a price table: {error!r}") from error


def project_prices(root: Path) -> PriceTable:
    """Price table of a project, ``prices.toml`` in its root; where it has none, that of the package."""
    own = root / "prices.toml"
    return load_prices(own if own.is_file() else None)
