"""Who may begin a stream: the limits, and what counts against them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from server.aio.event import Event
from server.core.errors import Rejected
from server.streams.live import LiveStreams


@dataclass(frozen=True, slots=True)
class Owner:
    """Who asks: the key's name ("" where there are no keys) and what it may do."""

    name: str = ""
    admin: bool = True
    max_streams: int | None = None


def shutting_down() -> Rejected:
    """Return the answer to a generation that comes while the gateway drains."""
    return Rejected(503, "The gateway is shutting down.", "draining", retry_after=1.0)


class Admission:
    """Lets in what is within the limits. What was let in counts as a stream from then on, before it is live."""

    def __init__(self, limit: int, live: LiveStreams, draining: Event) -> None:
        self._limit = limit
        self._live = live
        self._draining = draining
        self._starting: dict[tuple[str, str], Event] = {}  # by owner, and key or stream; set when it is over

    def admit(self, owner: Owner) -> None:
        """Raise Rejected while draining, and for one stream more than a limit allows."""
        if self._draining.is_set():
            raise shutting_down()
        if len(self._live) + len(self._starting) >= self._limit:
            words = f"The gateway runs {self._limit} streams already."
            raise Rejected(429, words, "too_many_streams", retry_after=1.0)
        mine = self._live.count(owner.name) + sum(name == owner.name for name, _ in self._starting)
        if owner.max_streams is not None and mine >= owner.max_streams:
            words = f"This key runs {owner.max_streams} streams already."
            raise Rejected(429, words, "too_many_streams", retry_after=1.0)

    @contextmanager
    def starting(self, owner: Owner, name: str) -> Iterator[None]:
        """Count what begins under this idempotency key or id, one at a time."""
        self._starting[owner.name, name] = over = Event()
        try:
            yield
        finally:
            del self._starting[owner.name, name]
            over.set()

    async def settled(self, owner: Owner, key: str) -> None:
        """Return when nothing begins under this idempotency key."""
        while (beginning := self._starting.get((owner.name, key))) is not None:
            await beginning.wait()
