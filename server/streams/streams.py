"""All streams of this process, as the API sees them: create, find, attach, detach, abort, drain."""

import asyncio
import time
from collections.abc import AsyncIterator

from server.aio.cancelling import cancel
from server.aio.event import Event
from server.aio.pacing import StartPacer
from server.config.settings import Model, Settings
from server.core.dialect import Dialects
from server.core.errors import Rejected, StoreError, StreamError
from server.core.generation import Generation
from server.core.ports import Log, Store, Strategy
from server.relay.stream import Reader, Stream
from server.streams.admission import Admission, Owner
from server.streams.adoption import Adoption
from server.streams.creation import Creation
from server.streams.following import Following
from server.streams.housekeeping import renew, sweep
from server.streams.linger import Leaving, Linger, cancelled
from server.streams.live import Live, LiveStreams
from server.streams.preprocess import Preprocessing
from server.streams.takeover import Takeover
from server.telemetry.metrics import Metrics
from server.telemetry.traces import Traces
from server.tools.toolbox import Toolbox
from server.upstreams.pool import Upstreams

ABORT_PATIENCE = 5.0  # seconds in which a stream that is aborted may be taken away again
ABORT_PAUSE = 0.05  # seconds until it is taken back: whoever has it may be about to end it, too


class Streams:
    """Puts the parts together: streams that are live here, that are followed, and that are only in the store."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        upstreams: Upstreams,
        strategy: Strategy,
        metrics: Metrics,
        toolbox: Toolbox,
        preprocessing: Preprocessing,
        traces: Traces | None,
        dialects: Dialects,
    ) -> None:
        self.settings = settings
        self.upstreams = upstreams
        self.start_pacer = StartPacer()
        self.preprocessing = preprocessing
        self._store = store
        self._metrics = metrics
        self._draining = Event()
        self._live = LiveStreams(
            settings,
            upstreams,
            strategy,
            metrics,
            toolbox,
            traces,
            dialects,
            draining=self._draining,
            lost=self._lost,
            stranded=self._stranded,
        )
        self._linger = Linger(store, settings.streams.linger, settings.store.lease)
        self._takeover = Takeover(upstreams, self._live, self._linger, self._resolve)
        self._following = Following(store, self._draining, self._takeover.begin, self._live.__contains__)
        self._adoption = Adoption(
            settings, store, self._live, self._following, self._takeover, self._draining, self._one
        )
        self._creation = Creation(
            store,
            upstreams,
            preprocessing,
            self.start_pacer,
            Admission(settings.server.max_streams, self._live, self._draining),
            self._live,
            self._linger,
            self._draining,
            self._resolve,
            self._one,
        )
        self._chores: list[asyncio.Task[None]] = []

    def _resolve(self, name: str) -> Model | None:
        return self.settings.resolve(name)  # of the present settings: a reload replaces them

    def _lost(self, stream: Stream) -> None:
        """Show a stream that another instance has claimed to its readers here."""
        if stream.readers:
            self._following.begin(stream)

    def _stranded(self, live: Live) -> None:
        """Tell the readers of a stream that the store has stopped, and take it up again when the store is well."""
        self._adoption.strand(live)

    @property
    def live(self) -> int:
        """How many streams are live here."""
        return len(self._live)

    @property
    def buffered(self) -> int:
        """Bytes that are logged but not yet with the fastest reader of their stream."""
        return sum(one.stream.lag for one in self._live)

    async def open(self) -> None:
        """Begin the housekeeping."""
        self._chores.append(asyncio.create_task(sweep(self._store, self._metrics), name="sweep"))
        if self._store.durable:
            lease = self.settings.store.lease
            self._chores.append(asyncio.create_task(renew(self._store, lease, self._live.lose), name="renew"))
            self._chores.append(asyncio.create_task(self._adoption.run(), name="adopt"))

    async def close(self) -> None:
        """Stop what is still running; logs of a durable store stay open for a takeover."""
        await cancel(self._chores)
        await self._following.close()
        await self._live.let_go()
        await self._linger.close()

    # --- start and find ------------------------------------------------------------------------------------------

    async def create(self, generation: Generation, owner: Owner, key: str | None) -> Stream:
        """Begin a stream, or join the one that this `Idempotency-Key` began. Attach a reader in the same turn.

        Raises:
            Rejected: draining, over a limit, unknown model, key used with another body.
            StoreError: the store is away.

        """
        return await self._creation.create(generation, owner, key)

    async def find(self, stream_id: str, owner: Owner) -> Stream:
        """Return a live or retained stream that `owner` may see. Raises Rejected 404, StoreError."""
        found = await self._store.find(stream_id)
        if found is None or not (owner.admin or found.beginning.owner == owner.name):
            raise Rejected(404, "There is no such stream.", "stream_not_found")
        return await self._one(found)

    async def visible(self, owner: Owner) -> AsyncIterator[Stream]:
        """Yield every live or retained stream that `owner` may see, oldest first. Raises StoreError."""
        async for found in self._store.logs():
            if owner.admin or found.beginning.owner == owner.name:
                live = self._live.get(found.beginning.id)
                yield live.stream if live else self._live.stream(found)

    async def _one(self, found: Log) -> Stream:
        """Return the one stream of a log: that which is live or followed here, brought up to date."""
        while True:
            await self._live.settled(found.beginning.id)
            if (live := self._live.get(found.beginning.id)) is not None:
                held = live.stream.log
                if held is found or held.ending is not None or await self._store.find(found.beginning.id) is held:
                    return live.stream
                live.task.cancel()  # another instance has claimed it, and the relay here did not know yet
                await asyncio.wait([live.task])
            if (followed := self._following.get(found.beginning.id)) is None:
                return self._live.stream(found)
            await self._store.refresh(followed.log)
            if self._following.get(found.beginning.id) is followed:  # else its last reader left, or it is live now
                followed.refreshed()
                return followed

    async def problem(self) -> str | None:
        """Return why the gateway is not ready, or None."""
        return "draining" if self._draining.is_set() else await self._store.problem()

    # --- readers -------------------------------------------------------------------------------------------------

    def attach(self, stream: Stream, reader: Reader) -> None:
        """Add a reader; it stops a linger."""
        stream.readers.add(reader)
        live = self._live.get(stream.id)
        if live is None:
            self._following.begin(stream)
        else:
            self._linger.stop(live)
        stream.held = False
        stream.progressed()

    def detach(self, stream: Stream, reader: Reader, why: Leaving) -> None:
        """Take a reader away; the stream's policy acts when the last one has left."""
        stream.readers.discard(reader)
        stream.progressed()
        if why != "ended":
            self._metrics.disconnects.labels(why).inc()
        live = self._live.get(stream.id)
        if live is not None and why != "ended" and not stream.readers and not stream.ended.is_set():
            self._linger.left(live, why)

    # --- stop ----------------------------------------------------------------------------------------------------

    async def abort(self, stream: Stream, reason: str) -> None:
        """Cancel a live stream; return when it has ended and its upstream is closed. An ended one is left as it is.

        From a relay on another instance the stream is taken away, and that relay is fenced. It may be the other way
        round in the same moment, or this process lets go of its relays: then it is taken back. Raises StoreError where
        the ending could not be written yet.
        """
        stop, until = cancelled(reason), time.monotonic() + ABORT_PATIENCE
        while stream.log.ending is None:
            live = self._live.get(stream.id)
            if live is None and self._store.durable:
                stream = self._following.get(stream.id) or stream
                if await self._following.claim(stream, force=True):
                    live = self._takeover.begin(stream, stop)
                else:  # it has ended, or is being claimed here
                    await self._store.refresh(stream.log)
                    stream.refreshed()
            if live is not None:
                stream = live.stream
                live.relay.stop(stop)
                await live.over.wait()
            if stream.log.ending is None:
                if stream.fault is not None or time.monotonic() >= until:
                    raise StoreError("the ending of a stream that was aborted could not be written yet")
                await asyncio.sleep(ABORT_PAUSE)

    async def drain(self, grace: float, readers: asyncio.Event) -> None:
        """Take no new streams, let the running ones end for `grace` seconds, then end the rest with `shutdown`.

        Logs of a durable store stay open instead, and before a client is cut: that is no disconnect of its. `readers`
        is set while no response is under way.
        """
        self._draining.set()
        try:
            async with asyncio.timeout(grace):
                await self._live.idle.wait()
                await readers.wait()  # they may still read what has ended
        except TimeoutError:
            pass
        if self._store.durable:
            await self._live.let_go()
            return
        error = StreamError("The gateway is shutting down.", "shutdown", 503, retryable=True)
        relays = [live.task for live in self._live]
        for live in self._live:
            live.relay.stop(error)
        if relays:
            await asyncio.wait(relays)
