"""Verifiers: asked last whether two near questions may share an answer, and what they say in words.

``fitted`` is learnt on dev pairs (`workbench.caching.fitted_verifier`), ``model:NAME`` asks a model through the client,
and ``module:function`` is a callable of the user's, ``function(asked, cached)``. All fail closed: an error, an answer
that is no verdict, or a verdict without a probability is a miss, with that reason.

With ``later:`` before its name a verifier is kept off the path, as in Krites (Singh et al. 2026, arXiv 2602.13165):
what it would be asked about is a miss now, and what it agrees to afterwards is answered by the cached answer from then
on. That fails closed too: what finds no place, fails, or still waits when the process ends is not promoted; nor is
anything from an entry that was replaced, has expired or was dropped since.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from sqlalchemy.exc import SQLAlchemyError

from workbench.caching.cache_entries import Entries, Entry, Promotion
from workbench.caching.fitted_verifier import FittedVerifier, TextPair, Vectors, VerifierFit
from workbench.caching.guard import Guard
from workbench.config import Settings
from workbench.errors import ConfigError, WorkbenchError
from workbench.inference.batch import BatchItem, complete_batch, estimate_batch
from workbench.inference.client import Client
from workbench.inference.messages import Completion, Request, Response
from workbench.inference.prices import PriceTable
from workbench.orchestration.user_modules import files_of_module, import_module_of
from workbench.records import content_hash
from workbench.telemetry.attribution import Attribution, attributed

FITTED, MODEL, LATER = "fitted", "model:", "later:"
FORM = (
    f"{FITTED}, {MODEL}NAME or module:function@USD, USD being its dollars per 1,000 checks; with {LATER} before it, "
    "it is asked off the path"
)
LEAST = 0.5
FAILED = "verifier failed"
MODEL_LEAST = 0.9
PROMPT = (
    "Two users ask a support system.\nFirst: <question>{cached}</question>\nSecond: <question>{asked}</question>\n"
    "Would exactly the same answer be right for both? Reply only yes or no."
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verifier says of one pair; ``reason`` says why it is a miss, "" where it agrees."""

    agrees: bool
    probability: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class VerifierUsed:
    """A verifier as a plain value beside a threshold: ``least`` is the probability from which it agrees."""

    name: str
    least: float
    sha256: str
    usd_per_check: float


class Allows(Protocol):
    """A guard, or a guard with a verifier."""

    def allows(self, asked: str, cached: str) -> bool:
        """Whether the cached answer may be served."""


class Verifier(Protocol):
    """Whether pairs of questions (asked, cached) may share an answer."""

    @property
    def used(self) -> VerifierUsed:
        """It as a plain value."""

    def check(self, pairs: Sequence[TextPair]) -> list[Verdict]:
        """A verdict for each pair, in their order; what goes wrong is in it."""


def verdict_of_probability(probability: object, least: float) -> Verdict:
    """Verdict of a probability; whatever is none is a miss.

    >>> verdict_of_probability(0.8, 0.5).agrees, verdict_of_probability(None, 0.5).reason
    (True, 'no probability')
    >>> verdict_of_probability(True, 0.5).agrees
    True
    """
    if probability is None or not isinstance(probability, int | float) or not 0 <= probability <= 1:
        return Verdict(False, None, "no probability")
    chance = float(probability)
    return Verdict(chance >= least, chance, "" if chance >= least else f"probability {chance:.2f} under {least:.2f}")


@dataclass(frozen=True, slots=True, eq=False)
class FittedCheck:
    """The fitted verifier with the vectors it reads; a text in a fold of ``fit`` is judged by what has not seen it.

    ``fold_of`` names the fold of further texts, such as those of dev families in a stream.
    """

    verifier: FittedVerifier
    vectors: Vectors = field(repr=False)
    usd_per_check: float = 0.0
    fit: VerifierFit | None = field(default=None, repr=False)
    fold_of: Mapping[str, int] = field(default_factory=dict, repr=False)

    @property
    def used(self) -> VerifierUsed:
        """It as a plain value."""
        return VerifierUsed(FITTED, self.verifier.least, self.verifier.sha256, self.usd_per_check)

    def check(self, pairs: Sequence[TextPair]) -> list[Verdict]:
        """A verdict for each pair."""
        try:
            if self.fit is None:
                found = self.verifier.probabilities(pairs, self.vectors)
            else:
                known = {**self.fit.fold_of, **self.fold_of}
                folds = [known.get(asked, known.get(cached)) for asked, cached in pairs]
                found = self.fit.probabilities(pairs, self.vectors, folds)
        except WorkbenchError as error:  # an encoder that fails, or a budget that is spent
            return [Verdict(False, None, f"{FAILED}: {type(error).__name__}")] * len(pairs)
        return [verdict_of_probability(float(each), self.verifier.least) for each in found]


@dataclass(frozen=True, slots=True, eq=False)
class ModelVerifier:
    """``ModelVerifier(client, "local/qwen2.5-coder-0.5b")``: a model says yes or no, with the probability of its word.

    Calls have the purpose ``judge``, so that they are priced, budgeted and, with a client that records, recorded. A
    provider that gives no probabilities of tokens cannot verify: every pair is a miss.

    Attributes
    ----------
    least : float
        Probability of yes from which it agrees.
    usd_per_check : float
        What a check is counted as; `model_check_usd` has it for a model and its price.
    max_cost_usd : float or None
        What one batch may cost at most; None where each pair is asked alone, within the client's budgets.
    """

    client: Client = field(repr=False)
    model: str
    least: float = MODEL_LEAST
    usd_per_check: float = 0.0
    max_cost_usd: float | None = None
    prompt: str = field(default=PROMPT, repr=False)

    @property
    def used(self) -> VerifierUsed:
        """It as a plain value."""
        return VerifierUsed(MODEL + self.model, self.least, content_hash(self.model, self.prompt), self.usd_per_check)

    def check(self, pairs: Sequence[TextPair]) -> list[Verdict]:
        """A verdict for each pair; one alone is a call within the client's budgets, several are a batch.

        Raises
        ------
        ConfigError
            If a batch may cost more than ``max_cost_usd``.
        RecordingMiss, BudgetExceeded, SettlementFailed
            From a batch whose calls could not be made.
        """
        requests = [verifier_question(self.model, pair, self.prompt) for pair in pairs]
        if len(pairs) == 1:
            return [self._alone(requests[0])]
        items = {content_hash(*pair): BatchItem(f"verify:{content_hash(*pair)}", request)
                 for pair, request in zip(pairs, requests, strict=True)}  # fmt: skip
        with attributed(purpose="judge"):
            done = complete_batch(self.client, list(items.values()), max_cost_usd=self.max_cost_usd)
        return [self._verdict(done[f"verify:{content_hash(*pair)}"]) for pair in pairs]

    def _alone(self, request: Request) -> Verdict:
        try:
            done = self.client.complete(
                request.messages, model=request.model, max_tokens=request.max_tokens, purpose="judge"
            )
        except WorkbenchError as error:
            return Verdict(False, None, f"{FAILED}: {type(error).__name__}")
        return self._verdict(done)

    def _verdict(self, done: Completion | Exception) -> Verdict:
        if isinstance(done, Exception):
            return Verdict(False, None, f"{FAILED}: {type(done).__name__}")
        return verdict_of_answer(done.response, self.least)


def verifier_question(model: str, pair: TextPair, prompt: str = PROMPT) -> Request:
    """Request for one word; what a user wrote cannot end the fence around it."""
    asked, cached = (text.replace("<", "\u2039").replace(">", "\u203a") for text in pair)
    text = prompt.replace("{cached}", "\0").replace("{asked}", asked).replace("\0", cached)
    return Request(model, ({"role": "user", "content": text},), max_tokens=1)


def verdict_of_answer(response: Response, least: float) -> Verdict:
    """Verdict of an answer of one word, yes or no, with the probability of that word; "no" never agrees.

    The probability is that of the word among all words. Of a "no" it leaves at most ``min(p, 1 - p)`` for yes: what is
    not "no" need not be "yes", and yes would have been said if it were likelier.
    """
    word, sure = response.text.strip().strip(".,!*\"'").lower(), response.confidence
    if word == "yes":
        return verdict_of_probability(sure, least)
    if word != "no":
        return Verdict(False, None, "answer that is neither yes nor no")
    found = verdict_of_probability(sure if sure is None else min(sure, 1 - sure), least)
    return replace(found, agrees=False, reason=found.reason or "answer no")


def model_check_usd(model: str, prices: PriceTable, pairs: Sequence[TextPair]) -> float:
    """USD that asking a model about one of these pairs costs at most, by the mean; an unknown price raises."""
    sample = [verifier_question(model, pair) for pair in pairs]
    return estimate_batch(sample, prices).worst_usd / max(len(sample), 1)


@dataclass(frozen=True, slots=True, eq=False)
class CallableVerifier:
    """A user's ``function(asked, cached)``: True or a probability agrees, everything else is a miss."""

    name: str
    call: Callable[[str, str], Any] = field(repr=False)
    sha256: str = ""
    usd_per_check: float = 0.0
    least: float = LEAST

    @property
    def used(self) -> VerifierUsed:
        """It as a plain value."""
        return VerifierUsed(self.name, self.least, self.sha256, self.usd_per_check)

    def check(self, pairs: Sequence[TextPair]) -> list[Verdict]:
        """A verdict for each pair."""
        return [self._one(*pair) for pair in pairs]

    def _one(self, asked: str, cached: str) -> Verdict:
        try:
            return verdict_of_probability(self.call(asked, cached), self.least)
        except Exception as error:  # noqa: BLE001  # the user's own code: whatever goes wrong there, nothing is served
            return Verdict(False, None, f"{FAILED}: {type(error).__name__}")


@dataclass(slots=True, eq=False)
class Checks:
    """A guard and then a verifier, each pair asked once; it stands wherever a guard alone does."""

    guard: Guard | None
    verifier: Verifier
    verdicts: dict[TextPair, Verdict] = field(default_factory=dict)

    def asks(self, asked: str, cached: str) -> bool:
        """Whether the guard lets the pair come before the verifier."""
        return self.guard is None or self.guard.allows(asked, cached)

    def allows(self, asked: str, cached: str) -> bool:
        """Whether the cached answer may be served."""
        if not self.asks(asked, cached):
            return False
        if (asked, cached) not in self.verdicts:
            self.ask([(asked, cached)])
        return self.verdicts[asked, cached].agrees

    def ask(self, pairs: Iterable[TextPair]) -> None:
        """Learn what the verifier says of all that the guard lets pass, at once."""
        new = [p for p in dict.fromkeys(pairs) if p not in self.verdicts and self.asks(*p)]
        if new:
            self.verdicts |= dict(zip(new, self.verifier.check(new), strict=True))


@dataclass(frozen=True, slots=True)
class Later:
    """What a verifier is asked off the path: pairs from this cosine on, not served at once, that this guard lets pass.

    Attributes
    ----------
    floor : float
        Least cosine, in (0, 1]; a pair at the threshold or above it is put off too where the guard that decides at once
        stops it and this one does not.
    guard : Guard or None
        It also has a say where a promoted text is near: between what is asked and what the answer was given to.
    """

    floor: float
    guard: Guard | None = None

    def allows(self, asked: str, answered: str) -> bool:
        """Whether the verifier may be asked."""
        return self.guard is None or self.guard.allows(asked, answered)


@dataclass(frozen=True, slots=True, eq=False)
class LaterChecks:
    """A guard that decides at once, and checks that are made off the path; ``allows`` is what is served at once."""

    guard: Guard | None
    checks: Checks
    floor: float

    @property
    def later(self) -> Later:
        """What is put off, as a plain value."""
        return Later(self.floor, self.checks.guard)

    def allows(self, asked: str, cached: str) -> bool:
        """Whether the cached answer may be served at once."""
        return self.guard is None or self.guard.allows(asked, cached)


def verifier_asked(entry: str) -> str:
    """Verifier of an entry, whether it is asked in line or later.

    >>> verifier_asked("later:fitted"), verifier_asked("fitted")
    ('fitted', 'fitted')
    """
    return entry.removeprefix(LATER)


def check_verifier_name(entry: str) -> None:
    """Refuse an entry that names no verifier, without loading anything.

    Raises
    ------
    ConfigError
        If it is not of the form.
    """
    name = verifier_asked(entry)
    source, at, usd = name.rpartition("@")
    known = name == FITTED or (name.startswith(MODEL) and len(name) > len(MODEL))
    if not known and not (at and all(source.partition(":")[::2]) and _is_verifier_usd(usd)):
        raise ConfigError(f"verifier {entry!r} is not {FORM}")


def _is_verifier_usd(text: str) -> bool:
    try:
        return 0 <= float(text) < float("inf")
    except ValueError:
        return False


def load_callable_verifier(entry: str, settings: Settings) -> CallableVerifier:
    """Verifier of ``module:function@USD``; its hash is that of its file and of what it imports from the project.

    Raises
    ------
    ConfigError
        If it cannot be imported or called.
    """
    source, _, usd = entry.rpartition("@")
    module, _, name = source.partition(":")
    try:
        loaded = import_module_of(module, settings.root)
        call = getattr(loaded, name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"verifier {source!r} cannot be imported: {error}") from error
    if not callable(call):
        raise ConfigError(f"verifier {source!r} cannot be called; it is {call!r}")
    sha256 = content_hash(*(file.read_bytes() for file in files_of_module(loaded, settings.root)))
    return CallableVerifier(source, call, sha256, float(usd) / 1000)


MOST_WAITING, MOST_REFUSED = 1_000, 10_000


NOT_YET, NO_PLACE, REFUSED = "verifier not asked yet", "verifier not asked: too many wait", "verifier did not agree"


@dataclass(frozen=True, slots=True)
class PutOffCheck:
    """A question that was a miss, and the entry whose answer it may get; ``who`` asked pays for the check."""

    scope: str
    asked: str
    question: str
    vector: bytes
    why: Promotion
    who: Attribution


class WaitingChecks:
    """Checks in the order in which they were put off, each once; thread-safe.

    Parameters
    ----------
    entries : Entries
        Where texts are promoted, and what was lost is counted.
    judge : callable
        What the verifier says of a question and an entry.
    """

    def __init__(self, entries: Entries, judge: Callable[[str, Entry], Verdict], most: int = MOST_WAITING) -> None:
        self._entries, self._judge, self._most = entries, judge, most
        self._lock = threading.Lock()
        self._waiting = OrderedDict[tuple[str, str, int], PutOffCheck]()
        self._refused = OrderedDict[tuple[str, str, int], None]()

    def put(self, pair: PutOffCheck) -> str:
        """Take a pair, or leave it; returns why the request is a miss, in words."""
        key = pair.scope, pair.question, pair.why.root
        with self._lock:
            if key in self._refused:
                return REFUSED
            if key not in self._waiting and len(self._waiting) >= self._most:
                self._entries.problems["check that found no place"] += 1
                return NO_PLACE
            self._waiting.setdefault(key, pair)
        return NOT_YET

    def settle(self, most: int, ended: threading.Event | None = None) -> Iterator[str]:
        """Ask about the oldest; yields the scope of each promotion."""
        for _ in range(most):
            with self._lock:
                if not self._waiting or (ended and ended.is_set()):
                    return
                key, pair = self._waiting.popitem(last=False)
            try:
                promoted, failed = self._settle(pair)
            except (WorkbenchError, SQLAlchemyError):
                promoted, failed = False, True
                self._entries.problems["check that was lost"] += 1
            if promoted:
                yield pair.scope
            elif not failed:
                with self._lock:
                    self._refused[key] = None
                    if len(self._refused) > MOST_REFUSED:
                        self._refused.popitem(last=False)

    def _settle(self, pair: PutOffCheck) -> tuple[bool, bool]:
        """Whether it is promoted, and whether that may be tried again."""
        root = self._entries.read(pair.scope, version=pair.why.root)
        if root is None:
            return False, False
        with attributed(tenant_id=pair.who.tenant_id, user_id=pair.who.user_id, feature=pair.who.feature):
            verdict = self._judge(pair.asked, root)
        if not verdict.agrees:
            return False, verdict.reason.startswith(FAILED)
        kept = self._entries.promote(pair.scope, pair.asked, question=pair.question, vector=pair.vector, why=pair.why)
        return kept, False
