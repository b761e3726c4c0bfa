"""One stream in both forms: created natively and read as chunks, and the other way round."""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import native
import openai
import pytest
import wire
from gateway import InProcess, in_process

from server.aio.pacing import LATE_PER_TURN
from server.api.delivery import READ_BYTES
from server.core.projection import Projection
from server.core.records import Record

TEXT = "Every lock has two gates."
CALL = {"id": "c1", "name": "look", "arguments": {"at": "the gate"}}
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
NOW = {"functions": {"now": "server.tools.examples:now"}}


async def read(gateway: InProcess, stream: str, form: str, after: int = 0) -> list[wire.Event]:
    """Read a stream in a form."""
    answer = await wire.call(gateway.root, "GET", f"/v1/streams/{stream}?format={form}&after={after}")
    assert answer.status == 200, answer.body
    return answer.events


async def created(gateway: InProcess, model: str, form: str, **fields: Any) -> str:
    """Create a stream in a form and read it to its end; return its id."""
    ask = native.ask if form == "native" else wire.complete
    answer = await ask(gateway.root, model, **fields)
    assert answer.status == 200, answer.body
    return answer.headers["x-stream-id"]


def chunks(events: list[wire.Event]) -> list[dict[str, Any]]:
    """Give the parsed chunks."""
    return [json.loads(event.data) for event in events if event.data != b"[DONE]"]


def summary(found: list[native.Event]) -> list[Any]:
    """Give what must be the same in both forms: everything but ids, times, the stream's own and the server's part."""
    kept = [event for event in found if event.type not in ("tool_result", "recovery")]
    skipped = ("timestamp", "ttft_ms", "stream_id", "usage")
    return [{name: value for name, value in event.data.items() if name not in skipped} for event in kept]


SCRIPTS = {
    "text": {"text": TEXT},
    "no role": {"text": TEXT, "role_chunk": False},
    "reasoning": {"reasoning": ["I ", "see."], "text": TEXT},
    "length": {"text": TEXT, "finish": "length"},
    "calls": {"text": "Let me look. ", "tool_calls": [CALL, {"id": "c2", "name": "look", "arguments": "{oops"}]},
    "cut": {"text": TEXT, "cut_after": 3},
    "cut call": {"tool_calls": [CALL], "cut_after": 2},
}


IMAGE = {"images": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}
CITATION = {"annotations": [{"type": "url_citation", "url_citation": {"url": "http://a.example", "title": "A"}}]}


@pytest.mark.parametrize("form", ["native", "openai"])
async def test_images_and_annotations(provider, model, form: str) -> None:
    """What the model says beside texts and calls is told natively, and as chunks, whichever form created the stream."""
    deltas = [{"content": "Look: "}, IMAGE, {"content": "there.", **CITATION}]
    choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": "stop"})
    payloads = [{"id": "c", "created": 1, "model": "m", "choices": [choice]} for choice in choices]
    await provider.script(model, {"chunks": payloads})
    async with in_process(provider.url) as gateway:
        stream = await created(gateway, model, form)
        told = native.decoded(await read(gateway, stream, "native"))
        as_chunks = chunks(await read(gateway, stream, "openai"))
    assert native.types(told) == ["start", "token", "delta", "token", "delta", "done"]
    assert [event["delta"] for event in native.of(told, "delta")] == [IMAGE, CITATION]
    merged = [choice["delta"] for one in as_chunks for choice in one["choices"]]
    assert [delta["images"] for delta in merged if "images" in delta] == [IMAGE["images"]]
    assert [delta["annotations"] for delta in merged if "annotations" in delta] == [CITATION["annotations"]]


async def test_too_many_calls_for_the_other_form(provider, model) -> None:
    """Calls of a chat stream that are too many for the native form are skipped there, and the stream is read on."""
    calls = [{"index": at, "id": "x", "function": {"name": "f"}} for at in range(257)]
    deltas = [{"content": "a"}, {"tool_calls": calls}, {"content": "b"}]
    payloads = [{"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    await provider.script(model, {"chunks": payloads})
    async with in_process(provider.url) as gateway:
        stream = await created(gateway, model, "openai")
        told = native.decoded(await read(gateway, stream, "native"))
        as_chunks = await read(gateway, stream, "openai")
    assert (native.types(told), native.text(told)) == (["start", "token", "done"], "ab")
    assert len(chunks(as_chunks)[1]["choices"][0]["delta"]["tool_calls"]) == 257


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS.keys())
async def test_the_same_story(provider, model, script: dict[str, Any]) -> None:
    """Whatever happens to a stream, read natively it tells the same whether it was created so or as chunks."""
    await provider.script(model, script)
    async with in_process(provider.url) as gateway:
        told = {}
        for form in ("native", "openai"):
            stream = await created(gateway, model, form, tools=TOOLS)
            told[form] = native.decoded(await read(gateway, stream, "native"))
    assert summary(told["native"]) == summary(told["openai"])
    assert told["openai"][-1].type == "done"


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS.keys())
async def test_chunks_of_a_native_stream(provider, model, script: dict[str, Any]) -> None:
    """A native stream read as chunks has one identity, ends in [DONE] or an error, and says the same as the chunks."""
    await provider.script(model, script)
    async with in_process(provider.url) as gateway:
        told = {}
        for form in ("native", "openai"):
            told[form] = await read(gateway, await created(gateway, model, form, tools=TOOLS), "openai")
    mine, theirs = told["native"], told["openai"]
    assert wire.texts([event for event in mine if b'"error"' not in event.data]) == wire.texts(
        [event for event in theirs if b'"error"' not in event.data]
    )
    assert (mine[-1].data == b"[DONE]") == (theirs[-1].data == b"[DONE]") == ("cut_after" not in script)
    made = [chunk for chunk in chunks(mine) if "error" not in chunk]
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in made}) == 1
    assert made[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    if "cut_after" in script:
        assert chunks(mine)[-1]["error"]["code"] == "upstream_cut"
    else:
        reasons = [chunk["choices"][0]["finish_reason"] for chunk in made]
        assert [reason for reason in reasons if reason] == [chunks(theirs)[-1]["choices"][0]["finish_reason"]]


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS.keys())
@pytest.mark.parametrize(("form", "other"), [("native", "openai"), ("openai", "native")])
async def test_a_cut_at_every_event(provider, model, script: dict[str, Any], form: str, other: str) -> None:
    """Cut after any event, and resumed by its id, the other form repeats just those of that id after the first."""
    await provider.script(model, script)
    async with in_process(provider.url) as gateway:
        stream = await created(gateway, model, form, tools=TOOLS)
        whole = await read(gateway, stream, other)
        assert [event.id for event in whole] == sorted(event.id for event in whole)
        tail = len(await read(gateway, stream, form))
        assert whole[-1].id == tail
        for got in range(1, len(whole)):
            cursor = whole[got - 1].id
            rest = _timeless(await read(gateway, stream, other, cursor))
            repeated = len(rest) - (len(whole) - got)
            assert rest == _timeless(whole)[got - repeated :]
            assert repeated == sum(event.id == cursor for event in whole[:got]) - (cursor > 0)
        path = f"/v1/streams/{stream}?format={other}&after={tail}"
        assert (await wire.call(gateway.root, "GET", path)).status == 204


def _timeless(events: list[wire.Event]) -> list[tuple[int, Any]]:
    """Leave out the time at which a token was shown."""
    found = []
    for event in events:
        data = event.data if event.data == b"[DONE]" else json.loads(event.data)
        if isinstance(data, dict):
            data.pop("timestamp", None)
        found.append((event.id, data))
    return found


@pytest.mark.parametrize(("form", "other"), [("native", "openai"), ("openai", "native")])
async def test_live(provider, model, form: str, other: str) -> None:
    """A reader of the other form that joins a running stream in its middle is live to the end, beside the first."""
    await provider.script(model, {"tokens": 60, "rate": 200})
    async with in_process(provider.url) as gateway, wire.Client(gateway.root) as client:
        if form == "native":
            await client.ask("POST", "/api/stream", {"prompt": "a", "model": model})
        else:
            await client.complete(model)
        _, headers = await client.head()
        await client.events(10)
        stream = headers["x-stream-id"]
        joined, _ = await asyncio.gather(read(gateway, stream, other, 5), client.rest())
        assert _timeless(joined) == _timeless(await read(gateway, stream, other, 5))
    assert len(joined) > 50


async def test_server_tools_are_skipped(provider, model) -> None:
    """What the server's tools did has no word in chunks: ids go on with skips, one answer remains."""
    await provider.script(model, {"tool_calls": [{"name": "now", "arguments": {}}]}, {"text": TEXT})
    async with in_process(provider.url, tools=NOW) as gateway:
        stream = await created(gateway, model, "native")
        events = await read(gateway, stream, "openai")
    assert "".join(wire.texts(events)) == TEXT
    assert not any(b"tool" in event.data for event in events)
    assert [event.id for event in events[:2]] == [1, 4]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks(events)][-1] == "stop"


async def test_the_sdk_reads_a_native_stream(provider, model) -> None:
    """OpenAI's SDK assembles the client's calls of a native stream that is read as chunks."""
    await provider.script(model, {"text": "Looking. ", "tool_calls": [CALL, {**CALL, "id": "c2"}]})
    async with in_process(provider.url) as gateway:
        stream = await created(gateway, model, "native", tools=TOOLS)
        async with openai.AsyncOpenAI(base_url=gateway.url, api_key="none") as client:
            answer = await client.get(
                f"/streams/{stream}?format=openai",
                cast_to=openai.types.chat.ChatCompletionChunk,
                stream=True,
                stream_cls=openai.AsyncStream[openai.types.chat.ChatCompletionChunk],
                options={"headers": {"Accept": "text/event-stream"}},
            )
            deltas = [chunk.choices[0].delta async for chunk in answer]
    calls = [call for delta in deltas for call in delta.tool_calls or ()]
    assert [(call.index, call.id, call.function.name, call.function.arguments) for call in calls] == [
        (0, "c1", "look", '{"at":"the gate"}'),
        (1, "c2", "look", '{"at":"the gate"}'),
    ]


async def test_several_choices(provider, model) -> None:
    """A stream of several choices cannot be read natively: 400, not half of it."""
    await provider.script(model, {"text": TEXT})
    async with in_process(provider.url) as gateway:
        stream = await created(gateway, model, "openai", n=2)
        answer = await wire.call(gateway.root, "GET", f"/v1/streams/{stream}?format=native")
    assert (answer.status, answer.error["param"]) == (400, "format")


async def test_an_unknown_format(provider, model) -> None:
    """Any other format is a 400."""
    await provider.script(model, {"text": TEXT})
    async with in_process(provider.url) as gateway:
        stream = await created(gateway, model, "native")
        answer = await wire.call(gateway.root, "GET", f"/v1/streams/{stream}?format=xml")
    assert (answer.status, answer.error["param"]) == (400, "format")


async def test_long_translations_take_turns(provider, gateway, model, monkeypatch) -> None:
    """Twenty readers that translate a long log, for one record each, leave the event loop to others again and again."""
    turn, reads = 0, Counter[int]()  # by the turn of the event loop in which they were translated
    translate = Projection.frames

    def counted(self: Projection, records: Sequence[Record]) -> bytes:
        reads[turn] += 1
        assert sum(len(data) for _, data in records) <= READ_BYTES
        return translate(self, records)

    async def count_turns() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(Projection, "frames", counted)
    await provider.script(model, {"tokens": 3000})
    stream = await created(gateway, model, "openai")
    tail = len(await read(gateway, stream, "openai"))
    counting = asyncio.create_task(count_turns())
    shown = await asyncio.gather(*(read(gateway, stream, "native", tail - 1) for _ in range(20)))
    counting.cancel()
    assert [[event.type for event in native.decoded(events)] for events in shown] == [["done"]] * 20
    assert reads.total() > 20 * 10
    assert max(reads.values()) <= LATE_PER_TURN + 1  # nearly always 1; readers that wait for half a second go together
