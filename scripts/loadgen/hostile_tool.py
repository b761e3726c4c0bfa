"""A tool that never comes back. The gateway imports it, so it is apart from the answers, which take 60 MB."""

import asyncio


async def hang(seconds: float = 3600.0) -> None:
    """Wait for an hour."""
    await asyncio.sleep(seconds)
