"""Group commit: every write is answered, whatever its commit does."""

import pytest

from server.core.errors import StoreError
from server.stores.batches import Batches, Write


async def test_a_commit_that_raises_fails_its_writes_and_the_next_batch_goes_on() -> None:
    """A write that nobody answered would hold its stream for ever."""
    broken = True

    async def commit(batch: list[Write]) -> None:
        if broken:
            raise RuntimeError("a mistake of ours")
        for write in batch:
            write.succeed(len(batch))

    batches: Batches[Write] = Batches(commit, window=0.0)
    first = Write()
    batches.put(first)
    with pytest.raises(StoreError):
        await first.decided()
    broken = False
    second = Write()
    batches.put(second)
    assert await second.decided() == 1
    await batches.flush()
