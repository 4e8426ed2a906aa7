"""A log of real calls, as a prompt cache sees them: what the simulation is fed with, and compared with the bill."""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate, pairwise
from pathlib import Path

from workbench.caching.calls import CallRecord, Segment, approximate_tokens, call_of
from workbench.clock import Clock, SystemClock
from workbench.errors import ConfigError
from workbench.inference.messages import Request, Response
from workbench.inference.providers import Provider
from workbench.telemetry.context import current

CALLS = "calls.jsonl"  # in an evalset's folder


@dataclass(frozen=True, slots=True)
class CallLog:
    """Provider that notes the calls that another one answers, one line each: hashes and sizes, never text.

    ``Client.open(settings, providers={"": CallLog(LiteLLMProvider(), settings.evalsets / "shop" / CALLS)})``

    Attributes
    ----------
    scope : str
        As in `CallRecord`: the one account at the vendor that all these calls are made with.
    """

    provider: Provider
    path: Path
    scope: str = "account"
    count_tokens: Callable[[str], int] = approximate_tokens
    clock: Clock = field(default_factory=SystemClock)

    def complete(self, request: Request, *, timeout_s: float, on_text: Callable[[str], None] | None = None) -> Response:
        """Answer as the other provider does; an attempt that fails is not noted."""
        who, at = current(), self.clock.now().timestamp()
        with self.path.open("a", encoding="utf-8") as file:  # whatever cannot be logged is told before anything is paid
            asked = call_of(
                request, self.count_tokens, at=at, tenant_id=who.tenant_id, feature=who.feature, scope=self.scope
            )
            response = self.provider.complete(request, timeout_s=timeout_s, on_text=on_text)
            # one write a line: threads and processes mix nothing up
            file.write(json.dumps(asdict(_answered(asked, response))) + "\n")
        return response


def _answered(call: CallRecord, response: Response) -> CallRecord:
    usage, first = response.usage, response.first_token_ms
    call = replace(call, started_ms=response.latency_ms if first is None else first)
    if usage is None:
        return call
    return replace(
        call, output_tokens=usage.output, billed_read=usage.cache_read, billed_write=usage.cache_write,
        segments=tuple(_fitted(call, usage.input)),
    )  # fmt: skip


def _fitted(call: CallRecord, tokens: int) -> Iterable[Segment]:
    """Segments whose sizes add up to the tokens that the vendor counted."""
    ends = accumulate((s.tokens for s in call.segments), initial=0)
    whole = max(call.input_tokens, 1)
    for segment, (start, end) in zip(call.segments, pairwise(tokens * end // whole for end in ends), strict=True):
        yield replace(segment, tokens=end - start)


def read_calls(path: Path) -> tuple[CallRecord, ...]:
    """Calls of a log.

    Raises
    ------
    ConfigError
        If a line is no call.
    """
    calls = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        try:
            if line:
                raw = json.loads(line)
                calls.append(CallRecord(**raw | {"segments": tuple(Segment(**s) for s in raw["segments"])}))
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path}:{number} is no logged call: {error!r}; drop the line, or log anew") from error
    return tuple(calls)
