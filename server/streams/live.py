"""The streams that have a relay here: how one begins, and what follows when its relay is done."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import structlog

from server.aio.cancelling import cancel
from server.aio.event import Event
from server.config.settings import Settings
from server.core.dialect import Dialects
from server.core.errors import Fenced, StoreError
from server.core.generation import Generation
from server.core.ports import Log, Strategy
from server.relay.plan import Rules
from server.relay.progress import Progress
from server.relay.relay import Relay
from server.relay.stream import Stream
from server.streams.account import account
from server.telemetry.logs import cause
from server.telemetry.metrics import Metrics
from server.telemetry.traces import Traces
from server.tools.loop import ToolLoop
from server.tools.toolbox import Toolbox
from server.upstreams.pool import Target, Upstreams

log = structlog.get_logger("sluiceway")


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


class LiveStreams:
    """All of them, by id.

    A relay may be done without an ending. `lost` is told of a stream that another instance has claimed, `stranded` of
    one that the store has stopped. While `draining` a relay that is cancelled is let go, not lost.
    """

    def __init__(
        self,
        settings: Settings,
        upstreams: Upstreams,
        strategy: Strategy,
        metrics: Metrics,
        toolbox: Toolbox,
        traces: Traces | None,
        dialects: Dialects,
        *,
        draining: Event,
        lost: Callable[[Stream], None],
        stranded: Callable[[Live], None],
    ) -> None:
        self.idle = asyncio.Event()  # there is none
        self.idle.set()
        self._settings = settings
        self._upstreams = upstreams
        self._strategy = strategy
        self._metrics = metrics
        self._toolbox = toolbox
        self._traces = traces
        self._dialects = dialects
        self._draining = draining
        self._lost = lost
        self._stranded = stranded
        self._streams: dict[str, Live] = {}
        self._owners: Counter[str] = Counter()
        self._keys: dict[tuple[str, str], Live] = {}  # by owner and idempotency key
        self._expected: dict[str, Event] = {}  # by id; set when it has begun, or will not

    def get(self, stream_id: str) -> Live | None:
        """Return the stream with this id, if it is live here."""
        return self._streams.get(stream_id)

    def __contains__(self, stream_id: str) -> bool:
        return stream_id in self._streams

    def __iter__(self) -> Iterator[Live]:
        return iter(list(self._streams.values()))

    def __len__(self) -> int:
        return len(self._streams)

    def count(self, owner: str) -> int:
        """Return how many are this owner's."""
        return self._owners[owner]

    def with_key(self, owner: str, key: str) -> Live | None:
        """Return the stream that was begun with this owner's idempotency key, if it is live here."""
        return self._keys.get((owner, key))

    # --- a relay begins ------------------------------------------------------------------------------------------

    def expect(self, stream_id: str) -> None:
        """Note that a relay is about to begin for a log that can be found from now on: there must be no second one."""
        self._expected[stream_id] = Event()

    def unexpect(self, stream_id: str) -> None:
        """Note that it has begun, or that it will not."""
        expected = self._expected.pop(stream_id, None)
        if expected is not None:
            expected.set()

    async def settled(self, stream_id: str) -> None:
        """Return when no relay is about to begin for this log."""
        if stream_id in self._expected:
            await self._expected[stream_id].wait()

    def stream(self, opened: Log) -> Stream:
        """Return a stream of a log, within the configured bounds. Raises UnknownDialectError."""
        flow, streams = self._settings.flow, self._settings.streams
        dialect = self._dialects.of(opened.beginning)
        return Stream(opened, dialect, max_lag_bytes=flow.max_lag_bytes, max_stream_bytes=streams.max_stream_bytes)

    def begin(
        self, stream: Stream, generation: Generation, route: Sequence[Target], *, taken_over: bool = False
    ) -> Live:
        """Begin the relay of a stream whose log is held here."""
        stream.relayed()
        self.unexpect(stream.id)
        settings = self._settings
        tool_loop = ToolLoop(self._toolbox, generation) if stream.dialect.server_tools else None
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
        live = self._streams[stream.id] = Live(stream, relay, task, route)
        self._upstreams.hold(route)
        if stream.beginning.idempotency is not None:
            self._keys[stream.beginning.owner, stream.beginning.idempotency[0]] = live
        self._owners[stream.beginning.owner] += 1
        self._metrics.active.inc()
        self.idle.clear()
        task.add_done_callback(lambda _: self._done(live))
        return live

    # --- a relay is done -----------------------------------------------------------------------------------------

    async def let_go(self) -> None:
        """Stop every relay without an ending."""
        await cancel([live.task for live in self])

    def lose(self, claimed: Log) -> None:
        """Stop the relay of a log that another instance has claimed."""
        live = self._streams.get(claimed.beginning.id)
        if live is not None and live.stream.log is claimed:
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
        ending = stream.log.ending
        let_go = self._draining.is_set() or ending is not None
        if isinstance(error, Fenced) or (task.cancelled() and not let_go):
            log.warning("stream lost to another instance", stream_id=stream.id)
            stream.refreshed()
            self._lost(stream)
        elif isinstance(error, StoreError):
            log.warning("relay stopped by its store", stream_id=stream.id, error=str(error))
            self._stranded(live)
        elif error is not None:
            log.error("relay failed", stream_id=stream.id, **cause(error))
        if ending is not None:
            self._metrics.streams.labels(ending.state.value).inc()
        account(stream, live.relay)

    def _forget(self, live: Live) -> None:
        beginning = live.stream.beginning
        del self._streams[beginning.id]
        live.stop_lingering()
        if beginning.idempotency is not None and self.with_key(beginning.owner, beginning.idempotency[0]) is live:
            del self._keys[beginning.owner, beginning.idempotency[0]]
        self._owners -= Counter({beginning.owner: 1})
        self._upstreams.release(live.route)
        self._metrics.active.dec()
        if not self._streams:
            self.idle.set()
