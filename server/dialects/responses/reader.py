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
FIELDS |= {f"{kind.removesuffix('.delta')}.done": field for kind, field in FIELDS.items()}
PARTS = {  # of whole items
    "output_text": "content",
    "refusal": "refusal",
    "reasoning_text": "reasoning_content",
    "summary_text": "reasoning_content",
}
CALLS = ("function_call", "custom_tool_call")
TALKING = ("message", "reasoning")


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
    """Turns events into deltas of a chat completion. A custom tool is a function of one string, as it was asked for.

    Every text is told several times: by its deltas, by its own `done`, by that of its item, and by the final response.
    Some upstreams leave the earlier ones out. So what tells a text first is what counts.
    """

    def __init__(self) -> None:
        self._calls: dict[int, int] = {}  # the number of a call by its place in the output
        self._ids: set[str] = set()  # of these calls
        self._argued: set[int] = set()  # the places of those whose arguments have begun
        self._tellers: dict[str, str] = {}  # what tells the texts of each field of a delta: deltas, whole texts, items

    def delta(self, kind: str, event: dict[str, Any]) -> Chunk | None:
        """Return the delta that an event means. None: nothing that chat completions have."""
        match kind:
            case events.ITEM_ADDED if event["item"].get("type") in CALLS:
                return self._begun(event["output_index"], event["item"])
            case "response.function_call_arguments.delta":
                return self._arguments(event["output_index"], event["delta"])
            case "response.custom_tool_call_input.delta":
                return self._arguments(event["output_index"], _inside(event["delta"]))
            case events.ITEM_DONE if (item := event["item"]).get("type") in (*CALLS, *TALKING):
                return self._call(event["output_index"], item) if item["type"] in CALLS else self._said([item])
            case events.ANNOTATION if (annotation := event.get("annotation") or {}).get("type") == "url_citation":
                inner = {name: value for name, value in annotation.items() if name != "type"}
                return {"annotations": [{"type": "url_citation", "url_citation": inner}]}
        if field := FIELDS.get(kind):
            if kind.endswith(".delta"):
                return self._told("delta", field, event["delta"])
            return self._told("text", field, event.get("text") or event.get("refusal"))
        return _hosted(kind, event)

    def end(self, response: dict[str, Any]) -> tuple[Chunk, str] | None:
        """Return the last delta and the finish reason for a final response; None if it failed."""
        if (reason := finish_reason(response)) is None:
            return None
        rest = self._rest(response)
        return rest, "tool_calls" if reason == "stop" and self._calls else reason

    def _rest(self, response: dict[str, Any]) -> Chunk:
        """Return the delta with what only the final response tells."""
        items = [item for item in response.get("output") or () if isinstance(item, dict)]
        delta = self._said([item for item in items if item.get("type") in TALKING], "response") or {}
        if self._calls:
            return delta
        told = [self._call(place, item) for place, item in enumerate(items) if item.get("type") in CALLS]
        calls = [call for one in told if one for call in one["tool_calls"]]
        return {**delta, "tool_calls": calls} if calls else delta

    def _told(self, teller: str, field: str, text: Any) -> Chunk | None:
        """Return the delta of a text, unless such texts were told before."""
        if not text or self._tellers.setdefault(field, teller) != teller:
            return None
        return {field: text}

    def _said(self, items: Sequence[dict[str, Any]], teller: str = "item") -> Chunk | None:
        """Return the delta of what whole messages and thoughts say, unless it was told before."""
        said: Chunk = {}
        for item in items:
            for part in (*(item.get("content") or ()), *(item.get("summary") or ())):
                field, text = PARTS.get(part.get("type")), part.get("text") or part.get("refusal")
                if field and self._told(teller, field, text):
                    said[field] = said.get(field, "") + text
        return said or None

    def _begun(self, place: int, item: dict[str, Any], arguments: str = "") -> Chunk:
        number = self._calls[place] = len(self._calls)
        self._ids.add(item["call_id"])
        begun = '{"input":"' if item["type"] == "custom_tool_call" else ""
        function = {"name": chat_name(item["name"], item.get("namespace")), "arguments": begun + arguments}
        return {"tool_calls": [{"index": number, "id": item["call_id"], "type": "function", "function": function}]}

    def _call(self, place: int, item: dict[str, Any]) -> Chunk | None:
        """Return the delta with the rest of a call that is whole. Its arguments may have come before, or itself."""
        custom = item["type"] == "custom_tool_call"
        whole = item.get("input" if custom else "arguments") or ""
        rest = "" if place in self._argued else _inside(whole) if custom else whole
        rest += '"}' if custom else ""
        if place in self._calls or item["call_id"] in self._ids:
            return self._arguments(place, rest)
        self._argued.add(place)
        return self._begun(place, item, rest)

    def _arguments(self, place: int, text: str) -> Chunk | None:
        number = self._calls.get(place)
        if number is None or not text:
            return None
        self._argued.add(place)
        return {"tool_calls": [{"index": number, "function": {"arguments": text}}]}


def _inside(text: str) -> str:
    """Return a text as JSON has it between its quotes."""
    return dumps(text)[1:-1].decode()


def _hosted(kind: str, event: dict[str, Any]) -> Chunk | None:
    """Return the delta of what a hosted tool does. Chat completions have no field for that: it gets one of its own.

    So a search counts as a sign of life, and a restart does not tell a client twice of what it has.
    """
    if kind not in (events.ITEM_ADDED, events.ITEM_DONE) or event["item"]["type"] in (*TALKING, *CALLS):
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
            end = self._chunks.end(event["response"])
            return () if end is None else [self._piece(*end)]
        delta = self._chunks.delta(record.kind, event)
        return () if delta is None else [self._piece(delta)]

    def _piece(self, delta: Chunk, reason: str | None = None) -> Piece:
        chunk = {**self._head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
        return Piece(dumps(chunk), chunk)
