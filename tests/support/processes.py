"""Watching processes that are not our children."""

import asyncio
from pathlib import Path


def alive(pid):
    """Whether it still runs; a zombie that nobody has reaped yet does not."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


async def gone(*pids):
    """Wait for the end of all of them."""
    async with asyncio.timeout(10):
        while any(map(alive, pids)):  # noqa: ASYNC110  # other processes set no event
            await asyncio.sleep(0.02)
