"""The upkeep of the store while the gateway runs: it is swept, its lease is renewed, and its health is watched."""

import asyncio
import time

import structlog

from server.core.errors import StoreError
from server.core.ports import Store
from server.streams.live import LiveStreams
from server.telemetry.metrics import Metrics

SWEEP_INTERVAL = 1.0  # seconds
RENEW_INTERVAL = 0.25  # seconds; a relay whose stream was aborted elsewhere is stopped as late as that
log = structlog.get_logger("sluiceway")


class StoreHealth:
    """Asks the store whether it can be used. What is wrong goes into the log, once: anybody may ask, and often."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._problem: str | None = None

    async def good(self) -> bool:
        """Whether the store can be used now."""
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
