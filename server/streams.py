"""All streams of this process: start, find, attach, detach, abort, linger, drain."""

import asyncio
import hashlib
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import orjson
import structlog

from server.account import account
from server.cancelling import cancel
from server.config import Settings
from server.core.errors import Fenced, Rejected, StoreError, StreamError
from server.core.forms import ENDING_RECORDS, OpenAIWriter, Writer
from server.core.generation import Generation
from server.core.native import NativeWriter
from server.core.ports import Log, Store, Strategy
from server.core.recollect import generation_of
from server.core.records import Birth
from server.flag import Flag
from server.following import Following, out_of_reach
from server.preprocess import Preprocessing
from server.relay import Relay
from server.stream import Reader, Stream
from server.telemetry.logs import cause
from server.telemetry.metrics import Metrics
from server.telemetry.traces import Traces
from server.tools.rounds import Rounds
from server.tools.toolbox import Toolbox
from server.turns import Turns
from server.upstreams.pool import Target, Upstreams

SWEEP_INTERVAL = 1.0  # seconds
RENEW_INTERVAL = 0.25  # seconds: how late a relay is stopped whose stream was aborted elsewhere
ABORT_PATIENCE = 5.0  # seconds in which a stream that is aborted may be taken away again
ABORT_PAUSE = 0.05  # seconds until it is taken back: whoever has it may be about to end it, too
ID_BYTES = 18  # 144 random bits
Leaving = Literal["gone", "stalled", "ended"]
log = structlog.get_logger("sluiceway")


@dataclass(frozen=True, slots=True)
class Owner:
    """Who asks: the key's name ("" where there are no keys) and what it may do."""

    name: str = ""
    admin: bool = True
    max_streams: int | None = None


@dataclass(slots=True)
class Live:
    """A stream with its relay."""

    stream: Stream
    relay: Relay
    task: asyncio.Task[None]
    route: Sequence[Target]
    lingering: asyncio.TimerHandle | None = None
    over: Flag = field(default_factory=Flag)  # the relay is done, and what follows from it as well


@dataclass(frozen=True, slots=True)
class Stranded:
    """A stream whose relay was stopped by the store at a time.monotonic(), and the ending that it could not log."""

    since: float
    stop: StreamError | None


def cancelled(reason: str) -> StreamError:
    """Return the error that ends a stream somebody stopped."""
    return StreamError(f"The stream was cancelled: {reason}.", "cancelled", 499)


def _draining() -> Rejected:
    return Rejected(503, "The gateway is shutting down.", "draining", retry_after=1.0)


def _written(generation: Generation) -> bytes:
    """Return a request's body. Raises Rejected 400 for one that cannot be written again."""
    try:
        written = orjson.dumps(generation.body, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError as error:  # orjson reads 1024 levels, but writes 254
        raise Rejected(400, "The body is nested too deeply.", "invalid_json") from error
    # The copy is as long as the text; orjson's own buffer behind a short one keeps its first 4 KB.
    return bytes(memoryview(written))


def _birth(generation: Generation, owner: Owner, key: str | None) -> Birth:
    """Return the facts that a stream starts with. Raises Rejected 400."""
    body = _written(generation)
    return Birth(
        id=f"strm_{secrets.token_urlsafe(ID_BYTES)}",
        owner=owner.name,
        form=generation.form,
        model=generation.model,
        created=time.time(),
        body=body,
        stream=generation.stream,
        policy=generation.policy,
        idempotency=(key, hashlib.sha256(body).hexdigest()) if key else None,
        request_id=generation.request_id,
    )


class Streams:
    """Owns every live stream and finds every retained one."""

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
    ) -> None:
        self.settings = settings
        self.upstreams = upstreams
        self.draining = False
        self.turns = Turns()
        self._store = store
        self._strategy = strategy
        self._toolbox = toolbox
        self.preprocessing = preprocessing
        self._traces = traces
        self._metrics = metrics
        self._live: dict[str, Live] = {}
        self._mine: Counter[str] = Counter()  # live streams by owner
        self._starting: Counter[tuple[str, str]] = Counter()  # let in and not live yet: owner, and key or stream
        self._keyed: dict[tuple[str, str], Live] = {}  # live streams by owner and idempotency key
        self._idle = asyncio.Event()  # no live stream
        self._idle.set()
        self._stranded: dict[str, Stranded] = {}
        self._chores: list[asyncio.Task[None]] = []
        self._following = Following(store, self._take_over, self._live.__contains__)

    @property
    def live(self) -> int:
        """How many streams are live here."""
        return len(self._live)

    @property
    def buffered(self) -> int:
        """Bytes that are logged but not yet with the fastest reader of their stream."""
        return sum(one.stream.lag for one in self._live.values())

    async def open(self) -> None:
        """Begin the housekeeping."""
        self._chores.append(asyncio.create_task(self._sweep(), name="sweep"))
        if self._store.durable:
            self._chores.append(asyncio.create_task(self._renew(), name="renew"))
            self._chores.append(asyncio.create_task(self._adopt(), name="adopt"))

    async def close(self) -> None:
        """Stop what is still running; logs of a durable store stay open for a takeover."""
        await cancel(self._chores)
        await self._following.close()
        await self._let_go()

    async def _let_go(self) -> None:
        """Stop every relay without an ending."""
        await cancel([one.task for one in self._live.values()])

    # --- start -------------------------------------------------------------------------------------------------

    async def create(self, generation: Generation, owner: Owner, key: str | None) -> Stream:
        """Begin a stream, or join the one that this `Idempotency-Key` began. Attach a reader in the same turn.

        Raises:
            Rejected: draining, over a limit, unknown model, key used with another body.
            StoreError: the store is away.

        """
        model = self.settings.resolve(generation.model)
        if model is None:
            raise Rejected(404, f"The model `{generation.model}` does not exist.", "model_not_found", "model")
        begun = key is not None and (owner.name, key) in self._keyed
        if not begun and (owner.name, key) not in self._starting:
            self._admit(owner)  # joining a live stream is no further generation
        birth = _birth(generation, owner, key)
        route = self.upstreams.route(model, generation.model)
        starting = (owner.name, key or birth.id)
        self._starting[starting] += 1
        self.upstreams.hold(route)
        try:
            if not begun and (self.preprocessing or self._store.durable):
                self.upstreams.connect_ahead(route)  # beside all that is done until the request can be sent
            if not begun and self.preprocessing:
                generation = await self.preprocessing.run(generation)
                birth = replace(birth, body=_written(generation))  # the digest stays that of the client's own words
                if self.draining:
                    raise _draining()
            return await self._created(birth, generation, route)
        finally:
            self._starting -= Counter({starting: 1})
            self.upstreams.release(route)

    async def _created(self, birth: Birth, generation: Generation, route: Sequence[Target]) -> Stream:
        # Shielded: a client that leaves now must not leave a log behind that nobody ever ends.
        creating = asyncio.ensure_future(self._store.create(birth))
        try:
            found = await asyncio.shield(creating)
            if self._store.durable:
                await self.turns.take()  # a batch of logs is made at once
        except asyncio.CancelledError:
            creating.add_done_callback(lambda done: self._abandoned(done, birth, generation, route))
            raise
        if found.birth.id == birth.id:
            return self._begin(self._stream(found), generation, route).stream
        if found.birth.idempotency != birth.idempotency:
            words = "This Idempotency-Key was used with another body."
            raise Rejected(422, words, "idempotency_key_reused", "Idempotency-Key")
        return await self._wrap(found)

    def _admit(self, owner: Owner) -> None:
        if self.draining:
            raise _draining()
        limit = self.settings.server.max_streams
        if len(self._live) + len(self._starting) >= limit:
            raise Rejected(429, f"The gateway runs {limit} streams already.", "too_many_streams", retry_after=1.0)
        mine = self._mine[owner.name] + sum(name == owner.name for name, _ in self._starting)
        if owner.max_streams is not None and mine >= owner.max_streams:
            words = f"This key runs {owner.max_streams} streams already."
            raise Rejected(429, words, "too_many_streams", retry_after=1.0)

    def _abandoned(
        self, done: asyncio.Future[Log], birth: Birth, generation: Generation, route: Sequence[Target]
    ) -> None:
        """Begin a stream whose client left while its log was made: the policy says what becomes of it."""
        if not done.cancelled() and done.exception() is None and done.result().birth.id == birth.id:
            self._left(self._begin(self._stream(done.result()), generation, route), "gone")

    def _begin(
        self, stream: Stream, generation: Generation, route: Sequence[Target], *, taken_over: bool = False
    ) -> Live:
        settings = self.settings
        rounds = Rounds(self._toolbox, generation) if generation.form == "native" else None
        span = None
        if self._traces is not None:
            span = self._traces.begin(stream.birth, dict(generation.trace), taken_over=taken_over)
        relay = Relay(
            stream,
            generation,
            route,
            writer=self._writer(stream, generation, rounds),
            rounds=rounds,
            strategy=self._strategy,
            recovery=settings.recovery,
            total_timeout=settings.streams.total_timeout,
            metrics=self._metrics,
            span=span,
        )
        if taken_over:
            relay.take_over()
        task = asyncio.create_task(relay.run(), name=f"relay {stream.id}")
        live = self._live[stream.id] = Live(stream, relay, task, route)
        self.upstreams.hold(route)
        if stream.birth.idempotency is not None:
            self._keyed[stream.birth.owner, stream.birth.idempotency[0]] = live
        self._mine[stream.birth.owner] += 1
        self._metrics.active.inc()
        self._idle.clear()
        task.add_done_callback(lambda done: self._over(stream, done))
        task.add_done_callback(lambda _: live.over.set())
        return live

    def _writer(self, stream: Stream, generation: Generation, rounds: Rounds | None) -> Writer:
        if rounds is None:
            return OpenAIWriter(show_usage=generation.show_usage)
        return NativeWriter(stream.birth, lambda: stream.target, rounds.serves)

    def _stream(self, opened: Log) -> Stream:
        settings = self.settings
        return Stream(
            opened, max_lag_bytes=settings.flow.max_lag_bytes, max_stream_bytes=settings.streams.max_stream_bytes
        )

    async def _wrap(self, found: Log) -> Stream:
        """Return the stream of a log: the one that is live or followed here, brought up to date."""
        while True:
            if (live := self._live.get(found.birth.id)) is not None:
                held = live.stream.log
                if held is found or await self._store.find(found.birth.id) is held:
                    return live.stream
                live.task.cancel()  # another instance has claimed it, and the relay here did not know yet
                await asyncio.wait([live.task])
            if (followed := self._following.get(found.birth.id)) is None:
                return self._stream(found)
            await self._store.refresh(followed.log)
            followed.refreshed()
            if self._following.get(found.birth.id) is followed:  # else its last reader left, or it is live now
                return followed

    def _take_over(self, stream: Stream, stop: StreamError | None = None) -> Live:
        """Begin a relay for a stream whose log was claimed; with `stop` only to end it."""
        generation = generation_of(stream.birth)
        model = self.settings.resolve(generation.model)
        if model is None:
            stop = stop or StreamError(f"The model `{generation.model}` does not exist.", "model_not_found", 404)
        route = self.upstreams.route(model, generation.model) if model else ()
        live = self._begin(stream, generation, route, taken_over=True)
        log.info("stream taken over", stream_id=stream.id, records=stream.log.tail, age=round(stream.age, 3))
        if stop is not None:
            live.relay.stop(stop)
        elif not stream.readers:
            self._linger(live)
        return live

    def _over(self, stream: Stream, task: asyncio.Task[None]) -> None:
        """Account for a relay that is done, however."""
        live = self._live.pop(stream.id)
        if live.lingering is not None:
            live.lingering.cancel()
        if stream.birth.idempotency is not None:
            self._keyed.pop((stream.birth.owner, stream.birth.idempotency[0]), None)
        self._mine -= Counter({stream.birth.owner: 1})
        self.upstreams.release(live.route)
        self._metrics.active.dec()
        if not self._live:
            self._idle.set()
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Fenced) or (task.cancelled() and not self.draining):
            log.warning("stream lost to another instance", stream_id=stream.id)
            stream.refreshed()
            if stream.readers:
                self._following.begin(stream)
        elif isinstance(error, StoreError):
            log.warning("relay stopped by its store", stream_id=stream.id, error=str(error))
            stream.fail(out_of_reach())
            self._stranded[stream.id] = Stranded(time.monotonic(), live.relay.stopped)
        elif error is not None:
            log.error("relay failed", stream_id=stream.id, **cause(error))
        ending = stream.log.ending
        if ending is not None:
            self._metrics.streams.labels(ending.state.value).inc()
            unopened = ending.error is not None and stream.log.tail == ENDING_RECORDS[stream.birth.form]
            if unopened and stream.birth.idempotency is not None:
                asyncio.ensure_future(self._store.release_key(stream.log))  # noqa: RUF006 — short, nothing waits for it
        account(stream, live.relay)

    # --- find --------------------------------------------------------------------------------------------------

    async def find(self, stream_id: str, owner: Owner) -> Stream:
        """Return a live or retained stream that `owner` may see. Raises Rejected 404, StoreError."""
        found = await self._store.find(stream_id)
        if found is None or not (owner.admin or found.birth.owner == owner.name):
            raise Rejected(404, "There is no such stream.", "stream_not_found")
        return await self._wrap(found)

    async def visible(self, owner: Owner) -> AsyncIterator[Stream]:
        """Yield every live or retained stream that `owner` may see, oldest first. Raises StoreError."""
        async for found in self._store.logs():
            if owner.admin or found.birth.owner == owner.name:
                live = self._live.get(found.birth.id)
                yield live.stream if live else self._stream(found)

    async def problem(self) -> str | None:
        """Return why the gateway is not ready, or None."""
        return "draining" if self.draining else await self._store.problem()

    # --- readers -----------------------------------------------------------------------------------------------

    def attach(self, stream: Stream, reader: Reader) -> None:
        """Add a reader; it stops a linger."""
        stream.readers.add(reader)
        live = self._live.get(stream.id)
        if live is None:
            self._following.begin(stream)
        elif live.lingering is not None:
            live.lingering.cancel()
            live.lingering = None
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
            self._left(live, why)

    def _left(self, live: Live, why: Leaving) -> None:
        """Act as the stream's policy says now that its last reader has left."""
        stream = live.stream
        cancels = stream.birth.policy == "cancel"
        if why == "gone" and cancels:
            self._give_up(live, cancelled("the client disconnected"))
            return
        stream.held = cancels  # a stalled client may come back; meanwhile nothing is read for it
        self._linger(live)

    def _linger(self, live: Live) -> None:
        error, seconds = cancelled("no client came back"), self.settings.streams.linger
        live.lingering = asyncio.get_running_loop().call_later(seconds, self._give_up, live, error)

    def _give_up(self, live: Live, error: StreamError) -> None:
        """Stop a stream that nobody reads here, unless somebody reads it through another instance."""
        if self._store.durable:
            asyncio.ensure_future(self._ask_elsewhere(live, error))  # noqa: RUF006 — short, and nothing waits for it
        else:
            live.relay.stop(error)

    async def _ask_elsewhere(self, live: Live, error: StreamError) -> None:
        try:
            followed = await self._store.followed(live.stream.log)
        except StoreError:
            followed = False
        if live.stream.readers or live.task.done():
            return
        if followed:
            loop, lease = asyncio.get_running_loop(), self.settings.store.lease
            live.lingering = loop.call_later(lease, self._give_up, live, error)
        else:
            live.relay.stop(error)

    # --- stop --------------------------------------------------------------------------------------------------

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
                    live = self._take_over(stream, stop)
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
        self.draining = self._following.draining = True
        try:
            async with asyncio.timeout(grace):
                await self._idle.wait()
                await readers.wait()  # they may still read what has ended
        except TimeoutError:
            pass
        if self._store.durable:
            await self._let_go()
            return
        error = StreamError("The gateway is shutting down.", "shutdown", 503, retryable=True)
        for live in list(self._live.values()):
            live.relay.stop(error)
        if self._live:
            await asyncio.wait([live.task for live in self._live.values()])

    async def _sweep(self) -> None:
        while True:
            due = time.monotonic() + SWEEP_INTERVAL
            await asyncio.sleep(SWEEP_INTERVAL)
            self._metrics.observe_lag(max(0.0, time.monotonic() - due))
            self._metrics.settle()
            try:
                await self._store.sweep(time.time())
            except StoreError as error:
                log.warning("sweep failed", error=str(error))

    async def _renew(self) -> None:
        """Keep the lease; stop the relays whose streams another instance has claimed."""
        while True:
            await asyncio.sleep(min(RENEW_INTERVAL, self.settings.store.lease / 4))
            try:
                for lost in await self._store.renew():
                    live = self._live.get(lost.birth.id)
                    if live is not None and live.stream.log is lost:
                        live.task.cancel()
            except StoreError as error:
                log.warning("lease not renewed", error=str(error))

    async def _adopt(self) -> None:
        """Take over orphaned streams that are to go on without a client, and those that the store had stopped."""
        while not self.draining:
            try:
                async for orphan in self._store.orphans():
                    if orphan.birth.policy == "continue" and len(self._live) < self.settings.server.max_streams:
                        stream = await self._wrap(orphan)
                        if await self._following.claim(stream):
                            self._take_over(stream)
                if self._stranded and await self._store.problem() is None:
                    for stream_id, stranded in list(self._stranded.items()):
                        await self._take_up(stream_id, stranded)
            except StoreError as error:
                log.warning("no look for orphans", error=str(error))
            await asyncio.sleep(self.settings.store.lease / 2)

    async def _take_up(self, stream_id: str, stranded: Stranded) -> None:
        """Go on with a stream that the store stopped, or end it if no client came back in time. Raises StoreError."""
        found = await self._store.find(stream_id)
        stop = stranded.stop
        if stop is None and found is not None and found.birth.policy == "cancel":
            if time.monotonic() < stranded.since + self.settings.streams.linger:
                return
            stop = cancelled("no client came back")
        if found is not None and found.ending is None:
            stream = await self._wrap(found)
            if (stranded.stop or not stream.readers) and await self._following.claim(stream):
                self._take_over(stream, stop)
        self._stranded.pop(stream_id, None)
