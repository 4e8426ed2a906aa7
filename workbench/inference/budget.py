"""A limit on spending: whose calls fall under it, and from when to when."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args
from urllib.parse import urlencode

from workbench.errors import ConfigError, unknown_name
from workbench.inference.prices import nanos
from workbench.telemetry.context import Attribution

Window = Literal["day", "month", "total"]
EVERYTHING = "all"
FIELDS = tuple(f.name for f in fields(Attribution))


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit on spending, one for each combination of what ``by`` names.

    Attributes
    ----------
    limit_usd : float
        May be 0; then no call that costs anything is made.
    window : {"day", "month", "total"}
        What it is for, in UTC; "total" never starts anew.
    by : tuple of str
        Fields of `Attribution` that each have a budget of their own; an empty field is one like any other.
    only : mapping of str to str
        Calls with these fields alone; all where it is empty.
    name : str
        Tells budgets of the same calls apart, such as that of one batch.
    """

    limit_usd: float
    window: Window
    by: tuple[str, ...] = ()
    only: Mapping[str, str] = field(default_factory=dict)
    name: str = ""

    def __post_init__(self) -> None:
        for name in (*self.by, *self.only):
            if name not in FIELDS:
                raise ConfigError(unknown_name("field of a budget", name, FIELDS))
        if self.window not in get_args(Window):
            raise ConfigError(unknown_name("window of a budget", self.window, get_args(Window)))
        try:
            nanos(self.limit_usd)
        except ValueError as error:
            raise ConfigError(f"the limit of a budget is dollars, 0 or more: {error}") from error

    def scope(self, who: Attribution) -> str | None:
        """Which budget of this kind a call falls under, None where under none.

        >>> Budget(1.0, "day", by=("tenant_id",)).scope(Attribution(tenant_id="acme"))
        'tenant_id=acme'
        """
        if any(getattr(who, name) != value for name, value in self.only.items()):
            return None
        # Equal scopes are the same calls, however they came about; no value can forge the name of another.
        named = [("name", self.name)] if self.name else []
        return urlencode([*named, *sorted((n, getattr(who, n)) for n in {*self.by, *self.only})],
                         errors="surrogatepass") or EVERYTHING  # fmt: skip


DEFAULT_BUDGETS = (Budget(10.0, "day"), Budget(100.0, "month"))


def window_at(window: Window, now: datetime) -> str:
    """Name of the window that a moment lies in, such as "2026-11" of a month.

    >>> window_at("month", datetime(2026, 11, 30))
    '2026-11'
    """
    return {"day": f"{now:%Y-%m-%d}", "month": f"{now:%Y-%m}", "total": "total"}[window]


def resets_at(window: str) -> str:
    """ISO time at which a window of this name ends, empty where it never does."""
    if window == "total":
        return ""
    is_month = len(window) == len("2026-11")
    start = datetime.fromisoformat(f"{window}-01" if is_month else window).replace(tzinfo=UTC)
    end = (start.replace(day=28) + timedelta(days=4)).replace(day=1) if is_month else start + timedelta(days=1)
    return end.isoformat()
