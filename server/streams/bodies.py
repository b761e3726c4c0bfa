"""One budget for all request bodies in memory: those that arrive, and those of streams that begin or are live.

The bodies of ended streams are part of their logs, whose bound is `store.max_bytes`.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from server.core.errors import Rejected

SHARE = 2  # one owner may hold one part of so many, so that the others still get in


class Bodies:
    """Counts bytes by owner. `limit` is for all owners together."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._by_owner: Counter[str] = Counter()
        self.total = 0

    def take(self, owner: str, size: int) -> None:
        """Count `size` bytes more of an owner. Raises Rejected 429 if they are too many."""
        if self.total + size > self._limit or self._by_owner[owner] + size > self._limit // SHARE:
            raise Rejected(429, "Too many request bodies are in memory.", "too_many_bodies", retry_after=1.0)
        self.hold(owner, size)

    def hold(self, owner: str, size: int) -> None:
        """Count `size` bytes more of an owner, which were let in before."""
        self._by_owner[owner] += size
        self.total += size

    def release(self, owner: str, size: int) -> None:
        """Count `size` bytes less of an owner."""
        self.total -= size
        self._by_owner[owner] -= size
        if not self._by_owner[owner]:
            del self._by_owner[owner]

    @contextmanager
    def held(self, owner: str, size: int) -> Iterator[None]:
        """Count `size` bytes of an owner while the block runs."""
        self.hold(owner, size)
        try:
            yield
        finally:
            self.release(owner, size)


class Arriving:
    """A body that arrives: what has come of it counts, and no more. Leaving the block takes all of it back."""

    def __init__(self, bodies: Bodies, owner: str) -> None:
        self._bodies = bodies
        self._owner = owner
        self._size = 0

    def grow(self, size: int) -> None:
        """Count `size` bytes that have come. Raises Rejected 429."""
        self._bodies.take(self._owner, size)
        self._size += size

    def give_back(self) -> None:
        """Count nothing of it any more."""
        self._bodies.release(self._owner, self._size)
        self._size = 0

    def __enter__(self) -> "Arriving":
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back()
