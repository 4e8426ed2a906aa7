"""What came of an attempt, written down and paid for although the state database is busy for a while."""

from collections.abc import Sequence

import sqlalchemy as sa

from workbench.clock import Clock
from workbench.errors import ProviderError, SettlementFailed, WorkbenchError
from workbench.inference.budgets import Budgets
from workbench.inference.messages import Response
from workbench.telemetry.ledger import Ledger, LedgerRow

PATIENCE_S = 60.0  # on SQLite each of the tries waits 30 s by itself
BUSY = (sa.exc.OperationalError, sa.exc.TimeoutError)


def settle(
    hold_id: str,
    rows: Sequence[LedgerRow],
    *,
    budgets: Budgets | None,
    ledger: Ledger | None,
    clock: Clock,
    response: Response | None,
) -> None:
    """Close the hold and write the rows, in one transaction; a database that does not take them is asked again.

    Raises
    ------
    SettlementFailed
        If it does not for a minute; ``response`` is in it.
    """
    until = clock.monotonic() + PATIENCE_S
    while True:
        try:
            if budgets and ledger:
                budgets.settle(hold_id, rows, ledger)
            elif ledger:
                ledger.add(rows)
            return
        except BUSY as error:
            if clock.monotonic() >= until:
                raise SettlementFailed(
                    f"what came of an attempt could not be written down in {PATIENCE_S:g} s ({error}); "
                    + ("its answer is this error's response. " if response else "")
                    + "What was reserved for it stays charged until: workbench budgets --close-holds-before",
                    response=response,
                ) from error
        clock.sleep(1)


def may_be_billed(error: BaseException) -> bool:
    """Whether a provider may charge for an attempt that ended like this; in doubt it may."""
    refused_here = isinstance(error, WorkbenchError) and not isinstance(error, ProviderError)
    return not refused_here and getattr(error, "billed", "unknown") != "no"
