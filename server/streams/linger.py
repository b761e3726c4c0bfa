"""What becomes of a live stream when its last reader has left: its policy says whether it is ended or waits."""

import asyncio
from typing import Literal

from server.aio.cancelling import cancel
from server.core.errors import StoreError, StreamError
from server.core.ports import Store
from server.streams.live import Live

ASK_PATIENCE = 2.0  # seconds in which a store has to say whether others read a stream; one that is away takes longer
Leaving = Literal["gone", "stalled", "ended"]


def cancelled(reason: str) -> StreamError:
    """Return the error that ends a stream which somebody stopped."""
    return StreamError(f"The stream was cancelled: {reason}.", "cancelled", 499)


class Linger:
    """Keeps a stream for `seconds` after its last reader, and for as long as other instances have readers of it.

    Another instance may read a stream only with a durable store. That store is asked before the stream is stopped, and
    again every `lease` seconds while it says yes. `Live.lingering` is the timer, and then the question.
    """

    def __init__(self, store: Store, seconds: float, lease: float) -> None:
        self._store = store
        self._seconds = seconds
        self._lease = lease
        self._questions: set[asyncio.Task[None]] = set()

    def left(self, live: Live, why: Leaving) -> None:
        """Act as the stream's policy says, now that its last reader has left."""
        cancels = live.stream.beginning.policy == "cancel"
        if why == "gone" and cancels:
            self._give_up(live, cancelled("the client disconnected"))
            return
        live.stream.held = cancels  # a stalled client may come back; meanwhile nothing is read for it
        self.begin(live)

    def begin(self, live: Live) -> None:
        """Wait for a reader, and give the stream up if none comes, unless it needs none."""
        if not live.stream.beginning.detached:
            self._give_up_in(self._seconds, live, cancelled("no client came back"))

    def stop(self, live: Live) -> None:
        """Note that a reader has come: neither the timer nor an answer that is still to come may stop the stream."""
        live.stop_lingering()

    async def close(self) -> None:
        """Ask nothing any more: the store is about to be closed."""
        await cancel(self._questions)

    def _give_up_in(self, seconds: float, live: Live, error: StreamError) -> None:
        live.lingering = asyncio.get_running_loop().call_later(seconds, self._give_up, live, error)

    def _give_up(self, live: Live, error: StreamError) -> None:
        """Stop a stream that nobody reads here, unless somebody reads it through another instance."""
        if not self._store.durable:
            live.relay.stop(error)
            return
        live.stop_lingering()
        question = asyncio.create_task(self._stop_unless_followed(live, error), name=f"linger {live.stream.id}")
        live.lingering = question
        self._questions.add(question)
        question.add_done_callback(self._questions.discard)

    async def _stop_unless_followed(self, live: Live, error: StreamError) -> None:
        """Stop a stream, or wait once more if another instance has readers of it. A store that is away has none."""
        try:
            async with asyncio.timeout(ASK_PATIENCE):
                followed = await self._store.followed(live.stream.log)
        except (StoreError, TimeoutError):
            followed = False
        # A library may swallow a cancel. So look whether this is still the question that the stream waits for.
        if live.lingering is not asyncio.current_task() or live.stream.ended.is_set():
            return
        if followed:
            self._give_up_in(self._lease, live, error)
        else:
            live.relay.stop(error)
