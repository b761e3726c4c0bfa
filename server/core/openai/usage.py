"""Token counts: the upstream's own, or an estimate that is marked as one."""

from collections.abc import Mapping
from typing import Any

# English prose has about four bytes per token with the tokenizers in use. An estimate has `measured: false`.
BYTES_PER_TOKEN = 4


def measured(usage: dict[str, Any]) -> bool:
    """Whether an upstream's `usage` object has the counts that OpenAI's API reference names."""
    return isinstance(usage.get("prompt_tokens"), int) and isinstance(usage.get("completion_tokens"), int)


def with_total(usage: dict[str, Any]) -> dict[str, Any]:
    """Return a measured usage with its total, even if the upstream left that out."""
    if isinstance(usage.get("total_tokens"), int):
        return usage
    return {**usage, "total_tokens": usage["prompt_tokens"] + usage["completion_tokens"]}


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
