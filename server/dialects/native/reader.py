"""Reads a log of the native protocol back: its events become chunks, calls and results."""

from collections.abc import Sequence
from typing import Any

from server.core.dialect import LoggedCall, Reader, ToolResult
from server.core.openai.chunks import Chunk
from server.core.openai.tool_calls import ToolCall
from server.core.records import Beginning, Record
from server.core.upstream_api import Piece
from server.core.wide_json import dumps, loads
from server.dialects.native import events

FINISHED = ("complete", "incomplete")  # the states of an ending that has a finish reason


class NativeReader(Reader):
    """Turns events into chunks, if chat completions have such a chunk. All chunks have the same identity."""

    def __init__(self, beginning: Beginning) -> None:
        self._head: Chunk = {
            "id": f"chatcmpl-{beginning.id}",
            "object": "chat.completion.chunk",
            "created": int(beginning.created),
            "model": beginning.model,
        }
        self._calls = 0  # calls of the client's tools so far

    def read(self, record: Record) -> Sequence[Piece | LoggedCall | ToolResult]:
        """Return the chunk, call or result of an event. An event that chat completions do not have gives nothing."""
        event = loads(record.data)
        match record.kind:
            case events.START:
                return [self._piece({"role": "assistant", "content": ""})]
            case events.TOKEN | events.REASONING:
                return [self._piece({event.get("field", "content"): event["content"]})]
            case events.DELTA:
                return [self._piece(event["delta"])]
            case events.TOOL_CALL:
                return [self._call(event)]
            case events.TOOL_RESULT:
                text = event["content"] if "content" in event else f"Error: {event['error']}"
                return [ToolResult(event["id"], text)]
            case events.DONE if event["status"] in FINISHED:
                return [self._piece({}, event["reason"])]
        return ()

    def _call(self, event: dict[str, Any]) -> LoggedCall:
        raw = event["raw"] if "raw" in event else dumps(event["arguments"]).decode()
        server = event["server"]
        call = ToolCall(
            event["id"], event["name"], raw, event["arguments"], event.get("error"), event["incomplete"], server
        )
        if server:
            return LoggedCall(call, None)
        index, self._calls = self._calls, self._calls + 1
        function = {"name": call.name, "arguments": raw}
        delta = {"index": index, "id": call.id, "type": "function", "function": function}
        return LoggedCall(call, self._piece({"tool_calls": [delta]}))

    def _piece(self, delta: dict[str, Any], finish_reason: str | None = None) -> Piece:
        chunk = {**self._head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}
        return Piece(dumps(chunk), chunk)
