"""Streams that are not relayed here: followed while somebody reads them, and taken over when their relay has gone."""

import asyncio
from collections.abc import Callable

import structlog

from server.aio.cancelling import cancel
from server.aio.event import Event
from server.core.errors import StoreError, StreamError
from server.core.ports import Store
from server.relay.stream import Stream

log = structlog.get_logger("sluiceway")


def out_of_reach() -> StreamError:
    """Return the error of a reader whose stream's log cannot be written or read."""
    return StreamError("The log of this stream is out of reach.", "store_unavailable", 503, retryable=True)


class Following:
    """One task for each stream that has readers here and its relay elsewhere, or nowhere.

    `take_over` begins a relay for a stream that was claimed; `live` tells whether there is one here. While `draining`
    nothing is claimed: this process is about to go itself.
    """

    def __init__(
        self, store: Store, draining: Event, take_over: Callable[[Stream], object], live: Callable[[str], bool]
    ) -> None:
        self._store = store
        self._draining = draining
        self._take_over = take_over
        self._live = live
        self._streams: dict[str, Stream] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._claiming: set[str] = set()

    def get(self, stream_id: str) -> Stream | None:
        """Return the stream that is followed, or being claimed, under this id."""
        return self._streams.get(stream_id)

    def begin(self, stream: Stream) -> None:
        """Follow a stream as long as it has readers here."""
        if self._store.durable and not stream.ended.is_set() and stream.id not in self._tasks:
            self._streams[stream.id] = stream
            self._tasks[stream.id] = asyncio.create_task(self._run(stream), name=f"follow {stream.id}")

    async def _run(self, stream: Stream) -> None:
        try:
            await self._follow(stream)
        except StoreError as error:
            log.warning("following failed", stream_id=stream.id, error=str(error))
            stream.fail(out_of_reach())
        finally:
            del self._tasks[stream.id]
            self._forget(stream)

    async def _follow(self, stream: Stream) -> None:
        grew = False
        while stream.readers and not self._live(stream.id):
            if not grew and await self.claim(stream):
                self._take_over(stream)
                return
            before = stream.log.tail
            await self._store.follow(stream.log)
            stream.refreshed()
            if stream.ended.is_set():
                return
            grew = stream.log.tail > before  # somebody writes it: no need to look whether anybody does

    async def claim(self, stream: Stream, *, force: bool = False) -> bool:
        """Take a stream's log over; False where it has ended, is held elsewhere, or is relayed or claimed here."""
        if (self._draining.is_set() and not force) or self._live(stream.id) or stream.id in self._claiming:
            return False
        # Whoever asks for the stream meanwhile gets this object: a reader of another one would never see the relay.
        if self._streams.setdefault(stream.id, stream) is not stream:
            return False
        self._claiming.add(stream.id)
        try:
            claimed = await self._store.claim(stream.log, force=force)
        finally:
            self._claiming.discard(stream.id)
            self._forget(stream)
        if self._live(stream.id):
            return False
        stream.refreshed()
        return claimed

    def _forget(self, stream: Stream) -> None:
        """Let go of a stream that is neither followed nor being claimed."""
        if stream.id not in self._tasks and stream.id not in self._claiming:
            self._streams.pop(stream.id, None)

    async def close(self) -> None:
        """Stop following."""
        await cancel(list(self._tasks.values()))
