"""What is done at intervals as long as the gateway runs: the store is swept, and the lease on its logs kept."""

import asyncio
import time
from collections.abc import Callable

import structlog

from server.core.errors import StoreError
from server.core.ports import Log, Store
from server.telemetry.metrics import Metrics

SWEEP_INTERVAL = 1.0  # seconds
RENEW_INTERVAL = 0.25  # seconds: how late a relay is stopped whose stream was aborted elsewhere
log = structlog.get_logger("sluiceway")


async def sweep(store: Store, metrics: Metrics) -> None:
    """Delete old logs for ever, and measure how late the event loop is."""
    while True:
        due = time.monotonic() + SWEEP_INTERVAL
        await asyncio.sleep(SWEEP_INTERVAL)
        metrics.observe_lag(max(0.0, time.monotonic() - due))
        metrics.settle()
        try:
            await store.sweep(time.time())
        except StoreError as error:
            log.warning("sweep failed", error=str(error))


async def renew(store: Store, lease: float, lose: Callable[[Log], None]) -> None:
    """Keep a lease of so many seconds for ever; `lose` is told of the logs that another instance has claimed."""
    while True:
        await asyncio.sleep(min(RENEW_INTERVAL, lease / 4))
        try:
            for lost in await store.renew():
                lose(lost)
        except StoreError as error:
            log.warning("lease not renewed", error=str(error))
