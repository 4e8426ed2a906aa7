"""Load: made-up arrivals sent through a client in their own time, so that limits, budgets and caches meet them.

With a clock that stands still until somebody sleeps (`workbench.testing.FakeClock`) two weeks pass in minutes; with the
machine's own the requests come when the plan says, and need a scripted provider unless somebody pays.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from workbench.errors import BudgetExceeded, CallFailed, RateLimited
from workbench.inference.client import Client
from workbench.inference.messages import CacheUse
from workbench.rendering.table import Column, Shown, Table, Value


@dataclass(slots=True, repr=False)
class LoadReport(Shown):
    """What came of a load.

    Attributes
    ----------
    asked : Counter of str
        Requests by tenant.
    ended : Counter of (str, str)
        Requests by tenant and how they ended: ``model``, ``cache``, or the class of the error that refused them.
    cost_nanos : Counter of (str, str)
        Nano-dollars by tenant and UTC day, as the client charged them.
    late_s : float
        Longest time that a request came after its own: what waited before it held it up.
    """

    asked: Counter[str] = field(default_factory=Counter)
    ended: Counter[tuple[str, str]] = field(default_factory=Counter)
    cost_nanos: Counter[tuple[str, str]] = field(default_factory=Counter)
    late_s: float = 0.0

    def count(self, how: str) -> int:
        """Requests that ended so."""
        return sum(n for (_, ended), n in self.ended.items() if ended == how)

    @property
    def table(self) -> Table:
        """Tenants with how their requests ended."""
        ways = sorted({how for _, how in self.ended})
        spent = Counter[str]()
        for (tenant, _), nanos in self.cost_nanos.items():
            spent[tenant] += nanos
        rows: list[tuple[Value, ...]] = [
            (tenant, n, *(self.ended[tenant, how] for how in ways), spent[tenant] / 1e9)
            for tenant, n in self.asked.most_common()
        ]
        columns = (Column("tenant"), Column("requests", "count"), *(Column(how, "count") for how in ways),
                   Column("spent", "usd"))  # fmt: skip
        return Table(
            columns, tuple(rows), f"Load by tenant; the latest request came {self.late_s:,.0f} s after its time"
        )


def send_load(client: Client, requests: Iterable[Mapping[str, Any]], *, model: str, max_tokens: int = 64) -> LoadReport:
    """Send requests in their order, each when its time has come; answers may be shared inside a tenant.

    Parameters
    ----------
    client : Client
        With everything that the load is to meet; its clock says what time it is.
    requests : iterable of mappings
        Rows as `workbench.evalset.workload.draw_workload` gives them.

    Raises
    ------
    SettlementFailed, UnknownPrice
        If the books do not take a call: refusals by budgets and limits, and failed calls, are counted.
    """
    report, clock = LoadReport(), client.books.clock
    for row in requests:
        wait_s = (datetime.fromisoformat(row["at"]) - clock.now()).total_seconds()
        if wait_s > 0:
            clock.sleep(wait_s)
        report.late_s = max(report.late_s, -wait_s)
        tenant, asked = row["tenant_id"], ({"role": "user", "content": row["query"]},)
        report.asked[tenant] += 1
        try:
            done = client.complete(
                asked, model=model, max_tokens=max_tokens, use=CacheUse(visibility="tenant"), tenant_id=tenant,
                user_id=row["user_id"], feature=row["feature"],
            )  # fmt: skip
        except (BudgetExceeded, RateLimited, CallFailed) as error:
            report.ended[tenant, type(error).__name__] += 1
        else:
            report.ended[tenant, done.source] += 1
            report.cost_nanos[tenant, clock.now().date().isoformat()] += done.cost_nanos
    return report
