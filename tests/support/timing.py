"""Bounds on times that a busy machine lengthens: load can only add to a time, so one short attempt of ten is enough."""

from collections.abc import Awaitable, Callable

ATTEMPTS = 10


async def until_fast(attempt: Callable[[int], Awaitable[float]], bound: float) -> None:
    """Call `attempt` with 0, 1, … 9 until it returns less than `bound` seconds. Raises AssertionError if none does."""
    times: list[float] = []
    while not times or times[-1] >= bound:
        assert len(times) < ATTEMPTS, f"never within {bound} s: {times}"
        times.append(await attempt(len(times)))
