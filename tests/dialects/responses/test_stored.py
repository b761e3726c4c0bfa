"""Stored responses by OpenAI's own SDK: read, followed from any number, cancelled, deleted, gone on from."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import strict_responses
import wire
from gateway import InProcess, in_process
from openai.types.responses import ResponseItem

WORDS = [f"word{n} " for n in range(30)]
TEXT = "".join(WORDS)
STALLED = {"pieces": WORDS, "stall_after": 5}
OVER = ("completed", "incomplete", "failed", "cancelled")
WAIT = 20.0  # seconds for anything that is expected to happen


@pytest.fixture
async def client(gateway: InProcess) -> AsyncIterator[openai.AsyncOpenAI]:
    """The SDK, at the gateway with the defaults."""
    async with openai.AsyncOpenAI(api_key="none", base_url=gateway.url, max_retries=0) as made:
        yield made


def told(events: list[Any]) -> list[dict[str, Any]]:
    """Give events of the SDK as they were on the wire."""
    return [event.to_dict(mode="json") for event in events]


async def read(stream: Any) -> list[dict[str, Any]]:
    """Read a stream of the SDK to its end."""
    return told([event async for event in stream])


async def begun(stream: Any, count: int) -> list[dict[str, Any]]:
    """Read the first events of a stream."""
    found: list[Any] = []
    async for event in stream:
        found.append(event)
        if len(found) == count:
            break
    return told(found)


async def polled(client: openai.AsyncOpenAI, identity: str) -> Any:
    """Ask for a response until it is over."""
    async with asyncio.timeout(WAIT):
        while (found := await client.responses.retrieve(identity)).status not in OVER:  # noqa: ASYNC110  # as clients do
            await asyncio.sleep(0.02)
    return found


async def refused(call: Any) -> tuple[int, str | None, str | None]:
    """Give the status, the code and the parameter of a refusal."""
    with pytest.raises(openai.APIStatusError) as raised:
        await call
    return raised.value.status_code, raised.value.code, raised.value.param


# --- reading ----------------------------------------------------------------------------------------------------------


async def test_read_again_from_every_number(provider, model, gateway, client) -> None:
    """`starting_after` N gives exactly the events after N, for every N; after the last one, and past it, none."""
    await provider.script(model, {"reasoning": ["Hm. "], "pieces": WORDS})
    events = await read(await client.responses.create(model=model, input="Go.", stream=True))
    identity = events[0]["response"]["id"]
    assert strict_responses.sequence(events)
    assert await read(await client.responses.retrieve(identity, stream=True)) == events
    for number in range(len(events) + 2):
        stream = await client.responses.retrieve(identity, stream=True, starting_after=number)
        assert await read(stream) == events[number + 1 :]
    last = f"/v1/responses/{identity}?stream=true&starting_after={len(events) - 1}"
    answer = await wire.call(gateway.root, "GET", last)
    assert (answer.status, [event.data for event in answer.events]) == (200, [b"[DONE]"])


async def test_the_resource(provider, model, client) -> None:
    """The resource is that of the last event, whatever the form in which the client asked for the answer."""
    await provider.script(model, {"pieces": WORDS})
    events = await read(await client.responses.create(model=model, input="Go.", stream=True))
    whole = await client.responses.create(model=model, input="Go.", metadata={"a": "b"})
    for expected in (events[-1]["response"], whole.to_dict(mode="json")):
        found = (await client.responses.retrieve(expected["id"])).to_dict(mode="json")
        assert strict_responses.resource(found) == expected
    assert found["metadata"] == {"a": "b"}
    assert found["output"][0]["content"][0]["text"] == TEXT


async def test_while_it_is_in_progress(provider, model, client) -> None:
    """The resource has what was said so far. A second reader gets the same events, then follows. It is not deleted."""
    await provider.script(model, STALLED)
    stream = await client.responses.create(model=model, input="Go.", stream=True)
    first = await begun(stream, 9)  # created, in_progress, two added, five deltas
    identity = first[0]["response"]["id"]
    found = (await client.responses.retrieve(identity)).to_dict(mode="json")
    assert strict_responses.resource(found)["status"] == "in_progress"
    assert found["output"][0]["content"][0]["text"] == "".join(WORDS[:5])
    second = await client.responses.retrieve(identity, stream=True, starting_after=3)
    assert await begun(second, 5) == first[4:]
    assert await refused(client.responses.delete(identity)) == (400, "response_in_progress", None)
    beyond = client.responses.retrieve(identity, stream=True, starting_after=500)
    assert await refused(beyond) == (400, "invalid_cursor", "starting_after")
    rest = asyncio.create_task(read(second))
    await client.responses.cancel(identity)
    assert [event["type"] for event in await rest] == ["response.failed"]
    await stream.close()
    await second.close()


async def test_cancelling_without_a_body(provider, model, gateway, client) -> None:
    """OpenAI's JavaScript SDK cancels without a body. A page of another site may not, by its origin."""
    await provider.script(model, STALLED)
    stream = await client.responses.create(model=model, input="Go.", stream=True)
    path = f"/v1/responses/{(await begun(stream, 9))[0]['response']['id']}/cancel"
    foreign = await wire.call(gateway.root, "POST", path, headers={"Origin": "https://evil.example"})
    assert (foreign.status, foreign.error["code"]) == (403, "forbidden_origin")
    answer = await wire.call(gateway.root, "POST", path)
    assert (answer.status, answer.json["status"]) == (200, "cancelled")
    await stream.close()


async def test_a_reader_that_knows_an_id(provider, model, gateway, client) -> None:
    """`Last-Event-ID` wins, as a browser reconnects with it to the same address; at the last id there is nothing."""
    await provider.script(model, {"pieces": WORDS})
    whole = await wire.call(gateway.root, "POST", "/v1/responses", {"model": model, "input": "Go.", "stream": True})
    path = f"/v1/responses/{json.loads(whole.events[0].data)['response']['id']}?stream=true&starting_after=0"
    again = await wire.call(gateway.root, "GET", path, headers={"Last-Event-ID": "7"})
    assert again.events == whole.events[7:]
    last = {"Last-Event-ID": str(len(whole.events))}
    assert (await wire.call(gateway.root, "GET", path, headers=last)).status == 204


@pytest.mark.parametrize("query", ["starting_after=x", "starting_after=-1", "starting_after=1.5", "stream=maybe"])
async def test_bad_queries(provider, model, gateway, client, query) -> None:
    """What is no number, or no boolean, is refused by name."""
    await provider.script(model, {"pieces": WORDS})
    made = await client.responses.create(model=model, input="Go.")
    extra = "" if query.startswith("stream=") else "&stream=true"
    answer = await wire.call(gateway.root, "GET", f"/v1/responses/{made.id}?{query}{extra}")
    assert (answer.status, answer.json["error"]["param"]) == (400, query.partition("=")[0])


async def test_either_id(provider, model, gateway, client) -> None:
    """The stream's id and the response's are the same thing, on the paths of both; a chat stream is no response."""
    await provider.script(model, {"pieces": WORDS})
    made = await client.responses.create(model=model, input="Go.")
    stream_id = made.id.replace("resp_", "strm_")
    assert (await client.responses.retrieve(stream_id)).id == made.id
    for identity in (made.id, stream_id):
        state = await wire.call(gateway.root, "GET", f"/v1/streams/{identity}", headers={"Accept": "application/json"})
        assert (state.json["id"], state.json["state"]) == (stream_id, "complete")
        chat = await wire.call(gateway.root, "GET", f"/v1/streams/{identity}?format=chat")
        assert "".join(wire.texts(chat.events)) == TEXT
    other = await wire.complete(gateway.root, model)
    assert await refused(client.responses.retrieve(other.headers["x-stream-id"])) == (404, "response_not_found", None)


# --- cancelling and deleting ------------------------------------------------------------------------------------------


async def test_cancel(provider, model, client) -> None:
    """A response is cancelled once and says so; asking again gives the same. Its stream ends with `response.failed`."""
    await provider.script(model, STALLED)
    stream = await client.responses.create(model=model, input="Go.", stream=True)
    events = await begun(stream, 9)
    identity = events[0]["response"]["id"]
    found = await client.responses.cancel(identity)
    assert found.status == "cancelled"
    assert found.output_text == "".join(WORDS[:5])
    assert await client.responses.cancel(identity) == found
    assert await client.responses.retrieve(identity) == found
    rest = await read(stream)
    assert [event["type"] for event in rest] == ["response.failed"]
    assert strict_responses.sequence(events + rest)[-1]["response"] == found.to_dict(mode="json")
    assert (await provider.closed(model))["closed_by_client_at"]


async def test_a_finished_one_is_not_cancelled(provider, model, client) -> None:
    """A response that has completed stays so."""
    await provider.script(model, {"pieces": WORDS})
    made = await client.responses.create(model=model, input="Go.")
    assert await refused(client.responses.cancel(made.id)) == (400, "response_ended", None)
    assert (await client.responses.retrieve(made.id)).status == "completed"


async def test_delete(provider, model, gateway, client) -> None:
    """A deleted response is on no path any more, and in no list."""
    await provider.script(model, {"pieces": WORDS})
    made, other = [await client.responses.create(model=model, input="Go.") for _ in range(2)]
    answer = await wire.call(gateway.root, "DELETE", f"/v1/responses/{made.id}")
    assert (answer.status, answer.json) == (200, {"id": made.id, "object": "response", "deleted": True})
    for call in (
        client.responses.retrieve(made.id),
        client.responses.retrieve(made.id, stream=True),
        client.responses.cancel(made.id),
        client.responses.delete(made.id),
    ):
        assert await refused(call) == (404, "response_not_found", None)
    assert (await wire.call(gateway.root, "GET", f"/v1/responses/{made.id}/input_items")).status == 404
    assert (await wire.call(gateway.root, "GET", f"/v1/streams/{made.id}")).status == 404
    listed = (await wire.call(gateway.root, "GET", "/v1/streams")).json["data"]
    assert [one["id"] for one in listed] == [other.id.replace("resp_", "strm_")]
    following = client.responses.create(model=model, input="More.", previous_response_id=made.id)
    assert await refused(following) == (400, "previous_response_not_found", "previous_response_id")


# --- background and store ---------------------------------------------------------------------------------------------


async def test_background(provider, model, client) -> None:
    """It is answered at once, goes on without any client, and is polled."""
    await provider.script(model, {"pieces": WORDS, "headers_after": 0.5})
    made = await client.responses.create(model=model, input="Go.", background=True)
    assert made.status in ("queued", "in_progress")
    assert (made.background, made.output) == (True, [])
    found = await polled(client, made.id)
    assert (found.status, found.output_text) == ("completed", TEXT)
    events = await read(await client.responses.retrieve(made.id, stream=True))
    assert strict_responses.sequence(events)[-1]["response"] == found.to_dict(mode="json")


async def test_background_outlives_its_clients(provider, model) -> None:
    """Its id comes before the first token. Nobody reads it for longer than any other stream may wait for a client."""
    await provider.script(model, {"pieces": WORDS, "ttft": 0.5, "rate": 60})
    async with (
        in_process(provider.url, streams={"linger": 0.0}) as gateway,
        openai.AsyncOpenAI(api_key="none", base_url=gateway.url, max_retries=0) as client,
    ):
        stream = await client.responses.create(model=model, input="Go.", background=True, stream=True)
        events = await begun(stream, 2)
        assert [event["type"] for event in events] == ["response.created", "response.in_progress"]
        await stream.close()
        identity = events[0]["response"]["id"]
        following = await client.responses.retrieve(identity, stream=True, starting_after=1)
        events += await begun(following, 4)
        await following.close()
        found = await polled(client, identity)
        assert (found.status, found.output_text) == ("completed", TEXT)
        number = events[-1]["sequence_number"]
        events += await read(await client.responses.retrieve(identity, stream=True, starting_after=number))
        assert strict_responses.sequence(events)


async def test_background_is_cancelled(provider, model, client) -> None:
    """Nothing but its cancelling ends it."""
    await provider.script(model, STALLED)
    made = await client.responses.create(model=model, input="Go.", background=True)
    assert (await client.responses.cancel(made.id)).status == "cancelled"
    assert (await client.responses.retrieve(made.id)).status == "cancelled"


async def test_background_that_fails(provider, model, client) -> None:
    """A failure before the first token is in the resource, as the client has its answer already."""
    await provider.script(model, {"status": 400, "error": {"message": "No.", "code": "bad", "type": "x"}})
    made = await client.responses.create(model=model, input="Go.", background=True)
    found = await polled(client, made.id)
    assert found.status == "failed"
    assert found.error is not None
    assert "No." in found.error.message
    answer = await client.responses.with_raw_response.retrieve(made.id)
    assert strict_responses.resource(json.loads(answer.text))


async def test_background_needs_a_store(provider, model, client) -> None:
    """What is not stored could not be asked for."""
    refusal = await refused(client.responses.create(model=model, input="Go.", background=True, store=False))
    assert refusal == (400, "invalid_value", "background")
    assert not await provider.seen(model)


async def test_not_stored(provider, model, client) -> None:
    """`store: false`: it can be read while it is in progress, and is not found as soon as it has ended."""
    await provider.script(model, STALLED, {"pieces": WORDS})
    stream = await client.responses.create(model=model, input="Go.", stream=True, store=False)
    events = await begun(stream, 9)
    identity = events[0]["response"]["id"]
    assert (await client.responses.retrieve(identity)).status == "in_progress"
    await stream.close()
    made = await client.responses.create(model=model, input="Go.", store=False)
    assert made.output_text == TEXT
    for call in (
        client.responses.retrieve(made.id),
        client.responses.retrieve(made.id, stream=True),
        client.responses.delete(made.id),
        client.responses.input_items.list(made.id),
    ):
        assert await refused(call) == (404, "response_not_found", None)
    following = client.responses.create(model=model, input="More.", previous_response_id=made.id)
    assert await refused(following) == (400, "previous_response_not_found", "previous_response_id")


async def test_retention(provider, model) -> None:
    """Stored responses are kept for a time of their own; other streams, and what is not stored, as before."""
    await provider.script(model, {"pieces": WORDS})
    async with (
        in_process(provider.url, streams={"retention": 0.2}, responses={"retention": 600.0}) as gateway,
        openai.AsyncOpenAI(api_key="none", base_url=gateway.url, max_retries=0) as client,
    ):
        made = await client.responses.create(model=model, input="Go.")
        loose = await client.responses.create(model=model, input="Go.", store=False)
        await asyncio.sleep(0.4)
        assert (await client.responses.retrieve(made.id)).output_text == TEXT
        assert (await wire.call(gateway.root, "GET", f"/v1/streams/{loose.id}")).status == 404


# --- conversations ----------------------------------------------------------------------------------------------------


async def test_previous_response(provider, model, client) -> None:
    """A chain: each turn sends all earlier ones upstream. Instructions are not inherited. Nothing else has to stay."""
    await provider.script(model, *({"text": f"Answer {n}."} for n in range(1, 4)))
    first = await client.responses.create(model=model, input="One?", instructions="Be brief.")
    events = await read(
        await client.responses.create(model=model, input="Two?", previous_response_id=first.id, stream=True)
    )
    second = events[-1]["response"]
    assert second["previous_response_id"] == first.id
    await client.responses.delete(first.id)
    third = await client.responses.create(
        model=model,
        input=[{"role": "user", "content": "Three?"}],
        previous_response_id=second["id"],
        instructions="Be long.",
    )
    assert third.output_text == "Answer 3."
    seen = [call["body"]["messages"] for call in await provider.seen(model)]
    turns = [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Answer 1."},
        {"role": "user", "content": "Two?"},
        {"role": "assistant", "content": "Answer 2."},
        {"role": "user", "content": "Three?"},
    ]
    system = [{"role": "system", "content": text} for text in ("Be brief.", "Be long.")]
    assert seen == [[system[0], *turns[:1]], turns[:3], [system[1], *turns]]


async def test_a_call_and_its_output(provider, model, client) -> None:
    """A tool loop by `previous_response_id`: the client sends nothing but the output of the call."""
    call = {"index": 0, "id": "call_1", "name": "add", "arguments": {"a": 1}}
    await provider.script(model, {"tool_calls": [call]}, {"text": "Two."})
    tools: Any = [{"type": "function", "name": "add", "parameters": {"type": "object"}}]
    first = await client.responses.create(model=model, input="1+1?", tools=tools)
    item: Any = first.output[0]
    output: Any = [{"type": "function_call_output", "call_id": item.call_id, "output": "2"}]
    await client.responses.create(model=model, input=output, tools=tools, previous_response_id=first.id)
    _, seen = await provider.seen(model)
    assert [message["role"] for message in seen["body"]["messages"]] == ["user", "assistant", "tool"]
    assert seen["body"]["messages"][1]["tool_calls"][0]["id"] == "call_1"


async def test_items_by_their_ids(provider, model, client) -> None:
    """An item of a stored response may be sent as a reference, as Vercel's AI SDK does; an unknown one is refused."""
    await provider.script(model, {"text": "Blue."}, {"text": "Fine."})
    first = await client.responses.create(model=model, input="Colour?")
    reference: Any = {"type": "item_reference", "id": first.output[0].id}
    await client.responses.create(model=model, input=[reference, {"role": "user", "content": "Sure?"}])
    _, seen = await provider.seen(model)
    assert seen["body"]["messages"][0] == {"role": "assistant", "content": "Blue."}
    unknown: Any = [{"type": "item_reference", "id": "msg_nothing_0"}]
    status, code, param = await refused(client.responses.create(model=model, input=unknown))
    assert (status, code, param) == (400, "item_not_found", "input[0].id")


async def test_a_reference_without_its_type(provider, model, client) -> None:
    """The type of a reference may be left out, and items of the input have ids as well."""
    await provider.script(model, {"text": "Blue."}, {"text": "Fine."})
    first = await client.responses.create(model=model, input="Colour?")
    (asked,) = (await client.responses.input_items.list(first.id)).data
    both: Any = [{"id": asked.id}, {"id": first.output[0].id, "type": None}]
    await client.responses.create(model=model, input=[*both, {"role": "user", "content": "Sure?"}])
    _, seen = await provider.seen(model)
    assert [message["content"] for message in seen["body"]["messages"]] == ["Colour?", "Blue.", "Sure?"]


@pytest.mark.parametrize("by", ["previous_response_id", "reference"])
async def test_halves_of_surrogate_pairs(provider, model, client, by) -> None:
    """An answer that ends within a character can be gone on from. No request can hold the half: U+FFFD stands there."""
    half = {"id": "c", "choices": [{"index": 0, "delta": {"content": "Bl\ud83d"}, "finish_reason": "stop"}]}
    await provider.script(model, {"chunks": [json.dumps(half)]}, {"text": "Fine."})
    first = await client.responses.create(model=model, input="Colour?")
    asked: Any = {"previous_response_id": first.id} if by == "previous_response_id" else {}
    before: Any = [] if asked else [{"type": "item_reference", "id": first.output[0].id}]
    await client.responses.create(model=model, input=[*before, {"role": "user", "content": "Sure?"}], **asked)
    _, seen = await provider.seen(model)
    assert [message["content"] for message in seen["body"]["messages"]][-2:] == ["Bl\ufffd", "Sure?"]


async def test_an_image(provider, model) -> None:
    """An answer that is an image has it, once also after a cut, and the next turn sees it."""
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0="}}
    chunks = [
        json.dumps({"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})
        for delta, reason in (({"images": [part]}, None), ({"content": "There."}, None), ({}, "stop"))
    ]
    await provider.script(model, {"chunks": chunks, "cut_after": 1}, {"chunks": chunks}, {"text": "Nice."})
    async with (
        in_process(provider.url, recovery={"strategy": "restart", "backoff": 0.0}) as gateway,
        openai.AsyncOpenAI(api_key="none", base_url=gateway.url, max_retries=0) as client,
    ):
        events = strict_responses.sequence(
            await read(await client.responses.create(model=model, input="Draw.", stream=True))
        )
        final = events[-1]["response"]
        assert [item["type"] for item in final["output"]] == ["image_generation_call", "message"]
        assert final["output"][0]["result"] == "iVBORw0="
        await client.responses.create(model=model, input="And?", previous_response_id=final["id"])
    *_, seen = await provider.seen(model)
    contents = [message["content"] for message in seen["body"]["messages"]]
    assert contents == ["Draw.", [part], "There.", "And?"]


async def test_the_id_that_was_gone_on_from(provider, model, client) -> None:
    """A response that was named by its stream's id is shown by its own id."""
    await provider.script(model, {"text": "Yes."}, {"text": "Yes."})
    first = await client.responses.create(model=model, input="Go.")
    named = first.id.replace("resp_", "strm_")
    second = await client.responses.create(model=model, input="And?", previous_response_id=named)
    assert second.previous_response_id == first.id


async def test_visible_before_it_is_completed(provider, model, client) -> None:
    """Whoever reads `response.completed` can go on from it at once."""
    await provider.script(model, {"text": "Yes."})
    previous: str | None = None
    for _ in range(20):
        stream = await client.responses.create(
            model=model, input="Go.", stream=True, previous_response_id=openai.omit if previous is None else previous
        )
        async for event in stream:
            if event.type == "response.completed":
                previous = event.response.id
                following = await client.responses.create(model=model, input="And?", previous_response_id=previous)
                assert following.status == "completed"


@pytest.mark.parametrize("previous", ["resp_nothing", "nonsense", "strm_"])
async def test_an_unknown_previous_response(model, client, previous) -> None:
    """It is a mistake in the request."""
    call = client.responses.create(model=model, input="Go.", previous_response_id=previous)
    assert await refused(call) == (400, "previous_response_not_found", "previous_response_id")


async def test_a_response_that_is_not_over(provider, model, client) -> None:
    """One that is in progress has no answer to go on from."""
    await provider.script(model, STALLED)
    made = await client.responses.create(model=model, input="Go.", background=True)
    call = client.responses.create(model=model, input="Go.", previous_response_id=made.id)
    assert await refused(call) == (400, "previous_response_not_found", "previous_response_id")
    await client.responses.cancel(made.id)


async def test_input_items(provider, model, client) -> None:
    """The whole input in either order, page by page, that of earlier turns first; every item has an id of its own."""
    await provider.script(model, {"text": "Yes."})
    parts: Any = [
        {"type": "input_text", "text": "A"},
        {"type": "input_image", "image_url": "data:image/png;base64,AA=="},
    ]
    first = await client.responses.create(model=model, input=[{"role": "user", "content": parts}])
    second = await client.responses.create(
        model=model,
        input=[
            {"role": "user", "content": "B"},
            {"role": "assistant", "content": "C"},
            {"role": "user", "content": "D"},
        ],
        previous_response_id=first.id,
    )
    page = await client.responses.input_items.with_raw_response.list(second.id, order="asc", limit=100)
    items = json.loads(page.text)["data"]
    for item in items:
        strict_responses.check(item, ResponseItem)
    assert [(item["role"], item["content"][0].get("text")) for item in items] == [
        ("user", "A"), ("assistant", "Yes."), ("user", "B"), ("assistant", "C"), ("user", "D"),
    ]  # fmt: skip
    assert items[1]["id"] == first.output[0].id
    assert len({item["id"] for item in items}) == 5
    for limit in (1, 2, 5, 100):
        for order in ("asc", "desc"):
            listed = client.responses.input_items.list(second.id, order=order, limit=limit)  # type: ignore[arg-type]
            found = [item.id async for item in listed]  # the SDK asks for page after page
            expected = [item["id"] for item in items]
            assert found == (expected if order == "asc" else expected[::-1])
    default = await client.responses.input_items.list(second.id)
    assert [item.id for item in default.data] == [item["id"] for item in reversed(items)]


async def test_every_kind_of_input_item(provider, model, client) -> None:
    """Items are listed with all that the SDK's types want, also what their client left out."""
    await provider.script(model, {"text": "Yes."})
    sent: Any = [
        {
            "role": "user",
            "content": [{"type": "input_file", "filename": "a", "file_data": "data:text/plain;base64,AA=="}],
        },
        {"role": "developer", "content": "Be brief."},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"type": "reasoning", "summary": []},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "e", "status": None},
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "seen"}]},
        {"type": "custom_tool_call", "call_id": "c2", "name": "patch", "input": "x", "status": None},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": "done"},
    ]
    made = await client.responses.create(model=model, input=sent)
    page = await client.responses.input_items.with_raw_response.list(made.id, order="asc")
    items = json.loads(page.text)["data"]
    for item in items:
        strict_responses.check(item, ResponseItem)
    assert [item["type"] for item in items] == [item.get("type", "message") for item in sent]


@pytest.mark.parametrize("query", ["order=up", "limit=0", "limit=101", "limit=x", "after=nothing"])
async def test_bad_pages(provider, model, gateway, client, query) -> None:
    """What cannot be listed is refused by name."""
    await provider.script(model, {"text": "Yes."})
    made = await client.responses.create(model=model, input="Go.")
    answer = await wire.call(gateway.root, "GET", f"/v1/responses/{made.id}/input_items?{query}")
    assert (answer.status, answer.json["error"]["param"]) == (400, query.partition("=")[0])


# --- owners -----------------------------------------------------------------------------------------------------------


async def test_two_owners(provider, model) -> None:
    """A response is its owner's alone: for another key it is on no path, and cannot be gone on from."""
    await provider.script(model, {"text": "Secret."})
    keys = [{"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest()} for name in ("ann", "bob")]
    async with (
        in_process(provider.url, keys=keys) as gateway,
        openai.AsyncOpenAI(api_key="ann", base_url=gateway.url, max_retries=0) as ann,
        openai.AsyncOpenAI(api_key="bob", base_url=gateway.url, max_retries=0) as bob,
    ):
        made = await ann.responses.create(model=model, input="Go.")
        for call in (
            bob.responses.retrieve(made.id),
            bob.responses.retrieve(made.id, stream=True),
            bob.responses.cancel(made.id),
            bob.responses.delete(made.id),
            bob.responses.input_items.list(made.id),
        ):
            assert await refused(call) == (404, "response_not_found", None)
        following = bob.responses.create(model=model, input="Go.", previous_response_id=made.id)
        assert await refused(following) == (400, "previous_response_not_found", "previous_response_id")
        reference: Any = [{"type": "item_reference", "id": made.output[0].id}]
        assert (await refused(bob.responses.create(model=model, input=reference)))[0] == 400
        assert (await ann.responses.retrieve(made.id)).output_text == "Secret."
