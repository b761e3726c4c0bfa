"""All streams of this process, as the API sees them: create, find, attach, detach, abort, drain."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from server.aio.cancelling import cancel
from server.aio.event import Event
from server.config.settings import Settings
from server.core.dialect import UnknownDialectError
from server.core.errors import Rejected, StoreError, StreamError
from server.core.generation import Generation
from server.core.ports import Store
from server.relay.stream import Reader, Stream
from server.streams.admission import Admission, Owner, Starting
from server.streams.bodies import SHARE, Bodies
from server.streams.creation import Creation
from server.streams.finding import Finding
from server.streams.housekeeping import StoreHealth, renew, sweep
from server.streams.linger import Leaving, Linger, cancelled
from server.streams.live import LiveStreams, RelayParts
from server.streams.preprocess import Preprocessing
from server.streams.routes import Routes
from server.streams.takeover import Takeover
from server.upstreams.pool import Target, Upstreams

ABORT_PATIENCE = 5.0  # seconds for which an aborted stream is taken back whenever another instance takes it away
ABORT_PAUSE = 0.05  # seconds before it is taken back: the other instance may be about to end it, too


class Streams:
    """Puts the parts together: streams that are live here, that are followed, and that are only in the store."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        upstreams: Upstreams,
        preprocessing: Preprocessing,
        parts: RelayParts,
    ) -> None:
        self.upstreams = upstreams
        self.preprocessing = preprocessing
        self._lease = settings.store.lease
        self._store = store
        self._metrics = parts.metrics
        self._dialects = parts.dialects
        self.stopping = False  # the process is about to go, although it may still take new streams for a while
        self._draining = Event()  # it takes no more
        self._routes = Routes(settings, upstreams)
        # A single body of any size that is allowed fits.
        self.bodies = Bodies(max(settings.server.max_held_bytes, SHARE * settings.server.max_body_bytes))
        self._starting = Starting(self.bodies)
        self._live = LiveStreams(settings, upstreams, parts, self._draining, self.bodies)
        self._finding = Finding(self._live, self._starting)
        self._linger = Linger(store, settings.streams.linger, settings.store.lease)
        self._takeover = Takeover(
            settings, store, self._routes, self._finding, self._live, self._linger, self._draining
        )
        admission = self._admission = Admission(settings.server.max_streams, self._live, self._starting, self._draining)
        self._creation = Creation(
            store, self._routes, preprocessing, admission, self._finding, self._live, self._linger
        )
        self.start_pacer = admission.pacer
        self._chores: list[asyncio.Task[None]] = []
        self._health = StoreHealth(store)

    @property
    def settings(self) -> Settings:
        """The configuration in force. After a reload new streams go by its models; the rest stays as it was."""
        return self._routes.settings

    @settings.setter
    def settings(self, settings: Settings) -> None:
        self._routes.settings = settings

    @property
    def live(self) -> int:
        """How many streams are live here."""
        return len(self._live)

    @property
    def buffered(self) -> int:
        """Bytes that are logged but not yet with the fastest reader of their stream."""
        return sum(live.stream.lag for live in self._live)

    async def open(self) -> None:
        """Begin the housekeeping."""
        self._chores.append(asyncio.create_task(sweep(self._store, self._metrics), name="sweep"))
        if self._store.durable:
            self._chores.append(asyncio.create_task(renew(self._store, self._lease, self._live), name="renew"))
            self._takeover.open()

    async def close(self) -> None:
        """Stop what is still running; logs of a durable store stay open for a takeover."""
        await cancel(self._chores)
        await self._health.close()
        await self._takeover.close()
        await self._creation.close()
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

    def plain(self, owner: Owner) -> AbstractContextManager[None]:
        """Count a request of a plain path while the block runs. Raises Rejected: draining, over a limit."""
        return self._admission.plain(owner)

    @contextmanager
    def route(self, model: str) -> Iterator[Sequence[Target]]:
        """Give the targets of a model that exists. Their connections stay open while the block runs."""
        targets = self._routes.of(model)
        with self._routes.held(targets):
            yield targets

    def check_model(self, name: str, owner: Owner) -> None:
        """Raise Rejected 404 if for `owner` there is no such model. `create` checks it by itself."""
        self._creation.check_model(name, owner)

    async def find(self, stream_id: str, owner: Owner) -> Stream:
        """Return a live or retained stream that `owner` may see. Raises Rejected 404, StoreError.

        `stream_id` may be the id that any dialect gives to the stream.
        """
        log = await self._store.find(self._dialects.stream_id(stream_id))
        if log is None or not (owner.admin or log.beginning.owner == owner.name):
            raise Rejected(404, "There is no such stream.", "stream_not_found")
        return await self._finding.current(log)

    async def visible(self, owner: Owner) -> AsyncIterator[Stream]:
        """Yield every live or retained stream that `owner` may see, oldest first. Raises StoreError."""
        async for log in self._store.logs():
            if owner.admin or log.beginning.owner == owner.name:
                try:
                    stream = self._live.stream(log)
                except UnknownDialectError:  # one that cannot be shown must not hide the others
                    continue
                yield stream

    async def problem(self) -> str | None:
        """Return why the gateway is not ready, or None. Everybody may know it: the log says what exactly is wrong."""
        if self.stopping:
            return "draining"
        return None if await self._health.good() else "store unavailable"

    # --- readers -------------------------------------------------------------------------------------------------

    def attach(self, stream: Stream, reader: Reader) -> None:
        """Add a reader; it stops a linger."""
        stream.readers.append(reader)
        live = self._live.get(stream.id)
        if live is None:
            self._takeover.follow(stream)
        else:
            self._linger.stop(live)
        stream.held = False
        stream.progressed()

    def detach(self, stream: Stream, reader: Reader, why: Leaving) -> None:
        """Take a reader away; the stream's policy acts when the last one has left."""
        if reader in stream.readers:
            stream.readers.remove(reader)
        stream.progressed()
        if why != "ended":
            self._metrics.disconnects.labels(why).inc()
        live = self._live.get(stream.id)
        if live is not None and why != "ended" and not stream.readers and not stream.ended.is_set():
            self._linger.left(live, why)

    # --- stop ----------------------------------------------------------------------------------------------------

    async def abort(self, stream: Stream, reason: str) -> None:
        """Cancel a live stream; return when it has ended and its upstream is closed. An ended one is left as it is.

        If another instance relays the stream it is taken away, and the relay there is fenced. The other instance may do
        the same at this moment, or this process may let its relays go: then the stream is taken back.

        Raises:
            StoreError: the ending could not be written yet.

        """
        stop, until = cancelled(reason), time.monotonic() + ABORT_PATIENCE
        while stream.log.ending is None:
            live = self._live.get(stream.id)
            if live is None and self._store.durable:
                stream = self._live.stream(stream.log)  # a new one, if the readers of this one were told of a fault
                live = await self._takeover.end(stream, stop)
            if live is not None:
                stream = live.stream
                live.relay.stop(stop)
                await live.over.wait()
            if stream.log.ending is None:
                if stream.fault is not None or time.monotonic() >= until:
                    raise StoreError("the ending of a stream that was aborted could not be written yet")
                await asyncio.sleep(ABORT_PAUSE)

    async def delete(self, stream: Stream) -> bool:
        """Delete a stream that has ended: it is not found any more. False if it was not there. Raises StoreError."""
        return await self._store.delete(stream.log)

    async def drain(self, grace: float, notice: float, readers: asyncio.Event) -> None:
        """Let the running streams end for `grace` seconds, then end the rest with `shutdown`.

        New streams are taken for the first `notice` of these seconds: until then a load balancer has seen that this
        process is not ready any more. Logs of a durable store stay open instead of ending. They are let go before a
        client is cut, which so does not count as its leaving. `readers` is set while no response is under way.
        """
        self.stopping = True
        try:
            async with asyncio.timeout(grace):
                await asyncio.sleep(notice)
                self._draining.set()
                await self._starting.all_settled()
                await self._live.idle.wait()
                await self._admission.no_plain.wait()
                await readers.wait()  # they may still read what has ended
        except TimeoutError:
            pass
        self._draining.set()
        if self._store.durable:
            await self._live.let_go()
            return
        relays = [live.task for live in self._live]
        for live in self._live:
            # 503 would mean that nothing was sent upstream, so that the request may be sent again.
            status = 502 if live.stream.label else 503
            live.relay.stop(StreamError("The gateway is shutting down.", "shutdown", status, retryable=True))
        if relays:
            await asyncio.wait(relays)
