"""Streams of the Messages dialect: recovered, failed, resumed, read in other dialects, taken over."""

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import messages
import native
import pytest
import wire
from gateway import InProcess, in_process, own_process

from server.dialects.messages.writer import MessagesWriter

WORDS = [f"word{n} é☃ " for n in range(30)]
TEXT = "".join(WORDS)
RECOVERY = {"strategy": "auto", "backoff": 0.02}
CALLS = [{"id": "c1", "name": "look", "arguments": {"at": "the gate"}}, {"id": "c2", "name": "look", "arguments": {}}]


@pytest.mark.parametrize("cut", [0, 1, 7, 29])
async def test_a_cut_upstream_recovers(provider, model, cut: int) -> None:
    """An upstream that breaks off is asked again, and the client sees one message without a seam."""
    await provider.script(model, {"pieces": WORDS, "cut_after": cut}, {"pieces": WORDS})
    async with in_process(provider.url, recovery=RECOVERY) as gateway:
        answer = await messages.ask(gateway.root, model)
    assert messages.text(answer.events) == TEXT
    assert messages.kinds(answer.events) == messages.WHOLE
    assert [event.id for event in answer.events] == list(range(1, len(answer.events) + 1))
    assert len(await provider.seen(model)) == 2


async def test_a_cut_in_the_thoughts_recovers(provider, model) -> None:
    """Thoughts are compared as the text is, and the blocks stay whole."""
    script = {"reasoning": ["I ", "see ", "it. "], "text": "Yes."}
    await provider.script(model, {**script, "cut_after": 2}, script)
    async with in_process(provider.url, recovery=RECOVERY) as gateway:
        answer = await messages.ask(gateway.root, model)
    deltas = [one["delta"] for one in messages.data(answer.events) if one["type"] == "content_block_delta"]
    assert "".join(delta.get("thinking", "") for delta in deltas) == "I see it. "
    assert messages.text(answer.events) == "Yes."
    assert messages.kinds(answer.events).count("content_block_start") == 2


async def test_an_unrecoverable_cut(provider, model) -> None:
    """If nothing helps, the client is told: `event: error`, and no `message_stop`, which would make it whole."""
    await provider.script(model, {"pieces": WORDS, "cut_after": 3})
    async with in_process(provider.url) as gateway:
        answer = await messages.ask(gateway.root, model)
    assert answer.status == 200
    assert messages.kinds(answer.events) == ["message_start", "content_block_start", "error"]
    error = messages.data(answer.events)[-1]
    assert error["error"]["type"] == "api_error"
    assert error["error"]["code"] == "upstream_cut"
    assert error["request_id"] == answer.headers["x-request-id"]


async def test_a_client_that_reconnects_gets_the_rest(provider, model) -> None:
    """A stream of Messages is resumed by its id after any event, and gives the same bytes."""
    await provider.script(model, {"reasoning": ["Hm. "], "text": TEXT, "tool_calls": CALLS})
    async with in_process(provider.url) as gateway:
        answer = await messages.ask(gateway.root, model)
        path = f"/v1/streams/{answer.headers['x-stream-id']}"
        for after in (0, 1, 2, 20, len(answer.events) - 1):
            again = await wire.call(gateway.root, "GET", path, headers={"Last-Event-ID": str(after)})
            assert again.events == answer.events[after:]
        over = await wire.call(gateway.root, "GET", f"{path}?after={len(answer.events)}")
    assert over.status == 204


async def test_a_client_that_left_resumes(provider, model) -> None:
    """A client that lost its connection in mid-stream comes back for the rest while it is still being written."""
    await provider.script(model, {"pieces": WORDS, "rate": 100})
    async with in_process(provider.url) as gateway:
        async with wire.Client(gateway.root) as client:
            await client.ask("POST", "/v1/messages", messages.body(model), {"X-On-Disconnect": "continue"})
            _, headers = await client.head()
            before = await client.events(6)
        path = f"/v1/streams/{headers['x-stream-id']}?after={before[-1].id}"
        rest = await wire.call(gateway.root, "GET", path)
    assert messages.text([*before, *rest.events]) == TEXT
    assert [event.id for event in [*before, *rest.events]] == list(range(1, before[-1].id + len(rest.events) + 1))


SCRIPTS: dict[str, dict[str, Any]] = {
    "text": {"text": TEXT},
    "thoughts": {"reasoning": ["I ", "see."], "text": "Yes."},
    "calls": {"text": "Let me look. ", "tool_calls": CALLS},
    "length": {"text": "Too lo", "finish": "length"},
    "cut": {"text": TEXT, "cut_after": 3},
}


async def read(gateway: InProcess, stream: str, form: str) -> list[wire.Event]:
    """Read a stream in a form."""
    answer = await wire.call(gateway.root, "GET", f"/v1/streams/{stream}?format={form}")
    assert answer.status == 200, answer.body
    return answer.events


class Heard:
    """What a client has heard: its texts, its calls by their ids, and how it ended."""

    def __init__(self) -> None:
        self.text = self.thoughts = ""
        self.calls: dict[str, list[Any]] = {}
        self.ending = ""

    def native(self, event: dict[str, Any]) -> None:
        match event["type"]:
            case "token":
                self.text += event["content"]
            case "reasoning":
                self.thoughts += event["content"]
            case "tool_call":
                self.calls[event["id"]] = [event["name"], json.dumps(event["arguments"])]
            case "done":
                self.ending = event["status"]

    def chat(self, chunk: dict[str, Any]) -> None:
        self.ending = "failed" if "error" in chunk else self.ending
        for choice in chunk.get("choices", ()):
            delta, reason = choice["delta"], choice["finish_reason"]
            self.text += delta.get("content") or ""
            self.thoughts += delta.get("reasoning_content") or ""
            for call in delta.get("tool_calls", ()):
                if "id" in call:
                    self.calls[call["id"]] = [call["function"]["name"], ""]
                list(self.calls.values())[call["index"]][1] += call["function"]["arguments"]
            if reason:
                self.ending = "incomplete" if reason == "length" else "complete"

    def responses(self, event: dict[str, Any]) -> None:
        item = event.get("item", {})
        match event["type"]:
            case "response.output_text.delta":
                self.text += event["delta"]
            case "response.reasoning_text.delta":
                self.thoughts += event["delta"]
            case "response.output_item.done" if item["type"] == "function_call":
                self.calls[item["call_id"]] = [item["name"], item["arguments"]]
            case "response.completed" | "response.incomplete" | "response.failed":
                self.ending = event["type"].removeprefix("response.").replace("completed", "complete")

    def messages(self, event: dict[str, Any]) -> None:
        delta, block = event.get("delta", {}), event.get("content_block", {})
        self.text += delta.get("text", "")
        self.thoughts += delta.get("thinking", "")
        if block.get("type") == "tool_use":
            self.calls[block["id"]] = [block["name"], ""]
        if "partial_json" in delta:
            list(self.calls.values())[-1][1] += delta["partial_json"]
        if "stop_reason" in delta:
            self.ending = "incomplete" if delta["stop_reason"] == "max_tokens" else "complete"
        self.ending = "failed" if event["type"] == "error" else self.ending


def heard(events: list[wire.Event], form: str) -> dict[str, Any]:
    """Give what a client of a form has heard."""
    listener = Heard()
    for event in events:
        if event.data != b"[DONE]":
            getattr(listener, form)(json.loads(event.data))
    calls = {call: [name, json.loads(arguments or "{}")] for call, (name, arguments) in listener.calls.items()}
    return {**vars(listener), "calls": calls}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS.keys())
async def test_the_same_in_every_form(provider, model, script: dict[str, Any]) -> None:
    """Created in one of the dialects and read in any, a stream says the same."""
    await provider.script(model, script)
    look = {"name": "look", "parameters": {"type": "object"}}
    tools = [{"type": "function", "function": look}]
    forms = ("messages", "chat", "native", "responses")
    asked = {"model": model, "input": "Say it.", "stream": True, "tools": [{"type": "function", **look}]}
    async with in_process(provider.url) as gateway:
        created = {
            "messages": await messages.ask(
                gateway.root, model, tools=[{"name": "look", "input_schema": {"type": "object"}}]
            ),
            "chat": await wire.complete(gateway.root, model, tools=tools),
            "responses": await wire.call(gateway.root, "POST", "/v1/responses", asked),
            "native": await native.ask(gateway.root, model, tools=tools),
        }
        found = {
            (made, form): heard(await read(gateway, answer.headers["x-stream-id"], form), form)
            for made, answer in created.items()
            for form in forms
        }
    first = found["messages", "messages"]
    assert first["text"]
    assert {pair: one for pair, one in found.items() if one != first} == {}


async def test_is_taken_over(provider, model, tmp_path: Path) -> None:
    """The gateway is killed in mid-stream, and the next one goes on where the client was, as one message."""
    await provider.script(model, {"pieces": WORDS, "rate": 20}, {"pieces": WORDS})
    store = {"kind": "sqlite", "path": str(tmp_path / "streams.db"), "lease": 1.0}
    async with (
        own_process(provider.url, store=store, recovery=RECOVERY) as gateway,
        wire.Client(gateway.root) as client,
    ):
        beta = {"X-On-Disconnect": "continue", "anthropic-beta": "one"}
        await client.ask("POST", "/v1/messages", messages.body(model), beta)
        _, headers = await client.head()
        before = await client.events(6)
        gateway.signal(signal.SIGKILL)
    path = f"/v1/streams/{headers['x-stream-id']}?after={before[-1].id}"
    async with own_process(provider.url, store=store, recovery=RECOVERY) as gateway:
        answer = await wire.call(gateway.root, "GET", path)
    events = before + answer.events
    assert messages.text(events) == TEXT
    assert messages.kinds(events) == messages.WHOLE
    assert [event.id for event in events] == list(range(1, len(events) + 1))


async def test_a_silence_is_filled_with_pings(provider, model, monkeypatch) -> None:
    """While the upstream is silent, the log gets pings, which are events with ids as all others."""
    monkeypatch.setattr(MessagesWriter, "idle_after", 0.05)
    await provider.script(model, {"pieces": ["a ", "b"], "stall_after": 1, "stall_for": 1.0})
    async with in_process(provider.url) as gateway:
        answer = await messages.ask(gateway.root, model)
    kinds = [event.event for event in answer.events]
    assert kinds.count("ping") >= 1
    assert kinds.index("ping") > kinds.index("message_start")
    assert messages.text(answer.events) == "a b"
    assert [event.id for event in answer.events] == list(range(1, len(answer.events) + 1))


async def test_a_stream_is_aborted(provider, model) -> None:
    """DELETE ends a stream with the event `error`."""
    await provider.script(model, {"pieces": WORDS, "stall_after": 3})
    async with in_process(provider.url) as gateway, wire.Client(gateway.root) as client:
        await client.ask("POST", "/v1/messages", messages.body(model))
        _, headers = await client.head()
        await client.events(5)
        await wire.call(gateway.root, "DELETE", f"/v1/streams/{headers['x-stream-id']}")
        events = await asyncio.wait_for(client.rest(), wire.WAIT)
    assert messages.data(events)[-1]["error"]["code"] == "cancelled"


async def test_an_idempotency_key_joins(provider, model) -> None:
    """The same request with the same key is the same stream; with other betas it is another request."""
    await provider.script(model, {"text": TEXT})
    key = {"Idempotency-Key": "k"}
    async with in_process(provider.url) as gateway:
        first = await messages.ask(gateway.root, model, headers=key)
        again = await messages.ask(gateway.root, model, headers=key)
        other = await messages.ask(gateway.root, model, headers={**key, "anthropic-beta": "b"})
    assert again.events == first.events
    assert (other.status, other.json["error"]["type"]) == (422, "invalid_request_error")
