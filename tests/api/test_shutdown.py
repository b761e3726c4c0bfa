"""SIGTERM: what runs may end, nothing new begins, everybody is told, and the process exits with 0."""

import os
import signal
import socket
import time

import pytest
from gateway import in_process, own_process
from wire import Client, CutError, call, complete, texts, until

JSON = {"Accept": "application/json"}


async def test_running_streams_end(provider, model) -> None:
    """While draining, running streams go on, GET and DELETE are served, a new generation is 503; then exit 0."""
    await provider.script(model, {"tokens": 60, "rate": 30})
    async with own_process(provider.url, server={"shutdown_grace": 20.0}) as gateway:
        async with Client(gateway.root) as client:
            await client.complete(model)
            path = f"/v1/streams/{(await client.head())[1]['x-stream-id']}"
            await client.events(3)
            gateway.signal(signal.SIGTERM)

            async def draining() -> bool:
                return (await call(gateway.root, "GET", "/readyz")).status == 503

            await until(draining)
            refused = await complete(gateway.root, model)
            assert (refused.status, refused.error["code"]) == (503, "draining")
            assert int(refused.headers["retry-after"]) >= 1
            assert (await call(gateway.root, "GET", "/healthz")).status == 200
            assert (await call(gateway.root, "GET", path, headers=JSON)).json["state"] == "streaming"
            again = await call(gateway.root, "GET", f"{path}?after=2")
            assert again.events[0].id == 3
            assert len(texts(await client.rest())) == 60
        assert await gateway.ended() == 0
    assert [line["event"] for line in gateway.lines][-1] == "stopped"
    assert len(await provider.seen(model)) == 1


async def test_notice(provider, model) -> None:
    """For `drain_notice` seconds `/readyz` is 503 and new generations are taken. Then they are refused, and it ends."""
    await provider.script(model, {"tokens": 3}, {"stall_after": 1}, {"tokens": 3})
    server = {"shutdown_grace": 60.0, "drain_notice": 2.0}
    async with own_process(provider.url, server=server) as gateway, Client(gateway.root) as client:
        began = time.monotonic()
        gateway.signal(signal.SIGTERM)
        await until(lambda: _logged(gateway, "draining"))
        ready = await call(gateway.root, "GET", "/readyz")
        assert (ready.status, ready.json["status"], ready.headers["connection"]) == (503, "draining", "close")
        taken = await complete(gateway.root, model)
        assert taken.status == 200 or time.monotonic() - began >= 2.0
        await client.complete(model)
        path = f"/v1/streams/{(await client.head())[1]['x-stream-id']}"

        async def refused() -> bool:
            return (await complete(gateway.root, model)).status == 503

        await until(refused)
        assert time.monotonic() - began >= 2.0
        assert (await call(gateway.root, "DELETE", path)).status == 204
        assert await gateway.ended() == 0


async def test_ctrl_c_gives_no_notice(provider) -> None:
    """SIGINT ends an idle gateway at once: in a terminal there is no load balancer that must notice."""
    async with own_process(provider.url, server={"shutdown_grace": 60.0, "drain_notice": 60.0}) as gateway:
        gateway.signal(signal.SIGINT)
        assert await gateway.ended() == 0


async def test_aborted_while_draining(provider, model) -> None:
    """DELETE works while draining, and ends it when that was the last stream."""
    await provider.script(model, {"stall_after": 1})
    async with own_process(provider.url, server={"shutdown_grace": 60.0}) as gateway, Client(gateway.root) as client:
        await client.complete(model)
        path = f"/v1/streams/{(await client.head())[1]['x-stream-id']}"
        gateway.signal(signal.SIGTERM)
        await until(lambda: _logged(gateway, "draining"))
        assert (await call(gateway.root, "DELETE", path)).status == 204
        assert b'"code":"cancelled"' in (await client.rest())[-1].data
        assert await gateway.ended() == 0


async def _logged(gateway, event: str) -> bool:
    return bool(gateway.logged(event))


async def test_grace_over(provider, model) -> None:
    """After the grace the memory store ends every stream with error `shutdown`, retryable; also an unopened one."""
    await provider.script(model, {"stall_after": 1}, {"never_answer": True})
    async with own_process(provider.url, server={"shutdown_grace": 0.3}) as gateway:
        async with Client(gateway.root) as streaming, Client(gateway.root) as waiting:
            await streaming.complete(model)
            await streaming.head()
            await waiting.complete(model)
            await until(lambda: _asked(provider, model, 2))
            gateway.signal(signal.SIGTERM)
            last = (await streaming.rest())[-1].data
            assert b'"code":"shutdown","retryable":true' in last
            answer = await waiting.answer()
            assert (answer.status, answer.error["code"]) == (502, "shutdown")  # no 503: its upstream was asked
            assert (answer.headers["retry-after"], answer.headers.get("x-should-retry")) == ("1", None)
        assert await gateway.ended() == 0
    assert {line["reason"] for line in gateway.logged("stream ended")} == {"shutdown"}
    assert len(await provider.all_over(model)) == 2


async def _asked(provider, model: str, count: int) -> bool:
    return len(await provider.seen(model)) == count


async def test_a_client_that_does_not_read_does_not_hold_it(provider, model) -> None:
    """A stuck client cannot keep the process from ending."""
    await provider.script(model, {"tokens": 10_000_000})
    async with own_process(provider.url, server={"shutdown_grace": 0.2}) as gateway:
        sock = socket.create_connection(("127.0.0.1", gateway.port))
        body = b'{"model":"%b","stream":true,"messages":[{"role":"user","content":"x"}]}' % model.encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        sock.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        await until(lambda: provider.seen(model))
        began = time.monotonic()
        gateway.signal(signal.SIGTERM)
        assert await gateway.ended() == 0
        assert time.monotonic() - began < 15
        sock.close()
    assert not [line for line in gateway.lines if isinstance(line, str)]


async def test_idle_connections_do_not_hold_it(provider, model) -> None:
    """Kept-alive and silent connections do not delay the end."""
    async with own_process(provider.url) as gateway, Client(gateway.root) as kept, Client(gateway.root):
        await kept.complete(model)
        await kept.answer()
        began = time.monotonic()
        gateway.signal(signal.SIGTERM)
        assert await gateway.ended() == 0
        assert time.monotonic() - began < 10


async def test_port_taken(provider) -> None:
    """A port that is taken ends the command with one sentence, not a traceback."""
    async with in_process(provider.url) as gateway:
        owner = rf"\S+ \(process {os.getpid()}\)"
        words = rf"cannot listen on 127\.0\.0\.1 port {gateway.port}: Address already in use by {owner}"
        with pytest.raises(RuntimeError, match=words) as raised:
            async with own_process(provider.url, arguments=("--port", str(gateway.port))):
                pass
        assert "Traceback" not in str(raised.value)


async def test_durable_streams_are_left_open(provider, model, tmp_path) -> None:
    """With a durable store the client is told when to come back and cut off, and the log has no ending."""
    await provider.script(model, {"stall_after": 1})
    store = {"kind": "sqlite", "path": str(tmp_path / "streams.db")}
    async with own_process(provider.url, store=store, server={"shutdown_grace": 0.2}) as gateway:
        async with Client(gateway.root) as client:
            await client.complete(model)
            await client.head()
            await client.events(2)
            gateway.signal(signal.SIGTERM)
            with pytest.raises(CutError):
                await client.rest()
            assert client.body.endswith(b"retry: 1000\n")
        assert await gateway.ended() == 0
    assert not gateway.logged("stream ended")
