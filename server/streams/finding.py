"""Finding the one `Stream` of a log, by its id or by an idempotency key, when it is clear who relays it."""

from server.core.ports import Log
from server.relay.stream import Stream
from server.streams.admission import Starting
from server.streams.live import LiveStreams


class Finding:
    """Finds streams: those that are about to begin here, those that are live here, and those that are not."""

    def __init__(self, live: LiveStreams, starting: Starting) -> None:
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
        """Return the stream of a log that the store has just given, and so brought up to date.

        If another instance has claimed the log while its relay was here, that relay hears of it with its next append
        or with the next renewal of the lease, whichever comes first.
        """
        await self._starting.settled(log.beginning.id)
        return self._live.stream(log)
