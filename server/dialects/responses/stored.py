"""`/v1/responses/{id}`: a response is read, followed, cancelled and deleted, and its input listed.

Source: https://platform.openai.com/docs/api-reference/responses.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from aiohttp import web

from server.api.access import OWNER
from server.api.requests import CURSOR, cursor, too_large
from server.api.respond import Responder, stream_headers
from server.config.settings import Settings
from server.core.dialect import Dialect
from server.core.errors import Deleted, Rejected
from server.core.generation import Generation, logged_request
from server.core.lifecycle import State
from server.core.wide_json import dumps, loads
from server.dialects.responses import events
from server.dialects.responses.earlier import final_response, input_items
from server.dialects.responses.output import Output
from server.dialects.responses.resource import response, response_id
from server.relay.stream import Stream, in_steps
from server.streams.streams import Streams

LISTED, MOST_LISTED = 20, 100  # input items on a page, as the API reference has it
# Items that a client may send without a status, and whose status a list of items always has.
STATED = ("function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output")
# Two paths of OpenAI's API look like an id, and are not served: they are told so, and not of a response that is
# not there (https://platform.openai.com/docs/api-reference/responses/compact and …/input-tokens).
ID = "{id:(?!(?:compact|input_tokens)$)[^/]+}"
LIMIT = re.compile(r"[1-9][0-9]{0,2}")


def kept(generation: Generation, source: Mapping[str, Any], settings: Settings) -> Generation:
    """Return the generation of a response with how long it is kept, and whether it outlives its clients.

    Raises:
        Rejected: 400, it should run in the background and not be stored; 413, it has grown too large for a request.

    """
    store, background = source.get("store") is not False, bool(source.get("background"))
    if background and not store:
        text = "Background mode requires a stored response: 'store' must not be false."
        raise Rejected(400, text, "invalid_value", "background")
    if len(generation.logged.data) > settings.server.max_body_bytes:  # with what earlier responses have added
        raise too_large(settings.server.max_body_bytes)
    return replace(
        generation,
        retention=settings.responses.retention if store else None,
        policy="continue" if background else generation.policy,
        detached=background,
    )


class StoredResponses:
    """The paths of one response. It is stored if its log has a retention of its own."""

    def __init__(self, dialect: Dialect, streams: Streams, responder: Responder) -> None:
        self._dialect = dialect
        self._streams = streams
        self._responder = responder

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of these paths."""
        path = f"/v1/responses/{ID}"
        return [
            web.get(path, self.read, allow_head=False),
            web.delete(path, self.delete),
            web.post(f"{path}/cancel", self.cancel),
            web.get(f"{path}/input_items", self.input_items, allow_head=False),
        ]

    async def _find(self, request: web.Request) -> Stream:
        """Return the response that a request names.

        Raises:
            Rejected: 404, there is none, or it has ended and is not stored.
            StoreError: the store is away.

        """
        try:
            stream = await self._streams.find(request.match_info["id"], request[OWNER])
        except Rejected as error:
            raise _not_found(request) from error
        over = stream.log.ending is not None and stream.beginning.retention is None
        if stream.dialect is not self._dialect or over:
            raise _not_found(request)
        return stream

    async def answer(self, request: web.Request, stream: Stream) -> web.Response:
        """Answer with the resource as it is now. Raises Rejected 404, StoreError."""
        body = await _resource(stream)
        if body is None:
            raise _not_found(request)
        headers = stream_headers(request, stream)
        return web.Response(body=dumps(body), content_type="application/json", headers=headers)

    async def read(self, request: web.Request) -> web.StreamResponse:
        """Return the resource, or with `?stream=true` its events after `starting_after` and then live."""
        await self._responder.wait_to_start(request)
        wants_stream, after = _flag(request, "stream"), _starting_after(request)
        stream = await self._find(request)
        if not wants_stream:
            return await self.answer(request, stream)
        if "Last-Event-ID" in request.headers:  # a client that reconnects knows better than the address
            return await self._responder.resume(request, stream, cursor(request), self._dialect)
        if stream.log.ending is not None:
            after = min(after, stream.log.tail - 1)  # `[DONE]` is there in any case
        elif after > stream.log.tail:
            last = f"the last event so far is {stream.log.tail - 1}" if stream.log.tail else "there is no event so far"
            text = f"Invalid 'starting_after': {last}."
            raise Rejected(400, text, "invalid_cursor", "starting_after")
        return await self._responder.resume(request, stream, after, self._dialect)

    async def cancel(self, request: web.Request) -> web.Response:
        """Cancel a response, and return it. One that was cancelled before is returned as it is."""
        stream = await self._find(request)
        ending = stream.log.ending
        if ending is None:
            # Shielded: otherwise, if the client hangs up half-way, the stream is claimed here and has no relay.
            await asyncio.shield(self._streams.abort(stream, "cancelled by request"))
        elif ending.state is not State.CANCELLED:
            raise Rejected(400, "Cannot cancel a response that has ended.", "response_ended")
        return await self.answer(request, stream)

    async def delete(self, request: web.Request) -> web.Response:
        """Delete a response that has ended."""
        stream = await self._find(request)
        if stream.log.ending is None:
            raise Rejected(
                400, "Cannot delete a response that is in progress: cancel it first.", "response_in_progress"
            )
        if not await asyncio.shield(self._streams.delete(stream)):
            raise _not_found(request)
        body = {"id": response_id(stream.id), "object": "response", "deleted": True}
        return web.Response(body=dumps(body), content_type="application/json")

    async def input_items(self, request: web.Request) -> web.Response:
        """Return a page of the items that the model was given, those of earlier responses among them."""
        order, limit = request.query.get("order", "desc"), request.query.get("limit", str(LISTED))
        if order not in ("asc", "desc"):
            raise Rejected(400, "Invalid 'order': it must be 'asc' or 'desc'.", "invalid_value", "order")
        if not LIMIT.fullmatch(limit) or int(limit) > MOST_LISTED:
            text = f"Invalid 'limit': it must be an integer between 1 and {MOST_LISTED}."
            raise Rejected(400, text, "invalid_value", "limit")
        stream = await self._find(request)
        if not stream.beginning.body:  # it was deleted meanwhile
            raise _not_found(request)
        items = [
            {**item, "status": item.get("status") or "completed"} if item["type"] in STATED else item
            for item in input_items(stream)
        ]
        if order == "desc":
            items.reverse()
        page, more = _page(items, request.query.get("after"), int(limit))
        ends = {"first_id": page[0]["id"] if page else None, "last_id": page[-1]["id"] if page else None}
        body = {"object": "list", "data": page, **ends, "has_more": more}
        return web.Response(body=dumps(body), content_type="application/json")


async def _resource(stream: Stream) -> dict[str, Any] | None:
    """Return the resource of a response as it is now; None if its log is deleted. Raises StoreError."""
    if stream.log.ending is not None:
        return await final_response(stream)
    output, shown = Output(), None
    try:
        records = await stream.records()
    except Deleted:
        return None
    async for part in in_steps(records):
        for kind, data in part:
            if kind == events.DONE:
                break
            event = loads(data)
            if kind in events.TERMINAL:
                return dict(event["response"])
            output.add(kind, event)
            if kind in events.LIFECYCLE:
                shown = event["response"]
    if shown is None:
        source, _ = logged_request(stream.beginning)
        shown = response(stream.beginning, source)
    return {**shown, "output": output.items()}


def _page(items: Sequence[dict[str, Any]], after: str | None, limit: int) -> tuple[Sequence[dict[str, Any]], bool]:
    """Return the items after the one with the id `after`, and whether there are more. Raises Rejected 400."""
    first = 0
    if after:
        first = max((place for place, item in enumerate(items, 1) if item.get("id") == after), default=0)
        if not first:
            raise Rejected(400, f"Invalid 'after': there is no item '{after[:100]}'.", "invalid_value", "after")
    return items[first : first + limit], first + limit < len(items)


def _flag(request: web.Request, name: str) -> bool:
    value = request.query.get(name, "false").lower()
    if value not in ("true", "false"):
        raise Rejected(400, f"Invalid '{name}': it must be true or false.", "invalid_value", name)
    return value == "true"


def _starting_after(request: web.Request) -> int:
    """Return the number of the last record that a client has: one more than the number of its last event."""
    value = request.query.get("starting_after")
    if value is None:
        return 0
    if not CURSOR.fullmatch(value):
        text = "Invalid 'starting_after': it must be the sequence_number of an event."
        raise Rejected(400, text, "invalid_value", "starting_after")
    return int(value) + 1


def _not_found(request: web.Request) -> Rejected:
    return Rejected(404, f"Response with id '{request.match_info['id'][:100]}' not found.", "response_not_found")
