"""Parts that asyncio and aiohttp lack or do in too much memory. Each is small, and knows nothing of the gateway."""
