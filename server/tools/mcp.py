"""MCP servers (https://modelcontextprotocol.io). Their tools are offered like the gateway's own.

A server that is away does not keep the gateway from starting. It is tried again, and then its tools are offered.
"""

import asyncio
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import structlog

from server.config.settings import Mcp
from server.tools.tool import Tool, ToolError, as_text

if TYPE_CHECKING:
    from mcp import Client
    from mcp.types import CallToolResult
    from mcp.types import Tool as RemoteTool

FIRST_CONNECT = 10.0  # seconds that the gateway's start waits for a server
RETRY = 1.0  # seconds before a server is tried again; doubled each time, up to RETRY_MAX
RETRY_MAX = 30.0
REFRESH = 30.0  # seconds between two looks at a connected server
MAX_PAGES = 100  # of a list of tools
log = structlog.get_logger("sluiceway.tools")


class McpServer:
    """The server of one `[[mcp]]` entry. `tools` are the tools that it offers now: none while it is away."""

    def __init__(self, settings: Mcp) -> None:
        self.tools: list[Tool] = []
        self._settings = settings
        self._client: Client | None = None
        self._lost = asyncio.Event()
        self._tried = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    async def open(self) -> None:
        """Begin to connect. Return when the first try has ended, or after FIRST_CONNECT seconds."""
        self._task = asyncio.create_task(self._stay_connected(), name=f"mcp {self._settings.name}")
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_CONNECT):
                await self._tried.wait()

    async def close(self) -> None:
        """Disconnect, and end a server that the gateway has started by its command."""
        self._closing = True  # the library's task groups may lose a cancel when connecting fails
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _stay_connected(self) -> None:
        """Hold the connection. One task has to enter and leave it, as anyio's cancel scopes want."""
        wait = RETRY
        while not self._closing:
            self._lost.clear()
            try:
                async with self._new_client() as client:
                    self.tools = [self._tool(tool) for tool in await _listed(client)]
                    self._client = client
                    log.info("mcp server connected", server=self._settings.name, tools=len(self.tools))
                    self._tried.set()
                    wait = RETRY
                    await self._watch(client)
            except Exception as error:  # noqa: BLE001 — whatever it fails with, it is tried again
                log.warning("mcp server away", server=self._settings.name, error=_message(error))
            self.tools, self._client = [], None
            self._tried.set()
            if self._closing:
                return
            await asyncio.sleep(wait)
            wait = min(wait * 2, RETRY_MAX)

    async def _watch(self, client: "Client") -> None:
        """Ask for the server's tools every REFRESH seconds. Return or raise when the connection is lost."""
        while not self._lost.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(REFRESH):
                    await self._lost.wait()
                    return
            self.tools = [self._tool(tool) for tool in await _listed(client)]

    def _new_client(self) -> "Client":
        from mcp import Client, StdioServerParameters  # noqa: PLC0415 — 30 MB of modules that most gateways never need

        settings = self._settings
        if settings.command is None:
            assert settings.url is not None
            return Client(settings.url)
        program, *arguments = settings.command
        return Client(StdioServerParameters(command=program, args=arguments))

    def _tool(self, remote: "RemoteTool") -> Tool:
        async def call(arguments: dict[str, Any]) -> str:
            return await self._call(remote.name, arguments)

        # OpenAI's API allows fewer characters in a name than MCP.
        name = re.sub(r"[^A-Za-z0-9_-]", "_", remote.name)[:64]
        return Tool(name, remote.description or "", remote.input_schema, call)

    async def _call(self, name: str, arguments: dict[str, Any]) -> str:
        client = self._client
        if client is None:
            raise ToolError(f"The tool server {self._settings.name!r} is away.")
        from mcp import MCPError  # noqa: PLC0415 — as above; loaded by now
        from mcp.types import CONNECTION_CLOSED  # noqa: PLC0415

        try:
            result = await client.call_tool(name, arguments)
        except MCPError as error:
            if error.code == CONNECTION_CLOSED:
                self.tools, self._client = [], None  # at once, so that no model is offered them
                self._lost.set()
            raise ToolError(str(error)) from error
        text = _text(result)
        if result.is_error:
            raise ToolError(text or "The tool failed.")
        return text


async def _listed(client: "Client") -> "list[RemoteTool]":
    """Return a server's tools, of all pages."""
    tools: list[RemoteTool] = []
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        page = await client.list_tools(cursor=cursor, cache_mode="refresh")
        tools += page.tools
        cursor = page.next_cursor
        if cursor is None:
            break
    return tools


def _text(result: "CallToolResult") -> str:
    """Return the texts of a result. Other content is given as JSON."""
    parts = [
        block.text if block.type == "text" else as_text(block.model_dump(mode="json", exclude_none=True))
        for block in result.content
    ]
    return "\n".join(parts) if parts or result.structured_content is None else as_text(result.structured_content)


def _message(error: BaseException) -> str:
    """Return the type and message of an error, or of the first one in a group of anyio's."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"
