"""The upstream of a load, in its own process. It writes prebuilt OpenAI chunks, so that it is no bottleneck.

``GET /closed`` tells when the connection of each tagged request (its ``user``) was closed by the other side. A tag
``cut:NAME`` or ``fails:NAME`` breaks the first request that has it, and ``spoils:NAME`` each.
"""

import asyncio
import sys
from time import monotonic, monotonic_ns
from typing import cast

import orjson
import uvloop
from scripted.request import take

from .options import most_descriptors
from .script import Script, script, stamped
from .wheel import Wheel

FAILED = b'{"error":{"message":"broken on purpose","type":"server_error"}}'


class Provider:
    """What the connections share: the timer wheel, the unpaced streams and the times of the disconnects."""

    def __init__(self) -> None:
        self.wheel = Wheel()
        self.broken: set[str] = set()  # tags; a second try may come on another connection
        self.closed: dict[str, float] = {}  # tag: CLOCK_MONOTONIC, seconds
        self._floods: set[Connection] = set()

    def flood(self, connection: "Connection") -> None:
        """Let the connection write a token in every turn of the event loop."""
        if not self._floods:
            asyncio.get_running_loop().call_soon(self._pour)
        self._floods.add(connection)

    def ebb(self, connection: "Connection") -> None:
        """Stop that, as the reader is behind or gone."""
        self._floods.discard(connection)

    def _pour(self) -> None:
        # uvloop sends once per turn. So one token per turn is one send per token.
        for connection in tuple(self._floods):
            if not connection.step():
                self._floods.discard(connection)
        if self._floods:
            asyncio.get_running_loop().call_soon(self._pour)


class Connection(asyncio.Protocol):
    """One keep-alive connection, with one request after the other."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._transport: asyncio.Transport
        self._inbox = bytearray()
        self._script: Script | None = None  # of the running stream
        self._sent = 0  # tokens
        self._most = 0  # tokens until the end, or until the cut
        self._with_usage = False
        self._tag = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer the request when it is complete."""
        self._inbox += data
        if (request := take(self._inbox)) is None:
            return
        if request.method == "POST":
            self.generate(orjson.loads(request.body))
        else:
            known = {"/closed": self._provider.closed, "/v1/models": {"object": "list", "data": []}}
            found = request.path in known
            self.say("200 OK" if found else "404 Not Found", orjson.dumps(known.get(request.path, {})))

    def generate(self, body: dict[str, object]) -> None:
        """Begin the stream of the request's model."""
        try:
            self._script = script(str(body.get("model")))
        except ValueError as unknown:
            self.say("404 Not Found", orjson.dumps({"error": {"message": str(unknown)}}))
            return
        self._sent, self._tag, self._most = 0, str(body.get("user", "")), self._script.tokens
        fault = self._tag.partition(":")[0]
        if fault in ("cut", "fails", "spoils") and self._tag not in self._provider.broken:
            if fault != "spoils":
                self._provider.broken.add(self._tag)
            if fault != "cut":
                self._script = None
                self.say("500 Internal Server Error", FAILED)
                return
            self._most //= 2
        options = body.get("stream_options")
        self._with_usage = isinstance(options, dict) and bool(options.get("include_usage"))
        match self._script:
            case Script(kind="short", opening=opening, frames=frames):
                self._transport.write(opening + b"".join(frames) + self._script.ending(with_usage=self._with_usage))
                self._script = None
            case Script(kind="idle", opening=opening, frames=frames):
                self._transport.write(opening + frames[0])
            case Script(kind="flood", opening=opening):
                self._transport.write(opening)
                self._provider.flood(self)
            case Script(rate=rate, opening=opening):
                self._transport.write(opening)
                self._provider.wheel.add(rate, self.step)

    def say(self, status: str, body: bytes) -> None:
        """Answer with a JSON body."""
        self._transport.write(
            f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )

    def step(self) -> bool:
        """Write the next token, or the ending after the last, or cut. Return whether there is more to come."""
        current = self._script
        if current is None:  # the client has gone
            return False
        if self._sent == self._most:
            if self._most < current.tokens:
                self._transport.abort()
                return False
            self._transport.write(current.ending(with_usage=self._with_usage))
            self._script = None
            return False
        if current.kind == "stamped":
            self._transport.write(stamped(current.frames[0], monotonic_ns()))
        else:
            self._transport.write(current.frames[self._sent])
        self._sent += 1
        return True

    def pause_writing(self) -> None:
        """Stop an unpaced stream, whose reader is behind. A paced one goes on and fills the transport's buffer."""
        self._provider.ebb(self)

    def resume_writing(self) -> None:
        """Go on: the reader has caught up."""
        if self._script is not None and self._script.kind == "flood":
            self._provider.flood(self)

    def eof_received(self) -> bool:
        """Note the time. The connection is closed then."""
        self._leave()
        return False

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - a reset is as good as a close
        """Note the time, unless the end of file came before."""
        self._leave()

    def _leave(self) -> None:
        if self._script is not None and self._tag:
            self._provider.closed.setdefault(self._tag, monotonic())
        self._script = None
        self._provider.ebb(self)


async def serve(port: int) -> None:
    """Serve on the loopback port until the process is stopped."""
    provider = Provider()
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(provider), "127.0.0.1", port, backlog=4096
    )
    await server.serve_forever()


if __name__ == "__main__":
    most_descriptors()
    uvloop.run(serve(int(sys.argv[1])))
