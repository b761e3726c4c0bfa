"""Streams without a relay here: the loops that follow them, take them over and end them, as `ownership` decides."""

import asyncio
import time
from contextlib import suppress

import structlog

from server.aio.cancelling import cancel
from server.aio.event import Event
from server.config.settings import Settings
from server.core.dialect import UnknownDialectError
from server.core.errors import StoreError, StreamError
from server.core.ports import Store
from server.relay.stream import Stream
from server.streams.finding import Finding
from server.streams.linger import Linger, cancelled
from server.streams.live import Live, LiveStreams, out_of_reach
from server.streams.ownership import Decision, Situation, decide
from server.streams.routes import Routes

log = structlog.get_logger("sluiceway")


class Takeover:
    """Goes on with streams whose relay is elsewhere or has gone. Only logs of a durable store can be claimed.

    Three loops ask for a decision. A task for each stream that has readers here follows it while another instance
    relays it. One task looks twice per lease for streams that nobody may ask for: those whose holder has gone, and
    those that the store had stopped here. One task gives the readers of a stream whose log another instance has claimed
    back to the first loop.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        routes: Routes,
        finding: Finding,
        live: LiveStreams,
        linger: Linger,
        draining: Event,
    ) -> None:
        self._limit = settings.server.max_streams
        self._linger_for = settings.streams.linger
        self._lease = settings.store.lease
        self._store = store
        self._routes = routes
        self._finding = finding
        self._live = live
        self._linger = linger
        self._draining = draining
        self._following: dict[Stream, asyncio.Task[None]] = {}
        self._orphans: dict[str, float] = {}  # by id: when it was first seen without a holder, time.monotonic()
        self._loops: list[asyncio.Task[None]] = []
        self._closed = False

    def open(self) -> None:
        """Begin to look for streams that nobody relays."""
        self._loops.append(asyncio.create_task(self._look_for_unrelayed(), name="take over"))
        self._loops.append(asyncio.create_task(self._follow_lost(), name="follow lost"))

    async def close(self) -> None:
        """Follow nothing, and take nothing over any more."""
        self._closed = True
        await cancel([*self._loops, *self._following.values()])

    # --- deciding and acting -------------------------------------------------------------------------------------

    def _decide(self, stream: Stream, *, growing: bool = False, aborting: bool = False) -> Decision:
        interrupted = self._live.interrupted.get(stream.id)
        now = time.monotonic()
        since = self._orphans.get(stream.id, now) if interrupted is None else interrupted.since
        return decide(
            Situation(
                live=stream.id in self._live,
                claiming=stream.id in self._live.claims,
                draining=self._draining.is_set(),
                aborting=aborting,
                owes_ending=interrupted is not None and interrupted.ending is not None,
                growing=growing,
                read=bool(stream.readers),
                policy=stream.beginning.policy,
                interrupted=interrupted is not None,
                alone=now - since,
                linger=self._linger_for,
                full=len(self._live) >= self._limit,
            )
        )

    async def _act(self, stream: Stream, decision: Decision) -> None:
        """Do what was decided in this turn of the loop. Raises StoreError."""
        if decision is Decision.TAKE_OVER:
            await self.take_over(stream)
        elif decision is Decision.END:
            interrupted = self._live.interrupted.get(stream.id)
            owed = interrupted.ending if interrupted is not None else None
            await self.take_over(stream, owed or cancelled("no client came back"))

    async def end(self, stream: Stream, stop: StreamError) -> Live | None:
        """Take a stream away from the instance that relays it, and end it. Raises StoreError.

        Returns None, with the stream brought up to date, if it has ended already or is being taken over here.
        """
        if self._decide(stream, aborting=True) is Decision.END:
            live = await self.take_over(stream, stop, force=True)
            if live is not None:
                return live
        await self._store.refresh(stream.log)
        stream.refreshed()
        return None

    async def take_over(self, stream: Stream, stop: StreamError | None = None, *, force: bool = False) -> Live | None:
        """Claim a stream's log and begin its relay; with `stop` only to end it. Raises StoreError.

        It was decided in this turn of the event loop, so no relay of the stream is here and nobody else here claims it.
        Returns None if the log has ended or (unless `force`) its holder is alive.
        """
        self._live.claims.add(stream.id)
        try:
            claimed = await self._store.claim(stream.log, force=force)
        finally:
            self._live.claims.discard(stream.id)
        stream.refreshed()
        return self.begin(stream, stop) if claimed else None

    def begin(self, stream: Stream, stop: StreamError | None = None) -> Live:
        """Begin the relay of a stream whose log is held here now."""
        generation = stream.dialect.generation(stream.beginning)
        route = self._routes.of(generation.model)
        if not route:
            stop = stop or StreamError(f"The model `{generation.model}` does not exist.", "model_not_found", 404)
        live = self._live.begin(stream, generation, route, taken_over=True)
        log.info("stream taken over", stream_id=stream.id, records=stream.log.tail, age=round(stream.age, 3))
        if stop is not None:
            live.relay.stop(stop)
        elif not stream.readers:
            self._linger.begin(live)
        return live

    # --- streams that have readers here ----------------------------------------------------------------------------

    def follow(self, stream: Stream) -> None:
        """Show a stream that is not relayed here to its readers, as long as it has any."""
        if self._store.durable and not (self._closed or stream.ended.is_set() or stream in self._following):
            task = asyncio.create_task(self._follow_safely(stream), name=f"follow {stream.id}")
            self._following[stream] = task

    async def _follow_safely(self, stream: Stream) -> None:
        try:
            await self._follow(stream)
        except StoreError as error:
            log.warning("following failed", stream_id=stream.id, error=str(error))
            stream.fail(out_of_reach())
        finally:
            del self._following[stream]

    async def _follow(self, stream: Stream) -> None:
        growing = False
        while stream.readers and stream.id not in self._live:
            await self._act(stream, self._decide(stream, growing=growing))
            if stream.id in self._live:
                return
            before = stream.log.tail
            await self._store.follow(stream.log)
            stream.refreshed()
            if stream.ended.is_set():
                return
            growing = stream.log.tail > before

    async def _follow_lost(self) -> None:
        while True:
            stream = await self._live.lost.get()
            if stream.readers and stream.id not in self._live:
                self.follow(stream)
            del stream  # the next one may be hours away

    # --- streams that nobody may ask for -------------------------------------------------------------------------

    async def _look_for_unrelayed(self) -> None:
        """Look until the gateway drains."""
        while not self._draining.is_set():
            try:
                await self._look_for_orphans()
                if self._live.interrupted and await self._store.problem() is None:
                    for stream_id in list(self._live.interrupted):
                        await self._go_on_with_interrupted(stream_id)
            except StoreError as error:
                log.warning("no look for orphans", error=str(error))
            await asyncio.sleep(self._lease / 2)

    async def _look_for_orphans(self) -> None:
        """Decide about the streams whose holder has gone. Raises StoreError."""
        now, seen = time.monotonic(), dict[str, float]()
        async for orphan in self._store.orphans():
            seen[orphan.beginning.id] = self._orphans.get(orphan.beginning.id, now)
            with suppress(UnknownDialectError):  # another instance may know it; the other orphans must not wait for it
                stream = await self._finding.current(orphan)
                await self._act(stream, self._decide(stream))
        self._orphans = seen

    async def _go_on_with_interrupted(self, stream_id: str) -> None:
        """Decide about a stream that the store had stopped here. Raises StoreError."""
        stream_log = await self._store.find(stream_id)
        if stream_log is not None and stream_log.ending is None:
            stream = await self._finding.current(stream_log)
            decision = self._decide(stream)
            if decision in (Decision.LEAVE, Decision.FOLLOW) and stream_id not in self._live:
                return  # not yet
            await self._act(stream, decision)
        self._live.interrupted.pop(stream_id, None)
