"""MCP servers (https://modelcontextprotocol.io). Their tools are offered like the gateway's own.

A server that is away keeps the gateway neither from starting nor from working. It is tried again, with a growing pause,
until it is there. Then its tools are offered.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import structlog

from server.config.settings import Mcp
from server.tools.pace import MAX_MESSAGE
from server.tools.tool import Tool, ToolError, as_text

if TYPE_CHECKING:
    from mcp import Client
    from mcp.types import CallToolResult
    from mcp.types import Tool as RemoteTool

    from server.tools.mcp_http import Guard

# Seconds for connecting and the list of tools. A command may first have to load what it starts.
URL_HANDSHAKE, COMMAND_HANDSHAKE = 10.0, 60.0
RETRY = 1.0  # seconds before a server is tried again; doubled each time, up to RETRY_MAX
RETRY_MAX = 30.0
REFRESH = 30.0  # seconds between two looks at the tools of a connected server
SETTLE = 1.0  # seconds after a notice that the list has changed: more of them may follow
MAX_PAGES = 100  # of a list of tools
MAX_TOOLS = 1000  # of one server
NEVER = 86_400.0  # seconds: the bound of a call is [tools] timeout
MAX_REASON = 300  # characters of an error that is logged
log = structlog.get_logger("sluiceway.tools")


class McpServer:
    """The server of one `[[mcp]]` entry. `tools` are the tools that it offers now: none while it is away."""

    def __init__(self, settings: Mcp, environ: Mapping[str, str]) -> None:
        self.name = settings.name
        self.tools: list[Tool] = []
        self.tried = asyncio.Event()  # connecting has succeeded or failed; not set while a lost session is begun anew
        self._settings = settings
        self._environ = environ
        self._client: Client | None = None
        self._guard: Guard | None = None  # of a server at a URL
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._gone = asyncio.Event()  # the connection is lost
        self._news = asyncio.Event()  # one of the following has happened
        self._session_lost = self._list_changed = False

    def open(self) -> None:
        """Begin to connect. `tried` is set when the first try has ended."""
        self._task = asyncio.create_task(self._stay_connected(), name=f"mcp {self.name}")

    async def close(self) -> None:
        """Disconnect, and end a server that the gateway has started by its command."""
        self._closing = True  # the library's task groups may lose a cancel when connecting fails
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # --- the connection -----------------------------------------------------------------------------------------

    async def _stay_connected(self) -> None:
        """Hold the connection. One task has to enter and leave it, as anyio's cancel scopes want."""
        wait = RETRY
        while not self._closing:
            self._gone, self._news = asyncio.Event(), asyncio.Event()
            self._session_lost = self._list_changed = False
            try:
                async with self._connected() as client:
                    self._client = client
                    log.info("mcp server connected", server=self.name, tools=len(self.tools))
                    self.tried.set()
                    wait = RETRY
                    await self._watch(client)
            except Exception as error:  # noqa: BLE001 — whatever it fails with, it is tried again
                log.warning("mcp server away", server=self.name, error=_reason(error), retry_in=wait)
            self._client = None
            if self._closing:
                return
            if self._session_lost:
                log.info("mcp session lost", server=self.name)  # its calls wait: begin another one at once
                self._session_lost = False
                continue
            self.tools = []
            self.tried.set()
            await asyncio.sleep(wait)
            wait = min(wait * 2, RETRY_MAX)

    @asynccontextmanager
    async def _connected(self) -> "AsyncIterator[Client]":
        """Connect, and list the tools. Raises TimeoutError if the server takes too long."""
        limit = COMMAND_HANDSHAKE if self._settings.command is not None else URL_HANDSHAKE
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(limit):
                    client = await stack.enter_async_context(await self._new_client(stack))
                    self.tools = await self._listed(client)
            except TimeoutError:
                raise TimeoutError(f"no answer within {limit:g} seconds") from None
            yield client

    async def _new_client(self, stack: AsyncExitStack) -> "Client":
        # 30 MB of modules that most gateways never need.
        from mcp import Client  # noqa: PLC0415
        from mcp.client.streamable_http import streamable_http_client  # noqa: PLC0415

        from server.tools.mcp_http import Guard, client_of  # noqa: PLC0415
        from server.tools.mcp_stdio import StdioServer  # noqa: PLC0415

        settings, environ = self._settings, self._environ
        if settings.command is not None:
            env = settings.env | {name: environ[name] for name in settings.env_from if name in environ}
            return Client(
                StdioServer(self.name, settings.command, env, settings.env_from, self._gone),
                message_handler=self._heard,
            )
        assert settings.url is not None
        secret = {header: environ[name] for header, name in settings.header_env.items() if environ.get(name)}
        self._guard = Guard()
        http = await stack.enter_async_context(client_of(self._guard, settings.headers | secret))
        transport = streamable_http_client(settings.url, http_client=http, max_sse_event_size=MAX_MESSAGE)
        return Client(transport, message_handler=self._heard)

    async def _heard(self, message: Any) -> None:
        """Take a notification of the server."""
        if getattr(message, "method", None) == "notifications/tools/list_changed":
            self._list_changed = True
            self._news.set()

    async def _watch(self, client: "Client") -> None:
        """Keep the list of tools true. Return or raise when the connection or the session is lost."""
        while True:
            waits = [asyncio.create_task(event.wait(), name=f"mcp {self.name}") for event in (self._gone, self._news)]
            try:
                await asyncio.wait(waits, timeout=REFRESH, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
            self._news.clear()
            if self._gone.is_set() or self._session_lost:
                return
            if self._list_changed:
                await asyncio.sleep(SETTLE)
                self._list_changed = False
            self.tools = await self._listed(client)

    async def _listed(self, client: "Client") -> list[Tool]:
        """Return the server's tools, of all pages."""
        remote: list[RemoteTool] = []
        cursor: str | None = None
        refused = 0 if self._guard is None else self._guard.refused
        for _ in range(MAX_PAGES):
            try:
                page = await client.list_tools(cursor=cursor, cache_mode="refresh")
            except Exception:
                self._session_lost = (
                    self._client is client and self._guard is not None and self._guard.refused > refused
                )
                raise
            remote += page.tools
            cursor = page.next_cursor
            if cursor is None or len(remote) > MAX_TOOLS:
                break
        return [self._tool(tool) for tool in remote[:MAX_TOOLS]]

    # --- the tools ----------------------------------------------------------------------------------------------

    def _tool(self, remote: "RemoteTool") -> Tool:
        async def call(arguments: dict[str, Any]) -> str:
            return await self._call(remote.name, arguments)

        # OpenAI's API allows fewer characters in a name than MCP.
        name = re.sub(r"[^A-Za-z0-9_-]", "_", remote.name)[:64]
        return Tool(name, remote.description or "", remote.input_schema, call)

    async def _call(self, name: str, arguments: dict[str, Any]) -> str:
        from mcp import MCPError  # noqa: PLC0415 — as above; loaded by now
        from mcp.types import CONNECTION_CLOSED, INVALID_PARAMS  # noqa: PLC0415

        client, guard = await self._present(), self._guard
        refused = 0 if guard is None else guard.refused
        try:
            try:
                result = await client.call_tool(name, arguments, NEVER)
            except MCPError as error:
                if guard is None or guard.refused == refused or error.code == INVALID_PARAMS:
                    raise
                # The server has not run the call: it does not know the session, such as after a restart. Then the
                # specification wants another session ("Session Management").
                self._lose_session(client)
                result = await (await self._present()).call_tool(name, arguments, NEVER)
        except MCPError as error:
            if error.code == CONNECTION_CLOSED and self._client is client:
                self.tools, self._client = [], None  # at once, so that no model is offered them
                self._gone.set()
            raise ToolError(str(error)) from error
        text = _text(result)
        if result.is_error:
            raise ToolError(text or "The tool failed.")
        return text

    async def _present(self) -> "Client":
        """Return the connection. If its session was just lost, wait for the next one. Raises ToolError."""
        await self.tried.wait()
        if self._client is None:
            raise ToolError(f"The tool server {self.name!r} is away.")
        return self._client

    def _lose_session(self, client: "Client") -> None:
        """Begin another session. Calls wait for it, unless another call has begun it already."""
        if self._client is client:
            self._client = None
            self.tried.clear()
            self._session_lost = True
            self._news.set()


def _text(result: "CallToolResult") -> str:
    """Return the texts of a result. Other content is given as JSON."""
    parts = [
        block.text if block.type == "text" else as_text(block.model_dump(mode="json", exclude_none=True))
        for block in result.content
    ]
    return "\n".join(parts) if parts or result.structured_content is None else as_text(result.structured_content)


def _reason(error: BaseException) -> str:
    """Return the type and message of an error, or of the first one in a group of anyio's."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    text = f"{type(error).__name__}: {error}"[:MAX_REASON]
    return "".join(character if character.isprintable() else " " for character in text)
