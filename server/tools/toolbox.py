"""All tools of the gateway: `[tools.functions]`, plug-ins (entry points `sluiceway.tools`), MCP servers."""

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from importlib.metadata import EntryPoint

import structlog

from server.config.plugins import LoadError, load_object
from server.config.settings import Settings
from server.tools.bounded import Bounds
from server.tools.mcp import McpServer
from server.tools.tool import Tool, ToolSetupError, from_function

START = 1.0  # seconds that the gateway's start waits for MCP servers, whose tools the first streams are to have
log = structlog.get_logger("sluiceway.tools")


class Toolbox:
    """The tools that are offered to models on `/api/stream`. `plugins` are the installed entry points.

    Of tools with the same name a configured function wins over a plug-in, and both win over the tool of an MCP server.
    Of two plug-ins the last wins, of two MCP servers the first. The log names each tool that is hidden.
    `given_up` is called for each call that is given up.
    """

    def __init__(
        self,
        settings: Settings,
        plugins: Iterable[EntryPoint] = (),
        environ: Mapping[str, str] = os.environ,
        given_up: Callable[[], None] = lambda: None,
    ) -> None:
        self.bounds = Bounds(settings.tools, given_up)
        self.max_rounds = settings.tools.max_rounds
        self._plugins = tuple(plugins)
        self._functions = settings.tools.functions
        self._own: dict[str, Tool] = {}
        self._servers = [McpServer(one, environ) for one in settings.mcp]
        self._hidden: set[tuple[str, str]] = set()  # tool and place that were logged as hidden

    async def open(self) -> None:
        """Load the functions, and begin to connect to the MCP servers. Raises ToolSetupError."""
        for point in self._plugins:
            if point.name in self._own:
                self._hide(point.name, "another distribution")
            self._own[point.name] = from_function(point.name, _loaded(point.name, point, point.value))
        for name, place in self._functions.items():
            if name in self._own:
                self._hide(name, "a distribution")
            self._own[name] = configured(name, place)
        for server in self._servers:
            server.open()
        with suppress(TimeoutError):
            async with asyncio.timeout(START):
                await asyncio.gather(*(server.tried.wait() for server in self._servers))
        for server in self._servers:
            if not server.tried.is_set():
                log.warning("mcp server not there yet", server=server.name, waited=START)
        self.tools()

    async def close(self) -> None:
        """Disconnect from the MCP servers, and wait a moment for calls that were given up."""
        await asyncio.gather(*(server.close() for server in self._servers))
        await self.bounds.close()

    def tools(self) -> dict[str, Tool]:
        """Return the tools that can be offered now, by name."""
        tools = dict(self._own)
        for server in self._servers:
            for tool in server.tools:
                if tools.setdefault(tool.name, tool) is not tool:
                    self._hide(tool.name, f"mcp server {server.name}")
        return tools

    def _hide(self, tool: str, place: str) -> None:
        """Log, once, that the tool of a place is not offered because another one has its name."""
        if (tool, place) not in self._hidden:
            self._hidden.add((tool, place))
            log.warning("tool hidden: another one has its name", tool=tool, of=place)


def configured(name: str, place: str) -> Tool:
    """Return the tool of a function, `"module:function"`. Raises ToolSetupError."""
    return from_function(name, _loaded(name, place, place))


def _loaded(name: str, place: str | EntryPoint, shown: str) -> object:
    try:
        return load_object(place)
    except LoadError as error:
        raise ToolSetupError(f"The tool {name!r} ({shown}) cannot be loaded: {error}") from error
