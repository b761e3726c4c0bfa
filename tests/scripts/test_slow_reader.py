"""Slow readers against the scripted provider: each ending is told from the others, also without reading."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

sys.path += [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2] / "scripts")]

from provider import Provider
from slow_reader import Reading, run, table

SCRIPT = Path(__file__).parents[2] / "scripts" / "slow_reader.py"
FULL_SPEED = 1e9  # bytes a second
LONG = 30.0  # seconds: every test ends before, by what it waits for
MORE_THAN_A_WINDOW = {"tokens": 5, "big": 10_000}  # than the reader's, and less than the provider's send buffer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider() -> AsyncIterator[Provider]:
    """One for all tests here."""
    async with Provider() as running:
        yield running


async def read(provider: Provider, script: dict[str, Any], **options: Any) -> list[Reading]:
    """Let three readers read an answer to the script."""
    body = {"model": "slow", "messages": [], "stream": True, "script": script}
    options = {"count": 3, "seconds": LONG, "body": body} | options
    return await run(provider.url + "/chat/completions", **options)


def outcomes(readings: list[Reading]) -> set[tuple[str, int | None]]:
    return {(reading.outcome, reading.status) for reading in readings}


@pytest.mark.parametrize("pace", [0, 20_000, FULL_SPEED])
@pytest.mark.parametrize("script", [{}, {"http10": True}, {"json_body": True}, MORE_THAN_A_WINDOW])
async def test_finished(provider: Provider, script: dict[str, Any], pace: float) -> None:
    """A response that came to its end is finished at any pace, by whichever framing it ended."""
    readings = await read(provider, script, bytes_per_second=pace)
    assert outcomes(readings) == {("finished", 200)}
    assert all(reading.detached_at is None and reading.seconds < LONG for reading in readings)


@pytest.mark.parametrize("pace", [0, 1000, FULL_SPEED])
@pytest.mark.parametrize("way", ["cut_after", "reset_after"])
async def test_detached(provider: Provider, way: str, pace: float) -> None:
    """A server that closes before the end is noticed at any pace, by FIN and by RST, with the time."""
    readings = await read(provider, MORE_THAN_A_WINDOW | {way: 5}, bytes_per_second=pace)
    assert {reading.outcome for reading in readings} == {"detached"}
    assert all(reading.detached_at is not None and reading.detached_at <= reading.seconds for reading in readings)
    assert pace or all(reading.bytes_read == 0 for reading in readings)


async def test_what_was_on_its_way(provider: Provider) -> None:
    """After a FIN that a reader could not see yet, what the server had sent is read and counted apart."""
    readings = await read(provider, MORE_THAN_A_WINDOW | {"cut_after": 5})
    assert all(reading.bytes_left > 50_000 for reading in readings)


async def test_pace(provider: Provider) -> None:
    """A reader never takes more than its pace allows, and 0 takes nothing at all."""
    for pace in (0, 1, 5000):
        readings = await read(provider, {"tokens": 10_000_000}, bytes_per_second=pace, seconds=1)
        assert {reading.outcome for reading in readings} == {"reading"}
        assert all(reading.bytes_read <= pace * reading.seconds for reading in readings)
        assert pace < 5000 or all(reading.bytes_read > 0 for reading in readings)


async def test_readers_that_hold_on(provider: Provider) -> None:
    """A server that keeps a stream open has the readers until their time is up, and no longer."""
    readings = await read(provider, {"stall_after": 1}, bytes_per_second=FULL_SPEED, seconds=0.3)
    assert {reading.outcome for reading in readings} == {"reading"}


async def test_refused(provider: Provider) -> None:
    """Another status than 200 is a refusal, with the status."""
    assert outcomes(await read(provider, {"status": 429})) == {("refused", 429)}


async def test_unreachable(unused_tcp_port: int) -> None:
    """Without a server all readers are accounted for."""
    readings = await run(f"http://127.0.0.1:{unused_tcp_port}/", count=3, seconds=LONG)
    assert readings == [Reading("unreachable")] * 3


async def test_small_window_is_felt(provider: Provider) -> None:
    """The receive buffer bounds what a reader that never reads lets the server deliver."""
    await provider.clear()
    await read(provider, {"tokens": 10_000_000}, count=1, seconds=1)
    [seen] = await provider.seen()
    assert seen["bytes_acked"] < 20_000


async def test_get_and_headers(provider: Provider) -> None:
    """Without a body the URL is fetched, and given headers are sent."""
    readings = await run(provider.url + "/models?x=y", count=2, seconds=LONG)
    assert outcomes(readings) == {("finished", 200)}
    await provider.clear()
    await read(provider, {"require_key": "k"}, headers=["Authorization: Bearer k"], bytes_per_second=FULL_SPEED)
    assert [seen["headers"]["authorization"] for seen in await provider.seen()] == ["Bearer k"] * 3


async def test_other_urls() -> None:
    """What is not plain HTTP is refused with its name."""
    with pytest.raises(ValueError, match="https://here"):
        await run("https://here/", count=1, seconds=1)


def test_table() -> None:
    """The table has a line for each outcome, with the spread of its readers, and the total."""
    readings = [
        Reading("detached", 10, 0, 200, 1.0, 2.0),
        Reading("detached", 30, 0, 200, 3.0, 4.0),
        Reading("unreachable"),
    ]
    _, detached, unreachable, total = table(readings).splitlines()
    assert detached.split() == ["detached", "200", "2", "10", "20", "30", "1.00", "2.00", "3.00"]
    assert unreachable.split() == ["unreachable", "-", "1", "0", "0", "0", "-"]
    assert total.split() == ["total", "3", "40"]


async def command(*arguments: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, SCRIPT, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_command(provider: Provider) -> None:
    """The command tells its progress while it runs, and reports as a table or as JSON."""
    options = ["--url", provider.url + "/chat/completions", "--count", "2", "--seconds", "2"]
    stalled = ["--body", '{"script": {"stall_after": 1}}', "--bytes-per-second", "100000"]
    code, out, err = await command(*options, *stalled)
    assert (code, out.splitlines()[1].split()[:3]) == (0, ["reading", "200", "2"])
    assert "1 s: 2 of 2 connected" in err
    code, out, _ = await command(*options, "--json")
    assert (code, [reading["outcome"] for reading in json.loads(out)]) == (0, ["finished", "finished"])
    assert (await command("--count", "0"))[0] == 2
