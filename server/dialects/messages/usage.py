"""Token counts in the form of both APIs.

OpenAI counts the tokens that a cache has read or written among those of the prompt. Anthropic counts them beside it.
"""

from collections.abc import Mapping
from typing import Any, TypeGuard

from server.core.openai.usage import estimate, prompt_bytes
from server.core.wide_json import dumps

IMAGE_TOKENS = 1_600  # of an image of a megapixel (https://platform.claude.com/docs/en/build-with-claude/vision)
READ, WRITTEN = "cache_read_input_tokens", "cache_creation_input_tokens"


def messages_usage(usage: Mapping[str, Any]) -> dict[str, int]:
    """Return OpenAI's counts in Anthropic's form. Of a count that is no number, 0 is left."""
    details = usage.get("prompt_tokens_details")
    read, written = (
        _count(details, name) if isinstance(details, dict) else 0 for name in ("cached_tokens", "cache_write_tokens")
    )
    return {
        "input_tokens": max(0, _count(usage, "prompt_tokens") - read - written),
        WRITTEN: written,
        READ: read,
        "output_tokens": _count(usage, "completion_tokens"),
    }


def counts_prompt(usage: object) -> TypeGuard[dict[str, Any]]:
    """Whether a `usage` of an upstream says how many tokens the prompt has."""
    return isinstance(usage, dict) and _count(usage, "prompt_tokens") > 0


def chat_usage(usage: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return Anthropic's counts in OpenAI's form; None if nothing is counted. A count that is no number is 0."""
    read, written, output = (_count(usage, name) for name in (READ, WRITTEN, "output_tokens"))
    prompt = _count(usage, "input_tokens") + read + written
    if not prompt and not output:
        return None
    counts: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": read, "cache_write_tokens": written},
    }
    details = usage.get("output_tokens_details")
    if isinstance(details, dict) and (thought := _count(details, "thinking_tokens")):
        counts["completion_tokens_details"] = {"reasoning_tokens": thought}
    return counts


def estimated_input(body: Mapping[str, Any]) -> int:
    """Return about how many tokens the prompt of a chat completion request has: its texts, calls, tools and images."""
    size, images = prompt_bytes(body), 0
    if tools := body.get("tools"):
        size += len(dumps(tools))
    for message in body.get("messages") or ():
        if calls := message.get("tool_calls"):
            size += len(dumps(calls))
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            images += isinstance(part, dict) and part.get("type") == "image_url"
    return int(estimate(size, 0)["prompt_tokens"]) + images * IMAGE_TOKENS


def _count(source: Mapping[str, Any], name: str) -> int:
    value = source.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
