"""An upstream that goes on with a response after a cut is asked for the rest of it, and not for another one."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import strict_responses
import wire
from background_upstream import EVERYTHING, WHOLE, BackgroundUpstream, Reading
from gateway import InProcess, in_process
from hypothesis import given, settings
from hypothesis import strategies as st

RECOVERY = {"strategy": "auto", "backoff": 0.001, "max_recoveries": 1000}
GONE = (400, 404, 405)


@asynccontextmanager
async def before(
    events: Sequence[dict[str, Any]], *readings: Reading, able: bool | None = True, **tables: Any
) -> AsyncIterator[tuple[InProcess, BackgroundUpstream]]:
    """Run an upstream with these events, and a gateway before it."""
    upstream_settings = {"api": "responses", **tables.pop("upstream", {})}
    recovery = {**RECOVERY, **tables.pop("recovery", {})}
    async with (
        BackgroundUpstream(events, *readings, able=able) as upstream,
        in_process(upstream.url, upstream=upstream_settings, recovery=recovery, **tables) as gateway,
    ):
        yield gateway, upstream


async def streamed(gateway: InProcess, **fields: Any) -> list[dict[str, Any]]:
    """Ask for a stream in the background; return its events, checked strictly."""
    body = {"model": "m", "input": "Say it.", "stream": True, "background": True, **fields}
    answer = await wire.call(gateway.root, "POST", "/v1/responses", body)
    assert answer.status == 200, answer.body
    return strict_responses.events(answer.events)


def told(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the events without what differs from one response to the next: its id and its times."""
    return [
        {**event, "response": {**event["response"], "id": "", "created_at": 0, "completed_at": 0}}
        if "response" in event
        else event
        for event in events
    ]


@pytest.fixture(scope="module")
def uncut() -> list[dict[str, Any]]:
    """What a client is told if nothing is cut."""

    async def run() -> list[dict[str, Any]]:
        async with before(EVERYTHING) as (gateway, _):
            return told(await streamed(gateway))

    return asyncio.run(run())


@pytest.mark.parametrize("part", [False, True])
async def test_every_cut(uncut, part: bool) -> None:
    """Wherever the connection breaks, also inside an event, the client's events are those of an uncut response."""
    for count in range(1, len(EVERYTHING)):
        async with before(EVERYTHING, Reading(count, part=part), WHOLE) as (gateway, upstream):
            assert told(await streamed(gateway)) == uncut, count
        assert upstream.resumed == [f"/v1/responses/resp_1?stream=true&starting_after={count - 1}"]
        assert upstream.paid == 1
        assert not upstream.cancelled.is_set()


@settings(max_examples=25)
@given(st.lists(st.builds(Reading, st.integers(1, 12), st.booleans(), repeated=st.integers(0, 40)), max_size=6))
def test_any_cuts(uncut, readings: list[Reading]) -> None:
    """However often the connection breaks, and whatever comes again, the client's events are those of an uncut one."""

    async def run() -> None:
        # What comes again is no progress, so each reading has as many events more.
        cut = [Reading(one.events + one.repeated, part=one.part, repeated=one.repeated) for one in readings]
        async with before(EVERYTHING, *cut, WHOLE) as (gateway, upstream):
            assert told(await streamed(gateway)) == uncut
        assert upstream.paid == 1

    asyncio.run(run())
