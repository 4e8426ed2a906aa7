"""Rows of the ledger, said in as many words as matter to a test."""

from typing import Any

from workbench.telemetry.ledger import LedgerRow

STARTED = "2026-11-23T12:00:00+00:00"


def row(call_id: str = "c1", attempt: int = 0, cost_nanos: int = 0, **values: Any) -> LedgerRow:
    plain: dict[str, Any] = dict.fromkeys(
        ("trace_id", "item_id", "tenant_id", "user_id", "feature", "model_served", "route", "reason"), ""
    ) | dict.fromkeys(("fresh_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens"), 0)
    plain |= {"started": STARTED, "latency_ms": 1.0, "purpose": "product", "model_asked": "m", "price_version": "v"}
    plain |= {"status": "ok"}
    return LedgerRow(call_id=call_id, attempt=attempt, cost_nanos=cost_nanos, **(plain | values))
