"""What is believed of each vendor, in one place with its source: what it counts, what it bills, what it takes at once.

A vendor is the first part of litellm's name for a model; one that is not named here is believed to be like `DEFAULT`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from workbench.errors import Billed

# RFC 9110, 15.6.4, and Anthropic's own 529: the request was turned away, and was not worked on.
OVERLOADED = frozenset({503, 529})
_TIMED_OUT = 408
# Reasons to finish that stand for a failure of the vendor's, in an answer of status 200; litellm calls each "stop".
FAILED_ENDS: Mapping[str, str] = MappingProxyType({
    "error": "https://openrouter.ai/docs/api/reference/errors-and-debugging; https://docs.mistral.ai/api; "
    "https://docs.cohere.com/reference/chat",
    "timeout": "https://docs.cohere.com/reference/chat",
    "insufficient_system_resource": "https://api-docs.deepseek.com/api/create-chat-completion",
    "network_error": "https://docs.z.ai/api-reference/llm/chat-completion",
    "abort": "https://docs.vllm.ai/en/latest/api/vllm/v1/engine (FinishReason; also of SGLang)",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Vendor:
    """Beliefs about one vendor; ``source`` says where each comes from.

    Attributes
    ----------
    thinking : {"inside", "beside"}
        Whether tokens of thinking are a part of the completion tokens that litellm gives, or come beside them.
    free : frozenset of int
        Statuses, beside those of refusals and of `OVERLOADED`, that cost nothing where the error is told in words.
    costly : frozenset of int
        Statuses of refusals that may be charged all the same.
    free_ends : bool
        Whether an answer that ends in one of `FAILED_ENDS` costs nothing where no tokens came out.
    texts, tokens, text_tokens : int
        Of a request for embeddings: texts and tokens at most, and tokens of one text.
    counts_as : {"cl100k_base", ""}
        Vocabulary with which its tokens of an embedding are counted exactly; "" if that is not published.
    """

    thinking: Literal["inside", "beside"] = "inside"
    free: frozenset[int] = frozenset()
    costly: frozenset[int] = frozenset()
    free_ends: bool = False
    texts: int = 128
    tokens: int = 16_000
    text_tokens: int = 8_000
    counts_as: Literal["cl100k_base", ""] = ""
    source: str = ""


DEFAULT = Vendor(
    source="OpenAI's protocol: completion_tokens_details is a breakdown of completion_tokens "
    "(https://platform.openai.com/docs/api-reference/chat/object); no limits known, so rather small ones"
)
_OPENAI_LIMITS = (
    "https://platform.openai.com/docs/api-reference/embeddings/create (2,048 texts, 300,000 tokens, 8,192 each)"
)
_AZURE_BILLS = (
    "https://learn.microsoft.com/azure/ai-services/openai/how-to/manage-costs (400 for a content filter or an input "
    "limit may be charged, 401 and 429 are not)"
)
VENDORS: Mapping[str, Vendor] = MappingProxyType({
    "openai": Vendor(
        texts=2048, tokens=300_000, text_tokens=8_191, counts_as="cl100k_base",
        source=f"{_OPENAI_LIMITS}; https://platform.openai.com/docs/guides/reasoning (reasoning is billed as a part of "
        "the output tokens)",
    ),
    "azure": Vendor(
        costly=frozenset({400}), texts=2048, tokens=300_000, text_tokens=8_191, counts_as="cl100k_base",
        source=f"{_AZURE_BILLS}; {_OPENAI_LIMITS}",
    ),
    "azure_ai": Vendor(costly=frozenset({400}), texts=96, source=_AZURE_BILLS),
    "anthropic": Vendor(
        source="https://docs.claude.com/en/api/errors (529: the API is overloaded); "
        "https://docs.claude.com/en/docs/build-with-claude/extended-thinking (thinking is billed as output tokens)",
    ),
    "gemini": Vendor(
        free=frozenset({500}), texts=100, tokens=20_000, text_tokens=2_048,
        source="https://ai.google.dev/gemini-api/docs/billing (a request that fails with a 400 or 500 error is not "
        "charged); https://ai.google.dev/gemini-api/docs/thinking (thoughtsTokenCount is billed as output; litellm "
        "adds it to the completion); https://ai.google.dev/gemini-api/docs/embeddings (2,048 tokens a text)",
    ),
    "vertex_ai": Vendor(
        texts=250, tokens=20_000, text_tokens=2_048,
        source="https://cloud.google.com/vertex-ai/generative-ai/docs/embeddings/get-text-embeddings (250 texts, "
        "20,000 tokens, 2,048 each)",
    ),
    "xai": Vendor(
        thinking="beside",
        source="https://docs.x.ai/docs/guides/reasoning (total = prompt + completion + reasoning); litellm adds the "
        "reasoning to the completion where the vendor's total says so",
    ),
    "openrouter": Vendor(
        free=frozenset({500, 502}), free_ends=True,
        source="https://openrouter.ai/docs/features/zero-completion-insurance (an answer without output tokens that "
        "ends in an error is not charged)",
    ),
    "cohere": Vendor(texts=96, source="https://docs.cohere.com/reference/embed (96 texts)"),
    "mistral": Vendor(source="https://docs.mistral.ai/capabilities/embeddings/text_embeddings (8,192 tokens a text)"),
    "voyage": Vendor(
        tokens=100_000, text_tokens=30_000,
        source="https://docs.voyageai.com/docs/embeddings (1,000 texts, 120,000 tokens, 32,000 each)",
    ),
})  # fmt: skip


def vendor_of(model: str) -> Vendor:
    """Beliefs about the vendor of a model.

    >>> vendor_of("xai/grok-4").thinking, vendor_of("local/smollm2-135m").thinking
    ('beside', 'inside')
    """
    return VENDORS.get(model.partition("/")[0], DEFAULT)


def vendor_bills(model: str, status: int | None, *, told: bool) -> Billed:
    """Whether a vendor may charge for a request that it ended with this status.

    Parameters
    ----------
    status : int or None
        That of HTTP, or that of an error told in the body of a 200; None if it told an error without any.
    told : bool
        Whether the error came in words that can be read, and without tokens that were counted. Without words a
        gateway may have lost an answer that the model gave.

    >>> [vendor_bills("openai/m", status, told=told) for status, told in ((529, True), (529, False), (500, True))]
    ['no', 'unknown', 'unknown']
    """
    vendor = vendor_of(model)
    if status is None:
        return "no" if told else "unknown"
    if status < 500:
        return "unknown" if status == _TIMED_OUT or status in vendor.costly else "no"
    return "no" if told and status in OVERLOADED | vendor.free else "unknown"
