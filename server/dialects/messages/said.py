"""What a chat completion says beside plain text: thoughts, signatures, parts. In a delta or in a whole message."""

from collections.abc import Iterator, Mapping
from typing import Any

from server.dialects.messages.blocks import THINKING


def texts_of(content: object, kind: str) -> Iterator[tuple[str, str]]:
    """Yield the texts of a content with the kind of their block. Mistral sends parts, also for thoughts."""
    if isinstance(content, str):
        if content:
            yield kind, content
        return
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict):
            yield from texts_of(part.get("thinking"), THINKING)
            yield from texts_of(part.get("text"), kind)


def details_of(said: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the texts, signatures and encrypted thoughts of OpenRouter's `reasoning_details`; also LiteLLM's form."""
    for name in ("reasoning_details", "thinking_blocks"):
        for item in items if isinstance(items := said.get(name), list) else ():
            if isinstance(item, dict):
                for field in ("text", "signature", "data"):
                    if isinstance(value := item.get(field), str) and value:
                        yield field, value
