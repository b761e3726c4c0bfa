"""Group commit: every write is answered, whatever its commit does."""

from collections.abc import Callable

import pytest

from server.core.errors import StoreError
from server.stores.group_commit import Batches, Write, answering


async def test_a_commit_that_raises_fails_its_writes_and_the_next_batch_goes_on() -> None:
    """Every write is answered: else it would hold its stream for ever."""
    broken = True

    def commit(batch: list[Write], done: Callable[[], None]) -> None:
        with answering(batch):
            if broken:
                raise RuntimeError("a mistake of ours")
            for write in batch:
                write.succeed(len(batch))
        done()

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


async def test_what_is_answered_stays_so() -> None:
    """If a commit fails half-way, writes that were answered keep their answer."""
    first, second = Write(), Write()
    with answering([first, second]):
        first.succeed("there")
        raise StoreError("the disk is full")
    assert await first.decided() == "there"
    with pytest.raises(StoreError, match="full"):
        await second.decided()
