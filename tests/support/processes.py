"""Processes that are not children of the test."""

import asyncio
from pathlib import Path


def is_running(pid: int | str) -> bool:
    """Whether a process still runs. A zombie, which waits for its parent, does not."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


async def until_ended(*pids: int | str) -> None:
    """Wait until none of the processes runs. Raises TimeoutError after 10 seconds."""
    async with asyncio.timeout(10):
        while any(map(is_running, pids)):  # noqa: ASYNC110  # other processes set no event
            await asyncio.sleep(0.02)
