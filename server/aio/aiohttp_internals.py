"""A queue for what is nearly always empty, in place of those that aiohttp keeps for every stream."""

from typing import Any, TypeVar

from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

T = TypeVar("T")


class SmallDeque(list[T]):
    """A `collections.deque` of few elements: an empty deque takes 660 bytes, and a stream has five; this one takes 72.

    Taking the first moves all others.
    """

    __slots__ = ()

    def popleft(self) -> T:
        """Remove and return the first one. Raises IndexError where there is none."""
        return self.pop(0)

    def appendleft(self, value: T) -> None:
        """Add one before all others."""
        self.insert(0, value)


def use_small_queues(body: StreamReader, *, chunked: bool = False) -> None:
    """Make a body's queues small, whatever they hold; `chunked`: it will have one for where its chunks end.

    aiohttp has no public way to choose them; tests/test_few.py tells when they are no longer what they were.
    """
    if body is not EMPTY_PAYLOAD:
        inner: Any = body
        inner._buffer = SmallDeque(inner._buffer)  # noqa: SLF001 — see above; the same below
        splits = inner._http_chunk_splits  # noqa: SLF001
        if chunked or splits is not None:
            inner._http_chunk_splits = SmallDeque(splits or ())  # noqa: SLF001
