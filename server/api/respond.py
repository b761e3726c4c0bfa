"""From a stream to a response: wait for its opening, then deliver it, and say why the client left."""

import asyncio
import time
from collections.abc import Mapping

from aiohttp import web

from server.aio.aiohttp_internals import LateHeadResponse
from server.api.delivery import Delivery, Leaving
from server.api.errors import REQUEST_ID, failed_response
from server.api.projected import ProjectedDelivery
from server.config.settings import Flow
from server.core.dialect import Dialect, unopened
from server.core.errors import Deleted, Rejected, StoreError, StreamError
from server.core.projection import Projection
from server.core.records import WHOLE
from server.relay.stream import Stream
from server.streams.streams import Streams
from server.telemetry.metrics import Metrics

SSE_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}
RECONNECT_MS = 1000


class EventStream(LateHeadResponse):
    """A response of server-sent events. Its head goes out with the first of them."""


class Responder:
    """Answers requests with streams; one for the whole gateway."""

    def __init__(self, streams: Streams, flow: Flow, metrics: Metrics) -> None:
        self._streams = streams
        self._flow = flow
        self._metrics = metrics
        self.open: set[Delivery] = set()  # responses under way
        self.idle = asyncio.Event()  # there is none
        self.idle.set()

    async def wait_to_start(self, request: web.Request) -> float | None:
        """Wait until a request for a stream may begin; return when it came in, if it came as a whole."""
        received = time.monotonic() if request.content.is_eof() else None
        await self._streams.start_pacer.take()
        return received

    async def respond(
        self, request: web.Request, stream: Stream, *, cursor: int = 0, wait: bool, dialect: Dialect
    ) -> web.StreamResponse:
        """Attach this request to `stream`, shown in `dialect`, until one of them ends.

        `wait`: the response opens with the first token, so that a failure before it keeps its HTTP status.
        """
        delivery = self._delivery(request, stream, cursor, dialect)
        self._streams.attach(stream, delivery)
        self.open.add(delivery)
        self.idle.clear()
        why: Leaving = "gone"
        try:
            response = await self._answer(request, stream, dialect, wait=wait)
            why = await delivery.run(response) if isinstance(response, EventStream) else "ended"
        except (StoreError, StreamError) as error:  # before the response opened; later a client gets it in-band
            words = "The log of this stream is out of reach."
            raise Rejected(503, words, "store_unavailable", retry_after=1.0) from error
        finally:
            self.open.discard(delivery)
            if not self.open:
                self.idle.set()
            # A client may hang up on the last byte, before this task is done, and has missed nothing.
            self._streams.detach(stream, delivery, "ended" if delivery.whole else why)
        return response

    async def resume(self, request: web.Request, stream: Stream, after: int, dialect: Dialect) -> web.StreamResponse:
        """Answer with a stream after a cursor, and then live; 204 if it has ended there. Raises Rejected 400."""
        tail, beginning = stream.log.tail, stream.beginning
        if after > tail:
            raise Rejected(400, f"Invalid cursor: the stream ends at {tail}.", "invalid_cursor")
        if dialect.one_choice and not stream.dialect.one_choice and stream.dialect.generation(beginning).choices > 1:
            text = f"The {dialect.name} form has one choice, this stream has several."
            raise Rejected(400, text, "invalid_value", "format")
        if beginning.stream and after and after == tail and stream.ended.is_set():
            return web.Response(status=204, headers={"X-Stream-Id": stream.id})
        return await self.respond(request, stream, cursor=after, wait=False, dialect=dialect)

    def _delivery(self, request: web.Request, stream: Stream, cursor: int, dialect: Dialect) -> Delivery:
        if dialect is stream.dialect:
            return Delivery(request, stream, cursor, self._flow, self._metrics)
        generation = stream.dialect.generation(stream.beginning)
        projection = Projection(stream.log, generation, stream.dialect, dialect, cursor)
        return ProjectedDelivery(request, stream, dialect, projection, self._flow, self._metrics)

    async def leave(self, grace: float, *, durable: bool) -> None:
        """Let readers fetch the endings for `grace` seconds; with a durable store tell them to come back instead."""
        if durable:
            for delivery in list(self.open):
                await delivery.hang_up(RECONNECT_MS)
        try:
            async with asyncio.timeout(grace):
                await self.idle.wait()
        except TimeoutError:
            pass  # whoever has not read by now is cut

    async def _answer(
        self, request: web.Request, stream: Stream, dialect: Dialect, *, wait: bool
    ) -> web.StreamResponse:
        """Return the response once it can open: an `EventStream`, or a whole one."""
        if not stream.beginning.stream:
            await stream.ended.wait()
            return await self._whole(request, stream, dialect)
        if wait and not await self._opened(stream) and self._failed_early(stream):
            assert stream.log.ending is not None
            return failed_response(dialect, stream.log.ending, stream_headers(request, stream))
        return EventStream(headers={**SSE_HEADERS, **stream_headers(request, stream)})

    async def _opened(self, stream: Stream) -> bool:
        """Wait for the first record, but no longer than `early_open_after`; return whether it opened by time."""
        if stream.opened.is_set():
            return False
        try:
            async with asyncio.timeout(max(0.0, self._flow.early_open_after - stream.age)):
                await stream.opened.wait()
        except TimeoutError:
            return True
        return False

    def _failed_early(self, stream: Stream) -> bool:
        """Whether the stream began with its error."""
        if stream.fault is not None:
            raise stream.fault
        return unopened(stream.dialect, stream.log)

    async def _whole(self, request: web.Request, stream: Stream, dialect: Dialect) -> web.StreamResponse:
        """Return the JSON of a non-streaming generation, or its error."""
        if stream.fault is not None:
            raise stream.fault
        ending = stream.log.ending
        assert ending is not None
        records = await stream.records()
        if not records:
            raise Deleted(f"stream {stream.id} is gone")
        record = records[-1]
        headers = stream_headers(request, stream)
        if record.kind == WHOLE:
            return web.Response(body=record.data, content_type="application/json", headers=headers)
        return failed_response(dialect, ending, headers)


def stream_headers(request: web.Request, stream: Stream) -> Mapping[str, str]:
    """Return the headers that name a stream."""
    return {"X-Stream-Id": stream.id, "X-Request-Id": request[REQUEST_ID], "X-Sluiceway-Target": target_of(stream)}


def target_of(stream: Stream) -> str:
    """Return the target that answered, or is being asked."""
    ending = stream.log.ending
    return ending.target if ending else stream.target
