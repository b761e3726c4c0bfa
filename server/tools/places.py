"""The places in which calls of tools run, shared so that no stream and no owner of streams can take all of them."""

import asyncio
from collections import Counter, deque
from typing import NamedTuple


class Payer(NamedTuple):
    """On whose account a call runs. Without keys `owner` is "": there is one user, and only streams are told apart."""

    owner: str
    stream: str


class Places:
    """A number of places. How many a payer may hold depends on how many are free.

    A stream may hold as many as are still free, and an owner twice as many. So one stream gets half of all places, the
    next one half of the rest, and so on, and an owner gets two thirds ("dynamic thresholds": Choudhury and Hahne,
    IEEE/ACM Transactions on Networking 6(2), 1998).
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._held: Counter[str | Payer] = Counter()  # by owner and by payer
        self._waiting: dict[Payer, deque[asyncio.Future[None]]] = {}  # whose turn comes first is first

    async def take(self, payer: Payer) -> None:
        """Take a place, or wait for one. `give_back` must follow."""
        if payer not in self._waiting and self._may_take(payer):
            self._take(payer)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(payer, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back(payer)  # it was cancelled in the moment in which it got the place
            else:
                self._forget(payer, turn)
            raise

    def give_back(self, payer: Payer) -> None:
        """Give a place to those who wait."""
        self._free += 1
        for key in (payer, payer.owner):
            self._held[key] -= 1
            if not self._held[key]:
                del self._held[key]
        for waiting in tuple(self._waiting):
            if not self._free:
                return
            while waiting in self._waiting and self._may_take(waiting):
                turn = self._waiting[waiting][0]
                self._forget(waiting, turn)
                if not turn.cancelled():  # its caller has not run since
                    self._take(waiting)
                    turn.set_result(None)

    def _may_take(self, payer: Payer) -> bool:
        return self._held[payer] < self._free and (not payer.owner or self._held[payer.owner] < 2 * self._free)

    def _take(self, payer: Payer) -> None:
        self._free -= 1
        self._held[payer] += 1
        self._held[payer.owner] += 1

    def _forget(self, payer: Payer, turn: asyncio.Future[None]) -> None:
        """Remove one who waits, if it still does. Others of the same payer come after all other payers."""
        turns = self._waiting.pop(payer, deque())
        if turn in turns:
            turns.remove(turn)
        if turns:
            self._waiting[payer] = turns
