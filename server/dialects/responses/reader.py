"""Reads a log of a Responses stream back: its events become chunks of a chat completion."""

from collections.abc import Sequence
from typing import Any

from server.core.dialect import LoggedCall, Reader, ToolResult
from server.core.openai.chunks import Chunk
from server.core.records import Beginning, Record
from server.core.upstream_api import Piece
from server.core.wide_json import dumps, loads
from server.dialects.responses import events
from server.dialects.responses.delta import image_part
from server.dialects.responses.tools import chat_name

FIELDS = {
    f"{events.TEXT}.delta": "content",
    f"{events.REFUSAL}.delta": "refusal",
    f"{events.REASONING}.delta": "reasoning_content",
    "response.reasoning_summary_text.delta": "reasoning_content",
}
CALLS = ("function_call", "custom_tool_call")


def finish_reason(response: dict[str, Any]) -> str | None:
    """Return the finish reason of a chat completion for a final response; None if it failed."""
    if response.get("status") == "incomplete":
        reason = (response.get("incomplete_details") or {}).get("reason")
        return "content_filter" if reason == "content_filter" else "length"
    if response.get("status") != "completed":
        return None
    called = any(item.get("type") in CALLS for item in response.get("output") or () if isinstance(item, dict))
    return "tool_calls" if called else "stop"


class Chunks:
    """Turns events into deltas of a chat completion. A custom tool is a function of one string, as it was asked for."""

    def __init__(self) -> None:
        self._calls: dict[int, int] = {}  # the number of a call by its place in the output

    def delta(self, kind: str, event: dict[str, Any]) -> Chunk | None:
        """Return the delta that an event means. None: nothing that chat completions have."""
        match kind:
            case events.ITEM_ADDED if event["item"].get("type") in CALLS:
                return self._begun(event["output_index"], event["item"])
            case "response.function_call_arguments.delta":
                return self._arguments(event, event["delta"])
            case "response.custom_tool_call_input.delta":
                return self._arguments(event, dumps(event["delta"])[1:-1].decode())
            case events.ITEM_DONE if event["item"].get("type") == "custom_tool_call":
                return self._arguments(event, '"}')
            case events.ANNOTATION if (annotation := event.get("annotation") or {}).get("type") == "url_citation":
                inner = {name: value for name, value in annotation.items() if name != "type"}
                return {"annotations": [{"type": "url_citation", "url_citation": inner}]}
        return {FIELDS[kind]: event["delta"]} if kind in FIELDS else _hosted(kind, event)

    def _begun(self, place: int, item: dict[str, Any]) -> Chunk:
        number = self._calls[place] = len(self._calls)
        begun = '{"input":"' if item["type"] == "custom_tool_call" else ""
        function = {"name": chat_name(item["name"], item.get("namespace")), "arguments": begun}
        return {"tool_calls": [{"index": number, "id": item["call_id"], "type": "function", "function": function}]}

    def _arguments(self, event: dict[str, Any], text: str) -> Chunk | None:
        number = self._calls.get(event["output_index"])
        return None if number is None else {"tool_calls": [{"index": number, "function": {"arguments": text}}]}


def _hosted(kind: str, event: dict[str, Any]) -> Chunk | None:
    """Return the delta of what a hosted tool does. Chat completions have no field for that: it gets one of its own.

    So a search counts as a sign of life, and a restart does not tell a client twice of what it has.
    """
    if kind not in (events.ITEM_ADDED, events.ITEM_DONE) or event["item"]["type"] in ("message", "reasoning", *CALLS):
        return None
    if kind == events.ITEM_ADDED:
        return {"begun_items": [event["item"]["type"]]}
    item = event["item"]
    image = item.get("result") if item["type"] == events.IMAGE else None
    return {"output_items": [item], **({"images": [image_part(image)]} if image and isinstance(image, str) else {})}


class ResponsesReader(Reader):
    """All chunks have the same identity."""

    def __init__(self, beginning: Beginning) -> None:
        self._head: Chunk = {
            "id": f"chatcmpl-{beginning.id}",
            "object": "chat.completion.chunk",
            "created": int(beginning.created),
            "model": beginning.model,
        }
        self._chunks = Chunks()

    def read(self, record: Record) -> Sequence[Piece | LoggedCall | ToolResult]:
        """Return the chunk of an event, if chat completions have such a chunk."""
        if record.kind == events.DONE:
            return ()
        event = loads(record.data)
        if record.kind in events.TERMINAL:
            reason = finish_reason(event["response"])
            return () if reason is None else [self._piece({}, reason)]
        delta = self._chunks.delta(record.kind, event)
        return () if delta is None else [self._piece(delta)]

    def _piece(self, delta: Chunk, reason: str | None = None) -> Piece:
        chunk = {**self._head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
        return Piece(dumps(chunk), chunk)
