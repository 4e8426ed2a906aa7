"""Many requests: the estimate first, then item by item with progress; what was answered stays answered."""

import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from typing import Any

from workbench.errors import ConfigError, RateLimited
from workbench.inference.budgets import Budget
from workbench.inference.call_attempt import worst_attempt_nanos, worst_attempt_tokens
from workbench.inference.client import Client
from workbench.inference.messages import PREFIX, Completion, Request, Routes
from workbench.inference.prices import PriceTable
from workbench.rendering.numbers import counted, usd
from workbench.telemetry.attribution import carry_attribution


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One request of a batch with the attribution that differs from item to item."""

    item_id: str
    request: Request
    tenant_id: str = ""
    feature: str = ""


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """What a batch may cost at most: every prompt counted by its bytes, every answer at its full length."""

    requests: int
    worst_usd: float

    def __str__(self) -> str:
        return f"{counted(self.requests, 'request')}, at most {usd(self.worst_usd, up=True)}"


def estimate_batch(
    requests: Sequence[Request], prices: PriceTable, *, routers: Mapping[str, Routes] | None = None
) -> CostEstimate:
    """Upper bound of what the requests cost; those to ``router/NAME`` at its dearest arm.

    Raises
    ------
    UnknownPrice
        If a model has no price.
    """
    worst = sum(_worst_batch_nanos(request, prices, routers or {}) for request in requests)
    return CostEstimate(len(requests), worst / 1e9)


def _worst_batch_nanos(request: Request, prices: PriceTable, routers: Mapping[str, Routes]) -> int:
    if (routed := routers.get(request.model.removeprefix(PREFIX))) is None or not request.model.startswith(PREFIX):
        return worst_attempt_nanos(prices, request)
    tokens = worst_attempt_tokens(request)
    arms = [worst_attempt_nanos(prices, request.to(arm.partition("@")[0]), tokens) for arm in routed.models]
    return max(arms[1:], default=0) + arms[0] if routed.cascade else max(arms)


def complete_batch(
    client: Client,
    items: Sequence[BatchItem],
    *,
    max_cost_usd: float | None,
    threads: int = 1,
    tell: Callable[[str], None] = print,
    on_done: Callable[[int], None] | None = None,
) -> dict[str, Completion | Exception]:
    """Answers by item id; an item that failed holds its error, and the others go on.

    With ``client.recordings`` live, answered items come from their recording, so a batch that was cut off goes on
    where it stopped. An item that a rate limit gives no turn before its deadline waits and asks again.

    Raises
    ------
    ConfigError
        If two items have one id, or ``max_cost_usd`` is missing or too low for what is still to be asked; nothing was
        asked then.
    """
    if twice := [item_id for item_id, n in Counter(i.item_id for i in items).items() if n > 1]:
        raise ConfigError(f"answers are told apart by item_id, found several items {', '.join(map(repr, twice[:5]))}")
    open_items = _open_batch_items(client, items)
    ahead = estimate_batch([i.request for i in open_items], client.books.prices, routers=client.routers)
    if open_items:
        tell(
            f"{len(items) - len(open_items):,} of {counted(len(items), 'answer is', 'answers are')} recorded; "
            f"still to ask: {ahead}"
        )
    if open_items and (max_cost_usd is None or ahead.worst_usd > max_cost_usd):
        given = "no max_cost_usd" if max_cost_usd is None else f"max_cost_usd={max_cost_usd:g}"
        raise ConfigError(
            f"this batch may cost {usd(ahead.worst_usd, up=True)}, found {given}; set it at or above that"
        )
    client = capped_client(client, max_cost_usd)  # attempts that fail may be billed too
    out: dict[str, Completion | Exception] = {}
    pool = ThreadPoolExecutor(threads)
    try:
        futures = {pool.submit(carry_attribution(ask_batch_item), client, item): item for item in items}
        for done, future in enumerate(as_completed(futures), 1):
            out[futures[future].item_id] = future.result()
            if on_done:
                on_done(done)
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C only what is under way is waited for
    return out


def capped_client(client: Client, max_cost_usd: float | None) -> Client:
    """Return the client with one more budget, for what is asked through it; without budgets, or None, the client."""
    if not client.books.budgets or max_cost_usd is None:
        return client
    limit = Budget(max_cost_usd, "total", name=f"batch {uuid.uuid4().hex[:12]}")
    return replace(client, books=replace(client.books, budgets=client.books.budgets.and_also(limit)))


def _open_batch_items(client: Client, items: Sequence[BatchItem]) -> list[BatchItem]:
    """Items without a recorded answer; equal requests need one each."""
    if client.recordings is None:
        return list(items)
    seen, out = Counter[str](), []
    for item in items:
        if seen[item.request.sha256] >= client.recordings.count(item.request):
            out.append(item)
        seen[item.request.sha256] += 1
    return out


def ask_batch_item(client: Client, item: BatchItem) -> Completion | Exception:
    """Answer to one item, or why there is none; one that a rate limit gives no turn waits and asks again."""
    request = item.request
    who: dict[str, Any] = {k: v for k, v in (("tenant_id", item.tenant_id), ("feature", item.feature)) if v}
    while True:
        try:
            return client.complete(
                request.messages, model=request.model, item_id=item.item_id, max_tokens=request.max_tokens,
                temperature=request.temperature, seed=request.seed, stop=request.stop, tools=request.tools,
                schema=request.schema, **who,
            )  # fmt: skip
        except RateLimited as error:
            if error.retry_after_s is None:
                return error
            client.books.clock.sleep(error.retry_after_s)
        except Exception as error:  # noqa: BLE001  the boundary of one item: the others go on, and are paid for
            return error
