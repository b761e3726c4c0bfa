"""The upkeep of the store while the gateway runs: it is swept, its lease is renewed, and its health is watched."""

import asyncio
import time

import structlog

from server.aio.cancelling import cancel
from server.core.errors import StoreError
from server.core.ports import Store
from server.streams.live import LiveStreams
from server.telemetry.metrics import Metrics

SWEEP_INTERVAL = 1.0  # seconds
RENEW_INTERVAL = 0.25  # seconds; a relay whose stream was aborted elsewhere is stopped as late as that
FRESH = 0.1  # seconds for which an answer about the store's health holds
log = structlog.get_logger("sluiceway")


class StoreHealth:
    """Asks the store whether it can be used. Anybody may ask, and often.

    So one question serves all who ask within a moment, and what is wrong goes into the log once.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._problem: str | None = None
        self._asking: asyncio.Task[bool] | None = None
        self._asked = 0.0  # time.monotonic()

    async def good(self) -> bool:
        """Whether the store can be used now."""
        now = time.monotonic()
        if self._asking is None or (self._asking.done() and now >= self._asked + FRESH):
            self._asked = now
            self._asking = asyncio.create_task(self._ask(), name="store health")
        return await asyncio.shield(self._asking)

    async def close(self) -> None:
        """End a question that is under way."""
        if self._asking is not None:
            await cancel([self._asking])

    async def _ask(self) -> bool:
        problem = await self._store.problem()
        if problem != self._problem:
            self._problem = problem
            if problem is None:
                log.info("store well again")
            else:
                log.warning("store unavailable", error=problem)
        return problem is None


async def sweep(store: Store, metrics: Metrics) -> None:
    """Delete old logs again and again, and measure how late the event loop is."""
    said = ""
    while True:
        due = time.monotonic() + SWEEP_INTERVAL
        await asyncio.sleep(SWEEP_INTERVAL)
        metrics.observe_lag(max(0.0, time.monotonic() - due))
        metrics.settle()
        try:
            await store.sweep(time.time())
            said = ""
        except StoreError as error:
            said = _say("sweep failed", error, said)


async def renew(store: Store, lease: float, live: LiveStreams) -> None:
    """Renew a lease of so many seconds again and again, and stop the relays of logs that others have claimed."""
    said = ""
    while True:
        await asyncio.sleep(min(RENEW_INTERVAL, lease / 4))
        try:
            for lost in await store.renew():
                live.lose(lost)
            said = ""
        except StoreError as error:
            said = _say("lease not renewed", error, said)


def _say(event: str, error: StoreError, said: str) -> str:
    """Log an error unless it is what was `said` last: an outage is one line, and not four each second."""
    if str(error) != said:
        log.warning(event, error=str(error))
    return str(error)
