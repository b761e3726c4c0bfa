"""An MCP server over HTTP that a test can restart, silence and change (specification 2025-11-25, Streamable HTTP)."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web


class McpFake:
    """A server whose one tool `level` counts its calls. Its sessions and its list of tools are the test's to change."""

    def __init__(self) -> None:
        self.tools = ["level"]
        self.calls = 0
        self.initialized = 0
        self.headers: list[dict[str, str]] = []  # of each request
        self.version: str | None = None  # the protocol version that it answers; None: the client's
        self.answering = asyncio.Event()  # while it is not set, the server is silent
        self.answering.set()
        self.refusal: tuple[int, Any] = (404, None)  # status, and body: JSON, a text or None
        self.forgetful = False  # it knows no session when a tool is called
        self._sessions: set[str] = set()
        self._ids = itertools.count(1)
        self._streams: list[web.StreamResponse] = []
        self.port = 0

    def restart(self) -> None:
        """Forget all sessions, as a server does that is started again."""
        self._sessions.clear()

    async def notify(self, method: str) -> None:
        """Send a notification to all clients."""
        for stream in self._streams:
            await stream.write(b'event: message\ndata: {"jsonrpc": "2.0", "method": "%s"}\n\n' % method.encode())

    async def post(self, request: web.Request) -> web.StreamResponse:
        """Answer one message."""
        self.headers.append(dict(request.headers))
        message = await request.json()
        await self.answering.wait()
        method, number = message["method"], message.get("id")
        if method == "initialize":
            return self._initialize(message)
        if method == "server/discover":
            return web.json_response(_error(number, -32601, "Method not found"))
        if self.forgetful and method == "tools/call":
            self.restart()
        if request.headers.get("mcp-session-id") not in self._sessions:
            status, body = self.refusal
            if isinstance(body, dict):
                return web.json_response(body, status=status)
            return web.Response(status=status, text=body)
        if number is None:
            return web.Response(status=202)
        return web.json_response({"jsonrpc": "2.0", "id": number, "result": self._result(message)})

    def _initialize(self, message: dict[str, Any]) -> web.Response:
        self.initialized += 1
        session = f"session-{next(self._ids)}"
        self._sessions.add(session)
        version = self.version or message["params"]["protocolVersion"]
        capabilities = {"tools": {"listChanged": True}}
        result = {"protocolVersion": version, "capabilities": capabilities,
                  "serverInfo": {"name": "weir", "version": "1"}}  # fmt: skip
        body = {"jsonrpc": "2.0", "id": message["id"], "result": result}
        return web.json_response(body, headers={"Mcp-Session-Id": session})

    def _result(self, message: dict[str, Any]) -> dict[str, Any]:
        if message["method"] == "tools/list":
            return {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in self.tools]}
        self.calls += 1
        return {"content": [{"type": "text", "text": f"call {self.calls}"}]}

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Open the stream of notifications."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        self._streams.append(response)
        await asyncio.Event().wait()
        return response

    async def delete(self, request: web.Request) -> web.Response:
        """End a session."""
        await self.answering.wait()
        self._sessions.discard(request.headers.get("mcp-session-id", ""))
        return web.Response()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """Listen, on the same port each time; give the URL."""
        app = web.Application()
        app.add_routes([web.post("/mcp", self.post), web.get("/mcp", self.get), web.delete("/mcp", self.delete)])
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            yield f"http://127.0.0.1:{self.port}/mcp"
        finally:
            self._streams.clear()
            await runner.cleanup()


def _error(number: Any, code: int, message: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "error": {"code": code, "message": message}}
