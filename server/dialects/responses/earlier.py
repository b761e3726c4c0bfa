"""What a request goes on from: earlier responses of the same owner, and single items of theirs.

The request gets copies of these items. A relay that takes its stream over so needs nothing but its own log, and an
earlier response may be deleted meanwhile.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from server.core.errors import Deleted, Rejected
from server.core.generation import logged_request
from server.core.records import STREAM_PREFIX
from server.core.wide_json import loads, sound
from server.dialects.responses import events
from server.dialects.responses.items import names_another
from server.dialects.responses.request import EARLIER
from server.dialects.responses.resource import response_id
from server.relay.stream import READ_ALL, Stream
from server.streams.admission import Owner
from server.streams.streams import Streams

PREFIXES = {"message": "msg", "function_call": "fc", "custom_tool_call": "ctc", "reasoning": "rs"}


class Earlier:
    """Finds what an owner's request names of the owner's own stored responses."""

    def __init__(self, streams: Streams, owner: Owner) -> None:
        self._streams = streams
        self._owner = owner
        self._items: dict[str, Sequence[dict[str, Any]]] = {}  # by the stream's id

    async def recall(self, source: dict[str, Any]) -> None:
        """Put the items that a request names into the request. A name that is unknown here is left to the upstream.

        Raises:
            Rejected: 400, there is no such response.
            StoreError: the store is away.

        """
        previous, given = source.get("previous_response_id"), source.get("input")
        if isinstance(previous, str) and previous:
            stream = await self._stream(previous)
            items = None if stream is None else await context_of(stream)
            if stream is None or items is None:
                text = f"Previous response with id '{previous}' not found."
                raise Rejected(400, text, "previous_response_not_found", "previous_response_id")
            source[EARLIER] = items
            source["previous_response_id"] = response_id(stream.id)  # it may have been named by the stream's id
        if isinstance(given, list) and any(names_another(item) for item in given):
            source["input"] = [await self._item(item) for item in given]

    async def _stream(self, identity: str) -> Stream | None:
        """Return a response of this owner that is stored and has ended. Raises StoreError."""
        try:
            stream = await self._streams.find(identity, self._owner)
        except Rejected:
            return None
        beginning = stream.beginning
        ours = beginning.owner == self._owner.name and beginning.dialect == events.API
        return stream if ours and beginning.retention is not None and stream.log.ending is not None else None

    async def _item(self, item: Any) -> Any:
        """Return an item of the input, or the one that it names. Raises StoreError."""
        if not names_another(item):
            return item
        identity = item["id"]
        stream_id = STREAM_PREFIX + identity.partition("_")[2].rpartition("_")[0]
        if stream_id not in self._items:
            stream = await self._stream(stream_id)
            final = None if stream is None else await final_response(stream)
            known_items = () if stream is None or final is None else [*input_items(stream), *final["output"]]
            self._items[stream_id] = storable(known_items)
        return next((known for known in self._items[stream_id] if known.get("id") == identity), item)


async def final_response(stream: Stream) -> dict[str, Any] | None:
    """Return the resource of the last event of an ended response; None if its log is deleted. Raises StoreError."""
    try:
        records = await stream.log.read(max(0, stream.log.tail - 2), READ_ALL)
    except Deleted:
        return None
    final = next((record for record in records if record.kind in events.TERMINAL), None)
    return None if final is None else loads(final.data)["response"]


async def context_of(stream: Stream) -> list[dict[str, Any]] | None:
    """Return what the next turn of a conversation goes on from: all items of the input and of the output, in order.

    Calls of a response that did not complete may be parts of calls: they are left out. None: the log is deleted.
    """
    final = await final_response(stream)
    if final is None:
        return None
    output = final["output"]
    if final["status"] != "completed":
        output = [
            item for item in output if item.get("result") or not str(item.get("type")).endswith("_call")
        ]  # the result of a call is an image, which is whole
    context: list[dict[str, Any]] = storable([*input_items(stream), *output])
    return context


def storable(value: Any) -> Any:
    """Return a value of an answer as a request can have it: without halves of surrogate pairs."""
    match value:
        case str():
            return sound(value)
        case dict():
            return {sound(name): storable(inner) for name, inner in value.items()}
        case list() | tuple():
            return [storable(inner) for inner in value]
    return value


def input_items(stream: Stream) -> list[dict[str, Any]]:
    """Return the items of a response's input, as the API lists them: those of earlier responses first."""
    source, _ = logged_request(stream.beginning)
    given = source.get("input")
    items = [given] if isinstance(given, str) else given or []
    identity = stream.id.removeprefix(STREAM_PREFIX)
    listed = [_listed(item, identity, index) for index, item in enumerate(items)]
    return [*(source.get(EARLIER) or ()), *listed]


def _listed(item: Any, identity: str, index: int) -> dict[str, Any]:
    """Return an item of a request with all that a client is shown of it."""
    if isinstance(item, str):
        item = {"role": "user", "content": item}
    kind = item.get("type") or "message"
    own = item.get("id")
    shown = {
        **item,
        "id": own if isinstance(own, str) and own else f"{PREFIXES.get(kind, 'item')}_{identity}_in{index}",
        "type": kind,
    }
    if kind == "message":
        shown |= {"status": item.get("status") or "completed", "content": _parts(item)}
    return shown


def _parts(message: Mapping[str, Any]) -> Any:
    content = message.get("content")
    if isinstance(content, list):
        return [_part(part) for part in content]
    if message.get("role") == "assistant":
        return [{"type": "output_text", "text": content, "annotations": [], "logprobs": []}]
    return [{"type": "input_text", "text": content}]


def _part(part: Any) -> Any:
    """Return a part with the fields that a client may rely on."""
    match part.get("type") if isinstance(part, dict) else None:
        case "input_image":
            return {"detail": "auto", **part}
        case "output_text":
            return {"annotations": [], "logprobs": [], **part}
    return part
