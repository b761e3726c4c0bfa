"""The processes of the experiments, on free ports: scripted providers, and a gateway as its users run it."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from lab import places


@asynccontextmanager
async def gateway(tables: Mapping[str, Any]) -> AsyncIterator[str]:
    """Run a gateway with this configuration until the end of the block; yield its root URL."""
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        running = places.gateway(tables, Path(folder))
        await asyncio.to_thread(running.start)
        try:
            yield running.root
        finally:
            await asyncio.to_thread(running.stop)
