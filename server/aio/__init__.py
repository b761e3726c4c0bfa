"""What asyncio and aiohttp lack, or do in too much memory: each small, and usable without the rest of the house."""
