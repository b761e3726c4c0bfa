"""Running tools: whatever a tool does, there is a result in time, and the gateway goes on."""

import asyncio

import pytest
import tool_examples
import wire

from server.config.settings import Tools
from server.tools import bounded
from server.tools.bounded import Bounds, Result, cut
from server.tools.places import Payer
from server.tools.tool import from_function


async def run(name: str, **limits: float) -> Result:
    """Run a tool of `tool_examples`."""
    return await Bounds(Tools(**limits)).run(from_function(name, getattr(tool_examples, name)), {})


@pytest.mark.parametrize("name", ["fail", "fail_in_thread"])
async def test_an_exception_is_a_result(name: str) -> None:
    """An exception of a tool becomes an error that the model can read, with the time it took."""
    result = await run(name)
    assert (result.content, result.error) == (None, "LookupError: nothing there")
    assert result.duration_ms >= 0
    assert result.fields().keys() == {"error", "duration_ms"}


@pytest.mark.parametrize("name", ["leave", "leave_in_thread", "stop_iteration", "cancel"])
async def test_what_is_no_ordinary_exception(name: str) -> None:
    """sys.exit, StopIteration and a tool's own cancellation are results, too. Neither stream nor process ends."""
    result = await run(name, timeout=20.0)
    assert result.error is not None
    assert "within" not in result.error


@pytest.mark.parametrize("name", ["hang", "hang_on", "hang_in_thread"])
async def test_a_tool_that_hangs(name: str) -> None:
    """After the timeout there is an error, also if the tool swallows its cancellation or blocks a thread."""
    tool_examples.RELEASED.clear()
    before = asyncio.all_tasks()
    try:
        result = await run(name, timeout=0.05)
        assert result.error == "The tool gave no result within 0.05 seconds."
    finally:
        tool_examples.RELEASED.set()
        for task in asyncio.all_tasks() - before:
            task.cancel()
            await asyncio.wait({task})


async def test_concurrency() -> None:
    """No more than max_concurrency run at once, and all of them run."""
    running, most = 0, 0

    async def work() -> str:
        """Count."""
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return "ok"

    bounds, tool = Bounds(Tools(max_concurrency=4)), from_function("work", work)
    payers = [Payer("", f"strm_{number % 5}") for number in range(20)]
    results = await asyncio.gather(*(bounds.run(tool, {}, payer) for payer in payers))
    assert [result.content for result in results] == ["ok"] * 20
    assert most == 4


async def test_a_thread_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its place is free for others at once. It is counted until it ends; so many of one tool, and it is not called."""
    monkeypatch.setattr(bounded, "FAREWELL", 0.01)
    tool_examples.RELEASED.clear()
    given_up: list[None] = []
    bounds = Bounds(Tools(max_concurrency=2, timeout=0.05), lambda: given_up.append(None))
    hang, add = (from_function(name, getattr(tool_examples, name)) for name in ("hang_in_thread", "add"))
    try:
        for _ in range(2):
            assert (await bounds.run(hang, {})).error == "The tool gave no result within 0.05 seconds."
            assert (await bounds.run(add, {"x": 1})).content == "2"
        assert (await bounds.run(hang, {})).error == "The tool is not called: 2 earlier calls of it still hang."
        await wire.until(lambda: asyncio.sleep(0, len(given_up) == 2), 10.0)
        assert bounds.hanging == 2
    finally:
        tool_examples.RELEASED.set()
    await wire.until(lambda: asyncio.sleep(0, not bounds.hanging), 10.0)
    assert (await bounds.run(hang, {})).content == "released"


async def test_cancelling_the_caller() -> None:
    """A cancelled stream ends its tool at once, and the place is free again."""
    bounds = Bounds(Tools(max_concurrency=1))
    task = asyncio.create_task(bounds.run(from_function("hang", tool_examples.hang), {}))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await bounds.run(from_function("add", tool_examples.add), {"x": 1})).content == "2"


async def test_a_huge_result() -> None:
    """A result over max_result_bytes is cut between characters. A note within the bound says so."""
    result = await run("huge", max_result_bytes=1000)
    assert result.content is not None
    assert len(result.content.encode()) <= 1000
    assert result.content.endswith("ü … [cut: 1000000 bytes in all]")


async def test_surrogates() -> None:
    """A character that UTF-8 cannot encode is replaced: the log takes only UTF-8."""
    assert (await run("surrogate")).content == "a?b"


def test_cut() -> None:
    """A text within the bound is whole. A bound that is too small for the note still holds."""
    assert cut("abc", 3) == "abc"
    assert len(cut("ü" * 100, 5).encode()) <= 5
