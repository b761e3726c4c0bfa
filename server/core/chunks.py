"""Reading OpenAI chat completion chunks (https://platform.openai.com/docs/api-reference/chat-streaming)."""

from typing import Any

import orjson

Chunk = dict[str, Any]

# A delta with one of these carries something of the answer; a role or an empty string does not.
REASONING_FIELDS = ("reasoning_content", "reasoning")
TEXT_FIELDS = ("content", *REASONING_FIELDS, "refusal")
CALL_FIELDS = ("tool_calls", "function_call")
SUBSTANCE_FIELDS = (*TEXT_FIELDS, *CALL_FIELDS, "audio")


def has_substance(choice: dict[str, Any]) -> bool:
    """Whether a choice of a chunk carries content, reasoning, a refusal, a tool call or a finish reason."""
    if choice.get("finish_reason"):
        return True
    delta = choice.get("delta")
    return bool(delta) and any(delta.get(name) for name in SUBSTANCE_FIELDS)  # type: ignore[union-attr]  # truthy


def well_formed(chunk: object) -> bool:
    """Whether this is an object whose `choices` (if any) are objects with object deltas: nothing else is relayed."""
    if not isinstance(chunk, dict):
        return False
    choices = chunk.get("choices")
    if choices is None:
        return "usage" in chunk or "error" in chunk
    return isinstance(choices, list) and all(
        isinstance(choice, dict) and isinstance(choice.get("delta") or {}, dict) for choice in choices
    )


def identity(chunk: Chunk) -> Chunk:
    """Return the fields that stay those of the first chunk, whichever attempt a chunk comes from."""
    return {name: chunk[name] for name in ("id", "created", "model") if name in chunk}


def usage_chunk(first: Chunk, usage: dict[str, Any]) -> bytes:
    """Return the extra chunk that `stream_options.include_usage` asks for."""
    return orjson.dumps({"object": "chat.completion.chunk", **first, "choices": [], "usage": usage})


def text_chunk(first: Chunk, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
    """Return a chunk of one choice."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return orjson.dumps({"object": "chat.completion.chunk", **first, "choices": [choice]})
