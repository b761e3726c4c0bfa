"""An upstream for the plain paths, in the test's own process: it does what its answers say, and keeps what it saw."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web
from gateway import in_process

KEPT = 2_000_000  # bytes of a body that are kept


@dataclass
class Seen:
    """One request. `whole`: all of its body has come. `left`: its client has closed the connection before the end."""

    path: str
    headers: dict[str, str]
    body: bytearray = field(default_factory=bytearray)
    size: int = 0
    whole: bool = False
    left: asyncio.Event = field(default_factory=asyncio.Event)


Answer = Callable[[web.Request, Seen], Awaitable[web.StreamResponse]]


class PlainUpstream:
    """`async with PlainUpstream(…) as upstream`. The i-th request gets the i-th answer, all further ones the last."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = answers
        self.seen: list[Seen] = []

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/v1/{path:.+}", self._serve)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        seen = Seen(request.path, {name.lower(): value for name, value in request.headers.items()})
        answer = self._answers[min(len(self.seen), len(self._answers) - 1)]
        self.seen.append(seen)
        try:
            return await answer(request, seen)
        except (asyncio.CancelledError, ConnectionError):
            seen.left.set()
            raise


async def taken(request: web.Request, seen: Seen) -> None:
    """Read the whole body of a request."""
    async for data in request.content.iter_any():
        seen.size += len(data)
        seen.body += data[: KEPT - len(seen.body)]
    seen.whole = True


def says(value: Any, status: int = 200, **headers: str) -> Answer:
    """Return an answer in JSON, after the whole request."""

    async def answer(request: web.Request, seen: Seen) -> web.StreamResponse:
        await taken(request, seen)
        return web.json_response(value, status=status, headers=headers)

    return answer


def sends(data: bytes, kind: str) -> Answer:
    """Return an answer of bytes, after the whole request."""

    async def answer(request: web.Request, seen: Seen) -> web.StreamResponse:
        await taken(request, seen)
        return web.Response(body=data, headers={"Content-Type": kind})

    return answer


def refuses(status: int, message: str = "no", **headers: str) -> Answer:
    """Return an error in OpenAI's shape, after the whole request."""
    return says({"error": {"message": message, "type": "t", "param": None, "code": "c"}}, status, **headers)


async def hangs_up(request: web.Request, seen: Seen) -> web.StreamResponse:
    """Close the connection without a word."""
    await taken(request, seen)
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def refuses_early(request: web.Request, seen: Seen) -> web.StreamResponse:
    """Answer with 429 before the request is whole."""
    return web.json_response({"error": {"message": "full", "type": "t", "param": None, "code": "c"}}, status=429)


def cuts(size: int, *, of: int | None) -> Answer:
    """Return an answer that breaks off after some bytes. Its head says how many there would be; None: it does not."""

    async def answer(request: web.Request, seen: Seen) -> web.StreamResponse:
        await taken(request, seen)
        response = web.StreamResponse(headers={} if of is None else {"Content-Length": str(of)})
        await response.prepare(request)
        await response.write(bytes(size))
        assert request.transport is not None
        request.transport.abort()
        return response

    return answer


async def silent(request: web.Request, seen: Seen) -> web.StreamResponse:
    """Take the request, and say nothing."""
    await taken(request, seen)
    await asyncio.sleep(3600)
    raise AssertionError


def streams(pieces: AsyncIterator[bytes] | list[bytes], kind: str = "text/event-stream") -> Answer:
    """Return an answer that is sent piece by piece, at the pace of its reader."""

    async def answer(request: web.Request, seen: Seen) -> web.StreamResponse:
        await taken(request, seen)
        response = web.StreamResponse(headers={"Content-Type": kind})
        await response.prepare(request)
        if isinstance(pieces, list):
            for piece in pieces:
                await response.write(piece)
        else:
            async for piece in pieces:
                await response.write(piece)
        return response

    return answer


@asynccontextmanager
async def nobody() -> AsyncIterator[str]:
    """Give the `base_url` of a port on which nobody listens."""
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    yield f"http://127.0.0.1:{port}/v1"


@asynccontextmanager
async def over(
    *answers: Answer | list[Answer] | None, upstream: dict[str, Any] | None = None, **tables: Any
) -> AsyncIterator[Any]:
    """Give a gateway whose model `m` goes to `a/m-of-a`, `b/m-of-b`, …, and these upstreams.

    Each has one answer, or several for its requests in turn; None: nobody listens there.
    """
    async with AsyncExitStack() as stack:
        upstreams, entries = [], []
        for name, own in zip("abc", answers, strict=False):
            if own is None:
                url = await stack.enter_async_context(nobody())
            else:
                running = PlainUpstream(*(own if isinstance(own, list) else [own]))
                upstreams.append(await stack.enter_async_context(running))
                url = running.url
            entries.append({"name": name, "base_url": url, **(upstream or {})})
        models = [{"name": "m", "targets": [f"{one['name']}/m-of-{one['name']}" for one in entries]}]
        recovery = {"strategy": "auto", "backoff": 0.01, "max_retries": 0, **tables.pop("recovery", {})}
        tables = {"upstreams": entries, "models": models, **tables, "recovery": recovery}
        gateway = await stack.enter_async_context(in_process(entries[0]["base_url"], **tables))
        yield (gateway, *upstreams)


def form(*, size: int = 1000, model_last: bool = False) -> tuple[bytes, dict[str, str]]:
    """Return a recording of so many bytes with its model, and the headers that belong to it."""
    parts = [
        b'--xX\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n',
        b'--xX\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + b"s" * size + b"\r\n",
    ]
    body = b"".join(parts[::-1] if model_last else parts) + b"--xX--\r\n"
    return body, {"Content-Type": "multipart/form-data; boundary=xX", "Content-Length": str(len(body))}
