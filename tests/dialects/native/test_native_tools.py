"""Server-side tools: conversations of several rounds in one stream, on the scripted provider."""

import asyncio
import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import native
import pytest
import tool_examples
import wire
from gateway import in_process, own_process
from native import ALL, LOOK, TOOLS, call, ran
from tcp_server import listening

RETRY = {"strategy": "auto", "backoff": 0.01}


def results(found: list[native.Event]) -> dict[str, dict[str, Any]]:
    """Give the results by the id of their call."""
    return {event["id"]: event for event in native.of(found, "tool_result")}


async def test_a_conversation(provider, model, marks) -> None:
    """Parallel calls, one that fails, one that hangs, one that is huge, a recovery: one stream, each tool run once."""
    calls = [
        call("add", {"x": 1}, id="good"), call("fail", id="bad"), call("hang", id="stuck"), call("huge", id="big"),
    ]  # fmt: skip
    script = {"text": "Let me see. ", "tool_calls": calls, "interleave": True}
    second_round = {"tool_calls": [call("add", {"x": 2, "y": 3}, id="good")]}
    cut = {**second_round, "tool_piece": 4, "cut_after": 1}
    await provider.script(model, script, {"status": 500}, cut, second_round, {"text": "Five."})
    tools = {"functions": ALL, "timeout": 0.5, "max_result_bytes": 2000}
    async with in_process(provider.url, tools=tools, recovery=RETRY) as gateway:
        found = await native.events(gateway.root, model)
    assert native.types(found) == [
        "start", "token", "tool_call", "tool_result", "tool_call", "tool_result", "token", "done",
    ]  # fmt: skip
    assert native.text(found) == "Let me see. Five."
    assert [event["id"] for event in native.of(found, "tool_call")] == ["good", "bad", "stuck", "big", "good"]
    first, second = native.of(found, "tool_result")[:4], native.of(found, "tool_result")[4]
    told = {event["id"]: event for event in first}
    assert told["good"]["content"] == "2"
    assert told["good"].keys() == {"type", "id", "name", "content", "duration_ms"}
    assert told["bad"]["error"] == "LookupError: nothing there"
    assert told["stuck"]["error"] == "The tool gave no result within 0.5 seconds."
    assert told["stuck"]["duration_ms"] >= 500
    assert len(told["big"]["content"].encode()) <= 2000
    assert second["content"] == "5"
    assert ran(marks) == {"add 1 1": 1, "fail": 1, "hang": 1, "huge": 1, "add 2 3": 1}
    requests = [one["body"]["messages"] for one in await provider.seen(model)]
    assert [len(messages) for messages in requests] == [1, 6, 6, 6, 8]
    assert requests[1] == requests[2] == requests[3] == requests[4][:6]
    assistant, *answers = requests[1][1:]
    assert assistant["content"] == "Let me see. "
    assert [one["id"] for one in assistant["tool_calls"]] == [one["tool_call_id"] for one in answers]
    assert [one["content"] for one in answers[:2]] == ["2", "Error: LookupError: nothing there"]
    assert found[-1].data["status"] == "complete"


async def test_usage_is_summed(provider, model) -> None:
    """The usage of `done` is that of all rounds, and is measured only if that of each round is."""
    script = {"tool_calls": [call("add", {"x": 1})]}
    await provider.script(model, script, {"text": "a b"}, script, {"text": "a b", "usage": False})
    async with in_process(provider.url, tools={"functions": ALL}) as gateway:
        measured = (await native.events(gateway.root, model))[-1].data
        estimated = (await native.events(gateway.root, model))[-1].data
    seen = [one["body"]["messages"] for one in await provider.seen(model)][:2]
    prompt = sum(len((message.get("content") or "").split()) for messages in seen for message in messages)
    assert measured["usage"]["prompt_tokens"] == prompt
    assert measured["usage"]["completion_tokens"] == 2 + 2  # the call's head and arguments, and the two words
    assert measured["usage"]["total_tokens"] == prompt + 4
    assert (measured["usage"]["measured"], estimated["usage"]["measured"]) == (True, False)
    assert measured["token_count"] == 2


@pytest.mark.parametrize(
    "fault", [{"status": 500}, {"reset_before_head": True}, {"text": "It is two.", "cut_after": 2}, {"cut_after": 0}]
)
async def test_recovery_between_call_and_result(provider, model, marks, fault: dict[str, Any]) -> None:
    """The request with the results fails and is asked again: the tool does not run again, its result is sent again."""
    await provider.script(model, {"tool_calls": [call("add", {"x": 1})]}, fault, {"text": "It is two."})
    async with in_process(provider.url, tools={"functions": ALL}, recovery=RETRY) as gateway:
        found = await native.events(gateway.root, model)
    assert native.text(found) == "It is two."
    assert found[-1].data["status"] == "complete"
    assert len(native.of(found, "tool_call")) == len(native.of(found, "tool_result")) == 1
    assert ran(marks) == {"add 1 1": 1}
    _, second, third = [one["body"]["messages"] for one in await provider.seen(model)]
    assert second == third


@pytest.mark.parametrize("at", range(6))
async def test_recovery_inside_the_calls(provider, model, marks, at: int) -> None:
    """A cut in the middle of the calls: nothing of them was shown, so they are asked for again, shown and run once."""
    script = {"text": "Hm. ", "tool_calls": [call("add", {"x": 1}), call("add", {"x": 2})], "tool_piece": 4}
    await provider.script(model, {**script, "cut_after": at}, script, {"text": "Well."})
    async with in_process(provider.url, tools={"functions": ALL}, recovery=RETRY) as gateway:
        found = await native.events(gateway.root, model)
    assert native.text(found) == "Hm. Well."
    assert [event["arguments"] for event in native.of(found, "tool_call")] == [{"x": 1}, {"x": 2}]
    assert not any(event["incomplete"] for event in native.of(found, "tool_call"))
    assert ran(marks) == {"add 1 1": 1, "add 2 1": 1}


async def test_calls_that_broke_off(provider, model, marks) -> None:
    """If a cut in the middle of the calls is not absorbed, they come out incomplete, and nothing is run."""
    await provider.script(model, {"tool_calls": [call("add", {"x": 1})], "tool_piece": 4, "cut_after": 2})
    async with in_process(provider.url, tools={"functions": ALL}) as gateway:
        found = await native.events(gateway.root, model)
    assert native.types(found) == ["start", "tool_call", "error", "done"]
    (event,) = native.of(found, "tool_call")
    assert (event["incomplete"], event["arguments"], event["raw"]) == (True, None, '{"x"')
    assert ran(marks) == {}


async def test_calls_cut_by_length(provider, model, marks) -> None:
    """Calls of a turn that the length limit cut are not run: there may have been more of them."""
    await provider.script(model, {"tool_calls": [call("add", {"x": 1})], "finish": "length"})
    async with in_process(provider.url, tools={"functions": ALL}) as gateway:
        found = await native.events(gateway.root, model)
    assert native.types(found) == ["start", "tool_call", "done"]
    assert (found[-1].data["status"], found[-1].data["reason"]) == ("incomplete", "length")
    assert ran(marks) == {}


def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    """Give a chunk as it is on the wire."""
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m",
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}  # fmt: skip


ADD = [{"index": 0, "id": "a", "type": "function", "function": {"name": "add", "arguments": '{"x": 1}'}}]
WORDS = ["stop", "function_call", "eos_token", "tool_use", "TOOL_CALL", "end_turn", "STOP", "tool_calls", "", None]


@pytest.mark.parametrize("word", WORDS)
async def test_any_finish_reason(provider, model, marks, word: str | None) -> None:
    """Whether there are calls decides, not the word of the finish reason, nor whether there is one before `[DONE]`."""
    await provider.script(model, {"chunks": [chunk({"tool_calls": ADD}), chunk({}, word)]}, {"text": "Two."})
    async with in_process(provider.url, tools={"functions": ALL}) as gateway:
        found = await native.events(gateway.root, model)
    assert native.types(found) == ["start", "tool_call", "tool_result", "token", "done"]
    assert (native.of(found, "tool_call")[0]["incomplete"], results(found)["a"]["content"]) == (False, "2")
    assert ran(marks) == {"add 1 1": 1}


@pytest.mark.parametrize("word", WORDS)
async def test_any_finish_reason_of_the_clients_calls(provider, model, word: str | None) -> None:
    """Whatever the upstream calls it, a client that has calls to answer is told `tool_calls`."""
    await provider.script(model, {"chunks": [chunk({"tool_calls": ADD}), chunk({}, word)]})
    async with in_process(provider.url) as gateway:
        found = await native.events(gateway.root, model)
    assert native.types(found) == ["start", "tool_call", "done"]
    assert (found[-1].data["status"], found[-1].data["reason"]) == ("complete", "tool_calls")


async def test_a_finish_reason_in_every_chunk(provider, model, marks) -> None:
    """Calls that come one by one, each chunk with a finish reason (Gemini), are all run, in one turn."""
    calls = [{"id": name, "function": {"name": "add", "arguments": f'{{"x": {x}}}'}} for x, name in enumerate("ab")]
    chunks = [chunk({"content": "Hm. "}, "stop"), *(chunk({"tool_calls": [one]}, "stop") for one in calls)]
    await provider.script(model, {"chunks": chunks}, {"text": "Two."})
    async with in_process(provider.url, tools={"functions": ALL}) as gateway:
        found = await native.events(gateway.root, model)
    assert native.types(found) == ["start", "token", "tool_call", "tool_result", "token", "done"]
    assert ran(marks) == {"add 0 1": 1, "add 1 1": 1}


async def test_a_new_id_in_each_delta(provider, model, marks) -> None:
    """What lmdeploy sends (its issue 3412), to the byte of the arguments: one call, run once."""
    deltas = [("add", ""), (None, '{"x'), (None, '": 1}'), (None, "")]
    pieces = [
        {"index": 0, "id": f"chatcmpl-tool-{at}", "type": "function", "function": {"name": name, "arguments": text}}
        for at, (name, text) in enumerate(deltas)
    ]
    chunks = [*(chunk({"tool_calls": [piece]}) for piece in pieces), chunk({}, "tool_calls")]
    await provider.script(model, {"chunks": chunks}, {"text": "Two."})
    async with in_process(provider.url, tools={"functions": ALL}) as gateway:
        found = await native.events(gateway.root, model)
    assert results(found)["chatcmpl-tool-0"]["content"] == "2"
    assert ran(marks) == {"add 1 1": 1}


async def test_an_index_that_is_a_text(provider, model, marks) -> None:
    """Two calls whose index is a text, in turns: each gets its own arguments."""
    heads = [{"index": at, "id": at, "function": {"name": "add", "arguments": '{"x": '}} for at in "01"]
    ends = [{"index": at, "function": {"arguments": f"{at}}}"}} for at in "01"]
    chunks = [*(chunk({"tool_calls": [one]}) for one in heads + ends), chunk({}, "tool_calls")]
    await provider.script(model, {"chunks": chunks}, {"text": "Two."})
    async with in_process(provider.url, tools={"functions": ALL}) as gateway:
        found = await native.events(gateway.root, model)
    assert {name: event["content"] for name, event in results(found).items()} == {"0": "1", "1": "2"}


async def test_arguments_nested_deeply(provider, model, marks) -> None:
    """Arguments that are nested 300 deep are an error that the model is told. The stream goes on."""
    nested = '{"x": ' + "[" * 300 + "]" * 300 + "}"
    await provider.script(model, {"tool_calls": [call("add", nested, id="a")]}, {"text": "Sorry."})
    async with in_process(provider.url, tools={"functions": ALL}) as gateway:
        found = await native.events(gateway.root, model)
    assert native.of(found, "tool_call")[0]["raw"] == nested
    assert "nested too deeply" in results(found)["a"]["error"]
    assert (native.text(found), found[-1].data["status"]) == ("Sorry.", "complete")


async def answered(deltas: list[dict[str, Any]], **tables: Any) -> list[native.Event]:
    """Give the events of a stream whose upstream sends these deltas, one per frame."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        for delta in deltas:
            writer.write(b"data: " + json.dumps(chunk(delta)).encode() + b"\n\n")
            await writer.drain()

    async with listening(serve) as port, in_process(f"http://127.0.0.1:{port}/v1", **tables) as gateway:
        return await native.events(gateway.root, "m")


async def test_too_many_calls_in_a_frame() -> None:
    """8,000 calls with one id in a frame of half a megabyte fail the stream at once."""
    calls = [{"index": at, "id": "x", "function": {"name": "add", "arguments": "{}"}} for at in range(8000)]
    found = await answered([{"content": "Hm."}, {"tool_calls": calls}], tools={"functions": ALL})
    assert (found[-1].data["status"], found[-1].data["reason"]) == ("failed", "too_many_tool_calls")


@pytest.mark.parametrize("part", ["id", "name", "arguments"])
async def test_calls_that_are_too_large(part: str) -> None:
    """200 names or ids of a megabyte count as arguments do, before anything is kept."""
    long = "x" * 1_000_000
    ids = {"id": long} if part == "id" else {}
    function = {"name": "add"} | ({} if ids else {part: long})
    found = await answered([{"tool_calls": [{"index": at, **ids, "function": function}]} for at in range(200)])
    assert (found[-1].data["status"], found[-1].data["reason"]) == ("failed", "stream_too_large")
    assert len(b"".join(json.dumps(event.data).encode() for event in found)) < 40_000_000


async def test_calls_that_make_no_sense(provider, model, marks) -> None:
    """Arguments that are no JSON, no object or do not fit, and unknown names, are errors that the model is told."""
    calls = [
        call("add", "{x: 1}", id="a"),
        call("add", [1], id="b"),
        call("add", {"x": "many"}, id="c"),
        call("sub", id="d"),
    ]
    await provider.script(model, {"tool_calls": calls}, {"text": "Sorry."})
    async with in_process(provider.url, tools={"functions": ALL}) as gateway:
        found = await native.events(gateway.root, model)
    raw = native.of(found, "tool_call")[0]
    assert (raw["arguments"], raw["raw"], raw["incomplete"]) == (None, "{x: 1}", False)
    errors = {name: event["error"] for name, event in results(found).items()}
    assert "not JSON" in errors["a"]
    assert "{x: 1}" in errors["a"]
    assert "must be a JSON object" in errors["b"]
    assert "x: Input should be a valid integer" in errors["c"]
    assert errors["d"] == "There is no tool 'sub'. There are: add, fail, hang, huge, slowly."
    assert ran(marks) == {}
    told = (await provider.seen(model))[1]["body"]["messages"][2:]
    assert [message["content"] for message in told] == [f"Error: {errors[name]}" for name in "abcd"]


async def test_the_clients_own_tools(provider, model, marks) -> None:
    """The client's tools go upstream as they are, its calls are its own: the stream ends with tool_calls."""
    await provider.script(model, {"tool_calls": [call("look", {"at": "it"}, id="mine")]})
    async with in_process(provider.url, tools={"functions": ALL}) as gateway:
        found = await native.events(gateway.root, model, tools=[LOOK], tool_choice="required")
    assert native.types(found) == ["start", "tool_call", "done"]
    assert native.of(found, "tool_call")[0]["server"] is False
    assert (found[-1].data["status"], found[-1].data["reason"]) == ("complete", "tool_calls")
    (request,) = [one["body"] for one in await provider.seen(model)]
    assert request["tools"][0] == LOOK
    assert [tool["function"]["name"] for tool in request["tools"][1:]] == list(ALL)
    assert request["tool_choice"] == "required"


async def test_a_mixed_turn(provider, model, marks) -> None:
    """Calls of both kinds in one turn: the server's are run, then the stream ends with tool_calls for the client's."""
    await provider.script(model, {"tool_calls": [call("look", id="mine"), call("add", {"x": 1}, id="yours")]})
    async with in_process(provider.url, tools={"functions": ALL}) as gateway:
        found = await native.events(gateway.root, model, tools=[LOOK])
    assert native.types(found) == ["start", "tool_call", "tool_result", "done"]
    assert [event["server"] for event in native.of(found, "tool_call")] == [False, True]
    assert results(found)["yours"]["content"] == "2"
    assert (found[-1].data["status"], found[-1].data["reason"]) == ("complete", "tool_calls")
    assert len(await provider.seen(model)) == 1


async def test_a_name_that_both_have(provider, model, marks) -> None:
    """A tool of the client's own hides the server's of the same name."""
    mine = {"type": "function", "function": {"name": "add"}}
    await provider.script(model, {"tool_calls": [call("add", {"x": 1})]})
    async with in_process(provider.url, tools={"functions": ALL}) as gateway:
        found = await native.events(gateway.root, model, tools=[mine])
    assert native.types(found) == ["start", "tool_call", "done"]
    assert ran(marks) == {}
    names = [tool["function"]["name"] for tool in (await provider.seen(model))[0]["body"]["tools"]]
    assert Counter(names)["add"] == 1


async def test_completions_know_no_server_tools(provider, model, marks) -> None:
    """On /v1/chat/completions the server's tools are neither offered nor run."""
    await provider.script(model, {"tool_calls": [call("add", {"x": 1})]})
    async with in_process(provider.url, tools={"functions": ALL}) as gateway:
        answer = await wire.complete(gateway.root, model)
    assert answer.events[-1].data == b"[DONE]"
    (request,) = await provider.seen(model)
    assert "tools" not in request["body"]
    assert ran(marks) == {}


async def test_max_rounds(provider, model, marks) -> None:
    """A model that never stops calling is asked without tools in the last round, and its next calls are an error."""
    await provider.script(model, {"tool_calls": [call("add", {"x": 1})]})
    async with in_process(provider.url, tools={"functions": ALL, "max_rounds": 3}) as gateway:
        found = await native.events(gateway.root, model)
    assert ran(marks) == {"add 1 1": 3}
    error, done = found[-2].data, found[-1].data
    assert (error["code"], done["status"], done["reason"]) == (
        "too_many_tool_rounds", "failed", "too_many_tool_rounds",
    )  # fmt: skip
    choices = [one["body"].get("tool_choice") for one in await provider.seen(model)]
    assert choices == [None, None, None, "none"]


async def test_a_tool_that_must_be_called(provider, model, marks) -> None:
    """A tool_choice that forces a call holds for the first round only, or there would never be an answer."""
    await provider.script(model, {"tool_calls": [call("add", {"x": 1})]}, {"text": "Two."})
    async with in_process(provider.url, tools={"functions": ALL}) as gateway:
        await native.events(gateway.root, model, tool_choice="required")
    assert [one["body"]["tool_choice"] for one in await provider.seen(model)] == ["required", "auto"]


async def test_heartbeats_while_a_tool_runs(provider, model) -> None:
    """The connection is kept alive while nothing but a tool is at work."""
    await provider.script(model, {"tool_calls": [call("slowly", {"seconds": 0.5})]}, {"text": "Done."})
    tools, flow = {"functions": ALL}, {"heartbeat_interval": 0.05}
    async with in_process(provider.url, tools=tools, flow=flow) as gateway:
        answer = await native.ask(gateway.root, model)
    events, heartbeats = wire.parse(answer.body)
    assert native.types(native.decoded(events)) == ["start", "tool_call", "tool_result", "token", "done"]
    assert heartbeats >= 2


@pytest.mark.parametrize("how", ["leave", "abort", "timeout"])
async def test_ending_while_a_tool_runs(provider, model, marks, how: str) -> None:
    """A disconnect, a DELETE or the total timeout ends a stream whose tool hangs, at once and properly."""
    await provider.script(model, {"tool_calls": [call("hang")]})
    streams = {"total_timeout": 0.3 if how == "timeout" else 60.0}
    async with in_process(provider.url, tools={"functions": ALL}, streams=streams) as gateway:
        async with wire.Client(gateway.root) as client:
            await client.ask("POST", "/api/stream", {"prompt": "a", "model": model})
            _, headers = await client.head()
            await client.events(2)
            path = f"/v1/streams/{headers['x-stream-id']}"
            await wire.until(lambda: asyncio.to_thread(ran, marks))
            if how == "leave":
                client.leave()
            elif how == "abort":
                assert (await wire.call(gateway.root, "DELETE", path)).status == 204
            if how != "leave":
                await client.rest()
        await gateway.idle()
        *_, error, done = native.decoded((await wire.call(gateway.root, "GET", path)).events)
    code, status = ("total_timeout", "failed") if how == "timeout" else ("cancelled", "cancelled")
    assert (error.data["code"], done.data["status"]) == (code, status)


async def test_a_turn_of_calls_that_hang(provider, model, marks) -> None:
    """40 calls of a function that hangs in its thread take no place from other streams; later it is not called."""
    tool_examples.RELEASED.clear()
    hang = [call("hang_in_thread", id=f"h{number}") for number in range(40)]
    await provider.script(model, {"tool_calls": hang}, {"text": "Well."})
    await provider.script(f"{model}-2", {"tool_calls": [call("add", {"x": 1})]}, {"text": "Two."})
    functions = {"hang_in_thread": "tool_examples:hang_in_thread", "add": "tool_examples:add"}
    tools = {"functions": functions, "max_concurrency": 4, "timeout": 1.0}
    try:
        async with in_process(provider.url, tools=tools) as gateway:
            hanging = asyncio.create_task(native.events(gateway.root, model))
            await wire.until(lambda: asyncio.to_thread(tool_examples.HANGING.acquire, timeout=0.1))
            found = await native.events(gateway.root, f"{model}-2")
            assert results(found)["call_0"]["content"] == "2"
            told = native.of(await hanging, "tool_result")
            assert len(told) == 40
            assert all(
                event["error"].startswith(("The tool gave no", "The tool had no", "The tool is not")) for event in told
            )
            assert results(await native.events(gateway.root, f"{model}-2")) == {}
            metrics = (await wire.call(gateway.root, "GET", "/metrics")).body.decode()
            assert float(metrics.split("\nsluiceway_tool_calls_hanging ")[1].split()[0]) >= 2
            tool_examples.RELEASED.set()
    finally:
        tool_examples.RELEASED.set()


async def test_more_calls_than_a_turn_may_have(provider, model, marks) -> None:
    """Of 100 calls 64 are run, the others are errors that the model is told. 5,000 fail the stream; none is run."""
    calls = [call("add", {"x": number}, id=f"a{number}") for number in range(5000)]
    await provider.script(model, {"tool_calls": calls[:100]}, {"text": "Well."}, {"tool_calls": calls})
    async with in_process(provider.url, tools={"functions": ALL}) as gateway:
        found = await native.events(gateway.root, model)
        too_many = await native.events(gateway.root, model)
    told = results(found)
    assert len(told) == 100
    assert sum(ran(marks).values()) == sum("content" in event for event in told.values()) == 64
    assert told["a99"]["error"] == "It was not run: in one turn 64 calls are run."
    assert native.text(found) == "Well."
    assert (too_many[-1].data["status"], too_many[-1].data["reason"]) == ("failed", "too_many_tool_calls")


@pytest.mark.parametrize("name", ["hang_in_thread", "hang_on"])
async def test_the_end_of_a_process_with_a_tool_that_hangs(provider, model, name: str) -> None:
    """A thread that never comes back, or a task that swallows its cancel, does not keep the process from its end."""
    await provider.script(model, {"tool_calls": [call(name)]}, {"text": "Well."})
    tools = {"functions": {name: f"tool_examples:{name}"}, "timeout": 0.2}
    async with own_process(provider.url, environ={"PYTHONPATH": str(TOOLS)}, tools=tools) as gateway:
        found = await native.events(gateway.root, model)
        assert native.of(found, "tool_result")[0]["error"] == "The tool gave no result within 0.2 seconds."
        gateway.signal(signal.SIGTERM)
        assert await gateway.ended() == 0
    assert gateway.logged("stopped")


async def test_many_streams_share_the_places(provider, model, marks) -> None:
    """max_concurrency bounds the tools of all streams together; each stream gets its own results."""
    await provider.script(model, {"tool_calls": [call("slowly", {"seconds": 0.02}), call("add", {"x": 1})]})
    tools = {"functions": ALL, "max_concurrency": 2, "max_rounds": 1}
    async with in_process(provider.url, tools=tools) as gateway:
        told = await asyncio.gather(*(native.events(gateway.root, model) for _ in range(10)))
    for found in told:
        assert sorted(event["content"] for event in native.of(found, "tool_result")) == ["2", "done"]


async def test_plug_ins(provider, model, marks, tmp_path: Path) -> None:
    """An installed package offers its tools through the entry point group sluiceway.tools."""
    info = tmp_path / "plug-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plug\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[sluiceway.tools]\nplus = tool_examples:add\n")
    await provider.script(model, {"tool_calls": [call("plus", {"x": 1})]}, {"text": "Two."})
    path = os.pathsep.join([str(tmp_path), str(TOOLS)])
    async with own_process(provider.url, environ={"PYTHONPATH": path}) as gateway:
        found = await native.events(gateway.root, model)
    assert native.of(found, "tool_result")[0]["content"] == "2"
    assert ran(marks) == {"add 1 1": 1}


@pytest.mark.parametrize("place", ["no_such_module:f", "tool_examples:no_such", "tool_examples:by_position"])
async def test_a_tool_that_cannot_be_loaded(provider, place: str) -> None:
    """The gateway does not start with a tool that it could not run, and says why in one sentence."""
    tools = {"functions": {"mine": place}}
    with pytest.raises(RuntimeError, match="sluiceway: The tool 'mine'") as caught:
        async with own_process(provider.url, environ={"PYTHONPATH": str(TOOLS)}, tools=tools):
            pass
    assert "Traceback" not in str(caught.value)
