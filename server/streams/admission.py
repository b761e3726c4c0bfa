"""Who may begin a stream, and what is about to begin: the limits, and what counts against them."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from server.aio.event import Event
from server.aio.pacing import StartPacer
from server.config.settings import matches
from server.core.errors import Rejected
from server.core.records import Beginning
from server.streams.bodies import Bodies
from server.streams.live import LiveStreams

DRAINING = "draining"  # code of the error for a request that came too late


class Starting:
    """Every stream from its admission until its relay runs here, or it is clear that none will.

    Another request may come upon such a stream in two ways: by its idempotency key, and, as soon as its log has been
    created, by its id. Both must wait. Otherwise there would be two streams for one key, or two relays for one log.
    The limits count these streams, too.
    """

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
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
            with self._bodies.held(beginning.owner, len(beginning.body)):
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

    async def all_settled(self) -> None:
        """Return when no relay is about to begin here."""
        while self._by_id:
            _, started = next(iter(self._by_id.values()))
            await started.wait()

    async def key_settled(self, owner: str, key: str) -> None:
        """Return when nothing is about to begin with this idempotency key. In the same turn the caller may begin."""
        while (started := self._by_key.get((owner, key))) is not None:
            await started.wait()


@dataclass(frozen=True, slots=True)
class Owner:
    """The caller: what its streams are stored under ("" if there are no keys), and what its key may do.

    `models` are the names and patterns that it may ask for.
    """

    name: str = ""
    admin: bool = True
    max_streams: int | None = None
    models: Sequence[str] = ("*",)

    def may_ask(self, model: str) -> bool:
        """Whether there is a model of this name for the caller."""
        return any(matches(pattern, model) for pattern in self.models)


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
        self._plain: Counter[str] = Counter()  # requests of plain paths that are under way, by owner
        self.no_plain = asyncio.Event()
        self.no_plain.set()

    @property
    def full(self) -> bool:
        """Whether the gateway relays as much as it may."""
        return len(self._live) + len(self._starting) + self._plain.total() >= self._limit

    def check_open(self) -> None:
        """Raise Rejected 503 while the gateway drains."""
        if self._draining.is_set():
            raise Rejected(503, "The gateway is shutting down.", DRAINING, retry_after=1.0)

    @contextmanager
    def admitted(self, owner: Owner, beginning: Beginning) -> Iterator[None]:
        """Let a stream in, and others wait for it while the block runs. Raises Rejected: draining, over a limit."""
        self._check(owner)
        with self._starting.start(beginning):
            yield

    @contextmanager
    def plain(self, owner: Owner) -> Iterator[None]:
        """Count a request of a plain path while the block runs. Raises Rejected: draining, over a limit."""
        self._check(owner)
        self._plain[owner.name] += 1
        self.no_plain.clear()
        try:
            yield
        finally:
            self._plain -= Counter({owner.name: 1})
            if not self._plain:
                self.no_plain.set()

    def _check(self, owner: Owner) -> None:
        """Raise Rejected if nothing more is let in. What is relayed without a stream counts like one."""
        self.check_open()
        if self.full:
            words = f"The gateway runs {self._limit} streams already."
            raise Rejected(429, words, "too_many_streams", retry_after=1.0)
        count = self._live.count(owner.name) + self._starting.count(owner.name) + self._plain[owner.name]
        if owner.max_streams is not None and count >= owner.max_streams:
            words = f"This key runs {owner.max_streams} streams already."
            raise Rejected(429, words, "too_many_streams", retry_after=1.0)
