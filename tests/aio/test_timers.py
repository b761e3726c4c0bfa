"""The timing wheel: nothing is early, nothing is forgotten, and it rests when there is nothing to wait for."""

import asyncio
import random
import time
from collections.abc import Callable

import pytest
import uvloop
from wire import until

from server.aio.timers import TICK, TimerWheel, timer_wheel


class Bell:
    """Notes when it was rung, on the wheel's clock."""

    def __init__(self, then: Callable[[], None] | None = None) -> None:
        self.rung: list[float] = []
        self._then = then

    def due(self) -> None:
        self.rung.append(asyncio.get_running_loop().time())
        if self._then is not None:
            self._then()


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest):
    """Runs a coroutine on either loop."""

    def bounded(scenario):
        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(asyncio.wait_for(scenario(), 30))

    return bounded


async def empty(turning: TimerWheel) -> None:
    await until(lambda: asyncio.sleep(0, not turning._ticking))
    await asyncio.sleep(0)  # the calls of its last tick


def test_each_is_called_once_and_never_early(run) -> None:
    """A hundred at times of their own, some of them over: each once, at its time or later; then the wheel stands."""

    async def scenario() -> None:
        turning, now, chance = timer_wheel(), asyncio.get_running_loop().time(), random.Random(6)
        bells = [(now + chance.uniform(-0.2, 0.4), Bell()) for _ in range(100)]
        for at, bell in bells:
            turning.put(at, bell)
        await empty(turning)
        for at, bell in bells:
            assert len(bell.rung) == 1
            assert bell.rung[0] >= at
        assert not turning._slots

    run(scenario)


def test_dropped_is_not_called(run) -> None:
    """What is taken out is never called, the others of its tick are; dropping it again is nothing."""

    async def scenario() -> None:
        turning, at = timer_wheel(), asyncio.get_running_loop().time() + TICK
        bells = [Bell() for _ in range(3)]
        slots = [turning.put(at, bell) for bell in bells]
        assert len(set(slots)) == 1
        turning.drop(slots[1], bells[1])
        await empty(turning)
        turning.drop(slots[1], bells[1])
        turning.drop(slots[0], bells[0])
        assert [len(bell.rung) for bell in bells] == [1, 0, 1]

    run(scenario)


def test_what_was_dropped_leaves_nothing_behind(run) -> None:
    """Ten thousand short streams with far deadlines: when they are over no place of the wheel is taken."""

    async def scenario() -> None:
        turning, now, bell = timer_wheel(), asyncio.get_running_loop().time(), Bell()
        for number in range(10_000):
            turning.drop(turning.put(now + 600 + number / 100, bell), bell)
        assert not turning._slots
        await empty(turning)

    run(scenario)


def test_it_turns_again_after_a_rest(run) -> None:
    """Standing still it has no timer, and what is put in then is called, also by one that was just called."""

    async def scenario() -> None:
        turning, loop = timer_wheel(), asyncio.get_running_loop()
        second = Bell()
        first = Bell(lambda: turning.put(loop.time() + TICK, second) and None)
        turning.put(loop.time(), first)
        await until(lambda: asyncio.sleep(0, second.rung))
        await empty(turning)
        third = Bell()
        turning.put(loop.time(), third)
        await empty(turning)
        assert [len(bell.rung) for bell in (first, second, third)] == [1, 1, 1]

    run(scenario)


def test_the_error_of_one_is_not_anothers(run) -> None:
    """It reaches the loop's handler; all others of the same tick are called, and the wheel goes on."""

    async def scenario() -> None:
        turning, loop = timer_wheel(), asyncio.get_running_loop()
        errors = []
        loop.set_exception_handler(lambda _, context: errors.append(context["exception"]))

        def fail() -> None:
            raise KeyError("mine")

        bells = [Bell(fail if number == 2 else None) for number in range(5)]
        for bell in bells:
            turning.put(loop.time() + TICK, bell)
        later = Bell()
        turning.put(loop.time() + 3 * TICK, later)
        await empty(turning)
        assert [len(bell.rung) for bell in (*bells, later)] == [1] * 6
        assert [type(error) for error in errors] == [KeyError]

    run(scenario)


def test_sleep(run) -> None:
    """A sleep lasts at least its seconds; one that is cancelled ends at once, and its call later does nothing."""

    async def scenario() -> None:
        loop, errors = asyncio.get_running_loop(), []
        loop.set_exception_handler(lambda _, context: errors.append(context))
        began = time.monotonic()
        await timer_wheel().sleep(0.1)
        assert time.monotonic() - began > 0.098  # uvloop's clock has whole milliseconds

        async def sleeping() -> None:
            await timer_wheel().sleep(3 * TICK)

        task = asyncio.ensure_future(sleeping())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await empty(timer_wheel())
        assert errors == []

    run(scenario)


def test_one_for_a_loop(run) -> None:
    """All who ask in one loop share a wheel, and another loop has another."""

    async def ask() -> TimerWheel:
        assert timer_wheel() is timer_wheel()
        return timer_wheel()

    async def scenario() -> None:
        mine = await ask()
        assert await asyncio.to_thread(lambda: asyncio.run(ask())) is not mine
        assert await ask() is mine

    run(scenario)
