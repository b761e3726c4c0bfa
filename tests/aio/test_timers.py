"""The timing wheel: no call is early, none is forgotten, and without timers the wheel stands still."""

import asyncio
import random
import time
from collections.abc import Callable

import internals
import pytest
import uvloop
from wire import until

from server.aio.timers import TICK, TimerWheel, timer_wheel


class Bell:
    """A timer that notes when it was called, on the wheel's clock."""

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


async def empty(wheel: TimerWheel) -> None:
    await until(lambda: asyncio.sleep(0, not internals.is_ticking(wheel)))
    await asyncio.sleep(0)  # the calls of its last tick


def test_each_is_called_once_and_never_early(run) -> None:
    """A hundred timers, some of them in the past, are called once each and not early. Then the wheel stands."""

    async def scenario() -> None:
        wheel, now, chance = timer_wheel(), asyncio.get_running_loop().time(), random.Random(6)
        bells = [(now + chance.uniform(-0.2, 0.4), Bell()) for _ in range(100)]
        for at, bell in bells:
            wheel.put(at, bell)
        await empty(wheel)
        for at, bell in bells:
            assert len(bell.rung) == 1
            assert bell.rung[0] >= at
        assert not internals.timer_slots(wheel)

    run(scenario)


def test_dropped_is_not_called(run) -> None:
    """A timer that was dropped is not called; the others of its tick are. Dropping it again does nothing."""

    async def scenario() -> None:
        wheel, at = timer_wheel(), asyncio.get_running_loop().time() + TICK
        bells = [Bell() for _ in range(3)]
        slots = [wheel.put(at, bell) for bell in bells]
        assert len(set(slots)) == 1
        wheel.drop(slots[1], bells[1])
        await empty(wheel)
        wheel.drop(slots[1], bells[1])
        wheel.drop(slots[0], bells[0])
        assert [len(bell.rung) for bell in bells] == [1, 0, 1]

    run(scenario)


def test_what_was_dropped_leaves_nothing_behind(run) -> None:
    """Ten thousand timers far ahead are put and dropped: afterwards the wheel holds nothing."""

    async def scenario() -> None:
        wheel, now, bell = timer_wheel(), asyncio.get_running_loop().time(), Bell()
        for number in range(10_000):
            wheel.drop(wheel.put(now + 600 + number / 100, bell), bell)
        assert not internals.timer_slots(wheel)
        await empty(wheel)

    run(scenario)


def test_it_turns_again_after_a_rest(run) -> None:
    """A timer that is put into a wheel that stands is called, also if another timer puts it while it is called."""

    async def scenario() -> None:
        wheel, loop = timer_wheel(), asyncio.get_running_loop()
        second = Bell()
        first = Bell(lambda: wheel.put(loop.time() + TICK, second) and None)
        wheel.put(loop.time(), first)
        await until(lambda: asyncio.sleep(0, second.rung))
        await empty(wheel)
        third = Bell()
        wheel.put(loop.time(), third)
        await empty(wheel)
        assert [len(bell.rung) for bell in (first, second, third)] == [1, 1, 1]

    run(scenario)


def test_the_error_of_one_is_not_anothers(run) -> None:
    """It reaches the event loop's exception handler. The others of its tick are called, and the wheel goes on."""

    async def scenario() -> None:
        wheel, loop = timer_wheel(), asyncio.get_running_loop()
        errors = []
        loop.set_exception_handler(lambda _, context: errors.append(context["exception"]))

        def fail() -> None:
            raise KeyError("mine")

        bells = [Bell(fail if number == 2 else None) for number in range(5)]
        for bell in bells:
            wheel.put(loop.time() + TICK, bell)
        later = Bell()
        wheel.put(loop.time() + 3 * TICK, later)
        await empty(wheel)
        assert [len(bell.rung) for bell in (*bells, later)] == [1] * 6
        assert [type(error) for error in errors] == [KeyError]

    run(scenario)


def test_sleep(run) -> None:
    """A sleep lasts at least its seconds. A cancelled sleep ends at once, and its call later does nothing."""

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


def test_one_per_event_loop(run) -> None:
    """Callers in one event loop share a wheel. Another event loop has its own."""

    async def ask() -> TimerWheel:
        assert timer_wheel() is timer_wheel()
        return timer_wheel()

    async def scenario() -> None:
        mine = await ask()
        assert await asyncio.to_thread(lambda: asyncio.run(ask())) is not mine
        assert await ask() is mine

    run(scenario)
