"""The same client for Responses: it comes back with `starting_after`, the number of its last event."""

import json
from typing import Any

from chaos_test.client import Client

ENDINGS = ("response.completed", "response.incomplete", "response.failed", "error")


class ResponsesClient(Client):
    """Reads one response as OpenAI's SDK does: it knows the numbers of events, and of ids only the response's own."""

    path = "/v1/responses"
    _response_id = ""
    _whole = False  # the last event has come

    def _again(self) -> bytes:
        after = f"&starting_after={self._last - 1}" if self._last else ""
        return self._request(f"/v1/responses/{self._response_id or self._stream_id}?stream=true{after}")

    def _body(self) -> dict[str, Any]:
        return {"model": self.verdict.model, "stream": True, "input": "Say it."}

    def _take(self, identity: int | None, data: bytes) -> None:
        """Take one event. `_last` counts the events, as their numbers are one less."""
        if data == b"[DONE]":
            self._ended = self._whole
            return
        event = json.loads(data)
        kind = event["type"]
        if identity is None:
            self._told(event.get("code"))
            return
        self._count(event["sequence_number"] + 1)
        self._response_id = event.get("response", {}).get("id", self._response_id)
        if kind == "response.output_text.delta":
            self._pieces.append(event["delta"])
        if kind in ENDINGS:
            self._whole = True
            if kind != "response.completed":
                self._failed(data)
            elif event["response"]["output"][0]["content"][0]["text"] != self._text:
                self.verdict.altered += 1
                self.verdict.words = self.verdict.words or f"{self._stream_id}: another text in the final response"
