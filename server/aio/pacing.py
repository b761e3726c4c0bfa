"""Beginning requests one by one, so that a burst of them does not stand before the tokens of running streams."""

import asyncio
from collections import deque

PATIENCE = 0.5  # seconds for which a request waits for a turn of its own
LATE = 16  # of those that have waited longer may begin in one turn


class StartPacer:
    """Lets one request begin in each turn of the event loop; the others wait, in the order in which they came.

    Where 200 clients come back at once, after a deploy, they are 0.2 s of work. Done in a few long turns of the loop it
    would hold up every token that arrives meanwhile, and three times those that a durable store has to confirm. A
    request that comes alone does not wait.

    A process with more to do than it can has turns of a tenth of a second, and one request in each would be ten a
    second while the others wait for a minute. So those that have waited for PATIENCE begin several in a turn, which
    they make a little longer.
    """

    def __init__(self) -> None:
        self._taken = False  # the present turn, or one that `_next` will give
        self._waiting: deque[tuple[float, asyncio.Future[None]]] = deque()  # since when

    async def take(self) -> None:
        """Return when the caller may begin."""
        loop = asyncio.get_running_loop()
        if self._taken:
            waiter = loop.create_future()
            self._waiting.append((loop.time(), waiter))
            await waiter
        else:
            self._taken = True
            loop.call_soon(self._next)

    def _next(self) -> None:
        """Let the next one begin, and those that are late, after everything else that is ready."""
        loop = asyncio.get_running_loop()
        late = loop.time() - PATIENCE
        begun = 0
        while self._waiting and (not begun or (begun < LATE and self._waiting[0][0] <= late)):
            _, waiter = self._waiting.popleft()
            if not waiter.done():  # else its client has left
                waiter.set_result(None)
                begun += 1
        if begun:
            loop.call_soon(self._next)
        else:
            self._taken = False
