"""Who may begin a stream, and when: the limits, and what counts against them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from server.aio.event import Event
from server.aio.pacing import StartPacer
from server.core.errors import Rejected
from server.core.records import Beginning
from server.streams.live import LiveStreams
from server.streams.starting import Starting


@dataclass(frozen=True, slots=True)
class Owner:
    """The caller: the name of its key ("" if there are no keys), and what that key may do."""

    name: str = ""
    admin: bool = True
    max_streams: int | None = None


class Admission:
    """Lets streams in that are within the limits. A stream counts from then on, before it is live.

    `pacer` spreads a burst of requests over turns of the event loop.
    """

    def __init__(self, limit: int, live: LiveStreams, starting: Starting, draining: Event) -> None:
        self.pacer = StartPacer()
        self._limit = limit
        self._live = live
        self._starting = starting
        self._draining = draining

    @property
    def full(self) -> bool:
        """Whether the gateway relays as many streams as it may."""
        return len(self._live) + len(self._starting) >= self._limit

    def check_open(self) -> None:
        """Raise Rejected 503 while the gateway drains."""
        if self._draining.is_set():
            raise Rejected(503, "The gateway is shutting down.", "draining", retry_after=1.0)

    @contextmanager
    def admitted(self, owner: Owner, beginning: Beginning) -> Iterator[None]:
        """Let a stream in, and others wait for it while the block runs. Raises Rejected: draining, over a limit."""
        self.check_open()
        if self.full:
            words = f"The gateway runs {self._limit} streams already."
            raise Rejected(429, words, "too_many_streams", retry_after=1.0)
        count = self._live.count(owner.name) + self._starting.count(owner.name)
        if owner.max_streams is not None and count >= owner.max_streams:
            words = f"This key runs {owner.max_streams} streams already."
            raise Rejected(429, words, "too_many_streams", retry_after=1.0)
        with self._starting.start(beginning):
            yield
