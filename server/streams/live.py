"""The streams that have a relay here: how one begins, and what follows when its relay is done."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

import structlog

from server.aio.cancelling import cancel
from server.aio.event import Event
from server.config.settings import Settings
from server.core.dialect import Dialects
from server.core.errors import Fenced, StoreError, StreamError
from server.core.generation import Generation
from server.core.ports import Log, Strategy
from server.relay.plan import Rules
from server.relay.progress import Progress
from server.relay.relay import Relay
from server.relay.stream import Stream
from server.streams.account import account
from server.streams.bodies import Bodies
from server.telemetry.logs import cause
from server.telemetry.metrics import Metrics
from server.telemetry.traces import Traces
from server.tools.loop import ToolLoop
from server.tools.places import Payer
from server.tools.toolbox import Toolbox
from server.upstreams.pool import Target, Upstreams

log = structlog.get_logger("sluiceway")


def out_of_reach() -> StreamError:
    """Return the error of a reader whose stream's log cannot be written or read."""
    return StreamError("The log of this stream is out of reach.", "store_unavailable", 503, retryable=True)


@dataclass(slots=True)
class Live:
    """A stream with its relay."""

    stream: Stream
    relay: Relay
    task: asyncio.Task[None]
    route: Sequence[Target]
    lingering: asyncio.TimerHandle | asyncio.Task[None] | None = None  # see Linger
    over: Event = field(default_factory=Event)  # the relay is done, and what follows from it as well

    def stop_lingering(self) -> None:
        """Stop what may stop the stream because it has no reader."""
        if self.lingering is not None:
            self.lingering.cancel()
            self.lingering = None


@dataclass(frozen=True, slots=True)
class RelayParts:
    """What every relay of this process is given, whatever its stream."""

    strategy: Strategy
    toolbox: Toolbox
    dialects: Dialects
    metrics: Metrics
    traces: Traces | None


@dataclass(frozen=True, slots=True)
class Interrupted:
    """A relay that the store has stopped: when (time.monotonic()), and the ending that could not be logged, if any."""

    since: float
    ending: StreamError | None


class LiveStreams:
    """All streams with a relay here, by id, and the one `Stream` of each log that is in use in this process.

    A relay may be done without an ending. `lost` then has the stream if another instance has claimed its log, and
    `interrupted` knows of it if the store has stopped its relay; `Takeover` goes on with both. A relay that is
    cancelled while `draining` is neither: this process lets it go.
    """

    def __init__(
        self, settings: Settings, upstreams: Upstreams, parts: RelayParts, draining: Event, bodies: Bodies
    ) -> None:
        self.idle = asyncio.Event()  # there is none
        self.idle.set()
        self.lost: asyncio.Queue[Stream] = asyncio.Queue()
        self.interrupted: dict[str, Interrupted] = {}  # by id
        self.claims: set[str] = set()  # ids of the logs that are being claimed: a relay may begin in any turn
        self._settings = settings
        self._upstreams = upstreams
        self._strategy = parts.strategy
        self._metrics = parts.metrics
        self._toolbox = parts.toolbox
        self._traces = parts.traces
        self._dialects = parts.dialects
        self._draining = draining
        self._bodies = bodies
        self._relayed: dict[str, Live] = {}
        self._streams: WeakValueDictionary[str, Stream] = WeakValueDictionary()
        self._owners: Counter[str] = Counter()
        self._keys: dict[tuple[str, str], Live] = {}  # by owner and idempotency key

    def get(self, stream_id: str) -> Live | None:
        """Return the stream with this id, if it is live here."""
        return self._relayed.get(stream_id)

    def __contains__(self, stream_id: str) -> bool:
        return stream_id in self._relayed

    def __iter__(self) -> Iterator[Live]:
        return iter(list(self._relayed.values()))

    def __len__(self) -> int:
        return len(self._relayed)

    def count(self, owner: str) -> int:
        """Return how many are this owner's."""
        return self._owners[owner]

    def with_key(self, owner: str, key: str) -> Live | None:
        """Return the stream that was begun with this owner's idempotency key, if it is live here."""
        return self._keys.get((owner, key))

    # --- the one stream of a log ---------------------------------------------------------------------------------

    def stream(self, log: Log) -> Stream:
        """Return the stream of a log that the store has just given, and so brought up to date.

        Everyone who uses a log that may still grow shares one object: a reader of another one would never see a relay
        begin. The object goes with its last user. If its readers were told of a fault, it is done with and makes room
        for a new one.

        Raises UnknownDialectError.
        """
        stream_id = log.beginning.id
        stream = self._streams.get(stream_id) if log.ending is None else None
        if stream is not None and (stream.fault is None or stream_id in self.claims):
            if stream_id not in self._relayed:
                stream.refreshed()
            return stream
        flow, streams = self._settings.flow, self._settings.streams
        dialect = self._dialects.of(log.beginning)
        stream = Stream(log, dialect, max_lag_bytes=flow.max_lag_bytes, max_stream_bytes=streams.max_stream_bytes)
        if log.ending is None:
            self._streams[stream_id] = stream
        return stream

    # --- a relay begins ------------------------------------------------------------------------------------------

    def begin(
        self, stream: Stream, generation: Generation, route: Sequence[Target], *, taken_over: bool = False
    ) -> Live:
        """Begin the relay of a stream whose log is held here."""
        stream.relayed()
        self.interrupted.pop(stream.id, None)
        settings = self._settings
        payer = Payer(stream.beginning.owner, stream.id)
        tool_loop = ToolLoop(self._toolbox, generation, payer) if stream.dialect.server_tools else None
        client_tools = None if tool_loop is None else tool_loop.client_tools
        span = None
        if self._traces is not None:
            span = self._traces.begin(stream.beginning, dict(generation.trace), taken_over=taken_over)
        progress = Progress(
            generation.body if tool_loop is None else tool_loop.generation.body,
            time.monotonic() if generation.received is None else generation.received,
            settings.streams.total_timeout,
            self._metrics,
            span,
            before=stream.age if taken_over else None,
        )
        writer = stream.dialect.writer(stream.log, generation, client_tools)
        rules = Rules(self._strategy, settings.recovery)
        relay = Relay(stream, generation, route, writer, tool_loop, rules, progress)
        task = asyncio.create_task(relay.run(), name=f"relay {stream.id}")
        live = self._relayed[stream.id] = Live(stream, relay, task, route)
        self._upstreams.hold(route)
        if stream.beginning.idempotency is not None:
            self._keys[stream.beginning.owner, stream.beginning.idempotency[0]] = live
        self._owners[stream.beginning.owner] += 1
        self._bodies.hold(stream.beginning.owner, len(stream.beginning.body))
        self._metrics.active += 1
        self.idle.clear()
        task.add_done_callback(lambda _: self._done(live))
        return live

    # --- a relay is done -----------------------------------------------------------------------------------------

    async def let_go(self) -> None:
        """Stop every relay without an ending."""
        await cancel([live.task for live in self])

    def lose(self, claimed: Log) -> None:
        """Stop the relay of a log that another instance has claimed."""
        live = self._relayed.get(claimed.beginning.id)
        if live is not None:
            live.task.cancel()

    def _done(self, live: Live) -> None:
        try:
            self._account(live)
        finally:
            live.over.set()

    def _account(self, live: Live) -> None:
        """Account for a relay that is done, however."""
        self._forget(live)
        stream, task = live.stream, live.task
        error = None if task.cancelled() else task.exception()
        # A log that has been claimed may have an ending already, which is another instance's.
        ending = stream.log.ending if stream.ended.is_set() else None
        let_go = self._draining.is_set() or ending is not None
        if isinstance(error, Fenced) or (task.cancelled() and not let_go):
            log.warning("stream lost to another instance", stream_id=stream.id)
            stream.refreshed()
            self.lost.put_nowait(stream)
        elif isinstance(error, StoreError):
            log.warning("relay stopped by its store", stream_id=stream.id, error=str(error))
            self.interrupted[stream.id] = Interrupted(time.monotonic(), live.relay.stopped)
            stream.fail(out_of_reach())
        elif error is not None:
            log.error("relay failed", stream_id=stream.id, **cause(error))
            if ending is None:  # not even that could be written: nobody else tells the readers
                stream.fail(StreamError("The gateway failed on this stream.", "internal_error", 500))
        if ending is not None:
            self._metrics.ended[ending.state.value] += 1
        account(stream, live.relay, ending, live.route[0].served.name if live.route else "")

    def _forget(self, live: Live) -> None:
        beginning = live.stream.beginning
        del self._relayed[beginning.id]
        live.stop_lingering()
        if beginning.idempotency is not None and self.with_key(beginning.owner, beginning.idempotency[0]) is live:
            del self._keys[beginning.owner, beginning.idempotency[0]]
        self._owners -= Counter({beginning.owner: 1})
        self._bodies.release(beginning.owner, len(beginning.body))
        self._upstreams.release(live.route)
        self._metrics.active -= 1
        if not self._relayed:
            self.idle.set()
