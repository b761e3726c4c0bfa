"""Answers a request with a stream: wait until the response can open, deliver the stream, note why the client left."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace

from aiohttp import web

from server.aio.aiohttp_internals.writing import LateHeadResponse
from server.aio.deadline import Deadline
from server.aio.pacing import StartPacer
from server.api.connection import Connection
from server.api.delivery import Delivery, Leaving, ProjectedDelivery, WholeDelivery
from server.api.errors import REQUEST_ID, failed_response
from server.config.settings import Flow
from server.core.dialect import Dialect, unopened
from server.core.errors import Deleted, Rejected, StoreError, StreamError
from server.core.projection import Projection
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
    """A response of server-sent events. Its head goes out with the first event."""


class Responder:
    """Answers requests with streams; one for the whole gateway."""

    def __init__(self, streams: Streams, flow: Flow, metrics: Metrics) -> None:
        self._streams = streams
        self._flow = flow
        self._metrics = metrics
        self.open: set[Delivery] = set()  # responses that are being sent
        self.idle = asyncio.Event()  # set if there are none
        self.idle.set()
        self._pacer = StartPacer()  # of the readers that translate a long log

    async def wait_to_start(self, request: web.Request) -> float | None:
        """Wait until a request for a stream may begin; return its time.monotonic() if it came in as a whole."""
        received = time.monotonic() if request.content.is_eof() else None
        await self._streams.start_pacer.take()
        return received

    async def respond(
        self,
        request: web.Request,
        stream: Stream,
        *,
        cursor: int = 0,
        wait: bool,
        dialect: Dialect,
        whole: bool = False,
    ) -> web.StreamResponse:
        """Answer with `stream`, shown in `dialect`, until the stream ends or the client leaves.

        `wait`: the response opens with the first token, so that a failure before it has its own HTTP status.
        `whole`: the client asked for no stream. It gets the JSON of the answer when the stream has ended.

        Raises:
            Rejected: the log cannot be read. 503, or 502 if the request may have begun a generation.

        """
        if whole:
            delivery: Delivery = WholeDelivery(request, stream, cursor, self._flow, self._metrics)
        else:
            delivery = self._delivery(request, stream, cursor, dialect)
            delivery.expect()
        self._streams.attach(stream, delivery)
        self.open.add(delivery)
        self.idle.clear()
        leaving: Leaving = "gone"
        connection = request.protocol
        assert isinstance(connection, Connection)
        connection.begin_delivery()
        try:
            response = await self._answer(request, stream, dialect, wait=wait, whole=whole)
            leaving = await delivery.run(response) if isinstance(response, EventStream) else "ended"
        except (StoreError, StreamError) as error:  # only before the response opens; later the client gets it in-band
            words, sent = "The log of this stream is out of reach.", wait and bool(stream.label)
            raise Rejected(502 if sent else 503, words, "store_unavailable", retry_after=1.0) from error
        finally:
            connection.end_delivery()
            self.open.discard(delivery)
            if not self.open:
                self.idle.set()
            # A client may hang up at the last byte, before this task is done. It has missed nothing.
            self._streams.detach(stream, delivery, "ended" if delivery.whole else leaving)
        return response

    async def resume(self, request: web.Request, stream: Stream, after: int, dialect: Dialect) -> web.StreamResponse:
        """Answer with the records after `after`, then live; 204 if the stream ended there. Raises Rejected 400."""
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
        return ProjectedDelivery(request, stream, dialect, projection, self._pacer, self._flow, self._metrics)

    async def leave(self, grace: float, *, durable: bool) -> None:
        """Give clients `grace` seconds to get the endings. With a durable store, tell them to reconnect instead."""
        if durable:
            for delivery in list(self.open):
                await delivery.hang_up(RECONNECT_MS)
        try:
            async with asyncio.timeout(grace):
                await self.idle.wait()
        except TimeoutError:
            pass  # clients that still read are cut off

    async def _answer(
        self, request: web.Request, stream: Stream, dialect: Dialect, *, wait: bool, whole: bool
    ) -> web.StreamResponse:
        """Return the response when it can open: an `EventStream`, or one with the whole answer."""
        if whole or not stream.beginning.stream:
            await stream.ended.wait()
            return await self._whole(request, stream, dialect)
        if wait and not await self._opens_early(stream) and self._failed_early(stream):
            assert stream.log.ending is not None
            return failed_response(dialect, stream.log.ending, stream_headers(request, stream))
        return EventStream(headers={**SSE_HEADERS, **stream_headers(request, stream)})

    async def _opens_early(self, stream: Stream) -> bool:
        """Wait for the first record, but not past `early_open_after`. Return whether that time ran out."""
        if stream.opened.is_set():
            return False
        try:
            with Deadline() as deadline:
                deadline.set(time.monotonic() + max(0.0, self._flow.early_open_after - stream.age))
                await stream.opened.wait()
        except TimeoutError:
            return True
        return False

    def _failed_early(self, stream: Stream) -> bool:
        """Whether the stream failed before its first token. Raises StreamError if its log is out of reach."""
        if stream.fault is not None:
            raise replace(stream.fault)  # a copy: the stream keeps its own, which must not learn of the frames here
        return unopened(stream.dialect, stream.log)

    async def _whole(self, request: web.Request, stream: Stream, dialect: Dialect) -> web.StreamResponse:
        """Return the JSON of an answer that is not streamed, or its error. Raises StoreError, StreamError."""
        if stream.fault is not None:
            raise replace(stream.fault)
        ending = stream.log.ending
        assert ending is not None
        records = await stream.records()
        if not records:
            raise Deleted(f"stream {stream.id} is gone")
        headers = stream_headers(request, stream)
        if not unopened(stream.dialect, stream.log) and (answer := stream.dialect.whole(records)):
            return web.Response(body=answer, content_type="application/json", headers=headers)
        return failed_response(dialect, ending, headers)


def stream_headers(request: web.Request, stream: Stream) -> Mapping[str, str]:
    """Return the headers that name a stream, the request and the target, and those of the upstream's answer."""
    own = {"X-Stream-Id": stream.id, "X-Request-Id": request[REQUEST_ID], "X-Sluiceway-Target": target_of(stream)}
    return {**stream.passed_on, **own}


def target_of(stream: Stream) -> str:
    """Return the name of the target that answered, or that is being asked."""
    ending = stream.log.ending
    return ending.target if ending else stream.target
