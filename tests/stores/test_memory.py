"""The memory store passes the contract, and its sweep stays cheap."""

import time

from contract import StoreContract, birth, ending

from server.core.records import Record
from server.stores.memory import MemoryStore


class TestMemory(StoreContract):
    """All of it."""

    def new(self, settings):
        return MemoryStore(settings)

    async def test_sweep_does_not_look_at_all(self, tmp_path):
        """With 100,000 retained logs a sweep that deletes nothing costs next to nothing."""
        store = self.new(self.settings(tmp_path))
        for _ in range(100_000):
            log = await store.create(birth())
            await log.append([Record("done", b"[DONE]")], ending())
        began = time.process_time()
        for _ in range(10):
            await store.sweep(time.time())
        assert time.process_time() - began < 0.05
