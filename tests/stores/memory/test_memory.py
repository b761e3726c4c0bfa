"""The memory store passes the contract, and its sweep stays cheap."""

import time

import internals
from contract import StoreContract, beginning, ending

from server.core.records import Record
from server.stores.memory import store as memory
from server.stores.memory.store import MemoryStore


class TestMemory(StoreContract):
    """All of it."""

    def new(self, settings):
        return MemoryStore(settings)

    async def test_sweep_does_not_look_at_all(self, tmp_path):
        """With 100,000 retained logs a sweep that deletes nothing costs next to nothing."""
        store = self.new(self.settings(tmp_path))
        for _ in range(100_000):
            log = await store.create(beginning())
            await log.append([Record("done", b"[DONE]")], ending())
        began = time.process_time()
        for _ in range(10):
            await store.sweep(time.time())
        assert time.process_time() - began < 0.05

    async def test_a_slow_stream_does_not_keep_a_whole_block_unpacked(self, tmp_path, monkeypatch):
        """With a second between its tokens it takes less memory after each of them than a fast one, and reads alike."""
        now = [1_700_000_000.0]
        monkeypatch.setattr(memory.time, "time", lambda: now[0])
        store = self.new(self.settings(tmp_path))
        slow, fast = await store.create(beginning()), await store.create(beginning())
        written = []
        for number in range(1, 3 * memory.BLOCK):
            written.append(Record("chunk", b'{"object":"chat.completion.chunk","choices":[{"delta":"%d"}]}' % number))
            fast.put(written[-1:])
            now[0] += 1
            slow.put(written[-1:])
            assert len(internals.unpacked_records(slow)) < memory.SMALL_BLOCK
            if len(internals.unpacked_records(fast)) > memory.SMALL_BLOCK:
                assert slow.footprint < fast.footprint
            for after in range(number + 1):
                assert await slow.read(after, 1 << 20) == await fast.read(after, 1 << 20) == written[after:]
                assert await slow.offset(after) == await fast.offset(after)
