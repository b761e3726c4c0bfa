"""The race of two first steps: one result, and nothing left running."""

import asyncio

import pytest

from server.core.errors import Kind, UpstreamError
from server.relay.hedge import race

LONG = 3600.0


def failure(text: str) -> UpstreamError:
    return UpstreamError(Kind.RESET, text)


class Step:
    """A step that waits until it is told how to end; it notes whether it was cancelled."""

    def __init__(self) -> None:
        self.end: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.cancelled = False

    async def __call__(self) -> str:
        try:
            return await self.end
        except asyncio.CancelledError:
            self.cancelled = True
            raise


async def begun(first: Step, second: Step | None, after: float = 0.0) -> asyncio.Task[str]:
    """Begin a race and return its task once both run."""
    running = asyncio.Event()

    def beside():
        running.set()
        return None if second is None else second()

    task = asyncio.create_task(race(first(), beside, after))
    await running.wait()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return task


@pytest.mark.parametrize("winner", [0, 1])
async def test_the_first_result_counts(winner: int) -> None:
    """The result is that of the step that is done first. The other one is cancelled before the race returns."""
    steps = [Step(), Step()]
    task = await begun(*steps)
    steps[winner].end.set_result("told")
    assert await task == "told"
    assert steps[1 - winner].cancelled
    assert not steps[winner].cancelled


async def test_both_in_one_moment() -> None:
    """Of two that succeed in the same moment the first one counts."""
    steps = [Step(), Step()]
    task = await begun(*steps)
    for step, text in zip(steps, ("one", "two"), strict=True):
        step.end.set_result(text)
    assert await task == "one"


async def test_a_failure_leaves_the_other() -> None:
    """A step that fails does not end the race while the other one runs. If both fail, the later failure is raised."""
    steps = [Step(), Step()]
    task = await begun(*steps)
    steps[0].end.set_exception(failure("one"))
    await asyncio.sleep(0)
    assert not task.done()
    steps[1].end.set_exception(failure("two"))
    with pytest.raises(UpstreamError, match="two"):
        await task


async def test_a_failure_in_time_asks_nobody_else() -> None:
    """A first step that fails before the time is over is not hedged."""
    first = Step()
    task = asyncio.create_task(race(first(), pytest.fail, LONG))
    first.end.set_exception(failure("one"))
    with pytest.raises(UpstreamError, match="one"):
        await task


async def test_nobody_else_to_ask() -> None:
    """Without a second step the first one goes on alone."""
    first = Step()
    task = await begun(first, None)
    first.end.set_result("told")
    assert await task == "told"


async def test_a_bug_ends_it() -> None:
    """What is no failure of an upstream is raised at once, and the other step is cancelled."""
    steps = [Step(), Step()]
    task = await begun(*steps)
    steps[1].end.set_exception(KeyError("a bug"))
    with pytest.raises(KeyError):
        await task
    assert steps[0].cancelled


async def test_cancelled() -> None:
    """A cancel of the race reaches both steps before it is over."""
    steps = [Step(), Step()]
    task = await begun(*steps)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [step.cancelled for step in steps] == [True, True]
