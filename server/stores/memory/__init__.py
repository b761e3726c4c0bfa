"""Logs in the memory of this process."""

from server.stores.memory.store import MemoryStore

__all__ = ["MemoryStore"]
