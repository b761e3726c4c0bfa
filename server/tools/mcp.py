"""MCP servers (https://modelcontextprotocol.io): their tools are offered like the gateway's own.

A server that is away does not keep the gateway from starting; it is tried again, and its tools come when it does.
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

FIRST_CONNECT = 10.0  # seconds that the gateway's start waits for it
RETRY = 1.0  # seconds before it is tried again, doubled up to
RETRY_MAX = 30.0
REFRESH = 30.0  # seconds between two looks at a connected server
MAX_PAGES = 100  # of a list of tools
log = structlog.get_logger("sluiceway.tools")


class McpServer:
    """One `[[mcp]]` entry. `tools` is what it offers now: nothing while it is away."""

    def __init__(self, settings: Mcp) -> None:
        self.tools: list[Tool] = []
        self._settings = settings
        self._client: Client | None = None
        self._lost = asyncio.Event()
        self._tried = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    async def open(self) -> None:
        """Connect; return when that has worked or failed once, or is taking too long."""
        self._task = asyncio.create_task(self._stay_connected(), name=f"mcp {self._settings.name}")
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_CONNECT):
                await self._tried.wait()

    async def close(self) -> None:
        """Disconnect; a server that was started by its command is ended."""
        self._closing = True  # a cancel that meets a failing connect is lost in the library's own task groups
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _stay_connected(self) -> None:
        """Hold the connection: it has to be entered and left by one task (anyio's cancel scopes)."""
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
                log.warning("mcp server away", server=self._settings.name, error=_words(error))
            self.tools, self._client = [], None
            self._tried.set()
            if self._closing:
                return
            await asyncio.sleep(wait)
            wait = min(wait * 2, RETRY_MAX)

    async def _watch(self, client: "Client") -> None:
        """Return or raise when the connection is lost; look now and then, and at what is offered by then."""
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

    def _tool(self, told: "RemoteTool") -> Tool:
        async def call(arguments: dict[str, Any]) -> str:
            return await self._call(told.name, arguments)

        # OpenAI's names have fewer characters than MCP's.
        name = re.sub(r"[^A-Za-z0-9_-]", "_", told.name)[:64]
        return Tool(name, told.description or "", told.input_schema, call)

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
                self.tools, self._client = [], None  # at once: nobody is offered what is gone
                self._lost.set()
            raise ToolError(str(error)) from error
        text = _text(result)
        if result.is_error:
            raise ToolError(text or "The tool failed.")
        return text


async def _listed(client: "Client") -> "list[RemoteTool]":
    """Return all pages of a server's tools."""
    found: list[RemoteTool] = []
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        page = await client.list_tools(cursor=cursor, cache_mode="refresh")
        found += page.tools
        cursor = page.next_cursor
        if cursor is None:
            break
    return found


def _text(result: "CallToolResult") -> str:
    """Return a result's texts; what is no text comes as JSON."""
    parts = [
        block.text if block.type == "text" else as_text(block.model_dump(mode="json", exclude_none=True))
        for block in result.content
    ]
    return "\n".join(parts) if parts or result.structured_content is None else as_text(result.structured_content)


def _words(error: BaseException) -> str:
    """Return the first cause of what anyio bundles into groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"
