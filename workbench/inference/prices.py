"""The price table, read and checked: counted work and tokens times a declared rate, on any machine the same cost."""

import logging
import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

from workbench.errors import ConfigError, UnknownPrice, unknown_name
from workbench.inference.messages import Usage
from workbench.records import content_hash
from workbench.rendering.text import visible_line

_LOG = logging.getLogger(__name__)
MS_PER_HOUR = 3_600_000
NANOS_PER_USD = 1_000_000_000
ROWS, DECLARED = " rows", " as declared"  # ends of the names of amounts, beside those of operations
_LEAST, _MOST = 1e-12, 1_000_000_000  # what a rate may be, beside 0
TOKEN_CLASSES = ("input", "output", "cache_read", "cache_write", "cache_write_long")


def nanos(usd: float | Decimal) -> int:
    """Whole nano-dollars (1e-9 USD) of an amount, rounded up.

    >>> nanos(0.00032), nanos(1e-10), nanos(0)
    (320000, 1, 0)

    Raises
    ------
    ValueError
        If the amount is negative, infinite or not a number.
    """
    exact = Fraction(str(usd))  # the decimal that was written, not the binary fraction beside it
    if exact < 0:
        raise ValueError(f"an amount of money cannot be negative: {usd}")
    return math.ceil(exact * NANOS_PER_USD)


@dataclass(frozen=True, slots=True)
class Work:
    """One operation of one request, over ``rows`` rows where its cost grows with them."""

    operation: str
    rows: int = 0


def price_of_query_embedding(embedder: str) -> Work:
    """Embedding of one question by an encoder, by its name; one beside the calibrated has a rate of its own.

    >>> price_of_query_embedding("minilm").operation
    'embed_query'
    >>> price_of_query_embedding("litellm:openai/text-embedding-3-small").operation
    'embed_query:litellm:openai/text-embedding-3-small'
    """
    return Work("embed_query" if embedder == "minilm" else f"embed_query:{embedder}")


@dataclass(frozen=True, slots=True)
class Rate:
    """Price of one operation: vCPU-milliseconds, fixed and for each thousand rows, and dollars paid to others."""

    fixed_ms: float = 0.0
    per_1k_rows_ms: float = 0.0
    usd: float = 0.0


@dataclass(frozen=True, slots=True)
class PriceTable:
    """Rates of counted work and prices of models, with their version.

    Attributes
    ----------
    version : str
        Newest date of the files and a hash of all of them: it changes whenever anything does.
    usd_per_vcpu_hour : float
        Declared price of processor time.
    operations : mapping of str to Rate
        Rate of each operation by its name.
    models : mapping of str to mapping of str to Fraction
        By model, the exact nano-dollars of one token of each class of `TOKEN_CLASSES` that has a price.
    later : mapping of str to Rate
        Those of ``operations`` that ``rates.toml`` brought, which are no part of ``sha256``.
    sha256 : str
        Hash of ``prices.toml`` alone, so that a new model is no new input of decisions that rest on none.
    models_sha256 : str
        Hash of the models' prices.
    """

    version: str
    machine: str
    usd_per_vcpu_hour: float
    operations: Mapping[str, Rate]
    models: Mapping[str, Mapping[str, Fraction]]
    sha256: str
    models_sha256: str
    later: Mapping[str, Rate] = field(default_factory=dict)

    def rate_inputs(self, work: Iterable[Work]) -> dict[str, str]:
        """Inputs of a fingerprint that these operations make beside ``sha256``: rates of `later`, each by its name."""
        used = {item.operation for item in work} & self.later.keys()
        return {f"rate {name}": repr(self.later[name]) for name in sorted(used)}

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
                raise ConfigError(
                    f"{problem}. Copy the package's prices.toml into the project and add its rate there: "
                    f'[operations."{item.operation}"] with usd = the dollars that one costs'
                )
            vcpu_ms = rate.fixed_ms + rate.per_1k_rows_ms * item.rows / 1000
            total += vcpu_ms * self.usd_per_vcpu_hour / MS_PER_HOUR + rate.usd
        return total

    def amounts(self, work: Iterable[Work]) -> dict[str, float]:
        """How often each operation is done, and over how many thousand rows: what `rate` has the prices of."""
        out: dict[str, float] = {}
        for item in work:
            out[item.operation] = out.get(item.operation, 0.0) + 1
            if item.rows and self.operations[item.operation].per_1k_rows_ms:
                name = f"{item.operation}{ROWS}"
                out[name] = out.get(name, 0.0) + item.rows / 1000
        return out

    def token_amounts(self, model: str, usage: Usage) -> dict[str, float]:
        """Tokens of one answer by the class that is paid for: what `rate` has the prices of."""
        return {f"{model} {name}": float(n) for name, n in self._classes(model, usage) if n}

    def rate(self, name: str) -> float:
        """Dollars of one unit of an amount: an operation, a thousand rows of it, or a token of a model's class.

        What has no price here but the one that was declared with its outcomes counts in dollars.

        Raises
        ------
        ConfigError
            If there is no such price.
        """
        if name.endswith(DECLARED):
            return 1.0
        thing, _, part = name.rpartition(" ")
        if part in TOKEN_CLASSES:
            return float(self._price(thing, part) / NANOS_PER_USD)
        operation = name.removesuffix(ROWS)
        if operation not in self.operations:
            raise ConfigError(unknown_name("operation", operation, sorted(self.operations)))
        found, vcpu = self.operations[operation], self.usd_per_vcpu_hour / MS_PER_HOUR
        return found.per_1k_rows_ms * vcpu if name.endswith(ROWS) else found.fixed_ms * vcpu + found.usd

    def _classes(self, model: str, usage: Usage) -> Iterable[tuple[str, int]]:
        """Number of tokens by the class that they are paid as."""
        priced = "cache_read" in self.models.get(model, {})
        fresh, read = (usage.fresh, usage.cache_read) if priced else (usage.fresh + usage.cache_read, 0)
        short = usage.cache_write - usage.cache_write_long
        counts = (fresh, usage.output, read, short, usage.cache_write_long)
        return zip(TOKEN_CLASSES, counts, strict=True)

    def cost_nanos(self, model: str, usage: Usage) -> int:
        """Nano-dollars of the tokens, rounded up once.

        What was read from a cache without a price of its own costs as much as other input: no vendor asks for more.

        Raises
        ------
        UnknownPrice
            If the model, or a class of token that was used, has no price: it is never 0.
        """
        self._price(model, "input")  # also of no tokens, where the model is unknown
        return math.ceil(sum(n * self._price(model, name) for name, n in self._classes(model, usage) if n))

    def worst_nanos(self, model: str, *, input_tokens: int, max_tokens: int, keeps_long: bool = False) -> int:
        """Nano-dollars of one attempt at most: the whole prompt at the dearest class of input, the longest answer.

        Only a request that `keeps_long` can be charged for what is kept for an hour.

        Raises
        ------
        UnknownPrice
            As for `cost_nanos`.
        """
        self._price(model, "cache_write_long" if keeps_long else "input")
        other = ("output",) if keeps_long else ("output", "cache_write_long")
        dearest = max(price for name, price in self.models[model].items() if name not in other)
        return math.ceil(input_tokens * dearest + (max_tokens and max_tokens * self._price(model, "output")))

    def _price(self, model: str, name: str) -> Fraction:
        if model not in self.models:
            problem = unknown_name("model", model, sorted(self.models))
            raise UnknownPrice(f"no price: {problem}. Add it to models.toml in the project's root", model=model)
        if name not in self.models[model]:
            raise UnknownPrice(
                f"model {model!r} has no price for {name} tokens, only for {', '.join(self.models[model])}; "
                "add it to models.toml in the project's root",
                model=model,
            )
        return self.models[model][name]


def load_prices(path: Path | None = None, models: Path | None = None) -> PriceTable:
    """Price table of the package, or of files of the same form.

    Parameters
    ----------
    path : Path, optional
        Rates of operations, instead of the package's.
    models : Path, optional
        Prices of models, beside the package's; of a model in both, this one holds.

    Raises
    ------
    ConfigError
        If a file is no price table.

    Notes
    -----
    What a row of the project's own lacks is said in the log, once.
    """
    here = Path(__file__)
    files = [path or here.with_name("prices.toml"), here.with_name("rates.toml"), here.with_name("models.toml")]
    files += [models] if models else []
    return _price_table(tuple((file, _price_file_text(file)) for file in files))


def _price_file_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not a price table: not UTF-8 at byte {error.start}; save it as UTF-8") from error


def lacking_prices(row: Mapping[str, Fraction]) -> str:
    """What a row of prices says nothing of, and what that means; empty if it has all.

    >>> lacking_prices({"input": Fraction(20)})
    'has no price for output: it can embed, and answers nothing'
    """
    if "output" not in row:
        return "has no price for output: it can embed, and answers nothing"
    read = "cache_read" not in row
    written = ", ".join(name for name in TOKEN_CLASSES[3:] if name not in row)
    parts = ["for cache_read tokens, which cost as much as input"] if read else []
    if written:
        doubt = "an answer with such tokens is charged what was reserved for it"
        parts.append(f"for {written}: {doubt}")
    return f"has no price {'; nor '.join(parts)}" if parts else ""


@lru_cache(maxsize=8)
def _price_table(files: tuple[tuple[Path, str], ...]) -> PriceTable:
    """Price table of the operations' file and those of models, each with what it holds: an edited one is another."""
    (file, text), (_, added), *tables = files
    later = {name: Rate(**row) for name, row in tomllib.loads(added)["operations"].items()}
    with _price_table_errors(file):
        raw = tomllib.loads(text)
        operations = {name: _price_rate(name, row) for name, row in raw["operations"].items()}
        later = {name: rate for name, rate in later.items() if name not in operations}
        machine, usd_per_vcpu_hour = raw["machine"], _rate_amount("usd_per_vcpu_hour", raw["usd_per_vcpu_hour"])
        versions = [str(raw["version"])]
    prices: dict[str, Mapping[str, Fraction]] = {}
    for table, part in tables:
        with _price_table_errors(table):
            rows = tomllib.loads(part, parse_float=Decimal)
            prices |= {name: _price_nanos_per_token(row, usd_per_vcpu_hour) for name, row in rows["models"].items()}
            versions.append(str(rows["version"]))
        for name in rows["models"] if table.parent != Path(__file__).parent else ():
            if said := lacking_prices(prices[name]):
                _LOG.warning("%s: %s %s", table.name, visible_line(name), said)
    texts = [part for _, part in tables]
    version = f"{max(versions)}+{content_hash(text, added, *texts)[:8]}"
    hashes = content_hash(text), content_hash(*texts)
    return PriceTable(version, machine, usd_per_vcpu_hour, later | operations, prices, *hashes, later)


@contextmanager
def _price_table_errors(file: Path) -> Iterator[None]:
    try:
        yield
    except KeyError as error:
        raise ConfigError(f"{file} is not a price table: it lacks {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{file} is not a price table: its lists are nested too deeply") from error
    except (ValueError, TypeError, AttributeError, ArithmeticError) as error:
        raise ConfigError(f"{file} is not a price table: {str(error) or type(error).__name__}") from error


def _price_rate(name: str, row: Mapping[str, Any]) -> Rate:
    return Rate(**{part: _rate_amount(f"{part} of {name}", value) for part, value in row.items()})


def _rate_amount(what: str, value: Any) -> Any:
    """A number that can be a rate: from 0 to `_MOST`, and no exponent that fills the memory when made exact."""
    number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    finite = number and (isinstance(value, int) or math.isfinite(value))
    if not finite or not (value == 0 or _LEAST <= value <= _MOST):
        raise ValueError(f"{what} is a number, 0 or from {_LEAST:g} to {_MOST:,}, found {str(value)[:40]}")
    return value


def _price_nanos_per_token(row: Mapping[str, Any], usd_per_vcpu_hour: float) -> Mapping[str, Fraction]:
    """Price of each class of token, declared in dollars or in processor time; source and date must be told."""
    known = {"source", "date", "usd_per_mtok", "vcpu_ms_per_token"}
    if not {"source", "date"} < row.keys() <= known or len(row) != 3:
        raise ValueError(f"a model needs source, date and either usd_per_mtok or vcpu_ms_per_token, found {[*row]}")
    if "usd_per_mtok" in row:
        declared, each = row["usd_per_mtok"], Fraction(NANOS_PER_USD, 1_000_000)
    else:
        declared = row["vcpu_ms_per_token"]
        each = Fraction(str(usd_per_vcpu_hour)) * NANOS_PER_USD / MS_PER_HOUR
    if not isinstance(declared, dict) or "input" not in declared or not declared.keys() <= set(TOKEN_CLASSES):
        found = ", ".join(map(str, declared)) if isinstance(declared, dict) else type(declared).__name__
        raise ValueError(f"prices are those of input, and of {TOKEN_CLASSES[1:]} where known; found {found}")
    return {name: Fraction(_rate_amount(f"the price of {name}", value)) * each for name, value in declared.items()}


def project_prices(root: Path) -> PriceTable:
    """Price table of a project: its own ``prices.toml`` and ``models.toml`` where it has them, else the package's."""
    own = [file if (file := root / name).is_file() else None for name in ("prices.toml", "models.toml")]
    return load_prices(*own)
