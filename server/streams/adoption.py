"""Streams that nobody relays and nobody may ask for: orphans, and those that the store had stopped here."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from server.aio.event import Event
from server.config.settings import Settings
from server.core.errors import StoreError, StreamError
from server.core.ports import Log, Store
from server.relay.stream import Stream
from server.streams.following import Following, out_of_reach
from server.streams.linger import cancelled
from server.streams.live import Live, LiveStreams
from server.streams.takeover import Takeover

log = structlog.get_logger("sluiceway")


@dataclass(frozen=True, slots=True)
class Stranded:
    """A stream whose relay was stopped by the store at a time.monotonic(), and the ending that it could not log."""

    since: float
    stop: StreamError | None


class Adoption:
    """Looks for such streams twice a lease and goes on with them, or ends them. `run` is the task.

    `join` returns the one stream of a log.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        live: LiveStreams,
        following: Following,
        takeover: Takeover,
        draining: Event,
        join: Callable[[Log], Awaitable[Stream]],
    ) -> None:
        self._limit = settings.server.max_streams
        self._linger = settings.streams.linger
        self._lease = settings.store.lease
        self._store = store
        self._live = live
        self._following = following
        self._takeover = takeover
        self._draining = draining
        self._join = join
        self._stranded: dict[str, Stranded] = {}
        self._orphans: dict[str, float] = {}  # when each that only a client may wake was seen first, time.monotonic()

    def strand(self, live: Live) -> None:
        """Remember a stream that its store has stopped, and tell its readers."""
        live.stream.fail(out_of_reach())
        self._stranded[live.stream.id] = Stranded(time.monotonic(), live.relay.stopped)

    async def run(self) -> None:
        """Look until the gateway drains."""
        while not self._draining.is_set():
            try:
                await self._adopt()
                if self._stranded and await self._store.problem() is None:
                    for stream_id, stranded in list(self._stranded.items()):
                        await self._take_up(stream_id, stranded)
            except StoreError as error:
                log.warning("no look for orphans", error=str(error))
            await asyncio.sleep(self._lease / 2)

    async def _adopt(self) -> None:
        """Take over the orphaned streams that go on without a client; end those whose client stays away.

        Raises StoreError.
        """
        now, orphans = time.monotonic(), dict[str, float]()
        async for orphan in self._store.orphans():
            stop = None
            if orphan.beginning.policy == "cancel":
                since = orphans[orphan.beginning.id] = self._orphans.get(orphan.beginning.id, now)
                if now < since + self._linger:
                    continue
                stop = cancelled("no client came back")
            if stop is not None or len(self._live) < self._limit:
                stream = await self._join(orphan)
                if not (stop and stream.readers) and await self._following.claim(stream):
                    self._takeover.begin(stream, stop)
        self._orphans = orphans

    async def _take_up(self, stream_id: str, stranded: Stranded) -> None:
        """Go on with a stream that the store stopped, or end it if no client came back in time. Raises StoreError."""
        found = await self._store.find(stream_id)
        stop = stranded.stop
        if stop is None and found is not None and found.beginning.policy == "cancel":
            if time.monotonic() < stranded.since + self._linger:
                return
            stop = cancelled("no client came back")
        if found is not None and found.ending is None:
            stream = await self._join(found)
            if stream.readers and not stranded.stop and stream.id not in self._live:
                return  # whoever follows it for them is to claim it
            if await self._following.claim(stream):
                self._takeover.begin(stream, stop)
        self._stranded.pop(stream_id, None)
