"""Tools that the console's tests let a gateway run."""

import asyncio


async def lookup(query: str) -> str:
    """Look a level up, which takes long enough to be seen."""
    await asyncio.sleep(0.5)
    return f"<img src=x onerror=alert(1)> 3.2 m for {len(query)}"
