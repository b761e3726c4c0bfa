"""Requests begin one by one, so that many at once do not delay the tokens of running streams. So does long work."""

import asyncio
from collections import deque

OWN_TURN_WITHIN = 0.5  # seconds that a request waits for a turn of its own
LATE_PER_TURN = 16  # requests that have waited longer may begin in one turn


class StartPacer:
    """Lets one request begin in each turn of the event loop. The others wait in the order in which they came.

    If 200 clients come back at once, as after a deploy, their requests are 0.2 s of work. Done in a few long turns, it
    would delay every token that arrives meanwhile; a token that a durable store confirms would be delayed three times.
    A request that comes alone does not wait.

    An overloaded process has turns of a tenth of a second. With one request in each turn it would begin ten a second,
    while others wait for a minute. So requests that have waited for OWN_TURN_WITHIN begin several in a turn. That makes
    a turn only a little longer.
    """

    def __init__(self) -> None:
        self._taken = False  # a request has begun in this turn, or `_next` is still to run
        self._waiting: deque[tuple[float, asyncio.Future[None]]] = deque()  # since when, and what `take` waits for

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
        """Let the next request begin, and further ones that are late, after everything else that is ready."""
        loop = asyncio.get_running_loop()
        late = loop.time() - OWN_TURN_WITHIN
        begun = 0
        while self._waiting and (not begun or (begun < LATE_PER_TURN and self._waiting[0][0] <= late)):
            _, waiter = self._waiting.popleft()
            if not waiter.done():  # else its client has left
                waiter.set_result(None)
                begun += 1
        if begun:
            loop.call_soon(self._next)
        else:
            self._taken = False
