"""TLS before the scripted provider."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from certificates import Certificate
from tcp_server import copy, listening


@contextlib.asynccontextmanager
async def behind_tls(
    url: str, certificate: Certificate, *, host: str = "127.0.0.1", handshake: float = 0.0
) -> AsyncIterator[str]:
    """Put TLS before a provider; yield the base_url. A handshake takes at least `handshake` seconds."""
    address = urlsplit(url)
    async with _relay(address.hostname, address.port, tls=certificate.server()) as port:
        if not handshake:
            yield f"https://{host}:{port}/v1"
            return
        async with _relay("127.0.0.1", port, delay=handshake) as slow:
            yield f"https://{host}:{slow}/v1"


@contextlib.asynccontextmanager
async def _relay(
    host: str | None, port: int | None, *, delay: float = 0.0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """Relay connections from a new port, which is yielded. The first bytes of each answer come `delay` seconds late."""

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, port)
        await asyncio.gather(copy(reader, back), copy(there, writer, delay=delay))

    async with listening(relay, tls=tls) as relay_port:
        yield relay_port
