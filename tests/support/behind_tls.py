"""TLS before the scripted provider."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from certificates import Certificate


@contextlib.asynccontextmanager
async def behind_tls(
    url: str, certificate: Certificate, *, host: str = "127.0.0.1", handshake: float = 0.0
) -> AsyncIterator[str]:
    """Put TLS before a provider; yield the base_url. `handshake`: seconds that every handshake takes at least."""
    address = urlsplit(url)
    async with _relay(address.hostname, address.port, ssl=certificate.server()) as port:
        if not handshake:
            yield f"https://{host}:{port}/v1"
            return
        async with _relay("127.0.0.1", port, delay=handshake) as slow:
            yield f"https://{host}:{slow}/v1"


@contextlib.asynccontextmanager
async def _relay(host, port, *, delay: float = 0.0, **listening) -> AsyncIterator[int]:
    """Relay connections; the first bytes of each answer come late by `delay` seconds."""

    async def copy(source, sink, delay: float = 0.0) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65_536):
                await asyncio.sleep(delay)
                delay = 0.0
                sink.write(data)
                await sink.drain()
        sink.close()

    async def relay(reader, writer) -> None:
        there, back = await asyncio.open_connection(host, port)
        await asyncio.gather(copy(reader, back), copy(there, writer, delay))

    server = await asyncio.start_server(relay, "127.0.0.1", 0, **listening)
    async with server:
        yield server.sockets[0].getsockname()[1]
