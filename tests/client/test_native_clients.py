"""The native protocol through both clients, over connections that are cut."""

import json
from typing import Any

import httpx2
import pytest
from cutting_proxy import cutting, random_cuts
from gateway import InProcess, in_process
from node import node
from provider import Provider

from server.core.openai.sse import Decoder
from sluiceway import Patience, resuming_http_client

WORDS = [f"w{n}é☃ " for n in range(200)]
QUICK = Patience(first_wait=0.01, longest_wait=0.1)


async def test_python_client_reads_native_streams(provider: Provider, model: str) -> None:
    """POST /api/stream through the Python client gives every event once, in order, over 20 cuts."""
    await provider.script(model, {"pieces": WORDS, "rate": 400})
    body = {"model": model, "prompt": "Tell me."}
    async with (
        in_process(provider.url) as gateway,
        cutting(gateway.port, random_cuts(20, seed=1, high=1600)) as proxy,
        resuming_http_client(base_url=proxy.root, patience=QUICK) as http,
    ):
        async with http.stream("POST", "/api/stream", json=body) as response:
            events = Decoder().feed(await response.aread())
        assert proxy.made == 20
    ids = [int(event.id or 0) for event in events]
    assert ids == list(range(1, len(events) + 1))
    assert [json.loads(event.data)["content"] for event in events if event.type == b"token"] == WORDS
    assert json.loads(events[-1].data)["status"] == "complete"


async def test_stream_events_survives_twenty_cuts(provider: Provider, model: str) -> None:
    """`StreamEvents` dispatches every event once, in order, over 20 cuts, and then its end."""
    await provider.script(model, {"pieces": WORDS, "rate": 400})
    body = json.dumps({"model": model, "prompt": "Tell me."})
    async with in_process(provider.url) as gateway, cutting(gateway.port, random_cuts(20, seed=2, high=1600)) as proxy:
        said = await node("stream_events.mjs", proxy.root + "/api/stream", body)
        assert proxy.made == 20
    assert said["names"] == ["start", "token", "done"]
    assert said["texts"] == WORDS
    assert said["ids"] == sorted(set(said["ids"]))
    assert (said["status"], said["readyState"]) == ("complete", 2)
    assert said["cuts"] >= 10


CALLS = [{"index": n, "id": f"call_{n}", "name": "look", "arguments": {"at": n}} for n in range(3)]
LONG_WAY = {"reasoning": ["Hm."], "text": "Let me look. ", "tool_calls": CALLS}
OTHER_FORM = {
    "calls": (LONG_WAY, ["start", "reasoning", "token", "tool_call", "done"]),
    "failure": ({"pieces": WORDS[:5], "cut_after": 3}, ["start", "token", "error", "done"]),
}


async def _created_as_chunks(gateway: InProcess, model: str) -> tuple[str, list[tuple[bytes, Any]]]:
    """Create a stream in the OpenAI form; return where it is read natively, and what a single read gives."""
    body = {"model": model, "messages": [{"role": "user", "content": "Tell me."}], "stream": True}
    async with httpx2.AsyncClient(base_url=gateway.root) as http:
        created = await http.post("/v1/chat/completions", json=body)
        path = f"/v1/streams/{created.headers['X-Stream-Id']}?format=native"
        return path, _told((await http.get(path)).content)


def _told(content: bytes) -> list[tuple[bytes, Any]]:
    """Give what happened in a body: types and data, without the time at which a text was shown."""
    events = [(event.type, json.loads(event.data)) for event in Decoder().feed(content)]
    return [(kind, {name: value for name, value in data.items() if name != "timestamp"}) for kind, data in events]


@pytest.mark.parametrize(("script", "names"), OTHER_FORM.values(), ids=OTHER_FORM)
async def test_python_client_reads_the_other_form(
    provider: Provider, model: str, script: dict[str, Any], names: list[str]
) -> None:
    """If one record makes several events, each of them comes once, wherever the connection is cut."""
    await provider.script(model, script)
    async with in_process(provider.url) as gateway:
        path, whole = await _created_as_chunks(gateway, model)
        assert list(dict.fromkeys(kind.decode() for kind, _ in whole)) == names
        for cut in range(300, 2200, 61):
            async with (
                cutting(gateway.port, [cut, cut]) as proxy,
                resuming_http_client(base_url=proxy.root, patience=QUICK) as http,
            ):
                assert _told((await http.get(path, headers={"Accept": "text/event-stream"})).content) == whole, cut


@pytest.mark.parametrize(("script", "names"), OTHER_FORM.values(), ids=OTHER_FORM)
async def test_stream_events_reads_the_other_form(
    provider: Provider, model: str, script: dict[str, Any], names: list[str]
) -> None:
    """`StreamEvents`, too, gets each event of such a record once."""
    await provider.script(model, script)
    async with in_process(provider.url) as gateway:
        path, whole = await _created_as_chunks(gateway, model)
        for seed in range(3):
            async with cutting(gateway.port, random_cuts(8, seed=seed, high=900)) as proxy:
                said = await node("stream_events.mjs", proxy.root + path, "")
            assert said["names"] == names
            assert said["count"] == len(whole)


async def test_sessions_survive_cuts(provider: Provider, model: str) -> None:
    """A session that is resumed by POST and cut, also before its first event, brings just what it asked for."""
    await provider.script(model, {"pieces": WORDS[:20]})
    async with in_process(provider.url) as gateway, httpx2.AsyncClient(base_url=gateway.root) as plain:
        created = await plain.post("/api/stream", json={"model": model, "prompt": "Tell me."})
        body = {"session_id": created.headers["X-Stream-Id"], "last_event_id": 5}
        ids = [int(event.id or 0) for event in Decoder().feed(created.content)][5:]
        for cut in range(380, 560, 20):
            async with (
                cutting(gateway.port, [cut, cut]) as proxy,
                resuming_http_client(base_url=proxy.root, patience=QUICK) as http,
            ):
                read = await http.post("/api/stream", json=body)
            assert [int(event.id or 0) for event in Decoder().feed(read.content)] == ids
            async with cutting(gateway.port, [cut, cut]) as proxy:
                said = await node("stream_events.mjs", proxy.root + "/api/stream", json.dumps(body))
            assert said["ids"] == ids


async def test_stream_events_stops(provider: Provider, model: str) -> None:
    """`stop()` aborts the generation: the events end with the error `cancelled` and `done`."""
    await provider.script(model, {"tokens": 1000, "rate": 50})
    body = json.dumps({"model": model, "prompt": "Tell me."})
    async with in_process(provider.url, streams={"linger": 600.0}) as gateway:
        said = await node("stream_events.mjs", gateway.root + "/api/stream", body, "3")
        await gateway.idle()
    assert (said["errors"], said["status"]) == (["cancelled"], "cancelled")


async def test_stream_events_tells_a_refusal(provider: Provider) -> None:
    """A request that is turned away is an `error` event with the gateway's own code."""
    async with in_process(provider.url, models=[{"name": "one", "targets": ["local/x"]}]) as gateway:
        said = await node(
            "stream_events.mjs", gateway.root + "/api/stream", json.dumps({"model": "none", "prompt": "Tell me."})
        )
    assert (said["errors"], said["readyState"]) == (["model_not_found"], 2)
    assert "done" not in said["names"]


async def test_a_read_needs_no_content_after_the_end(provider: Provider, model: str) -> None:
    """A resumed read at the last id of an ended stream is over at once: 204 is an answer, not a cut."""
    await provider.script(model, {"tokens": 3})
    body = {"model": model, "prompt": "Tell me."}
    async with in_process(provider.url) as gateway, resuming_http_client(base_url=gateway.root) as http:
        created: httpx2.Response = await http.post("/api/stream", json=body)
        last = Decoder().feed(created.content)[-1].id or b""
        headers = {"Accept": "text/event-stream", "Last-Event-ID": last.decode()}
        again = await http.get(f"/v1/streams/{created.headers['X-Stream-Id']}", headers=headers)
    assert (again.status_code, again.content) == (204, b"")
