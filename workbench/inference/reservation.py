"""What a request may cost at most: the amount that is set aside before anything is asked."""

import json
from collections.abc import Mapping

from workbench.inference.messages import Request
from workbench.inference.prices import PriceTable

TOKENS_PER_MESSAGE = 8
# What vendors add to a prompt without showing it: instructions for tools, and the tokens of a picture behind a link.
TOKENS_FOR_TOOLS, TOKENS_PER_PICTURE = 600, 4000


def worst_nanos(prices: PriceTable, request: Request) -> int:
    """Nano-dollars of one attempt at most.

    Raises
    ------
    UnknownPrice
        If the model has no price, or none for a cache of an hour where the request asks for one.
    """
    tokens = worst_input_tokens(request)
    return prices.worst_nanos(
        request.model, input_tokens=tokens, max_tokens=request.max_tokens, keeps_long=request.keeps_long
    )


def worst_input_tokens(request: Request) -> int:
    """Upper bound of the prompt's tokens: byte-level vocabularies make at most one of each UTF-8 byte.

    For what vendors count beside the text it has an allowance.
    """
    text = json.dumps([request.messages, request.tools, request.schema], ensure_ascii=False, default=dict)
    parts = [p for m in request.messages if isinstance(m.get("content"), list) for p in m["content"]]
    pictures: int = sum(isinstance(p, Mapping) and p.get("type", "text") != "text" for p in parts)
    extra = TOKENS_PER_PICTURE * pictures + TOKENS_FOR_TOOLS * bool(request.tools)
    return len(text.encode(errors="replace")) + TOKENS_PER_MESSAGE * len(request.messages) + extra
