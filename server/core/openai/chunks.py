"""Reading OpenAI chat completion chunks (https://platform.openai.com/docs/api-reference/chat-streaming)."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from server.core.wide_json import dumps

Chunk = dict[str, Any]
DONE_DATA = b"[DONE]"  # the data of the event after the last chunk

# A delta with one of these fields carries a part of the answer. A role or an empty string does not.
REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")
# The texts of a choice, each with its names in a delta. Reasoning has several names; some upstreams send it under two.
TEXTS = {"content": ("content",), "reasoning": REASONING_FIELDS, "refusal": ("refusal",)}
TEXT_FIELDS = tuple(name for names in TEXTS.values() for name in names)
ONCE_FIELDS = ("tool_calls", "function_call", "audio")  # must not reach a client twice: it may act on them at once
SUBSTANCE_FIELDS = (*TEXT_FIELDS, *ONCE_FIELDS)
SCAFFOLD = frozenset({"role", "index", "id", "type"})  # say where a part belongs, and are no part of the answer
NESTED = 4  # levels of a delta that are looked at: calls have three
MAX_PARTS = 100  # fields and elements of each level that are looked at
MAX_CHOICES = 1024  # of a chunk; OpenAI's `n` is at most 128
KNOWN_FIELDS = frozenset({"role", *SUBSTANCE_FIELDS})


def has_substance(choice: dict[str, Any]) -> bool:
    """Whether a choice of a chunk carries content, reasoning, a refusal, a tool call or a finish reason."""
    if choice.get("finish_reason"):
        return True
    delta = choice.get("delta")
    return bool(delta) and any(delta.get(name) for name in SUBSTANCE_FIELDS)  # type: ignore[union-attr]  # truthy


def text_of(delta: dict[str, Any], kind: str) -> Any:
    """Return a delta's piece of one of the `TEXTS`: usually a string; None if there is none."""
    return next((text for name in TEXTS[kind] if (text := delta.get(name))), None)


def says_anything(choice: dict[str, Any]) -> bool:
    """Whether a choice of a chunk carries more than a role. A field that we do not know counts as well."""
    delta = choice.get("delta") or {}
    return bool(choice.get("finish_reason")) or any(value for name, value in delta.items() if name != "role")


def goes_on(choice: dict[str, Any]) -> bool:
    """Whether a choice of a chunk brings more of the answer: anything in its delta that is not empty, or a part of it.

    Roles, empty texts and calls without a name and arguments are sent by a server that only keeps its connection alive.
    """
    return any(_brings(name, value, NESTED) for name, value in (choice.get("delta") or {}).items())


def _brings(name: str, value: object, levels: int) -> bool:
    if levels and isinstance(value, dict):
        return any(_brings(key, one, levels - 1) for key, one in islice(value.items(), MAX_PARTS))
    if levels and isinstance(value, list):
        return any(_brings(name, one, levels - 1) for one in islice(value, MAX_PARTS))
    return bool(value) and name not in SCAFFOLD


def others_of(delta: dict[str, Any]) -> Iterator[tuple[str, list[Any]]]:
    """Yield what a delta carries beside texts and calls, by its fields: images, annotations and the like."""
    for name, value in delta.items():
        if value and name not in KNOWN_FIELDS:
            yield name, value if isinstance(value, list) else [value]


def text_within(item: object) -> str | None:
    """Return the name under which an item repeats the text beside it (OpenRouter's `reasoning_details`), or None."""
    names = ("text", "summary", "thinking")
    return next((name for name in names if isinstance(item, dict) and _is_text(item.get(name))), None)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def index_of(choice: dict[str, Any]) -> int:
    """Return the number of a choice. An upstream that has only one may leave the index out, or send null."""
    return choice.get("index") or 0


def well_formed(chunk: dict[str, Any]) -> bool:
    """Whether the gateway can read an object that has `choices`. Nothing else is relayed.

    The `delta`, `index` and `finish_reason` of each choice have their type, or are null. A delta may also be empty in
    any form: PHP writes an empty object as `[]`.
    """
    choices = chunk["choices"]
    if not isinstance(choices, list) or len(choices) > MAX_CHOICES:
        return False
    for choice in choices:  # a loop is faster than all(…)
        if not isinstance(choice, dict):
            return False
        delta, index, reason = choice.get("delta"), choice.get("index"), choice.get("finish_reason")
        if (delta and not isinstance(delta, dict)) or not (isinstance(index, int) or index is None):
            return False
        if reason is not None and not isinstance(reason, str):
            return False
    return True


def identity(chunk: Chunk) -> Chunk:
    """Return the fields that are the same in all chunks of a stream, whichever attempt a chunk comes from."""
    return {name: chunk[name] for name in ("id", "created", "model") if name in chunk}


def usage_chunk(first: Chunk, usage: dict[str, Any]) -> bytes:
    """Return the extra chunk that `stream_options.include_usage` asks for."""
    return dumps({"object": "chat.completion.chunk", **first, "choices": [], "usage": usage})
