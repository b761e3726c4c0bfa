"""Streams that are about to begin here. Until a relay runs, or it is clear that none will, others wait for it."""

from collections.abc import Iterator
from contextlib import contextmanager

from server.aio.event import Event
from server.core.records import Beginning


class Starting:
    """Every stream from its admission until its relay runs here, or it is clear that none will.

    Another request may come upon such a stream in two ways: by its idempotency key, and, as soon as its log has been
    created, by its id. Both must wait. Otherwise there would be two streams for one key, or two relays for one log.
    The limits count these streams, too.
    """

    def __init__(self) -> None:
        self._by_id: dict[str, tuple[str, Event]] = {}  # the owner; the event is set when nothing is to come any more
        self._by_key: dict[tuple[str, str], Event] = {}  # by owner and idempotency key

    def __len__(self) -> int:
        return len(self._by_id)

    def count(self, owner: str) -> int:
        """Return how many are this owner's."""
        return sum(name == owner for name, _ in self._by_id.values())

    @contextmanager
    def start(self, beginning: Beginning) -> Iterator[None]:
        """Let others wait for this stream while the block runs."""
        started = Event()
        key = (beginning.owner, beginning.idempotency[0]) if beginning.idempotency is not None else None
        self._by_id[beginning.id] = beginning.owner, started
        if key is not None:
            assert key not in self._by_key, "wait for `key_settled` first"
            self._by_key[key] = started
        try:
            yield
        finally:
            del self._by_id[beginning.id]
            if key is not None:
                del self._by_key[key]
            started.set()

    async def settled(self, stream_id: str) -> None:
        """Return when no relay is about to begin here for the log with this id."""
        if stream_id in self._by_id:
            await self._by_id[stream_id][1].wait()

    async def key_settled(self, owner: str, key: str) -> None:
        """Return when nothing is about to begin with this idempotency key. In the same turn the caller may begin."""
        while (started := self._by_key.get((owner, key))) is not None:
            await started.wait()
