"""Beginning requests one by one, so that a burst of them does not stand before the tokens of running streams."""

import asyncio
from collections import deque


class Turns:
    """Lets one request begin in each turn of the event loop; the others wait, in the order in which they came.

    Where 200 clients come back at once, after a deploy, they are 0.2 s of work. Done in a few long turns of the loop it
    would hold up every token that arrives meanwhile, and three times those that a durable store has to confirm. A
    request that comes alone does not wait.
    """

    def __init__(self) -> None:
        self._taken = False  # the present turn, or one that `_next` will give
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        """Return when the caller may begin."""
        loop = asyncio.get_running_loop()
        if self._taken:
            waiter = loop.create_future()
            self._waiting.append(waiter)
            await waiter
        else:
            self._taken = True
            loop.call_soon(self._next)

    def _next(self) -> None:
        """Let the next one begin, after everything else that is ready."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():  # else its client has left
                waiter.set_result(None)
                asyncio.get_running_loop().call_soon(self._next)
                return
        self._taken = False
