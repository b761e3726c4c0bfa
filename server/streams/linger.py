"""What becomes of a live stream when its last reader has left: its policy says whether it is ended, or waits."""

import asyncio
from typing import Literal

from server.core.errors import StoreError, StreamError
from server.core.ports import Store
from server.streams.live import Live

Leaving = Literal["gone", "stalled", "ended"]


def cancelled(reason: str) -> StreamError:
    """Return the error that ends a stream somebody stopped."""
    return StreamError(f"The stream was cancelled: {reason}.", "cancelled", 499)


class Linger:
    """Keeps streams for `seconds` after their last reader, and for as long as other instances have readers of them.

    Whether they have is asked again every `lease` seconds.
    """

    def __init__(self, store: Store, seconds: float, lease: float) -> None:
        self._store = store
        self._seconds = seconds
        self._lease = lease

    def left(self, live: Live, why: Leaving) -> None:
        """Act as the stream's policy says now that its last reader has left."""
        cancels = live.stream.beginning.policy == "cancel"
        if why == "gone" and cancels:
            self._give_up(live, cancelled("the client disconnected"))
            return
        live.stream.held = cancels  # a stalled client may come back; meanwhile nothing is read for it
        self.begin(live)

    def begin(self, live: Live) -> None:
        """Wait for a reader, and give the stream up where none comes."""
        self._give_up_in(self._seconds, live, cancelled("no client came back"))

    def stop(self, live: Live) -> None:
        """Note that a reader has come."""
        if live.lingering is not None:
            live.lingering.cancel()
            live.lingering = None

    def _give_up_in(self, seconds: float, live: Live, error: StreamError) -> None:
        live.lingering = asyncio.get_running_loop().call_later(seconds, self._give_up, live, error)

    def _give_up(self, live: Live, error: StreamError) -> None:
        """Stop a stream that nobody reads here, unless somebody reads it through another instance."""
        if self._store.durable:
            asyncio.ensure_future(self._ask_elsewhere(live, error))  # noqa: RUF006 — short, and nothing waits for it
        else:
            live.relay.stop(error)

    async def _ask_elsewhere(self, live: Live, error: StreamError) -> None:
        asked = live.lingering
        try:
            followed = await self._store.followed(live.stream.log)
        except StoreError:
            followed = False
        if live.stream.readers or live.lingering is not asked or live.task.done():  # a reader is here, or has been
            return
        if followed:
            self._give_up_in(self._lease, live, error)
        else:
            live.relay.stop(error)
