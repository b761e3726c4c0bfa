"""An upstream that speaks Responses and runs them in the background: it is cut, resumed and cancelled as scripted."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from aiohttp import web

PART = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
TEXT = "Water finds its own level. \N{WATER WAVE}"
PIECES = ["Water ", "finds ", "its ", "own ", "level. ", "\N{WATER WAVE}"]


class Asked(NamedTuple):
    """One request that came in. `body` is that of a POST."""

    method: str
    path: str
    body: Any


@dataclass(frozen=True)
class Reading:
    """What becomes of one connection that asks for events: the first is the POST, the others are resumptions.

    `events`: it sends so many, and then it breaks, or is silent. None: all. `status`: it is refused instead.
    `repeated`: so many come again that the reader had. `skipped`: so many are left out.
    """

    events: int | None = None
    part: bool = False  # a part of the next event comes as well
    silent: bool = False
    status: int = 200
    repeated: int = 0
    skipped: int = 0
    clean: bool = False  # the body ends as if that was all
    done: bool = True  # `[DONE]` comes last


WHOLE = Reading()


class BackgroundUpstream:
    """A running upstream: `async with BackgroundUpstream(events, readings)`. The last reading is that of all further.

    `able`: it knows `background`. If not, it refuses it with 400, or ignores it if `able` is None.
    """

    def __init__(
        self, events: Sequence[dict[str, Any]], *readings: Reading, able: bool | None = True, path: str = ""
    ) -> None:
        self.asked: list[Asked] = []
        self.cancelled = asyncio.Event()
        self.silent = asyncio.Event()  # a connection has become silent
        self._events = events
        self._readings = readings or (WHOLE,)
        self._able = able
        self._begun = 0  # responses
        self._read = 0  # connections

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.add_routes([
            web.post("/v1/responses", self._create),
            web.get("/v1/responses/{id}", self._resume),
            web.post("/v1/responses/{id}/cancel", self._cancel),
        ])  # fmt: skip
        self._runner = web.AppRunner(app, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    @property
    def resumed(self) -> list[str]:
        """The requests for the rest of a response."""
        return [asked.path for asked in self.asked if asked.method == "GET"]

    @property
    def paid(self) -> int:
        """The responses that were begun."""
        return self._begun

    async def _create(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append(Asked("POST", request.path, body))
        if body.get("background") and self._able is False:
            error = {
                "message": "Unsupported parameter: 'background'.",
                "param": "background",
                "code": None,
                "type": "x",
            }
            return web.json_response({"error": error}, status=400)
        self._begun += 1
        background = bool(body.get("background")) and self._able is not None
        return await self._send(request, f"resp_{self._begun}", 0, background=background)

    async def _resume(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(Asked("GET", request.path_qs, None))
        after = int(request.query.get("starting_after", -1))
        return await self._send(request, request.match_info["id"], after + 1, background=True)

    async def _cancel(self, request: web.Request) -> web.Response:
        self.asked.append(Asked("POST", request.path, await request.text()))
        self.cancelled.set()
        return web.json_response({"id": request.match_info["id"], "status": "cancelled"})

    async def _send(self, request: web.Request, identity: str, first: int, *, background: bool) -> web.StreamResponse:
        reading = self._readings[min(self._read, len(self._readings) - 1)]
        self._read += 1
        if reading.status != 200:
            error = {"message": "No stream.", "type": "invalid_request_error", "code": None, "param": None}
            return web.json_response({"error": error}, status=reading.status)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        first = max(0, first - reading.repeated) + reading.skipped
        last = len(self._events) if reading.events is None else min(len(self._events), first + reading.events)
        for event in self._events[first:last]:
            await response.write(frame(event, identity, background=background))
        if reading.part and last < len(self._events):
            await response.write(frame(self._events[last], identity, background=background)[:-9])
        if reading.silent:
            self.silent.set()
            await asyncio.Event().wait()
        elif reading.events is not None and not reading.clean:
            assert request.transport is not None
            await asyncio.sleep(0)
            request.transport.close()
        elif reading.done and not reading.clean:
            await response.write(b"data: [DONE]\n\n")
        return response


def frame(event: dict[str, Any], identity: str, *, background: bool) -> bytes:
    """Return the bytes of an event of the response with this id."""
    if "response" in event:
        event = {**event, "response": {**event["response"], "id": identity, "background": background}}
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), json.dumps(event).encode())


def numbered(*events: dict[str, Any]) -> list[dict[str, Any]]:
    """Give the events their numbers."""
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


def begun(*states: str) -> list[dict[str, Any]]:
    """Return the events that begin a response: as `response.created`, and then with these states."""
    response = {"object": "response", "created_at": 1, "model": "m", "status": "in_progress", "output": []}
    kinds = ["created", *states]
    return [{"type": f"response.{kind}", "response": response} for kind in kinds]


def ended(*output: dict[str, Any]) -> dict[str, Any]:
    """Return the event that ends a response."""
    usage = {"input_tokens": 3, "output_tokens": 11, "total_tokens": 14, "input_tokens_details": {"cached_tokens": 1}}
    response = {**begun()[0]["response"], "status": "completed", "usage": usage, "output": list(output)}
    return {"type": "response.completed", "response": response}


def message(index: int, pieces: Sequence[str]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the events of a message with these pieces of text, and the message."""
    item = {"id": f"msg_{index}", "type": "message", "role": "assistant", "content": [], "status": "in_progress"}
    place = {"item_id": item["id"], "output_index": index, "content_index": 0}
    part = {**PART, "text": "".join(pieces)}
    done = {**item, "content": [part], "status": "completed"}
    events = [
        {"type": "response.output_item.added", "output_index": index, "item": item},
        {"type": "response.content_part.added", **place, "part": PART},
        *({"type": "response.output_text.delta", **place, "delta": piece, "logprobs": []} for piece in pieces),
        {"type": "response.output_text.done", **place, "text": part["text"], "logprobs": []},
        {"type": "response.content_part.done", **place, "part": part},
        {"type": "response.output_item.done", "output_index": index, "item": done},
    ]
    return events, done


def reasoning(index: int, pieces: Sequence[str]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the events of reasoning with a summary, and its item."""
    item = {"id": f"rs_{index}", "type": "reasoning", "summary": []}
    place = {"item_id": item["id"], "output_index": index, "summary_index": 0}
    part = {"type": "summary_text", "text": "".join(pieces)}
    done = {**item, "summary": [part]}
    events = [
        {"type": "response.output_item.added", "output_index": index, "item": item},
        {"type": "response.reasoning_summary_part.added", **place, "part": {**part, "text": ""}},
        *({"type": "response.reasoning_summary_text.delta", **place, "delta": piece} for piece in pieces),
        {"type": "response.reasoning_summary_text.done", **place, "text": part["text"]},
        {"type": "response.reasoning_summary_part.done", **place, "part": part},
        {"type": "response.output_item.done", "output_index": index, "item": done},
    ]
    return events, done


def call(index: int, pieces: Sequence[str]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the events of a function call with these pieces of arguments, and the call."""
    item = {"id": f"fc_{index}", "type": "function_call", "call_id": f"call_{index}", "name": "look", "arguments": ""}
    place = {"item_id": item["id"], "output_index": index}
    arguments = "".join(pieces)
    done = {**item, "arguments": arguments, "status": "completed"}
    events = [
        {"type": "response.output_item.added", "output_index": index, "item": {**item, "status": "in_progress"}},
        *({"type": "response.function_call_arguments.delta", **place, "delta": piece} for piece in pieces),
        {"type": "response.function_call_arguments.done", **place, "arguments": arguments},
        {"type": "response.output_item.done", "output_index": index, "item": done},
    ]
    return events, done


def search(index: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the events of a search of the web, and its item."""
    action = {"type": "search", "query": "water"}
    item = {"id": f"ws_{index}", "type": "web_search_call", "status": "in_progress", "action": action}
    place = {"item_id": item["id"], "output_index": index}
    done = {**item, "status": "completed"}
    events = [
        {"type": "response.output_item.added", "output_index": index, "item": item},
        {"type": "response.web_search_call.in_progress", **place},
        {"type": "response.web_search_call.completed", **place},
        {"type": "response.output_item.done", "output_index": index, "item": done},
    ]
    return events, done


def answer(*items: tuple[list[dict[str, Any]], dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the events of a whole response with these items."""
    between = [event for events, _ in items for event in events]
    return numbered(*begun("queued", "in_progress"), *between, ended(*[item for _, item in items]))


EVERYTHING = answer(
    reasoning(0, ["Hm", "."]), search(1), message(2, PIECES), call(3, ['{"at":', '"here"}']), call(4, ["{}"])
)
PLAIN = answer(message(0, PIECES))
