"""What the events of the Messages API mean, as chat completion chunks: of a log of this dialect, or of an upstream.

Source: https://platform.claude.com/docs/en/build-with-claude/streaming. Thoughts become `reasoning_content`. Their
signatures, and thoughts that are encrypted, become `reasoning_details` in OpenRouter's form
(https://openrouter.ai/docs/use-cases/reasoning-tokens). An event that chat completions do not have means nothing.
"""

from collections.abc import Mapping
from typing import Any

from server.core.openai.chunks import Chunk
from server.core.wide_json import dumps
from server.dialects.messages import events
from server.dialects.messages.stop_reasons import finish_reason
from server.dialects.messages.usage import chat_usage

FORMAT = "anthropic-claude-v1"  # of reasoning details
Event = Mapping[str, Any]


class MessageChunks:
    """Turns the events of one message into chunks. `created` is in seconds since the epoch, `model` until one comes."""

    def __init__(self, identity: str, created: int, model: str) -> None:
        self._head: Chunk = {"id": identity, "object": "chat.completion.chunk", "created": created, "model": model}
        self._usage: dict[str, Any] = {}
        self._calls = 0  # begun so far
        self._block = ""  # the type of the open block
        self._empty = False  # the open block is a call without arguments so far

    def of(self, event: Event) -> list[Chunk]:
        """Return the chunks of one event."""
        match event.get("type"):
            case events.MESSAGE_START:
                return self._start(_object(event, "message"))
            case events.BLOCK_START:
                return self._deltas(self._block_start(_object(event, "content_block")))
            case events.BLOCK_DELTA:
                return self._deltas(self._block_delta(_object(event, "delta")))
            case events.BLOCK_STOP:
                empty, self._empty = self._empty, False
                return self._deltas(self._arguments("{}") if empty else {})
            case events.MESSAGE_DELTA:
                return self._message_delta(event)
        return []

    def nothing(self) -> Chunk:
        """Return a chunk that says nothing, for an event that means nothing."""
        return {**self._head, "choices": []}

    def _start(self, message: Event) -> list[Chunk]:
        for name in ("id", "model"):
            if message.get(name) and isinstance(message[name], str):
                self._head[name] = message[name]
        self._usage |= _object(message, "usage")
        return self._deltas({"role": "assistant", "content": ""})

    def _block_start(self, block: Event) -> dict[str, Any]:
        self._block, self._empty = str(block.get("type")), False
        match self._block:
            case "text":
                return _text("content", block.get("text"))
            case "thinking":
                return _text("reasoning_content", block.get("thinking")) | self._signature(block.get("signature"))
            case "redacted_thinking":
                return self._detail("reasoning.encrypted", "data", block.get("data"))
            case "tool_use":
                self._calls += 1
                given = dumps(block["input"]).decode() if block.get("input") else ""
                self._empty = not given
                function = {"name": _string(block.get("name")), "arguments": given}
                return self._call({"id": _string(block.get("id")), "type": "function", "function": function})
        return {}

    def _block_delta(self, delta: Event) -> dict[str, Any]:
        match delta.get("type"):
            case "text_delta":
                return _text("content", delta.get("text"))
            case "thinking_delta":
                return _text("reasoning_content", delta.get("thinking"))
            case "signature_delta":
                return self._signature(delta.get("signature"))
            case "input_json_delta" if self._block == "tool_use" and (text := _string(delta.get("partial_json"))):
                self._empty = False
                return self._arguments(text)
            case "citations_delta":
                return _citation(_object(delta, "citation"))
        return {}

    def _message_delta(self, event: Event) -> list[Chunk]:
        self._usage |= {name: count for name, count in _object(event, "usage").items() if count is not None}
        delta = _object(event, "delta")
        chunks: list[Chunk] = []
        if delta.get("stop_reason"):
            choice = {"index": 0, "delta": {}, "finish_reason": finish_reason(delta["stop_reason"])}
            if isinstance(delta.get("stop_sequence"), str):
                choice["stop_reason"] = delta["stop_sequence"]  # in vLLM's place
            chunks.append({**self._head, "choices": [choice]})
        usage = chat_usage(self._usage)
        return chunks if usage is None else [*chunks, {**self._head, "choices": [], "usage": usage}]

    def _deltas(self, delta: dict[str, Any]) -> list[Chunk]:
        return [{**self._head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}] if delta else []

    def _call(self, fields: dict[str, Any]) -> dict[str, Any]:
        return {"tool_calls": [{"index": self._calls - 1, **fields}]}

    def _arguments(self, text: str) -> dict[str, Any]:
        return self._call({"function": {"arguments": text}})

    def _signature(self, signature: object) -> dict[str, Any]:
        return self._detail("reasoning.text", "signature", signature)

    def _detail(self, kind: str, field: str, value: object) -> dict[str, Any]:
        if not value or not isinstance(value, str):
            return {}
        return {"reasoning_details": [{"type": kind, field: value, "format": FORMAT, "index": 0}]}


def _text(name: str, text: object) -> dict[str, Any]:
    return {name: text} if text and isinstance(text, str) else {}


def _citation(citation: Event) -> dict[str, Any]:
    """Return a citation of a web page. Those of documents name places that no chat client knows."""
    url, title = _string(citation.get("url")), _string(citation.get("title"))
    return {"annotations": [{"type": "url_citation", "url_citation": {"url": url, "title": title}}]} if url else {}


def _object(source: Event, name: str) -> dict[str, Any]:
    value = source.get(name)
    return value if isinstance(value, dict) else {}


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""
