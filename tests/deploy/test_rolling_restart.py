"""A restart behind deploy/nginx.conf costs a client that never tries again nothing."""

import asyncio
import signal
from contextlib import AsyncExitStack

import internals
from gateway import OwnProcess, in_process, own_process
from ports import free_port
from test_nginx import front
from wire import Client, call, complete, completion, texts, until

from server.config.settings import Server

REQUESTS = 400
RATE = 30.0  # new generations in a second; nginx lets 50 through


async def ready(root: str) -> bool:
    """Whether a gateway says that it takes requests."""
    return (await call(root, "GET", "/readyz")).status == 200


async def test_no_request_is_lost(provider, model, tmp_path) -> None:
    """While both gateways are restarted, one after the other, each of 400 requests is answered once and begun once.

    The second restart begins as soon as the first gateway is ready again.
    """
    tables = {
        "store": {"kind": "sqlite", "path": str(tmp_path / "streams.db")},
        "server": {"drain_notice": Server().drain_notice, "shutdown_grace": Server().shutdown_grace},
    }
    ports = [free_port(), free_port()]
    answers: dict[str, asyncio.Task] = {}
    await provider.script(model, {"tokens": 8})
    async with AsyncExitStack() as running, asyncio.TaskGroup() as group:

        async def start(port: int) -> OwnProcess:
            process = own_process(provider.url, arguments=("--port", str(port)), **tables)
            return await running.enter_async_context(process)

        gateways = [await start(port) for port in ports]
        nginx = await running.enter_async_context(front(tmp_path, *ports))

        async def restart() -> None:
            for number, port in enumerate(ports):
                gateways[number].signal(signal.SIGTERM)
                assert await gateways[number].ended(60.0) == 0
                gateways[number] = await start(port)
                await until(lambda root=gateways[number].root: ready(root))

        restarting = group.create_task(restart())
        while len(answers) < REQUESTS or not restarting.done():
            name = f"{model}-{len(answers)}"
            answers[name] = group.create_task(nginx.complete(name, messages=[{"role": "user", "content": name}]))
            await asyncio.sleep(1 / RATE)
        await asyncio.wait(answers.values())
        for gateway in gateways:
            gateway.signal(signal.SIGINT)  # a Ctrl-C needs no notice
    begun = [seen["model"] for seen in await provider.seen()]
    assert {name: task.result().status for name, task in answers.items() if task.result().status != 200} == {}
    assert all(task.result().events[-1].data == b"[DONE]" for task in answers.values())
    assert {name: begun.count(name) for name in answers if begun.count(name) != 1} == {}
    assert all(texts(task.result().events) for task in answers.values())


async def test_the_other_gateway_takes_what_one_refuses(provider, model, tmp_path) -> None:
    """What one gateway refuses is begun once at the other, while the stream of the first goes on."""
    await provider.script(model, {"tokens": 20, "stall_after": 5, "stall_for": 2.0})
    async with (
        in_process(provider.url) as one,
        in_process(provider.url) as other,
        front(tmp_path, one.port, other.port) as nginx,
        Client(one.root) as client,
    ):
        await client.complete(model)
        await client.head()
        internals.start_draining(one.app)
        for number in range(12):
            name = f"{model}-{number}"
            answer = await nginx.complete(name)
            assert (answer.status, answer.events[-1].data) == (200, b"[DONE]")
            assert not any(header.startswith("x-accel") for header in answer.headers)
            assert len(await provider.seen(name)) == 1
        assert len(texts(await client.rest())) == 20
        internals.start_draining(other.app)
        answer = await nginx.complete(model)
        assert (answer.status, answer.error["code"], answer.headers["retry-after"]) == (503, "draining", "1")


async def test_an_upstreams_own_503_is_not_sent_twice(provider, model, tmp_path) -> None:
    """An upstream's 503 goes to the client as it is. nginx does not ask the other gateway, and takes none for dead."""
    words = {"error": {"message": "Overloaded.", "type": "server_error", "param": None, "code": "overloaded"}}
    await provider.script(model, {"status": 503, "error": words["error"]})
    async with (
        in_process(provider.url) as one,
        in_process(provider.url) as other,
        front(tmp_path, one.port, other.port) as nginx,
    ):
        for count in range(1, 5):
            answer = await nginx.complete(model)
            assert (answer.status, answer.headers["x-should-retry"]) == (503, "false")
            assert len(await provider.seen(model)) == count
        assert (await nginx.complete(f"{model}-other")).status == 200


async def test_a_gateway_that_is_back_is_asked_at_once(provider, model, tmp_path) -> None:
    """If nginx takes all gateways for dead, it tries them all the same: one may just have come back."""
    ports = [free_port(), free_port()]
    async with front(tmp_path, *ports) as nginx:
        answer = await nginx.complete(model)
        assert (answer.status, answer.error["code"]) == (503, "gateway_away")
        async with in_process(provider.url, server={"port": ports[0]}):
            for _ in range(4):
                assert (await nginx.complete(model)).status == 200


async def test_only_nginx_is_sent_elsewhere(provider, model) -> None:
    """A refusal says `Connection: close`. It names nginx's location only to an nginx that has said it has it."""
    async with in_process(provider.url) as gateway:
        internals.start_draining(gateway.app)
        for headers, location in [({}, None), ({"X-Sluiceway-Elsewhere": "nginx"}, "@another_gateway")]:
            async with Client(gateway.root) as client:
                await client.ask("POST", "/v1/chat/completions", completion(model), headers)
                answer = await client.answer()
            assert (answer.status, answer.error["code"]) == (503, "draining")
            assert (answer.headers["connection"], answer.headers.get("x-accel-redirect")) == ("close", location)
        assert (await call(gateway.root, "GET", "/v1/streams")).headers["connection"] == "close"
        assert (await complete(gateway.root, model)).headers["retry-after"] == "1"
    assert await provider.seen(model) == []
