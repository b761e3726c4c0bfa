"""Streams that are about to begin: others wait for them, by id and by key, and the limits count them."""

import asyncio

import pytest

from server.core.records import Beginning
from server.streams.admission import Starting
from server.streams.bodies import Bodies


def beginning(stream_id, owner="", key=None):
    """Give the beginning of a stream."""
    return Beginning(stream_id, owner, "chat", "m", 0.0, b"{}", idempotency=(key, "digest") if key else None)


async def turns(count=5):
    for _ in range(count):
        await asyncio.sleep(0)


async def test_found_by_id():
    """Who finds the log waits until the block is over, however it ends; for another log nobody waits."""
    starting = Starting(Bodies(0))

    async def fail():
        with starting.start(beginning("a")):
            await turns(20)
            raise KeyError

    failing = asyncio.create_task(fail())
    await turns(1)
    waiting = asyncio.create_task(starting.settled("a"))
    await turns()
    assert not waiting.done()
    await starting.settled("b")
    with pytest.raises(KeyError):
        await failing
    await waiting
    await starting.settled("a")
    assert len(starting) == 0


async def test_one_at_a_time_per_key():
    """Of several requests with one key one begins at a time; another owner's key is another one."""
    starting, running, most = Starting(Bodies(0)), 0, 0

    async def begin(number):
        nonlocal running, most
        await starting.key_settled("me", "k")
        with starting.start(beginning(f"{number}", "me", "k")):
            running += 1
            most = max(most, running)
            await starting.key_settled("you", "k")
            await turns()
            running -= 1

    await asyncio.gather(*(begin(number) for number in range(5)))
    assert (most, running, len(starting)) == (1, 0, 0)


async def test_a_waiter_that_leaves():
    """A request that is given up while it waits holds nobody back."""
    starting = Starting(Bodies(0))
    with starting.start(beginning("a", "me", "k")):
        waiting = [asyncio.create_task(starting.key_settled("me", "k")) for _ in range(2)]
        await turns()
        waiting[0].cancel()
    await waiting[1]
    await asyncio.wait(waiting)
    assert waiting[0].cancelled()


async def test_counted():
    """The limits see how many there are, of everyone and of one owner."""
    starting = Starting(Bodies(0))
    with starting.start(beginning("a", "me", "k")), starting.start(beginning("b", "me")):
        with starting.start(beginning("c", "you")):
            assert (len(starting), starting.count("me"), starting.count("you")) == (3, 2, 1)
        assert (len(starting), starting.count("you")) == (2, 0)
    assert (len(starting), starting.count("me")) == (0, 0)
