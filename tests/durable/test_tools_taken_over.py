"""A tool that a gateway ran before it was killed is not run again by the one that takes its stream over."""

import asyncio
import signal

import native
import wire
from gateway import own_process
from native import ALL, TOOLS, call, ran


async def test_killed_while_a_tool_ran(provider, model, marks, store):
    """A gateway is killed while a tool runs: the next one ends the stream, ids go on, and no tool runs again."""
    calls = [call("add", {"x": 1}, id="quick"), call("slowly", {"seconds": 60}, id="slow")]
    await provider.script(model, {"tool_calls": calls}, {"text": "I see."})
    tables = {
        "tools": {"functions": ALL, "timeout": 60.0},
        "store": store,
        "streams": {"on_disconnect": "continue"},
    }
    environ = {"PYTHONPATH": str(TOOLS)}
    async with own_process(provider.url, environ=environ, **tables) as gateway, wire.Client(gateway.root) as client:
        await client.ask("POST", "/api/stream", {"prompt": "Say it.", "model": model})
        _, headers = await client.head()
        before = native.decoded(await client.events(4))
        assert native.types(before) == ["start", "tool_call", "tool_result"]
        await wire.until(lambda: asyncio.to_thread(lambda: ran(marks)["slowly 60.0"]))
        gateway.signal(signal.SIGKILL)
    body = {"session_id": headers["x-stream-id"], "last_event_id": before[-1].id}
    async with own_process(provider.url, environ=environ, **tables) as gateway:
        answer = await wire.call(gateway.root, "POST", "/api/stream", body)
    found = before + native.decoded(answer.events)
    assert [one.id for one in found] == list(range(1, len(found) + 1))
    assert [(one["id"], "content" in one) for one in native.of(found, "tool_result")] == [
        ("quick", True),
        ("slow", False),
    ]
    assert native.text(found) == "I see."
    assert found[-1].data["status"] == "complete"
    assert ran(marks) == {"add 1 1": 1, "slowly 60.0": 1}
