"""Token counts: the upstream's own, or an estimate that is marked as one."""

from collections.abc import Mapping
from typing import Any

# What is kept of an upstream's `usage` object, by OpenAI's API reference
# (https://platform.openai.com/docs/api-reference/chat/object). It goes into endings, log lines and sums. Beside it an
# upstream can send anything, nested as deep as it likes.
COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")
DETAILS = {
    "prompt_tokens_details": ("cached_tokens", "cache_write_tokens", "audio_tokens"),
    "completion_tokens_details": (
        "reasoning_tokens",
        "audio_tokens",
        "accepted_prediction_tokens",
        "rejected_prediction_tokens",
    ),
}
MAX_COUNT = (1 << 53) - 1  # what every reader of JSON can hold (RFC 8259, section 6); a sum of many still has 64 bits

# English prose has about four bytes per token with the tokenizers in use. An estimate has `measured: false`.
BYTES_PER_TOKEN = 4


def measured(usage: object) -> dict[str, Any] | None:
    """Return the known fields of an upstream's `usage` object, with a total; None unless it counts both sides."""
    if not isinstance(usage, dict):
        return None
    counts: dict[str, Any] = _counts(usage, COUNTS)
    if "prompt_tokens" not in counts or "completion_tokens" not in counts:
        return None
    counts.setdefault("total_tokens", min(counts["prompt_tokens"] + counts["completion_tokens"], MAX_COUNT))
    for name, fields in DETAILS.items():
        if details := _counts(usage.get(name), fields):
            counts[name] = details
    return counts


def tokens_by_kind(usage: Mapping[str, Any]) -> dict[str, int]:
    """Return the tokens of a usage object by kind. `cached` ones are among those of the prompt, and so on."""
    prompt, completion = (usage.get(name) or {} for name in DETAILS)
    return {
        "prompt": usage["prompt_tokens"],
        "completion": usage["completion_tokens"],
        "cached": prompt.get("cached_tokens", 0),
        "reasoning": completion.get("reasoning_tokens", 0),
    }


def _counts(source: object, names: tuple[str, ...]) -> dict[str, int]:
    """Return the counts among some fields, each from 0 to MAX_COUNT."""
    values = {name: source.get(name) for name in names} if isinstance(source, dict) else {}
    return {
        name: min(max(value, 0), MAX_COUNT)
        for name, value in values.items()
        if isinstance(value, int) and not isinstance(value, bool)
    }


def estimate(prompt_bytes: int, completion_tokens: int) -> dict[str, Any]:
    """Return a usage object for a stream whose upstream sent none.

    The prompt is estimated by its size in bytes, the completion by its number of chunks.
    """
    prompt = -(-prompt_bytes // BYTES_PER_TOKEN)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt + completion_tokens,
        "measured": False,
    }


def prompt_bytes(body: Mapping[str, Any]) -> int:
    """Return the size of the texts in a request's messages, in bytes of UTF-8."""
    total = 0
    for message in body.get("messages") or ():
        content = message.get("content") if isinstance(message, dict) else None
        parts = content if isinstance(content, list) else [{"text": content}]
        for part in parts:
            text = part.get("text") if isinstance(part, dict) else part
            if isinstance(text, str):
                total += len(text.encode("utf-8", "surrogatepass"))
    return total
