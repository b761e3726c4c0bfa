"""A deadline that moves, with asyncio's event loop and with uvloop."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import internals
import pytest
import uvloop

from server.aio.deadline import Deadline
from server.aio.timers import Due, TimerWheel, timer_wheel

FAR = 60.0  # seconds: never reached here
NEAR = 0.03


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Runs a coroutine on either loop, and fails if it does not end."""

    def bounded(coroutine: Coroutine[Any, Any, Any]) -> Any:
        async def guarded() -> Any:
            async with asyncio.timeout(FAR / 2):
                return await coroutine

        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(guarded())

    return bounded


async def expires(body: Callable[[Deadline], Awaitable[None]]) -> float:
    """Return the seconds that `body` ran until its deadline ended it."""
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        await within(body)
    return time.monotonic() - began + 0.002  # uvloop's clock has whole milliseconds


async def within(body: Callable[[Deadline], Awaitable[None]]) -> None:
    with Deadline() as deadline:
        await body(deadline)


def test_fires(run) -> None:
    """The deadline ends the block with TimeoutError at its time, and not earlier."""

    async def body(deadline: Deadline) -> None:
        deadline.set(time.monotonic() + NEAR)
        await asyncio.sleep(FAR)

    assert run(expires(body)) > NEAR


def test_none_to_begin_with(run) -> None:
    """Without a deadline the block is left without an error."""

    async def body(_deadline: Deadline) -> None:
        await asyncio.sleep(NEAR)

    run(within(body))


def test_assigned_later(run) -> None:
    """An assignment moves the deadline: the earlier times pass without effect."""

    async def body(deadline: Deadline) -> None:
        deadline.set(time.monotonic() + NEAR)
        for _ in range(5):
            deadline.at = time.monotonic() + FAR
            await asyncio.sleep(NEAR)

    run(within(body))


def test_assigned_later_fires(run) -> None:
    """After assignments it fires at the last one, although the wheel was told the first."""

    async def body(deadline: Deadline) -> None:
        began = time.monotonic()
        deadline.set(began + NEAR)
        deadline.at = began + 2 * NEAR
        deadline.at = began + 3 * NEAR
        await asyncio.sleep(FAR)

    assert run(expires(body)) > 3 * NEAR


def test_set_earlier(run) -> None:
    """`set` moves a far deadline nearer."""

    async def body(deadline: Deadline) -> None:
        deadline.set(time.monotonic() + FAR)
        deadline.set(time.monotonic() + NEAR)
        await asyncio.sleep(FAR)

    assert run(expires(body)) < FAR / 2


@pytest.mark.parametrize("past", [0.0, 1.0])
def test_set_in_the_past(run, past) -> None:
    """A time in the past ends the block in the next turns of the event loop."""

    async def body(deadline: Deadline) -> None:
        deadline.set(time.monotonic() - past)
        await asyncio.sleep(FAR)

    assert run(expires(body)) < FAR / 2


def test_taken_away_and_set_again(run) -> None:
    """None takes the deadline away, for a pause. It can be set again afterwards."""

    async def body(deadline: Deadline) -> None:
        deadline.set(time.monotonic() + NEAR)
        deadline.set(None)
        await asyncio.sleep(3 * NEAR)
        deadline.set(time.monotonic() + FAR)
        deadline.at = None
        await asyncio.sleep(NEAR)
        deadline.set(time.monotonic() + NEAR)
        await asyncio.sleep(FAR)

    assert run(expires(body)) > 5 * NEAR


def test_moves_cost_nothing(run) -> None:
    """A thousand moves put the deadline into the wheel once."""

    async def scenario() -> None:
        puts = []

        class Counting(TimerWheel):
            def put(self, at: float, what: Due) -> int:
                puts.append(at)
                return super().put(at, what)

        deadline = Deadline()
        internals.set_wheel(deadline, Counting(asyncio.get_running_loop()))
        with deadline:
            deadline.set(time.monotonic() + FAR)
            for number in range(1000):
                deadline.at = time.monotonic() + FAR + number
                await asyncio.sleep(0)
        assert len(puts) == 1

    run(scenario())


def test_other_ends_stay_what_they_are(run) -> None:
    """An exception and a cancellation stay what they are. The wheel holds nothing afterwards."""

    async def failing(deadline: Deadline) -> None:
        deadline.set(time.monotonic() + NEAR)
        raise KeyError("mine")

    async def waiting(deadline: Deadline) -> None:
        deadline.set(time.monotonic() + FAR)
        await asyncio.sleep(FAR)

    async def scenario() -> None:
        with pytest.raises(KeyError, match="mine"):
            await within(failing)
        task = asyncio.ensure_future(within(waiting))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not internals.timer_slots(timer_wheel())

    run(scenario())


def test_moved_away_while_it_is_being_called(run) -> None:
    """The deadline moves when the wheel has begun its call: it expires at the new time, not before."""

    async def body(deadline: Deadline) -> None:
        began = time.monotonic()
        deadline.set(began + NEAR)
        deadline.set(began + 6 * NEAR)
        deadline.due()
        await asyncio.sleep(3 * NEAR)
        deadline.due()
        await asyncio.sleep(FAR)

    assert run(expires(body)) > 6 * NEAR


def test_nothing_fires_afterwards(run) -> None:
    """After the block a deadline that was set ends nothing."""

    async def leaving(deadline: Deadline) -> None:
        deadline.set(time.monotonic() + NEAR)

    async def scenario() -> None:
        await within(leaving)
        await asyncio.sleep(3 * NEAR)

    run(scenario())


def test_within_another(run) -> None:
    """Of two deadlines the one that has passed ends its own block only."""

    async def inner(deadline: Deadline) -> None:
        deadline.set(time.monotonic() + NEAR)
        await asyncio.sleep(FAR)

    async def outer(deadline: Deadline) -> None:
        deadline.set(time.monotonic() + FAR)
        await expires(inner)
        await asyncio.sleep(0)

    run(within(outer))
