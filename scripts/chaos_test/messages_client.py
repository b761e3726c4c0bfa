"""The same client for Messages: it comes back by the id of the stream, and checks the order of the events as well."""

import json
from typing import Any

from chaos_test.client import Client


class MessagesClient(Client):
    """Reads one message. One block is open at a time, and the indexes of the blocks are 0, 1, and so on."""

    path = "/v1/messages"
    _last_kind = ""  # of the last event that is no ping
    _blocks = 0  # how many were begun

    def _body(self) -> dict[str, Any]:
        return {**super()._body(), "max_tokens": 1000}

    def _take(self, identity: int | None, data: bytes) -> None:
        event = json.loads(data)
        kind = event["type"]
        if identity is None:
            self._told(event["error"].get("code") if kind == "error" else kind)
            return
        self._count(identity)
        if kind == "error":
            self._failed(data)
        elif not self._in_order(kind, event.get("index")):
            self.verdict.altered += 1
            words = f"{self._stream_id}: {data[:100]!r} as {self._last}, after {self._last_kind}, block {self._blocks}"
            self.verdict.words = self.verdict.words or words
        if kind != "ping":
            self._last_kind = kind
        self._blocks += kind == "content_block_start"
        self._ended = kind in ("message_stop", "error")
        if kind == "content_block_delta":
            self._pieces.append(event["delta"]["text"])
        if kind == "message_delta" and event["delta"]["stop_reason"] != "end_turn":
            self._failed(data)

    def _in_order(self, kind: str, index: int | None) -> bool:
        """Return whether an event with this index may come here. A recovery may leave no second start behind."""
        last, open_block = self._last_kind, self._blocks - 1
        match kind:
            case "message_start":
                return not last
            case "ping":
                return bool(last)
            case "content_block_start":
                return last in ("message_start", "content_block_stop") and index == self._blocks
            case "content_block_delta" | "content_block_stop":
                return last in ("content_block_start", "content_block_delta") and index == open_block
            case "message_delta":
                return last in ("message_start", "content_block_stop")
            case "message_stop":
                return last == "message_delta"
        return False
