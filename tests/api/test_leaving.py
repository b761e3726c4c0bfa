"""Clients that go away, in every way and at every time: the upstream is closed, or the stream waits for them."""

import asyncio
import socket
import time

import pytest
from gateway import in_process, own_process
from provider import Provider
from timing import until_fast
from wire import Client, call, complete, completion, request, texts, until

JSON = {"Accept": "application/json"}
AT_ONCE = 0.1  # seconds
WAYS = ("fin", "rst", "half")
TIMES = {  # what the upstream is doing when the client leaves, and how many events it has had by then
    "before the head": ({"headers_after": 60.0}, 0),
    "never answered": ({"never_answer": True}, 0),
    "before the first token": ({"stall_after": 0}, 0),
    "in the middle": ({"tokens": 1000, "rate": 50}, 3),
    "stalled in the middle": ({"stall_after": 3}, 4),
    "after the finish reason": ({"tokens": 2, "done": False, "usage": False, "after_finish": "hang"}, 4),
}


async def closed(provider: Provider, model: str) -> float:
    """Wait until the upstream has seen the gateway go; return when that was."""

    async def gone() -> float | None:
        [seen] = await provider.seen(model)
        return seen["closed_by_client_at"]

    return await until(gone)


async def state_of(root: str, stream: str) -> dict:
    return (await call(root, "GET", f"/v1/streams/{stream}", headers=JSON)).json


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("when", TIMES)
async def test_client_gone(gateway, provider, model, when, how) -> None:
    """Whenever and however the only client leaves, the upstream's socket is closed at once and the stream cancelled."""
    script, events = TIMES[when]

    async def leave(number: int) -> float:
        name = f"{model}-{number}"
        await provider.script(name, script)
        async with Client(gateway.root) as client:
            await client.complete(name)
            await until(lambda: provider.seen(name))
            if events:
                await client.head()
                await client.events(events)
            left = time.monotonic()
            client.leave(how)
            took = await closed(provider, name) - left
            await gateway.idle()
        streams = (await call(gateway.root, "GET", "/v1/streams")).json["data"]
        assert [stream["state"] for stream in streams] == ["cancelled"] * (number + 1)
        return took

    await until_fast(leave, AT_ONCE)


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("script", [{"never_answer": True}, {"stall_after": 3}])
async def test_client_of_a_whole_answer_gone(gateway, provider, model, script, how) -> None:
    """A client that does not stream and leaves: the upstream is closed at once, too."""

    async def leave(number: int) -> float:
        name = f"{model}-{number}"
        await provider.script(name, script)
        async with Client(gateway.root) as client:
            await client.complete(name, stream=False)
            await until(lambda: provider.seen(name))
            left = time.monotonic()
            client.leave(how)
            took = await closed(provider, name) - left
            await gateway.idle()
        return took

    await until_fast(leave, AT_ONCE)


@pytest.mark.parametrize("how", WAYS)
async def test_client_gone_on_uvloop(provider, model, how) -> None:
    """The same in a process of its own, on the loop that users run."""

    async def leave(number: int) -> float:
        name = f"{model}-{number}"
        await provider.script(name, {"tokens": 1000, "rate": 50})
        async with Client(gateway.root) as client:
            await client.complete(name)
            stream = (await client.head())[1]["x-stream-id"]
            await client.events(3)
            left = time.monotonic()
            client.leave(how)
            took = await closed(provider, name) - left
        assert (await state_of(gateway.root, stream))["state"] == "cancelled"
        return took

    async with own_process(provider.url) as gateway:
        await until_fast(leave, AT_ONCE)
    assert not [line for line in gateway.lines if isinstance(line, str)], "a traceback, or a library's warning"


@pytest.mark.parametrize("how", WAYS)
async def test_gone_during_a_retry(provider, model, how) -> None:
    """A client that leaves while the gateway waits before its next attempt: there is no next attempt."""
    await provider.script(model, {"status": 500})
    recovery = {"strategy": "retry", "backoff": 9.0}
    async with in_process(provider.url, recovery=recovery) as gateway, Client(gateway.root) as client:
        await client.complete(model)
        await until(lambda: provider.seen(model))
        await asyncio.sleep(0.1)
        client.leave(how)
        await gateway.idle()
    assert len(await provider.seen(model)) == 1


# --- after it ---------------------------------------------------------------------------------------------------


async def test_a_cancelled_stream_is_readable_and_never_revives(gateway, provider, model) -> None:
    """What a client left behind ends in error `cancelled`, stays readable, and a reader does not revive it."""
    await provider.script(model, {"tokens": 1000, "rate": 50})
    async with Client(gateway.root) as client:
        await client.complete(model)
        stream = (await client.head())[1]["x-stream-id"]
        await client.events(3)
    await gateway.idle()
    answer = await call(gateway.root, "GET", f"/v1/streams/{stream}")
    assert b'"code":"cancelled"' in answer.events[-1].data
    assert (await call(gateway.root, "GET", f"/v1/streams/{stream}?after={len(answer.events)}")).status == 204
    assert (await state_of(gateway.root, stream))["state"] == "cancelled"
    assert len(await provider.seen(model)) == 1


async def test_only_the_last_reader_counts(gateway, provider, model) -> None:
    """The policy acts when the last reader has left, whichever that is."""

    async def leave(number: int) -> float:
        name = f"{model}-{number}"
        await provider.script(name, {"tokens": 1000, "rate": 50})
        async with Client(gateway.root) as first, Client(gateway.root) as second:
            await first.complete(name)
            stream = (await first.head())[1]["x-stream-id"]
            await second.ask("GET", f"/v1/streams/{stream}")
            await second.head()
            first.leave("fin")
            await second.events(10)
            assert (await state_of(gateway.root, stream))["state"] == "streaming"
            left = time.monotonic()
            second.leave("rst")
            return await closed(provider, name) - left

    await until_fast(leave, AT_ONCE)


# --- going on ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["header", "configuration"])
@pytest.mark.parametrize("how", WAYS)
async def test_continue_and_resume(provider, model, how, by) -> None:
    """With `continue` the relay goes on without its client, which comes back and has lost nothing."""
    await provider.script(model, {"tokens": 40, "rate": 80})
    streams = {"on_disconnect": "continue"} if by == "configuration" else {}
    headers = {} if streams else {"X-On-Disconnect": "continue"}
    async with in_process(provider.url, streams={"linger": 20.0, **streams}) as gateway:
        async with Client(gateway.root) as client:
            await client.complete(model, headers=headers)
            stream = (await client.head())[1]["x-stream-id"]
            before = (await client.events(5))[:5]
            client.leave(how)
        await asyncio.sleep(0.2)
        again = await call(gateway.root, "GET", f"/v1/streams/{stream}", headers={"Last-Event-ID": "5"})
        assert texts(before + again.events) == [f"tok{i} " for i in range(40)]
        assert (await state_of(gateway.root, stream))["state"] == "complete"


async def test_continue_without_anybody(provider, model) -> None:
    """A stream that ends while nobody reads is complete, and the linger is no matter any more."""
    await provider.script(model, {"tokens": 20, "rate": 100})
    async with in_process(provider.url, streams={"on_disconnect": "continue", "linger": 20.0}) as gateway:
        async with Client(gateway.root) as client:
            await client.complete(model)
            stream = (await client.head())[1]["x-stream-id"]
        await gateway.idle()
        state = await state_of(gateway.root, stream)
        assert (state["state"], state["records"], state["readers"], state["lag"]) == ("complete", 23, 0, 0)


async def test_without_a_reader_lag_is_not_enforced(provider, model) -> None:
    """While nobody reads, the relay is not held back: all of a long answer is in the log."""
    await provider.script(model, {"tokens": 3000, "big": 1000})
    async with in_process(provider.url, streams={"on_disconnect": "continue", "linger": 20.0}) as gateway:
        async with Client(gateway.root) as client:
            await client.complete(model)
            stream = (await client.head())[1]["x-stream-id"]
        await gateway.idle()
        assert len(texts((await call(gateway.root, "GET", f"/v1/streams/{stream}")).events)) == 3000


async def test_linger_over(provider, model) -> None:
    """When nobody comes back within `linger`, the stream is cancelled and the upstream closed."""
    await provider.script(model, {"tokens": 1000, "rate": 50})
    async with in_process(provider.url, streams={"on_disconnect": "continue", "linger": 0.4}) as gateway:
        async with Client(gateway.root) as client:
            await client.complete(model)
            stream = (await client.head())[1]["x-stream-id"]
        left = time.monotonic()
        assert await closed(provider, model) - left >= 0.3
        await gateway.idle()
        state = await state_of(gateway.root, stream)
        assert (state["state"], state["error"]["code"]) == ("cancelled", "cancelled")


async def test_a_new_reader_stops_the_linger(provider, model) -> None:
    """A reader who comes in time stops the linger for as long as it stays, and it starts anew when it leaves."""
    await provider.script(model, {"tokens": 1000, "rate": 50})
    async with in_process(provider.url, streams={"on_disconnect": "continue", "linger": 1.0}) as gateway:
        async with Client(gateway.root) as client:
            await client.complete(model)
            stream = (await client.head())[1]["x-stream-id"]
        await asyncio.sleep(0.3)
        async with Client(gateway.root) as client:
            await client.ask("GET", f"/v1/streams/{stream}")
            await client.head()
            await asyncio.sleep(1.5)
            assert (await state_of(gateway.root, stream))["state"] == "streaming"
        left = time.monotonic()
        assert await closed(provider, model) - left >= 0.9


@pytest.mark.parametrize("when", ["before the head", "before the first token"])
async def test_continue_before_the_opening(provider, model, when) -> None:
    """With `continue` a client may also leave before the first token and come back for it by its key."""
    await provider.script(model, {"headers_after" if when == "before the head" else "ttft": 0.6, "tokens": 3})
    headers = {"X-On-Disconnect": "continue", "Idempotency-Key": "back"}
    async with in_process(provider.url) as gateway:
        async with Client(gateway.root) as client:
            await client.complete(model, headers=headers)
            await until(lambda: provider.seen(model))
        assert len(texts((await complete(gateway.root, model, headers=headers)).events)) == 3
        assert len(await provider.seen(model)) == 1


async def test_insane_policy(gateway, model) -> None:
    """Another word than the two is 400."""
    answer = await complete(gateway.root, model, headers={"X-On-Disconnect": "maybe"})
    assert (answer.status, answer.error["param"]) == (400, "X-On-Disconnect")


async def test_disconnects_are_counted(gateway, provider, model) -> None:
    """A client that left is counted; one that read to the end is not."""
    await provider.script(model, {}, {"stall_after": 1})
    await complete(gateway.root, model)
    async with Client(gateway.root) as client:
        await client.complete(model)
        await client.head()
    await gateway.idle()
    metrics = (await call(gateway.root, "GET", "/metrics")).body.decode()
    assert 'sluiceway_client_disconnects_total{reason="gone"} 1.0' in metrics
    assert 'sluiceway_streams_total{status="cancelled"} 1.0' in metrics
    assert "sluiceway_streams_active 0.0" in metrics


def read_and_hang_up(port: int, asked: bytes) -> bytes:
    """Send a request on a connection of its own and close it in the moment that the last byte of the answer is here."""
    data = b""
    with socket.create_connection(("127.0.0.1", port), timeout=20.0) as sock:
        sock.sendall(asked)
        while not data.endswith(b"0\r\n\r\n"):
            data += sock.recv(65_536)
    return data


async def test_hanging_up_on_the_last_byte_is_no_disconnect(gateway, model) -> None:
    """A client that closes its connection with the last byte of the answer has missed nothing, and is not counted."""
    asked = request("POST", "/v1/chat/completions", completion(model))
    for _ in range(20):
        assert b"[DONE]" in await asyncio.to_thread(read_and_hang_up, gateway.port, asked)
    await gateway.idle()
    metrics = (await call(gateway.root, "GET", "/metrics")).body.decode()
    assert "sluiceway_client_disconnects_total{" not in metrics
