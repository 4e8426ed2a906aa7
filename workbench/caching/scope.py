"""Who may share an answer with whom: an exact key for everything but the question, and the question's own text.

Two requests can share an answer only if all fields of their scopes are equal; similarity is looked at inside a scope
and compares nothing but intents. A system prompt in front of both would make any two questions look alike.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from workbench.evalset.follow_ups import needs_turns
from workbench.inference.embedding import Embedder
from workbench.inference.messages import CacheUse, Message, Request
from workbench.records import content_hash
from workbench.telemetry.attribution import Attribution

# Of an encoder that does not count tokens: the shortest limit in use is 128 tokens of about four bytes.
UNCOUNTED_BYTES = 512


@dataclass(frozen=True, slots=True)
class Scope:
    """Everything that must be equal before two questions are compared; each field is text that is injective.

    Attributes
    ----------
    visibility : str
        The user, the whole tenant or the named permission set that the answer may be shown to.
    parameters : str
        All of the request but model, messages and tools: also what a later version adds to it.
    prompt : str
        System prompt, earlier turns, and what stands around the intent in the last message, see `scope_intent`.
    encoder : str
        What the vectors depend on; the name of the cache where there are none.
    """

    tenant_id: str
    visibility: str
    feature: str
    model: str
    parameters: str
    prompt: str
    tools: str
    corpus_version: str
    prompt_version: str
    configuration: str
    encoder: str
    locale: str

    @property
    def key(self) -> str:
        """sha256 (hex) of all fields."""
        return content_hash(exact_scope_json(asdict(self)))

    @classmethod
    def of(cls, request: Request, who: Attribution, use: CacheUse, *, encoder: str) -> Self | None:
        """Scope of a request; None where it is not known whom the answer belongs to."""
        audience = [use.visibility, who.user_id] if use.visibility == "user" else [use.visibility]
        if not who.tenant_id or not all(audience):
            return None
        apart = ("model", "messages", "tools")
        parameters = {f.name: getattr(request, f.name) for f in fields(request) if f.name not in apart}
        if request.key_order:  # of tools and schema, which is lost in one spelling
            parameters["key_order"] = request.key_order
        return cls(
            tenant_id=who.tenant_id,
            visibility=exact_scope_json(audience),
            feature=who.feature,
            model=request.model,
            parameters=exact_scope_json(parameters),
            prompt=exact_scope_json(
                [request.messages[:-1], _scope_around(request.messages[-1], use), *([use.turns] if use.turns else ())]
            ),
            tools=exact_scope_json(request.tools),
            corpus_version=use.corpus_version,
            prompt_version=use.prompt_version,
            configuration=use.configuration,
            encoder=encoder,
            locale=use.locale,
        )


def scope_intent(request: Request, use: CacheUse, embedder: Embedder | None = None) -> str | None:
    """Text to embed: the only user message, or the intent that the caller gives; None where anything is doubtful.

    Doubtful are sampled answers, tools in play, a last message that is not the user's or not all text, earlier turns
    without a given intent ("how old is he?"), a follow-up ("and in pyarrow?") without earlier turns, a blank text, and
    one that the encoder would cut off. Turns are part of the scope and compared exactly: those in the messages, and
    what ``use.turns`` says where the prompt tells them.

    A given intent must stand in the last message, and where that says more, ``use.prompt_version`` must name a version
    of the prompt around it. Retrieved documents in it come from the corpus where ``use.corpus_version`` names one;
    otherwise what stands around the intent is part of the scope and compared exactly.
    """
    *earlier, last = request.messages
    sampled = request.temperature > 0
    if sampled or request.tools or last["role"] != "user" or any(_scope_uses_tools(m) for m in request.messages):
        return None
    written = scope_text(last)
    if written is None or (use.intent is None and any(m["role"] != "system" for m in earlier)):
        return None
    written = written.strip()
    intent = written if use.intent is None else use.intent.strip()
    if intent not in written or (intent != written and not use.prompt_version):
        return None
    if not intent or intent_lacks_turns(request, use, intent):
        return None
    return intent if embedder is None or _intent_fits_encoder(intent, embedder) else None


def intent_lacks_turns(request: Request, use: CacheUse, intent: str) -> bool:
    """Whether an intent needs earlier turns, and none are part of the scope."""
    return not use.turns and all(m["role"] == "system" for m in request.messages[:-1]) and needs_turns(intent)


def scope_text(message: Message) -> str | None:
    """Text of a message, also of one in parts; None where a part is no text."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple) or not all(isinstance(part, Mapping) for part in content):
        return None
    texts = [part.get("text") for part in content if part.get("type") == "text"]
    return "\n".join(texts) if len(texts) == len(content) and all(isinstance(t, str) for t in texts) else None


def exact_scope_json(value: Any) -> str:
    """JSON in one spelling and in ASCII, so that no character of a hostile text is lost or refused."""
    return json.dumps(value, sort_keys=True, ensure_ascii=True, default=dict)


def _scope_around(last: Message, use: CacheUse) -> list[Any]:
    rest = {name: value for name, value in last.items() if name != "content"}
    written = scope_text(last)
    if written is None:
        return [rest, last.get("content")]
    if use.intent is None or (use.corpus_version and use.prompt_version):
        return [rest]
    intent = use.intent.strip()
    before, found, after = written.partition(intent) if intent else (written, "", "")
    return [rest, before.strip(), bool(found), after.strip()]


def _scope_uses_tools(message: Message) -> bool:
    return message["role"] == "tool" or bool(message.get("tool_calls"))


def _intent_fits_encoder(text: str, embedder: Embedder) -> bool:
    """Whether the encoder sees all of the text."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:  # half a surrogate pair is no text
        return False
    limit, offsets = getattr(embedder, "max_tokens", None), getattr(embedder, "offsets", None)
    return size <= UNCOUNTED_BYTES if limit is None or offsets is None else len(offsets(text)) <= limit
