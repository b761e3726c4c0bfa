"""A client that leaves at every await of a request's way: nothing is left running, open, or half made.

The leaving is done to the server's own protocol after k turns of the loop, for every k, so that each await is met;
what the network makes of it is in `test_leaving.py`.
"""

import asyncio

import internals
import pytest
from gateway import InProcess, in_process
from provider import Provider
from wire import Client, call, until

JSON = {"Accept": "application/json"}
TURNS = range(60)
WAYS = {
    "a stream": {"stream": True},
    "a whole answer": {"stream": False},
}


async def leave_after(gateway: InProcess, client: Client, turns: int) -> None:
    """Let the loop turn, then lose the connection as the transport does."""
    for _ in range(turns):
        await asyncio.sleep(0)
    client.leave("rst")


async def nothing_is_left(gateway: InProcess, provider: Provider, model: str) -> None:
    """Wait until no stream is live, no response open, no upstream socket in use; every stream has its one ending."""
    await gateway.idle()
    await provider.all_over(model)
    for stream in (await call(gateway.root, "GET", "/v1/streams")).json["data"]:
        assert stream["state"] in ("cancelled", "complete", "failed")
        assert stream["records"] >= 1
        assert stream["readers"] == 0


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_client_gone_after_k_turns(provider, model, tmp_path, way, store) -> None:
    """Lost after k turns of the loop from its request on, for each k up to the middle of its answer."""
    await provider.script(model, {"tokens": 40, "rate": 400})
    tables = {"store": {"kind": store, "path": str(tmp_path / "streams.db")}}
    async with in_process(provider.url, **tables) as gateway:
        for turns in TURNS:
            async with Client(gateway.root) as client:
                await client.complete(model, **WAYS[way])
                await leave_after(gateway, client, turns * 3)
        await nothing_is_left(gateway, provider, model)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_handler_cancelled_after_k_turns(provider, model, tmp_path, monkeypatch, way, store) -> None:
    """The handler's task is cancelled k turns after it began, for each k: at each of its awaits there is."""
    await provider.script(model, {"tokens": 5, "rate": 200})
    tables = {"store": {"kind": store, "path": str(tmp_path / "streams.db")}}
    met = 0
    async with in_process(provider.url, **tables) as gateway:
        for turns in TURNS:
            tasks = asyncio.all_tasks()
            async with Client(gateway.root) as client:
                await client.complete(model, **WAYS[way])
                handler = await until(lambda tasks=tasks: begun(tasks))
                for _ in range(turns):
                    await asyncio.sleep(0)
                met += handler.cancel()
                await asyncio.wait([handler])
        assert met > len(TURNS) // 2
        await nothing_is_left(gateway, provider, model)


async def begun(before: set[asyncio.Task]) -> asyncio.Task | None:
    """Return the task of aiohttp that runs a handler and was not there before."""
    for task in asyncio.all_tasks() - before:
        if getattr(task.get_coro(), "__qualname__", "") == "RequestHandler._handle_request":
            return task
    return None


async def test_abort_after_k_turns(provider, model) -> None:
    """DELETE at any moment of a stream's life: its readers get one ending, and it is the last."""
    await provider.script(model, {"tokens": 20, "rate": 400})
    async with in_process(provider.url) as gateway:
        for turns in range(0, 120, 3):
            async with Client(gateway.root) as client:
                await client.complete(model)
                [live] = await until(lambda: live_streams(gateway))
                for _ in range(turns):
                    await asyncio.sleep(0)
                await gateway.app.streams.abort(live.stream, "test")
                answer = await client.answer()
                if answer.status == 200:
                    assert b'"code":"cancelled"' in answer.events[-1].data or answer.events[-1].data == b"[DONE]"
                    assert [event.id for event in answer.events] == list(range(1, len(answer.events) + 1))
                else:
                    assert (answer.status, answer.error["code"]) == (499, "cancelled")
        await nothing_is_left(gateway, provider, model)


async def live_streams(gateway: InProcess) -> list:
    return list(internals.live_streams(gateway.app))


async def test_resume_gone_after_k_turns(provider, model) -> None:
    """A second reader that leaves at any moment leaves the stream to the first."""
    await provider.script(model, {"tokens": 100, "rate": 200})
    async with in_process(provider.url) as gateway, Client(gateway.root) as first:
        await first.complete(model)
        path = f"/v1/streams/{(await first.head())[1]['x-stream-id']}"
        for turns in TURNS:
            async with Client(gateway.root) as second:
                await second.ask("GET", path)
                await leave_after(gateway, second, turns)
        events = await first.rest()
        assert events[-1].data == b"[DONE]"
        assert [event.id for event in events] == list(range(1, 104))
        await nothing_is_left(gateway, provider, model)
