"""A relay that is gone left a log of a response at any record; another one takes the stream up."""

import time
from typing import Any

import internals
import orjson
import pytest
import strict_responses
import wire
from gateway import InProcess, in_process

from server.core.records import Beginning, Record

TEXT = "Water finds its own level."
SOURCE = {"input": "Say it.", "stream": True, "instructions": "Be brief."}


def records_of(events: list[wire.Event]) -> list[Record]:
    """Give the records of a stream, as its client got them."""
    return [Record(event.event or "done", event.data) for event in events]


async def taken_over(gateway: InProcess, model: str, stream_id: str, records: list[Record]) -> list[dict[str, Any]]:
    """Leave a log of these records, let another relay take it up; return the events of the whole stream, checked."""
    body = orjson.dumps({"model": model, **SOURCE})
    beginning = Beginning(stream_id, "", "responses", model, time.time(), body, policy="continue")
    log = await gateway.app.store.create(beginning)
    await log.append(records)
    internals.takeover(gateway.app).begin(internals.live_streams(gateway.app).stream(log))
    return strict_responses.events((await wire.call(gateway.root, "GET", f"/v1/streams/{stream_id}")).events)


async def whole(gateway: InProcess, model: str) -> tuple[str, list[Record]]:
    """Give the id and the records of a stream that nobody took over."""
    answer = await wire.call(gateway.root, "POST", "/v1/responses", {"model": model, **SOURCE})
    return answer.headers["x-stream-id"], records_of(answer.events)


async def test_at_every_record(provider, model) -> None:
    """Whatever the relay had logged, the stream ends as if it had not gone: the same items, texts, ids and numbers."""
    await provider.script(model, {"reasoning": ["I ", "think."], "text": TEXT})
    async with in_process(provider.url, recovery={"strategy": "restart"}) as gateway:
        stream_id, records = await whole(gateway, model)
    expected = [orjson.loads(record.data) for record in records[:-1]]
    for count in (0, *range(2, len(records) - 1)):
        async with in_process(provider.url, recovery={"strategy": "restart"}) as gateway:
            found = await taken_over(gateway, model, stream_id, records[:count])
        assert [event["type"] for event in found] == [event["type"] for event in expected]
        assert found[-1]["response"]["output"] == expected[-1]["response"]["output"]
        assert found[-1]["response"]["instructions"] == "Be brief."


async def test_after_a_call_was_told(provider, model) -> None:
    """A call that a client has seen is not made again: the stream fails, and its output has the call."""
    call = {"index": 0, "id": "c0", "name": "look", "arguments": {"at": "here"}}
    await provider.script(model, {"tool_calls": [call]})
    async with in_process(provider.url) as gateway:
        stream_id, records = await whole(gateway, model)
    kinds = [record.kind for record in records]
    count = kinds.index("response.function_call_arguments.delta") + 1
    async with in_process(provider.url, recovery={"strategy": "restart"}) as gateway:
        found = await taken_over(gateway, model, stream_id, records[:count])
    assert found[-1]["response"]["status"] == "failed"
    assert found[-1]["response"]["output"][0]["call_id"] == "c0"


@pytest.mark.parametrize("kept", [1, 2])
async def test_before_the_first_token(provider, model, kept: int) -> None:
    """A stream that had said nothing yet begins as if it were new."""
    await provider.script(model, {"text": TEXT})
    async with in_process(provider.url) as gateway:
        stream_id, records = await whole(gateway, model)
    async with in_process(provider.url) as gateway:
        found = await taken_over(gateway, model, stream_id, records[:kept])
    assert found[-1]["response"]["output"][0]["content"][0]["text"] == TEXT
