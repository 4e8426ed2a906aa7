"""Tokens of an answer as litellm gives them, in classes that are disjoint; what does not add up is read dearly."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from workbench.inference.messages import DoubtfulUsage, UnpricedUsage, Usage
from workbench.inference.vendors import vendor_of


def counted_tokens(usage: Any, *, model: str, keeps_long: bool = False) -> Usage | None:
    """``counted_tokens(answer.usage, model="xai/grok-4")``: token classes of litellm's count of one answer.

    Its prompt tokens include what was read from and written to a cache. Counts that do not fit the vendor's own total
    are resolved by what is known of the vendor, else read in the dearer way, as a `DoubtfulUsage`.

    Parameters
    ----------
    usage : litellm.Usage or None
        Where the provider did not count, litellm says 0.
    model : str
        Says whose rules hold, see `vendor_of`.
    keeps_long : bool
        Whether a cache of an hour was asked for: what was written is all kept so long, unless the provider says how
        much.

    Returns
    -------
    Usage or None
        None if the provider did not count, or a class is larger than what it is a part of. An `UnpricedUsage` if it
        counts what has a price of its own: sound, pictures that were made, searches.
    """
    if usage is None:
        return None
    try:
        prompt, completion, total = (
            _tokens_told(usage, f"{name}_tokens") for name in ("prompt", "completion", "total")
        )
        if not prompt:
            return None
        asked, said = (getattr(usage, f"{name}_tokens_details", None) for name in ("prompt", "completion"))
        classes = _cached_tokens(usage, asked, keeps_long)
        thinking = _tokens_told(said, "reasoning_tokens")
        output, sure = _output_tokens(
            completion, thinking, total - prompt, _tokens_told(asked, "tool_use_tokens"), model
        )
        short = prompt + completion - total if total else 0  # some totals leave out what was read from a cache
        kind = Usage if sure and (short <= 0 or short == classes["cache_read"]) else DoubtfulUsage
        if _tokens_priced_apart(usage, asked, said):
            kind = UnpricedUsage
        return kind.of_prompt(prompt, output, **classes)
    except ValueError:
        return None


def counted_last_tokens(usages: Sequence[Any], *, model: str, keeps_long: bool = False) -> Usage | None:
    """``counted_last_tokens([chunk.usage, ...], model=...)``: token classes of a stream; its last count is of all.

    What has a price of its own may be told before that alone, such as Gemini's searches.
    """
    counts = [counted_tokens(usage, model=model, keeps_long=keeps_long) for usage in usages]
    last = counts[-1] if counts else None
    if last is None or not any(isinstance(count, UnpricedUsage) for count in counts):
        return last
    return UnpricedUsage(**asdict(last))


def counted_text_tokens(usage: Any) -> Usage | None:
    """``counted_text_tokens(answer.usage)``: tokens of a request for embeddings, the larger of prompt and total.

    None where the provider did not count.
    """
    if usage is None:
        return None
    try:
        prompt, total = _tokens_told(usage, "prompt_tokens"), _tokens_told(usage, "total_tokens")
    except ValueError:
        return None
    most = max(prompt, total)
    return (Usage if prompt and total in (0, prompt) else DoubtfulUsage)(fresh=most) if most else None


def _output_tokens(completion: int, thinking: int, rest: int, tools: int, model: str) -> tuple[int, bool]:
    """Tokens to pay as output, and whether that is sure; ``rest`` is what the vendor's total leaves for the output.

    ``tools`` are prompt tokens of the vendor's own tools that litellm counts in the total alone: those of Gemini's
    search, which are not charged (https://ai.google.dev/gemini-api/docs/google-search).
    """
    if rest <= completion or rest == completion + tools:  # also where no total was given
        # More thinking than completion cannot be a part of it; a total that says so would be another doubt.
        if thinking > completion:
            return completion + thinking, vendor_of(model).thinking == "beside"
        return completion, True
    for beside in (thinking, thinking + tools):
        if rest == completion + beside:
            return completion + thinking, True
    return (rest if thinking <= rest else completion + thinking), False


def _cached_tokens(usage: Any, details: Any, keeps_long: bool) -> dict[str, int]:
    write = _tokens_told(details, "cache_creation_tokens") or _tokens_told(usage, "cache_creation_input_tokens")
    told = getattr(details, "cache_creation_token_details", None)
    if getattr(told, "ephemeral_1h_input_tokens", None) is None:
        long = write if keeps_long else 0
    else:
        long = _tokens_told(told, "ephemeral_1h_input_tokens")
    return {"cache_read": _tokens_told(details, "cached_tokens"), "cache_write": write, "cache_write_long": long}


def _tokens_priced_apart(usage: Any, asked: Any, said: Any) -> bool:
    """Whether something was used that no class of tokens has a price for."""
    tools = getattr(usage, "server_tool_use", None)
    apart = [(asked, "audio_tokens"), (asked, "web_search_requests"), (said, "audio_tokens"), (said, "image_tokens"),
             (said, "video_tokens"), (tools, "web_search_requests"), (usage, "num_search_queries"),
             (usage, "citation_tokens")]  # fmt: skip
    return any(_tokens_told(part, name) for part, name in apart)


def _tokens_told(part: Any, name: str) -> int:
    """Tokens of one kind, 0 where they are not told.

    Raises
    ------
    ValueError
        If that is no whole number from 0.
    """
    value = getattr(part, name, None)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or value != int(value):
        raise ValueError(f"{name} is no count: {value!r}")
    return int(value)
