"""Finding the one `Stream` of a log, by its id or by an idempotency key, when it is clear who relays it."""

from server.aio.cancelling import cancel
from server.core.ports import Log, Store
from server.relay.stream import Stream
from server.streams.live import Live, LiveStreams
from server.streams.starting import Starting


class Finding:
    """Finds streams: those that are about to begin here, those that are live here, and those that are not."""

    def __init__(self, store: Store, live: LiveStreams, starting: Starting) -> None:
        self._store = store
        self._live = live
        self._starting = starting

    async def with_key(self, owner: str, key: str) -> Stream | None:
        """Return the stream that this owner began here with an idempotency key, if it is live.

        If it is None the caller may begin one, in the same turn of the event loop.
        """
        await self._starting.key_settled(owner, key)
        live = self._live.with_key(owner, key)
        return None if live is None else live.stream

    async def current(self, log: Log) -> Stream:
        """Return the stream of a log that the store has given, brought up to date. Raises StoreError.

        If its relay is here but another instance has claimed the log, wait until that relay has ended. A log is never
        claimed here while a relay of an older epoch still runs.
        """
        stream_id = log.beginning.id
        while True:
            await self._starting.settled(stream_id)
            live = self._live.get(stream_id)
            if live is not None:
                if await self._still_here(live, log):
                    return live.stream
                await cancel([live.task])  # the relay did not know yet that it has lost its log
                continue
            stream = self._live.stream(log)
            if stream.log is log or stream.log.ending is not None:
                return stream
            await self._store.refresh(stream.log)  # until a store gives one log per id
            if self._live.stream(log) is stream:  # else its readers were told of a fault meanwhile
                return stream

    async def _still_here(self, live: Live, log: Log) -> bool:
        """Whether the log of a live stream is still held here, as far as the store knows. Raises StoreError."""
        held = live.stream.log
        # until a store gives one log per id
        return held is log or held.ending is not None or await self._store.find(log.beginning.id) is held
