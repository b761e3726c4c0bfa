"""A long response is read back in steps: what one request asks for never holds up the tokens of others."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import internals
import pytest
import wire
from gateway import InProcess

from server.core.records import Beginning, Record
from server.core.wide_json import dumps
from server.dialects.responses import events
from server.dialects.responses.output import Output

TOKENS = 4000
PER_TURN = 250  # records
PLACE = {"item_id": "msg_1", "output_index": 0, "content_index": 0}


def records() -> list[Record]:
    """Give the records of a response that has said much, and goes on."""
    message = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "status": "in_progress"}
    part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    resource = {"id": "resp_x", "object": "response", "status": "in_progress", "output": []}
    told = [
        (events.CREATED, {"response": resource}),
        (events.IN_PROGRESS, {"response": resource}),
        (events.ITEM_ADDED, {"output_index": 0, "item": message}),
        (events.PART_ADDED, {**PLACE, "part": part}),
        *[(events.TEXT_DELTA, {**PLACE, "delta": f"word{number} ", "logprobs": []}) for number in range(TOKENS)],
    ]
    return [events.event(kind, number, fields) for number, (kind, fields) in enumerate(told)]


@asynccontextmanager
async def events_per_turn(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Counter[int]]:
    """Count the events that are taken in, by the turn of the event loop."""
    turn, taken, add = 0, Counter[int](), Output.add

    def counted(self: Output, kind: str, event: Mapping[str, Any]) -> None:
        taken[turn] += 1
        add(self, kind, event)

    async def count_turns() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(Output, "add", counted)
    counting = asyncio.create_task(count_turns())
    try:
        yield taken
    finally:
        counting.cancel()


async def test_a_long_response_in_progress(gateway: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """GET of a response in progress, and a takeover of it, leave the event loop to others again and again."""
    body = dumps({"model": "m", "input": "x", "stream": True})
    beginning = Beginning("strm_long", "", "responses", "m", time.time(), body, policy="continue")
    log = await gateway.app.store.create(beginning)
    await log.append(records())
    async with events_per_turn(monkeypatch) as taken:
        answer = await wire.call(gateway.root, "GET", "/v1/responses/resp_long")
        assert taken.total() == log.tail
        internals.takeover(gateway.app).begin(internals.live_streams(gateway.app).stream(log))
        await gateway.idle_streams()
    assert answer.json["output"][0]["content"][0]["text"] == "".join(f"word{number} " for number in range(TOKENS))
    assert taken.total() >= 2 * (TOKENS + 4)
    assert max(taken.values()) <= PER_TURN
